//! config.json → [`Config`], checked: every size the engine uses comes from here.

use crate::checkpoint::Folder;
use crate::checkpoint::json;
use crate::error::{Error, Result};
use crate::quantize::{Quantization, already};
use serde_json::{Map, Value};

/// Two values of a head a thread, and 256 threads are what every adapter allows in a workgroup.
const MAX_HEAD_DIM: usize = 512;
/// config.json has twenty lines, and some carry lists of labels; anything near this is not one.
const MAX_CONFIG_BYTES: u64 = 32 << 20;

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
    /// Rows of the embedding, and of the output head.
    pub vocab_size: usize,
    /// Positions the model was trained on. Longer contexts are legal: the sinusoids continue.
    pub max_position_embeddings: usize,
    /// Whether embeddings are multiplied by sqrt(d_model).
    pub scale_embedding: bool,
    /// Whether the embedding is the output head, too; otherwise the checkpoint has a head of its own, `lm_head.weight`.
    pub tie_word_embeddings: bool,
    /// The tokens that end a text: usually one.
    pub eos_token_ids: Vec<u32>,
    /// How the checkpoint's matrices are quantized; `None` where they are plain numbers.
    pub quantization: Option<Quantization>,
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

    /// Parameters of the model, a tied head counted once.
    pub fn parameters(&self) -> u64 {
        let (d, f) = (self.d_model as u64, self.ffn_dim as u64);
        let layer = 4 * d * d + 2 * d * f + 4 * d + f + d + 4 * d;
        let embeddings = if self.tie_word_embeddings { 1 } else { 2 };
        embeddings * self.vocab_size as u64 * d + self.num_layers as u64 * layer + 2 * d
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

    /// The tensor that the logits come from.
    pub(crate) fn head_name(&self) -> &'static str {
        if self.tie_word_embeddings { "embed_tokens.weight" } else { "lm_head.weight" }
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
        fields.check_kind()?;
        let config = Self {
            num_layers: fields.size(["num_layers", "num_hidden_layers"], None, 1 << 12)?,
            d_model: fields.size(["d_model", "hidden_size"], None, 1 << 16)?,
            heads: fields.size(["attention_heads", "num_attention_heads"], None, 1 << 12)?,
            ffn_dim: fields.size(["ffn_dim"; 2], None, 1 << 18)?,
            vocab_size: fields.size(["vocab_size"; 2], None, 1 << 24)?,
            max_position_embeddings: fields.size(["max_position_embeddings"; 2], Some(2048), 1 << 24)?,
            scale_embedding: fields.flag("scale_embedding")?,
            tie_word_embeddings: fields.flag("tie_word_embeddings")?,
            eos_token_ids: fields.token_ids("eos_token_id").map_err(problem)?.unwrap_or_else(|| vec![2]),
            quantization: fields.get("quantization_config").map(Quantization::from_config).transpose()?,
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

/// The fields of config.json. One that is null is as one that is not there.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Refuses models that are computed in another way.
    fn check_kind(&self) -> Result<()> {
        let is_xglm = |value: &Value| value.as_str().is_some_and(|name| name.starts_with("XGLM"));
        let by_class = self.get("architectures").and_then(Value::as_array).is_some_and(|all| all.iter().any(is_xglm));
        match self.get("model_type") {
            Some(kind) if kind == "xglm" => {}
            None if by_class => {}
            Some(kind) => return unsupported(format!("model_type {}; InCoder checkpoints say \"xglm\"", shown(kind))),
            None => return unsupported("config.json has no model_type; InCoder checkpoints say \"xglm\"".to_owned()),
        }
        let activation = self.get("activation_function").or_else(|| self.get("hidden_act"));
        if let Some(other) = activation.filter(|name| *name != "gelu" && *name != "gelu_python") {
            let what = format!("activation_function {}; only \"gelu\" (exact) is computed", shown(other));
            return unsupported(what);
        }
        Ok(())
    }

    /// A size from 1 to `max`, under either of its `names`: the second is the one that all of transformers' models share.
    fn size(&self, names: [&str; 2], default: Option<usize>, max: u64) -> Result<usize> {
        let problem = |problem: String| Err(Error::Config { problem });
        let mut found = None;
        for name in names {
            let Some(value) = self.get(name) else { continue };
            match whole(value) {
                Some(size) if (1..=max as i64).contains(&size) => {
                    if let Some(before) = found.filter(|&before| before != size as usize) {
                        let [first, second] = names;
                        return problem(format!("{first} is {before} and {second} is {size}: they must be the same"));
                    }
                    found = Some(size as usize);
                }
                _ => return problem(format!("{name} is {}, expected a whole number from 1 to {max}", shown(value))),
            }
        }
        match found.or(default) {
            Some(size) => Ok(size),
            None => problem(format!("{} is missing", names[0])),
        }
    }

    /// A flag that is true unless it is there and false: the default of all that are read here.
    fn flag(&self, name: &str) -> Result<bool> {
        match self.get(name) {
            None => Ok(true),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => {
                Err(Error::Config { problem: format!("{name} is {}, expected true or false", shown(other)) })
            }
        }
    }

    /// One id, several, or none: a number, a list, or null. Negative numbers are no ids. `None` when there is no such field.
    fn token_ids(&self, name: &str) -> std::result::Result<Option<Vec<u32>>, String> {
        let id = |value: &Value| match whole(value) {
            Some(id) if id < 0 => Ok(None),
            Some(id) if id <= i64::from(u32::MAX) => Ok(Some(id as u32)),
            _ => Err(format!("{name} is {}, expected a token id or a list of them", shown(value))),
        };
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(Vec::new())),
            Some(Value::Array(all)) => {
                all.iter().filter_map(|value| id(value).transpose()).collect::<std::result::Result<_, _>>().map(Some)
            }
            Some(one) => Ok(Some(id(one)?.into_iter().collect())),
        }
    }
}

/// A whole number, also where it is written as 64.0.
fn whole(value: &Value) -> Option<i64> {
    let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(whole))
}

/// A value as config.json spells it, shortened.
fn shown(value: &Value) -> String {
    const MOST: usize = 60;
    let text = match value {
        Value::String(text) if json::NOT_FINITE.contains(&text.as_str()) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() <= MOST { text } else { text.chars().take(MOST).chain(['…']).collect() }
}

fn unsupported<T>(what: String) -> Result<T> {
    Err(Error::Unsupported { what })
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
                    assert_eq!(config.scale_embedding, case["scaled"].as_bool().unwrap_or(true), "{case}");
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
