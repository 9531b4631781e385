//! What cells show: values as notebooks show them, figures, and what is too much.

use std::collections::BTreeMap;
use std::time::Duration;

use sandpit_sandbox::Provider;
use sandpit_sandbox::local::template;
use sandpit_sandbox::provider::contexts::{Media, Shown};
use sandpit_sandbox::provider::{ExecEvent, ExecRequest, KilledBy, Outcome, Progress};

use crate::support::{Engine, Ran, cell, options};

/// The template with matplotlib.
const INTERPRETER: &str = "code-interpreter-v1";

/// How every PNG begins.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A class whose instances have every representation.
const RICH: &str = "
class Rich:
    def __repr__(self): return 'text'
    def _repr_html_(self): return '<b>é</b>'
    def _repr_markdown_(self): return '*m*'
    def _repr_latex_(self): return '$x$'
    def _repr_json_(self): return {'a': 1}
    def _repr_svg_(self): return '<svg/>'
    def _repr_png_(self): return b'\\x89PNG'
    def _repr_jpeg_(self): return 'anBlZw=='
";

fn text<'a>(shown: &'a Shown, media: &str) -> &'a str {
    match shown.data.get(media) {
        Some(Media::Text(text)) => text,
        other => panic!("no {media}: {other:?} of {shown:?}"),
    }
}

fn image<'a>(shown: &'a Shown, media: &str) -> &'a [u8] {
    match shown.data.get(media) {
        Some(Media::Bytes(bytes)) => bytes,
        other => panic!("no {media}: {other:?} of {shown:?}"),
    }
}

fn texts(ran: &Ran) -> Vec<&str> {
    ran.shown.iter().filter_map(Shown::text).collect()
}

async fn interpreter() -> Engine {
    let spec = template::built_in().remove(INTERPRETER).expect("it is built in");
    let mut options = options();
    options.templates.insert(INTERPRETER.to_owned(), spec);
    let engine = Engine::start_with(options).await;
    engine.provider.prepare(INTERPRETER, Progress::silent()).await.expect("it is prepared");
    engine
}

#[tokio::test]
async fn a_value_is_shown_in_every_representation_it_has() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let ran = engine.cell(sandbox, &format!("{RICH}Rich()")).await;
    let [shown] = &ran.shown[..] else { panic!("{ran:?}") };
    assert!(shown.is_main);
    for (media, expected) in [
        ("text/plain", "text"),
        ("text/html", "<b>é</b>"),
        ("text/markdown", "*m*"),
        ("text/latex", "$x$"),
        ("application/json", r#"{"a": 1}"#),
        ("image/svg+xml", "<svg/>"),
    ] {
        assert_eq!(text(shown, media), expected);
    }
    assert_eq!(
        (image(shown, "image/png"), image(shown, "image/jpeg")),
        (&b"\x89PNG"[..], &b"jpeg"[..])
    );

    let bundle = "class Both:\n    def _repr_mimebundle_(self, include=None, exclude=None):\n        \
                  return {'text/html': 'h', 'application/x-other': 1}, {}\n    \
                  def _repr_html_(self): return 'not this'\nBoth()";
    let ran = engine.cell(sandbox, bundle).await;
    assert_eq!(text(&ran.shown[0], "text/html"), "h");
    assert_eq!(ran.shown[0].data.len(), 2, "{ran:?}");
    let ran = engine.cell(sandbox, "Both").await;
    assert_eq!(ran.shown[0].data.len(), 1, "a class is not its instance: {ran:?}");
    engine.close().await;
}

