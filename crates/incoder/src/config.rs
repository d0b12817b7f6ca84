//! config.json → [`Config`], checked: every size the engine uses comes from here.

use crate::error::{Error, Result};
use serde::Deserialize;

/// Two values of a head a thread, and 256 threads are what every adapter allows in a workgroup.
const MAX_HEAD_DIM: usize = 512;

/// The sizes and token ids of an XGLM checkpoint (InCoder is one).
///
/// Source: `XGLMConfig` of Hugging Face transformers 4.46; field names are config.json's where they are clear.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Transformer layers.
    pub num_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub ffn_dim: usize,
    /// Rows of the (tied) embedding.
    pub vocab_size: usize,
    /// Positions the model was trained on. Longer contexts are legal: the sinusoids continue.
    pub max_position_embeddings: usize,
    /// Whether embeddings are multiplied by sqrt(d_model).
    pub scale_embedding: bool,
    /// The token that ends a text.
    pub eos_token_id: u32,
}

#[derive(Deserialize)]
struct Raw {
    model_type: Option<String>,
    num_layers: Option<u64>,
    d_model: Option<u64>,
    attention_heads: Option<u64>,
    ffn_dim: Option<u64>,
    vocab_size: Option<u64>,
    max_position_embeddings: Option<u64>,
    scale_embedding: Option<bool>,
    activation_function: Option<String>,
    eos_token_id: Option<u32>,
}

impl Config {
    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.d_model / self.heads
    }

    /// Bytes of the KV cache for one token, at `bytes` a value (2 for fp16, 4 for fp32).
    pub fn kv_bytes_per_token(&self, bytes: usize) -> u64 {
        (2 * self.num_layers * self.d_model * bytes) as u64
    }

    /// Parameters of the model, the tied head counted once.
    pub fn parameters(&self) -> u64 {
        let (d, f) = (self.d_model as u64, self.ffn_dim as u64);
        let layer = 4 * d * d + 2 * d * f + 4 * d + f + d + 4 * d;
        self.vocab_size as u64 * d + self.num_layers as u64 * layer + 2 * d
    }

    /// Reads config.json's text.
    ///
    /// # Errors
    /// [`Error::Config`] for wrong JSON or a missing or absurd size, [`Error::Unsupported`] for a model
    /// the shaders do not compute.
    pub fn from_json(json: &str) -> Result<Self> {
        let raw: Raw = serde_json::from_str(json).map_err(|e| Error::Config { problem: e.to_string() })?;
        match raw.model_type.as_deref() {
            Some("xglm") => {}
            other => return unsupported(format!("model_type {other:?}; InCoder checkpoints say \"xglm\"")),
        }
        let activation = raw.activation_function.as_deref().unwrap_or("gelu");
        if activation != "gelu" {
            return unsupported(format!("activation_function {activation:?}; only \"gelu\" (exact) is computed"));
        }
        let config = Self {
            num_layers: size("num_layers", raw.num_layers, 1 << 12)?,
            d_model: size("d_model", raw.d_model, 1 << 16)?,
            heads: size("attention_heads", raw.attention_heads, 1 << 12)?,
            ffn_dim: size("ffn_dim", raw.ffn_dim, 1 << 18)?,
            vocab_size: size("vocab_size", raw.vocab_size, 1 << 24)?,
            max_position_embeddings: size(
                "max_position_embeddings",
                raw.max_position_embeddings.or(Some(2048)),
                1 << 24,
            )?,
            scale_embedding: raw.scale_embedding.unwrap_or(true),
            eos_token_id: raw.eos_token_id.unwrap_or(2),
        };
        if !config.d_model.is_multiple_of(config.heads) {
            let problem = format!("d_model {} is not divisible by attention_heads {}", config.d_model, config.heads);
            return Err(Error::Config { problem });
        }
        for (name, value) in [("d_model", config.d_model), ("ffn_dim", config.ffn_dim), ("head dim", config.head_dim())]
        {
            if !value.is_multiple_of(8) {
                return unsupported(format!("{name} {value}; the shaders need a multiple of 8"));
            }
        }
        if config.head_dim() > MAX_HEAD_DIM {
            return unsupported(format!("head dim {}; the shaders compute at most {MAX_HEAD_DIM}", config.head_dim()));
        }
        if config.eos_token_id as usize >= config.vocab_size {
            let problem = format!("eos_token_id {} is not below vocab_size {}", config.eos_token_id, config.vocab_size);
            return Err(Error::Config { problem });
        }
        Ok(config)
    }
}

fn unsupported<T>(what: String) -> Result<T> {
    Err(Error::Unsupported { what })
}

fn size(name: &str, value: Option<u64>, max: u64) -> Result<usize> {
    match value {
        Some(v) if (1..=max).contains(&v) => Ok(v as usize),
        Some(v) => Err(Error::Config { problem: format!("{name} is {v}, expected 1 to {max}") }),
        None => Err(Error::Config { problem: format!("{name} is missing") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str =
        r#"{"model_type":"xglm","num_layers":2,"d_model":64,"attention_heads":4,"ffn_dim":256,"vocab_size":512}"#;

    #[test]
    fn reads_sizes_and_defaults() {
        let config = Config::from_json(TINY).unwrap();
        assert_eq!((config.head_dim(), config.max_position_embeddings, config.scale_embedding), (16, 2048, true));
    }

    #[test]
    fn counts_the_published_parameters() {
        let json = TINY
            .replace(":2,", ":24,")
            .replace("64", "2048")
            .replace(":4,", ":32,")
            .replace("256", "8192")
            .replace("512", "50518");
        assert_eq!(Config::from_json(&json).unwrap().parameters(), 1_312_063_488);
    }

    #[test]
    fn refuses_by_name() {
        for (from, to, says) in [
            ("xglm", "gpt2", "model_type Some(\"gpt2\")"),
            ("\"d_model\":64", "\"d_model\":0", "d_model is 0"),
            ("\"d_model\":64", "\"d_model\":66", "not divisible"),
            ("\"d_model\":64", "\"d_model\":20", "d_model 20"),
            ("\"ffn_dim\":256", "\"ffn_dim\":257", "ffn_dim 257"),
            ("\"d_model\":64", "\"d_model\":4096", "head dim 1024"),
            ("\"ffn_dim\":256,", "", "ffn_dim is missing"),
            ("}", ",\"activation_function\":\"relu\"}", "activation_function \"relu\""),
            ("}", ",\"eos_token_id\":512}", "eos_token_id 512"),
            ("}", "", "EOF"),
        ] {
            let error = Config::from_json(&TINY.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
