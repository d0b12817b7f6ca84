//! What an adapter does at best: the rate at which it reads memory, and what asking it for anything costs.

use super::{Gpu, shaders};
use crate::error::{Error, Result};
use serde::Serialize;
use web_time::Instant;

/// Bytes of a part of what is read: a texture. Shapes of workgroups are tried on one part.
const PART_BYTES: u64 = 256 << 20;
/// Parts of a whole sweep: 1 GiB is many times what caches hold. SwiftShader reads no more than that in a second, and a page should not
/// take gigabytes.
const PARTS: u32 = if cfg!(target_arch = "wasm32") { 1 } else { 4 };
/// Smaller buffers than this would measure dispatches.
const LEAST_BUFFER_BYTES: u64 = 64 << 20;
/// Bytes that one read gets.
const READ_BYTES: u64 = 16;
/// Values that one thread reads.
const READS: u32 = 64;
/// Texels in a row of a texture, which has as many rows: every adapter allows that.
const WIDTH: u32 = 4096;
/// The entry point of streaming_storage_texture.wgsl.
const READ_STORAGE_TEXTURE: &str = "read_storage_texture";
/// Threads of a workgroup that are tried.
const WORKGROUPS: [u32; 4] = [8, 16, 64, 256];
/// A shorter time says more of the submit than of the memory.
const LEAST_SECONDS: f64 = 0.02;
/// Sweeps of one submit at most, where a clock is so coarse that they seem to take no time.
const MOST_ROUNDS: u32 = 1 << 10;
/// Submits of a kernel, of which the fastest counts: others may be busy, too. Those that try shapes, then those of the best one.
const TRIAL_SUBMITS: u32 = 2;
const SUBMITS: u32 = 8;
/// No submit is begun after these took so long.
const MOST_SECONDS: f64 = 0.5;
/// Dispatches in one pass when the cost of one is measured.
const DISPATCHES: u32 = 1000;
/// Round trips of which the median counts.
const ROUND_TRIPS: usize = 21;

/// The rate at which an adapter reads memory that no cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ReadRate {
    /// 10⁹ bytes a second.
    pub gb_per_second: f64,
    /// Threads of a workgroup that reached it; 8, 16, 64 and 256 were tried.
    pub workgroup_threads: u32,
}

/// What an adapter does at best, measured: no kernel that reads its input once can be faster.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AdapterSpeed {
    /// Reading a storage buffer, neighbouring threads neighbouring 16 bytes.
    pub buffer: ReadRate,
    /// Reading a texture of format rgba32uint with `textureLoad`, neighbouring threads neighbouring texels.
    pub texture: ReadRate,
    /// Reading the same as a storage texture; `None` in browsers, not all of which can.
    pub storage_texture: Option<ReadRate>,
    /// One dispatch more in a pass, from its encoding to its end, microseconds.
    pub dispatch_us: f64,
    /// From a submit until 4 bytes of its result are read, microseconds.
    pub round_trip_us: f64,
}

impl AdapterSpeed {
    /// Measures: reads 1 GiB, in browsers and where there is no memory for more 256 MiB, of which the fastest of several times
    /// counts. Takes twice as much of the GPU's memory meanwhile, a fraction of a second on hardware, and seconds on a software
    /// adapter.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] when there is no such memory, [`crate::Error::Limit`] when no buffer of a useful
    /// size can be bound, [`crate::Error::Kernel`] when a kernel does not compile, [`crate::Error::DeviceLost`] when the
    /// device is lost.
    pub async fn measure(gpu: &Gpu) -> Result<Self> {
        match Self::of_parts(gpu, PARTS).await {
            Err(Error::OutOfMemory { .. }) if PARTS > 1 => Self::of_parts(gpu, 1).await,
            measured => measured,
        }
    }

    async fn of_parts(gpu: &Gpu, parts: u32) -> Result<Self> {
        gpu.allocating("memory to be read", 2 * u64::from(parts) * PART_BYTES, async || {
            let streams = Streams::new(gpu, parts).await?;
            let (buffers, textures) = (&streams.buffers, &streams.textures);
            let buffer = streams.read_rate("read_buffer", buffers).await?;
            let texture = streams.read_rate("read_texture", textures).await?;
            let storage_texture = if cfg!(target_arch = "wasm32") {
                None
            } else {
                Some(streams.read_rate(READ_STORAGE_TEXTURE, textures).await?)
            };
            let (dispatch_us, round_trip_us) = (streams.dispatch_us().await?, streams.round_trip_us().await?);
            streams.free().await?;
            Ok(Self { buffer, texture, storage_texture, dispatch_us, round_trip_us })
        })
        .await
    }

    /// The fastest way to read, 10⁹ bytes a second.
    pub fn read_gb_per_second(&self) -> f64 {
        let storage_texture = self.storage_texture.map_or(0.0, |rate| rate.gb_per_second);
        self.buffer.gb_per_second.max(self.texture.gb_per_second).max(storage_texture)
    }
}

/// What is read, or filled, by one dispatch.
enum Input {
    Buffer(wgpu::Buffer),
    Texture(wgpu::Texture, wgpu::TextureView),
}

