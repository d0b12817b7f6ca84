//! Tensors → GPU buffers: those of a checkpoint a few rows at a time, random ones where they belong.

use super::packing::{pack_rows, pack_scales};
use super::random_weights::{Maker, Parts};
use super::step::at;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::config::Config;
use crate::engine::gpu::{Array, Gpu, Resource, SETTLE_BYTES};
use crate::engine::random::Random;
use crate::engine::tensors::{TensorSource, Tensors};
use crate::error::{Error, Result};
use crate::quantize::{self, Format, Quantization, Rows};
use half::f16;
use std::ops::Range;

/// Rows of a block of the weight layout: see linear.wgsl.
pub(crate) const BLOCK_ROWS: usize = 64;
/// Inputs that lie together, 16 bytes of fp16.
pub(crate) const GROUP: usize = 8;
/// Bytes packed and uploaded at a time.
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
    /// In blocks of 64 rows: see weights_in_*.wgsl.
    pub weights: Array,
    /// Where they are quantized.
    scales: Option<Array>,
    /// The `Matrix` uniform of the kernels.
    pub dimensions: wgpu::Buffer,
    /// Blocks of 64 rows, the last one padded with zeros.
    pub blocks: u32,
}

impl Slice {
    /// What every kernel that reads it binds.
    pub fn resources(&self) -> Vec<(u32, Resource<'_>)> {
        let scales = self.scales.iter().map(|scales| (at::SCALES, scales.into()));
        let own = [(at::WEIGHTS, (&self.weights).into()), (at::MATRIX, (&self.dimensions).into())];
        own.into_iter().chain(scales).collect()
    }
}

