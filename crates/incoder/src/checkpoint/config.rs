//! config.json → [`Config`], checked: every size the engine uses comes from here.

use super::Folder;
use super::fields::{Fields, unsupported};
use super::json;
use crate::arch::recipe::Recipe;
use crate::arch::{self, Architecture};
use crate::error::{Error, Result};
use crate::quantize::{Quantization, already};
use std::sync::Arc;

/// Two values of a head a thread, and 256 threads are what every adapter allows in a workgroup.
const MAX_HEAD_DIM: usize = 512;
/// See [`Config::default_context`].
const DEFAULT_CONTEXT_TOKENS: usize = 4096;
/// config.json has twenty lines, and some carry lists of labels; anything near this is not one.
const MAX_CONFIG_BYTES: u64 = 32 << 20;

/// The sizes and token ids of a checkpoint: what every architecture has, and its own.
///
/// Source: the configurations of Hugging Face transformers 4.46; field names are config.json's where they are clear.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Transformer layers.
    pub num_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Attention heads.
    pub heads: usize,
    /// Heads of keys and values: as many as `heads`, or a divisor of it where several query heads share one.
    pub kv_heads: usize,
    /// Values of one head.
    pub(crate) head_dim: usize,
    /// Width of the feed-forward layer.
    pub ffn_dim: usize,
    /// Rows of the embedding, and of the output head.
    pub vocab_size: usize,
    /// Positions the model was trained on. Longer contexts are legal: the positions continue.
    pub max_position_embeddings: usize,
    /// Whether the embedding is the output head, too; otherwise the checkpoint has a head of its own, `lm_head.weight`.
    pub tie_word_embeddings: bool,
    /// The tokens that end a text: usually one.
    pub eos_token_ids: Vec<u32>,
    /// How the checkpoint's matrices are quantized; `None` where they are plain numbers.
    pub quantization: Option<Quantization>,
    /// What is computed, and what else config.json says of it.
    pub(crate) architecture: Arc<dyn Architecture>,
}

impl Config {
    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Width of the queries of all heads.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of the keys of all heads, and of the values.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Tokens of context unless somebody asks for another number: as many as the model was trained on, at most 4,096. The KV cache is
    /// allocated whole, and that of 32,768 tokens is larger than many a model.
    pub fn default_context(&self) -> usize {
        self.max_position_embeddings.min(DEFAULT_CONTEXT_TOKENS)
    }

