use sandpit_messages::deployment::{Deploy, Scale};
use sandpit_messages::exec::Exec;
use sandpit_messages::sandbox::{Create, List, Terminate};
use sandpit_messages::schema;
use serde_json::json;

use super::*;

fn read<R: Request + schemars::JsonSchema>(arguments: Value) -> Result<R, Refusal> {
    let Value::Object(arguments) = arguments else { panic!("an object") };
    let fields = normalize(R::VERB.as_str(), &schema::of::<R>(), arguments)?;
    let told = serde_json::from_value(Value::Object(fields.clone()));
    told.map_err(|error| culprit::<R>(&fields, &error.to_string()))
}

fn fault<R: Request + schemars::JsonSchema>(arguments: Value) -> (String, String) {
    match read::<R>(arguments).err().expect("a refusal") {
        Refusal::Argument { field, came, .. } => (field, came),
        Refusal::UnknownArgument { field, .. } => (field, "unknown".to_owned()),
        other => panic!("{other}"),
    }
}

#[test]
fn every_dialect_says_the_same() {
    let plain = json!({ "name": "a", "memory_mb": 512, "cpu_count": 2, "timeout": 60,
        "env_vars": { "K": "v" } });
    let expected: Create = read(plain).unwrap();
    for other in [
        json!({ "name": "a", "memoryMb": 512, "cpuCount": 2, "timeout": 60,
            "envVars": { "K": "v" } }),
        json!({ "sandbox_name": "a", "memoryMB": "512", "cpu_count": "2", "timeout_seconds": 60.0,
            "envs": "{\"K\": \"v\"}" }),
        json!({ "sandboxName": "a", "memory_mb": 512.0, "cpu_count": 2, "timeout_ms": 59001,
            "env": { "K": "v" }, "template": null }),
    ] {
        assert_eq!(read::<Create>(other.clone()), Ok(expected.clone()), "{other}");
    }
}

#[test]
fn text_becomes_what_it_means_and_text_stays_text() {
    let exec: Exec = read(json!({
        "sandboxID": "i00000000000000000000000007", "command": "5", "args": "a, b",
        "stream": "TRUE", "timeout": "7",
    }))
    .unwrap();
    assert_eq!(exec.command.as_deref(), Some("5"));
    assert_eq!(exec.args, Some(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!((exec.stream, exec.timeout), (true, Some(7)));
    let args: Exec = read(json!({ "command": "x", "args": "[\"a, b\"]" })).unwrap();
    assert_eq!(args.args, Some(vec!["a, b".to_owned()]));
}

#[test]
fn what_is_wrong_is_named_with_what_came_and_what_is_taken() {
    let check = |asked: (String, String), field: &str, came: &str| {
        assert_eq!(asked, (field.to_owned(), came.to_owned()));
    };
    check(fault::<Create>(json!({ "memory_mb": "much" })), "memory_mb", "\"much\"");
    check(fault::<Create>(json!({ "memory_mb": 1.5 })), "memory_mb", "1.5");
    check(fault::<Create>(json!({ "memory_mb": -1 })), "memory_mb", "-1");
    check(fault::<Create>(json!({ "memory_mb": 1, "memoryMb": 2 })), "memory_mb", "2 and 1");
    check(fault::<Create>(json!({ "template": 7 })), "template", "7");
    check(fault::<Create>(json!({ "env_vars": [] })), "env_vars", "[]");
    check(fault::<Create>(json!({ "env_vars": { "A": 1 } })), "env_vars.A", "1");
    check(fault::<Create>(json!({ "colour": "red" })), "colour", "unknown");
    check(fault::<Exec>(json!({ "cache": { "age": 1 } })), "cache.age", "unknown");
    check(fault::<List>(json!({ "status_filter": "some" })), "status_filter", "\"some\"");
    check(fault::<List>(json!({ "cursor": "x" })), "cursor", "\"x\"");
    check(fault::<Terminate>(json!({})), "sandbox_id", "missing");
    check(fault::<Terminate>(json!({ "sandbox_id": null })), "sandbox_id", "missing");
}

#[test]
fn what_a_type_keeps_is_kept_and_what_cannot_be_an_id_is_nobodys() {
    let deploy: Deploy = read(json!({
        "templateName": "a", "category": "custom",
        "config": "{\"memoryMb\": 512, \"threshold\": 0.5}",
    }))
    .unwrap();
    assert_eq!(deploy.configuration.memory_mb, Some(512));
    assert_eq!(deploy.configuration.more["threshold"], 0.5);
    let scale = json!({ "deploymentId": "dep_1", "instance_count": 2 });
    let refusal = read::<Scale>(scale).unwrap_err();
    assert!(matches!(refusal, Refusal::NoSuch { what: "deployment", .. }), "{refusal}");
}

#[test]
fn the_same_value_under_two_names_is_one() {
    let create: Create = read(json!({ "memory_mb": 512, "memoryMb": "512" })).unwrap();
    assert_eq!(create.memory_mb, Some(512));
}

#[test]
fn what_is_accepted_is_told_in_words() {
    let refusal = read::<List>(json!({ "status_filter": 1 })).unwrap_err();
    assert_eq!(refusal.to_string(), "status_filter is 1; expected one of running, stopped, all");
    let refusal = read::<List>(json!({ "lmit": 1 })).unwrap_err();
    let text = refusal.to_string();
    assert!(
        text.starts_with("`lmit` is not an argument of list; it takes cursor, limit"),
        "{text}"
    );
    let refusal = read::<List>(json!({ "limit": true })).unwrap_err().to_string();
    assert!(refusal.starts_with("limit is true; expected a whole number"), "{refusal}");
}

#[test]
fn a_template_of_an_older_tool_set_has_its_name_here() {
    assert_eq!(template("code-interpreter"), Some("code-interpreter-v1"));
    assert_eq!(template("node"), Some("nodejs"));
    assert_eq!(template("base"), None);
}