/// A weight matrix [rows, inputs] on the GPU.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub slices: Vec<Slice>,
    /// Inputs / 8.
    pub groups: u32,
    pub format: Format,
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
        let fill = match (&tensors.source, tensors.quantization) {
            (_, Some(quantization)) => Fill::Quantize(quantization),
            (TensorSource::Stored(checkpoint), None) => Fill::Upload(checkpoint),
            (TensorSource::Random(random), None) => Fill::Make(random, Maker::new(gpu).await?),
        };
        let mut upload = Uploader {
            gpu,
            tensors,
            fill,
            loaded,
            halves: Vec::new(),
            quants: Vec::new(),
            scales: Vec::new(),
            minima: Vec::new(),
            unsettled: 0,
            rank: 0,
        };
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
    Quantize(Quantization),
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
    /// Rows on their way, row-major: in fp16, or quantized, with their scales and minima.
    halves: Vec<f16>,
    quants: Vec<u8>,
    scales: Vec<f16>,
    minima: Vec<f16>,
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
        let format = self.tensors.format(&stack.names[0]);
        let block_bytes = (format.row_bytes(stack.inputs) * BLOCK_ROWS) as u64;
        let blocks_per_slice = self.gpu.max_words_bytes() / block_bytes;
        if blocks_per_slice == 0 {
            let what = format!("{} (one block of {BLOCK_ROWS} rows, a binding, bytes)", stack.names[0]);
            return Err(Error::Limit { what, need: block_bytes, have: self.gpu.max_binding_bytes() });
        }
        let rows_per_slice = (blocks_per_slice as usize).saturating_mul(BLOCK_ROWS);
        let mut slices = Vec::new();
        for first_row in (0..rows).step_by(rows_per_slice) {
            let slice_rows = rows_per_slice.min(rows - first_row);
            slices.push(self.slice(stack, format, first_row, slice_rows).await?);
        }
        (self.loaded)((rows * stack.inputs) as u64);
        Ok(Matrix { slices, groups: (stack.inputs / GROUP) as u32, format })
    }

    async fn slice(&mut self, stack: &Stack<'_>, format: Format, first_row: usize, rows: usize) -> Result<Slice> {
        let name = &stack.names[0];
        let groups = (stack.inputs / GROUP) as u32;
        let (first_row_of_slice, stride) = (first_row as u32, stack.stride as u32);
        let (rank, spare) = (self.rank, [0; 3]);
        let dimensions = Dimensions { groups, rows: rows as u32, first_row: first_row_of_slice, stride, rank, spare };
        let blocks = rows.div_ceil(BLOCK_ROWS);
        let all_rows = blocks * BLOCK_ROWS;
        let bytes = (all_rows * format.row_bytes(stack.inputs)) as u64;
        let scales = match all_rows * format.row_scales(stack.inputs) * 2 {
            0 => None,
            bytes => Some(self.gpu.words(name, bytes as u64)?),
        };
        let weights = self.gpu.words(name, bytes)?;
        let dimensions = self.gpu.uniform(name, &dimensions)?;
        let slice = Slice { weights, scales, dimensions, blocks: blocks as u32 };
        match &self.fill {
            Fill::Make(random, maker) => {
                let parts = stack.names.iter().map(|name| random.part(name));
                maker.make(self.gpu, &slice, groups, &Parts::new(parts, stack.rows_each))?;
                self.sent(bytes).await?;
            }
            Fill::Upload(_) | Fill::Quantize(_) => self.upload(stack, format, first_row, rows, &slice).await?,
        }
        Ok(slice)
    }

    /// Reads `rows` rows of the stack from `first_row` on, and writes them to `slice`.
    async fn upload(
        &mut self,
        stack: &Stack<'_>,
        format: Format,
        first_row: usize,
        rows: usize,
        slice: &Slice,
    ) -> Result<()> {
        let block_bytes = BLOCK_ROWS * format.row_bytes(stack.inputs);
        let scale_bytes = BLOCK_ROWS * format.row_scales(stack.inputs) * 2;
        // Whole rows of a texture are written at once, of the weights and of the scales.
        let texture_row = self.gpu.words_row_bytes() as usize;
        let step = |bytes: usize| lcm(bytes, texture_row).checked_div(bytes).unwrap_or(1);
        let step = lcm(step(block_bytes), step(scale_bytes));
        let blocks_at_once = (CHUNK_BYTES / block_bytes).max(1).next_multiple_of(step);
        for start in (0..rows).step_by(blocks_at_once * BLOCK_ROWS) {
            let end = (start + blocks_at_once * BLOCK_ROWS).min(rows);
            self.read(stack, first_row + start..first_row + end).await?;
            let (block, blocks) = (start / BLOCK_ROWS, (end - start).div_ceil(BLOCK_ROWS));
            let (at, bytes) = ((block * block_bytes) as u64, (blocks * block_bytes) as u64);
            let row_bytes = format.row_bytes(stack.inputs);
            let rows = if format == Format::F16 { bytemuck::cast_slice(&self.halves) } else { &self.quants[..] };
            self.gpu.write_words(&slice.weights, at, bytes, |put| pack_rows(format, rows, row_bytes, put))?;
            if let Some(scales) = &slice.scales {
                let (at, bytes) = ((block * scale_bytes) as u64, (blocks * scale_bytes) as u64);
                let groups = stack.inputs.div_ceil(quantize::GROUP);
                self.gpu.write_words(scales, at, bytes, |put| pack_scales(&self.scales, &self.minima, groups, put))?;
            }
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

    /// Reads `rows` of the stack.
    async fn read(&mut self, stack: &Stack<'_>, rows: Range<usize>) -> Result<()> {
        self.halves.clear();
        self.quants.clear();
        self.scales.clear();
        self.minima.clear();
        let mut row = rows.start;
        while row < rows.end {
            let (part, start) = (row / stack.rows_each, row % stack.rows_each);
            let end = stack.rows_each.min(start + rows.end - row);
            let name = &stack.names[part];
            match self.fill {
                Fill::Quantize(quantization) => {
                    for first in (start..end).step_by(BLOCK_ROWS) {
                        let some = first..end.min(first + BLOCK_ROWS);
                        let Rows { quants, scales, minima, .. } =
                            self.tensors.quantized(name, some, quantization).await?;
                        self.quants.extend_from_slice(&quants);
                        self.scales.extend_from_slice(&scales);
                        self.minima.extend_from_slice(&minima);
                    }
                }
                Fill::Upload(checkpoint) => {
                    let at = self.halves.len();
                    self.halves.resize(at + (end - start) * stack.inputs, f16::ZERO);
                    checkpoint.read_halves(name, start..end, &mut self.halves[at..]).await?;
                }
                Fill::Make(..) => {}
            }
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

fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}
