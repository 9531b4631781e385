use proptest::prelude::*;

use super::*;

fn bytes(header: &str, body: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
    [&length(header.as_bytes())[..], &length(body), header.as_bytes(), body].concat()
}

fn all(input: &[u8]) -> Result<Vec<Frame>, Garbled> {
    let mut decoder = Decoder::default();
    decoder.push(input);
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next()? {
        frames.push(frame);
    }
    Ok(frames)
}

#[test]
fn frames_are_read_as_they_were_written() {
    let input = [
        bytes(r#"{"op":"hello","proto":2,"version":"3.11.7"}"#, b""),
        bytes(
            r#"{"op":"shown","id":7,"main":true,"parts":[["text/plain",1],["image/png",3]]}"#,
            b"2PNG",
        ),
        bytes(r#"{"op":"error","id":7,"name":"E","value":"v"}"#, b"trace"),
        bytes(r#"{"op":"done","id":7}"#, b""),
    ]
    .concat();
    let text = str::to_owned;
    let mut two = Shown::value("2");
    two.data.insert(text("image/png"), Media::Bytes(Bytes::from_static(b"PNG")));
    let frames = vec![
        Frame::Hello { proto: 2, version: text("3.11.7") },
        Frame::Shown { id: 7, shown: two, bytes: 4 },
        Frame::Raised { id: 7, name: text("E"), value: text("v"), traceback: text("trace") },
        Frame::Done { id: 7 },
    ];
    assert_eq!(all(&input), Ok(frames));
}

#[test]
fn what_no_worker_writes_is_refused() {
    for header in [
        "",
        "null",
        r#"{"op":"exec"}"#,
        r#"{"op":"done"}"#,
        r#"{"op":"done","id":-1}"#,
        r#"{"op":"done","id":1,"more":2}"#,
        r#"{"op":"done","id":1e400}"#,
    ] {
        assert_eq!(all(&bytes(header, b"")), Err(Garbled::Header), "{header}");
    }
}

fn shown(main: bool, parts: &[(&str, usize)]) -> String {
    format!(r#"{{"op":"shown","id":7,"main":{main},"parts":{}}}"#, serde_json::json!(parts))
}

#[test]
fn a_body_that_is_not_what_its_header_says_is_refused() {
    let check = |parts: &[(&str, usize)], body: &[u8], expected: Garbled| {
        assert_eq!(all(&bytes(&shown(false, parts), body)), Err(expected), "{parts:?}");
    };
    check(&[], b"", Garbled::Body);
    check(&[("text/plain", 2)], b"1", Garbled::Body);
    check(&[("text/plain", 1)], b"12", Garbled::Body);
    check(&[("text/plain", usize::MAX), ("text/html", 2)], b"1", Garbled::Body);
    check(&[("text/plain", 1), ("text/plain", 1)], b"12", Garbled::Header);
    check(&[("application/x-python-code", 1)], b"1", Garbled::Header);
    for json in ["", "NaN", "[1,]", "1e999", r#""\ud800""#, "{} {}"] {
        check(&[("application/json", json.len())], json.as_bytes(), Garbled::Body);
    }
}

#[test]
fn json_is_nested_as_deep_as_readers_follow_and_no_deeper() {
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    for (levels, readable) in [(1, true), (64, true), (65, false), (127, false), (100_000, false)] {
        let json = nested(levels);
        let frame = bytes(&shown(true, &[("application/json", json.len())]), json.as_bytes());
        assert_eq!(all(&frame).is_ok(), readable, "{levels} levels");
    }
}

#[test]
fn a_length_beyond_the_bounds_is_refused_before_anything_is_kept_for_it() {
    let mut decoder = Decoder::default();
    decoder.push(&[0xff; LENGTHS]);
    assert_eq!(decoder.next(), Err(Garbled::Long));
}

#[test]
fn nesting_does_not_end_us() {
    let deep = format!(r#"{{"op":"done","id":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(all(&bytes(&deep, b"")), Err(Garbled::Header));
}

#[test]
fn an_order_is_lengths_header_and_body() {
    let env = BTreeMap::new();
    let order = Order::Run { id: 1, env: &env, cwd: Some("/"), code: 3, params: true };
    let header = r#"{"op":"run","id":1,"env":{},"cwd":"/","code":3,"params":true}"#;
    assert_eq!(order.encode(&[b"1+1", b"{}"]), bytes(header, b"1+1{}"));
}

proptest! {
    #[test]
    fn any_bytes_give_frames_or_a_refusal(input in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = all(&input);
    }

    #[test]
    fn where_the_bytes_are_cut_makes_no_difference(
        text in ".{0,64}", cuts in proptest::collection::vec(0_usize..256, 0..8)
    ) {
        let input = [
            bytes(&shown(true, &[("text/plain", text.len())]), text.as_bytes()),
            bytes(r#"{"op":"done","id":7}"#, b""),
        ]
        .concat();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
        cuts.extend([0, input.len()]);
        cuts.sort_unstable();
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for pair in cuts.windows(2) {
            decoder.push(&input[pair[0]..pair[1]]);
            while let Some(frame) = decoder.next().unwrap() {
                frames.push(frame);
            }
        }
        prop_assert_eq!(frames, all(&input).unwrap());
    }
}
