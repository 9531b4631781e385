//! The promises of every provider, kept by the real engine.

use crate::support::Engine;

#[tokio::test]
async fn the_engine_keeps_the_promises_of_a_provider() {
    let engine = Engine::start().await;
    sandpit_tests::contract::provider::provider(&engine.provider, "base").await;
    engine.close().await;
}
