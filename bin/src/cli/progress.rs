//! How far long work is: bars for a person at a terminal, one plain line per stage otherwise.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sandpit_sandbox::provider::{Progress, Step};

use super::out;

/// Steps of a full bar: one per thousandth, so that small progress is seen.
const FULL: u64 = 1_000;
/// How often a bar turns while nothing is reported.
const TURN: Duration = Duration::from_millis(120);

/// Tells how far something is, on standard error.
#[derive(Clone, Debug)]
pub struct Stages {
    voice: Voice,
    last: Arc<Mutex<String>>,
}

#[derive(Clone, Debug)]
enum Voice {
    Bar(ProgressBar),
    Lines,
    Silent,
}

impl Stages {
    /// For what `title` names. With `quiet` nothing is told.
    pub fn begin(title: &str, quiet: bool) -> Self {
        let voice = match (quiet, out::is_watched()) {
            (true, _) => Voice::Silent,
            (false, true) => Voice::Bar(bar(title)),
            (false, false) => {
                out::note(title);
                Voice::Lines
            }
        };
        Self { voice, last: Arc::default() }
    }

    /// One stage.
    #[expect(clippy::cast_possible_truncation, reason = "a share of a thousand")]
    #[expect(clippy::cast_sign_loss, reason = "clamped to 0 to 1")]
    pub fn step(&self, stage: &str, share: Option<f64>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.voice {
            Voice::Bar(bar) => {
                bar.set_message(stage.to_owned());
                if let Some(share) = share {
                    bar.set_position((share.clamp(0.0, 1.0) * 1_000.0) as u64);
                }
            }
            Voice::Lines if *last != stage => out::note(&format!("  {stage}")),
            Voice::Lines | Voice::Silent => {}
        }
        stage.clone_into(&mut last);
    }

    /// What a provider reports to.
    pub fn hearing(&self) -> Progress {
        let stages = self.clone();
        Progress::new(move |Step { stage, share }| stages.step(stage, share))
    }

    /// It is done; the bar goes.
    pub fn end(&self) {
        if let Voice::Bar(bar) = &self.voice {
            bar.finish_and_clear();
        }
    }
}

fn bar(title: &str) -> ProgressBar {
    let bar = ProgressBar::new(FULL);
    let style = ProgressStyle::with_template("{spinner} {prefix} {wide_msg} [{bar:24}] {elapsed}");
    bar.set_style(style.expect("a valid template").progress_chars("=> "));
    bar.set_prefix(title.to_owned());
    bar.enable_steady_tick(TURN);
    bar
}
