//! What a step has to read and compute, whatever the kernels: the figures that times are divided into.

use incoder::{Config, Kv};

/// The costs of one model.
pub struct Work {
    /// Bytes of all weights; a step whose logits are read reads each once.
    weight_bytes: u64,
    /// Of them, those of the head.
    head_bytes: u64,
    /// Most tokens of one step of a prefill.
    chunk: usize,
    /// Bytes of the keys and values of one token in every layer.
    kv_bytes: u64,
    /// Parameters of the layers' matrices: a multiplication and an addition each, for every token.
    layer_parameters: u64,
    /// Parameters of the head, for every token whose logits are read.
    head_parameters: u64,
    /// Values of the keys of one token in every layer.
    key_values: u64,
}

impl Work {
    pub fn new(config: &Config, [weight_bytes, head_bytes]: [u64; 2], kv: Kv, chunk: usize) -> Self {
        Self {
            weight_bytes,
            head_bytes,
            chunk,
            kv_bytes: config.kv_bytes_per_token(kv.bytes()),
            layer_parameters: config.layer_parameters(),
            head_parameters: (config.vocab_size * config.d_model) as u64,
            key_values: (config.num_layers * config.query_width()) as u64,
        }
    }

    /// Bytes read to decode `new` tokens, one at a time, after `context` others: weights, keys and values.
    pub fn decode_bytes(&self, context: usize, new: usize) -> f64 {
        new as f64 * self.weight_bytes as f64 + attended(context, new) * self.kv_bytes as f64
    }

    /// Bytes read to prefill `prompt` tokens after `context` others: for each step of as many tokens as go into one, all weights
    /// once, but those of the head in the last step only, whose logits are read; and the keys and values of every token up to the
    /// step's last.
    pub fn prefill_bytes(&self, context: usize, prompt: usize) -> f64 {
        let steps = prompt.div_ceil(self.chunk);
        let layer_bytes = self.weight_bytes - self.head_bytes;
        let weights = self.weight_bytes + (steps as u64 - 1) * layer_bytes;
        let rows: usize = (1..=steps).map(|step| context + prompt.min(step * self.chunk)).sum();
        weights as f64 + rows as f64 * self.kv_bytes as f64
    }

    /// Floating-point operations to prefill `prompt` tokens and compute the logits after the last one.
    pub fn prefill_flop(&self, prompt: usize) -> f64 {
        let matrices = prompt as f64 * self.layer_parameters as f64 + self.head_parameters as f64;
        // Scores and values: a multiplication and an addition for each value of a key, and of a value.
        2.0 * matrices + 4.0 * attended(0, prompt) * self.key_values as f64
    }
}

/// Cache rows that `new` tokens attend to, all together, each to itself too.
fn attended(context: usize, new: usize) -> f64 {
    let (context, new) = (context as f64, new as f64);
    new * context + new * (new + 1.0) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_a_step_needs() {
        let sizes = r#""num_layers":2,"d_model":64,"attention_heads":4,"ffn_dim":256,"vocab_size":512"#;
        let config = Config::from_json(&format!("{{\"model_type\":\"xglm\",{sizes}}}")).unwrap();
        let work = Work::new(&config, [1_000_000, 2 * 512 * 64], Kv::F16, 8);
        // Each token adds 2 layers × 64 values × 2 bytes, for keys and for values.
        assert_eq!(work.decode_bytes(10, 2), 2_000_000.0 + (11.0 + 12.0) * 512.0);
        // One token is a step whoever asks for it; 20 are three of 8, 8 and 4, and the head is read once.
        assert_eq!(work.prefill_bytes(10, 1), work.decode_bytes(10, 1));
        assert_eq!(work.prefill_bytes(0, 8), 1_000_000.0 + 8.0 * 512.0);
        let layers = 1_000_000.0 - 2.0 * 512.0 * 64.0;
        assert_eq!(work.prefill_bytes(10, 20), 1_000_000.0 + 2.0 * layers + (18.0 + 26.0 + 30.0) * 512.0);
        let (matrices, head) = (2.0 * (4.0 * 64.0 * 64.0 + 2.0 * 64.0 * 256.0), 512.0 * 64.0);
        assert_eq!(work.prefill_flop(1), 2.0 * (matrices + head) + 4.0 * 128.0);
        assert_eq!(work.prefill_flop(3), 2.0 * (3.0 * matrices + head) + 4.0 * 6.0 * 128.0);
    }
}
