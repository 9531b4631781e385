//! Contexts: interpreters beside each other in one sandbox.

use sandpit_sandbox::Provider;

use crate::support::{Engine, cell_in};

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

    let listed = contexts.list(sandbox).await.expect("they are listed");
    assert_eq!(listed.iter().map(|one| one.is_default).collect::<Vec<_>>(), [true, false]);
    assert_eq!(listed[1], second);
    let first = listed[0].id.clone();
    let ran = engine.run(sandbox, cell_in(&first, "x")).await;
    assert_eq!(ran.result.as_deref(), Some("1"), "the default one has an id too");
    engine.close().await;
}
