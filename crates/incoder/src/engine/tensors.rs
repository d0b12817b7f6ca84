//! What a model is loaded from: the tensors of a checkpoint, or random ones.

use crate::checkpoint::config::Config;
use crate::checkpoint::{Checkpoint, Folder};
use crate::engine::random::Random;
use crate::error::Result;
use crate::quantize::{Format, Quantization, Rows};
use std::ops::Range;

/// Where a model's tensors are, not opened yet.
#[derive(Clone, Copy)]
pub(crate) enum Origin<'a> {
    Folder(&'a dyn Folder),
    Random { seed: u32 },
}

impl Origin<'_> {
    /// The tensors, quantized as they are stored, or else as `quantize` says.
    ///
    /// # Errors
    /// What [`Checkpoint::open`] refuses, and [`Config::quantized`].
    pub async fn open(self, config: &Config, quantize: Option<Quantization>) -> Result<Tensors> {
        let quantization = config.quantized(quantize)?.quantization;
        let source = match self {
            Self::Folder(folder) => TensorSource::Stored(Checkpoint::open(folder, config).await?),
            Self::Random { seed } => TensorSource::Random(Random::new(config, seed)),
        };
        Ok(Tensors { source, quantization })
    }
}

/// The tensors of a model.
#[derive(Debug)]
pub(crate) struct Tensors {
    pub source: TensorSource,
    /// How matrices are to be on the device.
    pub quantization: Option<Quantization>,
}

#[derive(Debug)]
pub(crate) enum TensorSource {
    Stored(Checkpoint),
    Random(Random),
}

impl Tensors {
    /// `config`, which these are of, with what they are quantized to.
    pub fn config(&self, config: &Config) -> Config {
        Config { quantization: self.quantization, ..config.clone() }
    }

    /// As [`Checkpoint::rows`], without a quantization that is still to come.
    ///
    /// # Errors
    /// As [`Checkpoint::rows`].
    pub async fn rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        match &self.source {
            TensorSource::Stored(checkpoint) => checkpoint.rows(name, rows).await,
            TensorSource::Random(random) => random.rows(name, rows),
        }
    }

    /// How the matrix `name` is to be on the device.
    pub fn format(&self, name: &str) -> Format {
        self.quantization.and_then(|quantization| quantization.format(name)).unwrap_or(Format::F16)
    }

    /// Rows of the matrix `name`, quantized.
    ///
    /// # Errors
    /// As [`Checkpoint::quantized`].
    pub async fn quantized(&self, name: &str, rows: Range<usize>, quantization: Quantization) -> Result<Rows> {
        match &self.source {
            TensorSource::Stored(checkpoint) => checkpoint.quantized(name, rows, quantization).await,
            TensorSource::Random(random) => random.quantized(name, rows, self.format(name)),
        }
    }
}
