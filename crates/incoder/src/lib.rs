//! Meta's InCoder (a causal-masked code model, <https://arxiv.org/abs/2204.05999>) on any GPU, over wgpu.
#![deny(missing_docs)]

mod backend;
pub mod checkpoint;
pub mod config;
pub mod error;
mod forward;
pub mod gpu;
mod load;
mod model;
mod reference;
mod session;

pub use checkpoint::{Folder, MemoryFolder, Source};
pub use config::Config;
pub use error::{Error, Result};
pub use forward::Kv;
pub use gpu::{AdapterReport, Gpu, GpuOptions, Tuning};
pub use load::{Device, LoadOptions, Progress};
pub use session::{Cancel, Prefill, Session};
