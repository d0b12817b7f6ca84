//! A model folder → a [`Session`] on the chosen device.

use crate::checkpoint::Folder;
use crate::checkpoint::config::Config;
use crate::engine::Plan;
use crate::engine::backend::Backend;
use crate::engine::cpu::Reference;
use crate::engine::forward::Kv;
use crate::engine::gpu::Gpu;
use crate::engine::tensors::Origin;
use crate::error::{Error, Result};
use crate::quantize::Quantization;
use crate::session::Session;

/// Where a model runs.
#[derive(Debug, Clone)]
pub enum Device {
    /// The plain CPU reference: slow, and there on every machine.
    Cpu,
    /// An open GPU.
    Gpu(Gpu),
}

/// How a model is loaded.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Tokens the KV cache holds; `None`: [`Config::default_context`].
    pub context: Option<usize>,
    /// How keys and values are stored.
    pub kv: Kv,
    /// Compute a few tokens at the end, so that the first real one does not wait for the driver's compiler.
    pub warm_up: bool,
    /// Quantize the weights on the way to the device; `None`: they are there as they are stored, in fp16 where that is plain
    /// numbers.
    pub quantize: Option<Quantization>,
}

/// How far loading is: what the GPU compiles, then what it is sent, then the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Kernels compiled.
    Compile {
        /// Pipelines done.
        done: u64,
        /// Pipelines in all.
        total: u64,
    },
    /// Weights read and sent to the device, or made on it.
    Upload {
        /// Bytes of fp16 done.
        done: u64,
        /// Bytes of fp16 in all.
        total: u64,
    },
    /// The warm-up, when it was asked for.
    WarmUp {
        /// Steps done.
        done: u64,
        /// Steps in all.
        total: u64,
    },
}

/// Counts what was loaded.
pub(crate) struct Loaded<'a> {
    done: u64,
    total: u64,
    on_progress: &'a mut dyn FnMut(Progress),
}

impl<'a> Loaded<'a> {
    pub fn new(config: &Config, on_progress: &'a mut dyn FnMut(Progress)) -> Self {
        Self { done: 0, total: 2 * config.parameters(), on_progress }
    }

    pub fn add(&mut self, parameters: u64) {
        self.done = (self.done + 2 * parameters).min(self.total);
        (self.on_progress)(Progress::Upload { done: self.done, total: self.total });
    }

    pub fn finish(&mut self) {
        (self.on_progress)(Progress::Upload { done: self.total, total: self.total });
    }
}

impl Session {
    /// Loads the model in `folder` (config.json and safetensors) onto `device`.
    ///
    /// # Errors
    /// What [`Config::from_json`] and [`Checkpoint::open`](crate::checkpoint::Checkpoint::open) refuse, [`Error::Limit`] and [`Error::OutOfMemory`] when the
    /// adapter cannot hold it, [`Error::Kernel`] when it refuses a shader, [`Error::Argument`] for a context of 0 tokens.
    pub async fn load(
        folder: &dyn Folder,
        device: &Device,
        options: &LoadOptions,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let config = Config::read(folder).await?;
        Self::load_from(Origin::Folder(folder), &config, device, options, on_progress).await
    }

    /// Loads a model in the sizes of `config` whose weights are random: for measuring, without a file. A GPU makes them itself;
    /// they depend on `seed` and `config` alone, and are the same on every device. Greedy output is not one token over and over.
    ///
    /// # Errors
    /// As [`Session::load`].
    pub async fn load_random(
        config: &Config,
        seed: u32,
        device: &Device,
        options: &LoadOptions,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        Self::load_from(Origin::Random { seed }, config, device, options, on_progress).await
    }

    async fn load_from(
        origin: Origin<'_>,
        config: &Config,
        device: &Device,
        options: &LoadOptions,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let capacity = options.context.unwrap_or(config.default_context());
        if capacity == 0 {
            return Err(Error::argument("a context of 0 tokens holds nothing: ask for at least 1"));
        }
        let backend = match device {
            Device::Cpu => {
                let quantized = config.quantized(options.quantize)?;
                let tensors = origin.open(config, options.quantize).await?;
                let mut loaded = Loaded::new(config, on_progress);
                let mut count = |parameters| loaded.add(parameters);
                let model = Reference::load(&quantized, &tensors, capacity, options.kv, &mut count).await?;
                loaded.finish();
                Backend::Cpu(Box::new(model))
            }
            Device::Gpu(gpu) => {
                Backend::Gpu(Box::new(Plan::load(gpu, config, origin, capacity, options, on_progress).await?))
            }
        };
        Ok(Self::new(backend, options.kv))
    }
}
