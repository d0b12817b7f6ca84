//! Tensors → GPU buffers: those of a checkpoint a few rows at a time, random ones where they belong.

use super::packing::{pack_rows, pack_scales};
use super::random_weights::{Maker, Parts};
use super::stack::Stack;
use super::step::at;
use crate::arch::recipe::{Linear, Norm, Weight};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::config::Config;
use crate::engine::gpu::{Array, Gpu, Resource, SETTLE_BYTES};
use crate::engine::random::Random;
use crate::engine::tensors::{TensorSource, Tensors};
use crate::error::{Error, Result};
use crate::quantize::{self, Format, Quantization};
use half::f16;
use std::collections::BTreeMap;
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

/// The weights of a model on the GPU, by the name of the first tensor that each consists of.
#[derive(Debug)]
pub(crate) struct Weights {
    matrices: BTreeMap<String, Matrix>,
    /// f32: scales and shifts of norms, and biases, which are stacked as their matrices are.
    vectors: BTreeMap<String, wgpu::Buffer>,
}

/// What the bias of a matrix, or the shift of a norm, is kept as.
fn bias_of(weight: &str) -> String {
    format!("{weight}, bias")
}

impl Weights {
    /// Uploads every one of `tensors`, or makes it there.
    ///
    /// # Errors
    /// [`Error::Limit`] when not even one block of a matrix fits a binding, [`Error::Tensor`] for values that fp16
    /// cannot hold, and what reading the checkpoint reports.
    pub async fn load(gpu: &Gpu, config: &Config, tensors: &Tensors, loaded: &mut dyn FnMut(u64)) -> Result<Self> {
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
        let recipe = config.recipe();
        let mut weights = Self { matrices: BTreeMap::new(), vectors: BTreeMap::new() };
        for (layer, op) in &recipe.ops {
            upload.rank = rank(*layer, config.num_layers);
            let stack = Stack::of(op, recipe.rotated_head_dim(config.head_dim()));
            // A tied head is there already.
            if let Some(stack) = stack.filter(|stack| !weights.matrices.contains_key(&stack.names[0])) {
                let (name, linears) = (stack.names[0].clone(), op.linears());
                if !linears.is_empty() {
                    weights.vectors.insert(bias_of(&name), upload.bias(&stack, &linears).await?);
                }
                weights.matrices.insert(name, upload.matrix(&stack).await?);
            }
            if let Some(Norm { scale, shift, width }) = op.norm() {
                let scales = tensors.rows(scale, 0..1).await?;
                let shifts = match shift {
                    Some(shift) => tensors.rows(shift, 0..1).await?,
                    None => vec![0.0; *width],
                };
                weights.vectors.insert(scale.clone(), upload.vector(scale, &scales)?);
                weights.vectors.insert(bias_of(scale), upload.vector(scale, &shifts)?);
            }
        }
        gpu.settle().await?;
        Ok(weights)
    }

    /// The embedding, the head, or the matrix whose first rows are those of `weight`.
    ///
    /// # Errors
    /// [`Error::Tensor`] where it was not loaded: one of another model.
    pub fn matrix(&self, weight: &Weight) -> Result<&Matrix> {
        self.matrices.get(&weight.name).ok_or_else(|| Error::tensor(&weight.name, "was not loaded"))
    }

    /// The matrix whose first rows are those of `first`, and its bias.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn linear(&self, first: &Linear) -> Result<(&Matrix, &wgpu::Buffer)> {
        Ok((self.matrix(&first.weight)?, self.vector(&bias_of(&first.weight.name))?))
    }

    /// The scale and the shift of a norm.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn norm(&self, norm: &Norm) -> Result<[&wgpu::Buffer; 2]> {
        Ok([self.vector(&norm.scale)?, self.vector(&bias_of(&norm.scale))?])
    }

    fn vector(&self, name: &str) -> Result<&wgpu::Buffer> {
        self.vectors.get(name).ok_or_else(|| Error::tensor(name, "was not loaded"))
    }

    #[cfg(test)]
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.matrices.values()
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
    /// The biases of `linears`, in the order of the rows of `stack`.
    async fn bias(&mut self, stack: &Stack, linears: &[&Linear]) -> Result<wgpu::Buffer> {
        let mut vectors = Vec::with_capacity(linears.len());
        for linear in linears {
            vectors.push(match &linear.bias {
                Some(name) => self.tensors.rows(name, 0..1).await?,
                None => vec![0.0; linear.weight.rows],
            });
        }
        self.vector(&stack.names[0], &stack.ordered(&vectors))
    }

    fn vector(&mut self, name: &str, values: &[f32]) -> Result<wgpu::Buffer> {
        (self.loaded)(values.len() as u64);
        self.gpu.upload(name, values)
    }

    /// The matrix of `stack`, in as few buffers as the binding limit allows.
    async fn matrix(&mut self, stack: &Stack) -> Result<Matrix> {
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

    async fn slice(&mut self, stack: &Stack, format: Format, first_row: usize, rows: usize) -> Result<Slice> {
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
                maker.make(self.gpu, &slice, groups, &Parts::new(random, stack))?;
                self.sent(bytes).await?;
            }
            Fill::Upload(_) | Fill::Quantize(_) => self.upload(stack, format, first_row, rows, &slice).await?,
        }
        Ok(slice)
    }

    /// Reads `rows` rows of the stack from `first_row` on, and writes them to `slice`.
    async fn upload(
        &mut self,
        stack: &Stack,
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
    async fn read(&mut self, stack: &Stack, rows: Range<usize>) -> Result<()> {
        let (count, inputs) = (rows.len(), stack.inputs);
        let runs = stack.runs(rows);
        match self.fill {
            Fill::Quantize(quantization) => {
                let format = self.tensors.format(&stack.names[0]);
                let row_bytes = format.row_bytes(inputs);
                let groups = inputs.div_ceil(quantize::GROUP);
                self.quants.resize(count * row_bytes, 0);
                self.scales.resize(count * groups, f16::ZERO);
                self.minima.resize(if format == Format::Q4 { count * groups } else { 0 }, f16::ZERO);
                for run in runs {
                    for first in run.from.clone().step_by(BLOCK_ROWS) {
                        let some = first..run.from.end.min(first + BLOCK_ROWS);
                        let rows = self.tensors.quantized(&stack.names[run.part], some, quantization).await?;
                        run.place(&rows.quants, first, row_bytes, &mut self.quants);
                        run.place(&rows.scales, first, groups, &mut self.scales);
                        run.place(&rows.minima, first, groups, &mut self.minima);
                    }
                }
            }
            Fill::Upload(checkpoint) => {
                self.halves.resize(count * inputs, f16::ZERO);
                for run in runs {
                    let (name, first, values) = (&stack.names[run.part], run.from.start, run.from.len() * inputs);
                    if run.step == 1 {
                        let to = &mut self.halves[run.to * inputs..][..values];
                        checkpoint.read_halves(name, run.from, to).await?;
                    } else {
                        let mut rows = vec![f16::ZERO; values];
                        checkpoint.read_halves(name, run.from.clone(), &mut rows).await?;
                        run.place(&rows, first, inputs, &mut self.halves);
                    }
                }
            }
            Fill::Make(..) => {}
        }
        Ok(())
    }
}

fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}
