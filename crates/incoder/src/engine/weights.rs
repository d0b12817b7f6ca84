//! Tensors → GPU buffers: those of a checkpoint a few rows at a time, random ones where they belong.

use super::random_weights::{Maker, Parts};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::config::Config;
use crate::engine::gpu::{Array, Gpu, SETTLE_BYTES};
use crate::engine::random::Random;
use crate::engine::tensors::Tensors;
use crate::error::{Error, Result};
use half::f16;

/// Rows of a block of the weight layout: see linear.wgsl.
pub(crate) const BLOCK_ROWS: usize = 64;
/// Inputs that lie together, 16 bytes of fp16.
pub(crate) const GROUP: usize = 8;
/// Bytes of fp16 packed and uploaded at a time.
const CHUNK_BYTES: usize = 4 << 20;

/// What linear_outputs.wgsl and embed.wgsl call `Matrix`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Dimensions {
    pub groups: u32,
    pub rows: u32,
    pub first_row: u32,
    pub stride: u32,
    pub rank: u32,
    pub spare: [u32; 3],
}

/// Some rows of a matrix in an array of their own, as large as one binding may be.
#[derive(Debug)]
pub(crate) struct Slice {
    /// fp16 in blocks of 64 rows.
    pub weights: Array,
    /// The `Matrix` uniform of the kernels.
    pub dimensions: wgpu::Buffer,
    /// Blocks of 64 rows, the last one padded with zeros.
    pub blocks: u32,
}

/// A weight matrix [rows, inputs] on the GPU.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub slices: Vec<Slice>,
    /// Inputs / 8.
    pub groups: u32,
}

/// One or more tensors [rows, inputs] that become one matrix, stacked by rows.
#[derive(Debug)]
struct Stack<'a> {
    names: &'a [String],
    /// Rows of each tensor.
    rows_each: usize,
    inputs: usize,
    /// Values from one token's outputs to the next token's, in the buffer that the matrix writes.
    stride: usize,
}

impl Stack<'_> {
    fn rows(&self) -> usize {
        self.names.len() * self.rows_each
    }
}

/// y = W x + b on the GPU.
#[derive(Debug)]
pub(crate) struct Linear {
    pub matrix: Matrix,
    /// f32, all rows of the matrix.
    pub bias: wgpu::Buffer,
}

/// Scale and shift of a layer norm, f32 [d_model] each.
#[derive(Debug)]
pub(crate) struct Norm {
    pub weight: wgpu::Buffer,
    pub bias: wgpu::Buffer,
}

/// The weights of one layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub attention_norm: Norm,
    /// Queries, keys and values in one matrix.
    pub qkv: Linear,
    pub out: Linear,
    pub ffn_norm: Norm,
    pub fc1: Linear,
    pub fc2: Linear,
}

/// The weights of a model on the GPU.
#[derive(Debug)]
pub(crate) struct Weights {
    pub embedding: Matrix,
    /// What the logits come from; `None` where that is the embedding.
    head: Option<Matrix>,
    pub layers: Vec<Layer>,
    pub final_norm: Norm,
}

impl Weights {
    /// Uploads every one of `tensors`, or makes it there.
    ///
    /// # Errors
    /// [`Error::Limit`] when not even one block of a matrix fits a binding, [`Error::Tensor`] for values that fp16
    /// cannot hold, and what reading the checkpoint reports.
    pub async fn load(gpu: &Gpu, config: &Config, tensors: &Tensors, loaded: &mut dyn FnMut(u64)) -> Result<Self> {
        let (d, f) = (config.d_model, config.ffn_dim);
        let fill = match tensors {
            Tensors::Stored(checkpoint) => Fill::Upload(checkpoint),
            Tensors::Random(random) => Fill::Make(random, Maker::new(gpu).await?),
        };
        let mut upload = Uploader { gpu, tensors, fill, loaded, halves: Vec::new(), unsettled: 0, rank: 0 };
        let stride = config.vocab_size.next_multiple_of(BLOCK_ROWS);
        let names = ["embed_tokens.weight", config.head_name()].map(str::to_owned);
        let table = |i: usize| Stack { names: &names[i..=i], rows_each: config.vocab_size, inputs: d, stride };
        let embedding = upload.matrix(&table(0)).await?;
        let head = if config.tie_word_embeddings { None } else { Some(upload.matrix(&table(1)).await?) };
        let mut layers = Vec::with_capacity(config.num_layers);
        for layer in 0..config.num_layers {
            upload.rank = rank(layer, config.num_layers);
            let at = |name: &str| format!("layers.{layer}.{name}");
            let qkv = ["q", "k", "v"].map(|p| at(&format!("self_attn.{p}_proj")));
            layers.push(Layer {
                attention_norm: upload.norm(&at("self_attn_layer_norm")).await?,
                qkv: upload.linear(&qkv, d, d).await?,
                out: upload.linear(&[at("self_attn.out_proj")], d, d).await?,
                ffn_norm: upload.norm(&at("final_layer_norm")).await?,
                fc1: upload.linear(&[at("fc1")], f, d).await?,
                fc2: upload.linear(&[at("fc2")], d, f).await?,
            });
        }
        let final_norm = upload.norm("layer_norm").await?;
        gpu.settle().await?;
        Ok(Self { embedding, head, layers, final_norm })
    }

