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
