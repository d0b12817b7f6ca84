//! Workgroup shapes chosen by measuring: which one multiplies a matrix fastest cannot be told from an adapter's name.

use super::step::{at, linear_constants, linear_shape};
use super::weights::{BLOCK_ROWS, Dimensions, GROUP};
use crate::checkpoint::config::Config;
use crate::engine::gpu::{self, Array, Binding, Gpu, Kernel, Resource, Texel, Tuning, shaders};
use crate::error::Result;
use crate::quantize::Format;
use std::iter::once;
use web_time::Instant;

/// Bytes of weights that are read one after the other at most: more than caches hold.
const SWEEP_BYTES: u64 = 128 << 20;
/// Threads that share eight rows, and blocks a workgroup, that are tried for one column.
const SLICES: [u32; 4] = [4, 8, 16, 32];
const BLOCKS: [u32; 3] = [1, 2, 4];
/// Most of both together: eight times as many threads are what every adapter of WebGPU allows.
const MOST_SLICES: u32 = 32;
/// Columns of the widest tile, and slices for it, that are tried.
const TILES: [u32; 2] = [8, 4];
const TILE_SLICES: [u32; 4] = [1, 2, 4, 8];
/// Slices and blocks together for it: what the smallest workgroup memory of WebGPU holds.
const MOST_TILE_SLICES: u32 = 8;
/// Columns at once when tiles are measured: a prompt has many.
const COLUMNS: u32 = 32;
/// A shorter time says more of the submit than of the kernel, and of a browser's clock, which may go in milliseconds.
const LEAST_SECONDS: f64 = 0.01;
/// Dispatches of one submit, about, where a clock is so coarse that they seem to take no time.
const MOST_DISPATCHES: usize = 4096;
/// Times each shape is measured; the shortest counts, as nothing makes a kernel faster than it is.
const ROUNDS: usize = 3;
/// One that is so much slower than the best is not measured again.
const HOPELESS: f64 = 1.2;
/// Another shape has to be this much faster: below that it is chance.
const MARGIN: f64 = 1.03;
/// Bytes that are written at once, the same ones again and again.
const PIECE_BYTES: usize = 1 << 20;

/// What was found, and how fast each shape is: the tile's columns, slices and blocks, 10⁹ multiplications and additions
/// a second. With one column these are also the 10⁹ bytes that are read.
#[derive(Debug)]
pub(super) struct Autotuned {
    pub tuning: Tuning,
    pub tried: Vec<(u32, [u32; 2], f64)>,
}

/// Shapes for one column.
pub(super) fn of_one(own: Tuning) -> impl Iterator<Item = Tuning> {
    let shapes = SLICES.into_iter().flat_map(|slices| BLOCKS.map(|blocks| (slices, blocks)));
    let possible = shapes.filter(|(slices, blocks)| slices * blocks <= MOST_SLICES);
    possible.map(move |(linear_slices, linear_blocks)| Tuning { linear_slices, linear_blocks, ..own })
}

/// Shapes for many columns.
pub(super) fn of_tiles(own: Tuning) -> impl Iterator<Item = Tuning> {
    let shapes = TILES.into_iter().flat_map(|columns| TILE_SLICES.map(|slices| (columns, slices)));
    shapes.map(move |(linear_columns, tile_slices)| {
        let tile_blocks = MOST_TILE_SLICES / tile_slices;
        Tuning { linear_columns, tile_slices, tile_blocks, ..own }
    })
}

/// Whether [`measure`] may choose `tuning` on an adapter with the shapes `own`.
pub(super) fn could_choose(own: Tuning, tuning: Tuning) -> bool {
    once(own).chain(of_one(own)).any(|one| once(one).chain(of_tiles(one)).any(|tried| tried == tuning))
}

/// Measures on `gpu` which shapes multiply the matrices of `config` fastest.
///
/// # Errors
/// [`crate::Error::Limit`] and [`crate::Error::OutOfMemory`] when there is no memory for it, [`crate::Error::Kernel`]
/// when a kernel does not compile, [`crate::Error::DeviceLost`] when the device is lost.
pub(super) async fn measure(gpu: &Gpu, config: &Config) -> Result<Autotuned> {
    let harness = Harness::new(gpu, config).await?;
    let mut tried = Vec::new();
    let own = gpu.tuning();
    let one = harness.fastest(1, own, of_one(own), &mut tried).await?;
    let tuning = match gpu.disabled().tiles {
        true => one,
        false => harness.fastest(COLUMNS, one, of_tiles(one), &mut tried).await?,
    };
    Ok(Autotuned { tuning, tried })
}

