//! The real engine, and what hostile code tries against it.
//!
//! Rows of the list of attacks in the engine's design, each with a second sandbox beside it that
//! must keep answering:
//!
//! * `resources`: H01, H02, H04 to H10, H12, H13
//! * `kernel`: H14 to H22, H24 to H26, H31 to H37, H54
//! * `time`: H38 to H44
//! * `protocol`: H45 to H48, H51, H52
//! * `neighbors`: H53, H55, H59
//! * `packages`, `layers`: H57, H58
//! * `ends`: H11, H41, H42, H56
//!
//! And `fleet`: a deployment on it that changes its size under load, and whose workers are killed.
//!
//! Not here, because what they attack is not here yet: H03 (contexts and branches), H23 (egress),
//! H27 to H30 (files through the engine), H49 and H50 (display data), H60 (pseudo-terminals).
//!
//! Everything runs as whoever runs the tests; `as_user` runs it once more as an ordinary user if
//! that is root.

mod as_user;
mod contract;
mod doctor;
mod ends;
mod fleet;
mod hazards;
mod kernel;
mod layers;
mod neighbors;
mod packages;
mod protocol;
mod resources;
#[path = "../cluster/support.rs"]
mod server;
mod support;
mod time;
