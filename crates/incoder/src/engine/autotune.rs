//! Workgroup shapes chosen by measuring: which one multiplies a matrix fastest cannot be told from an adapter's name.

use super::linear::Product;
use super::step::at;
use super::weights::{BLOCK_ROWS, Dimensions, GROUP};
use crate::checkpoint::config::Config;
use crate::engine::gpu::{self, Array, Binding, Gpu, Kernel, Resource, Texel, Tuning};
use crate::error::Result;
use crate::quantize::Format;
use std::fmt;
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
/// Columns a thread, and columns from which on, that are tried for the product through workgroup memory.
const TILED_COLUMNS: [u32; 2] = [8, 4];
const TILED_FROM: [u32; 4] = [16, 32, 64, 128];
/// Eighths of a block a workgroup that are tried for one column and matrices of few blocks.
const NARROW_LANES: [u32; 2] = [2, 4];
/// The most columns that are measured.
const MOST_COLUMNS: u32 = 128;
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

/// What was found, and how fast each shape is.
#[derive(Debug)]
pub(super) struct Autotuned {
    pub tuning: Tuning,
    pub tried: Vec<Tried>,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { product, shape: [first, second], columns, gflops } = self;
        write!(f, "{product:?} [{first}, {second}] of {columns}: {gflops:.0}")
    }
}

/// One measurement.
#[derive(Debug)]
pub(super) struct Tried {
    /// How a matrix was multiplied.
    pub product: Product,
    /// Slices and blocks of a workgroup; lanes of a narrow one and 1, columns a thread of a tiled one and 1.
    pub shape: [u32; 2],
    /// With how many columns.
    pub columns: u32,
    /// 10⁹ multiplications and additions a second; with one column these are also the 10⁹ bytes that are read.
    pub gflops: f64,
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

/// Matrices that are shared out in parts of blocks for one column.
pub(super) fn of_narrow(own: Tuning) -> impl Iterator<Item = Tuning> {
    NARROW_LANES.into_iter().map(move |narrow_lanes| Tuning { narrow_lanes, ..own })
}

/// Matrices that are multiplied through workgroup memory.
pub(super) fn of_products(own: Tuning) -> impl Iterator<Item = Tuning> {
    TILED_COLUMNS.into_iter().map(move |tiled_columns| Tuning { tiled_columns, ..own })
}

/// Whether [`measure`] may choose `tuning` on an adapter with the shapes `own`.
pub(super) fn could_choose(own: Tuning, tuning: Tuning) -> bool {
    let Tuning { narrow_below, narrow_lanes, tiled_from, tiled_columns, .. } = tuning;
    let measured = Tuning { narrow_below, narrow_lanes, tiled_from, tiled_columns, ..own };
    once(measured).chain(of_one(measured)).any(|one| once(one).chain(of_tiles(one)).any(|tried| tried == tuning))
        && NARROW_LANES.contains(&narrow_lanes)
        && TILED_COLUMNS.contains(&tiled_columns)
}

/// Measures on `gpu` which shapes multiply the matrices of `config` fastest.
///
/// # Errors
/// [`crate::Error::Limit`] and [`crate::Error::OutOfMemory`] when there is no memory for it, [`crate::Error::Kernel`]
/// when a kernel does not compile, [`crate::Error::DeviceLost`] when the device is lost.
pub(super) async fn measure(gpu: &Gpu, config: &Config) -> Result<Autotuned> {
    let harness = Harness::new(gpu, config, config.ffn_dim, config.d_model).await?;
    let mut tried = Vec::new();
    let own = gpu.tuning();
    let disabled = gpu.disabled();
    let mut tuning = harness.fastest(1, own, of_one(own), &mut tried).await?;
    if !disabled.tiles {
        tuning = harness.fastest(COLUMNS, tuning, of_tiles(tuning), &mut tried).await?;
    }
    if !disabled.tiles && !disabled.products {
        tuning = harness.crossover(tuning, &mut tried).await?;
    }
    let of_many = harness.narrow(tuning, &mut tried).await?;
    let blocks_of_many = harness.blocks;
    drop(harness);
    // The other matrix of a layer, which has few rows of many inputs.
    let harness = Harness::new(gpu, config, config.d_model, config.ffn_dim).await?;
    let of_few = harness.narrow(tuning, &mut tried).await?;
    tuning.narrow_below = 0;
    if let Some((_, lanes)) = of_few.iter().flatten().copied().max_by(|a, b| a.0.total_cmp(&b.0)) {
        tuning.narrow_lanes = lanes;
        let also_many = of_many.iter().flatten().any(|&(_, also)| also == lanes);
        tuning.narrow_below = 1 + if also_many { blocks_of_many.max(harness.blocks) } else { harness.blocks };
    }
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
    bindings: Vec<wgpu::BindGroup>,
    state: wgpu::Buffer,
    inputs: usize,
    blocks: u32,
    _matrices: Matrices,
}

impl Harness {
    /// For matrices of `rows` rows of `inputs` inputs.
    async fn new(gpu: &Gpu, config: &Config, rows: usize, inputs: usize) -> Result<Self> {
        use Binding::{Read, ReadArray, Uniform, WriteArray};
        // What a token reads, so that a model that caches hold is measured in them.
        let sweep_bytes = SWEEP_BYTES.min(2 * config.parameters());
        // A part of a matrix that does not fit a binding, as when it is loaded.
        let most = gpu.max_words_bytes().min(sweep_bytes) as usize / (2 * inputs) / BLOCK_ROWS;
        let rows = rows.next_multiple_of(BLOCK_ROWS).min(most.max(1) * BLOCK_ROWS);
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
        let vectors = |what: &str, width: usize| gpu.array(what, Texel::Floats, width as u32 / 4, MOST_COLUMNS);
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
        Ok(Self { gpu: gpu.clone(), layout, bindings, state, inputs, blocks, _matrices: matrices })
    }

