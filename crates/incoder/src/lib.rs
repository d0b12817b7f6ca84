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

mod arch;
mod cancel;
pub mod checkpoint;
pub mod decode;
mod engine;
pub mod error;
pub mod quantize;
pub mod sampling;
mod session;
mod slots;
pub mod text;

pub use cancel::Cancel;
pub use checkpoint::config::{self, Config};
pub use checkpoint::{Folder, GgufFolder, MemoryFolder, Source, json};
pub use decode::event::{Candidate, Event, FinishReason, Timings};
pub use decode::generate::{GenerateOptions, Generation, Prompt, generate};
pub use decode::infill::{HoleEnd, Infill, InfillOptions, Infilling, LOOK_BACK_LINES, infill};
pub use decode::score::{RankBy, RankOptions, Ranked, Score, rerank, score, score_after, score_streaming};
pub use decode::speculative::Lookup;
pub use engine::forward::Kv;
pub use engine::gpu::{self, AdapterReport, Arrays, Disabled, Gpu, GpuOptions, MemoryLimits, Tuning};
pub use engine::load::{Device, LoadOptions, Progress};
pub use engine::{KernelCheck, KernelTime, MemoryPlan, Tuned};
pub use error::{Error, Result};
pub use quantize::Quantization;
pub use sampling::{Draw, LogProbs, Sampler, Sampling};
pub use session::{Prefill, Push, Session};
pub use text::healing::Healer;
pub use text::line_ends::LineEnds;
pub use text::template;
pub use text::tokenizer::{FoundSentinel, Sentinels, StreamDecoder, Tokenizer};
pub use text::window::{self, Overflow, Window};
