//! What is done with files of a sandbox from outside.

use std::collections::BTreeMap;

use bytes::Bytes;
use sandpit_messages::id::SandboxId;
use sandpit_sandbox::Provider;
use sandpit_sandbox::provider::ProviderError;
use sandpit_sandbox::provider::files::{Body, Entry, EntryKind, FileFault, Files, Range, Reading};
use tokio::sync::mpsc;

use crate::support::{Engine, WAIT_MAX};

fn whole(text: &str) -> Body {
    Body::Whole(Bytes::copy_from_slice(text.as_bytes()))
}

fn fault(path: &str, fault: FileFault) -> ProviderError {
    ProviderError::File { path: path.to_owned(), fault }
}

async fn bytes_of(mut reading: Reading) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = reading.pieces.recv().await {
        bytes.extend_from_slice(&piece.expect("the file is read to its end"));
    }
    assert_eq!(bytes.len() as u64, reading.length);
    bytes
}

/// A sandbox, and its files.
struct Place {
    engine: Engine,
    sandbox: SandboxId,
}

impl Place {
    async fn make() -> Self {
        let engine = Engine::start().await;
        let sandbox = engine.create().await;
        Self { engine, sandbox }
    }

    fn files(&self) -> &dyn Files {
        self.engine.provider.files().unwrap()
    }

    async fn sh(&self, line: &str) -> String {
        let ran = self.engine.line(self.sandbox, line).await;
        format!("{}{}", ran.stdout, ran.stderr)
    }

    async fn write(&self, path: &str, text: &str) -> Result<Entry, ProviderError> {
        self.files().write(self.sandbox, path, whole(text), BTreeMap::new()).await
    }

    async fn read(&self, path: &str) -> Result<String, ProviderError> {
        let reading = self.files().read(self.sandbox, path, Range::default());
        let reading = tokio::time::timeout(WAIT_MAX, reading).await.expect("an answer in time")?;
        Ok(String::from_utf8(bytes_of(reading).await).unwrap())
    }

    async fn stat(&self, path: &str) -> Result<Entry, ProviderError> {
        self.files().stat(self.sandbox, path).await
    }

    async fn list(&self, path: &str, depth: u32) -> Result<Vec<String>, ProviderError> {
        let entries = self.files().list(self.sandbox, path, depth).await?;
        Ok(entries.into_iter().map(|entry| entry.path).collect())
    }

    async fn close(self) {
        self.engine.close().await;
    }
}

#[tokio::test]
async fn what_is_written_is_read_by_programs_and_from_outside() {
    let place = Place::make().await;
    for path in ["a.txt", "new/deep/ä \"b\" %20.txt", "~/t", "/tmp/x y"] {
        let entry = place.write(path, "hello").await.unwrap();
        assert_eq!((entry.kind, entry.size, entry.mode), (EntryKind::File, 5, 0o644), "{path}");
        assert_eq!((entry.owner.as_str(), entry.group.as_str()), ("user", "user"));
        assert_eq!(place.read(path).await.unwrap(), "hello");
        assert_eq!(place.sh(&format!("cat '{}'", entry.path)).await, "hello");
    }
    let entry = place.write("a.txt", "").await.unwrap();
    assert_eq!((entry.name.as_str(), entry.path.as_str()), ("a.txt", "/home/user/a.txt"));
    assert_eq!(place.read("a.txt").await.unwrap(), "");
    assert_eq!(place.sh("ls -A /home/user").await, "a.txt\nnew\nt\n");
    place.close().await;
}

#[tokio::test]
async fn bytes_come_and_go_as_they_are_in_pieces_and_in_ranges() {
    let place = Place::make().await;
    let all: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    let (sender, pieces) = mpsc::channel(2);
    let sent = all.clone();
    tokio::spawn(async move {
        for piece in sent.chunks(700_001) {
            sender.send(Ok(Bytes::copy_from_slice(piece))).await.unwrap();
        }
    });
    let files = place.files();
    let written = files.write(place.sandbox, "b", Body::Streamed(pieces), BTreeMap::new()).await;
    assert_eq!(written.unwrap().size, 3_000_000);
    for (start, length, want) in [
        (0, None, &all[..]),
        (2_999_990, None, &all[2_999_990..]),
        (1_000, Some(100_000), &all[1_000..101_000]),
        (2_999_999, Some(9), &all[2_999_999..]),
        (3_000_000, None, &[]),
        (u64::MAX, Some(u64::MAX), &[]),
        (5, Some(0), &[]),
    ] {
        let reading = files.read(place.sandbox, "b", Range { start, length }).await.unwrap();
        assert_eq!(reading.entry.size, 3_000_000);
        assert!(bytes_of(reading).await == want, "{start} {length:?}");
    }
    place.close().await;
}

