//! Workgroup shapes chosen by measuring: which one reads a matrix fastest cannot be told from an adapter's name.

use super::step::{at, linear_constants};
use super::weights::{BLOCK_ROWS, Dimensions, GROUP};
use crate::config::Config;
use crate::error::Result;
use crate::gpu::{self, Array, Binding, Gpu, Kernel, Resource, Texel, Tuning, shaders};
use web_time::Instant;

/// Bytes of weights that are read one after the other: more than caches hold.
const SWEEP_BYTES: usize = 128 << 20;
/// Threads that share eight rows, and blocks a workgroup, that are tried where workgroup memory allows both.
const SLICES: [u32; 4] = [4, 8, 16, 32];
const BLOCKS: [u32; 3] = [1, 2, 4];
/// Most of both together: what the smallest workgroup memory of WebGPU holds in the widest tile.
const MOST_SLICES: u32 = 32;
/// A shorter time says more of the submit than of the memory.
const LEAST_SECONDS: f64 = 0.005;
/// Sweeps of one submit at most, where a clock is so coarse that they seem to take no time.
const MOST_SWEEPS: u32 = 64;
/// Times each shape is measured; the shortest counts, as nothing makes a kernel faster than it is.
const ROUNDS: usize = 3;
/// Another shape has to be this much faster: below that it is chance.
const MARGIN: f64 = 1.03;

/// What [`Gpu::autotune`] found.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Autotuned {
    /// The shapes to use: see [`Gpu::with_tuning`].
    pub tuning: Tuning,
    /// What each shape reads, 10⁹ bytes a second: `linear_slices`, `linear_blocks`, rate.
    pub tried: Vec<(u32, u32, f64)>,
}

/// A matrix of a layer several times over, and a vector.
struct Harness {
    gpu: Gpu,
    layout: wgpu::BindGroupLayout,
    module: wgpu::ShaderModule,
    bindings: Vec<wgpu::BindGroup>,
    inputs: usize,
    blocks: u32,
}

impl Gpu {
    /// Measures which workgroup shapes multiply the matrices of `config` fastest, in a fraction of a second; what it found is
    /// worth keeping for this adapter, driver and model. It takes 128 MiB of the GPU's memory meanwhile. Software adapters
    /// keep the shapes they have: theirs were measured, and measuring would take them seconds.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] and [`crate::Error::OutOfMemory`] when there is no such memory, [`crate::Error::Kernel`] when a
    /// kernel does not compile, [`crate::Error::DeviceLost`] when the device is lost.
    pub async fn autotune(&self, config: &Config) -> Result<Autotuned> {
        if self.memory_limits().software {
            return Ok(Autotuned { tuning: self.tuning(), tried: Vec::new() });
        }
        measure(self, config).await
    }
}

/// As [`Gpu::autotune`], of any adapter.
pub(super) async fn measure(gpu: &Gpu, config: &Config) -> Result<Autotuned> {
    gpu.allocating("matrices to be measured", SWEEP_BYTES as u64, async || {
        let harness = Harness::new(gpu, config).await?;
        let own = gpu.tuning();
        let bytes = harness.bytes() as f64;
        let mut sweeps = 1;
        let mut best = (own, harness.seconds(own, &mut sweeps).await? / MARGIN);
        let mut tried = vec![(own.linear_slices, own.linear_blocks, bytes / best.1 / MARGIN / 1e9)];
        for linear_slices in SLICES {
            for linear_blocks in BLOCKS {
                let tuning = Tuning { linear_slices, linear_blocks, ..own };
                if tuning == own || linear_slices * linear_blocks > MOST_SLICES {
                    continue;
                }
                let seconds = harness.seconds(tuning, &mut sweeps).await?;
                tried.push((linear_slices, linear_blocks, bytes / seconds / 1e9));
                if seconds < best.1 {
                    best = (tuning, seconds);
                }
            }
        }
        Ok(Autotuned { tuning: best.0, tried })
    })
    .await
}

