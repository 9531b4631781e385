use std::future::Future;
use std::sync::Arc;

use sandpit_actors::bus::memory::MemoryBus;
use sandpit_actors::clock::Clock;
use sandpit_tests::bus_contract;
use sandpit_tests::contract::bus::Rig;

/// Runs one promise in memory, on a clock that jumps whenever everybody waits.
async fn with<F: Future<Output = ()>>(promise: impl FnOnce(Rig) -> F) {
    let clock = Clock::start();
    let bus = MemoryBus::new(clock, 7);
    let other = Arc::new(bus.connect());
    promise(Rig { node: Arc::new(bus), other, clock }).await;
}

bus_contract! { #[tokio::test(start_paused = true)] with }