#[tokio::test]
async fn a_stream_of_64_mebibytes_survives_both_ways() {
    const MIB: usize = 1024 * 1024;
    let place = Place::make().await;
    let (sender, pieces) = mpsc::channel(2);
    tokio::spawn(async move {
        for number in 0..64_u8 {
            sender.send(Ok(Bytes::from(vec![number; MIB]))).await.unwrap();
        }
    });
    let files = place.files();
    let body = Body::Streamed(pieces);
    files.write(place.sandbox, "/tmp/big", body, BTreeMap::new()).await.unwrap();
    let mut reading = files.read(place.sandbox, "/tmp/big", Range::default()).await.unwrap();
    let mut read = 0;
    while let Some(piece) = reading.pieces.recv().await {
        for byte in piece.unwrap() {
            assert_eq!(usize::from(byte), read / MIB);
            read += 1;
        }
    }
    assert_eq!(read, 64 * MIB);
    place.close().await;
}

#[tokio::test]
async fn a_write_that_is_given_up_changes_nothing_and_leaves_nothing() {
    let place = Place::make().await;
    place.write("kept", "old").await.unwrap();
    let files = place.files();
    let (sender, pieces) = mpsc::channel(2);
    sender.send(Ok(Bytes::from("new"))).await.unwrap();
    sender.send(Err(ProviderError::unsupported("more"))).await.unwrap();
    let body = Body::Streamed(pieces);
    let failed = files.write(place.sandbox, "kept", body, BTreeMap::new()).await;
    assert_eq!(failed.unwrap_err(), ProviderError::unsupported("more"));

    let (sender, pieces) = mpsc::channel(2);
    let writing = files.write(place.sandbox, "kept", Body::Streamed(pieces), BTreeMap::new());
    tokio::select! {
        _ = writing => panic!("it waits for its end"),
        sent = async {
            for _ in 0..4 { sender.send(Ok(Bytes::from(vec![b'x'; 100_000]))).await.unwrap(); }
        } => sent,
    }
    assert_eq!(place.read("kept").await.unwrap(), "old");
    assert_eq!(place.sh("ls -A").await, "kept\n");
    place.close().await;
}

#[tokio::test]
async fn a_write_keeps_what_a_file_may_be_used_for_and_goes_where_a_link_leads() {
    let place = Place::make().await;
    place.sh("mkdir d; echo '#!/bin/sh' > d/run; chmod 755 d/run; ln -s d/run link; ln -s /tmp/new dangling").await;
    assert_eq!(place.write("link", "#!/bin/sh\necho ran").await.unwrap().mode, 0o755);
    let there = place.sh("./d/run; readlink link; ls d").await;
    assert_eq!(there, "ran\nd/run\nrun\n");
    place.write("dangling", "x").await.unwrap();
    assert_eq!(place.sh("cat /tmp/new; ls -A /tmp").await, "xnew\n");
    place.close().await;
}

#[tokio::test]
async fn metadata_goes_with_a_file_and_is_replaced_with_it() {
    let place = Place::make().await;
    let files = place.files();
    let said = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let key = "k".repeat(246);
    let first = said(&[("author", "me and ü"), ("empty", ""), (&key, "x")]);
    let entry = files.write(place.sandbox, "f", whole("1"), first.clone()).await.unwrap();
    assert_eq!(entry.metadata, first);
    place.files().rename(place.sandbox, "f", "g").await.unwrap();
    assert_eq!(place.stat("g").await.unwrap().metadata, first);
    let moved = place.files().rename(place.sandbox, "g", "/tmp/g").await.unwrap();
    assert_eq!(moved.metadata, first, "also to another file system");
    let listed = files.list(place.sandbox, "/tmp", 1).await.unwrap();
    assert_eq!(listed[0].metadata, first);
    let second = said(&[("other", "1")]);
    let entry = files.write(place.sandbox, "/tmp/g", whole("2"), second.clone()).await.unwrap();
    assert_eq!(entry.metadata, second);
    let reading = files.read(place.sandbox, "/tmp/g", Range::default()).await.unwrap();
    assert_eq!(reading.entry.metadata, second);

    let refused = files.write(place.sandbox, "f", whole(""), said(&[("", "x")])).await;
    assert!(matches!(refused, Err(ProviderError::Refused { .. })));
    let much = said(&[("k", &"x".repeat(4_096))]);
    let refused = files.write(place.sandbox, "f", whole(""), much).await;
    assert!(matches!(refused, Err(ProviderError::TooLarge { what: "metadata", .. })));
    place.close().await;
}

