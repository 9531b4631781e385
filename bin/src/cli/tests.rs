use std::fs;
use std::path::Path;

use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn every_example_parses() {
    let check = |line: &str| {
        let parsed = Arguments::try_parse_from(line.split(' '));
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    };
    check("sandpit exec --template trading --code 1+1");
    check("sandpit exec --sandbox i00000000000000000000000042 -- ls -l /data");
    check("sandpit --json sandbox list --template trading");
    check("sandpit sandbox kill --all --yes");
    check("sandpit pool --set pool.total_max=3 --data /srv/sandpit");
    check("sandpit status --json");
    check("sandpit completions bash");
    check("sandpit config show --changed");
}

#[test]
fn what_was_meant_has_to_be_said_once() {
    let check = |line: &str| assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
    check("sandpit exec");
    check("sandpit exec --code 1 --file a.py");
    check("sandpit exec --sandbox i00000000000000000000000042 --template base --code 1");
    check("sandpit sandbox kill");
    check("sandpit sandbox status not-an-id");
}

/// Every command that a failure tells people to run, as it stands in the source.
fn told(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            told(&path, found);
        } else if path.file_name().unwrap() != "tests.rs" {
            let source = fs::read_to_string(&path).unwrap();
            let texts = source.split('"').skip(1).step_by(2);
            found.extend(texts.filter(|text| text.starts_with("sandpit ")).map(str::to_owned));
        }
    }
}

#[test]
fn every_command_that_people_are_told_to_run_exists() {
    let mut found = Vec::new();
    told(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    // Titles of stages begin so, too; they are commands themselves.
    assert!(found.iter().any(|line| line == "sandpit doctor"), "{found:?}");
    for line in found {
        let parsed = Arguments::try_parse_from(line.split(' '));
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    }
}
