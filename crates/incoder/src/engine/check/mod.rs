//! Whether a GPU computes what the CPU computes: every kernel, with random weights and inputs, against the plain reference.

mod arrays;
mod kernels;

#[cfg(test)]
pub(crate) use arrays::{Values, read};
pub(crate) use kernels::Kernels;
#[cfg(test)]
pub(crate) use kernels::choose;

use crate::checkpoint::config::Config;
use crate::engine::forward::Kv;
use crate::engine::gpu::{Disabled, Gpu};
use crate::engine::tensors::Origin;
use crate::error::{Error, Result};
use serde::Serialize;
use std::fmt;

/// Tokens of the steps that are checked, and of how many of them the logits: every tile of columns, and two tiles at once.
const STEPS: [[usize; 2]; 4] = [[1, 1], [2, 2], [3, 1], [9, 9]];
/// Tokens of a step whose matrices are multiplied through workgroup memory, at least: one tile, and a part of a second.
const MANY: usize = 67;
/// Rows of the KV cache: attention is shared out over several workgroups.
const CAPACITY: usize = 300;
const SEED: u32 = 1;
/// What a quick check is done with: sizes that are no multiple of a tile, a workgroup or a block.
const QUICK: &str =
    r#"{"model_type":"xglm","num_layers":1,"d_model":136,"attention_heads":1,"ffn_dim":520,"vocab_size":1031}"#;

/// How far one output of a kernel is from the reference's.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct KernelCheck {
    /// The kernel's entry point, and which of its outputs where it has several.
    pub kernel: &'static str,
    /// Tokens of the step.
    pub tokens: usize,
    /// The largest difference, as a share of how large the values are; infinite where a value is not a number.
    pub error: f32,
    /// The most that sums in another order explain.
    pub tolerance: f32,
    /// The token, and the value of it, where that is.
    pub token: usize,
    /// See `token`.
    pub value: usize,
    /// What the GPU has there.
    pub got: f32,
    /// What the reference has there.
    pub expected: f32,
}

impl KernelCheck {
    /// Whether the difference is rounding. Written so that what is not a number is wrong.
    pub fn is_right(&self) -> bool {
        self.error <= self.tolerance
    }

    /// The difference as a share of what is tolerated; where nothing is, the difference itself.
    pub fn share(&self) -> f32 {
        if self.tolerance > 0.0 { self.error / self.tolerance } else { self.error }
    }
}

impl fmt::Display for KernelCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, tokens, token, value, got, expected, .. } = self;
        let tokens = if *tokens == 1 { "1 token".to_owned() } else { format!("{tokens} tokens") };
        write!(f, "{kernel} of {tokens}: value {value} of token {token} is {got}, expected {expected}")
    }
}

impl Gpu {
    /// Every kernel of a model in the sizes of `config`, one layer of it with random weights: one result for each output of each kernel, and
    /// for each number of tokens that has kernels of its own.
    ///
    /// # Errors
    /// [`Error::Kernel`] when one does not compile, [`Error::Limit`] and [`Error::OutOfMemory`] when the layer does not fit,
    /// [`Error::DeviceLost`] when the device is lost.
    pub async fn check_kernels(&self, config: &Config, kv: Kv) -> Result<Vec<KernelCheck>> {
        let layer = Config { num_layers: 1, ..config.clone() };
        let tensors = Origin::Random { seed: SEED }.open(&layer, None).await?;
        let mut kernels = Kernels::new(self, &layer, &tensors, CAPACITY, kv.first()).await?;
        let mut checks = Vec::new();
        let tiled_from = self.tuning().tiled_from as usize;
        let many = (tiled_from > 0).then(|| [tiled_from.max(MANY), 9]);
        for [tokens, logits] in STEPS.into_iter().chain(many) {
            checks.extend(kernels.check(tokens, logits, SEED).await?);
        }
        Ok(checks)
    }

    /// [`Gpu::check_kernels`] of a small layer: what is wrong in it, and the first of [`Disabled::each`] without which it is not.
    ///
    /// # Errors
    /// As [`Gpu::check_kernels`].
    pub(crate) async fn quick_check(&self) -> Result<Option<(String, Option<Disabled>)>> {
        let config = Config::from_json(QUICK)?;
        let wrong = match self.check_kernels(&config, Kv::F16).await {
            Ok(checks) => checks.iter().find(|check| !check.is_right()).map(KernelCheck::to_string),
            Err(error @ Error::Kernel { .. }) => Some(error.to_string()),
            Err(error) => return Err(error),
        };
        match wrong {
            Some(wrong) => Ok(Some((wrong, self.remedy(&config).await?))),
            None => Ok(None),
        }
    }

    /// The first of [`Disabled::each`] without which all kernels in the sizes of `config` are right; `None` where nothing helps. For
    /// a GPU with some that are not.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] when the device is lost.
    pub async fn remedy(&self, config: &Config) -> Result<Option<Disabled>> {
        for disabled in Disabled::each() {
            match self.without(disabled).check_kernels(config, Kv::F16).await {
                Ok(checks) if checks.iter().all(KernelCheck::is_right) => return Ok(Some(disabled)),
                Ok(_) => {}
                Err(lost @ Error::DeviceLost { .. }) => return Err(lost),
                Err(error) => tracing::info!("without {disabled}: {error}"),
            }
        }
        Ok(None)
    }
}
