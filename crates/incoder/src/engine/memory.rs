//! What a model takes of a GPU, known from its config.json alone.

use super::plan::MAX_LOGITS;
use super::stack::Stack;
use super::step::MOST_COLUMNS;
use super::weights::BLOCK_ROWS;
use crate::arch::recipe::{Op, Positions};
use crate::checkpoint::config::Config;
use crate::engine::forward::Kv;
use crate::engine::gpu::MemoryLimits;
use crate::error::Error;
use crate::quantize::Format;
use std::collections::BTreeSet;

/// Tokens of one prefill chunk on hardware: short enough that a cancel is felt and the page stays alive.
const HARDWARE_COLUMNS: u64 = MOST_COLUMNS as u64;
/// The same on software adapters, which compute a few tokens a second.
const SOFTWARE_COLUMNS: u64 = 32;
/// What a model takes of a GPU, bytes. While it loads, staging memory of up to 128 MB comes on top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Tokens that the KV cache holds.
    pub context: usize,
    /// Matrices in fp16 or quantized, padded to whole blocks of 64 rows; biases and norms as fp32.
    pub weights: u64,
    /// Of them, those of the matrix that the logits come from.
    pub head: u64,
    /// Keys and values of every layer.
    pub kv_cache: u64,
    /// What a step computes in: activations, attention scores, positions, logits.
    pub scratch: u64,
    /// Buffers that cannot be split, as (what, bytes), the largest first. Matrices are split by rows wherever needed.
    pub unsplit: Vec<(&'static str, u64)>,
}

impl MemoryPlan {
    /// The plan for a KV cache of `context` tokens.
    pub fn new(config: &Config, context: usize, kv: Kv, limits: &MemoryLimits) -> Self {
        let [layers_in, tables_in] = config.quantization.map_or([Format::F16; 2], |one| [one.layers(), one.tables()]);
        let recipe = config.recipe();
        let (d, vocab) = (config.d_model as u64, config.vocab_size as u64);
        let (f, queries, kv_width) = (config.ffn_dim as u64, config.query_width() as u64, config.kv_width() as u64);
        let (layers, heads, context_rows) = (config.num_layers as u64, config.heads as u64, context as u64);
        let blocks = |rows: u64| rows.next_multiple_of(BLOCK_ROWS as u64);
        let row = |format: Format, inputs: usize| format.bytes(inputs) as u64;
        let (mut matrices, mut vectors, mut block) = (0, 0, 0);
        let mut tables = BTreeSet::new();
        for op in recipe.all() {
            let Some(stack) = Stack::of(op, None) else { continue };
            let table = op.table();
            // A tied head is there once.
            if table.is_some() && !tables.insert(stack.names[0].clone()) {
                continue;
            }
            let bytes = row(if table.is_some() { tables_in } else { layers_in }, stack.inputs);
            block = block.max(BLOCK_ROWS as u64 * bytes);
            matrices += blocks(stack.rows() as u64) * bytes;
            vectors += if table.is_some() { 0 } else { 4 * stack.rows() as u64 };
        }
        vectors += recipe.all().filter_map(Op::norm).map(|norm| 8 * norm.width as u64).sum::<u64>();
        let of_context = |values: u64, bytes: u64| context_rows.saturating_mul(values).saturating_mul(bytes);
        let one_side = of_context(kv_width, kv.bytes() as u64);
        let columns = max_columns(config, context, limits) as u64;
        let logits = 4 * (MAX_LOGITS as u64).min(columns) * blocks(vocab);
        let positions = match recipe.positions {
            Positions::Sinusoids => of_context(d, 4),
            Positions::Rotary(_) => of_context(config.head_dim() as u64, 4),
        };
        let scores = context_rows.div_ceil(4).saturating_mul(heads).saturating_mul(16);
        let mut unsplit = vec![
            ("positions", positions),
            ("keys or values of a layer", one_side),
            ("attention scores of one token", scores),
            ("logits", logits),
            ("one block of a matrix", block),
        ];
        unsplit.sort_by_key(|buffer| std::cmp::Reverse(buffer.1));
        let activations = 4 * columns * (2 * d + 2 * queries + f);
        Self {
            context,
            weights: matrices + vectors,
            head: blocks(vocab) * row(tables_in, config.d_model),
            kv_cache: one_side.saturating_mul(2 * layers),
            scratch: activations
                .saturating_add(columns.saturating_mul(scores))
                .saturating_add(positions)
                .saturating_add(2 * logits),
            unsplit,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv_cache).saturating_add(self.scratch)
    }

    /// What is too large for these limits, as [`Error::Limit`]; empty when nothing is.
    pub fn blockers(&self, limits: &MemoryLimits) -> Vec<Error> {
        let too_large = self.unsplit.iter().filter(|(_, need)| *need > limits.buffer());
        too_large
            .map(|(what, need)| Error::Limit {
                what: format!("{what} (a binding, bytes)"),
                need: *need,
                have: limits.buffer(),
            })
            .collect()
    }

