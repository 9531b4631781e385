//! A provider that does what a script says, for tests everywhere.
