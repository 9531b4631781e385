//! Contexts: interpreters beside each other in one sandbox.

use std::collections::BTreeMap;
use std::time::Duration;

use sandpit_sandbox::Provider;
use sandpit_sandbox::ProviderError;
use sandpit_sandbox::provider::contexts::ContextId;
use sandpit_sandbox::provider::files::FileFault;
use sandpit_sandbox::provider::{ExecEvent, ExecRequest, KilledBy, Lease, Outcome};

use crate::support::{Engine, Ran, WAIT_MAX, cell, cell_in};

#[tokio::test]
async fn contexts_keep_variables_of_their_own_and_count_their_cells() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let contexts = engine.provider.contexts().expect("it has contexts");

    let second = contexts.create(sandbox, None).await.expect("a context is made");
    assert_eq!((second.language.as_str(), second.cwd.as_str()), ("python", "/home/user"));
    assert!(!second.is_default);
    assert_eq!(engine.cell(sandbox, "x = 1").await.count, Some(1));
    let ran = engine.run(sandbox, cell_in(&second.id, "'x' in globals()")).await;
    assert_eq!((ran.result.as_deref(), ran.count), (Some("False"), Some(1)), "{ran:?}");
    engine.run(sandbox, cell_in(&second.id, "x = 2; open('both', 'w').write('seen')")).await;
    let ran = engine.cell(sandbox, "x, open('both').read()").await;
    assert_eq!((ran.result.as_deref(), ran.count), (Some("(1, 'seen')"), Some(2)), "{ran:?}");
    assert_eq!(engine.line(sandbox, "true").await.count, None);

    let listed = contexts.list(sandbox).await.expect("they are listed");
    assert_eq!(listed.iter().map(|one| one.is_default).collect::<Vec<_>>(), [true, false]);
    assert_eq!(listed[1], second);
    let first = listed[0].id.clone();
    let ran = engine.run(sandbox, cell_in(&first, "x")).await;
    assert_eq!(ran.result.as_deref(), Some("1"), "the default one has an id too");
    engine.close().await;
}

#[tokio::test]
async fn a_context_goes_where_it_was_made_or_where_a_cell_went_and_has_the_leases_environment() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let contexts = engine.provider.contexts().expect("it has contexts");
    let env = BTreeMap::from([("KEY".to_owned(), "secret".to_owned())]);
    engine.provider.adopt(sandbox, Lease { env, limits: None }).await.expect("it is adopted");

    let made = contexts.create(sandbox, Some("/tmp")).await.expect("a context is made");
    let seen = "import os; os.getcwd(), os.environ['KEY']";
    let ran = engine.run(sandbox, cell_in(&made.id, seen)).await;
    assert_eq!(ran.result.as_deref(), Some("('/tmp', 'secret')"), "{ran:?}");
    engine.run(sandbox, cell_in(&made.id, "os.mkdir('below'); os.chdir('below')")).await;
    let elsewhere = ExecRequest { cwd: Some("/usr".to_owned()), ..cell_in(&made.id, seen) };
    let ran = engine.run(sandbox, elsewhere).await;
    assert_eq!(ran.result.as_deref(), Some("('/usr', 'secret')"));
    let ran = engine.run(sandbox, cell_in(&made.id, "os.getcwd()")).await;
    assert_eq!(ran.result.as_deref(), Some("'/tmp/below'"));

    let missing = contexts.create(sandbox, Some("/nowhere")).await.expect_err("it is not there");
    let fault = FileFault::Missing;
    assert_eq!(missing, ProviderError::File { path: "/nowhere".to_owned(), fault });
    assert_eq!(contexts.list(sandbox).await.expect("a list").len(), 2, "nothing is left of it");
    engine.close().await;
}

#[tokio::test]
async fn contexts_run_beside_each_other_and_die_alone() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let contexts = engine.provider.contexts().expect("it has contexts");
    let busy = contexts.create(sandbox, None).await.expect("a context is made").id;
    let stream = engine.provider.exec(sandbox, cell_in(&busy, "while True: pass")).await.unwrap();
    let ran = tokio::time::timeout(WAIT_MAX, engine.cell(sandbox, "x = 1; x")).await;
    assert_eq!(ran.expect("it does not wait").result.as_deref(), Some("1"));
    drop(stream);
    let ran = engine.run(sandbox, cell_in(&busy, "import os; os._exit(3)")).await;
    assert_eq!(ran.outcome(), Outcome::Exit(3));
    let ran = engine.run(sandbox, cell_in(&busy, "2")).await;
    assert_eq!((ran.result.as_deref(), ran.count), (Some("2"), Some(1)), "a fresh worker");
    assert_eq!(engine.cell(sandbox, "x").await.result.as_deref(), Some("1"));
    engine.close().await;
}