    /// The most tokens of context with which the model keeps to these limits, and to `memory` bytes in all where that is
    /// known; at most `most`. `None` when not even one token fits.
    pub fn largest_context(
        config: &Config,
        most: usize,
        kv: Kv,
        limits: &MemoryLimits,
        memory: Option<u64>,
    ) -> Option<usize> {
        let fits = |context: usize| {
            let plan = Self::new(config, context, kv, limits);
            plan.blockers(limits).is_empty() && memory.is_none_or(|memory| plan.total() <= memory)
        };
        let (mut low, mut high) = (0, most);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if fits(middle) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        (low > 0).then_some(low)
    }
}

/// Tokens of one step; fewer where the widest activation would not fit a binding.
pub(super) fn max_columns(config: &Config, context: usize, limits: &MemoryLimits) -> usize {
    let widest = (config.heads as u64)
        .saturating_mul((context as u64).div_ceil(4))
        .saturating_mul(4)
        .max(config.ffn_dim.max(config.d_model).max(config.query_width()) as u64);
    let fitting = limits.buffer() / widest.saturating_mul(4).max(1);
    let wanted = if limits.software { SOFTWARE_COLUMNS } else { HARDWARE_COLUMNS };
    wanted.min(fitting).max(1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::Quantization;
    use proptest::prelude::*;

    fn published(layers: usize, d: usize) -> Config {
        let f = 4 * d;
        let sizes = format!("\"num_layers\":{layers},\"d_model\":{d},\"attention_heads\":32,\"ffn_dim\":{f}");
        Config::from_json(&format!("{{\"model_type\":\"xglm\",{sizes},\"vocab_size\":50518}}")).unwrap()
    }

    #[test]
    fn six_billion_parameters_take_less_than_15_gb() {
        let plan = MemoryPlan::new(&published(32, 4096), 2048, Kv::F16, &MemoryLimits::default());
        assert!(plan.weights >= 13_302_169_600 && plan.kv_cache == 2048 * 524_288, "{plan:?}");
        assert!(plan.total() <= 15_000_000_000, "{plan:?}");
        assert_eq!(plan.blockers(&MemoryLimits::default()).len(), 0);
    }

    #[test]
    fn quantized_models_fit_small_gpus() {
        let limits = MemoryLimits::default();
        for (layers, d, quantization, weights, memory) in [
            (24, 2048, Quantization::Q8, 1_394_000_000, 2_500_000_000),
            (24, 2048, Quantization::Q4, 868_000_000, 2_000_000_000),
            (32, 4096, Quantization::Q8, 7_067_000_000, 12_000_000_000),
            (32, 4096, Quantization::Q4, 4_253_000_000, 8_000_000_000),
        ] {
            let config = published(layers, d).quantized(Some(quantization)).unwrap();
            let plan = MemoryPlan::new(&config, 2048, Kv::F16, &limits);
            let close = plan.weights.abs_diff(weights) < weights / 200;
            assert!(close && plan.total() <= memory, "{layers} layers in {quantization:?}: {plan:?}");
        }
    }

    #[test]
    fn names_what_is_too_large_and_what_would_fit() {
        let (config, limits) = (published(24, 2048), MemoryLimits { binding_bytes: 4 << 20, ..Default::default() });
        let plan = MemoryPlan::new(&config, 2048, Kv::F16, &limits);
        let said: Vec<String> = plan.blockers(&limits).iter().map(ToString::to_string).collect();
        assert_eq!(said[0], "positions (a binding, bytes) needs 16777216, this adapter allows 4194304");
        assert_eq!(said.len(), 2, "{said:?}");
        let context = MemoryPlan::largest_context(&config, 2048, Kv::F16, &limits, None);
        assert_eq!(context, Some(512));
        assert_eq!(MemoryPlan::largest_context(&config, 2048, Kv::F16, &limits, Some(2_000_000_000)), None);
    }

    #[test]
    fn no_buffer_is_larger_than_drivers_count() {
        let limits = MemoryLimits { binding_bytes: 4 << 30, buffer_bytes: 8 << 30, software: false };
        let most = i32::MAX as u64;
        assert_eq!((limits.buffer(), limits.usable().map(|limit| limit.1)), (most, [most; 2]));
        let plan = |context| MemoryPlan::new(&published(24, 2048), context, Kv::F16, &limits);
        // Of each token a row of 2048 positions in fp32.
        for (context, blockers) in [(262_143, 0), (262_144, 1)] {
            assert_eq!(plan(context).blockers(&limits).len(), blockers, "{context}");
        }
    }

    proptest! {
        /// The answer fits, and one token more does not.
        #[test]
        fn the_largest_context_is_the_largest(binding in 1u64 << 20..1 << 30, memory in 2_600_000_000u64..4_000_000_000) {
            let (config, limits) = (published(24, 2048), MemoryLimits { binding_bytes: binding, ..Default::default() });
            let fits = |context| {
                let plan = MemoryPlan::new(&config, context, Kv::F16, &limits);
                plan.blockers(&limits).is_empty() && plan.total() <= memory
            };
            match MemoryPlan::largest_context(&config, 2048, Kv::F16, &limits, Some(memory)) {
                Some(context) => prop_assert!(fits(context) && (context == 2048 || !fits(context + 1))),
                None => prop_assert!(!fits(1)),
            }
        }
    }
}
