//! The forward step as a flat list of dispatches over named buffers, made once at load.

use super::weights::{BLOCK_ROWS, Matrix, Stack, Uploader};
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::Result;
use crate::forward::{Column, Kv, sinusoids};
use crate::gpu::{self, Binding, Gpu, Kernel, shaders};

/// Tokens of one prefill chunk on hardware: short enough that a cancel is felt and the page stays alive.
const HARDWARE_COLUMNS: usize = 128;
/// The same on software adapters, which compute a few tokens a second.
const SOFTWARE_COLUMNS: usize = 32;
/// Tokens of one step whose logits can be read.
const MAX_LOGITS: usize = 16;
/// Tokens that one read of the weights serves: the variants of linear.wgsl.
const TILES: [u32; 4] = [1, 2, 4, 8];
/// Threads of embed.wgsl.
const EMBED_THREADS: u32 = 16;

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

/// A loaded model: weights, KV cache and the list of dispatches of one step.
#[derive(Debug)]
pub(crate) struct Plan {
    gpu: Gpu,
    config: Config,
    capacity: usize,
    max_columns: usize,
    ops: Vec<Op>,
    state: wgpu::Buffer,
    logits: wgpu::Buffer,
    staging: wgpu::Buffer,
    /// Values from one column's logits to the next.
    logits_stride: usize,
}

/// The kernels of one model, compiled for its shapes.
struct Kernels {
    embed: Shared,
    norm: Shared,
    final_norm: Shared,
    scores: Shared,
    values: Shared,
    qkv: Shared,
    residual: Shared,
    gelu: Shared,
    logits: Shared,
}

/// An entry point: its layout, and its pipelines for every dispatch that uses it.
struct Shared {
    name: &'static str,
    layout: wgpu::BindGroupLayout,
    kernels: Vec<Kernel>,
}

impl Shared {
    fn new(
        gpu: &Gpu,
        source: gpu::Source,
        entry: &'static str,
        bindings: &[Binding],
        variants: &[Vec<(&str, f64)>],
    ) -> Self {
        let module = source.module(gpu);
        let layout = gpu::layout(gpu, entry, bindings);
        let kernels = variants.iter().map(|constants| Kernel::new(gpu, &module, entry, &layout, constants)).collect();
        Self { name: entry, layout, kernels }
    }

    fn op(&self, gpu: &Gpu, grid: Grid, buffers: &[&wgpu::Buffer]) -> Op {
        let bindings = gpu::bind(gpu, self.name, &self.layout, buffers);
        Op { kernels: self.kernels.clone(), bindings, grid }
    }
}

