//! Meta's InCoder (a causal-masked code model, <https://arxiv.org/abs/2204.05999>) on any GPU, over wgpu.
#![deny(missing_docs)]

mod backend;
pub mod checkpoint;
pub mod config;
pub mod error;
mod forward;
pub mod generate;
pub mod gpu;
pub mod heal;
pub mod infill;
mod load;
mod model;
mod reference;
pub mod sample;
pub mod score;
mod session;
pub mod tokenizer;

pub use checkpoint::{Folder, MemoryFolder, Source};
pub use config::Config;
pub use error::{Error, Result};
pub use forward::Kv;
pub use generate::{Candidate, Event, FinishReason, GenerateOptions, Generation, Prompt, Timings, generate};
pub use gpu::{AdapterReport, Gpu, GpuOptions, Tuning};
pub use heal::Healer;
pub use infill::{Infill, InfillOptions, Infilling, infill};
pub use load::{Device, LoadOptions, Progress};
pub use sample::{Draw, LogProbs, Sampler, Sampling};
pub use score::{RankBy, RankOptions, Ranked, Score, rerank, score, score_streaming};
pub use session::{Cancel, Prefill, Session};
pub use tokenizer::{FoundSentinel, Sentinels, StreamDecoder, Tokenizer};