impl Harness {
    async fn new(gpu: &Gpu, config: &Config) -> Result<Self> {
        use Binding::{Read, ReadArray, Uniform, WriteArray};
        let inputs = config.d_model;
        // A part of a matrix that does not fit a binding, as when it is loaded.
        let most =
            (gpu.max_words_bytes().min(SWEEP_BYTES as u64) as usize / (2 * inputs) / BLOCK_ROWS).max(1) * BLOCK_ROWS;
        let rows = config.ffn_dim.next_multiple_of(BLOCK_ROWS).min(most);
        let matrix_bytes = 2 * rows * inputs;
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
        let one = |what: &str, width: usize| gpu.array(what, Texel::Floats, width as u32 / 4, 1);
        let (input, output) = (one("input", inputs)?, one("output", rows)?);
        let bias = gpu.storage("bias", 4 * rows as u64)?;
        // One column, as when decoding: what step.wgsl calls columns and logits, then columns of zeros.
        let mut state = vec![0u32; 4 + 8 * super::step::MOST_COLUMNS];
        state[..2].fill(1);
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let state_buffer = gpu.buffer("state", 4 * state.len() as u64, usage)?;
        gpu.queue.write_buffer(&state_buffer, 0, bytemuck::cast_slice(&state));
        let groups = (inputs / GROUP) as u32;
        let dimensions = Dimensions { groups, rows: rows as u32, first_row: 0, stride: rows as u32 };
        let dimensions = gpu.uniform("dimensions", &dimensions)?;
        let mut bindings = Vec::new();
        for i in 0..SWEEP_BYTES.div_ceil(matrix_bytes) {
            let weights: Array = gpu.words("weights", matrix_bytes as u64)?;
            // Values without a pattern: memory that is all alike may be kept compressed, and read faster than it can be.
            let noise = |at: usize| (at as u32 ^ i as u32).wrapping_mul(2_654_435_761) & 0x3bff_3bff;
            gpu.write_words(&weights, 0, matrix_bytes as u64, |put| {
                for at in (0..matrix_bytes).step_by(1 << 16) {
                    let end = matrix_bytes.min(at + (1 << 16));
                    let words: Vec<u32> = (at / 4..end / 4).map(noise).collect();
                    put(at, bytemuck::cast_slice(&words));
                }
            })?;
            let resources: [(u32, Resource<'_>); 6] = [
                (at::WEIGHTS, (&weights).into()),
                (at::INPUT, (&input).into()),
                (at::OUTPUT, (&output).into()),
                (at::STATE, (&state_buffer).into()),
                (at::MATRIX, (&dimensions).into()),
                (at::BIAS, (&bias).into()),
            ];
            bindings.push(gpu::bind(gpu, "autotune", &layout, &resources));
        }
        gpu.settle().await?;
        let blocks = (rows / BLOCK_ROWS) as u32;
        Ok(Self { gpu: gpu.clone(), layout, module, bindings, inputs, blocks })
    }

    /// Bytes of a sweep.
    fn bytes(&self) -> usize {
        self.bindings.len() * self.blocks as usize * BLOCK_ROWS * self.inputs * 2
    }

    /// The shortest time of a sweep; `sweeps` of one submit become as many as take long enough to be measured.
    async fn seconds(&self, tuning: Tuning, sweeps: &mut u32) -> Result<f64> {
        let constants = linear_constants(&tuning, 1, &[self.inputs]);
        let name = "project_gelu";
        let kernel = || Kernel::new(&self.gpu, &self.module, name, &self.layout, &constants);
        let kernel = self.gpu.compiling(name, kernel).await?;
        // Drivers compile at the first dispatch.
        self.sweep(&kernel, tuning, 1).await?;
        let mut shortest = f64::INFINITY;
        let mut round = 0;
        while round < ROUNDS {
            let seconds = self.sweep(&kernel, tuning, *sweeps).await?;
            if seconds < LEAST_SECONDS && *sweeps < MOST_SWEEPS {
                *sweeps *= 2;
                continue;
            }
            shortest = shortest.min(seconds / f64::from(*sweeps));
            round += 1;
        }
        Ok(shortest)
    }

    async fn sweep(&self, kernel: &Kernel, tuning: Tuning, count: u32) -> Result<f64> {
        let start = Instant::now();
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&kernel.pipeline);
            for _ in 0..count {
                for bindings in &self.bindings {
                    pass.set_bind_group(0, bindings, &[]);
                    pass.dispatch_workgroups(1, self.blocks.div_ceil(tuning.linear_blocks), 1);
                }
            }
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.finished().await?;
        Ok(start.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::GpuOptions;
    use pollster::block_on;

    #[test]
    fn chooses_among_the_shapes_and_leaves_software_alone() {
        // Smaller than a matrix: a part of it is measured.
        let max_binding_bytes = Some(8 << 20);
        let options = GpuOptions { tuning: Some(Tuning::HARDWARE), max_binding_bytes, ..Default::default() };
        let gpu = block_on(Gpu::open(&options)).unwrap();
        // Matrices of 32 MiB, so that few are filled.
        let json = r#"{"model_type":"xglm","num_layers":1,"d_model":2048,"attention_heads":32,"ffn_dim":8192,"vocab_size":64}"#;
        let config = Config::from_json(json).unwrap();
        let Autotuned { tuning, tried } = block_on(measure(&gpu, &config)).unwrap();
        assert_eq!(tried.len(), 9);
        let (own, best) = (tried[0].2, tried.iter().map(|one| one.2).fold(0.0, f64::max));
        let chosen = tried.iter().find(|one| (one.0, one.1) == (tuning.linear_slices, tuning.linear_blocks)).unwrap();
        assert!(own > 0.0 && (chosen.2 == best || best < own * MARGIN * 1.001), "{tuning:?} of {tried:?}");
        assert_eq!(Tuning { linear_slices: 32, linear_blocks: 1, ..tuning }, Tuning::HARDWARE);
        if gpu.memory_limits().software {
            let untouched = Autotuned { tuning: Tuning::HARDWARE, tried: Vec::new() };
            assert_eq!(block_on(gpu.autotune(&config)).unwrap(), untouched);
        }
    }
}
