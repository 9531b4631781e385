//! What an agent tells about its work: a line of JSON at a time on its standard output, read by the
//! demonstration that started it. Nothing of this travels on the bus.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::plan::Part;

/// What an agent is given on its standard input: one line. As long as that input stays open, it is
/// wanted.
#[derive(Serialize, Deserialize)]
pub struct Task {
    /// The bus.
    pub url: String,
    /// As whom to join it.
    pub user: String,
    /// With what.
    pub password: String,
    /// Its part.
    pub part: Part,
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("part", &self.part).finish_non_exhaustive()
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub enum Line {
    /// It is connected.
    Ready,
    /// An execution was answered.
    Ran(Ran),
    /// It has a sandbox of its own.
    Leased(Lease),
    /// Its sandbox was given back.
    Returned {
        /// Seconds it was the agent's.
        lived_s: f64,
    },
    /// It chose a variant.
    Chose {
        /// The parameters, as people read them.
        parameters: String,
    },
    /// A year of the test is over.
    Year {
        /// Its last trading day.
        until: String,
        /// Micro-dollars at its end.
        equity: i64,
    },
    /// It is done.
    Finished(Box<Outcome>),
    /// It gave up.
    Failed {
        /// What it was doing and what happened.
        why: String,
    },
}

/// How an execution was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Where {
    /// In a sandbox for this one run; an equal run may answer for it.
    OneShot,
    /// In the sandbox the agent holds.
    Leased,
}

/// An execution that was answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ran {
    /// What for, in a word.
    pub step: String,
    /// Where.
    pub place: Where,
    /// Milliseconds from the question to the answer, as the agent saw it.
    pub took_ms: f64,
    /// Milliseconds the program ran; that of the original if another run answered for it.
    pub run_ms: f64,
    /// Another run answered for it.
    pub cached: bool,
}

/// A sandbox of one's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// Milliseconds from the question to the answer, as the agent saw it.
    pub took_ms: f64,
    /// It was ready before it was asked for.
    pub from_pool: bool,
    /// Its processors.
    pub cpu_count: u32,
    /// Its memory in MiB.
    pub memory_mb: u32,
    /// What holds it apart.
    pub isolation: String,
}

/// A desk's record over some days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Gain over what it began with: 0.1 is ten percent.
    #[serde(rename = "return")]
    pub gain: f64,
    /// Mean daily return over its standard deviation, times the root of 252; risk-free rate zero.
    pub sharpe: f64,
    /// Deepest fall from the highest close before, as a share of it.
    pub max_drawdown: f64,
    /// Daily returns it is made of.
    pub days: u32,
    /// Fills.
    pub trades: u32,
    /// What trading cost, in micro-dollars.
    pub costs: i64,
}

/// Under what a desk trades.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Micro-dollars it begins with.
    pub capital: i64,
    /// Hundredths of a percent of what is traded, commission and slippage together.
    pub cost_bps: u32,
    /// A year's fee for what is sold short, in hundredths of a percent.
    pub borrow_bps: u32,
    /// Trading days from the decision to the fill.
    pub fill_after: u32,
    /// Largest share of the equity in one instrument.
    pub weight_max: f64,
    /// Largest share of the equity in all of them, long and short.
    pub gross_max: f64,
}

/// What came of an agent's work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The instruments it looked at.
    pub instruments: Vec<String>,
    /// The parameters it chose, as people read them.
    pub parameters: String,
    /// Variants it chose among.
    pub variants: u32,
    /// The Sharpe ratio that its way of choosing had in windows it had not seen, during research.
    pub walk_forward_sharpe: f64,
    /// Under what it traded.
    pub terms: Terms,
    /// The test: a period nobody had seen.
    pub test: Record,
    /// The same with orders filled a day later at twice the cost.
    pub stressed: Record,
    /// Buying its instruments in equal parts on the first day of the test and holding them.
    pub hold: Record,
    /// Micro-dollars at the end of the test; recomputed from its fills.
    pub equity: i64,
    /// SHA-256 over its fills.
    pub fills_sha256: String,
}
