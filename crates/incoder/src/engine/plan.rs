//! The forward step over named buffers: the recipe of the model, laid out once at load.

use super::choose::{Chooser, Choosing, Started, Told, record_bytes};
use super::fallback;
use super::memory::{MemoryPlan, max_columns};
use super::rotary_table::rotary_table;
use super::slots::Dispatches;
use super::step::{OVERFLOW_BYTES, Shapes, Step};
use super::weights::{BLOCK_ROWS, Weights};
use crate::arch::recipe::{Op, Positions, Recipe};
use crate::checkpoint::config::Config;
use crate::engine::forward::{Column, Kv, sinusoids};
use crate::engine::gpu::{Array, Gpu, Reading, Texel};
use crate::engine::load::{LoadOptions, Loaded, Progress};
use crate::engine::tensors::Origin;
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::time::Duration;

/// Bytes of the table of positions that are computed and uploaded together.
const POSITIONS_AT_ONCE_BYTES: usize = 32 << 20;
/// Tokens of one step whose logits can be read.
pub(super) const MAX_LOGITS: usize = 16;

/// Steps on their way at once when tokens are chosen on the GPU: one that computes, and one that is ready to.
const STEPS_AHEAD: usize = 2;
/// The most of them, where it takes long until a result is handed over.
const MOST_STEPS_AHEAD: usize = 16;
/// A step that takes at least so long never waits for one to be handed over.
const SHORT_STEP_MS: f64 = 6.0;

/// A loaded model: weights, KV cache and the dispatches of one step.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(super) gpu: Gpu,
    pub(super) config: Config,
    pub(super) capacity: usize,
    max_columns: usize,
    pub(super) weights: Weights,
    pub(super) activations: Activations,
    /// How keys and values are stored.
    pub(super) kv: Kv,
    pub(super) step: Step,
    /// The KV cache that the step works on: its number.
    pub(super) slot: usize,
    /// The dispatches of the others.
    pub(super) parked: Vec<Dispatches>,
    pub(super) chooser: Chooser,
    pub(super) chain: Chain,
    /// Steps on their way at once.
    ahead: usize,
}

/// Steps of the same columns, every one with the tokens that the one before chose.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// What the first of those on their way was given.
    columns: Vec<Column>,
    /// How all of them choose.
    started: Started,
    on_their_way: VecDeque<(wgpu::Buffer, Reading)>,
    /// Free buffers for what steps tell.
    staging: Vec<wgpu::Buffer>,
}

/// What a step computes in, apart from the weights and the KV cache.
#[derive(Debug)]
pub(super) struct Activations {
    x: wgpu::Buffer,
    h: Array,
    q: Array,
    mixed: Array,
    inner: Array,
    scores: Array,
    /// What is added to the embedding; nothing where positions are rotary.
    positions: wgpu::Buffer,
    rotary: Option<Array>,
    pub(super) logits: wgpu::Buffer,
    /// What a step says of its KV cache, then logits.
    staging: wgpu::Buffer,
}

/// Values from one column's logits to the next.
fn logits_stride(config: &Config) -> usize {
    config.vocab_size.next_multiple_of(BLOCK_ROWS)
}

impl Activations {
    async fn new(gpu: &Gpu, config: &Config, recipe: &Recipe, capacity: usize, columns: usize) -> Result<Self> {
        let wide = |what: &str, width: usize| gpu.array(what, Texel::Floats, width as u32 / 4, columns as u32);
        let (d, queries) = (config.d_model, config.query_width());
        let logits_bytes = (MAX_LOGITS.min(columns) * logits_stride(config) * 4) as u64;
        // The buffer first: it refuses a context too long for the adapter before the host computes a table for it.
        let added = if recipe.positions == Positions::Sinusoids { capacity } else { 0 };
        let positions = gpu.storage("positions", (added as u64 * d as u64 * 4).max(16))?;
        let rows_at_once = (POSITIONS_AT_ONCE_BYTES / (4 * d)).max(1);
        for first in (0..added).step_by(rows_at_once) {
            let rows = sinusoids(first..added.min(first + rows_at_once), d);
            gpu.queue.write_buffer(&positions, first as u64 * d as u64 * 4, bytemuck::cast_slice(&rows));
            gpu.settle().await?;
        }
        let readable = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        Ok(Self {
            x: gpu.storage("x", columns as u64 * d as u64 * 4)?,
            h: wide("h", d)?,
            q: wide("q", queries)?,
            mixed: wide("mixed", queries)?,
            inner: wide("inner", config.ffn_dim)?,
            scores: gpu.array("scores", Texel::Floats, capacity.div_ceil(4) as u32, (columns * config.heads) as u32)?,
            positions,
            rotary: rotary_table(gpu, &recipe.positions, capacity)?,
            logits: gpu.storage("logits", logits_bytes)?,
            staging: gpu.buffer("logits to read", OVERFLOW_BYTES + logits_bytes, readable)?,
        })
    }
}

