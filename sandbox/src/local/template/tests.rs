//! Environments are really built, by the pip of the Python on this machine, from a wheel made here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use sandpit_messages::id::NodeId;

use super::*;
use crate::local::options::{Bounds, CgroupChoice, Layers};

/// A folder of its own for each test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sandpit-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// The text of a requirements file for a wheel that lies here.
    fn wheel(&self) -> String {
        const METADATA: &str = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n";
        const WHEEL: &str =
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
        const RECORD: &str = "tiny/__init__.py,,\ntiny-1.0.dist-info/METADATA,,\ntiny-1.0.dist-info/WHEEL,,\n\
                              tiny-1.0.dist-info/entry_points.txt,,\ntiny-1.0.dist-info/RECORD,,\n";
        let files = [
            ("tiny/__init__.py", "VALUE = 42\ndef main():\n    pass\n"),
            ("tiny-1.0.dist-info/METADATA", METADATA),
            ("tiny-1.0.dist-info/WHEEL", WHEEL),
            ("tiny-1.0.dist-info/entry_points.txt", "[console_scripts]\ntiny = tiny:main\n"),
            ("tiny-1.0.dist-info/RECORD", RECORD),
        ];
        for (name, text) in files {
            let file = self.0.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let zipped = Command::new("python3")
            .current_dir(&self.0)
            .args([
                "-m",
                "zipfile",
                "-c",
                "tiny-1.0-py3-none-any.whl",
                "tiny/",
                "tiny-1.0.dist-info/",
            ])
            .status();
        assert!(zipped.unwrap().success(), "this test needs python3 on PATH");
        let wheel = fs::read(self.0.join("tiny-1.0-py3-none-any.whl")).unwrap();
        let hash: String = Sha256::digest(wheel).iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = self.0.display();
        format!("--no-index\n--find-links {folder}\ntiny==1.0 --hash=sha256:{hash}\n")
    }

    fn options(&self) -> Options {
        Options {
            node: NodeId::of_bits(1),
            store: self.0.join("store"),
            python: None,
            uid_base: 200_000,
            cgroup: CgroupChoice::Auto,
            spare_skeletons: 0,
            sandboxes_max: 1,
            rotate_forks: 1,
            rotate_age: std::time::Duration::from_secs(1),
            huge_pages: false,
            bounds: Bounds::default(),
            templates: BTreeMap::new(),
            layers: Layers::default(),
        }
    }

    fn environments(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("store/environments")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.ends_with(".lock"));
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn spec(requirements: &str) -> TemplateSpec {
    TemplateSpec {
        requirements: requirements.to_owned(),
        warmup: "import tiny".to_owned(),
        data: BTreeMap::new(),
        program: None,
        limits: Limits { memory_mb: 512, cpu_count: 1 },
    }
}

#[tokio::test]
async fn an_environment_is_built_for_the_paths_inside_and_found_the_next_time() {
    let scratch = Scratch::new();
    let (options, spec) = (scratch.options(), spec(&scratch.wheel()));
    let stages = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&stages);
    let progress = Progress::new(move |step| heard.lock().unwrap().push(step.stage.to_owned()));

    let first = prepare(&options, &spec, "worker", &progress).await.unwrap();
    let stages_of_first = std::mem::take(&mut *stages.lock().unwrap());
    let second = prepare(&options, &spec, "worker", &progress).await.unwrap();

    assert_eq!(first, second);
    assert_eq!(*stages.lock().unwrap(), Vec::<String>::new());
    assert_eq!(stages_of_first[0], "downloading packages");
    let environment = &first.environment;
    let packages = environment.join("lib").join(first.interpreter.name()).join("site-packages");
    assert!(packages.join("tiny/__init__.py").exists());
    assert!(packages.join("tiny/__pycache__").exists());
    assert_eq!(
        fs::read_to_string(environment.join("lock.txt")).unwrap(),
        "tiny-1.0-py3-none-any.whl\n"
    );
    let script = fs::read_to_string(environment.join("bin/tiny")).unwrap();
    assert!(script.starts_with("#!/opt/env/bin/python3\n"), "{script}");
    assert_eq!(
        fs::read_link(environment.join("bin/python3")).unwrap(),
        first.interpreter.inside_executable()
    );
    let settings = fs::read_to_string(environment.join("pyvenv.cfg")).unwrap();
    assert!(
        !settings.contains(&*first.interpreter.prefix.to_string_lossy())
            || !first.interpreter.is_elsewhere()
    );
    for path in [environment.clone(), packages.join("tiny"), scratch.0.join("store")] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o755);
    }
}

