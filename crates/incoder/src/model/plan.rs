//! The forward step over named buffers: the recipe of the model, laid out once at load.

use super::step::{Shapes, Step};
use super::weights::{BLOCK_ROWS, Weights};
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::Result;
use crate::forward::{Column, Kv, sinusoids};
use crate::gpu::Gpu;

/// Tokens of one prefill chunk on hardware: short enough that a cancel is felt and the page stays alive.
const HARDWARE_COLUMNS: usize = 128;
/// The same on software adapters, which compute a few tokens a second.
const SOFTWARE_COLUMNS: usize = 32;
/// Tokens of one step whose logits can be read.
const MAX_LOGITS: usize = 16;

/// A loaded model: weights, KV cache and the dispatches of one step.
#[derive(Debug)]
pub(crate) struct Plan {
    gpu: Gpu,
    config: Config,
    capacity: usize,
    max_columns: usize,
    step: Step,
    logits: wgpu::Buffer,
    staging: wgpu::Buffer,
    /// Values from one column's logits to the next.
    logits_stride: usize,
}

impl Plan {
    /// Uploads the weights, makes room for `capacity` tokens and lays out the step.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] and [`crate::Error::OutOfMemory`] when the adapter cannot hold the model, and what
    /// reading the checkpoint reports.
    pub async fn load(
        gpu: &Gpu,
        config: &Config,
        checkpoint: &Checkpoint,
        capacity: usize,
        kv: Kv,
        loaded: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let bytes = config.parameters() * 2 + config.kv_bytes_per_token(kv.bytes()) * capacity as u64;
        let load = async || {
            let weights = Weights::load(gpu, config, checkpoint, loaded).await?;
            Self::new(gpu, config, &weights, capacity, kv)
        };
        gpu.allocating("the model and its KV cache", bytes, load).await
    }

    fn new(gpu: &Gpu, config: &Config, weights: &Weights, capacity: usize, kv: Kv) -> Result<Self> {
        let (d, heads) = (config.d_model, config.heads);
        let software = gpu.report().kind == "software";
        let score_bytes = (heads * capacity * 4) as u64;
        let fitting = (gpu.max_binding_bytes() / score_bytes).max(1) as usize;
        let max_columns = if software { SOFTWARE_COLUMNS } else { HARDWARE_COLUMNS }.min(fitting);
        let max_logits = MAX_LOGITS.min(max_columns);

        let activations = |what: &str, width: usize| gpu.storage(what, (max_columns * width * 4) as u64);
        let x = activations("x", d)?;
        let h = activations("h", d)?;
        let q = activations("q", d)?;
        let mixed = activations("mixed", d)?;
        let inner = activations("inner", config.ffn_dim)?;
        let scores = activations("scores", heads * capacity)?;
        // The buffer first: it refuses a context too long for the adapter before the host computes a table for it.
        let positions = gpu.storage("positions", (capacity * d * 4) as u64)?;
        gpu.queue.write_buffer(&positions, 0, bytemuck::cast_slice(&sinusoids(capacity, d)));
        let logits_stride = config.vocab_size.next_multiple_of(BLOCK_ROWS);
        let logits_bytes = (max_logits * logits_stride * 4) as u64;
        let logits = gpu.storage("logits", logits_bytes)?;
        let readable = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = gpu.buffer("logits to read", logits_bytes, readable)?;

        let mut step = Step::new(gpu, Shapes::new(config, capacity, kv), max_columns)?;
        step.embed(&weights.embedding, &positions, &x);
        for layer in &weights.layers {
            let cache_bytes = (capacity * d * kv.bytes()) as u64;
            let keys = gpu.storage("keys", cache_bytes)?;
            let values = gpu.storage("values", cache_bytes)?;
            step.norm(&x, &layer.attention_norm, &h);
            step.qkv(&h, &layer.qkv, &q, &keys, &values);
            step.scores(&q, &keys, &scores);
            step.values(&scores, &values, &mixed);
            step.residual(&mixed, &layer.out, &x);
            step.norm(&x, &layer.ffn_norm, &h);
            step.gelu(&h, &layer.fc1, &inner);
            step.residual(&inner, &layer.fc2, &x);
        }
        step.norm_last(&x, &weights.final_norm, &h);
        step.logits(&h, &weights.embedding, &logits);
        Ok(Self {
            gpu: gpu.clone(),
            config: config.clone(),
            capacity,
            max_columns,
            step,
            logits,
            staging,
            logits_stride,
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub fn max_columns(&self) -> usize {
        self.max_columns
    }

    pub fn max_logits(&self) -> usize {
        MAX_LOGITS.min(self.max_columns)
    }

    /// One step in one compute pass and one submit: see [`crate::backend::Backend::forward`].
    pub async fn forward(&mut self, columns: &[Column], logits: usize) -> Result<Vec<Vec<f32>>> {
        self.gpu.check()?;
        let mut encoder =
            self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("step") });
        self.step.encode(&mut encoder, columns, logits);
        let values = logits * self.logits_stride;
        encoder.copy_buffer_to_buffer(&self.logits, 0, &self.staging, 0, Some((values * 4) as u64));
        self.gpu.queue.submit([encoder.finish()]);
        if logits == 0 {
            self.gpu.finished().await?;
            return Ok(Vec::new());
        }
        let read = self.gpu.read(&self.staging, values).await?;
        Ok(read.chunks_exact(self.logits_stride).map(|row| row[..self.config.vocab_size].to_vec()).collect())
    }
}
