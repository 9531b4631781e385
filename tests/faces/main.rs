//! What meets the outside: programs nobody here wrote read what we write.

mod cli;
mod compose;
mod foreign;
mod leaving;
mod node;
mod telemetry;
mod templates;
mod venv;
