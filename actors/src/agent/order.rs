//! From what a client wrote about an agent to what an actor may trust.

use std::collections::BTreeSet;
use std::sync::Arc;

use sandpit_messages::agent::{Program, RunAgent};
use sandpit_messages::envelope::Tenant;
use sandpit_messages::id::{AgentId, SandboxId};
use sandpit_messages::market::FeedName;
use sandpit_messages::refusal::Refusal;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::programs;
use crate::market::is_day;

/// Instruments of one agent.
const SYMBOLS_MAX: usize = 50;
/// Characters of the name of an instrument.
const SYMBOL_MAX: usize = 32;
/// Bytes of all parameters of a program, written as JSON.
const PARAMS_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a path, and of a strategy's id.
const TEXT_MAX: usize = 4_096;

/// An agent that is wanted. Valid already.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// Who it is.
    pub agent: AgentId,
    /// Whose.
    pub tenant: Tenant,
    /// Where it runs.
    pub sandbox: SandboxId,
    /// As it was asked for.
    pub agent_type: String,
    /// What it runs.
    pub code: Code,
    /// The instruments it trades.
    pub symbols: Vec<String>,
    /// Parameters of the program.
    pub params: Map<String, Value>,
    /// What it hears.
    pub feed: Feed,
    /// Groups runs of one strategy.
    pub strategy_id: String,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Code {
    /// One that comes with sandpit.
    BuiltIn(Program),
    /// A Python file in the sandbox.
    Own(String),
}

/// Which market data an agent hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feed {
    /// A replay for it alone, as fast as it goes; the last 252 days unless told otherwise.
    Own {
        /// The first day.
        from: Option<String>,
        /// The last.
        to: Option<String>,
    },
    /// Whatever is published under this name; it waits for it if it has not begun.
    Named(FeedName),
}

fn invalid(field: &'static str, came: &impl ToString, expected: impl ToString) -> Refusal {
    let came = came.to_string().chars().take(64).collect();
    Refusal::Invalid { field, came, expected: expected.to_string() }
}

impl Order {
    /// Checks what a client asked for: every range, once.
    ///
    /// # Errors
    /// [`Refusal::Invalid`], naming the field and what is accepted, and [`Refusal::Unsupported`].
    pub fn check(agent: AgentId, tenant: Tenant, ask: RunAgent) -> Result<Arc<Self>, Refusal> {
        let RunAgent { sandbox_id: sandbox, agent_type, symbols, use_gpu, strategy_id, .. } = ask;
        let Some(program) = Program::of(&agent_type) else {
            let known: Vec<_> = Program::words().collect();
            let expected = format!("one of {}", known.join(", "));
            return Err(invalid("agent_type", &agent_type, expected));
        };
        if use_gpu {
            return Err(Refusal::Unsupported { what: "an agent with a GPU".to_owned() });
        }
        instruments(&symbols)?;
        let mut params = ask.strategy_params;
        let bytes = Value::Object(params.clone()).to_string().len();
        if bytes > PARAMS_BYTES_MAX {
            let (what, max) = ("set of strategy parameters", PARAMS_BYTES_MAX);
            return Err(Refusal::TooLarge { what, bytes, max });
        }
        let code = match text(&mut params, "program", "strategy_params.program")? {
            Some(path) if path.is_empty() || path.contains('\0') => {
                let expected = "the path of a Python file in the sandbox";
                return Err(invalid("strategy_params.program", &path, expected));
            }
            Some(path) => Code::Own(path),
            None => Code::BuiltIn(program),
        };
        let feed = feed(&mut params)?;
        let strategy_id = match strategy_id {
            Some(id) if id.is_empty() || id.len() > TEXT_MAX => {
                return Err(invalid("strategy_id", &id, "1 to 4096 bytes"));
            }
            Some(id) => id,
            None => format!("{agent_type}-{}", hash(&code)),
        };
        let order =
            Self { agent, tenant, sandbox, agent_type, code, symbols, params, feed, strategy_id };
        Ok(Arc::new(order))
    }
}

fn instruments(symbols: &[String]) -> Result<(), Refusal> {
    let count = symbols.len();
    if !(1..=SYMBOLS_MAX).contains(&count) {
        return Err(invalid("symbols", &count, format!("1 to {SYMBOLS_MAX} instruments")));
    }
    let fine = |symbol: &str| {
        (1..=SYMBOL_MAX).contains(&symbol.len()) && symbol.bytes().all(|b| b.is_ascii_graphic())
    };
    if let Some(bad) = symbols.iter().find(|symbol| !fine(symbol)) {
        let expected = format!("1 to {SYMBOL_MAX} letters, digits and signs each");
        return Err(invalid("symbols", bad, expected));
    }
    let each: BTreeSet<_> = symbols.iter().collect();
    if each.len() < count { Err(invalid("symbols", &"one twice", "each once")) } else { Ok(()) }
}