#[tokio::test]
async fn links_are_followed_and_one_that_leads_nowhere_is_itself() {
    let place = Place::make().await;
    place.sh("mkdir d; echo hello > d/f; ln -s d/f good; ln -s d dir; ln -s nowhere bad; ln -s a b; ln -s b a").await;
    let seen = async |path: &str| {
        let entry = place.stat(path).await.unwrap();
        (entry.kind, entry.size, entry.symlink_target)
    };
    assert_eq!(seen("d/f").await, (EntryKind::File, 6, None));
    assert_eq!(seen("good").await, (EntryKind::File, 6, Some("d/f".to_owned())));
    assert_eq!(seen("dir").await.0, EntryKind::Directory);
    assert_eq!(seen("bad").await.0, EntryKind::Symlink);
    assert_eq!(seen("a").await.0, EntryKind::Symlink);
    assert_eq!(place.read("dir/f").await.unwrap(), "hello\n");
    assert_eq!(place.read("bad").await.unwrap_err(), fault("bad", FileFault::Missing));
    assert_eq!(place.read("a").await.unwrap_err(), fault("a", FileFault::Loop));
    assert_eq!(place.write("a", "").await.unwrap_err(), fault("a", FileFault::Loop));
    let all = place.list("", 9).await.unwrap();
    let names = ["a", "b", "bad", "d", "d/f", "dir", "good"];
    assert_eq!(all, names.map(|name| format!("/home/user/{name}")), "links are not entered");
    assert_eq!(place.list("dir", 1).await.unwrap(), ["/home/user/dir/f"], "but the one asked for");
    place.files().remove(place.sandbox, "dir").await.unwrap();
    assert_eq!(place.sh("cat d/f").await, "hello\n");
    place.close().await;
}

#[tokio::test]
async fn a_directory_is_listed_to_its_depth_and_made_once() {
    let place = Place::make().await;
    let files = place.files();
    let made = files.make_dir(place.sandbox, "x/y/z").await.unwrap();
    assert_eq!((made.kind, made.path.as_str()), (EntryKind::Directory, "/home/user/x/y/z"));
    let again = files.make_dir(place.sandbox, "x/y").await.unwrap_err();
    assert_eq!(again, fault("x/y", FileFault::Exists));
    place.write("x/f", "").await.unwrap();
    place.write("x/y/z/deep", "").await.unwrap();
    let below = |names: &[&str]| names.iter().map(|name| format!("/home/user/{name}")).collect();
    let cases: [(u32, Vec<String>); 4] = [
        (0, below(&["x"])),
        (1, below(&["x"])),
        (2, below(&["x", "x/f", "x/y"])),
        (u32::MAX, below(&["x", "x/f", "x/y", "x/y/z", "x/y/z/deep"])),
    ];
    for (depth, want) in cases {
        assert_eq!(place.list("~", depth).await.unwrap(), want, "{depth}");
    }
    assert_eq!(place.list("x/f", 1).await.unwrap_err(), fault("x/f", FileFault::NotDirectory));
    assert_eq!(place.list("no", 1).await.unwrap_err(), fault("no", FileFault::Missing));
    let file = files.make_dir(place.sandbox, "x/f").await.unwrap_err();
    assert_eq!(file, fault("x/f", FileFault::NotDirectory));
    let below = files.make_dir(place.sandbox, "x/f/g").await.unwrap_err();
    assert_eq!(below, fault("x/f/g", FileFault::NotDirectory));
    assert_eq!(
        place.write("x/f/g", "").await.unwrap_err(),
        fault("x/f/g", FileFault::NotDirectory)
    );
    assert_eq!(place.write("x/y", "").await.unwrap_err(), fault("x/y", FileFault::IsDirectory));
    assert_eq!(place.read("x/y").await.unwrap_err(), fault("x/y", FileFault::IsDirectory));
    assert_eq!(place.stat("x/q").await.unwrap_err(), fault("x/q", FileFault::Missing));
    place.close().await;
}

