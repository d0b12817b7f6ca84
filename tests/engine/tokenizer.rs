//! The tokenizer against the recorded cases, and its promises for any input.

use incoder::{Error, Sentinels, Tokenizer};
use proptest::prelude::*;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

#[derive(Deserialize)]
struct Encoded {
    text: String,
    ids: Vec<u32>,
    decoded: String,
    decoded_skip_special: String,
}

#[derive(Deserialize)]
struct Decoded {
    ids: Vec<u32>,
    decoded: String,
    decoded_skip_special: String,
}

#[derive(Deserialize)]
struct Cases {
    encode: Vec<Encoded>,
    decode: Vec<Decoded>,
}

fn oracle(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/oracle").join(folder)
}

fn tokenizer(folder: &Path) -> Tokenizer {
    Tokenizer::from_json(&std::fs::read_to_string(folder.join("tokenizer.json")).unwrap()).unwrap()
}

static TOK_512: LazyLock<Tokenizer> = LazyLock::new(|| tokenizer(&oracle("tok-512")));

fn check(folder: &Path, at_least: usize) {
    let tokenizer = tokenizer(folder);
    let cases: Cases = serde_json::from_str(&std::fs::read_to_string(folder.join("cases.json")).unwrap()).unwrap();
    assert!(cases.encode.len() + cases.decode.len() >= at_least, "cases are missing");
    for case in &cases.encode {
        assert_eq!(tokenizer.encode(&case.text, Sentinels::Parse).unwrap(), case.ids, "{:?}", case.text);
        assert_eq!(
            tokenizer.encode_with(&case.text, Sentinels::Parse, false).unwrap(),
            case.ids[1..],
            "{:?}",
            case.text
        );
        assert_eq!(tokenizer.decode(&case.ids, false).unwrap(), case.decoded);
        assert_eq!(tokenizer.decode(&case.ids, true).unwrap(), case.decoded_skip_special);
    }
    for case in &cases.decode {
        assert_eq!(tokenizer.decode(&case.ids, false).unwrap(), case.decoded, "{:?}", case.ids);
        assert_eq!(tokenizer.decode(&case.ids, true).unwrap(), case.decoded_skip_special, "{:?}", case.ids);
    }
}

#[test]
fn tok_512() {
    check(&oracle("tok-512"), 303);
}

#[test]
fn tok_2k() {
    check(&oracle("tok-2k"), 303);
}

#[test]
fn published_vocabulary() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let folder = root.join("../shared/incoder-tokenizer");
    if !folder.join("cases.json").exists() {
        eprintln!("skipped: the published vocabulary is not at {}", folder.display());
        return;
    }
    check(&folder, 303);
    let tokenizer = tokenizer(&folder);
    assert_eq!((tokenizer.vocab_size(), tokenizer.mask_count()), (50518, 256));
    assert_eq!((tokenizer.mask(0), tokenizer.mask(255), tokenizer.mask(256)), (Some(50261), Some(50516), None));
    assert_eq!((tokenizer.end_of_mask(), tokenizer.eos(), tokenizer.bos()), (Some(50517), Some(2), Some(2)));
}

#[test]
fn knows_its_tokens() {
    let t = &*TOK_512;
    assert_eq!((t.vocab_size(), t.mask_count(), t.mask(0), t.mask(16)), (512, 16, Some(495), None));
    assert_eq!((t.end_of_mask(), t.eos(), t.bos()), (Some(511), Some(2), Some(2)));
    assert!(t.is_mask(495) && t.is_mask(510) && !t.is_mask(511) && !t.is_mask(2) && !t.is_mask(9999));
    assert_eq!(t.token_bytes(227), Some(&b" "[..]));
    assert_eq!((t.piece(227).as_deref(), t.piece(512)), (Some("Ġ"), None));
    assert_eq!(t.token_bytes(511), Some(&b"<|endofmask|>"[..]));
    assert_eq!(t.token_bytes(512), None);
}

