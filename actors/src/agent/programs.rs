//! The Python that runs in sandboxes: readable files of `actors/strategies`.

use sandpit_messages::agent::Program;

/// The files that a program needs, by name.
pub fn files(_program: Program) -> impl Iterator<Item = (&'static str, &'static str)> {
    [("desk.py", include_str!("../../strategies/desk.py"))].into_iter()
}