    /// The fastest of `own` and `others` with so many columns.
    async fn fastest(
        &self,
        columns: u32,
        own: Tuning,
        others: impl Iterator<Item = Tuning>,
        tried: &mut Vec<Tried>,
    ) -> Result<Tuning> {
        let mut best = (own, f64::INFINITY);
        for tuning in once(own).chain(others.filter(|other| *other != own)) {
            let product = Product::Few(if columns == 1 { 1 } else { tuning.linear_columns });
            let seconds = self.seconds(product, &tuning, columns, HOPELESS * best.1, tried).await?;
            if seconds < best.1 {
                best = (tuning, if tuning == own { seconds / MARGIN } else { seconds });
            }
        }
        Ok(best.0)
    }

    /// For each of [`NARROW_LANES`] that is faster for one column than whole blocks: how much, and the number of lanes.
    async fn narrow(&self, own: Tuning, tried: &mut Vec<Tried>) -> Result<[Option<(f64, u32)>; 2]> {
        let whole = self.seconds(Product::Few(1), &own, 1, f64::INFINITY, tried).await?;
        let mut faster = [None; NARROW_LANES.len()];
        for (tuning, faster) in of_narrow(own).zip(&mut faster) {
            let seconds = self.seconds(Product::Narrow, &tuning, 1, whole, tried).await?;
            *faster = (seconds * MARGIN < whole).then_some((whole / seconds, tuning.narrow_lanes));
        }
        Ok(faster)
    }

    /// `own` with the number of columns from which on the product through workgroup memory is faster, and stays so.
    async fn crossover(&self, own: Tuning, tried: &mut Vec<Tried>) -> Result<Tuning> {
        let mut best = (own, f64::INFINITY);
        for tuning in of_products(own) {
            let seconds = self.seconds(Product::Tiled, &tuning, MOST_COLUMNS, HOPELESS * best.1, tried).await?;
            if seconds < best.1 {
                best = (tuning, seconds);
            }
        }
        let mut tuning = Tuning { tiled_from: 0, ..best.0 };
        for columns in TILED_FROM.into_iter().rev() {
            let tiled = self.seconds(Product::Tiled, &tuning, columns, f64::INFINITY, tried).await?;
            let few = self.seconds(Product::Few(tuning.linear_columns), &tuning, columns, tiled, tried).await?;
            if few < tiled {
                break;
            }
            tuning.tiled_from = columns;
        }
        Ok(tuning)
    }

