//! The GPU: adapters, the device and its limits, kernels, and bytes going in and out.

mod array;
mod disabled;
mod kernel;
mod limits;
mod measure;
pub(crate) mod shaders;
mod streaming;
mod tuning;

pub use array::Arrays;
pub(crate) use array::{Array, TEXEL_BYTES, Texel};
pub use disabled::Disabled;
pub(crate) use kernel::{Binding, Kernel, Resource, Source, bind, layout};
pub use limits::MemoryLimits;
pub(crate) use measure::SETTLE_BYTES;
pub use measure::StagingCopy;
pub use streaming::{AdapterSpeed, ReadRate};
pub use tuning::Tuning;

use crate::error::{Error, Result};
use std::sync::{Arc, Mutex};

/// Which adapter to open, and what not to use of it.
#[derive(Debug, Clone, Default)]
pub struct GpuOptions {
    /// An adapter by its index in [`Gpu::list`], or by a part of its name in any case; `None`: the fastest one.
    pub adapter: Option<String>,
    /// Optional paths that are switched off.
    pub disabled: Disabled,
    /// The device will have subgroup operations although the API does not list them: wgpu cannot ask a browser for the
    /// feature, so the page adds it to the request itself.
    pub assume_subgroups: bool,
    /// The adapter computes on the CPU although the API does not say so: browsers do not always flag theirs.
    pub assume_software: bool,
    /// Use these workgroup shapes instead of those for the adapter's kind.
    pub tuning: Option<Tuning>,
    /// Never bind or allocate more than this many bytes at once, to test how matrices are split; `None`: the adapter's limits.
    pub max_binding_bytes: Option<u64>,
}

/// The [`AdapterReport::kind`] of an adapter that computes on the CPU.
const SOFTWARE: &str = "software";
/// Threads that read inputs together: `LANES` of linear.wgsl.
const TOGETHER: u32 = 8;

/// What an adapter is and allows, as far as the engine cares.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct AdapterReport {
    /// The adapter's name.
    pub name: String,
    /// The API it is reached through: vulkan, metal, dx12, webgpu.
    pub backend: String,
    /// discrete, integrated, virtual, software or other.
    pub kind: String,
    /// The driver's name and version.
    pub driver: String,
    /// Largest buffer, bytes.
    pub max_buffer_bytes: u64,
    /// Largest storage binding, bytes.
    pub max_binding_bytes: u64,
    /// Largest workgroup memory, bytes.
    pub max_workgroup_bytes: u32,
    /// Most invocations of a workgroup.
    pub max_workgroup_invocations: u32,
    /// Whether it has subgroup operations; used where present.
    pub subgroups: bool,
    /// Smallest and largest subgroup.
    pub subgroup_sizes: [u32; 2],
    /// Whether it has half-precision arithmetic; never needed.
    pub shader_f16: bool,
    /// Whether it has timestamp queries.
    pub timestamps: bool,
}

impl AdapterReport {
    fn new(adapter: &wgpu::Adapter) -> Self {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => SOFTWARE,
            wgpu::DeviceType::Other => "other",
        };
        Self {
            name: info.name,
            backend: info.backend.to_str().to_owned(),
            kind: kind.to_owned(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            max_buffer_bytes: limits.max_buffer_size,
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
            max_workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            subgroups: features.contains(wgpu::Features::SUBGROUP),
            subgroup_sizes: [info.subgroup_min_size, info.subgroup_max_size],
            shader_f16: features.contains(wgpu::Features::SHADER_F16),
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        }
    }
}

/// An open GPU device. Clones share it.
#[derive(Debug, Clone)]
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    report: Arc<AdapterReport>,
    tuning: Tuning,
    limits: MemoryLimits,
    disabled: Disabled,
    /// The shapes for the adapter's kind.
    untuned: Arc<Tuning>,
    /// A shader, a part of its text and what stands there instead: for tests of what happens when a kernel is broken.
    #[cfg(test)]
    pub(crate) spoilt: Option<[&'static str; 3]>,
    /// The first failure that nobody was waiting for: validation, memory or a lost device.
    fault: Arc<Mutex<Option<Error>>>,
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    // No validation layers: they are absent on users' machines and slow on developers'.
    descriptor.flags = wgpu::InstanceFlags::empty();
    wgpu::Instance::new(descriptor.with_env())
}

