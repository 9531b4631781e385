//! The Python that runs in the sandboxes: readable files from `actors/strategies`, and the few lines of
//! a cell that call them.

use std::collections::BTreeMap;

use sandpit_actors::agent::programs;

use super::plan::Kind;

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
    programs::GROUND.into_iter().map(owned).collect()
}

/// The files a desk of this kind needs.
pub fn of(kind: Kind) -> BTreeMap<String, String> {
    with(kind.as_str())
}

/// The files that buying and holding needs.
pub fn hold() -> BTreeMap<String, String> {
    with(HOLD)
}

fn with(name: &str) -> BTreeMap<String, String> {
    ground().into_iter().chain(programs::strategy(name).map(owned)).collect()
}

fn owned((name, text): (&str, &str)) -> (String, String) {
    (name.to_owned(), text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_file() {
        for kind in Kind::ALL {
            assert!(of(kind).contains_key(&format!("{}.py", kind.as_str())), "{kind:?}");
        }
        assert!(hold().contains_key("hold.py"));
    }
}
