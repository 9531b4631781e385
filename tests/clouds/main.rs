//! Sandboxes at clouds: the provider `e2b` behind its guards, against a cloud with true books, on
//! fair and on very rough ways.

mod faults;
mod life;
mod rig;
