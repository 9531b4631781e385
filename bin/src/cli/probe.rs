//! `sandpit probe`: whether a node answers, for whoever keeps containers alive.

use std::time::Duration;

use sandpit_messages::pool::GetPool;
use serde_json::json;

use super::exit::Exit;
use super::failure::Failure;
use super::out::{self, Out};
use crate::client::Call;
use crate::session::Session;
use crate::settings::SettingFlags;

/// A node that answers later is as good as none.
const ANSWER_MAX: Duration = Duration::from_secs(2);

pub(super) fn run(settings: &SettingFlags, out: Out) -> Result<Exit, Failure> {
    let asked = Session::run(settings, "probe", async |session| {
        let call = Call { patience: Some(ANSWER_MAX), ..Call::default() };
        let pool = session.client.request(&GetPool {}, call).await;
        let pool = pool.map_err(|error| Failure::of_ask("the node does not answer", &error))?;
        if out.json {
            out.document("sandpit.probe.run/1", &json!({ "node": pool.node }));
        } else {
            out::line(&format!("node {} answers", pool.node));
        }
        Ok(Exit::Done)
    });
    asked.map_err(|failure| Failure { exit: Exit::Faulty, ..failure })
}
