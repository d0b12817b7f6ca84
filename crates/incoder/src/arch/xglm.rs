//! XGLM, the architecture of InCoder.
//!
//! Source: `XGLMConfig` and `XGLMForCausalLM` of Hugging Face transformers 4.46.

use super::recipe::{Linear, Norm, NormKind, Op, Positions, Recipe};
use super::{Architecture, check_multiple_of_8, embedding, head};
use crate::checkpoint::config::Config;
use crate::checkpoint::fields::{Fields, shown, unsupported};
use crate::error::{Error, Result};
use serde_json::Value;
use std::sync::Arc;

/// The fields of config.json that only XGLM has.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Xglm {
    /// Whether embeddings are multiplied by sqrt(d_model).
    scale_embedding: bool,
}

/// The configuration, where config.json is that of an XGLM model.
pub(super) fn read(fields: &Fields<'_>) -> Option<Result<Config>> {
    let is_xglm = |value: &Value| value.as_str().is_some_and(|name| name.starts_with("XGLM"));
    let by_class = fields.get("architectures").and_then(Value::as_array).is_some_and(|all| all.iter().any(is_xglm));
    match fields.get("model_type") {
        Some(kind) if kind == "xglm" => Some(config(fields)),
        None if by_class => Some(config(fields)),
        _ => None,
    }
}

fn config(fields: &Fields<'_>) -> Result<Config> {
    let activation = fields.get("activation_function").or_else(|| fields.get("hidden_act"));
    if let Some(other) = activation.filter(|name| *name != "gelu" && *name != "gelu_python") {
        return unsupported(format!("activation_function {}; only \"gelu\" (exact) is computed", shown(other)));
    }
    let d_model = fields.size(["d_model", "hidden_size"], None, 1 << 16)?;
    let heads = fields.size(["attention_heads", "num_attention_heads"], None, 1 << 12)?;
    if !d_model.is_multiple_of(heads) {
        let problem = format!("d_model {d_model} is not divisible by attention_heads {heads}");
        return Err(Error::Config { problem });
    }
    let config = Config {
        num_layers: fields.size(["num_layers", "num_hidden_layers"], None, 1 << 12)?,
        d_model,
        heads,
        kv_heads: heads,
        head_dim: d_model / heads,
        ffn_dim: fields.size(["ffn_dim"; 2], None, 1 << 18)?,
        vocab_size: fields.size(["vocab_size"; 2], None, 1 << 24)?,
        max_position_embeddings: fields.size(["max_position_embeddings"; 2], Some(2048), 1 << 24)?,
        tie_word_embeddings: fields.flag_or("tie_word_embeddings", true)?,
        eos_token_ids: fields.eos_token_ids()?.unwrap_or_else(|| vec![2]),
        quantization: fields.quantization()?,
        architecture: Arc::new(Xglm { scale_embedding: fields.flag_or("scale_embedding", true)? }),
    };
    check_multiple_of_8(&[("d_model", config.d_model), ("ffn_dim", config.ffn_dim), ("head dim", config.head_dim())])?;
    Ok(config)
}

impl Architecture for Xglm {
    fn name(&self) -> &'static str {
        "xglm"
    }

    fn recipe(&self, config: &Config) -> Recipe {
        let (d, f) = (config.d_model, config.ffn_dim);
        let linear = Linear::biased;
        let norm = |name: &str| Norm { scale: format!("{name}.weight"), shift: Some(format!("{name}.bias")), width: d };
        let scale = if self.scale_embedding { (d as f64).sqrt() } else { 1.0 };
        let kind = NormKind { centred: true, eps: 1e-5 };
        let mut model = Recipe::new(Positions::Sinusoids, kind, Op::Embed { table: embedding(config), scale });
        for layer in 0..config.num_layers {
            let at = |name: &str| format!("layers.{layer}.{name}");
            model.layer(
                layer,
                [
                    Op::Norm(norm(&at("self_attn_layer_norm"))),
                    Op::QueryKeyValue {
                        query: linear(&at("self_attn.q_proj"), d, d),
                        key: linear(&at("self_attn.k_proj"), d, d),
                        value: linear(&at("self_attn.v_proj"), d, d),
                    },
                    Op::Attention,
                    Op::AttentionOutput(linear(&at("self_attn.out_proj"), d, d)),
                    Op::Norm(norm(&at("final_layer_norm"))),
                    Op::Gelu(linear(&at("fc1"), f, d)),
                    Op::FeedForwardOutput(linear(&at("fc2"), d, f)),
                ],
            );
        }
        model.layer(config.num_layers - 1, [Op::FinalNorm(norm("layer_norm")), Op::Logits(head(config))]);
        model
    }

    /// Some checkpoints contain the sinusoids, which are computed here.
    fn ignores(&self, tensor: &str) -> bool {
        tensor == "embed_positions.weights"
    }
}
