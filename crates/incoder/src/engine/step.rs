//! The kernels of one model, compiled for its shapes, and the list of dispatches that a step is.

use super::entry::{Compiler, Entry, Variant};
use super::linear::Product;
use super::weights::{BLOCK_ROWS, GROUP, Matrix};
use crate::arch::recipe::{Activation, NormKind, Positions};
use crate::checkpoint::config::Config;
use crate::engine::forward::{Column, Kv};
use crate::engine::gpu::{self, Array, Binding, Gpu, Kernel, Resource, Texel, shaders};
use crate::error::Result;
use crate::quantize::Format;

/// Most columns of a step: what the shaders' `State` holds.
pub(super) const MOST_COLUMNS: usize = 128;
/// Bytes of what a step says of its KV cache.
pub(super) const OVERFLOW_BYTES: u64 = 4;
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
    Last,
    /// Those that multiply so many blocks of 64 rows with every column.
    Matrix(u32),
    /// Those that multiply them with the columns whose logits are read.
    Logits(u32),
    /// Workgroups for all attended rows, for each head and column.
    Scores { heads: u32, threads: u32 },
}

/// Where the shaders bind what: the arrays of arrays_in_*.wgsl, then what a kernel declares itself.
pub(super) mod at {
    pub const WEIGHTS: u32 = 0;
    pub const INPUT: u32 = 1;
    pub const OUTPUT: u32 = 2;
    pub const CACHE: u32 = 3;
    pub const KEYS: u32 = 4;
    pub const VALUES: u32 = 5;
    pub const SCORES: u32 = 6;
    pub const SCORES_WRITTEN: u32 = 7;
    pub const STATE: u32 = 8;
    pub const MATRIX: u32 = 9;
    pub const BIAS: u32 = 10;
    pub const Y: u32 = 11;
    pub const POSITIONS: u32 = 10;
    pub const SCALE: u32 = 9;
    pub const SHIFT: u32 = 10;
    pub const X: u32 = 11;
    pub const PARTS: u32 = 10;
    pub const WEIGHTS_WRITTEN: u32 = 15;
    pub const OVERFLOW: u32 = 16;
    pub const SCALES: u32 = 17;
    pub const ROTARY: u32 = 18;
}

/// What a dispatch has to read, beside a few values for each column.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reads {
    /// Nothing that counts.
    Little,
    /// A matrix.
    Weights { rows: u64, inputs: u64, format: Format },
    /// Keys or values of one layer.
    Cache,
}

/// One dispatch.
#[derive(Debug)]
pub(super) struct Op {
    /// Its entry point.
    name: &'static str,
    reads: Reads,
    /// One kernel, or one for each [`Product`].
    kernels: Vec<Kernel>,
    bindings: wgpu::BindGroup,
    grid: Grid,
}

/// What the shaders call `State`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct State {
    columns: u32,
    logits: u32,
    spare: [u32; 2],
    column: [Column; MOST_COLUMNS],
}

/// Everything the kernels are compiled for.
#[derive(Debug, Clone)]
pub(crate) struct Shapes {
    pub d_model: usize,
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Inputs of the layers' matrices: d_model, those of the feed-forward layer's second one, and those of attention's output.
    pub inputs: [usize; 3],
    pub norm: NormKind,
    /// Whether queries and keys are rotated; otherwise positions are added to the embedding.
    pub rotary: bool,
    pub activation: Activation,
    /// What embeddings are multiplied by.
    pub embed_scale: f64,
    /// Rows of the KV cache.
    pub capacity: usize,
    pub kv: Kv,
    /// How the matrices of the layers are stored, and the tables.
    pub formats: [Format; 2],
}

impl Shapes {
    pub fn new(config: &Config, capacity: usize, kv: Kv) -> Self {
        let formats = config.quantization.map_or([Format::F16; 2], |one| [one.layers(), one.tables()]);
        let recipe = config.recipe();
        Self {
            d_model: config.d_model,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim(),
            inputs: [config.d_model, config.ffn_dim, config.query_width()],
            norm: recipe.norm,
            rotary: matches!(recipe.positions, Positions::Rotary(_)),
            activation: recipe.activation(),
            embed_scale: recipe.embedding_scale(),
            capacity,
            kv,
            formats,
        }
    }

    /// 16-byte words of one head in one row of the KV cache.
    pub fn head_words(&self) -> usize {
        self.head_dim * self.kv.bytes() / 16
    }

