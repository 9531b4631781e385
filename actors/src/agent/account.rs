//! Paper accounts.
