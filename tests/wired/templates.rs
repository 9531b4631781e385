use sandpit_actors::layers;
use sandpit_messages::deployment::Deploy;
use sandpit_messages::exec::Exec;
use sandpit_messages::id::SandboxId;
use sandpit_messages::problem::Problem;
use sandpit_messages::sandbox::{Create, List, Terminate};
use sandpit_messages::template::{Export, Origin, TemplateGet, TemplateImport, TemplateList};
use sandpit_sandbox::fake::Script;
use sandpit_sandbox::provider::Layer;

use crate::rig::{Rig, SECOND, limits, on_one_thread};

fn with_packages(packages: &[&str]) -> Create {
    let install_packages = packages.iter().map(|&package| package.to_owned()).collect();
    Create { install_packages, ..Create::default() }
}

fn export(sandbox_id: SandboxId, name: &str) -> Export {
    let template_name = name.to_owned();
    Export { sandbox_id, template_name, include_data: false, idempotency_key: None }
}

fn named(template: &str) -> Create {
    Create { template: template.to_owned(), ..Create::default() }
}

fn at(problem: &Problem) -> (&str, &str) {
    (&problem.kind, problem.detail.field.as_deref().unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_with_packages_of_its_own_is_made_from_a_template_that_is_built_once() {
    on_one_thread(Box::pin(async {
        let rig = Rig::start(limits(), Script { build_takes: SECOND, ..Script::default() }).await;
        let first = rig.ask(&with_packages(&["scipy==1.15.2"])).await.unwrap();
        let before = rig.clock.now();
        let second = rig.ask(&with_packages(&["scipy==1.15.2"])).await.unwrap();
        assert!(rig.clock.now().since(before) < SECOND, "the second finds it built");
        assert_eq!(first.template, second.template);
        let third = rig.ask(&named(&first.template)).await.unwrap();
        assert_eq!(third.template, first.template);
        let listing = rig.ask(&List { template: Some(first.template), ..List::default() }).await;
        assert_eq!(listing.unwrap().total_count, 3);
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_for_a_build_is_told_to_ask_again_and_then_finds_it() {
    on_one_thread(Box::pin(async {
        let rig =
            Rig::start(limits(), Script { build_takes: 90 * SECOND, ..Script::default() }).await;
        let ask = with_packages(&["scipy"]);
        let problem = rig.ask(&ask).await.unwrap_err();
        assert_eq!((&*problem.kind, problem.retry_after_ms), ("busy", Some(2_000)), "{problem:?}");
        tokio::time::sleep(90 * SECOND).await;
        assert!(rig.ask(&ask).await.is_ok());
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_this_node_cannot_do_is_refused_and_named_and_nothing_is_made() {
    on_one_thread(Box::pin(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let base = Create::default;
        let region = Some("eu-west".to_owned());
        let cases = [
            (Create { allow_internet: true, ..base() }, ("unsupported", ""), "allow_internet"),
            (Create { region, ..base() }, ("unsupported", ""), "eu-west"),
            (Create { provider: Some("e2b".to_owned()), ..base() }, ("unsupported", ""), "`fake`"),
            (with_packages(&["-r /etc/passwd"]), ("invalid_argument", "install_packages"), "-r"),
            (with_packages(&["x @ file:///etc"]), ("invalid_argument", "install_packages"), "x @"),
            (
                with_packages(&["git+https://host/x"]),
                ("invalid_argument", "install_packages"),
                "git",
            ),
            (with_packages(&["x"; 33]), ("invalid_argument", "install_packages"), "at most 32"),
            (
                Create { template: "none".to_owned(), ..with_packages(&["x"]) },
                ("not_found", "template"),
                "none",
            ),
            (
                Create { idempotency_key: Some("short".to_owned()), ..base() },
                ("invalid_argument", "Sandpit-Idempotency-Key"),
                "16 to 64",
            ),
        ];
        for (ask, expected, word) in cases {
            let problem = rig.ask(&ask).await.unwrap_err();
            assert_eq!(at(&problem), expected, "{problem:?}");
            let expected = problem.detail.expected.clone().unwrap_or_default();
            assert!(problem.message.contains(word) || expected.contains(word), "{problem:?}");
        }
        assert_eq!(rig.ask(&List::default()).await.unwrap().total_count, 0);
        let provider = Some("fake".to_owned());
        assert!(rig.ask(&Create { provider, ..base() }).await.is_ok());
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_key_among_the_arguments_is_as_good_as_one_in_the_header() {
    on_one_thread(Box::pin(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let key = "a-key-of-16-chars";
        let ask = Create { idempotency_key: Some(key.to_owned()), ..Create::default() };
        let first = rig.ask(&ask).await.unwrap();
        assert_eq!(rig.ask(&ask).await.unwrap(), first);
        assert_eq!(rig.ask_keyed(&Create::default(), key).await.unwrap(), first);
        let other = Create { timeout: 10, ..ask };
        assert_eq!(&*rig.ask(&other).await.unwrap_err().kind, "conflict");
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_is_written_down_listed_created_from_and_carried() {
    on_one_thread(Box::pin(async {
        let (here, there) = (
            Rig::start(limits(), Script::default()).await,
            Rig::start(limits(), Script::default()).await,
        );
        let env_vars = [("TOKEN".to_owned(), "secret".to_owned())].into();
        let asked = Create { env_vars, memory_mb: Some(1_024), ..Create::default() };
        let sandbox = here.ask(&asked).await.unwrap().sandbox_id;
        let first = here.ask(&export(sandbox, "desk")).await.unwrap();
        let second = here.ask(&export(sandbox, "desk")).await.unwrap();
        assert_eq!((first.version, second.version, first.created_from), (1, 2, sandbox));
        assert_eq!(first.configuration.env_names, ["TOKEN"]);
        assert_eq!(first.configuration.resources.memory_mb, 1_024);
        assert_eq!(here.ask(&named("desk")).await.unwrap().template, "desk");
        let fresh = Exec {
            template: Some("desk".to_owned()),
            code: Some("1".to_owned()),
            ..Exec::default()
        };
        assert_eq!(here.ask(&fresh).await.unwrap().exit_code, 0);
        let templates = here.ask(&TemplateList {}).await.unwrap().templates;
        let of = |origin| templates.iter().filter(|line| line.origin == origin).count();
        assert_eq!((of(Origin::Configured), of(Origin::Layer), of(Origin::Exported)), (2, 0, 2));

        let get = TemplateGet { template_name: "desk".to_owned(), offset: 0 };
        let chunk = here.ask(&get).await.unwrap();
        let import = TemplateImport {
            template_name: Some("mine".to_owned()),
            sha256: chunk.sha256.clone(),
            size: chunk.size,
            offset: 0,
            content: chunk.content,
        };
        let imported = there.ask(&import).await.unwrap();
        let line = imported.template.unwrap();
        assert_eq!((&*line.template, line.sha256), ("mine", Some(chunk.sha256)));
        assert_eq!(there.ask(&named("mine")).await.unwrap().template, "mine");
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_down_or_taken_in_is_refused_and_says_why() {
    on_one_thread(Box::pin(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let sandbox = rig.create().await;
        for name in ["", "Desk", "a b", "-x", "tpl-1", "base", &"x".repeat(64)] {
            let problem = rig.ask(&export(sandbox, name)).await.unwrap_err();
            assert_eq!(at(&problem), ("invalid_argument", "template_name"), "{name}");
        }
        let problem = rig.ask(&export(SandboxId::numbered(9), "desk")).await.unwrap_err();
        assert_eq!(&*problem.kind, "not_found");
        rig.ask(&Terminate { sandbox_id: sandbox, force: None }).await.unwrap();
        assert_eq!(&*rig.ask(&export(sandbox, "desk")).await.unwrap_err().kind, "gone");

        let get = TemplateGet { template_name: "desk".to_owned(), offset: 0 };
        assert_eq!(at(&rig.ask(&get).await.unwrap_err()), ("not_found", "template"));
        let good = TemplateImport {
            template_name: None,
            sha256: "0".repeat(64),
            size: 3,
            offset: 0,
            content: "AAAA".to_owned(),
        };
        let cases = [
            (TemplateImport { sha256: "x".to_owned(), ..good.clone() }, "sha256"),
            (TemplateImport { offset: 3, ..good.clone() }, "offset"),
            (TemplateImport { content: "?".to_owned(), ..good.clone() }, "content"),
            (
                TemplateImport { template_name: Some("A".to_owned()), ..good.clone() },
                "template_name",
            ),
            (good, "content"),
        ];
        for (import, field) in cases {
            let problem = rig.ask(&import).await.unwrap_err();
            assert_eq!(at(&problem), ("invalid_argument", field), "{problem:?}");
        }
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_setup_is_told_with_what_it_said() {
    on_one_thread(Box::pin(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let layer = Layer { setup: vec!["fail now".to_owned()], ..Layer::on("base") };
        let provider = std::sync::Arc::clone(&rig.fake) as _;
        let until = rig.clock.now() + SECOND;
        let built = layers::built(&provider, &rig.node.pool, rig.clock, layer, until).await;
        let problem = built.unwrap_err().problem();
        assert_eq!(at(&problem), ("invalid_argument", "setup"));
        assert!(problem.message.contains("as scripted"), "{problem:?}");
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_deployment_with_packages_is_made_of_the_template_that_has_them() {
    on_one_thread(Box::pin(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let deploy = |packages: &str| -> Deploy {
            serde_json::from_value(serde_json::json!({
                "template_name": "mine",
                "category": "custom",
                "configuration": { "template": "base", "packages": [packages] },
            }))
            .expect("a deployment")
        };
        let deployed = rig.ask(&deploy("scipy==1.15.2")).await.unwrap();
        let created = rig.ask(&with_packages(&["scipy==1.15.2"])).await.unwrap();
        assert_eq!(deployed.template, created.template);
        let problem = rig.ask(&deploy("--index-url=x")).await.unwrap_err();
        assert_eq!(at(&problem), ("invalid_argument", "packages"));
    }))
    .await;
}
