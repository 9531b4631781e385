//! The conversation about agents: programs that trade on paper in a sandbox.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::id::{AgentId, ExecId, SandboxId};
use crate::market::FeedName;
use crate::subject::{Patience, Replay, Request, Verb};

/// A program that comes with sandpit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// Buys what rises, and leaves when it falls.
    Trend,
    /// Buys what fell too far.
    Reversion,
    /// Buys one, sells its twin.
    Pairs,
    /// Trades every instrument against a basket of the others.
    Arbitrage,
    /// Quotes on both sides of a fair price.
    MarketMaker,
    /// Describes the instruments.
    Analyzer,
    /// Watches for what is out of the ordinary.
    Monitor,
    /// Exponential smoothing.
    Forecast,
    /// Searches parameters, walk-forward, and trades what held up.
    Optimizer,
    /// Measures what a portfolio could lose.
    Risk,
    /// Weighs the signals of others.
    Coordinator,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Trend,
        Self::Reversion,
        Self::Pairs,
        Self::Arbitrage,
        Self::MarketMaker,
        Self::Analyzer,
        Self::Monitor,
        Self::Forecast,
        Self::Optimizer,
        Self::Risk,
        Self::Coordinator,
    ];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trend => "trend",
            Self::Reversion => "reversion",
            Self::Pairs => "pairs",
            Self::Arbitrage => "arbitrage",
            Self::MarketMaker => "market-maker",
            Self::Analyzer => "analyzer",
            Self::Monitor => "monitor",
            Self::Forecast => "forecast",
            Self::Optimizer => "optimizer",
            Self::Risk => "risk",
            Self::Coordinator => "coordinator",
        }
    }

    /// The program that a word of any vocabulary stands for; its own name is one of them.
    pub fn of(agent_type: &str) -> Option<Self> {
        let named = Self::ALL.into_iter().find(|program| program.as_str() == agent_type);
        let also = || AGENT_TYPES.iter().find(|(word, _)| *word == agent_type);
        named.or_else(|| also().map(|(_, program)| *program))
    }

    /// Every word that [`Self::of`] knows, for refusals.
    pub fn words() -> impl Iterator<Item = &'static str> {
        let names = Self::ALL.into_iter().map(Self::as_str);
        let others = AGENT_TYPES.iter().map(|(word, _)| *word);
        names.chain(others)
    }
}

/// What callers of the older tool sets say, beside the programs' own names.
const AGENT_TYPES: [(&str, Program); 11] = [
    ("trader", Program::Trend),
    ("momentum", Program::Trend),
    ("momentum_trader", Program::Trend),
    ("trend_follower", Program::Trend),
    ("mean_reversion", Program::Reversion),
    ("mean_reversion_trader", Program::Reversion),
    ("pairs_trading", Program::Pairs),
    ("market_maker", Program::MarketMaker),
    ("neural_forecaster", Program::Forecast),
    ("portfolio_optimizer", Program::Optimizer),
    ("risk_manager", Program::Risk),
];

/// "Run an agent in my sandbox."
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunAgent {
    /// Where: a sandbox of the caller.
    pub sandbox_id: SandboxId,
    /// What it is to be called, so that it can be halted before its answer came; without it, an id
    /// is made. No agent may have it already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// What it does: the name of a built-in program, or one of its older names.
    pub agent_type: String,
    /// The instruments it trades, 1 to 50.
    pub symbols: Vec<String>,
    /// Parameters of the program. Four are read by the node: `program` (a path in the sandbox, to
    /// run the caller's own), `feed` (a feed to follow instead of a replay of one's own), `from`
    /// and `to` (the days of that replay, `YYYY-MM-DD`; without them the last 252).
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub strategy_params: Map<String, Value>,
    /// Needs a provider with GPUs.
    #[serde(default)]
    pub use_gpu: bool,
    /// Seconds to wait for the end before the answer is `running`, 0 to 300; without it 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<u32>,
    /// Groups runs of one strategy; without it, the agent type and a hash of its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy_id: Option<String>,
}

/// How a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RunStatus {
    /// Under way.
    Running,
    /// It came to its end, or was halted.
    Completed,
    /// It could not go on; the results say why.
    Failed,
}

/// What an agent wants done with one instrument.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct AgentSignal {
    /// The instrument.
    pub symbol: String,
    /// `buy`, `sell` or `hold`.
    pub action: Action,
    /// Whole shares.
    #[serde(default)]
    pub qty: u64,
    /// Dollars per share at worst; without it, at the next bar's price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// How sure the program says it is, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Action {
    /// More of it.
    Buy,
    /// Less of it, below zero if need be.
    Sell,
    /// Nothing.
    Hold,
}

/// The market data a run used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct DataUsed {
    /// Where they are from.
    pub source: String,
    /// The feed that brought them.
    pub feed: FeedName,
    /// The first day that was traded on.
    pub from: String,
    /// The last day seen.
    pub to: String,
    /// Bars seen, history included.
    pub rows: u64,
}

