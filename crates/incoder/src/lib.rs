//! Meta's InCoder (a causal-masked code model, <https://arxiv.org/abs/2204.05999>) on any GPU, over wgpu.
#![deny(missing_docs)]

pub mod config;
pub mod error;

pub use config::Config;
pub use error::{Error, Result};