#[tokio::test]
async fn lists_and_dicts_are_json_too_where_json_has_words_for_them() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let nested = "x = []\nfor _ in range(62): x = [x]\nx";
    for (code, expected) in [
        ("[1, 'a', None, True, (2.5,)]", Some(r#"[1, "a", null, true, [2.5]]"#)),
        ("{'a': [1], 2: 'b'}", Some(r#"{"a": [1], "2": "b"}"#)),
        ("[float('nan'), float('-inf')]", Some(r#"["NaN", "-Infinity"]"#)),
        ("[2**53, 2**53 + 1, -10**400]", None),
        ("['\\ud800', 'é']", Some(r#"["?", "\u00e9"]"#)),
        ("[object()]", None),
        ("{(1, 2): 3}", None),
        ("[b'bytes']", None),
        ("x = []\nx.append(x)\nx", None),
        ("list(range(200_000))", None),
        ("['x' * 2_000_000]", None),
    ] {
        let ran = engine.cell(sandbox, code).await;
        assert_eq!(ran.outcome(), Outcome::Ok, "{code}: {:?}", ran.raised);
        let json = ran.shown[0].data.contains_key("application/json");
        if let Some(expected) = expected {
            assert_eq!(text(&ran.shown[0], "application/json"), expected, "{code}");
        } else if code.contains("10**400") {
            let json = text(&ran.shown[0], "application/json");
            assert!(json.starts_with(r#"[9007199254740992, "9007199254740993", "-1000"#), "{json}");
        } else {
            assert!(!json, "{code}: {:?}", ran.shown);
        }
    }
    assert!(engine.cell(sandbox, nested).await.shown[0].data.contains_key("application/json"));
    let deeper = engine.cell(sandbox, "[[[x]]]").await;
    assert!(!deeper.shown[0].data.contains_key("application/json"));
    let digits = engine.cell(sandbox, "[10**5000]").await;
    assert_eq!(digits.raised.expect("Python does not write it").0, "ValueError");
    engine.close().await;
}

#[tokio::test]
async fn what_is_displayed_comes_in_its_order_among_what_is_printed() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    // What is written before comes before; what follows at once may overtake.
    let code = "import sys, time\nprint('one')\ndisplay('a', 2)\ntime.sleep(0.3)\n\
                print('two', file=sys.stderr)\ndisplay({'text/html': '<i>'}, raw=True)\n\
                time.sleep(0.3)\nprint('three')\n'value'";
    let mut stream = engine.provider.exec(sandbox, cell(code)).await.expect("it begins");
    let mut seen = Vec::new();
    while let Some(event) = stream.next().await {
        match event {
            ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => {
                seen.push(String::from_utf8_lossy(&bytes).trim().to_owned());
            }
            ExecEvent::Shown(shown) => {
                let html = shown.data.contains_key("text/html");
                let text = if html { "html" } else { shown.text().unwrap_or_default() };
                seen.push(format!("{text} {}", shown.is_main));
            }
            _ => {}
        }
    }
    let expected = ["one", "'a' false", "2 false", "two", "html false", "three", "'value' true"];
    assert_eq!(seen, expected);
    engine.close().await;
}

#[tokio::test]
async fn the_words_of_notebooks_work_without_ipython() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let code = "from IPython.display import display, HTML, Markdown, Image, JSON, SVG, Latex\n\
                open('i.png', 'wb').write(b'\\x89PNG\\r\\n\\x1a\\nrest')\n\
                display(HTML('<b>'), Markdown('*'), SVG('<svg/>'), Latex('$x$'), JSON([1]))\n\
                Image('i.png')";
    let ran = engine.cell(sandbox, code).await;
    assert_eq!(ran.raised, None);
    let media = ["text/html", "text/markdown", "image/svg+xml", "text/latex", "application/json"];
    for (shown, media) in ran.shown.iter().zip(media) {
        assert!(shown.data.contains_key(media), "{media}: {shown:?}");
    }
    assert!(image(&ran.shown[5], "image/png").starts_with(PNG));
    let ran = engine.cell(sandbox, "import IPython; IPython.get_ipython() is None").await;
    assert_eq!(ran.result.as_deref(), Some("True"));
    engine.close().await;
}

#[tokio::test]
async fn magic_is_what_it_is_in_a_notebook_or_says_what_there_is() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let ran = engine.cell(sandbox, "x = 5\nif x:\n    !echo a \\\n  b; echo \"it's\" >&2\nx").await;
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("a b\n", "it's\n"), "{ran:?}");
    assert_eq!(ran.result.as_deref(), Some("5"));
    let ran = engine.cell(sandbox, "!echo 1\nlines = !printf 'a\\nb\\n'\nlines").await;
    assert_eq!((ran.stdout.as_str(), ran.result.as_deref()), ("1\n", Some("['a', 'b']")));
    let ran = engine.cell(sandbox, "%%bash\nfor i in 1 2; do\n  echo $i\ndone").await;
    assert_eq!((ran.outcome(), ran.stdout.as_str()), (Outcome::Ok, "1\n2\n"), "{ran:?}");
    let ran = engine.cell(sandbox, "%matplotlib inline\n7").await;
    assert_eq!(ran.result.as_deref(), Some("7"));
    for (code, says) in [
        ("%%bash\nexit 3", "code 3"),
        ("%timeit 1", "%timeit"),
        ("%%javascript\nlet x", "%%javascript"),
        ("%pip install requests", "deploy_e2b_template"),
        ("!pip install requests", "install_packages"),
    ] {
        let (name, value, traceback) = engine.cell(sandbox, code).await.raised.expect(code);
        assert!(name == "MagicError" && value.contains(says), "{code}: {name}: {value}");
        assert!(!traceback.contains("magic.py"), "{traceback}");
    }
    let ran = engine.cell(sandbox, "%pip list").await;
    assert_eq!(ran.outcome(), Outcome::Ok, "{ran:?}");
    let (name, value, _) = engine.cell(sandbox, "x = (1,\n!ls").await.raised.expect("it is wrong");
    assert!(name == "SyntaxError", "{value}");
    let ran = engine.cell(sandbox, "x = '''\n!echo no\n'''\ny = (7\n% 4)\nx, y").await;
    assert_eq!(ran.result.as_deref(), Some("('\\n!echo no\\n', 3)"), "Python stays Python");
    engine.close().await;
}

#[tokio::test]
async fn hostile_h48_a_representation_that_loops_or_raises_is_the_cells_error() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    for (body, name) in [
        ("while True: pass", "TimeoutError"),
        ("raise KeyError('x')", "KeyError"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("return self._repr_html_()", "RecursionError"),
    ] {
        let code = format!("class Bad:\n    def _repr_html_(self):\n        {body}\nx = 1\nBad()");
        let ran = engine.cell(sandbox, &code).await;
        assert_eq!(ran.outcome(), Outcome::Raised, "{body}: {ran:?}");
        assert_eq!(ran.raised.as_ref().expect("it raised").0, name);
        assert!(ran.shown.is_empty() && ran.done().context_kept);
        assert!(ran.done().wall < Duration::from_secs(20), "{:?}", ran.done().wall);
        let shown = engine.cell(sandbox, "display(Bad())\nx = 2").await;
        assert_eq!(shown.raised.expect("it raised").0, name);
    }
    assert_eq!(engine.cell(sandbox, "x").await.result.as_deref(), Some("1"));
    engine.close().await;
}

#[tokio::test]
async fn hostile_h48_what_is_too_much_is_left_out_and_said() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let class = "class Picture:\n    def __init__(self, size): self.size = size\n    \
                 def __repr__(self): return 'picture'\n    \
                 def _repr_png_(self): return bytes(self.size)\n";
    let ran = engine.cell(sandbox, &format!("{class}Picture(9 << 20)")).await;
    let said = text(&ran.shown[0], "text/plain");
    assert!(said.starts_with("picture\n(image/png of 9437184 bytes left out"), "{said}");
    let ran = engine.cell(sandbox, "Picture((8 << 20) - 4096)").await;
    assert_eq!(image(&ran.shown[0], "image/png").len(), (8 << 20) - 4096);

    let ran = engine.cell(sandbox, "for i in range(70): display(i)\n'value'").await;
    assert_eq!(ran.shown.len(), 65, "64 and the value");
    assert_eq!((ran.outcome(), ran.result.as_deref()), (Outcome::Ok, Some("'value'")));
    assert_eq!(ran.stderr, "a cell shows 64 things; the rest is left out\n");
    let ran = engine.cell(sandbox, "for i in range(5): display(Picture(6 << 20))").await;
    let whole = ran.shown.iter().filter(|shown| shown.data.contains_key("image/png")).count();
    assert_eq!((ran.outcome(), whole, ran.shown.len()), (Outcome::Ok, 2, 5), "16 MiB in all");

    let ran = engine.cell(sandbox, "'x' * 100_000_000").await;
    let said = ran.result.expect("it is cut");
    assert!(said.len() < 140_000 && said.ends_with("(99868928 more)"), "{} bytes", said.len());
    let ran = engine.cell(sandbox, "'x' * 1_000_000_000").await;
    assert_eq!(ran.raised.expect("there is no room for it").0, "MemoryError");
    let ran = engine.cell(sandbox, "list(range(1_000_000))").await;
    assert_eq!((ran.outcome(), ran.shown[0].data.len()), (Outcome::Ok, 1), "{:?}", ran.raised);
    assert_eq!(engine.cell(sandbox, "1+1").await.result.as_deref(), Some("2"));
    engine.close().await;
}

#[tokio::test]
async fn hostile_h46_forged_shows_end_their_worker_and_nothing_else() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let write = "import os, json, struct, time\n\
                 def frame(body=b'', **header):\n    text = json.dumps(header).encode()\n    \
                 os.write(3, struct.pack('<II', len(text), len(body)) + text + body)\n\
                 def shown(body, *parts, main=False, id=1):\n    \
                 frame(body, op='shown', id=id, main=main, parts=list(parts))\n";
    for forged in [
        "shown(b'x', ['text/plain', 2])",
        "shown(b'x', ['text/plain', 0])",
        "shown(b'x', ['text/plain', 1], id=99)",
        "shown(b'x', ['application/x-evil', 1])",
        "shown(b'nan', ['application/json', 3])",
        "shown(b'[' * 70 + b']' * 70, ['application/json', 140])",
        "[shown(b'x', ['text/plain', 1]) for _ in range(65)]",
        "[shown(b'x', ['text/plain', 1], main=True) for _ in range(2)]",
        "[shown(bytes(6 << 20), ['image/png', 6 << 20]) for _ in range(3)]",
        "frame(op='moved', errno=0)",
        "os.write(3, struct.pack('<II', 10, (8 << 20) + 1))",
        "os.write(3, struct.pack('<II', (256 << 10) + 1, 0))",
    ] {
        let ran = engine.cell(sandbox, &format!("{write}{forged}\ntime.sleep(60)")).await;
        assert_eq!(ran.outcome(), Outcome::Killed(KilledBy::Protocol), "{forged}: {:?}", ran.done);
        assert_eq!(engine.cell(sandbox, "1+1").await.result.as_deref(), Some("2"), "{forged}");
    }
    // A forger falsifies what it shows itself, and that is all.
    let forged = format!("{write}shown(b'2', ['text/plain', 1], main=False)\n3");
    let ran = engine.cell(sandbox, &format!("{forged}\n")).await;
    assert_eq!(ran.outcome(), Outcome::Killed(KilledBy::Protocol), "its number is 2: {ran:?}");
    engine.close().await;
}

#[tokio::test]
async fn threads_and_children_do_not_show_into_each_other() {
    let engine = Engine::start().await;
    let sandbox = engine.create().await;
    let code = "import os, threading\n\
                def many(): [display('x' * 1000) for _ in range(10)]\n\
                threads = [threading.Thread(target=many) for _ in range(4)]\n\
                [one.start() for one in threads]\n[one.join() for one in threads]\n\
                if os.fork() == 0:\n    display('child')\n    os._exit(0)\nos.wait()\n'value'";
    let ran = engine.cell(sandbox, code).await;
    assert_eq!((ran.outcome(), ran.shown.len()), (Outcome::Ok, 41), "{:?}", ran.raised);
    assert!(texts(&ran)[..40].iter().all(|text| text.len() == 1002));
    let late = "stop = False\ndef go():\n    while not stop: display('z' * 100_000)\n\
                threading.Thread(target=go, daemon=True).start()\n'value'";
    let ran = engine.cell(sandbox, late).await;
    assert_eq!((ran.outcome(), ran.result.as_deref()), (Outcome::Ok, Some("'value'")));
    let ran = engine.cell(sandbox, "stop = True").await;
    assert_eq!(ran.outcome(), Outcome::Ok, "what comes late is nobody's: {ran:?}");
    let request =
        ExecRequest { time_max: Duration::from_secs(2), ..cell("while True: display('y')") };
    let ran = engine.run(sandbox, request).await;
    assert_eq!(ran.outcome(), Outcome::Interrupted { timed_out: true }, "{:?}", ran.raised);
    engine.close().await;
}

#[tokio::test]
async fn figures_are_shown_as_png_when_asked_for_and_when_their_cell_ends() {
    let engine = interpreter().await;
    let sandbox = engine.create_from(INTERPRETER).await;
    let code = "import matplotlib.pyplot as plt\nplt.plot([1, 4, 2])\nplt.title('three')\n'value'";
    let ran = engine.cell(sandbox, code).await;
    assert_eq!((ran.result.as_deref(), ran.stderr.as_str()), (Some("'value'"), ""), "{ran:?}");
    let png = image(&ran.shown[1], "image/png");
    assert!(png.starts_with(PNG) && png.len() > 1_000, "{} bytes", png.len());
    assert_eq!(ran.shown[1].text(), Some("<Figure size 640x480 with 1 Axes>"));
    assert_eq!(engine.cell(sandbox, "plt.get_fignums()").await.result.as_deref(), Some("[]"));

    let code = "plt.plot([1])\nplt.show()\nprint('between')\nplt.figure()\nplt.bar([1], [2])\n\
                fig, ax = plt.subplots()\nfig";
    let ran = engine.cell(sandbox, code).await;
    let pictures = ran.shown.iter().filter(|one| one.data.contains_key("image/png")).count();
    assert_eq!((pictures, ran.stderr.as_str()), (3, ""), "one figure each: {ran:?}");
    assert!(ran.shown[1].is_main, "{ran:?}");

    let ran = engine.cell(sandbox, "plt.plot([1])\n1 / 0").await;
    assert_eq!((ran.outcome(), ran.shown.len()), (Outcome::Raised, 1), "{ran:?}");
    let code = "import pandas as pd\ndf = pd.DataFrame({'a': [1, 2]})\ndf";
    let ran = engine.cell(sandbox, code).await;
    assert!(text(&ran.shown[0], "text/html").contains("<table"), "{ran:?}");
    let ran = engine.cell(sandbox, "df.plot()").await;
    assert!(ran.shown.len() == 2 && ran.stderr.is_empty(), "{ran:?}");
    let env = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
    let request = ExecRequest {
        env,
        ..cell("import os, threading\n'MPLCONFIGDIR' in os.environ, threading.active_count()")
    };
    let ran = engine.run(sandbox, request).await;
    assert_eq!(ran.result.as_deref(), Some("(False, 1)"));
    let script =
        "python3 -c 'import matplotlib.pyplot as p; p.plot([1]); p.savefig(\"a.png\")'; ls";
    let ran = engine.line(sandbox, script).await;
    assert!(ran.stdout.contains("a.png"), "programs draw too: {ran:?}");
    engine.close().await;
}
