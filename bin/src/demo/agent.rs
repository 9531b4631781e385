//! One agent of the swarm: asks the past, chooses, and trades what nobody had seen, all of it by
//! requests over NATS.

use std::collections::BTreeMap;
use std::time::Duration;

use sandpit_actors::bus::AskError;
use sandpit_messages::exec::{Cache, Exec, Executed};
use sandpit_messages::id::SandboxId;
use sandpit_messages::sandbox::{Create, Created, Terminate};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::books::{Books, Mismatch, Statement};
use super::plan::{self, Part, Temper};
use super::programs;
use super::told::{Lease, Line, Outcome, Ran, Record, Terms, Where};
use crate::client::{Call, Client};

/// The template agents ask for.
pub const TEMPLATE: &str = "trading";
/// Seconds one execution may take: a hundred times what the longest takes here.
const TIME_MAX_S: u32 = 60;
/// Seconds a lease may last: longer than the longest agent, short enough that one forgotten by a
/// crash is gone within minutes.
const LEASE_MAX_S: u32 = 300;
/// How long an agent waits for an answer: an execution's time, and a wait for a sandbox behind all
/// the others.
const PATIENCE: Duration = Duration::from_secs(TIME_MAX_S as u64 + 60);
/// Days filled later, and costs multiplied, in the stressed test.
const STRESS: i32 = 2;

