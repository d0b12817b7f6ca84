//! The kernels of one model, compiled for its shapes, and the list of dispatches that a step is.

use super::weights::{Linear, Matrix, Norm};
use crate::config::Config;
use crate::error::Result;
use crate::forward::{Column, Kv};
use crate::gpu::{self, Binding, Gpu, Kernel, shaders};

/// Tokens that one read of the weights serves: the variants of linear.wgsl.
const TILES: [u32; 4] = [1, 2, 4, 8];
/// Pipelines that [`Step::new`] compiles.
pub(crate) const PIPELINES: u64 = 5 + 4 * TILES.len() as u64;
/// Threads of embed.wgsl.
const EMBED_THREADS: u32 = 16;
/// Threads of a workgroup that every adapter allows.
const MAX_THREADS: u32 = 256;

/// How many workgroups a dispatch takes, by the step's columns.
#[derive(Debug, Clone, Copy)]
enum Grid {
    /// x workgroups for each column.
    Columns(u32),
    /// One workgroup for each column whose logits are read.
    Logits,
    /// x workgroups for each tile of columns.
    Tiles(u32),
    /// x workgroups for each tile of columns whose logits are read.
    LogitTiles(u32),
    /// Workgroups for all attended rows, for each head and column.
    Scores { heads: u32, threads: u32 },
}

/// One dispatch.
#[derive(Debug)]
struct Op {
    /// One kernel, or one for each of [`TILES`].
    kernels: Vec<Kernel>,
    bindings: wgpu::BindGroup,
    grid: Grid,
}

/// An entry point: its layout, and its pipelines.
#[derive(Debug)]
struct Entry {
    name: &'static str,
    layout: wgpu::BindGroupLayout,
    kernels: Vec<Kernel>,
}

/// Compiles entry points and says how many pipelines are done.
struct Compiler<'a> {
    gpu: &'a Gpu,
    done: u64,
    on_compiled: &'a mut dyn FnMut(u64),
}

impl Compiler<'_> {
    async fn entry(
        &mut self,
        source: gpu::Source,
        name: &'static str,
        bindings: &[Binding],
        variants: &[Vec<(&str, f64)>],
    ) -> Result<Entry> {
        let gpu = self.gpu;
        let layout = gpu::layout(gpu, name, bindings);
        let module = gpu.compiling(name, || source.module(gpu)).await?;
        let mut kernels = Vec::with_capacity(variants.len());
        for constants in variants {
            kernels.push(gpu.compiling(name, || Kernel::new(gpu, &module, name, &layout, constants)).await?);
            self.done += 1;
            (self.on_compiled)(self.done);
        }
        Ok(Entry { name, layout, kernels })
    }
}

/// Everything the kernels are compiled for.
#[derive(Debug, Clone)]
pub(crate) struct Shapes {
    pub d_model: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// What embeddings are multiplied by.
    pub embed_scale: f64,
    /// Rows of the KV cache.
    pub capacity: usize,
    pub kv: Kv,
}

impl Shapes {
    pub fn new(config: &Config, capacity: usize, kv: Kv) -> Self {
        let embed_scale = if config.scale_embedding { (config.d_model as f64).sqrt() } else { 1.0 };
        Self { d_model: config.d_model, heads: config.heads, head_dim: config.head_dim(), embed_scale, capacity, kv }
    }
}

/// A step under construction, and then the step: dispatches in the order they were added.
#[derive(Debug)]
pub(crate) struct Step {
    gpu: Gpu,
    shapes: Shapes,
    state: wgpu::Buffer,
    embed: Entry,
    norm: Entry,
    norm_last: Entry,
    qkv: Entry,
    scores: Entry,
    values: Entry,
    residual: Entry,
    gelu: Entry,
    logits: Entry,
    ops: Vec<Op>,
}

