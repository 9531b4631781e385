//! Nothing but the engine's inner processes, so that this crate's own tests have a program to
//! start them from. Not shipped.

fn main() {
    #[cfg(target_os = "linux")]
    sandpit_sandbox::local::entry();
}