fn feed(params: &mut Map<String, Value>) -> Result<Feed, Refusal> {
    let from = day(params, "from", "strategy_params.from")?;
    let to = day(params, "to", "strategy_params.to")?;
    let Some(name) = text(params, "feed", "strategy_params.feed")? else {
        return Ok(Feed::Own { from, to });
    };
    if from.is_some() || to.is_some() {
        let expected = "days only without a feed: a feed has its own";
        return Err(invalid("strategy_params.feed", &name, expected));
    }
    let named = name.parse();
    let named = named.map_err(|error| invalid("strategy_params.feed", &name, error))?;
    Ok(Feed::Named(named))
}

/// Takes one of the parameters that are the node's.
fn text(
    params: &mut Map<String, Value>,
    name: &str,
    field: &'static str,
) -> Result<Option<String>, Refusal> {
    match params.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= TEXT_MAX => Ok(Some(text)),
        Some(other) => Err(invalid(field, &other, "text of at most 4096 bytes")),
    }
}

fn day(
    params: &mut Map<String, Value>,
    name: &str,
    field: &'static str,
) -> Result<Option<String>, Refusal> {
    let day = text(params, name, field)?;
    match day {
        Some(day) if !is_day(&day) => Err(invalid(field, &day, "a day as in 2022-01-31")),
        day => Ok(day),
    }
}

/// Twelve hexadecimal digits that stand for a program.
fn hash(code: &Code) -> String {
    let mut hash = Sha256::new();
    match code {
        Code::BuiltIn(program) => {
            for (name, text) in programs::files(*program) {
                hash.update(name);
                hash.update([0]);
                hash.update(text);
                hash.update([0]);
            }
        }
        Code::Own(path) => hash.update(path),
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ask() -> RunAgent {
        RunAgent {
            sandbox_id: SandboxId::numbered(1),
            agent_id: None,
            agent_type: "trader".to_owned(),
            symbols: vec!["AAPL".to_owned()],
            strategy_params: Map::new(),
            use_gpu: false,
            wait: None,
            strategy_id: None,
        }
    }

    fn params(value: Value) -> RunAgent {
        let Value::Object(strategy_params) = value else { panic!("{value} is no object") };
        RunAgent { strategy_params, ..ask() }
    }

    fn check(ask: RunAgent) -> Result<Arc<Order>, Refusal> {
        Order::check(AgentId::numbered(1), Tenant::local(), ask)
    }

    #[test]
    fn every_range_of_an_agent_is_kept() {
        let refused = |ask: RunAgent, expected: &str| match check(ask.clone()) {
            Err(Refusal::Invalid { field, .. }) => assert_eq!(field, expected, "{ask:?}"),
            other => panic!("{ask:?}: {other:?}"),
        };
        let symbols = |symbols: &[&str]| RunAgent {
            symbols: symbols.iter().map(|symbol| (*symbol).to_owned()).collect(),
            ..ask()
        };
        assert!(check(ask()).is_ok());
        refused(RunAgent { agent_type: "prophet".to_owned(), ..ask() }, "agent_type");
        refused(symbols(&[]), "symbols");
        refused(symbols(&["A"; 51]), "symbols");
        refused(symbols(&["A", "A"]), "symbols");
        refused(symbols(&["A B"]), "symbols");
        refused(params(json!({ "program": 7 })), "strategy_params.program");
        refused(params(json!({ "program": "" })), "strategy_params.program");
        refused(params(json!({ "feed": "a.b" })), "strategy_params.feed");
        refused(params(json!({ "feed": "a", "from": "2022-01-01" })), "strategy_params.feed");
        refused(params(json!({ "from": "01/02/2022" })), "strategy_params.from");
        let gpu = check(RunAgent { use_gpu: true, ..ask() });
        assert!(matches!(gpu, Err(Refusal::Unsupported { .. })), "{gpu:?}");
    }

    #[test]
    fn what_the_node_reads_is_not_handed_to_the_program() {
        let order = check(params(json!({ "period": 20, "program": "a.py", "feed": "f" }))).unwrap();
        assert_eq!(Value::Object(order.params.clone()), json!({ "period": 20 }));
        assert_eq!(order.code, Code::Own("a.py".to_owned()));
        assert_eq!(order.feed, Feed::Named("f".parse().unwrap()));
    }

    #[test]
    fn one_program_has_one_strategy_id_and_another_another() {
        let of = |agent_type: &str| {
            check(RunAgent { agent_type: agent_type.to_owned(), ..ask() })
                .unwrap()
                .strategy_id
                .clone()
        };
        assert_eq!(of("trader"), of("trader"));
        assert!(of("trader").starts_with("trader-"));
        let hash = |id: String| id.rsplit('-').next().unwrap().to_owned();
        assert_eq!(hash(of("trader")), hash(of("momentum")), "one program under two names");
        assert_ne!(hash(of("trader")), hash(of("pairs")));
    }
}