#[test]
fn refuses_a_literal_sentinel_by_name_and_place() {
    for (text, name, place) in [
        ("ab\né <|mask:3|>", "<|mask:3|>", "line 2, column 3 (byte 6)"),
        ("<|<|endofmask|>", "<|endofmask|>", "line 1, column 3 (byte 2)"),
        ("x<|endoftext|><|mask:0|>", "<|endoftext|>", "line 1, column 2 (byte 1)"),
        ("<b>bold</b> <s>struck</s>", "<s>", "line 1, column 13 (byte 12)"),
        ("\n<pad>", "<pad>", "line 2, column 1 (byte 1)"),
    ] {
        let error = TOK_512.encode(text, Sentinels::Refuse).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(place), "{error}");
        assert!(TOK_512.encode(text, Sentinels::Parse).unwrap().contains(&TOK_512.find_sentinel(text).unwrap().id));
    }
    for text in ["<|mask:16|>", "<|mask:|>", "<|mask:00|>", "<| file ext=.py |>", "<b>", "<|endofmask", "<|"] {
        let ids = TOK_512.encode(text, Sentinels::Refuse).unwrap();
        assert_eq!(TOK_512.decode(&ids, false).unwrap(), format!("<|endoftext|>{text}"));
    }
}

#[test]
fn literal_sentinels_are_ordinary_tokens_and_come_back() {
    let masks = (0..TOK_512.mask_count()).map(|i| format!("<|mask:{i}|>"));
    let names: Vec<String> =
        masks.chain(["<|endofmask|>", "<|endoftext|>", "<s>", "<pad>", "<unk>"].map(String::from)).collect();
    for name in &names {
        for text in [name.clone(), format!("a{name}b"), format!("{name}{name}\n é{name}"), format!("<|{name}")] {
            let ids = TOK_512.encode_with(&text, Sentinels::Literal, false).unwrap();
            assert!(ids.iter().all(|&id| !TOK_512.is_special(id)), "{text:?}: {ids:?}");
            assert_eq!(TOK_512.decode(&ids, true).unwrap(), text);
            assert_eq!(
                TOK_512.encode(&text, Sentinels::Literal).unwrap(),
                [&[TOK_512.bos().unwrap()], &ids[..]].concat()
            );
        }
    }
    for text in ["", "def f(x):\n    return x\n", "<| mask:0 |>"] {
        assert_eq!(TOK_512.encode(text, Sentinels::Literal).unwrap(), TOK_512.encode(text, Sentinels::Parse).unwrap());
    }
}

#[test]
fn long_texts_are_tokenized_in_pieces_to_the_same_ids() {
    let mut text = String::new();
    for i in 0..40_000 {
        text += &format!("{}x{i} = \"é😀\"\n{}", " ".repeat(i % 9), if i % 7 == 0 { "\n\r\n" } else { "" });
    }
    let cancel = incoder::Cancel::default();
    let whole = TOK_512.encode(&text, Sentinels::Literal).unwrap();
    assert!(text.len() > 1 << 19);
    assert_eq!(TOK_512.encode_long(&text, Sentinels::Literal, &cancel).unwrap(), whole);
    cancel.cancel();
    assert!(matches!(TOK_512.encode_long(&text, Sentinels::Literal, &cancel), Err(Error::Cancelled)));
}

#[test]
fn refuses_ids_that_are_not_in_the_file() {
    for id in [512, u32::MAX] {
        let error = TOK_512.decode(&[5, id], true).unwrap_err();
        assert!(
            matches!(&error, Error::Argument { problem } if problem.contains(&format!("token id {id}")) && problem.contains("0 to 511")),
            "{error}"
        );
    }
}

