//! `sandpit env`: how tools of other makes reach the running node, as variables of a shell.

use serde::Serialize;

use super::exit::Exit;
use super::failure::Failure;
use super::out::{self, Out};
use crate::session::Endpoint;
use crate::settings::{self, SettingFlags};

/// The names that the `nats` tool reads too.
#[derive(Debug, Serialize)]
struct Variables {
    #[serde(rename = "NATS_URL")]
    url: String,
    #[serde(rename = "NATS_USER", skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(rename = "NATS_PASSWORD", skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

pub(super) fn run(settings: &SettingFlags, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::find(&settings::load(settings)?.config)?;
    let (user, password) = endpoint.credentials.map(|own| (own.user, own.password)).unzip();
    let variables = Variables { url: endpoint.urls.join(","), user, password };
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
