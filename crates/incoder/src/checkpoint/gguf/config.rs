//! A GGUF file's metadata → what config.json says of the same model, and the names that Hugging Face's checkpoints give its tensors.

use crate::checkpoint::fields::Fields;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Sizes above this are in no model; config.json's own limits are lower.
const MAX_SIZE: u64 = 1 << 24;

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
    pub config_json: Value,
    /// Heads of queries and of keys whose rows llama.cpp stores in another order; none for Qwen2.
    permuted_heads: Option<[usize; 2]>,
}

impl Model {
    /// The model of a file with this metadata and these tensors.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another architecture, [`Error::Config`] for a size that is missing or of the wrong type.
    pub fn read(metadata: &Map<String, Value>, tensors: &BTreeSet<&str>) -> Result<Self> {
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
        let size = |field: &str, otherwise: Option<usize>| fields.size([&name(field); 2], otherwise, MAX_SIZE);
        let heads = size("attention.head_count", None)?;
        let kv_heads = size("attention.head_count_kv", Some(heads))?;
        let tokens = fields.list("tokenizer.ggml.tokens", "texts", |_| Some(()))?.map(|tokens| tokens.len());
        let is_biased = |part: &str| tensors.contains(format!("blk.0.{part}.bias").as_str());
        let ends = ["eos_token_id", "eot_token_id"].map(|field| fields.token_ids(&format!("tokenizer.ggml.{field}")));
        // An end of a turn ends a text, too.
        let mut ends_of_text = Vec::new();
        for ids in ends {
            ends_of_text.extend(ids.map_err(|problem| Error::Config { problem })?.unwrap_or_default());
        }
        let mut config = json!({
            "model_type": architecture,
            "num_hidden_layers": size("block_count", None)?,
            "hidden_size": size("embedding_length", None)?,
            "intermediate_size": size("feed_forward_length", None)?,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "max_position_embeddings": size("context_length", None)?,
            "vocab_size": tokens.map_or_else(|| size("vocab_size", None), Ok)?,
            "tie_word_embeddings": !tensors.contains("output.weight"),
            "attention_bias": is_biased("attn_q") && is_biased("attn_output"),
            "mlp_bias": is_biased("ffn_gate"),
            "eos_token_id": ends_of_text,
        });
        let same = [
            ("attention.key_length", "head_dim"),
            ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
            ("rope.freq_base", "rope_theta"),
        ];
        for (field, named) in same {
            config[named] = json!(fields.get(&name(field)));
        }
        if let Some(kind) = fields.text(&name("rope.scaling.type"))?.filter(|kind| *kind != "none") {
            config["rope_scaling"] = json!({
                "rope_type": kind,
                "factor": fields.get(&name("rope.scaling.factor")),
                "original_max_position_embeddings": fields.get(&name("rope.scaling.original_context_length")),
            });
        }
        let permuted_heads = (architecture == "llama").then_some([heads, kv_heads]);
        Ok(Self { config_json: config, permuted_heads })
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
