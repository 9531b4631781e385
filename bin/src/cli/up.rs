//! `sandpit up`: a node, until it is told to leave.

use serde_json::json;

use super::exit::Exit;
use super::failure::Failure;
use super::out::{self, Out};
use super::progress::Stages;
use crate::node::{self, Node};
use crate::settings::{self, SettingFlags};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where /healthz and /metrics are answered (http.listen).
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where traces go (telemetry.otlp_endpoint).
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
}

impl Arguments {
    pub(super) fn run(self, mut flags: SettingFlags, out: Out) -> Result<Exit, Failure> {
        flags.set.extend(self.listen.map(|address| format!("http.listen={address}")));
        flags.set.extend(self.otlp.map(|url| format!("telemetry.otlp_endpoint={url}")));
        let config = settings::load(&flags)?.config;
        let stages = Stages::begin("sandpit up", out.quiet);
        node::with(config, &stages, async |node| {
            stages.end();
            tell(node, out);
            std::future::pending().await
        })
    }
}

fn tell(node: &Node, out: Out) {
    let urls = node.endpoint().urls.join(",");
    let server = node.embedded().map(|server| server.found().version.to_string());
    if out.json {
        let ready = json!({
            "node": node.id(),
            "pid": std::process::id(),
            "bus": urls,
            "nats_server": server,
            "http": node.http().to_string(),
            "e2b": node.e2b().to_string(),
            "data": node.data().display().to_string(),
            "isolation": node.provider().descriptor().isolation,
        });
        out.document("sandpit.up.ready/1", &ready);
        return;
    }
    let isolation = node.provider().descriptor().isolation;
    let server = server.map(|version| format!(" (nats-server {version})")).unwrap_or_default();
    out::note(&format!("node {} serves: sandboxes are {isolation}", node.id()));
    out::note(&format!("  bus   {urls}{server}"));
    out::note(&format!("  http  http://{}/healthz, /metrics", node.http()));
    out::note(&format!("  e2b   http://{} (eval \"$(sandpit env)\")", node.e2b()));
    out::note(&format!("  data  {}", node.data().display()));
    out::note("  try   sandpit exec --template trading --code 'import pandas; pandas.__version__'");
}
