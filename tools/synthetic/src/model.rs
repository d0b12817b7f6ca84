//! A model's sizes → its config.json, and its tensors with the distribution of their values.

use crate::values::{Dtype, Values};

/// Standard deviation of the logits.
const LOGIT_STD: f64 = 3.0;
/// Standard deviation of the scaled embedding, and of what all attention and all feed-forward layers add to it.
const EMBEDDING_STD: f64 = 1.0;
const ATTENTION_STD: f64 = 1.0;
const FEED_FORWARD_STD: f64 = 6.0;
/// Standard deviation of the queries and keys; attention scores then have its square: clearly not uniform.
const QUERY_STD: f64 = 1.5;
/// Root mean square of gelu(x) for a standard normal x.
const GELU_RMS: f64 = 0.65;
const BIAS_STD: f64 = 0.05;
/// Relative spread of layer-norm weights.
const NORM_STD: f64 = 0.1;

/// The sizes of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Transformer layers.
    pub num_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub ffn_dim: usize,
    /// Token ids; rows of the (tied) embedding.
    pub vocab_size: usize,
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    /// State-dict key, with the prefix `model.`.
    pub name: String,
    /// Linear weights are [out, in].
    pub shape: Vec<usize>,
    pub values: Values,
}

impl Tensor {
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }

    pub fn bytes(&self, dtype: Dtype) -> u64 {
        self.elements() * dtype.bytes() as u64
    }
}

impl Model {
    /// The sizes of InCoder-1B.
    pub fn incoder_1b() -> Self {
        Self { num_layers: 24, d_model: 2048, heads: 32, ffn_dim: 8192, vocab_size: 50518 }
    }

    /// The sizes of InCoder-6B.
    pub fn incoder_6b() -> Self {
        Self { num_layers: 32, d_model: 4096, heads: 32, ffn_dim: 16384, vocab_size: 50518 }
    }

    /// Parameters, the tied head counted once.
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(Tensor::elements).sum()
    }

    /// config.json with the published fields.
    pub fn config_json(&self, dtype: Dtype) -> String {
        let torch_dtype = match dtype {
            Dtype::F32 => "float32",
            Dtype::F16 => "float16",
            Dtype::Bf16 => "bfloat16",
        };
        let config = serde_json::json!({
            "activation_dropout": 0.0,
            "activation_function": "gelu",
            "architectures": ["XGLMForCausalLM"],
            "attention_dropout": 0.1,
            "attention_heads": self.heads,
            "bos_token_id": 0,
            "d_model": self.d_model,
            "decoder_start_token_id": 2,
            "dropout": 0.1,
            "eos_token_id": 2,
            "ffn_dim": self.ffn_dim,
            "init_std": 0.02,
            "layerdrop": 0.0,
            "max_position_embeddings": 2048,
            "model_type": "xglm",
            "num_layers": self.num_layers,
            "pad_token_id": 1,
            "scale_embedding": true,
            "torch_dtype": torch_dtype,
            "transformers_version": "4.18.0.dev0",
            "use_cache": true,
            "vocab_size": self.vocab_size,
        });
        format!("{config:#}\n")
    }

    /// All tensors in the order of the published state dict.
    ///
    /// The scale is such that greedy output is not one token over and over, whatever the sizes. Weights of
    /// 1 / sqrt(inputs) keep activations near 1, and each kind of layer adds as much whatever their number. The final layer
    /// norm's weights have random signs: with weights near 1 an untrained model whose head is tied answers every token
    /// with that token. fc2 takes the hidden values in pairs of opposite sign, so that GELU's positive mean, which is the
    /// same at every position, cancels.
    pub(crate) fn tensors(&self) -> Vec<Tensor> {
        let (d, f) = (self.d_model, self.ffn_dim);
        let normal = |std| Values::normal(0.0, std);
        let (from_d, from_f) = ((d as f64).sqrt().recip(), (f as f64).sqrt().recip());
        let share = (self.num_layers as f64).sqrt().recip();
        let mut list = List::default();
        list.add("embed_tokens.weight", &[self.vocab_size, d], normal(EMBEDDING_STD * from_d));
        for layer in 0..self.num_layers {
            let name = |part: &str| format!("layers.{layer}.{part}");
            list.linear(&name("self_attn.k_proj"), d, d, normal(QUERY_STD * from_d));
            list.linear(&name("self_attn.v_proj"), d, d, normal(from_d));
            list.linear(&name("self_attn.q_proj"), d, d, normal(QUERY_STD * from_d));
            list.linear(&name("self_attn.out_proj"), d, d, normal(ATTENTION_STD * share * from_d));
            list.norm(&name("self_attn_layer_norm"), d, Values::normal(1.0, NORM_STD));
            list.linear(&name("fc1"), f, d, normal(from_d));
            let fc2 = normal(FEED_FORWARD_STD * share / GELU_RMS * from_f).with_opposed_pairs();
            list.linear(&name("fc2"), d, f, fc2);
            list.norm(&name("final_layer_norm"), d, Values::normal(1.0, NORM_STD));
        }
        let weight = LOGIT_STD / EMBEDDING_STD;
        let signed = Values::normal(weight, weight * NORM_STD).with_random_signs();
        list.norm("layer_norm", d, signed);
        list.0
    }
}

#[derive(Default)]
struct List(Vec<Tensor>);

impl List {
    fn add(&mut self, name: &str, shape: &[usize], values: Values) {
        self.0.push(Tensor { name: format!("model.{name}"), shape: shape.to_vec(), values });
    }

    fn linear(&mut self, name: &str, out: usize, inputs: usize, weight: Values) {
        self.add(&format!("{name}.weight"), &[out, inputs], weight);
        self.add(&format!("{name}.bias"), &[out], Values::normal(0.0, BIAS_STD));
    }

    fn norm(&mut self, name: &str, width: usize, weight: Values) {
        self.add(&format!("{name}.weight"), &[width], weight);
        self.add(&format!("{name}.bias"), &[width], Values::normal(0.0, BIAS_STD));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_published_number_of_parameters() {
        assert_eq!(Model::incoder_1b().parameters(), 1_312_063_488);
        assert_eq!(Model::incoder_6b().parameters(), 6_651_084_800);
    }
}
