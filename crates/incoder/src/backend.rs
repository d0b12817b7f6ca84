//! The two ways to compute a step: the GPU, and the plain CPU reference.

use crate::config::Config;
use crate::error::Result;
use crate::forward::Column;
use crate::reference::Reference;

/// A loaded model with its KV cache, wherever it runs.
#[derive(Debug)]
pub(crate) enum Backend {
    Cpu(Box<Reference>),
}

impl Backend {
    pub fn config(&self) -> &Config {
        match self {
            Self::Cpu(model) => model.config(),
        }
    }

    /// Rows of the KV cache.
    pub fn capacity(&self) -> usize {
        match self {
            Self::Cpu(model) => model.capacity(),
        }
    }

    /// Most columns of one step: the prefill chunk, short enough that a cancel is felt at once.
    pub fn max_columns(&self) -> usize {
        match self {
            Self::Cpu(_) => 16,
        }
    }

    /// Most columns of one step whose logits can be asked for.
    pub fn max_logits(&self) -> usize {
        match self {
            Self::Cpu(_) => 16,
        }
    }

    /// One step: every column enters the cache; the logits [vocab] after each of the last `logits` columns.
    pub async fn forward(&mut self, columns: &[Column], logits: usize) -> Result<Vec<Vec<f32>>> {
        match self {
            Self::Cpu(model) => Ok(model.forward(columns, logits)),
        }
    }
}
