//! Promises that the fake and the real thing both keep. The same body runs against each, so that
//! the simulated world is not one that does not exist.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use sandpit_messages::id::{ExecId, NodeId, SandboxId};
use sandpit_sandbox::provider::{
    CreateRequest, Done, ExecEvent, ExecRequest, Lease, Outcome, Progress, Work,
};
use sandpit_sandbox::{Provider, ProviderError};

use super::faces;

/// Longest wait for anything a provider owes. A hang is a failure, not a slow test.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What every provider promises about sandboxes of `template`.
///
/// # Panics
/// If a promise is broken.
pub async fn provider(provider: &dyn Provider, template: &str) {
    let kept = tokio::time::timeout(WAIT_MAX, keeps(provider, template));
    kept.await.expect("nothing hangs");
}

async fn keeps(provider: &dyn Provider, template: &str) {
    templates(provider, template).await;
    let (one, other) = (sandbox(1), sandbox(2));
    create(provider, template, one).await;
    create(provider, template, other).await;
    create(provider, template, one).await;
    let alive = list(provider).await;
    assert_eq!(alive.iter().filter(|id| **id == one).count(), 1, "one id is one sandbox");
    assert!(alive.contains(&other), "what was made is listed");

    provider.adopt(one, Lease::default()).await.expect("a ready sandbox can be given away");
    executions(provider, one).await;
    faces::files(provider, one).await;
    faces::processes(provider, one).await;
    faces::contexts(provider, one).await;
    faces::pausing(provider, one, request(7, Work::Line("exit 0".to_owned()))).await;
    let sample = provider.sample(one).await.expect("a sandbox can be looked at");
    assert!(!sample.source.is_empty());

    let first = provider.destroy(one).await.expect("a sandbox can be destroyed");
    assert!(first.was_there);
    let again = provider.destroy(one).await.expect("destroying what is gone is not an error");
    assert!(!again.was_there);
    let alive = list(provider).await;
    assert!(!alive.contains(&one) && alive.contains(&other), "only what was destroyed is gone");
    gone(provider, one).await;
    provider.destroy(other).await.expect("the last one too");
    assert_eq!(list(provider).await, [], "nothing is left");
}

async fn templates(provider: &dyn Provider, template: &str) {
    assert!(provider.templates().iter().any(|known| known == template), "it names its templates");
    let info = provider.prepare(template, Progress::silent()).await.expect("it can be prepared");
    let again = provider.prepare(template, Progress::silent()).await.expect("and again");
    assert_eq!(info, again, "preparing twice is preparing once");
    let unknown = provider.prepare("no-such-template", Progress::silent()).await;
    assert!(matches!(unknown, Err(ProviderError::NoSuchTemplate { .. })), "{unknown:?}");
}

async fn executions(provider: &dyn Provider, sandbox: SandboxId) {
    let (stdout, done) = run(provider, sandbox, 1, Work::Line("exit 3".to_owned())).await;
    assert_eq!((&*stdout, done.outcome), ("", Outcome::Exit(3)));
    assert!(done.sandbox_usable, "a program that fails harms nothing");

    let slow = request(2, Work::Line("sleep 30000".to_owned()));
    let stream = provider.exec(sandbox, ExecRequest { time_max: HALF, ..slow }).await;
    let done = end_of(stream.expect("it begins")).await.1;
    let stopped =
        matches!(done.outcome, Outcome::Interrupted { timed_out: true } | Outcome::Killed(_));
    assert!(stopped, "{:?}", done.outcome);

    let slow = request(3, Work::Line("sleep 30000".to_owned()));
    let stream = provider.exec(sandbox, slow).await.expect("it begins");
    provider.interrupt(sandbox, exec(3)).await.expect("it can be interrupted");
    let done = end_of(stream).await.1;
    let stopped =
        matches!(done.outcome, Outcome::Interrupted { timed_out: false } | Outcome::Killed(_));
    assert!(stopped, "{:?}", done.outcome);
    provider.interrupt(sandbox, exec(3)).await.expect("once more is not an error");

    let slow = request(4, Work::Line("sleep 30000".to_owned()));
    drop(provider.exec(sandbox, slow).await.expect("it begins"));
    let (_, done) = run(provider, sandbox, 5, Work::Line("exit 0".to_owned())).await;
    assert_eq!(done.outcome, Outcome::Exit(0), "what nobody listens to is in nobody's way");
}

async fn gone(provider: &dyn Provider, sandbox: SandboxId) {
    let is_gone = |error: Option<ProviderError>| error == Some(ProviderError::Gone(sandbox));
    assert!(is_gone(provider.adopt(sandbox, Lease::default()).await.err()));
    assert!(is_gone(provider.sample(sandbox).await.err()));
    let ran = provider.exec(sandbox, request(6, Work::Line("exit 0".to_owned()))).await;
    assert!(is_gone(ran.err()), "nothing runs where nothing is");
}

/// Runs something that ends well.
pub(super) async fn ends(provider: &dyn Provider, sandbox: SandboxId, request: ExecRequest) {
    let stream = provider.exec(sandbox, request).await.expect("it begins");
    assert_eq!(end_of(stream).await.1.outcome, Outcome::Exit(0));
}

const HALF: Duration = Duration::from_millis(500);

fn sandbox(number: u128) -> SandboxId {
    SandboxId::minted(NodeId::of_bits(7), number)
}

fn exec(number: u128) -> ExecId {
    ExecId::minted(number)
}

fn request(number: u128, work: Work) -> ExecRequest {
    ExecRequest {
        exec: exec(number),
        work,
        files: BTreeMap::new(),
        env: BTreeMap::new(),
        cwd: None,
        stdin: Bytes::new(),
        time_max: Duration::from_secs(30),
    }
}

async fn create(provider: &dyn Provider, template: &str, sandbox: SandboxId) {
    let request = CreateRequest { sandbox, template: template.to_owned() };
    let created = provider.create(request).await.expect("a sandbox");
    assert_eq!(created.sandbox, sandbox, "under the id that was asked for");
}

async fn list(provider: &dyn Provider) -> Vec<SandboxId> {
    let all = provider.list().await.expect("a list");
    all.into_iter().map(|info| info.sandbox).collect()
}

async fn run(
    provider: &dyn Provider,
    sandbox: SandboxId,
    number: u128,
    work: Work,
) -> (String, Done) {
    end_of(provider.exec(sandbox, request(number, work)).await.expect("it begins")).await
}

async fn end_of(mut stream: sandpit_sandbox::provider::ExecStream) -> (String, Done) {
    let mut stdout = Vec::new();
    loop {
        match stream.next().await.expect("it ends with its end") {
            ExecEvent::Stdout(bytes) => stdout.extend_from_slice(&bytes),
            ExecEvent::Done(done) => {
                return (String::from_utf8_lossy(&stdout).into_owned(), done);
            }
            _ => (),
        }
    }
}
