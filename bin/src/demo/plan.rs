//! Who does what in a demonstration: kinds of strategies, the temper of each agent, the periods,
//! and which instruments a desk draws. Pure: the same seed is the same plan.

use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Fewest agents: what the demonstration promises to show.
pub const AGENTS_MIN: u32 = 8;
/// Most agents: two of every kind on six desks; one machine is not asked for more.
pub const AGENTS_MAX: u32 = 60;
/// Agents unless asked otherwise: two of every kind.
pub const AGENTS_DEFAULT: u32 = 10;
/// Instruments of each desk, drawn from those that are fit. Few enough that desks differ, enough
/// for five pairs and a ranking.
pub const NAMES_PER_DESK: usize = 15;

/// First and last day of what agents may learn from.
pub const RESEARCH: Period = Period { from: "2005-01-01", to: "2014-12-31" };
/// The parts of [`RESEARCH`] in which every variant starts from nothing.
pub const WINDOWS: [Period; 5] = [
    Period { from: "2005-01-01", to: "2006-12-31" },
    Period { from: "2007-01-01", to: "2008-12-31" },
    Period { from: "2009-01-01", to: "2010-12-31" },
    Period { from: "2011-01-01", to: "2012-12-31" },
    Period { from: "2013-01-01", to: "2014-12-31" },
];
/// First and last day of what nobody saw before the choice was made.
pub const TEST: Period = Period { from: "2015-01-01", to: "2022-12-31" };
/// The last day of each year of [`TEST`]: a cell in the agent's sandbox runs to each of them.
pub const YEAR_ENDS: [&str; 8] = [
    "2015-12-31",
    "2016-12-31",
    "2017-12-31",
    "2018-12-31",
    "2019-12-31",
    "2020-12-31",
    "2021-12-31",
    "2022-12-31",
];

/// Days from one to another, both included, written as `YYYY-MM-DD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Period {
    /// The first.
    pub from: &'static str,
    /// The last.
    pub to: &'static str,
}

/// How a desk trades. Each kind is a Python file of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Buys what rose most.
    Momentum,
    /// Buys what fell too far.
    Reversion,
    /// Buys one, sells its twin.
    Pairs,
    /// Follows moving averages.
    Trend,
    /// Spreads risk evenly.
    Parity,
}

impl Kind {
    /// All of them, in the order agents take them up.
    pub const ALL: [Self; 5] =
        [Self::Momentum, Self::Reversion, Self::Pairs, Self::Trend, Self::Parity];

    /// How many sets of parameters its Python file lists.
    pub const fn variants(self) -> usize {
        6
    }

    /// Its name, which is also that of its Python file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Momentum => "momentum",
            Self::Reversion => "reversion",
            Self::Pairs => "pairs",
            Self::Trend => "trend",
            Self::Parity => "parity",
        }
    }
}

/// How an agent chooses among variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Temper {
    /// Whose worst window was best.
    Steady,
    /// Whose windows were best on average.
    Bold,
}

impl Temper {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Bold => "bold",
        }
    }

    /// How much it likes a row of Sharpe ratios; higher is better.
    fn likes(self, sharpes: &[f64]) -> f64 {
        match self {
            Self::Steady => sharpes.iter().copied().fold(f64::INFINITY, f64::min),
            Self::Bold => mean(sharpes),
        }
    }

    /// The variant it takes: `scores` holds, for each, its Sharpe ratio in every window. The first
    /// of equals; `None` if there is nothing to choose from.
    pub fn choose<'a>(self, scores: impl IntoIterator<Item = &'a [f64]>) -> Option<usize> {
        let liked = scores.into_iter().map(|sharpes| self.likes(sharpes)).enumerate();
        let best = liked.reduce(|best, next| if next.1 > best.1 { next } else { best });
        best.map(|(at, _)| at)
    }

    /// What choosing this way would have brought: for each window but the first, the Sharpe ratio
    /// there of the variant that the windows before it spoke for; their mean. Zero without a second
    /// window.
    pub fn walk_forward(self, scores: &[Vec<f64>]) -> f64 {
        let windows = scores.iter().map(Vec::len).min().unwrap_or_default();
        let taken: Vec<f64> = (1..windows)
            .filter_map(|next| {
                let chosen = self.choose(scores.iter().map(|sharpes| &sharpes[..next]))?;
                Some(scores[chosen][next])
            })
            .collect();
        mean(&taken)
    }
}

/// Zero of nothing.
fn mean(values: &[f64]) -> f64 {
    let count = u32::try_from(values.len()).unwrap_or(u32::MAX).max(1);
    values.iter().sum::<f64>() / f64::from(count)
}

