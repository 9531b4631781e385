use super::*;

fn facts() -> Facts {
    Facts {
        top_folders: BTreeMap::from([
            ("bin".to_owned(), TopFolder::Link("usr/bin".to_owned())),
            ("lib64".to_owned(), TopFolder::Folder),
        ]),
        etc: vec!["ld.so.cache".to_owned()],
        usr_hidden: vec!["local".to_owned(), "src".to_owned()],
        ..Facts::default()
    }
}

fn at<'a>(plan: &'a Plan, path: &str) -> Vec<&'a Entry> {
    plan.entries.iter().filter(|(at, _)| at == Path::new(path)).map(|(_, entry)| entry).collect()
}

fn bind(from: &str, allow: Use) -> Entry {
    Entry::Bind { from: PathBuf::from(from), allow }
}

#[test]
fn every_sandbox_of_root_has_an_id_of_its_own_and_none_is_zero() {
    assert_eq!(Ids::Own.of_sandbox(0), "1000 1000 1");
    assert_eq!(Ids::Own.of_sandbox(7), "1000 1007 1");
    assert_eq!(Ids::Shared.of_sandbox(7), "1000 0 1");
    assert_eq!(Ids::Own.of_template(), "0 0 65536");
    assert_eq!(Ids::Shared.of_template(), "0 0 1");
    assert_eq!(Ids::Own.of_sandbox(SLOTS_MAX - 1), "1000 65535 1");
}

#[test]
fn nothing_of_the_host_is_bound_but_what_is_named() {
    let plan = template_root(&facts());
    let sources: Vec<_> = plan
        .entries
        .iter()
        .filter_map(|(_, entry)| match entry {
            Entry::Bind { from, .. } => Some(from.to_str().expect("plain names")),
            _ => None,
        })
        .collect();
    assert_eq!(
        sources,
        [
            "usr",
            "lib64",
            "etc-ld.so.cache",
            "dev-null",
            "dev-zero",
            "dev-full",
            "dev-random",
            "dev-urandom",
            "dev-tty"
        ]
    );
}

#[test]
fn merged_systems_get_links_and_others_get_binds() {
    let plan = template_root(&facts());
    assert_eq!(at(&plan, "bin"), [&Entry::Link("usr/bin".to_owned())]);
    assert_eq!(at(&plan, "lib64"), [&Entry::Folder, &bind("lib64", Use::Run)]);
}

#[test]
fn usr_local_is_empty_unless_the_interpreter_lives_there() {
    assert_eq!(at(&template_root(&facts()), "usr/local"), [&Entry::Empty]);
    let there = Facts { python_in_usr_local: true, ..facts() };
    assert!(at(&template_root(&there), "usr/local").is_empty());
    assert_eq!(at(&template_root(&there), "usr/src"), [&Entry::Empty]);
}

#[test]
fn data_may_be_read_and_not_run_and_the_environment_may_be_run() {
    let plan = template_root(&Facts {
        own_python: true,
        environment: Some(PathBuf::from("env/abc")),
        data: BTreeMap::from([("market".to_owned(), PathBuf::from(data_source("market")))]),
        ..facts()
    });
    assert_eq!(at(&plan, "data/market"), [&bind("data-market", Use::Read)]);
    assert_eq!(at(&plan, "opt/env"), [&bind("store/env/abc", Use::Run)]);
    assert_eq!(at(&plan, "opt/python"), [&bind("python", Use::Run)]);
}

#[test]
fn a_folder_is_made_before_anything_below_it() {
    let plan = template_root(&facts());
    for (index, (path, _)) in plan.entries.iter().enumerate() {
        let parent = path.parent().expect("relative paths have one");
        let made = parent == Path::new("")
            || parent == Path::new("usr")
            || plan.entries[..index].iter().any(|(earlier, _)| earlier == parent);
        assert!(made, "{} comes before its folder", path.display());
    }
}