impl Kernels {
    fn new(gpu: &Gpu, config: &Config, capacity: usize, kv: Kv) -> Self {
        use Binding::{Read, Uniform, Write};
        let tuning = gpu.tuning();
        let flag = |b: bool| f64::from(u8::from(b));
        let (heads, head_dim) = (config.heads as f64, config.head_dim() as f64);
        let capacity = capacity as f64;
        let fp16 = flag(kv == Kv::F16);
        let scale = if config.scale_embedding { (config.d_model as f64).sqrt() } else { 1.0 };
        let norm = if gpu.uses_subgroups() { shaders::LAYER_NORM_SUBGROUPS } else { shaders::LAYER_NORM };
        let norm_of = |last: bool| {
            let width = config.d_model as f64 / 4.0;
            let constants = vec![("THREADS", f64::from(tuning.norm_threads)), ("WIDTH", width), ("LAST", flag(last))];
            Shared::new(gpu, norm, "layer_norm", &[Read, Read, Read, Write, Read], &[constants])
        };
        let linear = |entry, bindings: &[Binding], extra: &[(&'static str, f64)]| {
            let variant = |&tile: &u32| {
                // A wide tile has enough work in a thread already; more slices only cost workgroup memory.
                let slices = (2 * tuning.linear_slices / tile).clamp(1, tuning.linear_slices);
                let mut constants = vec![("COLUMNS", f64::from(tile)), ("SLICES", f64::from(slices))];
                constants.extend_from_slice(extra);
                constants
            };
            Shared::new(gpu, shaders::LINEAR, entry, bindings, &TILES.iter().map(variant).collect::<Vec<_>>())
        };
        let cache =
            [("D_MODEL", config.d_model as f64), ("HEAD_DIM", head_dim), ("CAPACITY", capacity), ("KV_F16", fp16)];
        let score_constants = vec![
            ("THREADS", f64::from(tuning.score_threads)),
            ("HEADS", heads),
            ("HEAD_DIM", head_dim),
            ("CAPACITY", capacity),
            ("KV_F16", fp16),
        ];
        let pairs = config.head_dim() / 2;
        let slices = tuning.value_slices.min(256 / pairs as u32).max(1);
        let value_constants = vec![
            ("PAIRS", pairs as f64),
            ("SLICES", f64::from(slices)),
            ("HEADS", heads),
            ("CAPACITY", capacity),
            ("KV_F16", fp16),
        ];
        Self {
            embed: Shared::new(
                gpu,
                shaders::EMBED,
                "embed",
                &[Read, Read, Write, Read, Uniform],
                &[vec![("SCALE", scale)]],
            ),
            norm: norm_of(false),
            final_norm: norm_of(true),
            scores: Shared::new(
                gpu,
                shaders::ATTENTION_SCORES,
                "attention_scores",
                &[Read, Read, Write, Read],
                &[score_constants],
            ),
            values: Shared::new(
                gpu,
                shaders::ATTENTION_VALUES,
                "attention_values",
                &[Read, Read, Write, Read],
                &[value_constants],
            ),
            qkv: linear("project_qkv", &[Read, Read, Write, Read, Uniform, Read, Write, Write], &cache),
            residual: linear("project_residual", &[Read, Read, Write, Read, Uniform, Read], &[]),
            gelu: linear("project_gelu", &[Read, Read, Write, Read, Uniform, Read], &[]),
            logits: linear("project_logits", &[Read, Read, Write, Read, Uniform], &[]),
        }
    }
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
        let mut uploader = Uploader { gpu, checkpoint, loaded, unsettled: 0 };
        let plan = gpu
            .allocating("the model and its KV cache", bytes, async || {
                Self::lay_out(gpu, config, &mut uploader, capacity, kv).await
            })
            .await?;
        gpu.settle()?;
        Ok(plan)
    }