#[tokio::test]
async fn things_are_moved_also_between_file_systems() {
    let place = Place::make().await;
    place.write("a", "one").await.unwrap();
    let rename =
        |from: &'static str, to: &'static str| place.files().rename(place.sandbox, from, to);
    let moved = rename("a", "new/deep/b").await.unwrap();
    assert_eq!((moved.path.as_str(), moved.size), ("/home/user/new/deep/b", 3));
    assert_eq!(place.stat("a").await.unwrap_err(), fault("a", FileFault::Missing));
    place.sh("ln -s b new/deep/l; chmod 700 new; mkdir full; touch full/x").await;
    let moved = rename("new", "/tmp/there/new").await.unwrap();
    assert_eq!((moved.kind, moved.mode), (EntryKind::Directory, 0o700));
    let there = place.sh("cd /tmp; find . | sort; cat there/new/deep/l; ls -A ~").await;
    let want = ".\n./there\n./there/new\n./there/new/deep\n./there/new/deep/b\n./there/new/deep/l\nonefull\n";
    assert_eq!(there, want);
    assert_eq!(rename("no", "b").await.unwrap_err(), fault("no", FileFault::Missing));
    assert_eq!(rename("/tmp/there", "full").await.unwrap_err(), fault("full", FileFault::Exists));
    assert_eq!(
        rename("/etc/passwd", "p").await.unwrap_err(),
        fault("/etc/passwd", FileFault::Denied)
    );
    assert_eq!(rename("full", "full/in").await.unwrap_err(), fault("full", FileFault::Invalid));
    place.close().await;
}

#[tokio::test]
async fn what_is_removed_is_gone_however_deep_and_what_is_missing_is_no_error() {
    let place = Place::make().await;
    let remove = |path: &'static str| place.files().remove(place.sandbox, path);
    let deep = "import os\nos.mkdir('deep'); os.chdir('deep')\n\
                for n in range(3000):\n  os.mkdir('d' * 200); open('f', 'w').close(); os.chdir('d' * 200)";
    place.sh(&format!("mkdir -p a/b/c; touch a/f a/b/c/g 'a/\n'; python3 -c \"{deep}\"")).await;
    assert_eq!(place.list("deep", 5).await.unwrap().len(), 10);
    assert!(place.list("deep", u32::MAX).await.unwrap().len() < 100, "as far as paths reach");
    for path in ["a", "a", "no/such", "deep"] {
        remove(path).await.unwrap();
    }
    assert_eq!(place.sh("ls -A").await, "");
    for (path, want) in [
        ("/", FileFault::Denied),
        ("/home/user", FileFault::Denied),
        ("/etc/passwd", FileFault::Denied),
        ("/usr/bin", FileFault::Denied),
    ] {
        assert_eq!(remove(path).await.unwrap_err(), fault(path, want));
    }
    assert!(place.sh("ls /usr/bin/env /etc/passwd").await.contains("/usr/bin/env"));
    place.close().await;
}

#[tokio::test]
async fn ten_thousand_entries_are_listed_and_removed() {
    let place = Place::make().await;
    place.sh("mkdir many; cd many; seq 10000 | xargs touch").await;
    assert_eq!(place.list("many", 1).await.unwrap().len(), 10_000);
    place.files().remove(place.sandbox, "many").await.unwrap();
    assert_eq!(place.sh("ls -A").await, "");
    place.close().await;
}

#[tokio::test]
async fn nothing_is_waited_for_that_may_never_answer() {
    let place = Place::make().await;
    place.sh("mkfifo pipe; ln -s pipe link; python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('sock')\"").await;
    for path in ["pipe", "link", "sock", "/dev/null", "/dev/zero", "/dev/ptmx"] {
        assert_eq!(place.read(path).await.unwrap_err(), fault(path, FileFault::NotRegular));
        let refused = tokio::time::timeout(WAIT_MAX, place.write(path, "x")).await.unwrap();
        assert_eq!(refused.unwrap_err(), fault(path, FileFault::NotRegular), "{path}");
        assert_eq!(place.stat(path).await.unwrap().kind, EntryKind::Other);
    }
    assert_eq!(place.sh("ls").await, "link\npipe\nsock\n");
    place.close().await;
}