impl Input {
    fn bytes(&self) -> u64 {
        match self {
            Self::Buffer(buffer) => buffer.size(),
            Self::Texture(..) => PART_BYTES,
        }
    }

    fn resource(&self) -> wgpu::BindingResource<'_> {
        match self {
            Self::Buffer(buffer) => buffer.as_entire_binding(),
            Self::Texture(_, view) => wgpu::BindingResource::TextureView(view),
        }
    }
}

/// An entry point and what its dispatches are bound to.
struct Sweep {
    pipeline: wgpu::ComputePipeline,
    /// With the workgroups of each.
    dispatches: Vec<(wgpu::BindGroup, u32)>,
    /// That these read.
    bytes: u64,
}

/// The same bytes in buffers and in textures.
struct Streams<'a> {
    gpu: &'a Gpu,
    module: wgpu::ShaderModule,
    parts: u32,
    buffers: Vec<Input>,
    /// One for each part.
    textures: Vec<Input>,
    /// What kernels would write to, if they did.
    written: wgpu::Buffer,
}

impl<'a> Streams<'a> {
    async fn new(gpu: &'a Gpu, parts: u32) -> Result<Self> {
        let module = gpu.compiling("streaming", || shaders::STREAMING.module(gpu)).await?;
        // A power of two, so that it is a whole number of the largest workgroup's reads and of the texture's rows.
        let buffer_bytes = 1 << gpu.max_binding_bytes().clamp(LEAST_BUFFER_BYTES, PART_BYTES).ilog2();
        let mut buffers = Vec::new();
        for _ in 0..u64::from(parts) * PART_BYTES / buffer_bytes {
            buffers.push(Input::Buffer(gpu.storage("bytes to read", buffer_bytes)?));
        }
        let texture = |_| {
            let texture = gpu.device.create_texture(&wgpu::TextureDescriptor {
                label: Some("texels to read"),
                size: wgpu::Extent3d { width: WIDTH, height: WIDTH, depth_or_array_layers: 1 },
                mip_level_count: 1,
                sample_count: 1,
                dimension: wgpu::TextureDimension::D2,
                format: wgpu::TextureFormat::Rgba32Uint,
                usage: wgpu::TextureUsages::TEXTURE_BINDING
                    | wgpu::TextureUsages::STORAGE_BINDING
                    | wgpu::TextureUsages::COPY_DST,
                view_formats: &[],
            });
            let view = texture.create_view(&wgpu::TextureViewDescriptor::default());
            Input::Texture(texture, view)
        };
        let textures = (0..parts).map(texture).collect();
        let streams = Self { gpu, module, parts, buffers, textures, written: gpu.storage("written", READ_BYTES)? };
        streams.fill().await?;
        Ok(streams)
    }

    async fn fill(&self) -> Result<()> {
        let fill = self.sweep("fill", 64, &self.buffers).await?;
        fill.seconds(self.gpu, 1).await?;
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let row_bytes = WIDTH * READ_BYTES as u32;
        let mut row = 0;
        for input in &self.buffers {
            let Input::Buffer(buffer) = input else { continue };
            let Input::Texture(texture, _) = &self.textures[(row / WIDTH) as usize] else { continue };
            let height = (buffer.size() / u64::from(row_bytes)) as u32;
            let layout =
                wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(row_bytes), rows_per_image: None };
            let mut to = texture.as_image_copy();
            to.origin.y = row % WIDTH;
            let size = wgpu::Extent3d { width: WIDTH, height, depth_or_array_layers: 1 };
            encoder.copy_buffer_to_texture(wgpu::TexelCopyBufferInfo { buffer, layout }, to, size);
            row += height;
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.finished().await
    }