#[tokio::test]
async fn a_restart_ends_what_runs_and_what_waits_and_forgets() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let contexts = engine.provider.contexts().expect("it has contexts");
    let made = contexts.create(sandbox, None).await.expect("a context is made").id;
    let default = contexts.list(sandbox).await.expect("a list")[0].id.clone();
    for id in [made, default] {
        engine.run(sandbox, cell_in(&id, "x = 1")).await;
        let stubborn = "import signal\nsignal.signal(2, signal.SIG_IGN)\nwhile True: pass";
        let mut running = engine.provider.exec(sandbox, cell_in(&id, stubborn)).await.unwrap();
        assert!(matches!(running.next().await, Some(ExecEvent::Started { .. })));
        let waiting = engine.provider.exec(sandbox, cell_in(&id, "x")).await.unwrap();
        let restarted = tokio::time::timeout(WAIT_MAX, contexts.restart(sandbox, &id)).await;
        restarted.expect("in time").expect("it begins anew");
        for stream in [running, waiting] {
            let ran = Ran::of(stream).await;
            assert_eq!(ran.outcome(), Outcome::Killed(KilledBy::Restart));
            assert!(!ran.done().context_kept && ran.done().sandbox_usable, "{ran:?}");
        }
        let ran = engine.run(sandbox, cell_in(&id, "'x' in globals()")).await;
        assert_eq!((ran.result.as_deref(), ran.count), (Some("False"), Some(1)), "{ran:?}");
    }
    engine.close().await;
}

#[tokio::test]
async fn a_context_that_is_removed_is_unknown_and_the_default_one_begins_anew() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let contexts = engine.provider.contexts().expect("it has contexts");
    let made = contexts.create(sandbox, None).await.expect("a context is made").id;
    let running = engine.provider.exec(sandbox, cell_in(&made, "while True: pass")).await.unwrap();
    contexts.remove(sandbox, &made).await.expect("it is removed");
    assert_eq!(Ran::of(running).await.outcome(), Outcome::Killed(KilledBy::Restart));
    let unknown = Err(ProviderError::NoSuchContext(made.clone()));
    assert_eq!(contexts.remove(sandbox, &made).await, unknown);
    assert_eq!(contexts.restart(sandbox, &made).await, unknown);
    let run = engine.provider.exec(sandbox, cell_in(&made, "1")).await;
    assert_eq!(run.map(drop), unknown);
    let next = contexts.create(sandbox, None).await.expect("a context is made").id;
    assert_ne!(next, made, "no id is used again");

    engine.cell(sandbox, "x = 1").await;
    let default = ContextId("default".to_owned());
    contexts.remove(sandbox, &default).await.expect("it begins anew");
    let ran = engine.cell(sandbox, "'x' in globals()").await;
    assert_eq!(ran.result.as_deref(), Some("False"));
    let ran = engine.line(sandbox, "set -- /proc/[0-9]*; echo $#").await;
    assert_eq!(ran.stdout, "4\n", "init, two workers, sh");
    engine.close().await;
}

#[tokio::test]
async fn hostile_h03_a_sandbox_has_so_many_contexts_and_no_more() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let contexts = engine.provider.contexts().expect("it has contexts");
    let made = futures_util::future::join_all((0..20).map(|_| contexts.create(sandbox, None)));
    let made = tokio::time::timeout(Duration::from_secs(60), made).await.expect("in time");
    assert_eq!(made.iter().filter(|one| one.is_ok()).count(), 15);
    let refused = |one: &Result<_, _>| matches!(one, Err(ProviderError::Quota { .. }));
    assert_eq!(made.iter().filter(|one| refused(one)).count(), 5, "{made:?}");
    assert!(engine.provider.sample(sandbox).await.expect("a sample").processes >= 17);
    engine.close().await;
}

#[tokio::test]
async fn running_out_of_memory_in_one_context_is_told_to_all_that_run() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let contexts = engine.provider.contexts().expect("it has contexts");
    let made = contexts.create(sandbox, None).await.expect("a context is made").id;
    let beside = engine.provider.exec(sandbox, cell("while True: pass")).await.unwrap();
    // Many processes, because one alone is refused more at its own limit.
    let greedy = "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n        \
                  kept = b'x' * (100 << 20)\n        time.sleep(60)\nos.wait()";
    let ran = engine.run(sandbox, cell_in(&made, greedy)).await;
    assert_eq!(ran.outcome(), Outcome::Killed(KilledBy::Memory), "{ran:?}");
    assert!(!ran.done().sandbox_usable);
    assert_eq!(Ran::of(beside).await.outcome(), Outcome::Killed(KilledBy::Memory));
    engine.close().await;
}
