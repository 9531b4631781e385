use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::sections::Requirements;

fn of_file(text: &str) -> Result<Loaded, Rejected> {
    Layers { file: Some(("my.toml".to_owned(), text.to_owned())), ..Layers::default() }.read()
}

fn of_flags(flags: &[&str]) -> Result<Loaded, Rejected> {
    Layers { flags: flags.iter().map(|&flag| flag.to_owned()).collect(), ..Layers::default() }
        .read()
}

fn of_variable(name: &str, value: &str) -> Result<Loaded, Rejected> {
    let environment = vec![(name.to_owned(), value.to_owned())];
    Layers { environment, ..Layers::default() }.read()
}

#[test]
fn the_shipped_defaults_are_valid_and_units_become_types() {
    let config = Layers::default().read().unwrap().config;
    assert_eq!(config.pool.retry_pause, Duration::from_millis(500));
    assert_eq!(config.cache.output_max, 256 * 1024);
    assert_eq!(config.bus.url, None);
    assert_eq!(config.template["trading"].requirements, Requirements::Builtin);
}

#[test]
fn every_setting_has_a_rule_and_every_rule_a_setting() {
    let loaded = Layers::default().read().unwrap();
    let mut known: Vec<_> = loaded.settings.iter().map(|setting| setting.key.clone()).collect();
    let others = ["code-interpreter-v1", "nodejs", "python", "trading"]
        .map(|name| format!("template.{name}."));
    known.retain(|key| !others.iter().any(|other| key.starts_with(other.as_str())));
    let rules =
        RULES.iter().map(|(key, _)| key.replace("endpoint.*", "endpoint.e2b").replace('*', "base"));
    let mut rules: Vec<_> = rules.collect();
    rules.sort();
    assert_eq!(known, rules);
}

#[test]
fn the_manual_states_the_range_of_every_number() {
    let mut comment = String::new();
    let mut section = String::new();
    for line in DEFAULT.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text);
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let Some((name, _)) = line.split_once(" = ") {
            let key = format!("{section}.{name}");
            let range = match rules::rule_of(&key).expect("a setting") {
                Rule::Whole(min, max) => format!("{min} to {max}"),
                Rule::Number(min, max) => format!("{min} to {max}"),
                _ => String::new(),
            };
            assert!(comment.contains(&range), "{key}: {range} is not in its comment:{comment}");
            assert!(comment.ends_with('.'), "{key} is not documented by a sentence");
        }
        comment.clear();
    }
}

#[test]
fn no_two_settings_share_a_variable() {
    let loaded = Layers::default().read().unwrap();
    let variables: BTreeSet<_> =
        loaded.settings.iter().map(|setting| variable_of(&setting.key)).collect();
    assert_eq!(variables.len(), loaded.settings.len());
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let mut layers = Layers {
        file: Some(("my.toml".to_owned(), "[pool]\ntotal_max = 20\n".to_owned())),
        ..Layers::default()
    };
    let total = |layers: &Layers| {
        let loaded = layers.read().unwrap();
        let setting = loaded.settings.into_iter().find(|setting| setting.key == "pool.total_max");
        (loaded.config.pool.total_max, setting.unwrap().source.to_string())
    };
    assert_eq!(total(&Layers::default()), (64, "default.toml".to_owned()));
    assert_eq!(total(&layers), (20, "my.toml:2".to_owned()));
    layers.environment.push(("SANDPIT_POOL_TOTAL_MAX".to_owned(), "21".to_owned()));
    assert_eq!(total(&layers), (21, "SANDPIT_POOL_TOTAL_MAX".to_owned()));
    layers.flags.push("pool.total_max=22".to_owned());
    assert_eq!(total(&layers), (22, "--set pool.total_max".to_owned()));
}