impl Gpu {
    /// Every adapter of this machine, in the order of the indices that [`GpuOptions::adapter`] takes.
    pub async fn list() -> Vec<AdapterReport> {
        instance().enumerate_adapters(wgpu::Backends::all()).await.iter().map(AdapterReport::new).collect()
    }

    /// Opens an adapter with all it allows.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] when there is none, or none of that name; the reason says which.
    pub async fn open(options: &GpuOptions) -> Result<Self> {
        let adapter = Self::adapter(&instance(), options.adapter.as_deref()).await?;
        let mut report = AdapterReport::new(&adapter);
        report.subgroups |= options.assume_subgroups;
        if options.assume_software {
            SOFTWARE.clone_into(&mut report.kind);
        }
        let mut required_features = adapter.features() & wgpu::Features::TIMESTAMP_QUERY;
        if report.subgroups && !options.disabled.subgroups && !options.assume_subgroups {
            required_features |= wgpu::Features::SUBGROUP;
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("incoder"),
            required_features,
            required_limits: adapter.limits(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let opened = adapter.request_device(&descriptor).await;
        let (device, queue) = opened.map_err(|e| Error::NoAdapter { reason: format!("{}: {e}", report.name) })?;
        let fault = Arc::new(Mutex::new(None));
        let uncaptured = fault.clone();
        device.on_uncaptured_error(Arc::new(move |error| note(&uncaptured, from_wgpu(&error, "a GPU buffer", 0))));
        let lost = fault.clone();
        device.set_device_lost_callback(move |reason, message| {
            // Dropping the device on purpose is no fault.
            if reason != wgpu::DeviceLostReason::Destroyed {
                note(&lost, Error::DeviceLost { reason: message });
            }
        });
        let mut tuning = options.tuning.unwrap_or_else(|| Tuning::of(&report));
        tuning.together &= report.subgroups && report.subgroup_sizes == [TOGETHER; 2];
        let mut limits = MemoryLimits::from(&report);
        limits.binding_bytes = limits.binding_bytes.min(options.max_binding_bytes.unwrap_or(u64::MAX));
        let report = Arc::new(report);
        let gpu = Self {
            device,
            queue,
            report,
            tuning,
            limits,
            disabled: Disabled::default(),
            untuned: Arc::new(tuning),
            #[cfg(test)]
            spoilt: None,
            fault,
        };
        Ok(gpu.without(options.disabled))
    }

    async fn adapter(instance: &wgpu::Instance, select: Option<&str>) -> Result<wgpu::Adapter> {
        let Some(select) = select else {
            let options = wgpu::RequestAdapterOptions {
                power_preference: wgpu::PowerPreference::HighPerformance,
                ..Default::default()
            };
            return instance.request_adapter(&options).await.map_err(|e| Error::NoAdapter { reason: e.to_string() });
        };
        let mut adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
        let names: Vec<String> = adapters.iter().map(|a| a.get_info().name).collect();
        let wanted = select.to_lowercase();
        let found = match select.parse::<usize>() {
            Ok(index) => (index < names.len()).then_some(index),
            Err(_) => names.iter().position(|name| name.to_lowercase().contains(&wanted)),
        };
        match found {
            Some(index) => Ok(adapters.swap_remove(index)),
            None => Err(Error::NoAdapter { reason: format!("{select:?} is none of the {}: {names:?}", names.len()) }),
        }
    }

    /// The adapter behind this device.
    pub fn report(&self) -> &AdapterReport {
        &self.report
    }

    /// Whether kernels use subgroup operations.
    pub fn uses_subgroups(&self) -> bool {
        self.report.subgroups && !self.disabled.subgroups
    }

    /// The workgroup shapes in use.
    pub fn tuning(&self) -> Tuning {
        self.tuning
    }

    /// The same device with other workgroup shapes; arrays stay where they are.
    pub fn with_tuning(&self, tuning: Tuning) -> Self {
        let own = self.tuning;
        Self { tuning: Tuning { arrays: own.arrays, together: own.together, ..tuning }, ..self.clone() }
    }

    /// What decides whether a model fits.
    pub fn memory_limits(&self) -> MemoryLimits {
        self.limits
    }

    /// Most bytes of one buffer.
    pub(crate) fn max_binding_bytes(&self) -> u64 {
        self.limits.buffer()
    }

    /// Bytes that the driver's allocator has given to this device's buffers; `None` where the API does not tell.
    pub fn allocated_bytes(&self) -> Option<u64> {
        self.device.generate_allocator_report().map(|report| report.total_allocated_bytes)
    }

    /// A buffer of `bytes` for storage, zeroed by the API.
    ///
    /// # Errors
    /// [`Error::Limit`] when it could not be bound; memory failures surface in [`Gpu::check`].
    pub(crate) fn storage(&self, what: &str, bytes: u64) -> Result<wgpu::Buffer> {
        self.buffer(
            what,
            bytes,
            wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
        )
    }

    pub(crate) fn buffer(&self, what: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let size = bytes.next_multiple_of(16).max(16);
        if size > self.max_binding_bytes() {
            return Err(Error::Limit {
                what: format!("{what} (a binding, bytes)"),
                need: size,
                have: self.max_binding_bytes(),
            });
        }
        Ok(self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size,
            usage,
            mapped_at_creation: false,
        }))
    }