/// Shares of one instrument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Holding {
    /// Whole shares; below zero if they were sold short.
    pub shares: i64,
    /// The last price seen.
    pub price_microusd: i64,
}

/// A paper account: what its fills come to, at the last prices seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct PaperAccount {
    /// What it began with.
    pub capital_microusd: i64,
    /// Cash; below zero only if shares sold short rose past all it had.
    pub cash_microusd: i64,
    /// Cash and shares.
    pub equity_microusd: i64,
    /// Equity less capital: profit and loss after all costs.
    pub pnl_microusd: i64,
    /// Commissions and fees paid so far.
    pub costs_microusd: i64,
    /// Trades filled so far.
    pub trades: u64,
    /// Orders that were cut to what the account may hold, or not filled at all.
    pub refused: u64,
    /// Fills, fees included: the next one has this number.
    pub fills: u64,
    /// What it holds.
    pub holdings: BTreeMap<String, Holding>,
}

/// What came of a run so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct AgentResults {
    /// What the program said last.
    pub signals: Vec<AgentSignal>,
    /// What the program computed from the data it was shown.
    pub metrics: Map<String, Value>,
    /// Those data; absent if there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataUsed>,
    /// Its paper account; absent before the first bar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<PaperAccount>,
    /// Why it failed or was halted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One run of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentRun {
    /// This run.
    pub execution_id: ExecId,
    /// The agent.
    pub agent_id: AgentId,
    /// Where it runs.
    pub sandbox_id: SandboxId,
    /// As it was asked for.
    pub agent_type: String,
    /// How it is.
    pub status: RunStatus,
    /// What came of it so far.
    pub results: AgentResults,
    /// How long it took or takes, as in `1.234s`.
    pub execution_time: String,
    /// The same in milliseconds.
    pub execution_time_ms: u64,
    /// Cells run in the sandbox.
    pub executions: u64,
    /// When its program last answered, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat: Option<String>,
    /// Groups runs of one strategy.
    pub strategy_id: String,
    /// What is absent, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Request for RunAgent {
    type Reply = AgentRun;
    const VERB: Verb = Verb::new("agent");
    const REPLAY: Replay = Replay::WithKey;
    const PATIENCE: Patience = Patience::secs(60, 310);
}

/// "Stop that agent." Its account stays to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HaltAgent {
    /// Which.
    pub agent_id: AgentId,
}

impl Request for HaltAgent {
    type Reply = AgentRun;
    const VERB: Verb = Verb::new("halt");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::CHANGE;
}

/// What a line of an account's journal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum FillKind {
    /// Shares changed hands.
    Trade,
    /// The lender of shares sold short was paid: no shares, no price, only a cost.
    Borrow,
}

/// One line of an account's journal, published on `sandpit.v1.evt.agent.filled`. Cash changes by
/// `-(shares * price_microusd) - cost_microusd` and by nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Fill {
    /// Whose.
    pub agent_id: AgentId,
    /// In which run.
    pub execution_id: ExecId,
    /// Its number in the account: from 0, without gaps.
    pub seq: u64,
    /// On which feed.
    pub feed: FeedName,
    /// The number of the bar that filled it.
    pub bar: u64,
    /// The day of that bar.
    pub day: String,
    /// What happened.
    pub kind: FillKind,
    /// The instrument; empty for what concerns the account.
    pub symbol: String,
    /// Whole shares bought, or below zero sold.
    pub shares: i64,
    /// What one share cost, slippage included.
    pub price_microusd: i64,
    /// Commission or fee.
    pub cost_microusd: i64,
}

/// "What did this agent trade?"
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GetFills {
    /// Which agent.
    pub agent_id: AgentId,
    /// Only fills with this number or a higher one.
    #[serde(default)]
    pub from: u64,
    /// Most fills in the answer, 1 to 1000; without it 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Fills, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fills {
    /// One page of them.
    pub fills: Vec<Fill>,
    /// How many there are in all.
    pub total_count: u64,
}

impl Request for GetFills {
    type Reply = Fills;
    const VERB: Verb = Verb::new("fills");
    const REPLAY: Replay = Replay::Safe;
    const PATIENCE: Patience = Patience::LOOK;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_older_name_of_an_agent_is_understood() {
        for (word, program) in [
            ("trader", "trend"),
            ("momentum_trader", "trend"),
            ("mean_reversion_trader", "reversion"),
            ("pairs_trading", "pairs"),
            ("market_maker", "market-maker"),
            ("neural_forecaster", "forecast"),
            ("portfolio_optimizer", "optimizer"),
            ("risk_manager", "risk"),
            ("coordinator", "coordinator"),
        ] {
            assert_eq!(Program::of(word).map(Program::as_str), Some(program), "{word}");
        }
        assert_eq!(Program::of("neural"), None);
        assert!(Program::words().all(|word| Program::of(word).is_some()));
    }
}