#[test]
fn what_is_wrong_is_named_with_its_place_and_what_would_be_valid() {
    let check = |came: Result<Loaded, Rejected>, expected: &str| {
        assert_eq!(came.unwrap_err().to_string(), expected);
    };
    check(
        of_file("\n[pool]\ntotl_max = 3"),
        "my.toml:3: `pool.totl_max` is not a setting; did you mean `pool.total_max`?",
    );
    check(
        of_file("[pool]\ntotal_max = 0"),
        "my.toml:2: pool.total_max is 0; expected a whole number, 1 to 10000",
    );
    check(of_file("pool = 3"), "my.toml:1: pool is 3; expected a section of settings");
    check(of_file("[zzzzz]"), "my.toml:1: `zzzzz` is not a setting");
    check(
        of_file("[pool]\nwait_max_s = nan"),
        "my.toml:2: pool.wait_max_s is nan; expected a number, 0.01 to 60",
    );
    check(
        of_variable("SANDPIT_POOL_TOTAL_MAXX", "3"),
        "SANDPIT_POOL_TOTAL_MAXX: `SANDPIT_POOL_TOTAL_MAXX` is not a setting; did you mean \
         `SANDPIT_POOL_TOTAL_MAX`?",
    );
    check(
        of_variable("SANDPIT_POOL_TOTAL_MAX", "many"),
        "SANDPIT_POOL_TOTAL_MAX: pool.total_max is \"many\"; expected a whole number, 1 to 10000",
    );
    check(
        of_flags(&["http.listen=7780"]),
        "--set http.listen: http.listen is \"7780\"; expected an address and a port, as in \
         127.0.0.1:7780",
    );
    check(
        of_flags(&["supervise.pause_min_ms=100", "supervise.pause_max_ms=10"]),
        "--set supervise.pause_min_ms: supervise.pause_min_ms is 100, more than \
         supervise.pause_max_ms, which is 10 (--set supervise.pause_max_ms)",
    );
    check(
        of_flags(&["template.trading.warm_target=61"]),
        "--set template.trading.warm_target: template.trading.warm_target is 61, with the other \
         templates' more than pool.total_max, which is 64 (default.toml)",
    );
}

#[test]
fn all_faults_are_named_at_once() {
    let rejected = of_file("[pool]\ntotal_max = 0\nwaiting = 1\n[bus]\nurl = 3").unwrap_err();
    assert_eq!(rejected.faults.len(), 3, "{rejected}");
}

#[test]
fn broken_text_is_refused_with_its_line() {
    let rejected = of_file("[pool]\ntotal_max = = 3").unwrap_err();
    assert!(rejected.to_string().starts_with("my.toml:2: "), "{rejected}");
}

#[test]
fn plain_text_to_another_machine_has_to_be_allowed_and_passwords_are_not_repeated() {
    let url = "bus.url=nats://me:secret@nats1:4222";
    let rejected = of_flags(&[url]).unwrap_err().to_string();
    assert!(rejected.contains("nats://***@nats1:4222"), "{rejected}");
    assert!(!rejected.contains("secret"), "{rejected}");
    assert!(of_flags(&[url, "bus.allow_plaintext=true"]).is_ok());
}

#[test]
fn a_template_of_ones_own_is_as_base_where_it_says_nothing() {
    let loaded = of_file("[template.mine]\npackages = ['scipy==1.15.2']").unwrap();
    let mine = &loaded.config.template["mine"];
    assert_eq!(mine.packages, ["scipy==1.15.2"]);
    assert_eq!(mine.memory_mb, loaded.config.template["base"].memory_mb);
}

#[test]
fn a_template_that_no_file_names_is_not_known() {
    assert!(of_flags(&["template.mine.memory_mb=512"]).is_err());
    let loaded = of_flags(&["template.trading.data=market=/srv/a,ref=/srv/b"]).unwrap();
    let names = loaded.config.template["trading"].data.iter().map(|folder| folder.name.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["market", "ref"]);
}

#[test]
fn variables_of_others_are_not_ours() {
    for name in ["PATH", "SANDPIT_CONFIG", "SANDPIT_ALLOW_SKIP", "SANDPIT_TEST_WITHOUT"] {
        assert!(of_variable(name, "anything").is_ok(), "{name}");
    }
}

proptest! {
    // Each case reads the whole manual several times.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_is_a_configuration_or_a_rejection(text in ".{0,200}") {
        // Only a panic would fail this.
        drop(of_file(&text));
        drop(of_flags(&[&text]));
        drop(of_variable(&format!("SANDPIT_{text}"), &text));
    }

    #[test]
    fn any_value_of_any_setting_is_taken_or_refused_by_name(
        at in 0..RULES.len(),
        value in prop_oneof![
            any::<i64>().prop_map(|number| number.to_string()),
            any::<f64>().prop_map(|number| format!("{number:?}")),
            "[a-z=/,.:\"\\[\\]{}\\\\-]{0,24}",
        ],
    ) {
        let key = RULES[at].0.replace('*', "trading");
        let (section, name) = key.rsplit_once('.').unwrap();
        let texts = [
            of_file(&format!("[{section}]\n{name} = {value}\n")),
            of_flags(&[&format!("{key}={value}")]),
        ];
        for rejected in texts.into_iter().filter_map(Result::err) {
            let text = rejected.to_string();
            let placed = text.starts_with("my.toml:") || text.contains(&key);
            prop_assert!(placed, "{}", text);
        }
    }
}
