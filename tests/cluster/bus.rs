use std::future::Future;

use sandpit_tests::bus_contract;
use sandpit_tests::contract::bus::Rig;

use crate::support::Server;

/// Runs one promise on a server of its own.
async fn with<F: Future<Output = ()>>(promise: impl FnOnce(Rig) -> F) {
    let server = Server::start().await;
    let rig = Rig { node: server.node().await, other: server.node().await, clock: server.clock };
    promise(rig).await;
    server.embedded.stop().await;
}

bus_contract! { #[tokio::test] with }
