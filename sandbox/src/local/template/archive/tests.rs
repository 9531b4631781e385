use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::recipe::{Blob, WHEELS};
use super::*;
use crate::provider::Limits;

/// A folder of its own for each test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sandpit-archive-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(path.join("from").join(WHEELS)).unwrap();
        std::fs::create_dir_all(path.join("into")).unwrap();
        Self(path)
    }

    /// An archive of one wheel and a home.
    fn archive(&self) -> Vec<u8> {
        let blob = |name: &str, path: &str, bytes: &[u8]| {
            let path = self.0.join("from").join(path);
            std::fs::write(&path, bytes).unwrap();
            let (size, sha256) = fingerprint(&path).unwrap();
            Blob { name: name.to_owned(), sha256, size }
        };
        let limits = Limits { memory_mb: 512, cpu_count: 1 };
        let wheel = "tiny-1.0-py3-none-any.whl";
        let recipe = Recipe {
            wheels: vec![blob(wheel, &format!("{WHEELS}/{wheel}"), b"a wheel")],
            home: Some(blob(HOME, HOME, &[7; 1_000])),
            ..Recipe::of_base("base", "0".repeat(64), limits)
        };
        let path = self.0.join("archive");
        let written = write(&recipe, &self.0.join("from"), File::create(&path).unwrap()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((written.size, written.sha256), fingerprint(&path).unwrap());
        bytes
    }

    fn read(&self, bytes: &[u8]) -> Result<Recipe, ArchiveError> {
        let into = self.0.join("into");
        std::fs::remove_dir_all(&into).unwrap();
        std::fs::create_dir(&into).unwrap();
        read(&mut &bytes[..], &into)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn what_was_written_is_read_back_and_written_again_as_it_was() {
    let scratch = Scratch::new();
    let bytes = scratch.archive();

    let recipe = scratch.read(&bytes).unwrap();
    let again = scratch.0.join("again");
    write(&recipe, &scratch.0.join("into"), File::create(&again).unwrap()).unwrap();

    assert_eq!(std::fs::read(again).unwrap(), bytes);
    assert_eq!(std::fs::read(scratch.0.join("into").join(HOME)).unwrap(), [7; 1_000]);
}

#[test]
fn other_programs_read_it_as_a_tar_archive() {
    let scratch = Scratch::new();
    scratch.archive();

    let listed = std::process::Command::new("python3")
        .args(["-m", "tarfile", "-l"])
        .arg(scratch.0.join("archive"))
        .output()
        .expect("this test needs python3 on PATH");

    let names = String::from_utf8(listed.stdout).unwrap();
    let names: Vec<_> = names.split_whitespace().collect();
    assert_eq!(names, [RECIPE, "wheels/tiny-1.0-py3-none-any.whl", HOME]);
}

#[test]
fn an_archive_that_is_cut_off_anywhere_is_refused() {
    let scratch = Scratch::new();
    let bytes = scratch.archive();
    for length in (0..bytes.len()).step_by(97) {
        let error = scratch.read(&bytes[..length]).unwrap_err();
        assert!(matches!(error, ArchiveError::Wrong(_)), "{length}: {error}");
    }
}

#[test]
fn a_change_of_any_byte_is_noticed() {
    let scratch = Scratch::new();
    let bytes = scratch.archive();
    for at in (0..bytes.len()).step_by(13) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x21;
        let error = scratch.read(&changed).unwrap_err();
        assert!(matches!(error, ArchiveError::Wrong(_)), "{at}: {error}");
    }
    let longer = [bytes, vec![0; BLOCK]].concat();
    assert!(matches!(scratch.read(&longer), Err(ArchiveError::Wrong(_))));
}

#[test]
fn archives_of_other_programs_with_links_and_climbing_names_are_refused_and_write_nothing() {
    let make = "
import io, sys, tarfile
kind, path = sys.argv[1:]
with tarfile.open(path, 'w', format=tarfile.USTAR_FORMAT) as archive:
    entry = tarfile.TarInfo('recipe.json')
    if kind == 'link':
        entry.type, entry.linkname = tarfile.SYMTYPE, '/etc/passwd'
        archive.addfile(entry)
    elif kind == 'climbing':
        entry = tarfile.TarInfo('../../climbed')
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b'out'))
    else:
        entry = tarfile.TarInfo('/tmp/climbed')
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b'out'))
";
    let scratch = Scratch::new();
    let path = scratch.0.join("foreign");
    for kind in ["link", "climbing", "absolute"] {
        let made = std::process::Command::new("python3")
            .args(["-c", make, kind])
            .arg(&path)
            .status()
            .expect("this test needs python3 on PATH");
        assert!(made.success());

        let error = scratch.read(&std::fs::read(&path).unwrap()).unwrap_err();

        assert!(matches!(error, ArchiveError::Wrong(_)), "{kind}: {error}");
        assert_eq!(std::fs::read_dir(scratch.0.join("into")).unwrap().count(), 0, "{kind}");
    }
}
