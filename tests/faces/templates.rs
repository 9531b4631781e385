//! Templates from one node to another, as people at two terminals carry them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::node::{Node, said};

/// A folder that is gone at the end, with a wheel in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = all.join(format!("templates-{:016x}", rand::random::<u64>()));
        std::fs::create_dir_all(&path).expect("a folder");
        let make = "
import sys, zipfile
papers = 'paper-2.0.dist-info/'
with zipfile.ZipFile(sys.argv[1] + '/paper-2.0-py3-none-any.whl', 'w') as archive:
    archive.writestr('paper.py', 'VALUE = 41')
    archive.writestr(papers + 'METADATA', 'Metadata-Version: 2.1\\nName: paper\\nVersion: 2.0\\n')
    archive.writestr(papers + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    archive.writestr(papers + 'RECORD', '')
";
        let made = Command::new("python3").args(["-c", make]).arg(&path).status();
        assert!(made.expect("this test needs python3 on PATH").success());
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a name").to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn document(output: &Output) -> Value {
    let told = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"))
}

fn complained(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_template_exported_on_one_node_runs_on_another_with_an_empty_data_directory() {
    let scratch = Scratch::new();
    let wheels = scratch.file("");
    let here = Node::start(&[("SANDPIT_PROVIDER_LOCAL_LAYER_WHEELS", &wheels)]);
    let created = here.run(&["--quiet", "sandbox", "create", "--package", "paper==2.0"]);
    let sandbox = said(&created).trim().to_owned();
    assert!(!sandbox.is_empty(), "{}", complained(&created));
    let write = "import paper; open('book', 'w').write(str(paper.VALUE + 1))";
    assert!(here.run(&["exec", "--sandbox", &sandbox, "--code", write]).status.success());
    let file = scratch.file("desk.tar");
    let export = ["template", "export", &sandbox, "desk", "--include-data", "--to", &file];
    let exported = document(&here.run(&[&["--json"], &export[..]].concat()));
    let digest = exported["sha256"].as_str().expect("a digest").to_owned();
    let again = here.run(&export);
    assert_eq!(again.status.code(), Some(5), "what is there stays: {}", complained(&again));
    let listed = document(&here.run(&["--json", "template", "list"]));
    let versions = listed["templates"].as_array().expect("a list").iter();
    assert_eq!(versions.filter(|line| line["template"] == "desk").count(), 1, "{listed}");
    assert!(here.leave().success());

    let there = Node::start(&[]);
    let damaged = scratch.file("damaged.tar");
    let mut bytes = std::fs::read(&file).expect("an archive");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&damaged, bytes).expect("written");
    let refused = there.run(&["template", "import", &damaged]);
    assert_eq!(refused.status.code(), Some(2), "{}", complained(&refused));
    assert!(complained(&refused).contains("nothing of it was kept"), "{}", complained(&refused));

    let imported = document(&there.run(&["--json", "template", "import", &file]));
    assert_eq!(imported["sha256"].as_str(), Some(&*digest), "{imported}");
    let run = ["exec", "--template", "desk", "--code", "import paper; open('book').read()"];
    let ran = there.run(&run);
    assert_eq!(said(&ran), "'42'\n", "{}", complained(&ran));
    let back = scratch.file("back.tar");
    let saved = document(&there.run(&["--json", "template", "save", "desk", &back]));
    assert_eq!(saved["sha256"].as_str(), Some(&*digest));
    assert_eq!(std::fs::read(&back).expect("a file"), std::fs::read(&file).expect("a file"));
    let unknown = there.run(&["template", "save", "nothing", &scratch.file("nothing")]);
    assert_eq!(unknown.status.code(), Some(3), "{}", complained(&unknown));
    assert!(!scratch.0.join("nothing").exists());
    assert!(there.leave().success());
}
