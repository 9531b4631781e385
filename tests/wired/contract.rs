use sandpit_sandbox::fake::{Fake, Script};

#[tokio::test(start_paused = true)]
async fn the_fake_keeps_the_contract_of_providers() {
    let fake = Fake::new(Script::default());
    sandpit_tests::contract::provider::provider(&fake, "base").await;
}