impl Plan {
    /// Makes room for the activations of `capacity` tokens, compiles the kernels, uploads or makes the weights and lays out the step.
    ///
    /// The checkpoint is opened last, so that a browser compiles while the files are still on their way.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] and [`crate::Error::OutOfMemory`] when the adapter cannot hold the model,
    /// [`crate::Error::Kernel`] when it refuses a shader, and what opening and reading the checkpoint reports.
    pub async fn load(
        gpu: &Gpu,
        config: &Config,
        origin: Origin<'_>,
        capacity: usize,
        options: &LoadOptions,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let limits = gpu.memory_limits();
        let max_columns = max_columns(config, capacity, &limits);
        let kv = options.kv.first();
        let stored = config;
        let config = &stored.quantized(options.quantize)?;
        let bytes = MemoryPlan::new(config, capacity, kv, &limits).total();
        let (shapes, recipe) = (Shapes::new(config, capacity, kv), config.recipe());
        let load = async || {
            let mut gpu = gpu.clone();
            let activations = Activations::new(&gpu, config, &recipe, capacity, max_columns).await?;
            let total = Step::pipelines(&gpu);
            let mut compiled = |done| on_progress(Progress::Compile { done, total });
            let mut step = fallback::compile(&mut gpu, &shapes, &mut compiled).await?;
            let gpu = &gpu;
            let most = MAX_LOGITS.min(max_columns);
            let chooser = Chooser::new(gpu, config.vocab_size, most, &activations.logits, step.state()).await?;
            let tensors = origin.open(stored, options.quantize).await?;
            let mut loaded = Loaded::new(config, on_progress);
            let weights = Weights::load(gpu, config, &tensors, &mut |parameters| loaded.add(parameters)).await?;
            loaded.finish();
            Self::lay_out(gpu, &recipe, &shapes, &mut step, &activations, &weights)?;
            Ok((gpu.clone(), weights, activations, step, chooser))
        };
        let loaded = gpu.allocating("the model and its KV cache", bytes, load).await?;
        let (gpu, weights, activations, step, chooser) = loaded;
        let ahead = steps_ahead(gpu.idle_wait().await?);
        let (config, chain) = (config.clone(), Chain::default());
        let mut plan = Self {
            gpu,
            config,
            capacity,
            max_columns,
            weights,
            activations,
            kv,
            step,
            slot: 0,
            parked: Vec::new(),
            chooser,
            chain,
            ahead,
        };
        if options.warm_up {
            on_progress(Progress::WarmUp { done: 0, total: 1 });
            plan.warm_up().await?;
            on_progress(Progress::WarmUp { done: 1, total: 1 });
        }
        Ok(plan)
    }

    /// Adds the dispatches of `recipe` to an empty step, with a KV cache of their own.
    pub(super) fn lay_out(
        gpu: &Gpu,
        recipe: &Recipe,
        shapes: &Shapes,
        step: &mut Step,
        activations: &Activations,
        weights: &Weights,
    ) -> Result<()> {
        let Activations { x, h, q, mixed, inner, scores, positions, rotary, logits, .. } = activations;
        let mut cache = None;
        for op in recipe.all() {
            match op {
                Op::Embed { table, .. } => step.embed(weights.matrix(table)?, positions, x),
                Op::Norm(norm) => step.norm(x, weights.norm(norm)?, h),
                Op::QueryKeyValue { query, .. } => {
                    let [keys, values] = cache.insert([shapes.cache(gpu, "keys")?, shapes.cache(gpu, "values")?]);
                    step.qkv(h, weights.linear(query)?, rotary.as_ref(), q, [keys, values]);
                }
                Op::Attention => {
                    if let Some([keys, values]) = &cache {
                        step.scores(q, keys, scores);
                        step.values(scores, values, mixed);
                    }
                }
                Op::AttentionOutput(linear) => step.residual(mixed, weights.linear(linear)?, x),
                Op::Gelu(linear) | Op::GatedSilu { gate: linear, .. } => {
                    step.activation(h, weights.linear(linear)?, inner);
                }
                Op::FeedForwardOutput(linear) => step.residual(inner, weights.linear(linear)?, x),
                Op::FinalNorm(norm) => step.norm_last(x, weights.norm(norm)?, h),
                Op::Logits(head) => step.logits(h, weights.matrix(head)?, logits),
            }
        }
        Ok(())
    }

