//! What meets the outside: programs nobody here wrote read what we write.

mod agents;
mod cli;
mod clouds;
mod compose;
mod conformance;
mod e2b;
mod foreign;
mod leaving;
mod node;
mod npm;
mod telemetry;
mod templates;
mod tools;
mod venv;
