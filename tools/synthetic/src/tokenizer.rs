//! A tokenizer in InCoder's layout with merges of this program's own: blanks, syllables, pairs of characters, words.

use crate::files::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

const SPECIAL: [&str; 4] = ["<s>", "<pad>", "<|endoftext|>", "<unk>"];
/// These come before the bytes, as in InCoder's.
const FIRST: [&str; 3] = ["<|", "<|/", "|>"];
const END_OF_MASK: &str = "<|endofmask|>";
const CONSONANTS: &str = "bcdfghjklmnprstvwxyz";
const VOWELS: &str = "aeiou";
/// The first id that is no byte.
const FIRST_MERGED: usize = SPECIAL.len() + FIRST.len() + 256;

/// tokenizer.json with `vocab_size` ids: 0 to 3 as published, then `<|`, `<|/`, `|>`, the 256 bytes, the merges, and at the
/// end `<|mask:0|>` … and `<|endofmask|>`. There are 256 masks, as published, or 16 where there are less than 2048 ids.
/// Every merged token is what its own text is encoded to.
///
/// # Errors
/// [`Error::Argument`] when that many ids cannot be filled.
pub fn tokenizer_json(vocab_size: usize) -> Result<String> {
    let masks = if vocab_size < 2048 { 16 } else { 256 };
    let merged = vocab_size.checked_sub(FIRST_MERGED + masks + 1);
    let bpe = merged.and_then(Bpe::with_merges);
    let Some(bpe) = bpe else {
        let least = FIRST_MERGED + 16 + 1;
        let problem =
            format!("{vocab_size} token ids cannot be filled: {least} is the least, and words run out at 2 million");
        return Err(Error::Argument(problem));
    };
    let special = |(id, name): (usize, String)| {
        json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true})
    };
    let first_mask = vocab_size - masks - 1;
    let names = SPECIAL.map(String::from).into_iter().enumerate();
    let last = (0..masks).map(|i| format!("<|mask:{i}|>")).chain([END_OF_MASK.to_owned()]);
    let added: Vec<Value> =
        names.chain(last.enumerate().map(|(i, name)| (first_mask + i, name))).map(special).collect();

    let mut vocab = Map::new();
    let ordinary = bpe.tokens.iter().map(|token| spelled(token));
    for (id, token) in SPECIAL.map(String::from).into_iter().chain(ordinary).enumerate() {
        vocab.insert(token, Value::from(id));
    }
    let token = |id: u32| spelled(&bpe.tokens[id as usize - SPECIAL.len()]);
    let merges: Vec<String> = bpe.order.iter().map(|&(a, b)| format!("{} {}", token(a), token(b))).collect();

    let bos = json!({"SpecialToken": {"id": SPECIAL[2], "type_id": 0}});
    let sequence = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "[\\r\\n]+"}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, sequence("A", 0)],
            "pair": [bos, sequence("A", 0), sequence("B", 1)],
            "special_tokens": {SPECIAL[2]: {"id": SPECIAL[2], "ids": [2], "tokens": [SPECIAL[2]]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": false,
            "vocab": vocab,
            "merges": merges,
        },
    });
    Ok(format!("{json}\n"))
}

/// The texts that become tokens, the first ones first.
fn candidates() -> impl Iterator<Item = String> {
    let blanks = [2, 4, 8, 16].map(|n| " ".repeat(n)).into_iter().chain(["\n\n".into(), "\r\n".into()]);
    let printable = || ' '..='~';
    let pairs = printable().flat_map(move |a| printable().map(move |b| format!("{a}{b}")));
    let two_bytes = ('\u{80}'..='\u{7FF}').map(String::from);
    let words = || syllables().flat_map(|a| syllables().map(move |b| a.clone() + &b));
    let longer = || words().flat_map(|a| syllables().map(move |b| a.clone() + &b));
    let after_blank = |word: String| [word.clone(), format!(" {word}")];
    blanks
        .chain(syllables())
        .chain(pairs)
        .chain(two_bytes)
        .chain(words().flat_map(after_blank))
        .chain(longer().flat_map(after_blank))
}

fn syllables() -> impl Iterator<Item = String> {
    CONSONANTS.chars().flat_map(|c| VOWELS.chars().map(move |v| format!("{c}{v}")))
}

/// Byte-pair encoding under construction.
struct Bpe {
    /// The bytes of token `SPECIAL.len() + i`.
    tokens: Vec<Vec<u8>>,
    bytes: [u32; 256],
    /// A pair's merged token. A lower id is merged first.
    merged: HashMap<(u32, u32), u32>,
    order: Vec<(u32, u32)>,
}

impl Bpe {
    /// `None` when the candidates do not suffice.
    fn with_merges(n: usize) -> Option<Self> {
        let first = FIRST.map(|token| token.as_bytes().to_vec());
        let single = printable_first().into_iter().map(|byte| vec![byte]);
        let tokens: Vec<Vec<u8>> = first.into_iter().chain(single).collect();
        let id = |i: usize| (SPECIAL.len() + i) as u32;
        let mut bytes = [0; 256];
        for (i, token) in tokens.iter().enumerate().skip(FIRST.len()) {
            bytes[usize::from(token[0])] = id(i);
        }
        let byte = |byte: u8| bytes[usize::from(byte)];
        let order = vec![(byte(b'<'), byte(b'|')), (id(0), byte(b'/')), (byte(b'|'), byte(b'>'))];
        let merged = order.iter().enumerate().map(|(i, &pair)| (pair, id(i))).collect();
        let mut bpe = Self { tokens, bytes, merged, order };
        let mut candidates = candidates();
        let whole = bpe.tokens.len() + n;
        while bpe.tokens.len() < whole {
            bpe.add(candidates.next()?.as_bytes());
        }
        Some(bpe)
    }

    /// Makes `text` a token where two tokens make it now: it is then always reached, later merges being weaker.
    fn add(&mut self, text: &[u8]) {
        if let [a, b] = self.encode(text)[..] {
            self.merged.insert((a, b), (SPECIAL.len() + self.tokens.len()) as u32);
            self.order.push((a, b));
            self.tokens.push(text.to_vec());
        }
    }

    fn encode(&self, text: &[u8]) -> Vec<u32> {
        let mut ids: Vec<u32> = text.iter().map(|&byte| self.bytes[usize::from(byte)]).collect();
        let merge = |ids: &[u32]| {
            let pairs = ids.windows(2).enumerate();
            pairs.filter_map(|(i, pair)| Some((*self.merged.get(&(pair[0], pair[1]))?, i))).min()
        };
        while let Some((id, i)) = merge(&ids) {
            ids.splice(i..i + 2, [id]);
        }
        ids
    }
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// All bytes, those that byte-level BPE spells as themselves first.
fn printable_first() -> Vec<u8> {
    let (printable, other): (Vec<u8>, Vec<u8>) = (0..=255).partition(|&byte| is_printable(byte));
    [printable, other].concat()
}

/// A token as byte-level BPE spells it.
///
/// Source: `bytes_to_unicode` of GPT-2's encoder.py.
fn spelled(token: &[u8]) -> String {
    let spell = |&byte: &u8| {
        let skipped = (0..byte).filter(|&byte| !is_printable(byte)).count() as u32;
        if is_printable(byte) { Some(char::from(byte)) } else { char::from_u32(256 + skipped) }
    };
    token.iter().filter_map(spell).collect()
}