    async fn lay_out(gpu: &Gpu, config: &Config, upload: &mut Uploader<'_>, capacity: usize, kv: Kv) -> Result<Self> {
        let (d, f, heads) = (config.d_model, config.ffn_dim, config.heads);
        let software = gpu.report().kind == "software";
        let score_bytes = (heads * capacity * 4) as u64;
        let fitting = (gpu.max_binding_bytes() / score_bytes).max(1) as usize;
        let max_columns = if software { SOFTWARE_COLUMNS } else { HARDWARE_COLUMNS }.min(fitting);
        let activations = |what: &str, width: usize| gpu.storage(what, (max_columns * width * 4) as u64);

        let state = gpu.storage("state", (2 * 4 + max_columns * size_of::<Column>()) as u64)?;
        let positions = gpu.upload("positions", &sinusoids(capacity, d))?;
        let x = activations("x", d)?;
        let h = activations("h", d)?;
        let q = activations("q", d)?;
        let mixed = activations("mixed", d)?;
        let inner = activations("inner", f)?;
        let scores = gpu.storage("scores", score_bytes * max_columns as u64)?;
        let logits_stride = config.vocab_size.next_multiple_of(BLOCK_ROWS);
        let logits_bytes = (MAX_LOGITS * logits_stride * 4) as u64;
        let logits = gpu.storage("logits", logits_bytes)?;
        let readable = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = gpu.buffer("logits to read", logits_bytes, readable)?;

        let kernels = Kernels::new(gpu, config, capacity, kv);
        let embedding = ["embed_tokens.weight".to_owned()];
        let stack = Stack { names: &embedding, rows_each: config.vocab_size, inputs: d, stride: logits_stride };
        let embedding = upload.matrix(&stack).await?;

        let mut ops = Vec::new();
        for slice in &embedding.slices {
            let grid = Grid::Columns(embedding.groups.div_ceil(EMBED_THREADS));
            ops.push(kernels.embed.op(gpu, grid, &[&slice.weights, &positions, &x, &state, &slice.dimensions]));
        }
        for layer in 0..config.num_layers {
            let at = |name: &str| format!("layers.{layer}.{name}");
            let both = |name: &str| [at(&format!("{name}.weight")), at(&format!("{name}.bias"))];
            let cache_bytes = (capacity * d * kv.bytes()) as u64;
            let keys = gpu.storage("keys", cache_bytes)?;
            let values = gpu.storage("values", cache_bytes)?;

            let [weight, bias] = both("self_attn_layer_norm");
            let (weight, bias) = (upload.vector(&[weight]).await?, upload.vector(&[bias]).await?);
            ops.push(kernels.norm.op(gpu, Grid::Columns(1), &[&x, &weight, &bias, &h, &state]));
            let qkv = ["q", "k", "v"].map(|p| both(&format!("self_attn.{p}_proj")));
            let bias = upload.vector(&qkv.clone().map(|[_, bias]| bias)).await?;
            let weight = qkv.map(|[weight, _]| weight);
            let matrix = upload.matrix(&Stack { names: &weight, rows_each: d, inputs: d, stride: d }).await?;
            for slice in &matrix.slices {
                let buffers = [&slice.weights, &h, &q, &state, &slice.dimensions, &bias, &keys, &values];
                ops.push(kernels.qkv.op(gpu, Grid::Tiles(slice.blocks), &buffers));
            }
            let grid = Grid::Scores { heads: heads as u32, threads: gpu.tuning().score_threads };
            ops.push(kernels.scores.op(gpu, grid, &[&q, &keys, &scores, &state]));
            ops.push(kernels.values.op(gpu, Grid::Columns(heads as u32), &[&scores, &values, &mixed, &state]));
            let linear = Projection { gpu, kernel: &kernels.residual, input: &mixed, output: &x, state: &state };
            linear.push(&mut ops, upload, &both("self_attn.out_proj"), d, d).await?;

            let [weight, bias] = both("final_layer_norm");
            let (weight, bias) = (upload.vector(&[weight]).await?, upload.vector(&[bias]).await?);
            ops.push(kernels.norm.op(gpu, Grid::Columns(1), &[&x, &weight, &bias, &h, &state]));
            let linear = Projection { gpu, kernel: &kernels.gelu, input: &h, output: &inner, state: &state };
            linear.push(&mut ops, upload, &both("fc1"), f, d).await?;
            let linear = Projection { gpu, kernel: &kernels.residual, input: &inner, output: &x, state: &state };
            linear.push(&mut ops, upload, &both("fc2"), d, f).await?;
        }
        let weight = upload.vector(&["layer_norm.weight".to_owned()]).await?;
        let bias = upload.vector(&["layer_norm.bias".to_owned()]).await?;
        ops.push(kernels.final_norm.op(gpu, Grid::Logits, &[&x, &weight, &bias, &h, &state]));
        for slice in &embedding.slices {
            let buffers = [&slice.weights, &h, &logits, &state, &slice.dimensions];
            ops.push(kernels.logits.op(gpu, Grid::LogitTiles(slice.blocks), &buffers));
        }
        Ok(Self {
            gpu: gpu.clone(),
            config: config.clone(),
            capacity,
            max_columns,
            ops,
            state,
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
        let mut state = vec![columns.len() as u32, logits as u32];
        state.extend_from_slice(bytemuck::cast_slice(columns));
        self.gpu.queue.write_buffer(&self.state, 0, bytemuck::cast_slice(&state));

        let mut encoder =
            self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("step") });
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for op in &self.ops {
                let (kernel, [x, y, z]) = op.sized(columns, logits as u32);
                if y == 0 {
                    continue;
                }
                pass.set_pipeline(&kernel.pipeline);
                pass.set_bind_group(0, &op.bindings, &[]);
                pass.dispatch_workgroups(x, y, z);
            }
        }
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

/// A linear layer between two activation buffers.
struct Projection<'a> {
    gpu: &'a Gpu,
    kernel: &'a Shared,
    input: &'a wgpu::Buffer,
    output: &'a wgpu::Buffer,
    state: &'a wgpu::Buffer,
}

impl Projection<'_> {
    /// Uploads weight and bias and appends the layer's dispatches.
    async fn push(
        &self,
        ops: &mut Vec<Op>,
        upload: &mut Uploader<'_>,
        names: &[String; 2],
        rows: usize,
        inputs: usize,
    ) -> Result<()> {
        let [weight, bias] = names;
        let bias = upload.vector(std::slice::from_ref(bias)).await?;
        let stack = Stack { names: std::slice::from_ref(weight), rows_each: rows, inputs, stride: rows };
        let matrix: Matrix = upload.matrix(&stack).await?;
        for slice in &matrix.slices {
            let buffers = [&slice.weights, self.input, self.output, self.state, &slice.dimensions, &bias];
            ops.push(self.kernel.op(self.gpu, Grid::Tiles(slice.blocks), &buffers));
        }
        Ok(())
    }
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