/// Why an agent gave up.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No answer, or no.
    #[error("{step}: the node said no")]
    Asked {
        /// What for.
        step: &'static str,
        /// What came instead of an answer.
        #[source]
        source: Box<AskError>,
    },
    /// The program failed.
    #[error("{step}: the program ended with {exit_code}: {why}")]
    Program {
        /// What for.
        step: &'static str,
        /// Its exit code.
        exit_code: i32,
        /// The exception, or the end of what it wrote.
        why: String,
    },
    /// It ended well and said nothing that could be read.
    #[error("{step}: the program's answer cannot be read")]
    Unreadable {
        /// What for.
        step: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Too few instruments are fit to be traded.
    #[error("{fit} instruments are fit to be traded; {needed} are needed")]
    TooFew {
        /// Those that are.
        fit: usize,
        /// Those that must be.
        needed: usize,
    },
    /// The desk's statement is not what its fills come to.
    #[error("the desk's books do not add up")]
    Books(#[from] Mismatch),
}

/// An agent at work.
#[derive(Debug)]
pub struct Agent<F> {
    client: Client,
    part: Part,
    tell: F,
}

/// What the survey says.
#[derive(Debug, serde::Deserialize)]
struct Survey {
    instruments: Vec<Surveyed>,
}

#[derive(Debug, serde::Deserialize)]
struct Surveyed {
    symbol: String,
    fit: bool,
}

/// How one variant did.
#[derive(Debug, serde::Deserialize)]
struct Scored {
    parameters: BTreeMap<String, Value>,
    windows: Vec<Record>,
}

impl Scored {
    fn sharpes(&self) -> Vec<f64> {
        self.windows.iter().map(|window| window.sharpe).collect()
    }
}

impl<F: FnMut(Line) + Send> Agent<F> {
    /// Asks with `client`, plays `part`, and hands everything worth telling to `tell`.
    pub fn new(client: Client, part: Part, tell: F) -> Self {
        Self { client, part, tell }
    }

    /// Does all of it. A sandbox that it held is given back, whatever happened.
    ///
    /// # Errors
    /// [`AgentError`], naming the step.
    pub async fn work(mut self) -> Result<Outcome, AgentError> {
        (self.tell)(Line::Ready);
        let instruments = self.draw().await?;
        let scored = self.research(&instruments).await?;
        let scores: Vec<Vec<f64>> = scored.iter().map(Scored::sharpes).collect();
        let rows = scores.iter().map(Vec::as_slice);
        let chosen = self.part.temper.choose(rows).expect("every kind has a variant");
        let parameters = readable(&scored[chosen].parameters);
        (self.tell)(Line::Chose { parameters: parameters.clone() });
        let hold = self.hold(&instruments).await?;
        let desk = json!({
            "kind": self.part.kind.as_str(),
            "variant": chosen,
            "symbols": instruments,
            "start": plan::TEST.from,
        });
        let test = self.leased(&desk, Trial::Years).await?;
        let mut harder = desk;
        harder["fill_after"] = STRESS.into();
        harder["cost_multiple"] = STRESS.into();
        let stressed = self.leased(&harder, Trial::Whole).await?;
        Ok(Outcome {
            instruments,
            parameters,
            variants: u32::try_from(scored.len()).unwrap_or(u32::MAX),
            walk_forward_sharpe: self.part.temper.walk_forward(&scores),
            terms: test.terms,
            test: test.record,
            stressed: stressed.record,
            hold,
            equity: test.equity,
            fills_sha256: test.fills_sha256,
        })
    }

    /// The instruments of its desk.
    async fn draw(&mut self) -> Result<Vec<String>, AgentError> {
        let plan::Period { from, to } = plan::RESEARCH;
        let params = json!({ "start": from, "end": to });
        let survey: Survey =
            self.once("survey", programs::SURVEY, programs::ground(), params).await?;
        let fit: Vec<String> = survey
            .instruments
            .into_iter()
            .filter(|instrument| instrument.fit)
            .map(|instrument| instrument.symbol)
            .collect();
        if fit.len() < plan::NAMES_PER_DESK {
            let needed = plan::NAMES_PER_DESK;
            return Err(AgentError::TooFew { fit: fit.len(), needed });
        }
        Ok(self.part.draw(&fit))
    }

    /// Scores every variant of its kind, in their order. The two agents of a desk begin at opposite
    /// ends, so that each finds the other half answered when it gets there.
    async fn research(&mut self, instruments: &[String]) -> Result<Vec<Scored>, AgentError> {
        let windows: Vec<_> = plan::WINDOWS.iter().map(|window| [window.from, window.to]).collect();
        let mut order: Vec<usize> = (0..self.part.kind.variants()).collect();
        if self.part.temper == Temper::Bold {
            order.reverse();
        }
        let mut scored = BTreeMap::new();
        for variant in order {
            let params = json!({
                "kind": self.part.kind.as_str(),
                "variant": variant,
                "symbols": instruments,
                "windows": windows,
            });
            let files = programs::of(self.part.kind);
            let one: Scored = self.once("research", programs::SCORE, files, params).await?;
            scored.insert(variant, one);
        }
        Ok(scored.into_values().collect())
    }

    /// What its instruments would have brought without a strategy.
    async fn hold(&mut self, instruments: &[String]) -> Result<Record, AgentError> {
        let params = json!({
            "kind": programs::HOLD,
            "variant": 0,
            "symbols": instruments,
            "windows": [[plan::TEST.from, plan::TEST.to]],
        });
        let scored: Scored = self.once("hold", programs::SCORE, programs::hold(), params).await?;
        Ok(scored.windows.first().copied().unwrap_or_default())
    }

    /// Runs something that depends on nothing but what is said here, so that an equal run of another
    /// agent may answer for it.
    async fn once<T: DeserializeOwned>(
        &mut self,
        step: &'static str,
        code: &str,
        files: BTreeMap<String, String>,
        params: Value,
    ) -> Result<T, AgentError> {
        let request = Exec {
            template: Some(TEMPLATE.to_owned()),
            code: Some(code.to_owned()),
            params: Some(params),
            files,
            timeout: Some(TIME_MAX_S),
            cache: Some(Cache::default()),
            ..Exec::default()
        };
        self.run(step, Where::OneShot, request).await
    }

    /// Trades the test in a sandbox of its own.
    async fn leased(&mut self, desk: &Value, trial: Trial) -> Result<Traded, AgentError> {
        let created = self.create().await?;
        let traded = match trial {
            Trial::Years => self.years(created.sandbox_id, desk).await,
            Trial::Whole => self.whole(created.sandbox_id, desk).await,
        };
        let returned = self.terminate(created.sandbox_id).await;
        let traded = traded?;
        returned?;
        Ok(traded)
    }

    async fn create(&mut self) -> Result<Created, AgentError> {
        let request = Create {
            name: Some(self.part.name.clone()),
            template: TEMPLATE.to_owned(),
            timeout: LEASE_MAX_S,
            idle_timeout: LEASE_MAX_S,
            metadata: BTreeMap::from([("agent".to_owned(), self.part.name.clone())]),
            ..Create::default()
        };
        let asked_at = self.client.clock().now();
        let created = self.ask("create", &request, Call::default()).await?;
        let took = self.client.clock().now().since(asked_at);
        (self.tell)(Line::Leased(Lease {
            took_ms: millis(took),
            from_pool: created.from_pool,
            cpu_count: created.resources.cpu_count,
            memory_mb: created.resources.memory_mb,
            isolation: created.isolation.clone(),
        }));
        Ok(created)
    }

    async fn terminate(&mut self, sandbox: SandboxId) -> Result<(), AgentError> {
        let call = Call { owner_of: Some(sandbox), ..Call::default() };
        let ended = self.ask("terminate", &Terminate::of(sandbox), call).await?;
        (self.tell)(Line::Returned { lived_s: ended.runtime_seconds });
        Ok(())
    }

    /// Year by year: the desk stays in the sandbox from cell to cell, and its books are kept a
    /// second time here.
    async fn years(&mut self, sandbox: SandboxId, desk: &Value) -> Result<Traded, AgentError> {
        let files = programs::of(self.part.kind);
        let terms: Terms = self.cell("open", sandbox, programs::OPEN, files, desk.clone()).await?;
        let mut books = Books::open(terms.capital);
        let mut equity = terms.capital;
        for until in plan::YEAR_ENDS {
            let params = json!({ "until": until });
            let files = BTreeMap::new();
            let statement: Statement =
                self.cell("trade", sandbox, programs::RUN, files, params).await?;
            books.check(&statement)?;
            equity = statement.equity;
            (self.tell)(Line::Year { until: statement.until, equity });
        }
        let (files, params) = (BTreeMap::new(), Value::Null);
        let record: Record =
            self.cell("summary", sandbox, programs::SUMMARY, files, params).await?;
        books.agrees(&record, equity)?;
        Ok(Traded { terms, record, equity, fills_sha256: books.digest() })
    }

    /// In one cell.
    async fn whole(&mut self, sandbox: SandboxId, desk: &Value) -> Result<Traded, AgentError> {
        let files = programs::of(self.part.kind);
        let params = json!({ "desk": desk, "until": plan::TEST.to });
        let (terms, record) = self.cell("stress", sandbox, programs::WHOLE, files, params).await?;
        Ok(Traded { terms, record, equity: 0, fills_sha256: String::new() })
    }

    async fn cell<T: DeserializeOwned>(
        &mut self,
        step: &'static str,
        sandbox: SandboxId,
        code: &str,
        files: BTreeMap<String, String>,
        params: Value,
    ) -> Result<T, AgentError> {
        let request = Exec {
            sandbox_id: Some(sandbox),
            code: Some(code.to_owned()),
            params: Some(params),
            files,
            timeout: Some(TIME_MAX_S),
            ..Exec::default()
        };
        self.run(step, Where::Leased, request).await
    }

    /// Runs it and reads the line of JSON it printed.
    async fn run<T: DeserializeOwned>(
        &mut self,
        step: &'static str,
        place: Where,
        request: Exec,
    ) -> Result<T, AgentError> {
        let call =
            Call { patience: Some(PATIENCE), owner_of: request.sandbox_id, ..Call::default() };
        let asked_at = self.client.clock().now();
        let executed = self.ask(step, &request, call).await?;
        let took = self.client.clock().now().since(asked_at);
        if executed.exit_code != 0 {
            let exit_code = executed.exit_code;
            return Err(AgentError::Program { step, exit_code, why: blame(&executed) });
        }
        (self.tell)(Line::Ran(Ran {
            step: step.to_owned(),
            place,
            took_ms: millis(took),
            run_ms: executed.execution_time * 1_000.0,
            cached: executed.cached,
        }));
        serde_json::from_str(&executed.stdout)
            .map_err(|source| AgentError::Unreadable { step, source })
    }

    async fn ask<R: sandpit_messages::subject::Request + Sync>(
        &self,
        step: &'static str,
        request: &R,
        call: Call,
    ) -> Result<R::Reply, AgentError> {
        let asked = self.client.request(request, call).await;
        asked.map_err(|source| AgentError::Asked { step, source: Box::new(source) })
    }
}

/// How the test is run.
#[derive(Clone, Copy, Debug)]
enum Trial {
    /// A cell for every year.
    Years,
    /// One cell.
    Whole,
}

/// What a desk did in the test.
#[derive(Debug)]
struct Traded {
    terms: Terms,
    record: Record,
    equity: i64,
    fills_sha256: String,
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// `days 126, names 5`.
fn readable(parameters: &BTreeMap<String, Value>) -> String {
    let each: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{name} {value}")).collect();
    each.join(", ")
}

/// Why a program failed, in a line.
fn blame(executed: &Executed) -> String {
    if let Some(raised) = &executed.error {
        return format!("{}: {}", raised.name, raised.value);
    }
    let ended = if executed.timed_out {
        "its time was over"
    } else if executed.oom_killed {
        "it ran out of memory"
    } else if executed.lost {
        "its sandbox ended under it"
    } else {
        ""
    };
    let last = executed.stderr.lines().last().unwrap_or_default();
    [ended, last].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}
