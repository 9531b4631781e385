//! What a person sees while the swarm works: a line per agent on a terminal, a plain line per
//! milestone otherwise. Everything of it goes to standard error.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::plan::Part;
use super::tables::{dollars, signed};
use super::told::{Line, Outcome};
use crate::cli::out;

/// Executions of an agent, which is how long its bar is: a survey, six variants, buying and holding,
/// a desk that is opened, run for eight years and asked for its record, and the stressed test.
const EXECUTIONS: u64 = 19;
/// How often a waiting line turns.
const TURN: Duration = Duration::from_millis(120);

/// The live view.
#[derive(Debug)]
pub struct Live {
    voice: Voice,
    names: Vec<String>,
}

#[derive(Debug)]
enum Voice {
    Bars(Vec<ProgressBar>),
    Lines,
    Silent,
}

impl Live {
    /// One line for each of these.
    pub fn begin(parts: &[Part], quiet: bool) -> Self {
        let voice = match (quiet, out::is_watched()) {
            (true, _) => Voice::Silent,
            (false, true) => Voice::Bars(bars(parts)),
            (false, false) => Voice::Lines,
        };
        Self { voice, names: parts.iter().map(|part| part.name.clone()).collect() }
    }

    /// Shows what the agent with this number told.
    pub fn show(&self, agent: usize, line: &Line) {
        match &self.voice {
            Voice::Bars(bars) => {
                if let Some(bar) = bars.get(agent) {
                    on_bar(bar, line);
                }
            }
            Voice::Lines => {
                let text = match line {
                    Line::Chose { parameters } => format!("chose {parameters}"),
                    Line::Finished(outcome) => finished(outcome),
                    Line::Failed { why } => format!("gave up: {why}"),
                    Line::Ready
                    | Line::Ran(_)
                    | Line::Leased(_)
                    | Line::Returned { .. }
                    | Line::Year { .. } => return,
                };
                out::note(&format!("  {}: {text}", self.names[agent]));
            }
            Voice::Silent => {}
        }
    }

    /// It is over; the lines stay.
    pub fn end(&self) {
        if let Voice::Bars(bars) = &self.voice {
            for bar in bars.iter().filter(|bar| !bar.is_finished()) {
                bar.abandon();
            }
        }
    }
}

fn bars(parts: &[Part]) -> Vec<ProgressBar> {
    let all = MultiProgress::new();
    let style = ProgressStyle::with_template("  {spinner} {prefix:18} [{bar:19}] {wide_msg}");
    let style = style.expect("a valid template").progress_chars("=> ");
    let made = parts.iter().map(|part| {
        let bar = all.add(ProgressBar::new(EXECUTIONS).with_style(style.clone()));
        bar.set_prefix(part.name.clone());
        bar.set_message("starting");
        bar.enable_steady_tick(TURN);
        bar
    });
    made.collect()
}

fn on_bar(bar: &ProgressBar, line: &Line) {
    match line {
        Line::Ready => bar.set_message("asks which instruments are fit"),
        Line::Ran(ran) => {
            bar.inc(1);
            if ran.step == "survey" || ran.step == "research" {
                let how = if ran.cached { "another agent had asked" } else { "ran" };
                bar.set_message(format!(
                    "tries variants on the past: {how} in {:.0} ms",
                    ran.took_ms
                ));
            }
        }
        Line::Chose { parameters } => bar.set_message(format!("chose {parameters}")),
        Line::Leased(lease) => {
            bar.set_message(format!("has a sandbox of its own after {:.2} ms", lease.took_ms));
        }
        Line::Year { until, equity } => {
            bar.set_message(format!("{until}: {}", dollars(*equity)));
        }
        Line::Returned { .. } => {}
        Line::Finished(outcome) => {
            bar.set_position(EXECUTIONS);
            bar.abandon_with_message(finished(outcome));
        }
        Line::Failed { why } => bar.abandon_with_message(format!("gave up: {why}")),
    }
}

fn finished(outcome: &Outcome) -> String {
    format!(
        "{} ({}), Sharpe {:.2}, {} trades",
        dollars(outcome.equity),
        signed(outcome.test.gain),
        outcome.test.sharpe,
        outcome.test.trades
    )
}