/// Weights whose memory is given back at the end: a browser would keep it until its garbage is collected.
struct Matrices(Vec<Array>);

impl Drop for Matrices {
    fn drop(&mut self) {
        self.0.iter().for_each(Array::destroy);
    }
}

/// A matrix of a layer several times over, and vectors.
struct Harness {
    gpu: Gpu,
    layout: wgpu::BindGroupLayout,
    module: wgpu::ShaderModule,
    bindings: Vec<wgpu::BindGroup>,
    state: wgpu::Buffer,
    inputs: usize,
    blocks: u32,
    _matrices: Matrices,
}

impl Harness {
    async fn new(gpu: &Gpu, config: &Config) -> Result<Self> {
        use Binding::{Read, ReadArray, Uniform, WriteArray};
        let inputs = config.d_model;
        // What a token reads, so that a model that caches hold is measured in them.
        let sweep_bytes = SWEEP_BYTES.min(2 * config.parameters());
        // A part of a matrix that does not fit a binding, as when it is loaded.
        let most = gpu.max_words_bytes().min(sweep_bytes) as usize / (2 * inputs) / BLOCK_ROWS;
        let rows = config.ffn_dim.next_multiple_of(BLOCK_ROWS).min(most.max(1) * BLOCK_ROWS);
        let matrix_bytes = 2 * rows * inputs;
        let matrices = gpu.allocating("matrices to be measured", sweep_bytes, async || {
            let one = |_| gpu.words("measured weights", matrix_bytes as u64);
            let count = sweep_bytes.div_ceil(matrix_bytes as u64);
            Ok(Matrices((0..count).map(one).collect::<Result<_>>()?))
        });
        let matrices = matrices.await?;
        let layout = gpu::layout(
            gpu,
            "autotune",
            &[
                (at::WEIGHTS, ReadArray(Texel::Words)),
                (at::INPUT, ReadArray(Texel::Floats)),
                (at::OUTPUT, WriteArray(Texel::Floats)),
                (at::STATE, Uniform),
                (at::MATRIX, Uniform),
                (at::BIAS, Read),
            ],
        );
        let module = gpu.compiling("linear", || shaders::LINEAR.module(gpu)).await?;
        let vectors = |what: &str, width: usize| gpu.array(what, Texel::Floats, width as u32 / 4, COLUMNS);
        let (input, output) = (vectors("input", inputs)?, vectors("output", rows)?);
        let bias = gpu.storage("bias", 4 * rows as u64)?;
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        // What step.wgsl calls columns and logits, then columns of zeros.
        let state = gpu.buffer("state", 16 + 32 * super::step::MOST_COLUMNS as u64, usage)?;
        let groups = (inputs / GROUP) as u32;
        let dimensions =
            Dimensions { groups, rows: rows as u32, first_row: 0, stride: rows as u32, rank: 0, spare: [0; 3] };
        let dimensions = gpu.uniform("dimensions", &dimensions)?;
        // Values without a pattern: memory that is all alike may be kept compressed, and read faster than it can be.
        let noise = |at: usize| (at as u32).wrapping_mul(2_654_435_761) & 0x3bff_3bff;
        let piece: Vec<u32> = (0..PIECE_BYTES.min(matrix_bytes) / 4).map(noise).collect();
        let piece: &[u8] = bytemuck::cast_slice(&piece);
        let mut bindings = Vec::new();
        for weights in &matrices.0 {
            for at in (0..matrix_bytes).step_by(PIECE_BYTES) {
                let piece = &piece[..PIECE_BYTES.min(matrix_bytes - at)];
                gpu.write_words(weights, at as u64, piece.len() as u64, |put| put(0, piece))?;
            }
            let resources: [(u32, Resource<'_>); 6] = [
                (at::WEIGHTS, weights.into()),
                (at::INPUT, (&input).into()),
                (at::OUTPUT, (&output).into()),
                (at::STATE, (&state).into()),
                (at::MATRIX, (&dimensions).into()),
                (at::BIAS, (&bias).into()),
            ];
            bindings.push(gpu::bind(gpu, "autotune", &layout, &resources));
        }
        gpu.settle().await?;
        let blocks = (rows / BLOCK_ROWS) as u32;
        Ok(Self { gpu: gpu.clone(), layout, module, bindings, state, inputs, blocks, _matrices: matrices })
    }

    /// The fastest of `own` and `others` with so many columns.
    async fn fastest(
        &self,
        columns: u32,
        own: Tuning,
        others: impl Iterator<Item = Tuning>,
        tried: &mut Vec<(u32, [u32; 2], f64)>,
    ) -> Result<Tuning> {
        self.gpu.queue.write_buffer(&self.state, 0, bytemuck::cast_slice(&[columns, columns]));
        // One column takes as long as its weights take to be read, which caches must not hold.
        let mut count = if columns == 1 { self.bindings.len() } else { 1 };
        let flop = (2 * columns as usize * self.blocks as usize * BLOCK_ROWS * self.inputs) as f64;
        let mut best = (own, f64::INFINITY);
        for tuning in once(own).chain(others.filter(|other| *other != own)) {
            let tile = if columns == 1 { 1 } else { tuning.linear_columns };
            let shape = linear_shape(&tuning, tile);
            let constants = linear_constants(&tuning, tile, &[self.inputs], Format::F16);
            let grid = [columns.div_ceil(tile), self.blocks.div_ceil(shape[1])];
            let seconds = self.seconds(&constants, grid, &mut count, HOPELESS * best.1).await?;
            tried.push((tile, shape, flop / seconds / 1e9));
            if seconds < best.1 {
                best = (tuning, if tuning == own { seconds / MARGIN } else { seconds });
            }
        }
        Ok(best.0)
    }

    /// The shortest time of a dispatch, or one beyond `hopeless`; `count` of one submit become as many as take long
    /// enough to be measured.
    async fn seconds(
        &self,
        constants: &[(&str, f64)],
        grid: [u32; 2],
        count: &mut usize,
        hopeless: f64,
    ) -> Result<f64> {
        let name = "project_gelu";
        let kernel = || Kernel::new(&self.gpu, &self.module, name, &self.layout, constants);
        let kernel = self.gpu.compiling(name, kernel).await?;
        // Drivers compile at the first dispatch.
        self.run(&kernel, grid, 1).await?;
        let mut shortest = f64::INFINITY;
        let mut round = 0;
        while round < ROUNDS {
            let seconds = self.run(&kernel, grid, *count).await?;
            if seconds < LEAST_SECONDS && *count < MOST_DISPATCHES {
                *count *= 2;
                continue;
            }
            shortest = shortest.min(seconds / *count as f64);
            if shortest > hopeless {
                break;
            }
            round += 1;
        }
        Ok(shortest)
    }

    async fn run(&self, kernel: &Kernel, [x, y]: [u32; 2], count: usize) -> Result<f64> {
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&kernel.pipeline);
            for bindings in self.bindings.iter().cycle().take(count) {
                pass.set_bind_group(0, bindings, &[]);
                pass.dispatch_workgroups(x, y, 1);
            }
        }
        let commands = encoder.finish();
        let start = Instant::now();
        self.gpu.queue.submit([commands]);
        self.gpu.finished().await?;
        Ok(start.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::gpu::GpuOptions;
    use pollster::block_on;

    #[test]
    fn chooses_the_fastest_of_the_shapes() {
        // Smaller than a matrix: a part of it is measured.
        let max_binding_bytes = Some(8 << 20);
        let options = GpuOptions { tuning: Some(Tuning::HARDWARE), max_binding_bytes, ..Default::default() };
        let gpu = block_on(Gpu::open(&options)).unwrap();
        // Matrices of 32 MiB, so that few are filled.
        let json = r#"{"model_type":"xglm","num_layers":1,"d_model":2048,"attention_heads":32,"ffn_dim":8192,"vocab_size":64}"#;
        let config = Config::from_json(json).unwrap();
        let Autotuned { tuning, tried } = block_on(measure(&gpu, &config)).unwrap();
        let (one, tiles) = tried.split_at(9);
        assert_eq!((one.len(), tiles.len(), tiles[0].0), (9, 8, 8));
        for (tried, tile) in [(one, 1), (tiles, tuning.linear_columns)] {
            let (own, best) = (tried[0].2, tried.iter().map(|one| one.2).fold(0.0, f64::max));
            let shape = linear_shape(&tuning, tile);
            let chosen = tried.iter().find(|one| (one.0, one.1) == (tile, shape)).unwrap();
            assert!(own > 0.0 && (chosen.2 == best || best < own * MARGIN * 1.001), "{tuning:?} of {tried:?}");
        }
        assert!(could_choose(Tuning::HARDWARE, tuning));
        let Tuning { linear_slices, linear_blocks, linear_columns, tile_slices, tile_blocks, .. } = Tuning::HARDWARE;
        let shapes = Tuning { linear_slices, linear_blocks, linear_columns, tile_slices, tile_blocks, ..tuning };
        assert_eq!(shapes, Tuning::HARDWARE);
    }
}
