//! What an adapter does at best: the rate at which it reads memory, and what asking it for anything costs.

use super::{Gpu, shaders};
use crate::error::Result;
use serde::Serialize;
use web_time::Instant;

/// Bytes read in one sweep: more than caches hold.
const SWEEP_BYTES: u64 = 256 << 20;
/// Smaller buffers than this would measure dispatches.
const LEAST_BUFFER_BYTES: u64 = 64 << 20;
/// Bytes that one read gets.
const READ_BYTES: u64 = 16;
/// Values that one thread reads.
const READS: u32 = 64;
/// Texels in a row of the texture, which has as many rows: every adapter allows that.
const WIDTH: u32 = 4096;
/// The entry point of streaming_storage_texture.wgsl.
const READ_STORAGE_TEXTURE: &str = "read_storage_texture";
/// Threads of a workgroup that are tried.
const WORKGROUPS: [u32; 4] = [8, 16, 64, 256];
/// A shorter time says more of the submit than of the memory.
const LEAST_SECONDS: f64 = 0.02;
/// Sweeps of one submit at most, where a clock is so coarse that they seem to take no time.
const MOST_ROUNDS: u32 = 1 << 10;
/// Submits of the best kernel: 1 GiB read at least.
const SUBMITS: u32 = 4;
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
    /// Measures. Takes 512 MiB of the GPU's memory meanwhile, a fraction of a second on hardware, and seconds on a
    /// software adapter.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] when there is no such memory, [`crate::Error::Limit`] when no buffer of a useful
    /// size can be bound, [`crate::Error::Kernel`] when a kernel does not compile, [`crate::Error::DeviceLost`] when the
    /// device is lost.
    pub async fn measure(gpu: &Gpu) -> Result<Self> {
        gpu.allocating("memory to be read", 2 * SWEEP_BYTES, async || {
            let streams = Streams::new(gpu).await?;
            let texels = [Input::Texture(streams.view.clone())];
            let buffer = streams.read_rate("read_buffer", &streams.buffers).await?;
            let texture = streams.read_rate("read_texture", &texels).await?;
            let storage_texture = if cfg!(target_arch = "wasm32") {
                None
            } else {
                Some(streams.read_rate(READ_STORAGE_TEXTURE, &texels).await?)
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
    Texture(wgpu::TextureView),
}

impl Input {
    fn reads(&self) -> u64 {
        match self {
            Self::Buffer(buffer) => buffer.size() / READ_BYTES,
            Self::Texture(_) => SWEEP_BYTES / READ_BYTES,
        }
    }

    fn resource(&self) -> wgpu::BindingResource<'_> {
        match self {
            Self::Buffer(buffer) => buffer.as_entire_binding(),
            Self::Texture(view) => wgpu::BindingResource::TextureView(view),
        }
    }
}

/// An entry point and what its dispatches are bound to.
struct Sweep {
    pipeline: wgpu::ComputePipeline,
    /// With the workgroups of each.
    dispatches: Vec<(wgpu::BindGroup, u32)>,
}

/// The same bytes in buffers and in a texture.
struct Streams<'a> {
    gpu: &'a Gpu,
    module: wgpu::ShaderModule,
    buffers: Vec<Input>,
    texture: wgpu::Texture,
    view: wgpu::TextureView,
    /// What kernels would write to, if they did.
    written: wgpu::Buffer,
}

impl<'a> Streams<'a> {
    async fn new(gpu: &'a Gpu) -> Result<Self> {
        let module = gpu.compiling("streaming", || shaders::STREAMING.module(gpu)).await?;
        // A power of two, so that it is a whole number of the largest workgroup's reads and of the texture's rows.
        let buffer_bytes = 1 << gpu.max_binding_bytes().clamp(LEAST_BUFFER_BYTES, SWEEP_BYTES).ilog2();
        let mut buffers = Vec::new();
        for _ in 0..SWEEP_BYTES / buffer_bytes {
            buffers.push(Input::Buffer(gpu.storage("bytes to read", buffer_bytes)?));
        }
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
        let streams = Self { gpu, module, buffers, texture, view, written: gpu.storage("written", READ_BYTES)? };
        streams.fill().await?;
        Ok(streams)
    }

    async fn fill(&self) -> Result<()> {
        let fill = self.sweep("fill", 64, &self.buffers).await?;
        fill.seconds(self.gpu, 1).await?;
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let row_bytes = WIDTH * READ_BYTES as u32;
        let mut y = 0;
        for input in &self.buffers {
            let Input::Buffer(buffer) = input else { continue };
            let height = (buffer.size() / u64::from(row_bytes)) as u32;
            let layout =
                wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(row_bytes), rows_per_image: None };
            let mut to = self.texture.as_image_copy();
            to.origin.y = y;
            let size = wgpu::Extent3d { width: WIDTH, height, depth_or_array_layers: 1 };
            encoder.copy_buffer_to_texture(wgpu::TexelCopyBufferInfo { buffer, layout }, to, size);
            y += height;
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
                (_, Input::Texture(_)) => vec![entry_of(1, input.resource()), written],
            };
            let descriptor = wgpu::BindGroupDescriptor { label: Some(entry), layout: &layout, entries: &entries };
            let groups = (input.reads() / u64::from(threads * READS)) as u32;
            (self.gpu.device.create_bind_group(&descriptor), groups)
        };
        let dispatches = inputs.iter().map(bind).collect();
        Ok(Sweep { pipeline, dispatches })
    }

    /// The best rate of `entry` over all of `inputs`.
    async fn read_rate(&self, entry: &'static str, inputs: &[Input]) -> Result<ReadRate> {
        let (mut best_seconds, mut best) = (f64::INFINITY, None);
        for threads in WORKGROUPS {
            let sweep = self.sweep(entry, threads, inputs).await?;
            sweep.warm_up(self.gpu).await?;
            let mut rounds = 1;
            let mut seconds = sweep.seconds(self.gpu, rounds).await?;
            while seconds < LEAST_SECONDS && rounds < MOST_ROUNDS {
                rounds *= 2;
                seconds = sweep.seconds(self.gpu, rounds).await?;
            }
            let seconds = seconds / f64::from(rounds);
            if seconds < best_seconds {
                (best_seconds, best) = (seconds, Some((threads, sweep, rounds)));
            }
        }
        let mut workgroup_threads = 0;
        if let Some((threads, sweep, rounds)) = best {
            workgroup_threads = threads;
            for _ in 0..SUBMITS {
                best_seconds = best_seconds.min(sweep.seconds(self.gpu, rounds).await? / f64::from(rounds));
            }
        }
        Ok(ReadRate { gb_per_second: SWEEP_BYTES as f64 / best_seconds / 1e9, workgroup_threads })
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
        for input in &self.buffers {
            if let Input::Buffer(buffer) = input {
                buffer.destroy();
            }
        }
        self.texture.destroy();
        self.gpu.settle().await
    }
}

impl Sweep {
    /// One workgroup: drivers compile at the first dispatch.
    async fn warm_up(&self, gpu: &Gpu) -> Result<()> {
        let one = self.dispatches.iter().take(1).map(|(bindings, _)| (bindings, 1));
        self.timed(gpu, one).await.map(|_| ())
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
    use crate::error::Error;
    use crate::gpu::GpuOptions;

    /// That it measures is tested with the command that does: it takes seconds.
    #[test]
    fn refuses_to_measure_with_too_small_buffers() {
        let small = GpuOptions { max_binding_bytes: Some(1 << 20), ..GpuOptions::default() };
        let gpu = pollster::block_on(Gpu::open(&small)).expect("an adapter");
        let refused = pollster::block_on(AdapterSpeed::measure(&gpu));
        assert!(matches!(refused, Err(Error::Limit { .. })), "{refused:?}");
    }
}
