//! Token healing on a real vocabulary.

use incoder::{Healer, Sentinels, Tokenizer};
use proptest::prelude::*;
use std::path::Path;
use std::sync::LazyLock;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/oracle/tok-2k/tokenizer.json");
    Tokenizer::from_json(&std::fs::read_to_string(path).unwrap()).unwrap()
});

fn bytes(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|&id| TOKENIZER.token_bytes(id).unwrap()).copied().collect()
}

/// The definition, tried on every token.
fn begins_a_longer_token(bytes: &[u8]) -> bool {
    (0..TOKENIZER.vocab_size() as u32).any(|id| {
        let token = TOKENIZER.token_bytes(id).unwrap();
        !TOKENIZER.is_special(id) && token.len() > bytes.len() && token.starts_with(bytes)
    })
}

#[test]
fn takes_back_what_begins_a_longer_token() {
    let healer = Healer::new(&TOKENIZER);
    for (text, taken) in [
        ("x\n", ""),
        ("x\r\n\r\n", ""),
        ("def f(x):\n    retur", "    retur"),
        ("_interopRequireDef", "_interopRequireDef"),
        ("<|endofmask|>impor", "impor"),
        ("x<|mask:0|>", ""),
        ("", ""),
        ("\u{1}", ""),
        ("😀", ""),
    ] {
        let ids = TOKENIZER.encode(text, Sentinels::Parse).unwrap();
        let (keep, bytes) = healer.take_back(&ids);
        assert_eq!(String::from_utf8(bytes).unwrap(), taken, "{text:?} {keep}");
    }
}

#[test]
fn published_vocabulary() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let path = root.join("../shared/incoder-tokenizer/tokenizer.json");
    let Ok(json) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: the published vocabulary is not at {}", path.display());
        return;
    };
    let tokenizer = Tokenizer::from_json(&json).unwrap();
    let healer = Healer::new(&tokenizer);
    for (text, taken) in [("\nimport nump", "import nump"), ("if x:\n        retur", "        retur"), ("a\n", "")] {
        let (_, bytes) = healer.take_back(&tokenizer.encode(text, Sentinels::Refuse).unwrap());
        assert_eq!(String::from_utf8(bytes).unwrap(), taken);
    }
    let whole = tokenizer.encode_with("import numpy as np", Sentinels::Refuse, false).unwrap();
    assert_eq!(whole.len(), 1);
    assert!(healer.allowed(b"import nump").contains(&whole[0]));
}

#[test]
fn what_cannot_be_spelled_allows_nothing() {
    let json = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":null,
        "post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false},
        "model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,
        "fuse_unk":false,"byte_fallback":false,"ignore_merges":false,
        "vocab":{"a":0,"b":1,"c":2,"ab":3,"abc":4,"abx":5},"merges":["a b","ab c"]}}"#
        .replace("\"abx\":5", "\"abxy\":5");
    let tokenizer = Tokenizer::from_json(&json).unwrap();
    let healer = Healer::new(&tokenizer);
    let allowed = |remaining: &str| {
        let mut ids = healer.allowed(remaining.as_bytes());
        ids.sort_unstable();
        ids
    };
    assert_eq!(allowed("ab"), [0, 3, 4, 5]);
    // "ab" then "x" would be stuck: no token begins with x.
    assert_eq!(allowed("abx"), [5]);
    assert!(allowed("abz").is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn keeps_or_takes_every_byte(text in "[ a-z\\n(<|>é😀]{0,12}(    return |self\\.|import |é|😀|\\n){0,4}[a-z]{0,3}") {
        let ids = TOKENIZER.encode(&text, Sentinels::Parse).unwrap();
        let (keep, taken) = Healer::new(&TOKENIZER).take_back(&ids);
        let mut whole = bytes(&ids[..keep]);
        whole.extend_from_slice(&taken);
        prop_assert_eq!(&whole, &bytes(&ids));
        prop_assert!(String::from_utf8(taken.clone()).is_ok());
        prop_assert!(taken.is_empty() || begins_a_longer_token(&taken));
        // The largest possible: no longer ending would do.
        for from in 1..keep {
            let longer = bytes(&ids[from..]);
            let special = ids[from..].iter().any(|&id| TOKENIZER.is_special(id));
            let breaks_line = longer.contains(&b'\n');
            prop_assert!(special || breaks_line || !begins_a_longer_token(&longer) || std::str::from_utf8(&longer).is_err());
        }
    }

    #[test]
    fn whatever_is_chosen_spells_the_taken_text(text in "[ a-z]{0,3}(    return|self\\.|import |\\n| = ){0,2}[a-z]{0,4}", picks in proptest::collection::vec(any::<u32>(), 40)) {
        let healer = Healer::new(&TOKENIZER);
        let (_, taken) = healer.take_back(&TOKENIZER.encode(&text, Sentinels::Refuse).unwrap()[1..]);
        let (mut remaining, mut output) = (taken.clone(), Vec::new());
        for pick in picks {
            if remaining.is_empty() {
                break;
            }
            let allowed = healer.allowed(&remaining);
            prop_assert!(!allowed.is_empty());
            for &id in &allowed {
                let token = TOKENIZER.token_bytes(id).unwrap();
                prop_assert!(!token.is_empty() && (token.starts_with(&remaining) || remaining.starts_with(token)));
            }
            let id = allowed[pick as usize % allowed.len()];
            output.extend_from_slice(TOKENIZER.token_bytes(id).unwrap());
            healer.advance(&mut remaining, id);
        }
        prop_assert!(remaining.is_empty() && output.starts_with(&taken));
    }
}
