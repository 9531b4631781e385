//! The Python that runs in the sandboxes: readable files from `actors/strategies`, and the few lines of
//! a cell that call them.

use std::collections::BTreeMap;

use super::plan::Kind;

/// What every desk needs.
const GROUND: [(&str, &str); 3] = [
    ("market.py", include_str!("../../../actors/strategies/market.py")),
    ("desk.py", include_str!("../../../actors/strategies/desk.py")),
    ("research.py", include_str!("../../../actors/strategies/research.py")),
];

/// Asks which instruments are fit.
pub const SURVEY: &str = "\
import json
from research import survey
print(json.dumps(survey(**params)))
";

/// Scores one variant in every window of the past.
pub const SCORE: &str = "\
import json
from research import score
print(json.dumps(score(**params)))
";

/// Opens a desk and keeps it in the sandbox for the cells that follow.
pub const OPEN: &str = "\
import json
from research import open_desk
desk = open_desk(**params)
print(json.dumps(desk.terms()))
";

/// Trades to the end of a year.
pub const RUN: &str = "print(json.dumps(desk.run(**params)))\n";

/// The desk's record.
pub const SUMMARY: &str = "print(json.dumps(desk.summary()))\n";

/// A whole period on another desk, in one cell.
pub const WHOLE: &str = "\
import json
from research import open_desk
desk = open_desk(**params['desk'])
desk.run(params['until'])
print(json.dumps([desk.terms(), desk.summary()]))
";

/// Buy and hold, which every strategy is held against.
pub const HOLD: &str = "hold";

/// The files a survey needs.
pub fn ground() -> BTreeMap<String, String> {
    GROUND.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect()
}

/// The files a desk of this kind needs.
pub fn of(kind: Kind) -> BTreeMap<String, String> {
    let text = match kind {
        Kind::Momentum => include_str!("../../../actors/strategies/momentum.py"),
        Kind::Reversion => include_str!("../../../actors/strategies/reversion.py"),
        Kind::Pairs => include_str!("../../../actors/strategies/pairs.py"),
        Kind::Trend => include_str!("../../../actors/strategies/trend.py"),
        Kind::Parity => include_str!("../../../actors/strategies/parity.py"),
    };
    with(kind.as_str(), text)
}

/// The files that buying and holding needs.
pub fn hold() -> BTreeMap<String, String> {
    with(HOLD, include_str!("../../../actors/strategies/hold.py"))
}

fn with(name: &str, text: &str) -> BTreeMap<String, String> {
    let mut files = ground();
    files.insert(format!("{name}.py"), text.to_owned());
    files
}
