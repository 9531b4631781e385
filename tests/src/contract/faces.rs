//! Promises of the optional faces: who has one keeps them, who has none says so.

use std::collections::BTreeMap;

use bytes::Bytes;
use sandpit_messages::id::SandboxId;
use sandpit_sandbox::provider::contexts::ContextId;
use sandpit_sandbox::provider::files::{Body, EntryKind, FileFault, Range};
use sandpit_sandbox::provider::processes::{
    Input, ProcessEnd, ProcessEvent, ProcessFault, ProcessRef, StartRequest, Stdin,
};
use sandpit_sandbox::provider::{ExecRequest, Work};
use sandpit_sandbox::{Provider, ProviderError};

/// A face that is there, or `None` from a provider that says that it has none.
fn stated<T>(face: Result<T, ProviderError>) -> Option<T> {
    match face {
        Ok(face) => Some(face),
        Err(ProviderError::Unsupported { .. }) => None,
        Err(other) => panic!("a face is there or unsupported, not {other:?}"),
    }
}

fn is_fault<T>(ended: Result<T, ProviderError>, fault: FileFault) -> bool {
    matches!(ended, Err(ProviderError::File { fault: is, .. }) if is == fault)
}

pub(super) async fn files(provider: &dyn Provider, sandbox: SandboxId) {
    let Some(files) = stated(provider.files()) else { return };
    let whole = |text: &'static str| Body::Whole(Bytes::from_static(text.as_bytes()));
    let none = BTreeMap::new;
    let path = "contract/a b%.txt";
    let entry = files.write(sandbox, path, whole("prices"), none()).await.unwrap();
    assert_eq!((entry.kind, entry.size), (EntryKind::File, 6));
    assert_eq!(entry.path, "/home/user/contract/a b%.txt");
    assert_eq!(read(provider, sandbox, path, Range::default()).await, "prices");
    let middle = Range { start: 2, length: Some(3) };
    assert_eq!(read(provider, sandbox, path, middle).await, "ice");
    let beyond = Range { start: 99, length: None };
    assert_eq!(read(provider, sandbox, path, beyond).await, "");
    files.write(sandbox, path, whole(""), none()).await.expect("it can be emptied");
    assert_eq!(files.stat(sandbox, path).await.unwrap().size, 0);

    files.make_dir(sandbox, "contract/deep/er").await.expect("with its parents");
    assert!(is_fault(files.make_dir(sandbox, "contract/deep").await, FileFault::Exists));
    let names = |depth| async move {
        let found = files.list(sandbox, "contract", depth).await.unwrap();
        let mut names: Vec<_> = found.into_iter().map(|entry| entry.name).collect();
        names.sort();
        names
    };
    assert_eq!(names(1).await, ["a b%.txt", "deep"]);
    assert_eq!(names(2).await, ["a b%.txt", "deep", "er"]);
    files.rename(sandbox, path, "contract/deep/b").await.expect("it moves");
    assert!(is_fault(files.stat(sandbox, path).await, FileFault::Missing));
    assert!(is_fault(files.read(sandbox, path, Range::default()).await, FileFault::Missing));
    files.remove(sandbox, "contract").await.expect("with all that is in it");
    files.remove(sandbox, "contract").await.expect("what is missing is no error");
    assert!(is_fault(files.stat(sandbox, "contract").await, FileFault::Missing));
}

async fn read(provider: &dyn Provider, sandbox: SandboxId, path: &str, range: Range) -> String {
    let mut reading = provider.files().unwrap().read(sandbox, path, range).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = reading.pieces.recv().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(u64::try_from(bytes.len()), Ok(reading.length), "as many as were promised");
    String::from_utf8(bytes).unwrap()
}

pub(super) async fn processes(provider: &dyn Provider, sandbox: SandboxId) {
    let Some(processes) = stated(provider.processes()) else { return };
    let arguments = ["/bin/sh", "-c", "cat; exit 3"].map(str::to_owned).to_vec();
    let tag = Some("contract".to_owned());
    let request = StartRequest { arguments, tag, stdin: Stdin::Piped, ..StartRequest::default() };
    let mut attached = processes.start(sandbox, request).await.unwrap();
    let first = attached.recv().await.expect("it begins");
    let ProcessEvent::Started { pid } = first else { panic!("{first:?} is not the first") };
    let by_tag = ProcessRef::Tag("contract".to_owned());
    let mut second = processes.attach(sandbox, &by_tag).await.expect("a second reader");
    let listed = processes.list(sandbox).await.unwrap();
    assert!(listed.iter().any(|one| one.pid == pid && one.tag.as_deref() == Some("contract")));
    let by_pid = ProcessRef::Pid(pid);
    let hello = Input::Stdin(Bytes::from_static(b"hello\n"));
    processes.input(sandbox, &by_pid, hello).await.expect("it reads");
    processes.close_input(sandbox, &by_tag).await.expect("its input can end");
    for reader in [&mut attached, &mut second] {
        let (mut stdout, mut end) = (Vec::new(), None);
        while let Some(event) = reader.recv().await {
            match event {
                ProcessEvent::Stdout(bytes) => stdout.extend_from_slice(&bytes),
                ProcessEvent::Ended(how) => end = Some(how),
                _ => (),
            }
        }
        assert_eq!((&*stdout, end), (&b"hello\n"[..], Some(ProcessEnd::Exit(3))));
    }
    let nobody = processes.close_input(sandbox, &ProcessRef::Pid(4_000_000)).await;
    let missing = |error: &ProviderError| {
        matches!(error, ProviderError::Process { fault: ProcessFault::Missing, .. })
    };
    assert!(nobody.as_ref().is_err_and(missing), "{nobody:?}");
}

pub(super) async fn contexts(provider: &dyn Provider, sandbox: SandboxId) {
    let Some(contexts) = stated(provider.contexts()) else { return };
    let made = contexts.create(sandbox, None).await.unwrap();
    assert!(!made.is_default);
    let all = contexts.list(sandbox).await.unwrap();
    assert!(all[0].is_default, "the default one comes first: {all:?}");
    assert!(all.iter().any(|one| one.id == made.id));
    contexts.restart(sandbox, &made.id).await.expect("it begins anew");
    contexts.remove(sandbox, &made.id).await.expect("it ends");
    let nobody = ContextId("nobody".to_owned());
    for gone in [made.id, nobody] {
        let ended = contexts.restart(sandbox, &gone).await;
        assert_eq!(ended, Err(ProviderError::NoSuchContext(gone)));
    }
}

pub(super) async fn pausing(provider: &dyn Provider, sandbox: SandboxId, run: ExecRequest) {
    let Some(pausing) = stated(provider.pausing()) else { return };
    pausing.pause(sandbox).await.expect("it stops");
    pausing.pause(sandbox).await.expect("once more is no error");
    let refused = provider.exec(sandbox, run.clone()).await.err();
    assert_eq!(refused, Some(ProviderError::Paused(sandbox)));
    let found = provider.list().await.unwrap();
    assert!(found.iter().any(|info| info.sandbox == sandbox), "it is still there");
    pausing.resume(sandbox).await.expect("it goes on");
    pausing.resume(sandbox).await.expect("once more is no error");
    assert!(matches!(run.work, Work::Line(_)), "a command that ends by itself");
    super::provider::ends(provider, sandbox, run).await;
}