impl Step {
    /// Compiles the kernels for `shapes`; `max_columns` is the most columns of a step.
    ///
    /// `on_compiled` is told how many of the [`PIPELINES`] are done.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] when the state buffer could not be bound, [`crate::Error::Kernel`] when the adapter's
    /// compiler refuses a shader.
    pub async fn new(gpu: &Gpu, shapes: Shapes, max_columns: usize, on_compiled: &mut dyn FnMut(u64)) -> Result<Self> {
        use Binding::{Read, Uniform, Write};
        let tuning = gpu.tuning();
        let flag = |b: bool| f64::from(u8::from(b));
        let (heads, head_dim, capacity) = (shapes.heads as f64, shapes.head_dim as f64, shapes.capacity as f64);
        let fp16 = flag(shapes.kv == Kv::F16);
        let norm_source = if gpu.uses_subgroups() { shaders::LAYER_NORM_SUBGROUPS } else { shaders::LAYER_NORM };
        let norm = |last: bool| {
            let width = shapes.d_model as f64 / 4.0;
            [vec![("THREADS", f64::from(tuning.norm_threads)), ("WIDTH", width), ("LAST", flag(last))]]
        };
        let tiles = |extra: &[(&'static str, f64)]| {
            TILES.map(|tile| {
                // A wide tile has enough work in a thread already; more slices only cost workgroup memory.
                let slices = (2 * tuning.linear_slices / tile).clamp(1, tuning.linear_slices);
                let mut constants = vec![("COLUMNS", f64::from(tile)), ("SLICES", f64::from(slices))];
                constants.extend_from_slice(extra);
                constants
            })
        };
        let (threads, pairs) = (f64::from(tuning.score_threads), shapes.head_dim as u32 / 2);
        let value_slices = tuning.value_slices.min(MAX_THREADS / pairs).max(1);
        let cache =
            [("D_MODEL", shapes.d_model as f64), ("HEAD_DIM", head_dim), ("CAPACITY", capacity), ("KV_F16", fp16)];
        let scores = [vec![
            ("THREADS", threads),
            ("HEADS", heads),
            ("HEAD_DIM", head_dim),
            ("CAPACITY", capacity),
            ("KV_F16", fp16),
        ]];
        let values = [vec![
            ("PAIRS", f64::from(pairs)),
            ("SLICES", f64::from(value_slices)),
            ("HEADS", heads),
            ("CAPACITY", capacity),
            ("KV_F16", fp16),
        ]];
        let linear = shaders::LINEAR;
        let attention = [Read, Read, Write, Read];
        let scale = [vec![("SCALE", shapes.embed_scale)]];
        let to_cache = [Read, Read, Write, Read, Uniform, Read, Write, Write];
        let biased = [Read, Read, Write, Read, Uniform, Read];
        let normed = [Read, Read, Read, Write, Read];
        let mut compiler = Compiler { gpu, done: 0, on_compiled };
        Ok(Self {
            state: gpu.storage("state", (2 * 4 + max_columns * size_of::<Column>()) as u64)?,
            embed: compiler.entry(shaders::EMBED, "embed", &[Read, Read, Write, Read, Uniform], &scale).await?,
            norm: compiler.entry(norm_source, "layer_norm", &normed, &norm(false)).await?,
            norm_last: compiler.entry(norm_source, "layer_norm", &normed, &norm(true)).await?,
            qkv: compiler.entry(linear, "project_qkv", &to_cache, &tiles(&cache)).await?,
            scores: compiler.entry(shaders::ATTENTION_SCORES, "attention_scores", &attention, &scores).await?,
            values: compiler.entry(shaders::ATTENTION_VALUES, "attention_values", &attention, &values).await?,
            residual: compiler.entry(linear, "project_residual", &biased, &tiles(&[])).await?,
            gelu: compiler.entry(linear, "project_gelu", &biased, &tiles(&[])).await?,
            logits: compiler.entry(linear, "project_logits", &[Read, Read, Write, Read, Uniform], &tiles(&[])).await?,
            ops: Vec::new(),
            gpu: gpu.clone(),
            shapes,
        })
    }

    /// Forgets the dispatches and keeps the kernels.
    #[cfg(test)]
    pub fn clear(&mut self) {
        self.ops.clear();
    }

    /// x = E[token] * scale + P[position]
    pub fn embed(&mut self, embedding: &Matrix, positions: &wgpu::Buffer, x: &wgpu::Buffer) {
        let grid = Grid::Columns(embedding.groups.div_ceil(EMBED_THREADS));
        for slice in &embedding.slices {
            let buffers = [&slice.weights, positions, x, &self.state, &slice.dimensions];
            self.ops.push(op(&self.gpu, &self.embed, grid, &buffers));
        }
    }

    /// y = LN(x)
    pub fn norm(&mut self, x: &wgpu::Buffer, norm: &Norm, y: &wgpu::Buffer) {
        let buffers = [x, &norm.weight, &norm.bias, y, &self.state];
        self.ops.push(op(&self.gpu, &self.norm, Grid::Columns(1), &buffers));
    }

    /// y = LN(x) of the columns whose logits are read, packed to the front.
    pub fn norm_last(&mut self, x: &wgpu::Buffer, norm: &Norm, y: &wgpu::Buffer) {
        let buffers = [x, &norm.weight, &norm.bias, y, &self.state];
        self.ops.push(op(&self.gpu, &self.norm_last, Grid::Logits, &buffers));
    }

    /// q = (Wq h + bq) / sqrt(head dim); Wk h + bk and Wv h + bv go to each column's row of the cache.
    pub fn qkv(
        &mut self,
        h: &wgpu::Buffer,
        qkv: &Linear,
        q: &wgpu::Buffer,
        keys: &wgpu::Buffer,
        values: &wgpu::Buffer,
    ) {
        for slice in &qkv.matrix.slices {
            let buffers = [&slice.weights, h, q, &self.state, &slice.dimensions, &qkv.bias, keys, values];
            self.ops.push(op(&self.gpu, &self.qkv, Grid::Tiles(slice.blocks), &buffers));
        }
    }

    /// scores = q Kᵀ over the rows that each column attends to.
    pub fn scores(&mut self, q: &wgpu::Buffer, keys: &wgpu::Buffer, scores: &wgpu::Buffer) {
        let grid = Grid::Scores { heads: self.shapes.heads as u32, threads: self.gpu.tuning().score_threads };
        self.ops.push(op(&self.gpu, &self.scores, grid, &[q, keys, scores, &self.state]));
    }

    /// y = softmax(scores) V, heads side by side.
    pub fn values(&mut self, scores: &wgpu::Buffer, values: &wgpu::Buffer, y: &wgpu::Buffer) {
        let grid = Grid::Columns(self.shapes.heads as u32);
        self.ops.push(op(&self.gpu, &self.values, grid, &[scores, values, y, &self.state]));
    }

    /// x += W input + b
    pub fn residual(&mut self, input: &wgpu::Buffer, linear: &Linear, x: &wgpu::Buffer) {
        for slice in &linear.matrix.slices {
            let buffers = [&slice.weights, input, x, &self.state, &slice.dimensions, &linear.bias];
            self.ops.push(op(&self.gpu, &self.residual, Grid::Tiles(slice.blocks), &buffers));
        }
    }

    /// y = gelu(W h + b)
    pub fn gelu(&mut self, h: &wgpu::Buffer, linear: &Linear, y: &wgpu::Buffer) {
        for slice in &linear.matrix.slices {
            let buffers = [&slice.weights, h, y, &self.state, &slice.dimensions, &linear.bias];
            self.ops.push(op(&self.gpu, &self.gelu, Grid::Tiles(slice.blocks), &buffers));
        }
    }

    /// logits = E h, for the columns whose logits are read.
    pub fn logits(&mut self, h: &wgpu::Buffer, embedding: &Matrix, logits: &wgpu::Buffer) {
        for slice in &embedding.slices {
            let buffers = [&slice.weights, h, logits, &self.state, &slice.dimensions];
            self.ops.push(op(&self.gpu, &self.logits, Grid::LogitTiles(slice.blocks), &buffers));
        }
    }

    /// All dispatches for `columns` in one compute pass; the logits of the last `logits` of them.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, columns: &[Column], logits: usize) {
        let mut state = vec![columns.len() as u32, logits as u32];
        state.extend_from_slice(bytemuck::cast_slice(columns));
        self.gpu.queue.write_buffer(&self.state, 0, bytemuck::cast_slice(&state));
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for op in &self.ops {
            let (kernel, [x, y, z]) = op.sized(columns, logits as u32);
            if y > 0 {
                pass.set_pipeline(&kernel.pipeline);
                pass.set_bind_group(0, &op.bindings, &[]);
                pass.dispatch_workgroups(x, y, z);
            }
        }
    }
}

