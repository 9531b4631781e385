//! The Python that runs in sandboxes: the readable files of `actors/strategies`, as they are. The
//! demonstration runs the same.

use sandpit_messages::agent::Program;

/// A file by its name.
type File = (&'static str, &'static str);

macro_rules! file {
    ($name:literal) => {
        ($name, include_str!(concat!("../../strategies/", $name)))
    };
}

/// Between an agent's program and the node.
const STAGE: File = file!("sandpit_stage.py");
/// Sums over a row of prices, without any package.
const SUMS: File = file!("sums.py");
/// Exact books of a desk that trades the past.
const DESK: File = file!("desk.py");
/// Closes as desks see them.
const MARKET: File = file!("market.py");
/// Trades what a strategy wants.
const FLOOR: File = file!("floor.py");
/// Which data are fit, and which variant held up.
const RESEARCH: File = file!("research.py");

/// The strategies of the demonstration's desks: each decides weights from closes.
const STRATEGIES: [File; 6] = [
    file!("hold.py"),
    file!("momentum.py"),
    file!("pairs.py"),
    file!("parity.py"),
    file!("reversion.py"),
    file!("trend.py"),
];

/// What every desk of the demonstration needs.
pub const GROUND: [File; 3] = [MARKET, DESK, RESEARCH];

/// The file of a strategy of the demonstration.
pub fn strategy(name: &str) -> Option<File> {
    STRATEGIES.into_iter().find(|(file, _)| file.strip_suffix(".py") == Some(name))
}

/// What a program of the caller's own may need.
pub fn stage() -> impl Iterator<Item = File> {
    [STAGE, FLOOR, MARKET, DESK, SUMS].into_iter()
}

/// The module in which a program begins.
pub const fn entry(program: Program) -> &'static str {
    match program {
        Program::Trend => "rise",
        Program::Reversion => "reversion",
        Program::Pairs => "pairs",
        Program::Arbitrage => "arbitrage",
        Program::MarketMaker => "market_maker",
        Program::Analyzer => "analyzer",
        Program::Monitor => "monitor",
        Program::Forecast => "forecast",
        Program::Optimizer => "optimizer",
        Program::Risk => "risk",
        Program::Coordinator => "coordinator",
    }
}

/// The files that a program needs, by name.
pub fn files(program: Program) -> impl Iterator<Item = File> {
    let own: &[File] = match program {
        Program::Trend => &[file!("rise.py")],
        Program::Reversion => &[file!("reversion.py")],
        Program::Pairs => &[file!("pairs.py")],
        Program::Arbitrage => &[file!("arbitrage.py")],
        Program::MarketMaker => &[file!("market_maker.py")],
        Program::Analyzer => &[file!("analyzer.py")],
        Program::Monitor => &[file!("monitor.py")],
        Program::Forecast => &[file!("forecast.py")],
        Program::Optimizer => &[
            file!("optimizer.py"),
            file!("rise.py"),
            file!("trend.py"),
            file!("momentum.py"),
            file!("reversion.py"),
        ],
        Program::Risk => &[file!("risk.py")],
        Program::Coordinator => &[file!("coordinator.py")],
    };
    stage().chain(own.iter().copied())
}
