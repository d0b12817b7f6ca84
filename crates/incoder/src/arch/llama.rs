//! The Llama family: Llama and Qwen2 models, which differ in their biases only.
//!
//! Source: `LlamaForCausalLM` and `Qwen2ForCausalLM` of Hugging Face transformers 4.46.

use super::recipe::{Linear, Norm, NormKind, Op, Positions, Recipe};
use super::{Architecture, Rotary, check_multiple_of_8, embedding, head};
use crate::checkpoint::config::Config;
use crate::checkpoint::fields::{Fields, shown, unsupported};
use crate::error::{Error, Result};
use std::sync::Arc;

/// The fields of config.json that only this family has.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Llama {
    name: &'static str,
    norm_eps: f32,
    rotary: Rotary,
    /// Whether queries, keys and values have biases.
    qkv_bias: bool,
    /// Whether attention's output has one.
    output_bias: bool,
    /// Whether the feed-forward layer has biases.
    mlp_bias: bool,
}

/// The configuration, where config.json is that of a Llama or Qwen2 model.
pub(super) fn read(fields: &Fields<'_>) -> Option<Result<Config>> {
    match fields.get("model_type").and_then(|kind| kind.as_str()) {
        Some("llama") => Some(config(fields, "llama")),
        Some("qwen2") => Some(config(fields, "qwen2")),
        _ => None,
    }
}

fn config(fields: &Fields<'_>, name: &'static str) -> Result<Config> {
    if let Some(other) = fields.get("hidden_act").filter(|name| *name != "silu") {
        return unsupported(format!("hidden_act {}; only \"silu\" is computed", shown(other)));
    }
    if fields.flag_or("use_sliding_window", false)? {
        return unsupported("use_sliding_window true; every token attends to all before it".to_owned());
    }
    let d_model = fields.size(["hidden_size"; 2], None, 1 << 16)?;
    let heads = fields.size(["num_attention_heads"; 2], None, 1 << 12)?;
    let kv_heads = fields.size(["num_key_value_heads"; 2], Some(heads), 1 << 12)?;
    if !heads.is_multiple_of(kv_heads) {
        let problem = format!("num_attention_heads {heads} is not divisible by num_key_value_heads {kv_heads}");
        return Err(Error::Config { problem });
    }
    let max_position_embeddings = fields.size(["max_position_embeddings"; 2], Some(2048), 1 << 24)?;
    let head_dim = fields.size(["head_dim"; 2], Some((d_model / heads).max(1)), 1 << 16)?;
    check_multiple_of_8(&[("hidden_size", d_model), ("head_dim", head_dim)])?;
    let eps = fields.number("rms_norm_eps")?.unwrap_or(1e-6);
    if !(0.0..1.0).contains(&eps) {
        return Err(Error::Config { problem: format!("rms_norm_eps is {eps}, expected a number from 0 to 1") });
    }
    let is_llama = name == "llama";
    let biases = is_llama && fields.flag_or("attention_bias", false)?;
    let architecture = Llama {
        name,
        norm_eps: eps as f32,
        rotary: Rotary::read(fields, head_dim, max_position_embeddings)?,
        qkv_bias: biases || !is_llama,
        output_bias: biases,
        mlp_bias: is_llama && fields.flag_or("mlp_bias", false)?,
    };
    let config = Config {
        num_layers: fields.size(["num_hidden_layers"; 2], None, 1 << 12)?,
        d_model,
        heads,
        kv_heads,
        head_dim,
        ffn_dim: fields.size(["intermediate_size"; 2], None, 1 << 18)?,
        vocab_size: fields.size(["vocab_size"; 2], None, 1 << 24)?,
        max_position_embeddings,
        tie_word_embeddings: fields.flag_or("tie_word_embeddings", false)?,
        eos_token_ids: fields.eos_token_ids()?.unwrap_or_default(),
        quantization: fields.quantization()?,
        architecture: Arc::new(architecture),
    };
    check_multiple_of_8(&[("intermediate_size", config.ffn_dim)])?;
    Ok(config)
}

impl Architecture for Llama {
    fn name(&self) -> &'static str {
        self.name
    }

    fn recipe(&self, config: &Config) -> Recipe {
        let Config { d_model: d, ffn_dim: f, .. } = *config;
        let (q, kv) = (config.query_width(), config.kv_width());
        let linear = |bias: bool, name: &str, rows: usize, inputs: usize| match bias {
            true => Linear::biased(name, rows, inputs),
            false => Linear::plain(name, rows, inputs),
        };
        let norm = |name: &str| Norm { scale: format!("{name}.weight"), shift: None, width: d };
        let kind = NormKind { centred: false, eps: self.norm_eps };
        let embed = Op::Embed { table: embedding(config), scale: 1.0 };
        let mut model = Recipe::new(Positions::Rotary(self.rotary.clone()), kind, embed);
        for layer in 0..config.num_layers {
            let at = |name: &str| format!("layers.{layer}.{name}");
            model.layer(
                layer,
                [
                    Op::Norm(norm(&at("input_layernorm"))),
                    Op::QueryKeyValue {
                        query: linear(self.qkv_bias, &at("self_attn.q_proj"), q, d),
                        key: linear(self.qkv_bias, &at("self_attn.k_proj"), kv, d),
                        value: linear(self.qkv_bias, &at("self_attn.v_proj"), kv, d),
                    },
                    Op::Attention,
                    Op::AttentionOutput(linear(self.output_bias, &at("self_attn.o_proj"), d, q)),
                    Op::Norm(norm(&at("post_attention_layernorm"))),
                    Op::GatedSilu {
                        gate: linear(self.mlp_bias, &at("mlp.gate_proj"), f, d),
                        up: linear(self.mlp_bias, &at("mlp.up_proj"), f, d),
                    },
                    Op::FeedForwardOutput(linear(self.mlp_bias, &at("mlp.down_proj"), d, f)),
                ],
            );
        }
        model.layer(config.num_layers - 1, [Op::FinalNorm(norm("norm")), Op::Logits(head(config))]);
        model
    }

    /// Old checkpoints contain the frequencies, which are computed here.
    fn ignores(&self, tensor: &str) -> bool {
        tensor.ends_with("rotary_emb.inv_freq")
    }
}