fn op(gpu: &Gpu, entry: &Entry, grid: Grid, buffers: &[&wgpu::Buffer]) -> Op {
    let bindings = gpu::bind(gpu, entry.name, &entry.layout, buffers);
    Op { kernels: entry.kernels.clone(), bindings, grid }
}

impl Op {
    /// The kernel for this step and its workgroups; y is 0 when there is nothing to do.
    fn sized(&self, columns: &[Column], logits: u32) -> (&Kernel, [u32; 3]) {
        let count = columns.len() as u32;
        let tiled = |x: u32, count: u32| {
            let variant = TILES.iter().position(|&tile| tile >= count).unwrap_or(TILES.len() - 1);
            (&self.kernels[variant], [x, count.div_ceil(TILES[variant]), 1])
        };
        let single = |grid| (&self.kernels[0], grid);
        match self.grid {
            Grid::Columns(x) => single([x, count, 1]),
            Grid::Logits => single([1, logits, 1]),
            Grid::Tiles(x) => tiled(x, count),
            Grid::LogitTiles(x) => tiled(x, logits),
            Grid::Scores { heads, threads } => {
                let attended = columns.iter().map(Column::attended).max().unwrap_or(0);
                single([attended.div_ceil(threads), heads, count])
            }
        }
    }
}