    /// Writes `bytes` bytes of `buffer` from `offset` on, by `fill`, straight into the staging memory.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when there is no staging memory.
    pub(crate) fn write_with(
        &self,
        buffer: &wgpu::Buffer,
        offset: u64,
        bytes: u64,
        fill: impl FnOnce(&mut wgpu::QueueWriteBufferView),
    ) -> Result<()> {
        let Some(size) = wgpu::BufferSize::new(bytes) else { return Ok(()) };
        match self.queue.write_buffer_with(buffer, offset, size) {
            Some(mut view) => {
                fill(&mut view);
                Ok(())
            }
            None => Err(Error::OutOfMemory { what: "staging memory for the weights".to_owned(), need: bytes }),
        }
    }

    /// A storage buffer that holds `values`.
    ///
    /// # Errors
    /// As [`Gpu::storage`].
    pub(crate) fn upload<T: bytemuck::Pod>(&self, what: &str, values: &[T]) -> Result<wgpu::Buffer> {
        let buffer = self.storage(what, size_of_val(values) as u64)?;
        self.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(values));
        Ok(buffer)
    }

    /// A uniform buffer that holds `value`.
    ///
    /// # Errors
    /// As [`Gpu::storage`].
    pub(crate) fn uniform<T: bytemuck::Pod>(&self, what: &str, value: &T) -> Result<wgpu::Buffer> {
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let buffer = self.buffer(what, size_of::<T>() as u64, usage)?;
        self.queue.write_buffer(&buffer, 0, bytemuck::bytes_of(value));
        Ok(buffer)
    }

    /// Runs `make`, which compiles `kernel`, and waits for the compiler's verdict.
    ///
    /// # Errors
    /// [`Error::Kernel`] with what the compiler said.
    pub(crate) async fn compiling<T>(&self, kernel: &str, make: impl FnOnce() -> T) -> Result<T> {
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = make();
        match validation.pop().await {
            Some(error) => Err(Error::Kernel { name: kernel.to_owned(), problem: error.to_string() }),
            None => Ok(made),
        }
    }

    /// Runs `make`, which allocates, and reports exhausted memory as [`Error::OutOfMemory`] with the plan's `bytes`.
    ///
    /// # Errors
    /// Those of `make`, then the GPU's.
    pub(crate) async fn allocating<T>(
        &self,
        what: &str,
        bytes: u64,
        make: impl AsyncFnOnce() -> Result<T>,
    ) -> Result<T> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let made = make().await;
        match memory.pop().await {
            Some(error) => Err(from_wgpu(&error, what, bytes)),
            None => made,
        }
    }

    /// The first failure since the device was opened, if any.
    ///
    /// # Errors
    /// That failure; a lost device stays lost.
    pub(crate) fn check(&self) -> Result<()> {
        let mut fault = self.fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match fault.take() {
            Some(error) => {
                if matches!(error, Error::DeviceLost { .. }) {
                    *fault = Some(error.clone());
                }
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// Reads the first `count` values of `staging`, a buffer that the last submit copied into.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] when it cannot be mapped.
    pub(crate) async fn read<T: bytemuck::Pod>(&self, staging: &wgpu::Buffer, count: usize) -> Result<Vec<T>> {
        Reading::new(staging, (count * size_of::<T>()) as u64, None).values(self).await
    }

    /// Waits for all submitted work, so that a long prefill is never more than one chunk ahead of a cancel.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] when the device is.
    pub(crate) async fn finished(&self) -> Result<()> {
        let (send, receive) = futures_channel::oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            // The receiver is gone only when the caller was dropped.
            let _ = send.send(());
        });
        let lost = |reason: String| Error::DeviceLost { reason };
        self.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| lost(e.to_string()))?;
        receive.await.map_err(|e| lost(e.to_string()))?;
        self.check()
    }

    /// Submits what was written to buffers and waits, so that staging memory is given back.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] when the device is.
    pub(crate) async fn settle(&self) -> Result<()> {
        self.queue.submit([]);
        self.finished().await
    }
}

