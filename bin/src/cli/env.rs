//! `sandpit env`: how programs of other makes reach the running node, as variables of a shell:
//! tools of NATS, and SDKs of E2B.

use serde::Serialize;

use super::exit::Exit;
use super::failure::Failure;
use super::out::{self, Out};
use crate::e2b::keys::Written;
use crate::session::Endpoint;
use crate::settings::{self, SettingFlags};

/// Python's SDK sends what is for this machine to a proxy, too, unless it is told not to.
const NO_PROXY: &str = "127.0.0.1,localhost";

/// The names that the `nats` tool reads too, and those that E2B's SDKs read.
#[derive(Debug, Serialize)]
struct Variables {
    #[serde(rename = "NATS_URL")]
    url: String,
    #[serde(rename = "NATS_USER", skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(rename = "NATS_PASSWORD", skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    #[serde(flatten)]
    sdk: Option<Sdk>,
}

#[derive(Debug, Serialize)]
struct Sdk {
    #[serde(rename = "E2B_API_URL")]
    api_url: String,
    #[serde(rename = "E2B_SANDBOX_URL")]
    sandbox_url: String,
    #[serde(rename = "E2B_API_KEY")]
    key: String,
    #[serde(rename = "NO_PROXY")]
    no_proxy: &'static str,
}

pub(super) fn run(settings: &SettingFlags, out: Out) -> Result<Exit, Failure> {
    let config = settings::load(settings)?.config;
    let endpoint = Endpoint::find(&config)?;
    let (user, password) = endpoint.credentials.map(|own| (own.user, own.password)).unzip();
    // A node on another machine keeps its keys there.
    let sdk = Written::of(&settings::data_directory(&config)).map(|Written { url, key }| Sdk {
        api_url: url.clone(),
        sandbox_url: url,
        key,
        no_proxy: NO_PROXY,
    });
    let variables = Variables { url: endpoint.urls.join(","), user, password, sdk };
    if out.json {
        out.document("sandpit.env/1", &variables);
        return Ok(Exit::Done);
    }
    out::line(&export("NATS_URL", &variables.url));
    for (name, value) in [("NATS_USER", variables.user), ("NATS_PASSWORD", variables.password)] {
        if let Some(value) = value {
            out::line(&export(name, &value));
        }
    }
    if let Some(Sdk { api_url, sandbox_url, key, no_proxy }) = variables.sdk {
        out::line(&export("E2B_API_URL", &api_url));
        out::line(&export("E2B_SANDBOX_URL", &sandbox_url));
        out::line(&export("E2B_API_KEY", &key));
        out::line(&export("NO_PROXY", no_proxy));
    }
    Ok(Exit::Done)
}

/// A line that any POSIX shell evaluates to exactly `value`.
fn export(name: &str, value: &str) -> String {
    format!("export {name}='{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_in_a_value_ends_no_quoting() {
        assert_eq!(export("A", "it's"), r"export A='it'\''s'");
    }
}
