//! `sandpit config`: what holds, and where it was set.

use sandpit_config::{Loaded, Source};
use serde_json::json;

use super::exit::Exit;
use super::failure::Failure;
use super::out::{self, Out};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// Every setting, its value and where it was set.
    Show {
        /// Only those that differ from the defaults.
        #[arg(long)]
        changed: bool,
    },
    /// Read all settings and say whether they can be used.
    Check,
}

impl Verb {
    pub(super) fn run(self, loaded: Loaded, out: Out) -> Result<Exit, Failure> {
        match self {
            Self::Show { changed } => show(&loaded, changed, out),
            Self::Check if out.json => {
                out.document(
                    "sandpit.config.check/1",
                    &json!({ "settings": loaded.settings.len() }),
                );
            }
            Self::Check => out::line(&format!("{} settings, all valid", loaded.settings.len())),
        }
        Ok(Exit::Done)
    }
}

fn show(loaded: &Loaded, changed: bool, out: Out) {
    let shown = loaded.settings.iter().filter(|s| !changed || s.source != Source::Default);
    if out.json {
        let settings = shown
            .map(|s| json!({ "setting": s.key, "value": s.value, "source": s.source.to_string() }));
        let settings: Vec<_> = settings.collect();
        out.document("sandpit.config.show/1", &json!({ "settings": settings }));
    } else {
        let rows = shown.map(|s| [s.key.clone(), s.value.clone(), s.source.to_string()]);
        out::table(["setting", "value", "set in"], rows);
    }
}
