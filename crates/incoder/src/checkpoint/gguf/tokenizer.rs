//! The vocabulary inside a GGUF file → the tokenizer.json of the same model.

use crate::checkpoint::fields::Fields;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};

/// Types of tokens: control tokens are no text, tokens that a user added are looked for before anything else.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// How each of the pre-tokenizers that llama.cpp knows by name splits a text. The regular expressions are those of the models' own
/// tokenizer.json.
fn pre_tokenizer(name: &str) -> Option<Value> {
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex});
    let split =
        |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let digits = json!({"type": "Digits", "individual_digits": true});
    let words = |numbers: &str| {
        split(&format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ))
    };
    let parts = match name {
        "gpt-2" => vec![bytes(true)],
        "smollm" | "starcoder" | "refact" | "codeshell" => vec![digits, bytes(true)],
        "qwen2" | "deepseek-r1-qwen" => vec![words(r"\p{N}"), bytes(false)],
        "llama3" | "llama-bpe" | "llama-v3" => vec![words(r"\p{N}{1,3}"), bytes(false)],
        "deepseek-coder" => vec![
            split("[\r\n]"),
            split(r"\s?\p{L}+"),
            split(r"\s?\p{P}+"),
            split("[一-龥ࠀ-一가-퟿]+"),
            digits,
            bytes(false),
        ],
        _ => return None,
    };
    Some(json!({"type": "Sequence", "pretokenizers": parts}))
}

/// The tokenizer.json of a file with this metadata.
///
/// # Errors
/// [`Error::Unsupported`] for a vocabulary that is no byte-level BPE, or that is split in a way that is not known;
/// [`Error::Tokenizer`] where it is damaged.
pub(super) fn tokenizer_json(metadata: &Map<String, Value>) -> Result<Value> {
    let fields = Fields(metadata);
    let damaged = |problem: String| Error::Tokenizer { problem };
    let unsupported = |what: String| Err(Error::Unsupported { what });
    match fields.text("tokenizer.ggml.model")? {
        Some("gpt2") => {}
        Some(other) => return unsupported(format!("a GGUF vocabulary of the kind {other:?}; byte-level BPE is read")),
        None => return Err(damaged("the GGUF file has no vocabulary (tokenizer.ggml.model)".to_owned())),
    }
    let name = fields.text("tokenizer.ggml.pre")?.unwrap_or("gpt-2");
    let Some(splitting) = pre_tokenizer(name) else {
        return unsupported(format!("a GGUF vocabulary that is split in the way {name:?}, which is not known"));
    };
    let list =
        |name: &str| fields.list(name, "texts", Value::as_str)?.ok_or_else(|| damaged(format!("{name} is missing")));
    let (tokens, merges) = (list("tokenizer.ggml.tokens")?, list("tokenizer.ggml.merges")?);
    let kinds = fields.list("tokenizer.ggml.token_type", "whole numbers", Value::as_i64)?.unwrap_or_default();
    let mut vocabulary = Map::new();
    let mut added = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        let kind = kinds.get(id).copied().unwrap_or_default();
        if kind == CONTROL || kind == USER_DEFINED {
            added.push(json!({
                "id": id, "content": token, "special": kind == CONTROL, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            }));
        }
        if vocabulary.insert((*token).to_owned(), json!(id)).is_some() {
            return Err(damaged(format!("the GGUF vocabulary has the token {token:?} twice")));
        }
    }
    let bos = fields.get("tokenizer.ggml.bos_token_id").and_then(Value::as_u64);
    let is_llama3 = ["llama3", "llama-bpe", "llama-v3"].contains(&name);
    let begins = fields.flag_or("tokenizer.ggml.add_bos_token", is_llama3)?;
    let mut json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": if name == "qwen2" { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": splitting,
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": is_llama3,
            "vocab": vocabulary, "merges": merges,
        },
    });
    if let (true, Some(bos)) = (begins, bos) {
        let Some(token) = tokens.get(bos as usize) else {
            return Err(damaged(format!("bos_token_id {bos} is none of the {} tokens", tokens.len())));
        };
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {*token: {"id": token, "ids": [bos], "tokens": [token]}},
        });
    }
    Ok(json)
}
