//! One node: builds what it is made of, waits, and leaves in order.

pub mod embedded;
