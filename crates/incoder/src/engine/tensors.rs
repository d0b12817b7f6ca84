//! What a model is loaded from: the tensors of a checkpoint, or random ones.

use crate::checkpoint::config::Config;
use crate::checkpoint::{Checkpoint, Folder};
use crate::engine::random::Random;
use crate::error::Result;
use std::ops::Range;

/// Where a model's tensors are, not opened yet.
#[derive(Clone, Copy)]
pub(crate) enum Origin<'a> {
    Folder(&'a dyn Folder),
    Random { seed: u32 },
}

impl Origin<'_> {
    /// # Errors
    /// What [`Checkpoint::open`] refuses.
    pub async fn open(self, config: &Config) -> Result<Tensors> {
        match self {
            Self::Folder(folder) => Ok(Tensors::Stored(Checkpoint::open(folder, config).await?)),
            Self::Random { seed } => Ok(Tensors::Random(Random::new(config, seed))),
        }
    }
}

/// The tensors of a model.
#[derive(Debug)]
pub(crate) enum Tensors {
    Stored(Checkpoint),
    Random(Random),
}

impl Tensors {
    /// As [`Checkpoint::rows`].
    ///
    /// # Errors
    /// As [`Checkpoint::rows`].
    pub async fn rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        match self {
            Self::Stored(checkpoint) => checkpoint.rows(name, rows).await,
            Self::Random(random) => random.rows(name, rows),
        }
    }
}