#[tokio::test]
async fn no_file_tells_where_on_the_host_it_was_made() {
    let scratch = Scratch::new();
    let template = prepare(&scratch.options(), &spec(&scratch.wheel()), "", &Progress::silent())
        .await
        .unwrap();

    let telling = Command::new("grep")
        .args(["-rl", &*scratch.0.to_string_lossy()])
        .arg(&template.environment)
        .output()
        .unwrap();

    assert_eq!(String::from_utf8(telling.stdout).unwrap(), "");
}

#[tokio::test]
async fn two_builders_at_once_make_one_environment() {
    let scratch = Scratch::new();
    let (options, spec) = (scratch.options(), spec(&scratch.wheel()));
    let silent = Progress::silent();

    let (first, second) =
        tokio::join!(prepare(&options, &spec, "", &silent), prepare(&options, &spec, "", &silent));

    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(scratch.environments().len(), 1);
}

#[tokio::test]
async fn what_a_killed_builder_left_is_cleared_away() {
    let scratch = Scratch::new();
    let (options, spec) = (scratch.options(), spec(&scratch.wheel()));
    let interpreter = Interpreter::find(None).await.unwrap();
    let name = environment_digest(&interpreter, &spec.requirements);
    let half = scratch.0.join(format!("store/environments/{name}.1.tmp/env/lib"));
    fs::create_dir_all(&half).unwrap();

    let template = prepare(&options, &spec, "", &Progress::silent()).await.unwrap();

    assert!(template.environment.join("bin/python3").is_symlink());
    assert_eq!(scratch.environments(), [name]);
}

#[tokio::test]
async fn a_wheel_with_another_hash_is_refused_and_nothing_is_left() {
    let scratch = Scratch::new();
    let wheel = scratch.wheel();
    let (front, _) = wheel.split_once("sha256:").unwrap();
    let other = format!("{front}sha256:{}\n", "0".repeat(64));

    let error =
        prepare(&scratch.options(), &spec(&other), "", &Progress::silent()).await.unwrap_err();

    let text = error.explain();
    assert!(text.contains("DO NOT MATCH THE HASHES"), "{text}");
    assert_eq!(scratch.environments(), Vec::<String>::new());
}

#[tokio::test]
async fn without_a_network_the_error_says_what_was_tried_and_what_to_do() {
    let scratch = Scratch::new();
    // Port 1 of this machine answers nobody.
    let requirements = format!(
        "--index-url http://127.0.0.1:1/simple\ntiny==1.0 --hash=sha256:{}\n",
        "0".repeat(64)
    );

    let error = prepare(&scratch.options(), &spec(&requirements), "", &Progress::silent()).await;

    let text = error.unwrap_err().explain();
    assert!(text.contains("the package index cannot be reached; tried: "), "{text}");
    assert!(text.contains("PIP_INDEX_URL"), "{text}");
}

#[tokio::test]
async fn a_store_that_cannot_be_written_is_named() {
    let scratch = Scratch::new();
    fs::write(scratch.0.join("store"), "a file").unwrap();

    let error = prepare(&scratch.options(), &spec(""), "", &Progress::silent()).await.unwrap_err();

    let text = error.explain();
    assert!(text.contains("another folder with the setting `store`"), "{text}");
}

#[test]
fn whatever_makes_a_difference_makes_another_digest() {
    let plain = spec("");
    let of = |spec: &TemplateSpec| template_digest("e", spec, "w");
    let data = BTreeMap::from([("market".to_owned(), PathBuf::from("/srv/market"))]);
    let different = [
        of(&plain),
        template_digest("f", &plain, "w"),
        template_digest("e", &plain, "x"),
        of(&TemplateSpec { warmup: String::new(), ..plain.clone() }),
        of(&TemplateSpec { data, ..plain.clone() }),
        of(&TemplateSpec { limits: Limits { memory_mb: 1, cpu_count: 1 }, ..plain.clone() }),
    ];

    let unique: std::collections::BTreeSet<&String> = different.iter().collect();

    assert_eq!(unique.len(), different.len());
    assert_eq!(of(&plain), of(&plain.clone()));
}

#[test]
fn every_package_of_the_built_in_templates_is_pinned_by_hash() {
    for (name, spec) in built_in() {
        let packages = spec.requirements.lines().filter(|line| line.contains("=="));
        for package in packages {
            assert!(package.ends_with('\\'), "{name}: {package} has no hash");
        }
    }
}
