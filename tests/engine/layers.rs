//! Templates that callers ask for: built once on top of others, written down, taken in elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use sandpit_messages::id::SandboxId;
use sandpit_sandbox::fetch::Source;
use sandpit_sandbox::local::options::{Layers, Options, TemplateSpec};
use sandpit_sandbox::provider::{
    Archive, Arrival, ExportRequest, Layer, Limits, Piece, Progress, Provider, ProviderError,
};

use super::support::{Engine, base, number, options, program};

/// A data directory of its own, and a folder of wheels, both gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let folder = std::env::var_os("SANDPIT_TEST_STORE").map_or(folder, PathBuf::from);
        let path = folder.join(format!("layers-{}-{}", std::process::id(), number()));
        std::fs::create_dir_all(path.join("wheels")).expect("a folder");
        Self(path)
    }

    /// Two packages, the first of which needs the second.
    fn with_wheels() -> Self {
        let scratch = Self::new();
        scratch.wheel(
            "chart",
            "1.0",
            "Requires-Dist: paper\n",
            &[("chart.py", "import paper\nVALUE = paper.VALUE + 1")],
        );
        scratch.wheel("paper", "2.0", "", &[("paper.py", "VALUE = 41")]);
        scratch
    }

    fn wheel(&self, name: &str, version: &str, metadata: &str, files: &[(&str, &str)]) {
        let make = "
import json, sys, zipfile
folder, name, version, metadata, files = sys.argv[1:]
files = json.loads(files)
papers = f'{name}-{version}.dist-info/'
files += [[papers + 'METADATA', f'Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n' + metadata],
          [papers + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n']]
record = ''.join(path + ',,\\n' for path, _ in files) + papers + 'RECORD,,\\n'
with zipfile.ZipFile(f'{folder}/{name}-{version}-py3-none-any.whl', 'w', zipfile.ZIP_DEFLATED) as archive:
    for path, text in files + [[papers + 'RECORD', record]]:
        archive.writestr(path, text)
";
        let made = Command::new("python3")
            .args(["-c", make])
            .arg(self.0.join("wheels"))
            .args([name, version, metadata])
            .arg(serde_json::to_string(files).expect("text"))
            .status();
        assert!(made.expect("this test needs python3 on PATH").success());
    }

    /// An engine with an empty data directory called `store`.
    async fn engine(&self, store: &str) -> Engine {
        Engine::start_with(self.options(store)).await
    }

    fn options(&self, store: &str) -> Options {
        let source = Source::Folder(self.0.join("wheels"));
        let layers = Layers { source, ..Layers::default() };
        let templates = BTreeMap::from([("base".to_owned(), base())]);
        Options { store: self.0.join(store), layers, templates, ..options() }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("removed");
    }
}

fn packages(names: &[&str]) -> Layer {
    let packages = names.iter().map(|&name| name.to_owned()).collect();
    Layer { packages, ..Layer::on("base") }
}

fn setup(lines: &[&str]) -> Layer {
    let setup = lines.iter().map(|&line| line.to_owned()).collect();
    Layer { setup, ..Layer::on("base") }
}

async fn build(engine: &Engine, layer: &Layer) -> Result<String, ProviderError> {
    engine.provider.build(layer, Progress::silent()).await.map(|info| info.name)
}

fn export_of(sandbox: SandboxId, name: &str, data: bool) -> ExportRequest {
    ExportRequest {
        sandbox,
        name: name.to_owned(),
        limits: Limits { memory_mb: 300, cpu_count: 1 },
        env_names: vec!["TOKEN".to_owned()],
        data,
    }
}

/// What is below the store's folder of that name.
fn names(scratch: &Scratch, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(scratch.0.join(folder)).expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.retain(|name| !name.ends_with(".lock"));
    names.sort();
    names
}

#[tokio::test]
async fn a_layer_holds_its_packages_files_environment_and_what_its_setup_left() {
    let scratch = Scratch::with_wheels();
    let engine = scratch.engine("store").await;
    let layer = Layer {
        env: [("MODE".to_owned(), "paper".to_owned())].into(),
        files: [("conf/rules.txt".to_owned(), Bytes::from_static(b"never lose"))].into(),
        setup: vec![
            "python3 -c 'import chart; print(chart.VALUE)' > value; echo $MODE > mode".to_owned(),
            "mkdir -p deep/er; ln -s ../value deep/link; cp value deep/er/copy; chmod 700 value"
                .to_owned(),
        ],
        memory_mb: Some(300),
        ..packages(&["chart==1.0"])
    };

    let template = build(&engine, &layer).await.expect("a template");

    let sandbox = engine.create_from(&template).await;
    let seen = "
import chart, os, stat
(chart.VALUE, open('/home/user/conf/rules.txt').read(), open('/home/user/deep/link').read(),
 open('/home/user/mode').read(), os.environ['MODE'], oct(os.stat('/home/user/value').st_mode & 0o777))
";
    let expected = r"(42, 'never lose', '42\n', 'paper\n', 'paper', '0o700')";
    assert_eq!(engine.value(sandbox, seen).await, expected);
    let ran = engine.line(sandbox, "cat deep/er/copy; echo $MODE; touch mine").await;
    assert_eq!(ran.out, "42\npaper\n", "{ran:?}");
    let other = engine.create_from(&template).await;
    assert_eq!(engine.line(other, "ls mine").await.outcome(), exit(2));
    engine.close().await;
}

fn exit(code: i32) -> sandpit_sandbox::provider::Outcome {
    sandpit_sandbox::provider::Outcome::Exit(code)
}

#[tokio::test]
async fn equal_layers_are_built_once_and_found_by_the_next_engine() {
    let scratch = Scratch::with_wheels();
    let engine = scratch.engine("store").await;
    let layer = Layer {
        setup: vec!["sleep 0.2; python3 -c 'import uuid; print(uuid.uuid4())' > id".to_owned()],
        ..packages(&["chart", "paper"])
    };
    let turned = Layer { packages: vec!["paper".to_owned(), "chart".to_owned()], ..layer.clone() };

    let (first, second, third) =
        tokio::join!(build(&engine, &layer), build(&engine, &turned), build(&engine, &layer));

    let template = first.expect("a template");
    assert_eq!(
        (second.expect("the same"), third.expect("the same")),
        (template.clone(), template.clone())
    );
    let sandbox = engine.create_from(&template).await;
    let id = engine.line(sandbox, "cat id").await.out;
    engine.close().await;
    std::fs::remove_dir_all(scratch.0.join("wheels")).expect("removed");

    let engine = scratch.engine("store").await;
    assert!(engine.provider.templates().contains(&template));
    assert_eq!(build(&engine, &layer).await.expect("found"), template);
    let sandbox = engine.create_from(&template).await;
    assert_eq!(engine.line(sandbox, "cat id").await.out, id);
    engine.close().await;
}

#[tokio::test]
async fn what_cannot_be_built_says_why_and_leaves_nothing() {
    let scratch = Scratch::with_wheels();
    scratch.wheel("heavy", "1.0", "Requires-Dist: absent\n", &[("heavy.py", "")]);
    let engine = scratch.engine("store").await;
    let cases = [
        (setup(&["true", "echo no luck >&2; exit 3"]), "setup", "no luck", "exit code 3"),
        (
            setup(&["python3 -c 'import socket; socket.create_connection((\"1.1.1.1\", 53), 2)'"]),
            "setup",
            "unreachable",
            "exit code 1",
        ),
        (packages(&["nowhere==1"]), "install_packages", "No matching distribution", "only wheels"),
        (packages(&["heavy"]), "install_packages", "absent", "No matching distribution"),
        (packages(&["paper==1", "chart"]), "install_packages", "paper", ""),
    ];
    for (layer, field, said, more) in cases {
        let error = build(&engine, &layer).await.expect_err("refused");
        let ProviderError::NotBuilt { field: at, .. } = &error else { panic!("{error:?}") };
        let text = error.to_string();
        assert!(*at == field && text.contains(said) && text.contains(more), "{text}");
    }
    assert_eq!(names(&scratch, "store/layers"), Vec::<String>::new());
    let unknown = Layer::on("nothing");
    let error = build(&engine, &unknown).await.expect_err("refused");
    assert!(matches!(error, ProviderError::NoSuchTemplate { .. }), "{error}");
    let sandbox = engine.create().await;
    assert_eq!(engine.value(sandbox, "1 + 1").await, "2");
    engine.close().await;
}

#[tokio::test]
async fn setup_that_takes_too_long_or_too_much_is_ended() {
    let scratch = Scratch::new();
    let mut options = scratch.options("store");
    options.layers.setup_max = std::time::Duration::from_millis(500);
    let engine = Engine::start_with(options).await;
    let error = build(&engine, &setup(&["sleep 60"])).await.expect_err("refused");
    assert!(error.to_string().contains("longer than"), "{error}");
    let hungry = "python3 -c 'x = bytearray(1 << 40)'";
    let error = build(&engine, &setup(&[hungry])).await.expect_err("refused");
    assert!(error.to_string().contains("MemoryError"), "{error}");
    engine.close().await;
}

#[tokio::test]
async fn a_layer_on_top_of_a_layer_has_both() {
    let scratch = Scratch::with_wheels();
    let engine = scratch.engine("store").await;
    let below = Layer { setup: vec!["echo below > below".to_owned()], ..packages(&["paper"]) };
    let below = build(&engine, &below).await.expect("a template");
    let above = Layer {
        base: below,
        files: [("above".to_owned(), Bytes::from_static(b"above\n"))].into(),
        ..packages(&["chart"])
    };
    let above = build(&engine, &above).await.expect("a template");
    let sandbox = engine.create_from(&above).await;
    assert_eq!(engine.value(sandbox, "import chart\nchart.VALUE").await, "42");
    assert_eq!(engine.line(sandbox, "cat below above").await.out, "below\nabove\n");
    engine.close().await;
}

/// Carries an archive piece by piece.
async fn carry(
    from: &Engine,
    to: &Engine,
    archive: &Archive,
    name: Option<&str>,
) -> Result<Archive, ProviderError> {
    let mut bytes = Vec::new();
    loop {
        let offset = bytes.len() as u64;
        let piece = from.provider.read_archive(&archive.id, offset, 4_096).await.expect("a piece");
        if piece.is_empty() {
            break;
        }
        bytes.extend_from_slice(&piece);
    }
    send(to, &bytes, &archive.sha256, name).await
}

async fn send(
    to: &Engine,
    bytes: &[u8],
    sha256: &str,
    name: Option<&str>,
) -> Result<Archive, ProviderError> {
    const PIECE: usize = 10_000;
    let mut offset = 0;
    loop {
        let end = bytes.len().min(offset + PIECE);
        let piece = Piece {
            name: name.map(str::to_owned),
            size: bytes.len() as u64,
            sha256: sha256.to_owned(),
            offset: offset as u64,
            bytes: Bytes::copy_from_slice(&bytes[offset..end]),
        };
        match to.provider.import(piece).await? {
            Arrival::Wanted(next) => offset = usize::try_from(next).expect("small"),
            Arrival::Whole(archive) => return Ok(archive),
        }
    }
}

fn sha256_of(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn an_export_runs_on_a_node_with_an_empty_data_directory_under_the_same_digest() {
    let scratch = Scratch::with_wheels();
    let (here, there) = (scratch.engine("here").await, scratch.engine("there").await);
    let layer = Layer {
        env: [("KEY".to_owned(), "secret-value".to_owned())].into(),
        setup: vec!["echo below > below".to_owned()],
        ..packages(&["chart"])
    };
    let template = build(&here, &layer).await.expect("a template");
    let sandbox = here.create_from(&template).await;
    assert_eq!(
        here.line(sandbox, "echo mine > mine; mkdir e; mkfifo pipe").await.outcome(),
        exit(0)
    );

    let plain = here.provider.export(export_of(sandbox, "desk", false)).await.expect("an archive");
    let whole = here.provider.export(export_of(sandbox, "desk", true)).await.expect("an archive");
    let again = here.provider.export(export_of(sandbox, "desk", true)).await.expect("an archive");

    assert_eq!((plain.version, whole.version, again.version), (1, 2, 3));
    assert_eq!((&whole.sha256, &whole.id), (&again.sha256, &again.id));
    assert_ne!(plain.sha256, whole.sha256);
    assert_eq!(whole.contents.env_names, ["KEY", "TOKEN"]);
    assert_eq!(whole.contents.packages.len(), 2);
    assert!(whole.notes.iter().any(|note| note.contains("pipe")), "{:?}", whole.notes);
    let file = scratch.0.join("here/exports").join(format!("{}.tar", whole.sha256));
    let bytes = std::fs::read(file).expect("an archive");
    assert_eq!(sha256_of(&bytes), whole.sha256);
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(!holds(b"secret-value") && holds(b"mine\n"));
    assert_eq!(here.provider.resolve("desk").as_ref(), Some(&whole.id));
    assert_eq!(here.provider.resolve("desk@1").as_ref(), Some(&plain.id));
    assert_eq!(here.provider.resolve("desk@9"), None);
    assert_eq!(here.provider.title(&whole.id), "desk");

    std::fs::remove_dir_all(scratch.0.join("wheels")).expect("removed");
    let carried = carry(&here, &there, &whole, None).await.expect("an import");

    assert_eq!((&carried.sha256, &carried.id, carried.version), (&whole.sha256, &whole.id, 1));
    assert_eq!(carried.contents, whole.contents);
    for engine in [&here, &there] {
        let sandbox = engine.create_from(&whole.id).await;
        assert_eq!(engine.value(sandbox, "import chart\nchart.VALUE").await, "42");
        let ran = engine.line(sandbox, "cat below mine; ls -A | tr '\\n' ' '; echo $KEY").await;
        assert_eq!(ran.out, "below\nmine\nbelow e mine \n", "{ran:?}");
        let limits =
            engine.provider.prepare(&whole.id, Progress::silent()).await.expect("known").limits;
        assert_eq!(limits, Limits { memory_mb: 300, cpu_count: 1 });
    }
    let sandbox = there.create_from(&whole.id).await;
    let back = there.provider.export(export_of(sandbox, "desk", true)).await.expect("an archive");
    assert_eq!(back.sha256, whole.sha256, "the same contents are the same archive anywhere");
    here.close().await;
    there.close().await;
}

#[tokio::test]
async fn the_export_of_a_sandbox_of_a_configured_template_holds_what_was_left_there() {
    let scratch = Scratch::new();
    let engine = scratch.engine("store").await;
    let sandbox = engine.create().await;
    engine.line(sandbox, "echo hello > hello").await;
    let plain = engine.provider.export(export_of(sandbox, "a", false)).await.expect("an archive");
    let whole = engine.provider.export(export_of(sandbox, "b", true)).await.expect("an archive");
    let (plain, whole) = (engine.create_from(&plain.id).await, engine.create_from(&whole.id).await);
    assert_eq!(engine.line(plain, "ls -A").await.out, "");
    assert_eq!(engine.line(whole, "cat hello").await.out, "hello\n");
    engine.close().await;
}

#[tokio::test]
async fn more_than_may_be_exported_is_refused_and_the_sandbox_goes_on() {
    let scratch = Scratch::new();
    let mut options = scratch.options("store");
    options.layers.data_max = 1024 * 1024;
    let engine = Engine::start_with(options).await;
    let sandbox = engine.create().await;
    engine.line(sandbox, "head -c 3000000 /dev/zero > large").await;

    let error =
        engine.provider.export(export_of(sandbox, "large", true)).await.expect_err("refused");

    assert!(matches!(error, ProviderError::TooLarge { max: 1_048_576, .. }), "{error:?}");
    assert_eq!(names(&scratch, "store/layers"), Vec::<String>::new());
    assert_eq!(names(&scratch, "store/exports"), Vec::<String>::new());
    assert_eq!(engine.value(sandbox, "1 + 1").await, "2");
    engine.close().await;
}

#[tokio::test]
async fn what_a_hostile_holder_does_to_the_export_harms_only_its_own() {
    let scratch = Scratch::new();
    let engine = scratch.engine("store").await;
    let beside = engine.create().await;
    let sandbox = engine.create().await;
    let hostile = "
ln -s /etc/passwd passwd; ln -s / root; ln -s loop loop; mkfifo fifo; head -c 100 /dev/zero > unreadable
chmod 000 unreadable; mkdir closed; touch closed/inside; chmod 000 closed
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'
python3 -c 'open(b\"odd\\xff\\n name\", \"w\").close()'
i=0; while [ $i -lt 60 ]; do mkdir d; cd d; i=$((i+1)); done
";
    let ran = engine.line(sandbox, hostile).await;
    assert_eq!(ran.outcome(), exit(0), "{ran:?}");

    let archive =
        engine.provider.export(export_of(sandbox, "odd", true)).await.expect("an archive");

    let copy = engine.create_from(&archive.id).await;
    let seen =
        engine.line(copy, "readlink passwd root loop; ls closed | wc -l; ls -1b | wc -l").await;
    assert_eq!(seen.out, "/etc/passwd\n/\nloop\n0\n6\n", "{seen:?}");
    let file = scratch.0.join("store/exports").join(format!("{}.tar", archive.sha256));
    let bytes = std::fs::read(file).expect("an archive");
    let passwd = std::fs::read("/etc/passwd").expect("a file");
    assert!(!bytes.windows(passwd.len()).any(|window| window == passwd));
    assert_eq!(engine.value(beside, "1 + 1").await, "2");
    engine.close().await;
}

/// The archive of a template whose home is this tar file.
fn archive_with_home(home: &[u8], engine_archive: &Path) -> Vec<u8> {
    let make = "
import hashlib, io, json, sys, tarfile
source, home = sys.argv[1], open(sys.argv[2], 'rb').read()
with tarfile.open(source) as archive:
    recipe = json.load(archive.extractfile('recipe.json'))
recipe['home'] = {'name': 'home.tar', 'sha256': hashlib.sha256(home).hexdigest(), 'size': len(home)}
text = (json.dumps(recipe, indent=2) + '\\n').encode()
out = io.BytesIO()
def add(name, data):
    head = bytearray(512)
    def put(at, text):
        head[at:at + len(text)] = text
    put(0, name.encode()); put(100, b'0000644\\0'); put(108, b'0000000\\0'); put(116, b'0000000\\0')
    put(124, b'%011o\\0' % len(data)); put(136, b'00000000000\\0'); put(148, b' ' * 8); put(156, b'0')
    put(257, b'ustar\\x0000')
    put(148, b'%06o\\0 ' % sum(head))
    out.write(bytes(head) + data + bytes(-len(data) % 512))
add('recipe.json', text)
add('home.tar', home)
out.write(bytes(1024))
sys.stdout.buffer.write(out.getvalue())
";
    let file = engine_archive.with_extension("home");
    std::fs::write(&file, home).expect("written");
    let made = Command::new("python3").args(["-c", make]).arg(engine_archive).arg(&file).output();
    let made = made.expect("this test needs python3 on PATH");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

/// A tar file with these members: name, kind, target or contents.
fn tar(members: &str) -> Vec<u8> {
    let make = "
import io, json, sys, tarfile
with tarfile.open(fileobj=sys.stdout.buffer, mode='w|') as archive:
    for name, kind, text in json.loads(sys.argv[1]):
        member = tarfile.TarInfo(name)
        if kind == 'file':
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        elif kind == 'bomb':
            member.size = 4 << 30
            archive.addfile(member)
        else:
            member.type = {'link': tarfile.SYMTYPE, 'hard': tarfile.LNKTYPE, 'device': tarfile.CHRTYPE}[kind]
            member.linkname = text
            archive.addfile(member)
";
    let made = Command::new("python3").args(["-c", make, members]).output();
    let made = made.expect("this test needs python3 on PATH");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

#[tokio::test]
async fn archives_that_are_not_as_a_node_writes_them_are_refused_and_nothing_is_kept() {
    let scratch = Scratch::new();
    let (here, there) = (scratch.engine("here").await, scratch.engine("there").await);
    let sandbox = here.create().await;
    here.line(sandbox, "echo hello > hello").await;
    let archive = here.provider.export(export_of(sandbox, "good", true)).await.expect("an archive");
    let file = scratch.0.join("here/exports").join(format!("{}.tar", archive.sha256));
    let good = std::fs::read(&file).expect("an archive");
    let mut tampered = good.clone();
    let at = good.windows(6).position(|window| window == b"hello\n").expect("its contents");
    tampered[at] = b'J';
    let text = String::from_utf8_lossy(&good).into_owned();
    let other_base = text.replace("\"base\": \"base\"", "\"base\": \"lost\"").into_bytes();
    let members = |list: &str| archive_with_home(&tar(list), &file);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("cut off", good[..good.len() - 700].to_vec(), "its end is missing"),
        ("tampered", tampered, "not the file its recipe names"),
        ("longer", [good.clone(), vec![0; 512]].concat(), "goes on where it should end"),
        ("no archive", vec![b'x'; 5_000], "does not begin with a recipe"),
        ("another base", other_base, "no template `lost`"),
        ("climbing", members(r#"[["../../climbed", "file", "out"]]"#), "leaves its folder"),
        ("absolute", members(r#"[["/tmp/climbed", "file", "out"]]"#), "leaves its folder"),
        (
            "through a link",
            members(r#"[["a", "file", "x"], ["a/b", "file", "out"]]"#),
            "NotADirectory",
        ),
        ("hard link", members(r#"[["a", "hard", "/etc/passwd"]]"#), "neither a file"),
        ("device", members(r#"[["a", "device", ""]]"#), "neither a file"),
        ("bomb", members(r#"[["a", "bomb", ""]]"#), "cannot be unpacked"),
        ("a home that is none", archive_with_home(b"not a tar file", &file), "cannot be unpacked"),
    ];
    for (case, bytes, why) in cases {
        let error = send(&there, &bytes, &sha256_of(&bytes), None).await.expect_err(case);
        let ProviderError::Rejected { why: said } = &error else { panic!("{case}: {error:?}") };
        assert!(said.contains(why), "{case}: {said}");
        assert_eq!(names(&scratch, "there/layers"), Vec::<String>::new(), "{case}");
        assert_eq!(names(&scratch, "there/exports"), Vec::<String>::new(), "{case}");
        assert_eq!(names(&scratch, "there/uploads"), Vec::<String>::new(), "{case}");
    }
    let error = send(&there, &good, &"0".repeat(64), None).await.expect_err("another digest");
    assert!(error.to_string().contains(&archive.sha256), "{error}");
    let error = send(&there, &good, &archive.sha256, Some("base")).await.expect_err("a taken name");
    assert!(error.to_string().contains("another name"), "{error}");
    assert_eq!(there.provider.archives(), []);
    let first = send(&there, &good, &archive.sha256, Some("mine")).await.expect("an import");
    let again = send(&there, &good, &archive.sha256, Some("mine")).await.expect("the same");
    assert_eq!((first.version, first), (again.version, again));
    here.close().await;
    there.close().await;
}

#[tokio::test]
async fn pieces_out_of_order_are_told_which_one_is_wanted() {
    let scratch = Scratch::new();
    let engine = scratch.engine("store").await;
    let piece = |offset: u64, size: u64, bytes: &'static [u8]| Piece {
        name: None,
        size,
        sha256: "1".repeat(64),
        offset,
        bytes: Bytes::from_static(bytes),
    };
    let import = async |piece| engine.provider.import(piece).await;
    assert_eq!(import(piece(5, 10, b"56789")).await, Ok(Arrival::Wanted(0)));
    assert_eq!(import(piece(0, 10, b"01234")).await, Ok(Arrival::Wanted(5)));
    assert_eq!(import(piece(0, 10, b"01234")).await, Ok(Arrival::Wanted(5)));
    let longer = import(piece(5, 10, b"567890")).await;
    assert!(matches!(longer, Err(ProviderError::Rejected { .. })), "{longer:?}");
    let huge = import(piece(0, u64::MAX, b"0")).await;
    assert!(matches!(huge, Err(ProviderError::TooLarge { .. })), "{huge:?}");
    engine.close().await;
}

#[tokio::test]
async fn hostile_h58_a_wheel_that_would_fill_the_disk_is_refused() {
    let scratch = Scratch::new();
    let make = "
import sys, zipfile
papers = 'bomb-1.0.dist-info/'
with zipfile.ZipFile(sys.argv[1] + '/bomb-1.0-py3-none-any.whl', 'w', zipfile.ZIP_DEFLATED) as archive:
    with archive.open('bomb.py', 'w', force_zip64=True) as member:
        for _ in range(2200):
            member.write(bytes(1 << 20))
    archive.writestr(papers + 'METADATA', 'Metadata-Version: 2.1\\nName: bomb\\nVersion: 1.0\\n')
    archive.writestr(papers + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    archive.writestr(papers + 'RECORD', '')
";
    let made = Command::new("python3").args(["-c", make]).arg(scratch.0.join("wheels")).status();
    assert!(made.expect("this test needs python3 on PATH").success());
    let engine = scratch.engine("store").await;

    let error = build(&engine, &packages(&["bomb"])).await.expect_err("refused");

    assert!(error.to_string().contains("bytes unpacked, more than"), "{error}");
    assert_eq!(names(&scratch, "store/layers"), Vec::<String>::new());
    engine.close().await;
}

#[tokio::test]
async fn hostile_h57_a_package_on_top_reaches_only_its_own_template() {
    let scratch = Scratch::new();
    let marker = scratch.0.join("marker");
    let touch = format!("open({:?}, 'w').close()", marker.to_string_lossy());
    let line = format!("import os; {touch}");
    scratch.wheel(
        "sly",
        "1.0",
        "",
        &[("sly.pth", &line), ("sitecustomize.py", &touch), ("sly.py", "VALUE = 7")],
    );
    let engine = scratch.engine("store").await;

    let built = build(&engine, &packages(&["sly"])).await;

    assert!(!marker.exists(), "code of the package ran on the host: {built:?}");
    let beside = engine.create().await;
    assert_eq!(
        engine.value(beside, "import importlib.util\nrepr(importlib.util.find_spec('sly'))").await,
        "'None'"
    );
    engine.close().await;
}

/// Kills an engine that builds as soon as it says this, and answers with the rest it said.
fn killed_when_it_says(scratch: &Scratch, stage: &str) {
    use std::io::{BufRead, BufReader};
    let mut process = Command::new(program())
        .args(["build-layer"])
        .args([scratch.0.join("store"), scratch.0.join("wheels")])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("an engine");
    let said = BufReader::new(process.stdout.take().expect("a pipe"));
    let heard = said.lines().map_while(Result::ok).any(|line| line.starts_with(stage));
    process.kill().expect("killed");
    process.wait().expect("ended");
    assert!(heard, "it never said `{stage}`");
}

#[tokio::test]
async fn a_build_that_was_killed_at_any_step_leaves_nothing_that_is_used() {
    let steps = [
        "downloading packages",
        "unpacking packages",
        "compiling packages",
        "putting them on top",
        "importing packages",
        "setup command",
        "keeping what the setup left",
    ];
    let scratch = Scratch::with_wheels();
    for step in steps {
        killed_when_it_says(&scratch, step);

        let engine = scratch.engine("store").await;
        let left = names(&scratch, "store/layers");
        assert!(engine.provider.templates().iter().all(|name| name == "base"), "{step}: {left:?}");
        assert_eq!(left, Vec::<String>::new(), "{step}");
        engine.close().await;
    }
    let engine = scratch.engine("store").await;
    let layer =
        Layer { setup: vec!["echo whole > file; sleep 0.3".to_owned()], ..packages(&["paper"]) };
    let template = build(&engine, &layer).await.expect("a template");
    let sandbox = engine.create_from(&template).await;
    assert_eq!(engine.value(sandbox, "import paper\npaper.VALUE").await, "41");
    assert_eq!(engine.line(sandbox, "cat file").await.out, "whole\n");
    engine.close().await;
}

#[tokio::test]
async fn a_template_that_needs_a_program_is_refused_with_the_remedy_where_there_is_none() {
    let scratch = Scratch::new();
    let mut options = scratch.options("store");
    let needs = |program: &str| TemplateSpec { program: Some(program.to_owned()), ..base() };
    options.templates.insert("nodejs".to_owned(), needs("no-such-program"));
    options.templates.insert("shell".to_owned(), needs("sh"));
    let engine = Engine::start_with(options).await;

    let error = engine.provider.prepare("nodejs", Progress::silent()).await.expect_err("refused");

    assert!(matches!(error, ProviderError::Unsupported { .. }), "{error:?}");
    assert!(error.to_string().contains("apt install nodejs"), "{error}");
    let sandbox = engine.create_from("shell").await;
    assert_eq!(engine.line(sandbox, "sh -c 'echo 42'").await.out, "42\n");
    engine.close().await;
}

#[tokio::test]
async fn as_many_layers_as_are_kept_and_no_more() {
    let scratch = Scratch::new();
    let mut options = scratch.options("store");
    options.layers.kept_max = 1;
    let engine = Engine::start_with(options).await;
    let first = setup(&["echo 1 > 1"]);
    build(&engine, &first).await.expect("a template");

    let error = build(&engine, &setup(&["echo 2 > 2"])).await.expect_err("refused");

    assert!(error.to_string().contains("layers_max"), "{error}");
    build(&engine, &first).await.expect("found");
    engine.close().await;
}