#[tokio::test]
async fn no_path_leads_out_of_the_sandbox() {
    let place = Place::make().await;
    place.sh("ln -s /etc/shadow shadow; ln -s ../../../../../../etc/shadow up; ln -s /proc/1/root/etc/shadow root").await;
    for path in ["shadow", "up", "/etc/shadow", "../../../../etc/shadow"] {
        assert_eq!(place.read(path).await.unwrap_err(), fault(path, FileFault::Missing));
    }
    for path in ["root", "/proc/1/root/etc/passwd", "/proc/1/environ", "/proc/1/fd/3"] {
        let refused = place.read(path).await.unwrap_err();
        let denied = [FileFault::Denied, FileFault::Missing].map(|why| fault(path, why));
        assert!(denied.contains(&refused), "{refused}");
    }
    let read = place.read("/proc/self/cmdline").await.unwrap();
    assert_eq!(read, "init\0", "what the kernel writes as it is read");
    assert!(place.read("/proc/meminfo").await.unwrap().contains("MemTotal"));
    for path in ["/etc/x", "/usr/x", "/x", "/dev/x", "/opt/sandpit/worker.py"] {
        assert_eq!(
            place.write(path, "x").await.unwrap_err(),
            fault(path, FileFault::Denied),
            "{path}"
        );
    }
    let invalid = ["a\0b", "~root/x", &"x/".repeat(3_000), &"x".repeat(300)];
    for path in invalid {
        assert_eq!(place.stat(path).await.unwrap_err(), fault(path, FileFault::Invalid));
        assert_eq!(place.write(path, "").await.unwrap_err(), fault(path, FileFault::Invalid));
    }
    place.close().await;
}

#[tokio::test]
async fn a_disk_that_is_full_and_a_file_that_is_too_large_are_told_apart() {
    const MIB: usize = 1024 * 1024;
    let place = Place::make().await;
    let files = place.files();
    let endless = || {
        let (sender, pieces) = mpsc::channel(1);
        tokio::spawn(async move {
            let piece = Bytes::from(vec![0; MIB]);
            for _ in 0..1_024 {
                if sender.send(Ok(piece.clone())).await.is_err() {
                    return;
                }
            }
        });
        Body::Streamed(pieces)
    };
    let path = "/dev/shm/full";
    let full = files.write(place.sandbox, path, endless(), BTreeMap::new()).await;
    assert_eq!(full.unwrap_err(), fault(path, FileFault::Full));
    let free = "ls -A /dev/shm; set -- $(stat -f -c '%b %f' /dev/shm); [ $1 = $2 ] && echo empty";
    assert_eq!(place.sh(free).await, "empty\n");
    place.sh("head -c 60M /dev/zero > /tmp/60").await;
    let moved = files.rename(place.sandbox, "/tmp/60", "/dev/shm/60").await.unwrap();
    assert_eq!(moved.size, 60 * MIB as u64);
    place.sh("head -c 10M /dev/zero > /tmp/10").await;
    let full = files.rename(place.sandbox, "/tmp/10", "/dev/shm/10").await.unwrap_err();
    assert_eq!(full, fault("/tmp/10", FileFault::Full));
    assert_eq!(place.sh("ls -A /dev/shm; stat -c %s /tmp/10").await, "60\n10485760\n");

    let whole = Body::Whole(Bytes::from(vec![0; 257 * MIB]));
    let large = files.write(place.sandbox, "large", whole, BTreeMap::new()).await.unwrap_err();
    assert!(matches!(large, ProviderError::TooLarge { what: "file", .. }), "{large}");
    place.close().await;
}

#[tokio::test]
async fn files_of_a_sandbox_that_is_gone_are_gone() {
    let place = Place::make().await;
    place.write("f", "x").await.unwrap();
    place.engine.provider.destroy(place.sandbox).await.unwrap();
    assert_eq!(place.read("f").await.unwrap_err(), ProviderError::Gone(place.sandbox));
    place.close().await;
}

#[tokio::test]
async fn a_sandbox_out_of_processes_says_so_and_keeps_its_files() {
    let place = Place::make().await;
    place.write("f", "x").await.unwrap();
    let bomb = "import os, time\nwhile True:\n  try:\n    if not os.fork(): time.sleep(60)\n  except OSError:\n    time.sleep(0.01)";
    place.sh(&format!("python3 -c \"{bomb}\" > /dev/null 2>&1 &")).await;
    let refused = async {
        loop {
            if let Err(refused) = place.stat("f").await {
                return refused;
            }
        }
    };
    let refused = tokio::time::timeout(WAIT_MAX, refused).await.expect("it fills up");
    assert!(matches!(refused, ProviderError::Quota { .. }), "{refused}");
    place.close().await;
}
