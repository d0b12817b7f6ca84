//! A model folder → a [`Session`] on the chosen device.

use crate::backend::Backend;
use crate::checkpoint::{Checkpoint, Folder};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::forward::Kv;
use crate::gpu::Gpu;
use crate::model::Plan;
use crate::reference::Reference;
use crate::session::Session;

/// config.json has twenty lines; anything near this is not one.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

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
    /// Tokens the KV cache holds; `None`: the model's own `max_position_embeddings`.
    pub context: Option<usize>,
    /// How keys and values are stored.
    pub kv: Kv,
}

/// How far loading is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Parameters loaded.
    pub done: u64,
    /// Parameters of the model.
    pub total: u64,
}

impl Session {
    /// Loads the model in `folder` (config.json and safetensors) onto `device`.
    ///
    /// # Errors
    /// What [`Config::from_json`] and [`Checkpoint::open`] refuse, [`Error::Limit`] and [`Error::OutOfMemory`] when the
    /// adapter cannot hold it, [`Error::Argument`] for a context of 0 tokens.
    pub async fn load(
        folder: &dyn Folder,
        device: &Device,
        options: &LoadOptions,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let config = Config::from_json(&folder.text("config.json", MAX_CONFIG_BYTES).await?)?;
        let checkpoint = Checkpoint::open(folder, &config).await?;
        let capacity = options.context.unwrap_or(config.max_position_embeddings);
        if capacity == 0 {
            return Err(Error::argument("a context of 0 tokens holds nothing: ask for at least 1"));
        }
        let total = config.parameters();
        let mut done = 0;
        let mut loaded = |parameters: u64| {
            done += parameters;
            on_progress(Progress { done: done.min(total), total });
        };
        let kv = options.kv;
        let backend = match device {
            Device::Cpu => {
                Backend::Cpu(Box::new(Reference::load(&config, &checkpoint, capacity, kv, &mut loaded).await?))
            }
            Device::Gpu(gpu) => {
                Backend::Gpu(Box::new(Plan::load(gpu, &config, &checkpoint, capacity, kv, &mut loaded).await?))
            }
        };
        on_progress(Progress { done: total, total });
        Ok(Self::new(backend))
    }
}
