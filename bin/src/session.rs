//! The connection of one command to a node.
use crate::{
    cli::{exit::Exit, failure::Failure},
    client::Client,
    settings::SettingFlags,
};
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
}
impl Session {
    pub(crate) fn run(
        _settings: &SettingFlags,
        _work: impl AsyncFnOnce(Self) -> Result<Exit, Failure>,
    ) -> Result<Exit, Failure> {
        Err(Failure::no_node("x"))
    }
}
