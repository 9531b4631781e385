use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn recipe() -> Recipe {
    Recipe::of_base("base", "0".repeat(64), Limits { memory_mb: 512, cpu_count: 1 })
}

fn layer() -> Layer {
    Layer {
        packages: vec!["a==1".to_owned(), "b".to_owned()],
        env: [("A".to_owned(), "1".to_owned())].into(),
        files: [("f".to_owned(), Bytes::from_static(b"x"))].into(),
        setup: vec!["true".to_owned()],
        ..Layer::on("base")
    }
}

#[test]
fn a_recipe_reads_back_and_any_other_spelling_of_it_is_refused() {
    let text = recipe().text();
    assert_eq!(Recipe::read(&text), Ok(recipe()));
    let spaced = String::from_utf8(text).unwrap().replace(": ", " : ");
    assert!(Recipe::read(spaced.as_bytes()).unwrap_err().contains("not written as"));
}

#[test]
fn a_recipe_that_names_files_elsewhere_is_refused() {
    let blob = |name: &str| Blob { name: name.to_owned(), sha256: "0".repeat(64), size: 1 };
    for name in ["../a-1-py3-none-any.whl", "/a-1-py3-none-any.whl", "a/b-1-py3-none-any.whl", "x"]
    {
        let text = Recipe { wheels: vec![blob(name)], ..recipe() }.text();
        assert!(Recipe::read(&text).is_err(), "{name}");
    }
    let text = Recipe { home: Some(blob("../home.tar")), ..recipe() }.text();
    assert!(Recipe::read(&text).is_err());
    let newer =
        String::from_utf8(recipe().text()).unwrap().replace("\"format\": 1", "\"format\": 2");
    assert!(Recipe::read(newer.as_bytes()).unwrap_err().contains("format 2"));
}

#[test]
fn everything_that_makes_a_difference_changes_the_id_and_the_order_of_packages_does_not() {
    let id = |layer: &Layer| id_of_layer(layer, &recipe(), "3.12");
    let whole = id(&layer());
    assert!(is_id(&whole), "{whole}");
    let mut turned = layer();
    turned.packages.reverse();
    assert_eq!(id(&turned), whole);
    let others = [
        Layer { packages: vec!["a==1".to_owned()], ..layer() },
        Layer { env: [("A".to_owned(), "2".to_owned())].into(), ..layer() },
        Layer { env: BTreeMap::new(), ..layer() },
        Layer { files: [("f".to_owned(), Bytes::from_static(b"y"))].into(), ..layer() },
        Layer { setup: vec!["true".to_owned(), "true".to_owned()], ..layer() },
        Layer { memory_mb: Some(512), ..layer() },
        Layer { cpu_count: Some(1), ..layer() },
    ];
    for other in &others {
        assert_ne!(id(other), whole, "{other:?}");
    }
    assert_ne!(id_of_layer(&layer(), &recipe(), "3.13"), whole);
    let below = Recipe { memory_mb: 256, ..recipe() };
    assert_ne!(id_of_layer(&layer(), &below, "3.12"), whole);
}

proptest! {
    #[test]
    fn any_bytes_are_a_recipe_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        // Whatever it says, it does not panic.
        let _ = Recipe::read(&bytes);
    }
}
