//! What cells show: values as notebooks show them, figures, and what is too much.

use sandpit_sandbox::Provider;
use sandpit_sandbox::local::template;
use sandpit_sandbox::provider::Progress;
use sandpit_sandbox::provider::contexts::Media;

use crate::support::{Engine, Ran, options};

/// The template with matplotlib.
const INTERPRETER: &str = "code-interpreter-v1";

fn image<'a>(ran: &'a Ran, at: usize, media: &str) -> &'a [u8] {
    match ran.shown.get(at).and_then(|shown| shown.data.get(media)) {
        Some(Media::Bytes(bytes)) => bytes,
        other => panic!("no {media}: {other:?} of {ran:?}"),
    }
}

#[tokio::test]
async fn open_figures_are_shown_as_png_when_their_cell_ends() {
    let spec = template::built_in().remove(INTERPRETER).expect("it is built in");
    let mut options = options();
    options.templates.insert(INTERPRETER.to_owned(), spec);
    let engine = Engine::start_with(options).await;
    engine.provider.prepare(INTERPRETER, Progress::silent()).await.expect("it is prepared");
    let sandbox = engine.create_from(INTERPRETER).await;

    let code = "import matplotlib.pyplot as plt\nplt.plot([1, 4, 2])\nplt.title('three')\n'value'";
    let ran = engine.cell(sandbox, code).await;
    assert_eq!(ran.result.as_deref(), Some("'value'"), "{ran:?}");
    let png = image(&ran, 1, "image/png");
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 1_000, "{} bytes", png.len());
    engine.close().await;
}
