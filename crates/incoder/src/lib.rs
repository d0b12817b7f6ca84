//! Meta's InCoder (a causal-masked code model, <https://arxiv.org/abs/2204.05999>) on any GPU, over wgpu.
//!
//! Data flows one way: text → tokens ([`Tokenizer`]) → the common prefix kept, the rest prefilled ([`Session`]) → tokens
//! chosen ([`Sampling`]) → text ([`generate()`], [`infill()`], [`score()`]). The same code runs natively and in WebAssembly:
//! there are no threads, files or terminals here, and every call is async.
//!
//! ```
//! use incoder::{Device, Gpu, GpuOptions, InfillOptions, LoadOptions, MemoryFolder, Session, Tokenizer, infill};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let file = |name: &str| std::fs::read(format!("../../examples/demo-model/weights/{name}"));
//! let folder = MemoryFolder::default()
//!     .with("config.json", file("config.json")?)
//!     .with("model.safetensors", file("model.safetensors")?);
//! let tokenizer = Tokenizer::from_json(&String::from_utf8(file("tokenizer.json")?)?)?;
//!
//! pollster::block_on(async {
//!     let device = match Gpu::open(&GpuOptions::default()).await {
//!         Ok(gpu) => Device::Gpu(gpu),
//!         Err(_) => Device::Cpu,
//!     };
//!     let mut session = Session::load(&folder, &device, &LoadOptions::default(), &mut |_| ()).await?;
//!     let parts = ["def add(a, b):\n".to_owned(), "\n\nprint(add(1, 2))\n".to_owned()];
//!     let options = InfillOptions { max_new_tokens: 16, ..Default::default() };
//!     let filled = infill(&mut session, &tokenizer, &parts, &options, &mut |_| ()).await?;
//!     let text = filled.text(&parts, "");
//!     assert!(text.starts_with(&parts[0]) && text.ends_with(&parts[1]));
//!     Ok::<(), incoder::Error>(())
//! })?;
//! # Ok(())
//! # }
//! ```
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
pub mod json;
mod load;
pub mod lookup;
mod model;
mod random;
mod reference;
pub mod sample;
pub mod score;
mod session;
mod stop;
mod tensors;
pub mod tokenizer;
mod view;
pub mod window;

pub use checkpoint::{Folder, MemoryFolder, Source};
pub use config::Config;
pub use error::{Error, Result};
pub use forward::Kv;
pub use generate::{Candidate, Event, FinishReason, GenerateOptions, Generation, Prompt, Timings, generate};
pub use gpu::{AdapterReport, Arrays, Gpu, GpuOptions, MemoryLimits, Tuning};
pub use heal::Healer;
pub use infill::{HoleEnd, Infill, InfillOptions, Infilling, LOOK_BACK_LINES, infill};
pub use load::{Device, LoadOptions, Progress};
pub use lookup::Lookup;
pub use model::{KernelTime, MemoryPlan, Tuned};
pub use sample::{Draw, LogProbs, Sampler, Sampling};
pub use score::{RankBy, RankOptions, Ranked, Score, rerank, score, score_streaming};
pub use session::{Cancel, Prefill, Push, Session};
pub use tokenizer::{FoundSentinel, Sentinels, StreamDecoder, Tokenizer};
pub use window::{Overflow, Window};
