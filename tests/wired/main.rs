//! Real actors over a bus in memory, on a clock that tests may stop.

mod bus;