    /// One step of one token and one of a prefill tile: drivers compile at the first dispatch.
    async fn warm_up(&mut self) -> Result<()> {
        for count in [1, self.max_columns.min(self.capacity).min(8)] {
            let columns: Vec<Column> = (0..count).map(|row| Column::context(0, row)).collect();
            match self.forward(&columns, 1).await {
                // Nobody wants these tokens; those that somebody wants tell again.
                Ok(_) | Err(Error::KvOverflow { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
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

    /// One step in one compute pass and one submit: see [`crate::engine::backend::Backend::forward`].
    pub async fn forward(&mut self, columns: &[Column], logits: usize) -> Result<Vec<Vec<f32>>> {
        self.gpu.check()?;
        self.chain.forget();
        let mut encoder =
            self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("step") });
        self.step.encode(&mut encoder, columns, logits);
        let stride = logits_stride(&self.config);
        let values = logits * stride;
        let Activations { logits: made, staging, .. } = &self.activations;
        self.step.tell_overflow(&mut encoder, staging, 0);
        encoder.copy_buffer_to_buffer(made, 0, staging, OVERFLOW_BYTES, Some((values * 4) as u64));
        self.gpu.queue.submit([encoder.finish()]);
        if logits == 0 {
            self.gpu.finished().await?;
            return Ok(Vec::new());
        }
        let mut read: Vec<u32> = self.gpu.read(staging, 1 + values).await?;
        self.check_overflow(read[0])?;
        let read: Vec<f32> = bytemuck::cast_vec(read.split_off(1));
        Ok(read.chunks_exact(stride).map(|row| row[..self.config.vocab_size].to_vec()).collect())
    }

    /// Whether the step of these columns is on its way, choosing in this way.
    pub fn is_ahead(&self, columns: &[Column], choosing: &Choosing<'_>) -> bool {
        let Chain { columns: expected, started, on_their_way, .. } = &self.chain;
        !on_their_way.is_empty() && expected == columns && started.chooses_as(choosing)
    }

    /// Steps that are on their way are for nobody.
    pub fn forget(&mut self) {
        self.chain.forget();
    }

    /// The step of these `columns`, and what may follow the token of each, chosen on the GPU; up to `left` steps more may be
    /// started.
    ///
    /// # Errors
    /// As [`Plan::forward`].
    pub async fn next(&mut self, columns: &[Column], left: usize, choosing: &Choosing<'_>) -> Result<Vec<Told>> {
        self.gpu.check()?;
        if !self.is_ahead(columns, choosing) {
            self.chain.forget();
            self.chooser.start(choosing);
            self.chain.started = Started::new(choosing);
            self.step.write_state(columns, columns.len());
            self.submit(columns, 0)?;
        }
        while self.chain.on_their_way.len() < self.ahead.min(1 + left) {
            self.submit(columns, self.chain.on_their_way.len() as u32)?;
        }
        let Some((staging, reading)) = self.chain.on_their_way.pop_front() else { return Ok(Vec::new()) };
        // Whoever stops waiting leaves no claim on the steps behind.
        self.chain.columns.clear();
        let mut words: Vec<u32> = reading.values(&self.gpu).await?;
        let rank = words.pop().unwrap_or_default();
        let told = Told::all(&words);
        self.chain.staging.push(staging);
        self.check_overflow(rank)?;
        let followed = columns.iter().zip(&told).filter_map(|(column, told)| Some(column.followed_by(told.id?)));
        self.chain.columns = followed.collect();
        self.chain.started.follow(self.chain.columns.iter().map(|column| column.token));
        Ok(told)
    }

    /// A step that chooses, `later` steps after that of `columns`: of the state that was written, or of the one that the step before
    /// left.
    fn submit(&mut self, columns: &[Column], later: u32) -> Result<()> {
        let staging = match self.chain.staging.pop() {
            Some(staging) => staging,
            None => {
                let readable = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
                self.gpu.buffer("what was chosen", record_bytes(self.max_logits()) + OVERFLOW_BYTES, readable)?
            }
        };
        let mut encoder =
            self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("step") });
        let count = columns.len();
        if later > 0 {
            self.chooser.follow(&mut encoder, count);
        }
        // Only their lengths are known here; the rest is the GPU's.
        let lengthened = columns.iter().map(|column| Column { tail_len: column.tail_len + later, ..*column });
        let mut pass = self.step.encode_pass(&mut encoder, &lengthened.collect::<Vec<_>>(), count);
        self.chooser.dispatch(&mut pass, count);
        drop(pass);
        self.chooser.tell(&mut encoder, count, &staging);
        self.step.tell_overflow(&mut encoder, &staging, record_bytes(count));
        let submission = self.gpu.queue.submit([encoder.finish()]);
        let reading = Reading::new(&staging, record_bytes(count) + OVERFLOW_BYTES, Some(submission));
        self.chain.on_their_way.push_back((staging, reading));
        Ok(())
    }
}

/// Steps that are to be on their way at once where an idle GPU is waited for so long.
fn steps_ahead(idle_wait: Duration) -> usize {
    let more = idle_wait.as_secs_f64() * 1e3 / SHORT_STEP_MS;
    (STEPS_AHEAD + more as usize).min(MOST_STEPS_AHEAD)
}

impl Chain {
    /// Nobody wants what is on its way.
    pub(super) fn forget(&mut self) {
        self.columns.clear();
        self.on_their_way.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_a_result_comes_the_more_steps_are_on_their_way() {
        for (wait_ms, steps) in [(0.0, 2), (0.2, 2), (5.0, 2), (20.0, 5), (100.0, 16), (1000.0, 16)] {
            assert_eq!(steps_ahead(Duration::from_secs_f64(wait_ms / 1e3)), steps, "{wait_ms} ms");
        }
    }
}