    /// The shortest time of a dispatch with so many `columns`, or one beyond `hopeless`.
    async fn seconds(
        &self,
        product: Product,
        tuning: &Tuning,
        columns: u32,
        hopeless: f64,
        tried: &mut Vec<Tried>,
    ) -> Result<f64> {
        let name = "project_gelu";
        let module = self.gpu.compiling(name, || product.source().module(&self.gpu)).await?;
        let constants = product.constants(tuning, &[self.inputs], Format::F16);
        let kernel = || Kernel::new(&self.gpu, &module, name, &self.layout, &constants);
        let kernel = self.gpu.compiling(name, kernel).await?;
        self.gpu.queue.write_buffer(&self.state, 0, bytemuck::cast_slice(&[columns, columns]));
        let grid = product.workgroups(tuning, columns, self.blocks);
        // Drivers compile at the first dispatch.
        self.run(&kernel, grid, 1).await?;
        // One column takes as long as its weights take to be read, which caches must not hold.
        let mut count = if columns == 1 { self.bindings.len() } else { 1 };
        let mut shortest = f64::INFINITY;
        let mut round = 0;
        while round < ROUNDS {
            let seconds = self.run(&kernel, grid, count).await?;
            // As many dispatches in one submit as take long enough to be measured.
            if seconds < LEAST_SECONDS && count < MOST_DISPATCHES {
                count *= 2;
                continue;
            }
            shortest = shortest.min(seconds / count as f64);
            if shortest > hopeless {
                break;
            }
            round += 1;
        }
        let flop = (2 * columns as usize * self.blocks as usize * BLOCK_ROWS * self.inputs) as f64;
        let shape = match product {
            Product::Few(_) => product.shape(tuning),
            Product::Narrow => [tuning.narrow_lanes, 1],
            Product::Tiled => [tuning.tiled_columns, 1],
        };
        tried.push(Tried { product, shape, columns, gflops: flop / shortest / 1e9 });
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
        let (one, tiles) = (&tried[..9], &tried[9..17]);
        assert_eq!(tiles[0].product, Product::Few(8));
        for (tried, columns) in [(one, 1), (tiles, tuning.linear_columns)] {
            let (own, best) = (tried[0].gflops, tried.iter().map(|one| one.gflops).fold(0.0, f64::max));
            let product = Product::Few(columns);
            let chosen = tried.iter().find(|one| (one.product, one.shape) == (product, product.shape(&tuning)));
            let chosen = chosen.unwrap().gflops;
            assert!(own > 0.0 && (chosen == best || best < own * MARGIN * 1.001), "{tuning:?} of {tried:?}");
        }
        // The product through workgroup memory, tile by tile, is used from where it is faster on.
        let measured = |product: Product, columns: u32| {
            let of_it = tried[17..].iter().rev().filter(|one| one.product == product && one.columns == columns);
            of_it.map(|one| one.gflops).next()
        };
        let few = Product::Few(tuning.linear_columns);
        for columns in TILED_FROM {
            if let Some((tiled, few)) = measured(Product::Tiled, columns).zip(measured(few, columns)) {
                assert_eq!(
                    tiled >= few,
                    tuning.tiled_from > 0 && columns >= tuning.tiled_from,
                    "{columns} of {tried:?}"
                );
            }
        }
        assert!(could_choose(Tuning::HARDWARE, tuning));
        let Tuning { linear_slices, linear_blocks, linear_columns, tile_slices, tile_blocks, .. } = Tuning::HARDWARE;
        let Tuning { tiled_from, tiled_columns, narrow_below, narrow_lanes, .. } = Tuning::HARDWARE;
        let shapes = Tuning { linear_slices, linear_blocks, linear_columns, tile_slices, tile_blocks, ..tuning };
        let shapes = Tuning { tiled_from, tiled_columns, narrow_below, narrow_lanes, ..shapes };
        assert_eq!(shapes, Tuning::HARDWARE);
    }
}