#[test]
fn refuses_files_that_are_not_its_kind() {
    let json = std::fs::read_to_string(oracle("tok-512").join("tokenizer.json")).unwrap();
    let other = json.replace("\"decoder\": {\n  \"type\": \"ByteLevel\"", "\"decoder\": {\n  \"type\": \"Fuse\"");
    assert_ne!(json, other);
    let high = json.replace("\"<|/\": 5", "\"<|/\": 4000000000");
    for (text, says) in [
        ("", "is empty"),
        ("{}", "tokenizer.json"),
        (&json[..9000], "line"),
        (&other, "ByteLevel"),
        (&high, "4000000000"),
    ] {
        let error = Tokenizer::from_json(text).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_length_limit_left_in_the_file_does_not_cut_prompts() {
    let json = std::fs::read_to_string(oracle("tok-512").join("tokenizer.json")).unwrap();
    let limit = r#""truncation": {"direction":"Right","max_length":4,"strategy":"LongestFirst","stride":0}"#;
    let tokenizer = Tokenizer::from_json(&json.replace("\"truncation\": null", limit)).unwrap();
    let text = "zqzqzqzqzqzqzqzq";
    assert_eq!(tokenizer.encode(text, Sentinels::Refuse).unwrap(), TOK_512.encode(text, Sentinels::Refuse).unwrap());
}

#[test]
fn a_strange_decoder_is_refused() {
    let json = std::fs::read_to_string(oracle("tok-512").join("tokenizer.json")).unwrap();
    let whole: serde_json::Value = serde_json::from_str(&json).unwrap();
    for decoder in ["5", "[]", "\"x\"", "null", "{}", "{\"type\": 3}", "{\"type\": \"None\"}"] {
        let mut strange = whole.clone();
        strange["decoder"] = serde_json::from_str(decoder).unwrap();
        assert!(Tokenizer::from_json(&strange.to_string()).is_err(), "{decoder}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_comes_back(text in "\\PC{0,12}|[ a-z\\r\\n\\t<|>é😀\u{0}-\u{20}]{0,60}") {
        let ids = TOK_512.encode(&text, Sentinels::Parse).unwrap();
        prop_assert_eq!(TOK_512.decode(&ids[1..], false).unwrap(), text);
    }

    #[test]
    fn streaming_equals_decoding(ids in proptest::collection::vec(0u32..512, 0..60), skip: bool, drop in 0usize..20) {
        let (mut stream, mut text) = (TOK_512.stream(skip), String::new());
        let mut dropping = TOK_512.stream(skip).dropping(drop);
        let (mut dropped, mut bytes) = (String::new(), Vec::new());
        for &id in &ids {
            text += &stream.push(id).unwrap();
            dropped += &dropping.push(id).unwrap();
            if !(skip && TOK_512.is_special(id)) {
                bytes.extend_from_slice(TOK_512.token_bytes(id).unwrap());
            }
            // Only an unfinished character may be held back.
            prop_assert!(text.len() + 3 >= bytes.len());
        }
        text += &stream.finish();
        dropped += &dropping.finish();
        prop_assert_eq!(&text, &TOK_512.decode(&ids, skip).unwrap());
        prop_assert_eq!(&text, &String::from_utf8_lossy(&bytes));
        prop_assert_eq!(dropped, String::from_utf8_lossy(&bytes[drop.min(bytes.len())..]));
    }

    #[test]
    fn a_damaged_file_never_panics(at in 0usize..14_000, len in 0usize..200, with in "[\\[\\]{}\":,0-9a-z]{0,6}") {
        let json = std::fs::read_to_string(oracle("tok-512").join("tokenizer.json")).unwrap();
        let bytes = [&json.as_bytes()[..at], with.as_bytes(), json.as_bytes().get(at + len..).unwrap_or(&[])].concat();
        let damaged = String::from_utf8_lossy(&bytes);
        if let Ok(tokenizer) = Tokenizer::from_json(&damaged) {
            let _ = tokenizer.encode("def f(x):\r\n\treturn <s>é", Sentinels::Refuse);
        }
    }
}