    /// The architecture's name in config.json, such as `xglm`.
    pub fn model_type(&self) -> &'static str {
        self.architecture.name()
    }

    /// What the model computes.
    pub(crate) fn recipe(&self) -> Recipe {
        self.architecture.recipe(self)
    }

    /// Bytes of the KV cache for one token, at `bytes` a value (2 for fp16, 4 for fp32).
    pub fn kv_bytes_per_token(&self, bytes: usize) -> u64 {
        (2 * self.num_layers * self.kv_width() * bytes) as u64
    }

    /// Parameters of the model, a tied head counted once.
    pub fn parameters(&self) -> u64 {
        self.recipe().parameters()
    }

    /// Parameters of the layers' matrices: each is multiplied once for every token.
    pub fn layer_parameters(&self) -> u64 {
        self.recipe().layer_parameters()
    }

    /// This model on a device that is asked to quantize it, or not.
    ///
    /// # Errors
    /// [`Error::Argument`] where it is stored in another way already.
    pub fn quantized(&self, quantize: Option<Quantization>) -> Result<Self> {
        match (self.quantization, quantize) {
            (Some(stored), Some(wanted)) if stored != wanted => Err(Error::argument(already(stored, wanted))),
            (stored, wanted) => Ok(Self { quantization: stored.or(wanted), ..self.clone() }),
        }
    }

    /// Reads a model folder's config.json and, where it has one, what generation_config.json says of the tokens that end a text.
    ///
    /// # Errors
    /// As [`Config::from_json`]; [`Error::Checkpoint`] when config.json is missing.
    pub async fn read(folder: &dyn Folder) -> Result<Self> {
        let mut config = Self::from_json(&folder.text("config.json", MAX_CONFIG_BYTES).await?)?;
        const GENERATION: &str = "generation_config.json";
        if folder.open(GENERATION).await?.is_some() {
            let text = folder.text(GENERATION, MAX_CONFIG_BYTES).await?;
            let problem = |problem| Error::checkpoint(GENERATION, problem);
            let value = json::parse(&text).map_err(problem)?;
            let fields = Fields(value.as_object().ok_or_else(|| problem("is no JSON object".to_owned()))?);
            if let Some(ids) = fields.token_ids("eos_token_id").map_err(problem)? {
                config.eos_token_ids = ids;
                config.check_eos().map_err(problem)?;
            }
        }
        Ok(config)
    }

    /// Reads config.json's text. Fields that are not used are accepted whatever they hold, and `NaN` and `Infinity` in them, which
    /// Python writes.
    ///
    /// # Errors
    /// [`Error::Config`] for wrong JSON or a missing or absurd size, [`Error::Unsupported`] for a model
    /// the shaders do not compute.
    pub fn from_json(json: &str) -> Result<Self> {
        let problem = |problem: String| Error::Config { problem };
        let value = json::parse(json).map_err(problem)?;
        let fields = Fields(value.as_object().ok_or_else(|| problem("is no JSON object".to_owned()))?);
        let config = arch::read(&fields)?;
        if config.head_dim() > MAX_HEAD_DIM {
            return unsupported(format!("head dim {}; the shaders compute at most {MAX_HEAD_DIM}", config.head_dim()));
        }
        config.check_eos().map_err(problem)?;
        Ok(config)
    }

    fn check_eos(&self) -> std::result::Result<(), String> {
        match self.eos_token_ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            Some(id) => Err(format!("eos_token_id {id} is not below vocab_size {}", self.vocab_size)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value};

    const TINY: &str =
        r#"{"model_type":"xglm","num_layers":2,"d_model":64,"attention_heads":4,"ffn_dim":256,"vocab_size":512}"#;

    #[test]
    fn reads_sizes_and_defaults() {
        let config = Config::from_json(TINY).unwrap();
        assert_eq!((config.head_dim(), config.max_position_embeddings, config.model_type()), (16, 2048, "xglm"));
        assert_eq!(config.recipe().embedding_scale(), 8.0);
        assert_eq!((config.tie_word_embeddings, config.eos_token_ids), (true, vec![2]));
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
    fn reads_what_the_ecosystem_writes() {
        let cases = include_str!("../../../../tests/cases/configs.json");
        let cases: Vec<Value> = serde_json::from_str(cases).unwrap();
        for case in &cases {
            let mut fields: Map<String, Value> = serde_json::from_str(TINY).unwrap();
            // A field is given as JSON text, since NaN is none; null as that text is a null, null itself takes the field out.
            let mut literal = Vec::new();
            for (name, text) in case["fields"].as_object().unwrap() {
                fields.remove(name);
                literal.extend(text.as_str().map(|text| format!("{}:{text}", Value::from(name.as_str()))));
            }
            literal.extend(fields.iter().map(|(name, value)| format!("{}:{value}", Value::from(name.as_str()))));
            let config = Config::from_json(&format!("{{{}}}", literal.join(",")));
            match (config, case["refused"].as_str()) {
                (Ok(config), None) => {
                    if let Some(eos) = case["eos"].as_array() {
                        let eos: Vec<u32> = eos.iter().map(|id| id.as_u64().unwrap() as u32).collect();
                        assert_eq!(config.eos_token_ids, eos, "{case}");
                    }
                    let tied = case["tied"].as_bool().unwrap_or(true);
                    assert_eq!(config.tie_word_embeddings, tied, "{case}");
                    let scaled = config.recipe().embedding_scale() != 1.0;
                    assert_eq!(scaled, case["scaled"].as_bool().unwrap_or(true), "{case}");
                    assert_eq!(config.d_model as u64, case["d_model"].as_u64().unwrap_or(64), "{case}");
                }
                (Err(error), Some(says)) => {
                    let error = error.to_string();
                    assert!(error.contains(says), "{case}: {error}");
                    let rust = ["Some(", "None", "struct", "invalid type", "u64", "u32"];
                    assert!(!rust.iter().any(|word| error.contains(word)), "{error}");
                }
                (config, _) => panic!("{case}: {config:?}"),
            }
        }
    }

    #[test]
    fn refuses_by_name() {
        for (from, to, says) in [
            ("xglm", "gpt2", "model_type \"gpt2\""),
            ("\"d_model\":64", "\"d_model\":0", "d_model is 0"),
            ("\"d_model\":64", "\"d_model\":66", "not divisible"),
            ("\"d_model\":64", "\"d_model\":20", "d_model 20"),
            ("\"ffn_dim\":256", "\"ffn_dim\":257", "ffn_dim 257"),
            ("\"d_model\":64", "\"d_model\":4096", "head dim 1024"),
            ("\"ffn_dim\":256,", "", "ffn_dim is missing"),
            ("}", ",\"activation_function\":\"relu\"}", "activation_function \"relu\""),
            ("}", ",\"eos_token_id\":512}", "eos_token_id 512"),
            ("}", "", "ends too early"),
        ] {
            let error = Config::from_json(&TINY.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