    /// What the logits come from.
    pub fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

/// What a key of `layer` beyond fp16 leaves in the step's `overflow`; a value leaves one less.
pub(super) fn rank(layer: usize, layers: usize) -> u32 {
    2 * (layers - layer) as u32
}

/// Where matrices come from.
enum Fill<'a> {
    Upload(&'a Checkpoint),
    Make(&'a Random, Maker),
}

/// Brings tensors to the GPU, counting what it has not been waited for yet.
struct Uploader<'a> {
    gpu: &'a Gpu,
    tensors: &'a Tensors,
    fill: Fill<'a>,
    /// Told how many parameters were loaded.
    loaded: &'a mut dyn FnMut(u64),
    /// Rows on their way, row-major.
    halves: Vec<f16>,
    /// That of the layer at hand.
    rank: u32,
    /// Bytes written or made since the GPU was last waited for, and gave its staging memory back.
    unsettled: u64,
}

impl Uploader<'_> {
    /// The layers `names`, stacked by rows into one.
    async fn linear(&mut self, names: &[String], rows_each: usize, inputs: usize) -> Result<Linear> {
        let named = |part: &str| names.iter().map(|name| format!("{name}.{part}")).collect::<Vec<_>>();
        let (weights, biases) = (named("weight"), named("bias"));
        let matrix = self.matrix(&Stack { names: &weights, rows_each, inputs, stride: rows_each }).await?;
        Ok(Linear { matrix, bias: self.vector(&biases).await? })
    }

    async fn norm(&mut self, name: &str) -> Result<Norm> {
        let weight = self.vector(&[format!("{name}.weight")]).await?;
        Ok(Norm { weight, bias: self.vector(&[format!("{name}.bias")]).await? })
    }

    /// The matrix of `stack`, in as few buffers as the binding limit allows.
    async fn matrix(&mut self, stack: &Stack<'_>) -> Result<Matrix> {
        let rows = stack.rows();
        let row_bytes = (stack.inputs * 2) as u64;
        let block_bytes = row_bytes * BLOCK_ROWS as u64;
        let blocks_per_slice = self.gpu.max_words_bytes() / block_bytes;
        if blocks_per_slice == 0 {
            let what = format!("{} (one block of {BLOCK_ROWS} rows, a binding, bytes)", stack.names[0]);
            return Err(Error::Limit { what, need: block_bytes, have: self.gpu.max_binding_bytes() });
        }
        let rows_per_slice = (blocks_per_slice as usize).saturating_mul(BLOCK_ROWS);
        let mut slices = Vec::new();
        for first_row in (0..rows).step_by(rows_per_slice) {
            let slice_rows = rows_per_slice.min(rows - first_row);
            slices.push(self.slice(stack, first_row, slice_rows).await?);
        }
        (self.loaded)((rows * stack.inputs) as u64);
        Ok(Matrix { slices, groups: (stack.inputs / GROUP) as u32 })
    }

    async fn slice(&mut self, stack: &Stack<'_>, first_row: usize, rows: usize) -> Result<Slice> {
        let name = &stack.names[0];
        let groups = (stack.inputs / GROUP) as u32;
        let (first_row_of_slice, stride) = (first_row as u32, stack.stride as u32);
        let (rank, spare) = (self.rank, [0; 3]);
        let dimensions = Dimensions { groups, rows: rows as u32, first_row: first_row_of_slice, stride, rank, spare };
        let blocks = rows.div_ceil(BLOCK_ROWS);
        let bytes = (blocks * BLOCK_ROWS * stack.inputs * 2) as u64;
        let weights = self.gpu.words(name, bytes)?;
        let slice = Slice { weights, dimensions: self.gpu.uniform(name, &dimensions)?, blocks: blocks as u32 };
        match &self.fill {
            &Fill::Upload(checkpoint) => self.upload(checkpoint, stack, first_row, rows, &slice.weights).await?,
            Fill::Make(random, maker) => {
                let parts = stack.names.iter().map(|name| random.part(name));
                maker.make(self.gpu, &slice, groups, &Parts::new(parts, stack.rows_each))?;
                self.sent(bytes).await?;
            }
        }
        Ok(slice)
    }

