//! The two ways to compute a step: the GPU, and the plain CPU reference.

use crate::checkpoint::config::Config;
use crate::engine::cpu::Reference;
use crate::engine::forward::{Column, Kv};
use crate::engine::gpu::Gpu;
use crate::engine::{Choosing, Plan, Told};
use crate::error::Result;

/// A loaded model with its KV cache, wherever it runs.
#[derive(Debug)]
pub(crate) enum Backend {
    Cpu(Box<Reference>),
    Gpu(Box<Plan>),
}

impl Backend {
    pub fn config(&self) -> &Config {
        match self {
            Self::Cpu(model) => model.config(),
            Self::Gpu(plan) => plan.config(),
        }
    }

    /// The GPU, unless it is the CPU that computes.
    pub fn gpu(&self) -> Option<&Gpu> {
        match self {
            Self::Cpu(_) => None,
            Self::Gpu(plan) => Some(&plan.gpu),
        }
    }

    /// Rows of the KV cache.
    pub fn capacity(&self) -> usize {
        match self {
            Self::Cpu(model) => model.capacity(),
            Self::Gpu(plan) => plan.capacity(),
        }
    }

    /// How keys and values are stored.
    pub fn kv(&self) -> Kv {
        match self {
            Self::Cpu(model) => model.kv(),
            Self::Gpu(plan) => plan.kv(),
        }
    }

    /// Keys and values are stored in fp32 from here on; those that were there are gone.
    pub async fn widen(&mut self) -> Result<()> {
        match self {
            Self::Cpu(model) => model.widen(),
            Self::Gpu(plan) => plan.widen().await?,
        }
        Ok(())
    }

    /// Goes over to KV cache number `slot`, which is made where it is not there yet.
    pub async fn select(&mut self, slot: usize) -> Result<()> {
        match self {
            Self::Cpu(model) => model.select(slot),
            Self::Gpu(plan) => plan.select(slot).await,
        }
    }

    /// Most columns of one step: the prefill chunk, short enough that a cancel is felt at once.
    pub fn max_columns(&self) -> usize {
        match self {
            Self::Cpu(_) => 16,
            Self::Gpu(plan) => plan.max_columns(),
        }
    }

    /// Most columns of one step whose logits can be asked for.
    pub fn max_logits(&self) -> usize {
        match self {
            Self::Cpu(_) => 16,
            Self::Gpu(plan) => plan.max_logits(),
        }
    }

    /// One step: every column enters the cache; the logits [vocab] after each of the last `logits` columns.
    pub async fn forward(&mut self, columns: &[Column], logits: usize) -> Result<Vec<Vec<f32>>> {
        match self {
            Self::Cpu(model) => model.forward(columns, logits),
            Self::Gpu(plan) => plan.forward(columns, logits).await,
        }
    }

    /// One step, and what may follow each column, chosen where it was computed; `None` where that cannot be.
    pub async fn next(
        &mut self,
        columns: &[Column],
        left: usize,
        choosing: &Choosing<'_>,
    ) -> Option<Result<Vec<Told>>> {
        match self {
            Self::Cpu(_) => None,
            Self::Gpu(plan) if plan.gpu.disabled().choosing => None,
            Self::Gpu(plan) => Some(plan.next(columns, left, choosing).await),
        }
    }

    /// Whether the step of these columns, which chooses in this way, was begun before it was asked for.
    pub fn is_ahead(&self, columns: &[Column], choosing: &Choosing<'_>) -> bool {
        match self {
            Self::Cpu(_) => false,
            Self::Gpu(plan) => plan.is_ahead(columns, choosing),
        }
    }

    /// Steps that were begun are for nobody.
    pub fn forget(&mut self) {
        if let Self::Gpu(plan) = self {
            plan.forget();
        }
    }
}