    /// An empty cache of keys or values.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] when it could not be bound.
    pub fn cache(&self, gpu: &Gpu, what: &str) -> Result<Array> {
        gpu.array(what, Texel::Words, self.capacity as u32, (self.kv_heads * self.head_words()) as u32)
    }
}

/// A step under construction, and then the step: dispatches in the order they were added.
#[derive(Debug)]
pub(crate) struct Step {
    gpu: Gpu,
    shapes: Shapes,
    state: wgpu::Buffer,
    /// Which layer had keys or values that the cache cannot hold: `overflow` of linear_outputs.wgsl.
    overflow: wgpu::Buffer,
    embed: Entry,
    norm: Entry,
    norm_last: Entry,
    qkv: Entry,
    scores: Entry,
    values: Entry,
    residual: Entry,
    /// Of the feed-forward layer's activation.
    activation: Entry,
    logits: Entry,
    products: Vec<Product>,
    pub(super) ops: Vec<Op>,
}

impl Step {
    /// How many pipelines [`Step::new`] compiles.
    pub fn pipelines(gpu: &Gpu) -> u64 {
        5 + 4 * Product::all(&gpu.tuning()).len() as u64
    }

    /// Compiles the kernels for `shapes`.
    ///
    /// `on_compiled` is told how many of the [`Step::pipelines`] are done.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`] when the adapter's compiler refuses a shader.
    pub async fn new(gpu: &Gpu, shapes: Shapes, on_compiled: &mut dyn FnMut(u64)) -> Result<Self> {
        use Binding::{Read, ReadArray, Uniform, Write, WriteArray};
        let tuning = gpu.tuning();
        let flag = |b: bool| f64::from(u8::from(b));
        let (heads, head_dim, capacity) = (shapes.heads as f64, shapes.head_dim as f64, shapes.capacity as f64);
        let fp16 = flag(shapes.kv == Kv::F16);
        let cache = [("CAPACITY", capacity), ("HEAD_WORDS", shapes.head_words() as f64), ("KV_F16", fp16)];
        let norm_source = if gpu.uses_subgroups() { shaders::LAYER_NORM_SUBGROUPS } else { shaders::LAYER_NORM };
        let norm = |last: bool| {
            let width = shapes.d_model as f64 / 4.0;
            let NormKind { centred, eps } = shapes.norm;
            let threads = f64::from(tuning.norm_threads);
            let kind = [("CENTRED", flag(centred)), ("EPS", f64::from(eps))];
            [&[("THREADS", threads), ("WIDTH", width), ("LAST", flag(last))][..], &kind[..]].concat()
        };
        let products = Product::all(&tuning);
        let octets = shapes.head_dim as u32 / 8;
        let value_slices = tuning.value_slices.min(MAX_THREADS / octets).max(1);
        let kv_width = (shapes.kv_heads * shapes.head_dim) as f64;
        let sharing = ("QUERIES_PER_KEY", (shapes.heads / shapes.kv_heads) as f64);
        let mut qkv = vec![("Q_WIDTH", heads * head_dim), ("KV_WIDTH", kv_width), ("HEAD_DIM", head_dim)];
        qkv.extend_from_slice(&cache);
        let mut scores = vec![("THREADS", f64::from(tuning.score_threads)), ("HEADS", heads), ("HEAD_DIM", head_dim)];
        scores.push(sharing);
        scores.extend_from_slice(&cache);
        let mut values = vec![("OCTETS", f64::from(octets)), ("SLICES", f64::from(value_slices)), ("HEADS", heads)];
        values.push(sharing);
        values.extend_from_slice(&cache);
        let scale = vec![("SCALE", shapes.embed_scale), ("POSITIONS", flag(!shapes.rotary))];
        let weights = (at::WEIGHTS, ReadArray(Texel::Words));
        let input = (at::INPUT, ReadArray(Texel::Floats));
        let output = (at::OUTPUT, WriteArray(Texel::Floats));
        let cached = (at::CACHE, ReadArray(Texel::Words));
        let keys = (at::KEYS, WriteArray(Texel::Words));
        let cached_values = (at::VALUES, WriteArray(Texel::Words));
        let state = (at::STATE, Uniform);
        let matrix = (at::MATRIX, Uniform);
        let bias = (at::BIAS, Read);
        let y = (at::Y, Write);
        let embed = [weights, state, matrix, (at::POSITIONS, Read), (at::X, Write)];
        let normed = [output, state, (at::SCALE, Read), (at::SHIFT, Read), (at::X, Read)];
        let overflow = (at::OVERFLOW, Write);
        let mut to_cache = vec![weights, input, output, keys, cached_values, state, matrix, bias, overflow];
        to_cache.extend(shapes.rotary.then_some((at::ROTARY, Binding::Texture)));
        let to_scores = [input, cached, (at::SCORES_WRITTEN, WriteArray(Texel::Floats)), state];
        let to_mixed = [output, cached, (at::SCORES, ReadArray(Texel::Floats)), state];
        let to_output = [weights, input, output, state, matrix, bias];
        let to_residual = [weights, input, state, matrix, bias, y];
        let to_logits = [weights, input, state, matrix, y];
        let linear = |format: Format, extra: &[(&'static str, f64)]| -> Vec<Variant> {
            let variant = |product: &Product| {
                let mut constants = product.constants(&tuning, &shapes.inputs, format);
                constants.extend_from_slice(extra);
                (product.source(), constants)
            };
            products.iter().map(variant).collect()
        };
        let [layers, tables] = shapes.formats;
        // What reads no matrix.
        let plain = Format::F16;
        let activation = match shapes.activation {
            Activation::Gelu => "project_gelu",
            Activation::GatedSilu => "project_gated_silu",
        };
        let mut compiler = Compiler::new(gpu, shapes.rotary, on_compiled);
        Ok(Self {
            state: gpu.uniform("state", &bytemuck::Zeroable::zeroed() as &State)?,
            overflow: gpu.storage("overflow", OVERFLOW_BYTES)?,
            embed: compiler.entry(tables, "embed", &embed, &[(shaders::EMBED, scale)]).await?,
            norm: compiler.entry(plain, "layer_norm", &normed, &[(norm_source, norm(false))]).await?,
            norm_last: compiler.entry(plain, "layer_norm", &normed, &[(norm_source, norm(true))]).await?,
            qkv: compiler.entry(layers, "project_qkv", &to_cache, &linear(layers, &qkv)).await?,
            scores: compiler
                .entry(plain, "attention_scores", &to_scores, &[(shaders::ATTENTION_SCORES, scores)])
                .await?,
            values: compiler
                .entry(plain, "attention_values", &to_mixed, &[(shaders::ATTENTION_VALUES, values)])
                .await?,
            residual: compiler.entry(layers, "project_residual", &to_residual, &linear(layers, &[])).await?,
            activation: compiler.entry(layers, activation, &to_output, &linear(layers, &[])).await?,
            logits: compiler.entry(tables, "project_logits", &to_logits, &linear(tables, &[])).await?,
            products,
            ops: Vec::new(),
            gpu: gpu.clone(),
            shapes,
        })
    }

    /// Forgets the dispatches and keeps the kernels.
    pub fn clear(&mut self) {
        self.ops.clear();
    }

    fn add(&mut self, entry: fn(&Self) -> &Entry, grid: Grid, reads: Reads, resources: &[(u32, Resource<'_>)]) {
        let entry = entry(self);
        let mut all = vec![(at::STATE, (&self.state).into())];
        all.extend_from_slice(resources);
        let bindings = gpu::bind(&self.gpu, entry.name, &entry.layout, &all);
        let op = Op { name: entry.name, reads, kernels: entry.kernels.clone(), bindings, grid };
        self.ops.push(op);
    }

    /// The dispatch of `entry` for every slice of `matrix`; `grid` takes its blocks.
    fn add_matrix(
        &mut self,
        entry: fn(&Self) -> &Entry,
        grid: fn(u32) -> Grid,
        matrix: &Matrix,
        resources: &[(u32, Resource<'_>)],
    ) {
        for slice in &matrix.slices {
            let mut all = slice.resources();
            all.extend_from_slice(resources);
            let (rows, inputs) = (u64::from(slice.blocks) * BLOCK_ROWS as u64, u64::from(matrix.groups) * GROUP as u64);
            self.add(entry, grid(slice.blocks), Reads::Weights { rows, inputs, format: matrix.format }, &all);
        }
    }

    /// x = E[token] * scale + P[position]
    pub fn embed(&mut self, embedding: &Matrix, positions: &wgpu::Buffer, x: &wgpu::Buffer) {
        let grid = Grid::Columns(embedding.groups.div_ceil(EMBED_THREADS));
        for slice in &embedding.slices {
            let mut resources = slice.resources();
            resources.extend([(at::POSITIONS, positions.into()), (at::X, x.into())]);
            self.add(|step| &step.embed, grid, Reads::Little, &resources);
        }
    }

    /// y = norm(x)
    pub fn norm(&mut self, x: &wgpu::Buffer, norm: [&wgpu::Buffer; 2], y: &Array) {
        self.add(|step| &step.norm, Grid::Columns(1), Reads::Little, &normed(x, norm, y));
    }

    /// y = norm(x) of the columns whose logits are read, packed to the front.
    pub fn norm_last(&mut self, x: &wgpu::Buffer, norm: [&wgpu::Buffer; 2], y: &Array) {
        self.add(|step| &step.norm_last, Grid::Last, Reads::Little, &normed(x, norm, y));
    }

    /// q = (Wq h + bq) / sqrt(head dim); Wk h + bk and Wv h + bv go to each column's row of the cache. Queries and keys are rotated
    /// by what `rotary` says, where the model has rotary positions.
    pub fn qkv(
        &mut self,
        h: &Array,
        (matrix, bias): (&Matrix, &wgpu::Buffer),
        rotary: Option<&Array>,
        q: &Array,
        [keys, values]: [&Array; 2],
    ) {
        let overflow = self.overflow.clone();
        let mut resources: Vec<(u32, Resource<'_>)> = vec![
            (at::INPUT, h.into()),
            (at::OUTPUT, q.into()),
            (at::KEYS, keys.into()),
            (at::VALUES, values.into()),
            (at::BIAS, bias.into()),
            (at::OVERFLOW, (&overflow).into()),
        ];
        resources.extend(rotary.map(|table| (at::ROTARY, table.into())));
        self.add_matrix(|step| &step.qkv, Grid::Matrix, matrix, &resources);
    }

    /// scores = q Kᵀ over the rows that each column attends to.
    pub fn scores(&mut self, q: &Array, keys: &Array, scores: &Array) {
        let grid = Grid::Scores { heads: self.shapes.heads as u32, threads: self.gpu.tuning().score_threads };
        let resources = [(at::INPUT, q.into()), (at::CACHE, keys.into()), (at::SCORES_WRITTEN, scores.into())];
        self.add(|step| &step.scores, grid, Reads::Cache, &resources);
    }

    /// y = softmax(scores) V, heads side by side.
    pub fn values(&mut self, scores: &Array, values: &Array, y: &Array) {
        let grid = Grid::Columns(self.shapes.heads as u32);
        let resources = [(at::SCORES, scores.into()), (at::CACHE, values.into()), (at::OUTPUT, y.into())];
        self.add(|step| &step.values, grid, Reads::Cache, &resources);
    }

    /// x += W input + b
    pub fn residual(&mut self, input: &Array, (matrix, bias): (&Matrix, &wgpu::Buffer), x: &wgpu::Buffer) {
        let resources = [(at::INPUT, input.into()), (at::BIAS, bias.into()), (at::Y, x.into())];
        self.add_matrix(|step| &step.residual, Grid::Matrix, matrix, &resources);
    }

    /// y = gelu(W h + b), or silu(a) · b of each two rows a and b of W h + b: what the model has.
    pub fn activation(&mut self, h: &Array, (matrix, bias): (&Matrix, &wgpu::Buffer), y: &Array) {
        let resources = [(at::INPUT, h.into()), (at::BIAS, bias.into()), (at::OUTPUT, y.into())];
        self.add_matrix(|step| &step.activation, Grid::Matrix, matrix, &resources);
    }

    /// logits = W h, for the columns whose logits are read.
    pub fn logits(&mut self, h: &Array, head: &Matrix, logits: &wgpu::Buffer) {
        let resources = [(at::INPUT, h.into()), (at::Y, logits.into())];
        self.add_matrix(|step| &step.logits, Grid::Logits, head, &resources);
    }

    /// All dispatches for `columns` in one compute pass; the logits of the last `logits` of them.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, columns: &[Column], logits: usize) {
        self.write_state(columns, logits);
        self.encode_pass(encoder, columns, logits);
    }

    /// As [`Step::encode`], of a state that is there already: the pass, to which more may be added.
    pub fn encode_pass<'a>(
        &self,
        encoder: &'a mut wgpu::CommandEncoder,
        columns: &[Column],
        logits: usize,
    ) -> wgpu::ComputePass<'a> {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for op in &self.ops {
            self.dispatch(op, &mut pass, columns, logits);
        }
        pass
    }

    /// Copies to `staging` what the steps so far say of the KV cache, after the pass.
    pub fn tell_overflow(&self, encoder: &mut wgpu::CommandEncoder, staging: &wgpu::Buffer, offset: u64) {
        encoder.copy_buffer_to_buffer(&self.overflow, 0, staging, offset, Some(OVERFLOW_BYTES));
    }

    /// Nothing is in the KV cache that it cannot hold.
    pub fn clear_overflow(&self) {
        self.gpu.queue.write_buffer(&self.overflow, 0, &[0; OVERFLOW_BYTES as usize]);
    }

    /// The buffer that [`Step::write_state`] writes.
    pub fn state(&self) -> &wgpu::Buffer {
        &self.state
    }

    /// As [`Step::encode`], with a pass for each dispatch, which writes two of `timestamps`: before and after it.
    pub fn encode_timed(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        columns: &[Column],
        logits: usize,
        timestamps: &wgpu::QuerySet,
    ) {
        self.write_state(columns, logits);
        for (i, op) in (0..).zip(&self.ops) {
            self.dispatch(op, &mut timed_pass(encoder, op.name, timestamps, i), columns, logits);
        }
    }

    /// Every dispatch's entry point, and what it reads.
    pub fn dispatches(&self) -> impl ExactSizeIterator<Item = (&'static str, Reads)> {
        self.ops.iter().map(|op| (op.name, op.reads))
    }

    /// What the step is to compute.
    pub fn write_state(&self, columns: &[Column], logits: usize) {
        let mut state = vec![columns.len() as u32, logits as u32, 0, 0];
        state.extend_from_slice(bytemuck::cast_slice(columns));
        self.gpu.queue.write_buffer(&self.state, 0, bytemuck::cast_slice(&state));
    }

    fn dispatch(&self, op: &Op, pass: &mut wgpu::ComputePass<'_>, columns: &[Column], logits: usize) {
        let (kernel, [x, y, z]) = self.sized(op, columns, logits as u32);
        if x > 0 && y > 0 {
            pass.set_pipeline(&op.kernels[kernel].pipeline);
            pass.set_bind_group(0, &op.bindings, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
    }

    /// Which of the kernels of `op` this step takes, and its workgroups; y is 0 when there is nothing to do.
    fn sized(&self, op: &Op, columns: &[Column], logits: u32) -> (usize, [u32; 3]) {
        let (count, tuning) = (columns.len() as u32, self.gpu.tuning());
        let matrix = |blocks: u32, tokens: u32| {
            let i = Product::index(&self.products, &tuning, tokens, blocks);
            let [x, y] = self.products[i].workgroups(&tuning, tokens, blocks);
            (i, [x, y, 1])
        };
        match op.grid {
            Grid::Columns(x) => (0, [x, count, 1]),
            Grid::Last => (0, [1, logits, 1]),
            Grid::Matrix(blocks) => matrix(blocks, count),
            Grid::Logits(blocks) => matrix(blocks, logits),
            Grid::Scores { heads, threads } => {
                let attended = columns.iter().map(Column::attended).max().unwrap_or(0);
                (0, [attended.div_ceil(4 * threads), heads, count])
            }
        }
    }
}

/// A pass that writes the `i`-th pair of `timestamps`: at its beginning and at its end.
pub(super) fn timed_pass<'a>(
    encoder: &'a mut wgpu::CommandEncoder,
    name: &str,
    timestamps: &wgpu::QuerySet,
    i: u32,
) -> wgpu::ComputePass<'a> {
    let writes = wgpu::ComputePassTimestampWrites {
        query_set: timestamps,
        beginning_of_pass_write_index: Some(2 * i),
        end_of_pass_write_index: Some(2 * i + 1),
    };
    encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(name), timestamp_writes: Some(writes) })
}

fn normed<'a>(x: &'a wgpu::Buffer, [scale, shift]: [&'a wgpu::Buffer; 2], y: &'a Array) -> [(u32, Resource<'a>); 4] {
    [(at::X, x.into()), (at::SCALE, scale.into()), (at::SHIFT, shift.into()), (at::OUTPUT, y.into())]
}
