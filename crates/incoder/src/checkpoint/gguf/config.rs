//! A GGUF file's metadata → what config.json says of the same model, and the names that Hugging Face's checkpoints give its tensors.

use super::header::Value;
use crate::error::{Error, Result};
use serde_json::{Map, json};
use std::collections::{BTreeMap, BTreeSet};

/// What llama.cpp calls the parts of a layer, and what Hugging Face does.
const PARTS: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
/// What stands outside the layers.
const OUTSIDE: [(&str, &str); 3] = [
    ("token_embd.weight", "embed_tokens.weight"),
    ("output_norm.weight", "norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// A model that a file describes.
#[derive(Debug)]
pub(super) struct Model {
    pub config_json: serde_json::Value,
    /// Heads of queries and of keys whose rows llama.cpp stores in another order; none for Qwen2.
    permuted_heads: Option<[usize; 2]>,
}

impl Model {
    /// The model of a file with this metadata and these tensors.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another architecture, [`Error::Config`] for a size that is missing or of the wrong type.
    pub fn read(metadata: &BTreeMap<String, Value>, tensors: &BTreeSet<&str>) -> Result<Self> {
        let fields = Fields(metadata);
        let architecture = fields.text("general.architecture")?.unwrap_or_default();
        if !["llama", "qwen2"].contains(&architecture) {
            let what = format!("a GGUF file of the architecture {architecture:?}; llama and qwen2 are computed");
            return Err(Error::Unsupported { what });
        }
        // The factors of Llama 3.1's scaled positions. Without them long contexts would be computed wrong.
        if tensors.contains("rope_freqs.weight") {
            let what = "a GGUF file with scaled positions in rope_freqs.weight; use the model's safetensors";
            return Err(Error::Unsupported { what: what.to_owned() });
        }
        // llama.cpp stores them in another order, value by value; no known model has any.
        if architecture == "llama" && tensors.iter().any(|name| name.ends_with("attn_q.bias")) {
            let what = "biases of queries in a GGUF file of the architecture llama; use the model's safetensors";
            return Err(Error::Unsupported { what: what.to_owned() });
        }
        let name = |field: &str| format!("{architecture}.{field}");
        let size = |field: &str| fields.whole(&name(field));
        let needed =
            |field: &str| size(field)?.ok_or_else(|| Error::Config { problem: format!("{} is missing", name(field)) });
        let heads = needed("attention.head_count")?;
        let kv_heads = size("attention.head_count_kv")?.unwrap_or(heads);
        let mut config = Map::new();
        let mut put = |field: &str, value: serde_json::Value| config.insert(field.to_owned(), value);
        put("model_type", json!(architecture));
        put("num_hidden_layers", json!(needed("block_count")?));
        put("hidden_size", json!(needed("embedding_length")?));
        put("intermediate_size", json!(needed("feed_forward_length")?));
        put("num_attention_heads", json!(heads));
        put("num_key_value_heads", json!(kv_heads));
        put("max_position_embeddings", json!(needed("context_length")?));
        if let Some(head_dim) = size("attention.key_length")? {
            put("head_dim", json!(head_dim));
        }
        let vocabulary = match metadata.get("tokenizer.ggml.tokens") {
            Some(Value::List(tokens)) => tokens.len() as u64,
            _ => needed("vocab_size")?,
        };
        put("vocab_size", json!(vocabulary));
        put("tie_word_embeddings", json!(!tensors.contains("output.weight")));
        let is_biased = |part: &str| tensors.contains(format!("blk.0.{part}.bias").as_str());
        put("attention_bias", json!(is_biased("attn_q") && is_biased("attn_output")));
        put("mlp_bias", json!(is_biased("ffn_gate")));
        if let Some(eps) = fields.real(&name("attention.layer_norm_rms_epsilon"))? {
            put("rms_norm_eps", json!(eps));
        }
        if let Some(base) = fields.real(&name("rope.freq_base"))? {
            put("rope_theta", json!(base));
        }
        if let Some(kind) = fields.text(&name("rope.scaling.type"))?.filter(|kind| *kind != "none") {
            let factor = fields.real(&name("rope.scaling.factor"))?;
            let original = size("rope.scaling.original_context_length")?;
            put(
                "rope_scaling",
                json!({"rope_type": kind, "factor": factor, "original_max_position_embeddings": original}),
            );
        }
        // An end of a turn ends a text, too.
        let mut ends = Vec::new();
        for field in ["eos_token_id", "eot_token_id"] {
            ends.extend(fields.whole(&format!("tokenizer.ggml.{field}"))?);
        }
        ends.dedup();
        put("eos_token_id", json!(ends));
        let permuted_heads = (architecture == "llama").then_some([heads as usize, kv_heads as usize]);
        Ok(Self { config_json: config.into(), permuted_heads })
    }

    /// What Hugging Face's checkpoints call a tensor, and how many heads its rows are to be put in order for: 0 for none.
    pub fn name(&self, tensor: &str) -> Option<(String, usize)> {
        if let Some((_, name)) = OUTSIDE.iter().find(|(outside, _)| *outside == tensor) {
            return Some(((*name).to_owned(), 0));
        }
        let (layer, rest) = tensor.strip_prefix("blk.")?.split_once('.')?;
        let (part, kind) = rest.split_once('.')?;
        let (_, name) = PARTS.iter().find(|(named, _)| *named == part)?;
        let heads = match (self.permuted_heads, part) {
            (Some([heads, _]), "attn_q") => heads,
            (Some([_, heads]), "attn_k") => heads,
            _ => 0,
        };
        let is_known = layer.parse::<u32>().is_ok() && ["weight", "bias"].contains(&kind);
        is_known.then(|| (format!("layers.{layer}.{name}.{kind}"), heads))
    }
}

/// Fields of the metadata, checked as they are read.
pub(super) struct Fields<'a>(pub &'a BTreeMap<String, Value>);

impl<'a> Fields<'a> {
    fn wrong<T>(name: &str, what: &str) -> Result<T> {
        Err(Error::Config { problem: format!("{name} is not {what}") })
    }

    pub fn text(&self, name: &str) -> Result<Option<&'a str>> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Self::wrong(name, "a text"),
        }
    }

    pub fn whole(&self, name: &str) -> Result<Option<u64>> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Whole(number)) if *number >= 0 => Ok(Some(*number as u64)),
            Some(_) => Self::wrong(name, "a whole number"),
        }
    }

    /// A number as its shortest decimal: single precision has 1e-05 as 0.0000099999997.
    pub fn real(&self, name: &str) -> Result<Option<f64>> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Real(number)) if number.is_finite() => {
                Ok(Some((*number as f32).to_string().parse().unwrap_or(*number)))
            }
            Some(_) => Self::wrong(name, "a number"),
        }
    }

    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Flag(flag)) => Ok(Some(*flag)),
            Some(_) => Self::wrong(name, "true or false"),
        }
    }

    /// A list of texts.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let Value::List(list) = value else { return Self::wrong(name, "a list") };
        let text = |value: &'a Value| if let Value::Text(text) = value { Some(text.as_str()) } else { None };
        match list.iter().map(text).collect() {
            Some(texts) => Ok(Some(texts)),
            None => Self::wrong(name, "a list of texts"),
        }
    }

    /// A list of whole numbers.
    pub fn wholes(&self, name: &str) -> Result<Option<Vec<i64>>> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let Value::List(list) = value else { return Self::wrong(name, "a list") };
        let whole = |value: &Value| if let Value::Whole(number) = value { Some(*number) } else { None };
        match list.iter().map(whole).collect() {
            Some(numbers) => Ok(Some(numbers)),
            None => Self::wrong(name, "a list of whole numbers"),
        }
    }
}
