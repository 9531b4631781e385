//! The policies of one node on a table top: pool, executions and reaper are real; time, the
//! provider and the callers are simulated.
//! One seed is one run; the same seed is always the same run.
//!
//! SIM_SEED and SIM_RUNS choose seeds, SIM_WITHOUT turns faults off (`crash,stale`), SIM_CALLERS
//! sets the load.
mod faults;
mod people;
mod promises;
mod provider;
mod shells;
mod world;

use std::collections::BTreeSet;
use std::panic::catch_unwind;

use faults::Fault;
use world::World;

/// Everything that determines a run.
#[derive(Clone, Debug)]
struct Run {
    seed: u64,
    callers: u32,
    without: BTreeSet<Fault>,
}

impl Run {
    fn from_environment(seed: u64) -> Self {
        let without = setting("SIM_WITHOUT").unwrap_or_default();
        let without = Fault::ALL.into_iter().filter(|fault| without.contains(fault.name()));
        let callers = setting("SIM_CALLERS").map_or(200, |text| text.parse().expect("a number"));
        Self { seed, callers, without: without.collect() }
    }

    /// Steps taken and the hash of the trace, or the panic with the end of the trace.
    fn result(&self) -> Result<(u64, u64), String> {
        let run = self.clone();
        let outcome = catch_unwind(|| World::new(run.seed, &run.without).play(run.callers));
        outcome.map_err(|panic| {
            panic.downcast_ref::<String>().map_or("a panic without words", |text| text).to_owned()
        })
    }

    /// Removes one fault after another, then halves the load, as long as it keeps failing.
    fn shrunk(mut self) -> Self {
        for fault in Fault::ALL {
            let mut smaller = self.clone();
            smaller.without.insert(fault);
            if smaller.result().is_err() {
                self = smaller;
            }
        }
        while self.callers > 1 {
            let smaller = Self { callers: self.callers / 2, ..self.clone() };
            if smaller.result().is_ok() {
                break;
            }
            self = smaller;
        }
        self
    }

    fn command(&self) -> String {
        let without: Vec<_> = self.without.iter().map(|fault| fault.name()).collect();
        let (seed, callers, without) = (self.seed, self.callers, without.join(","));
        format!("SIM_SEED={seed} SIM_RUNS=1 SIM_CALLERS={callers} SIM_WITHOUT={without} cargo sim")
    }
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn must_pass(seed: u64) -> u64 {
    match Run::from_environment(seed).result() {
        Ok((steps, _)) => steps,
        Err(_) => {
            let smallest = Run::from_environment(seed).shrunk();
            let why = smallest.result().expect_err("it failed a moment ago");
            panic!("{why}\n\nreplay: {}", smallest.command());
        }
    }
}

#[test]
fn no_seed_breaks_a_promise() {
    let first = setting("SIM_SEED").map_or(0, |text| text.parse().unwrap());
    let runs: u64 = setting("SIM_RUNS").map_or(200, |text| text.parse().unwrap());
    let steps: u64 = (first..first + runs).map(must_pass).sum();
    println!("{runs} seeds, {steps} steps");
}

#[test]
fn seeds_that_once_failed_pass_now() {
    for line in include_str!("../seeds.txt").lines() {
        let seed = line.split('#').next().unwrap_or_default().trim();
        if !seed.is_empty() {
            must_pass(seed.parse().expect("a line is `seed # what broke`"));
        }
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        let run = Run::from_environment(seed);
        assert_eq!(run.result(), run.result());
    }
}