/// One agent's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What it is called: its kind, its temper, and a number from the second desk of its kind on.
    pub name: String,
    /// How its desk trades.
    pub kind: Kind,
    /// How it chooses.
    pub temper: Temper,
    /// Its desk: the two agents of one kind on one desk look at the same instruments, and so ask
    /// the same questions of the past.
    pub desk: u64,
    /// What the desk's draw begins with.
    pub seed: u64,
}

/// The parts of `agents` agents, in the order they are started.
pub fn parts(agents: u32, seed: u64) -> Vec<Part> {
    let kinds = u32::try_from(Kind::ALL.len()).expect("a handful");
    (0..agents)
        .map(|at| {
            let kind = Kind::ALL[(at % kinds) as usize];
            let (round, desk) = (at / kinds, at / kinds / 2);
            let temper = if round % 2 == 0 { Temper::Steady } else { Temper::Bold };
            let number = if desk == 0 { String::new() } else { format!("-{}", desk + 1) };
            let name = format!("{}-{}{number}", kind.as_str(), temper.as_str());
            Part { name, kind, temper, desk: u64::from(at % kinds + desk * kinds), seed }
        })
        .collect()
}

impl Part {
    /// The instruments of its desk out of those that are fit, in their order.
    pub fn draw(&self, fit: &[String]) -> Vec<String> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(self.desk);
        let mut at =
            index::sample(&mut random, fit.len(), NAMES_PER_DESK.min(fit.len())).into_vec();
        at.sort_unstable();
        at.into_iter().map(|at| fit[at].clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn fit() -> Vec<String> {
        (0..20).map(|at| format!("S{at:02}")).collect()
    }

    #[test]
    fn ten_agents_are_two_of_every_kind_and_share_desks_by_kind() {
        let parts = parts(10, 7);
        for kind in Kind::ALL {
            let of_kind: Vec<&Part> = parts.iter().filter(|part| part.kind == kind).collect();
            let [steady, bold] = of_kind[..] else { panic!("{kind:?}: {of_kind:?}") };
            assert_eq!((steady.temper, bold.temper), (Temper::Steady, Temper::Bold));
            assert_eq!(steady.draw(&fit()), bold.draw(&fit()));
        }
        assert_eq!(parts[0].name, "momentum-steady");
        assert_eq!(parts[5].name, "momentum-bold");
    }

    #[test]
    fn no_two_agents_have_one_name() {
        let names: BTreeSet<String> =
            parts(AGENTS_MAX, 7).into_iter().map(|part| part.name).collect();
        assert_eq!(names.len(), AGENTS_MAX as usize);
        assert!(names.contains("parity-bold-6"), "{names:?}");
    }

    #[test]
    fn a_draw_is_the_same_for_the_same_seed_and_another_for_another_desk() {
        let (one, again) = (parts(20, 7), parts(20, 7));
        assert_eq!(one[3].draw(&fit()), again[3].draw(&fit()));
        assert_ne!(one[0].draw(&fit()), one[1].draw(&fit()));
        assert_ne!(one[0].draw(&fit()), one[10].draw(&fit()));
        assert_ne!(one[0].draw(&fit()), parts(8, 8)[0].draw(&fit()));
        assert_eq!(one[0].draw(&fit()).len(), NAMES_PER_DESK);
        assert_eq!(one[0].draw(&fit()[..4]).len(), 4);
    }

    #[test]
    fn the_steady_avoid_the_worst_window_and_the_bold_look_at_the_mean() {
        let scores = [vec![0.4, 0.5], vec![-1.0, 3.0], vec![0.4, 0.4]];
        let rows = || scores.iter().map(Vec::as_slice);
        assert_eq!(Temper::Steady.choose(rows()), Some(0));
        assert_eq!(Temper::Bold.choose(rows()), Some(1));
        assert_eq!(Temper::Bold.choose([]), None);
    }

    #[test]
    fn walking_forward_never_looks_at_the_window_it_is_judged_by() {
        // The first variant looks best until its last window.
        let scores = [vec![2.0, 1.0, -5.0], vec![1.0, 0.5, 9.0]];
        assert_eq!(Temper::Bold.walk_forward(&scores), f64::midpoint(1.0, -5.0));
        assert_eq!(Temper::Bold.walk_forward(&[vec![1.0]]), 0.0);
    }

    #[test]
    fn research_ends_before_the_test_begins() {
        assert!(RESEARCH.to < TEST.from);
        assert!(
            WINDOWS.iter().all(|window| RESEARCH.from <= window.from && window.to <= RESEARCH.to)
        );
        assert!(WINDOWS.windows(2).all(|pair| pair[0].to < pair[1].from));
        assert_eq!(YEAR_ENDS.last(), Some(&TEST.to));
    }
}