/// Bytes on their way back from the GPU.
#[derive(Debug)]
pub(crate) struct Reading {
    staging: wgpu::Buffer,
    bytes: u64,
    mapped: futures_channel::oneshot::Receiver<std::result::Result<(), wgpu::BufferAsyncError>>,
    submission: Option<wgpu::SubmissionIndex>,
}

impl Reading {
    /// Asks for the first `bytes` bytes of `staging`, which `submission` (`None`: the last one) copied into.
    pub fn new(staging: &wgpu::Buffer, bytes: u64, submission: Option<wgpu::SubmissionIndex>) -> Self {
        let (send, mapped) = futures_channel::oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, ..bytes, move |result| {
            // The receiver is gone only when nobody wants the bytes.
            let _ = send.send(result);
        });
        Self { staging: staging.clone(), bytes, mapped, submission }
    }

    /// Waits for them.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] when they cannot be mapped.
    pub async fn values<T: bytemuck::Pod>(self, gpu: &Gpu) -> Result<Vec<T>> {
        let lost = |reason: String| Error::DeviceLost { reason };
        let wait = wgpu::PollType::Wait { submission_index: self.submission, timeout: None };
        gpu.device.poll(wait).map_err(|e| lost(e.to_string()))?;
        let mapped = self.mapped.await;
        gpu.check()?;
        mapped.map_err(|e| lost(e.to_string()))?.map_err(|e| lost(e.to_string()))?;
        let values = {
            let view = self.staging.get_mapped_range(..self.bytes).map_err(|e| lost(e.to_string()))?;
            bytemuck::pod_collect_to_vec::<u8, T>(&view)
        };
        self.staging.unmap();
        Ok(values)
    }
}

fn note(fault: &Mutex<Option<Error>>, error: Error) {
    tracing::error!(%error, "GPU fault");
    fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
}

fn from_wgpu(error: &wgpu::Error, what: &str, bytes: u64) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { what: what.to_owned(), need: bytes },
        other => Error::DeviceLost { reason: other.to_string() },
    }
}