    /// Reads `rows` rows of the stack from `first_row` on, and writes them to `weights`.
    async fn upload(
        &mut self,
        checkpoint: &Checkpoint,
        stack: &Stack<'_>,
        first_row: usize,
        rows: usize,
        weights: &Array,
    ) -> Result<()> {
        let blocks = rows.div_ceil(BLOCK_ROWS);
        let block_bytes = BLOCK_ROWS * stack.inputs * 2;
        // Whole rows of a texture are written at once.
        let step = lcm(block_bytes, self.gpu.words_row_bytes() as usize) / block_bytes;
        let blocks_at_once = (CHUNK_BYTES / block_bytes).max(1).next_multiple_of(step);
        for block in (0..blocks).step_by(blocks_at_once) {
            let start = block * BLOCK_ROWS;
            let end = ((block + blocks_at_once) * BLOCK_ROWS).min(rows);
            self.read(checkpoint, stack, first_row + start, end - start).await?;
            let bytes = ((end - start).div_ceil(BLOCK_ROWS) * block_bytes) as u64;
            let at = (block * block_bytes) as u64;
            self.gpu.write_words(weights, at, bytes, |put| pack(&self.halves, stack.inputs, put))?;
            self.sent(bytes).await?;
        }
        Ok(())
    }

    async fn sent(&mut self, bytes: u64) -> Result<()> {
        self.unsettled += bytes;
        if self.unsettled >= SETTLE_BYTES {
            self.gpu.settle().await?;
            self.unsettled = 0;
        }
        Ok(())
    }

    /// Reads `rows` rows of the stack from `first` on.
    async fn read(&mut self, checkpoint: &Checkpoint, stack: &Stack<'_>, first: usize, rows: usize) -> Result<()> {
        self.halves.resize(rows * stack.inputs, f16::ZERO);
        let mut row = first;
        while row < first + rows {
            let (part, start) = (row / stack.rows_each, row % stack.rows_each);
            let end = stack.rows_each.min(start + first + rows - row);
            let to = (row - first) * stack.inputs..(row - first + end - start) * stack.inputs;
            checkpoint.read_halves(&stack.names[part], start..end, &mut self.halves[to]).await?;
            row += end - start;
        }
        Ok(())
    }

    /// Vector tensors as f32, one after the other.
    async fn vector(&mut self, names: &[String]) -> Result<wgpu::Buffer> {
        let mut values = Vec::new();
        for name in names {
            values.extend(self.tensors.rows(name, 0..1).await?);
        }
        (self.loaded)(values.len() as u64);
        self.gpu.upload(&names[0], &values)
    }
}

/// Where a row of a block lies among the 64.
fn slot(row: usize) -> usize {
    row % 8 * (BLOCK_ROWS / 8) + row / 8
}

fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

/// Groups of inputs that are packed together: a cache line of every row.
const TILE_GROUPS: usize = 4;

/// Row-major rows → the layout of linear.wgsl: blocks of 64 rows; in each, for every group of 8 inputs, the rows in the order
/// 0, 8, … 56, 1, 9 and so on; rows that are missing from the last block are 0. `put` takes bytes and where they go.
fn pack(rows: &[f16], inputs: usize, put: &mut dyn FnMut(usize, &[u8])) {
    let groups = inputs / GROUP;
    let group_values = BLOCK_ROWS * GROUP;
    for (block, rows) in rows.chunks(BLOCK_ROWS * inputs).enumerate() {
        for first in (0..groups).step_by(TILE_GROUPS) {
            let count = TILE_GROUPS.min(groups - first);
            let mut tile = [f16::ZERO; TILE_GROUPS * BLOCK_ROWS * GROUP];
            for (row, values) in rows.chunks_exact(inputs).enumerate() {
                let slot = slot(row);
                let values = &values[first * GROUP..(first + count) * GROUP];
                for (group, values) in values.chunks_exact(GROUP).enumerate() {
                    let at = group * group_values + slot * GROUP;
                    tile[at..at + GROUP].copy_from_slice(values);
                }
            }
            let at = (block * groups + first) * group_values * size_of::<f16>();
            put(at, bytemuck::cast_slice(&tile[..count * group_values]));
        }
    }
}