    /// `entry` over `inputs`, in workgroups of `threads`.
    async fn sweep(&self, entry: &'static str, threads: u32, inputs: &[Input]) -> Result<Sweep> {
        let constants = [("THREADS", threads), ("READS", READS), ("WIDTH", WIDTH)].map(|(n, v)| (n, f64::from(v)));
        let module = match entry {
            READ_STORAGE_TEXTURE => {
                &self.gpu.compiling(entry, || shaders::STREAMING_STORAGE_TEXTURE.module(self.gpu)).await?
            }
            _ => &self.module,
        };
        let compile = || {
            self.gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(entry),
                layout: None,
                module,
                entry_point: Some(entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            })
        };
        let pipeline = self.gpu.compiling(entry, compile).await?;
        let layout = pipeline.get_bind_group_layout(0);
        let bind = |input: &Input| {
            let entry_of = |binding, resource| wgpu::BindGroupEntry { binding, resource };
            let written = entry_of(2, self.written.as_entire_binding());
            let entries = match (entry, input) {
                ("idle", _) => vec![written],
                ("fill", _) => vec![entry_of(2, input.resource())],
                (_, Input::Buffer(_)) => vec![entry_of(0, input.resource()), written],
                (_, Input::Texture(..)) => vec![entry_of(1, input.resource()), written],
            };
            let descriptor = wgpu::BindGroupDescriptor { label: Some(entry), layout: &layout, entries: &entries };
            let groups = (input.bytes() / READ_BYTES / u64::from(threads * READS)) as u32;
            (self.gpu.device.create_bind_group(&descriptor), groups)
        };
        let dispatches = inputs.iter().map(bind).collect();
        Ok(Sweep { pipeline, dispatches, bytes: inputs.iter().map(Input::bytes).sum() })
    }

    /// The best rate of `entry` over all of `inputs`, with the shape of workgroups that reads the first part of them best.
    async fn read_rate(&self, entry: &'static str, inputs: &[Input]) -> Result<ReadRate> {
        let part = &inputs[..inputs.len() / self.parts as usize];
        let (mut best, mut workgroup_threads) = (0.0, WORKGROUPS[0]);
        for threads in WORKGROUPS {
            let rate = self.sweep(entry, threads, part).await?.rate(self.gpu, TRIAL_SUBMITS).await?;
            if rate > best {
                (best, workgroup_threads) = (rate, threads);
            }
        }
        let gb_per_second = self.sweep(entry, workgroup_threads, inputs).await?.rate(self.gpu, SUBMITS).await? / 1e9;
        Ok(ReadRate { gb_per_second, workgroup_threads })
    }

    async fn dispatch_us(&self) -> Result<f64> {
        let mut idle = self.sweep("idle", 1, &self.buffers[..1]).await?;
        idle.dispatches.iter_mut().for_each(|dispatch| dispatch.1 = 1);
        idle.warm_up(self.gpu).await?;
        let mut best = f64::INFINITY;
        for _ in 0..SUBMITS {
            best = best.min(idle.seconds(self.gpu, DISPATCHES).await?);
        }
        Ok(best / f64::from(DISPATCHES) * 1e6)
    }

    async fn round_trip_us(&self) -> Result<f64> {
        let readable = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.gpu.buffer("4 bytes to read", 4, readable)?;
        let mut seconds = Vec::with_capacity(ROUND_TRIPS);
        for _ in 0..ROUND_TRIPS {
            let start = Instant::now();
            let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.copy_buffer_to_buffer(&self.written, 0, &staging, 0, Some(4));
            self.gpu.queue.submit([encoder.finish()]);
            self.gpu.read::<u32>(&staging, 1).await?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[ROUND_TRIPS / 2] * 1e6)
    }

    /// Gives the memory back now: a model may need it next.
    async fn free(self) -> Result<()> {
        for input in self.buffers.iter().chain(&self.textures) {
            match input {
                Input::Buffer(buffer) => buffer.destroy(),
                Input::Texture(texture, _) => texture.destroy(),
            }
        }
        self.gpu.settle().await
    }
}

impl Sweep {
    /// One workgroup: drivers compile at the first dispatch.
    async fn warm_up(&self, gpu: &Gpu) -> Result<()> {
        let one = self.dispatches.iter().take(1).map(|(bindings, _)| (bindings, 1));
        self.timed(gpu, one).await.map(|_| ())
    }

    /// Bytes a second in the fastest of some submits.
    async fn rate(&self, gpu: &Gpu, submits: u32) -> Result<f64> {
        self.warm_up(gpu).await?;
        let start = Instant::now();
        let (mut rounds, mut submit, mut best) = (1, 0, f64::INFINITY);
        while submit < submits && (submit == 0 || start.elapsed().as_secs_f64() < MOST_SECONDS) {
            let seconds = self.seconds(gpu, rounds).await?;
            if seconds < LEAST_SECONDS && rounds < MOST_ROUNDS {
                rounds *= 2;
                continue;
            }
            best = best.min(seconds / f64::from(rounds));
            submit += 1;
        }
        Ok(self.bytes as f64 / best)
    }

    /// Seconds for everything `rounds` times, in one pass and one submit.
    async fn seconds(&self, gpu: &Gpu, rounds: u32) -> Result<f64> {
        let all = (0..rounds).flat_map(|_| self.dispatches.iter().map(|(bindings, groups)| (bindings, *groups)));
        self.timed(gpu, all).await
    }

    async fn timed(&self, gpu: &Gpu, dispatches: impl Iterator<Item = (&wgpu::BindGroup, u32)>) -> Result<f64> {
        let start = Instant::now();
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for (bindings, groups) in dispatches {
                pass.set_pipeline(&self.pipeline);
                pass.set_bind_group(0, bindings, &[]);
                pass.dispatch_workgroups(groups, 1, 1);
            }
        }
        gpu.queue.submit([encoder.finish()]);
        gpu.finished().await?;
        Ok(start.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::gpu::GpuOptions;
    use crate::error::Error;

    /// That it measures is tested with the command that does: it takes seconds.
    #[test]
    fn refuses_to_measure_with_too_small_buffers() {
        let small = GpuOptions { max_binding_bytes: Some(1 << 20), ..GpuOptions::default() };
        let gpu = pollster::block_on(Gpu::open(&small)).expect("an adapter");
        let refused = pollster::block_on(AdapterSpeed::measure(&gpu));
        assert!(matches!(refused, Err(Error::Limit { .. })), "{refused:?}");
    }
}
