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
        bytes(r#"{"op":"hello","proto":1,"version":"3.11.7"}"#, b""),
        bytes(r#"{"op":"shown","id":7,"main":true,"parts":[["text/plain",1]]}"#, b"2"),
        bytes(r#"{"op":"error","id":7,"name":"E","value":"v"}"#, b"trace"),
        bytes(r#"{"op":"done","id":7}"#, b""),
    ]
    .concat();
    let text = str::to_owned;
    let frames = vec![
        Frame::Hello { proto: 1, version: text("3.11.7") },
        Frame::Shown { id: 7, shown: Shown::value("2"), bytes: 1 },
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
    let order = Order::Run { id: 1, env: &env, cwd: "/", code: 3, params: true };
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
            bytes(r#"{"op":"error","id":7,"name":"E","value":"v"}"#, text.as_bytes()),
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
