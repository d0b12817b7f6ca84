//! The engine for browsers: the crate `incoder` over WebGPU, bound with wasm-bindgen.
//!
//! The npm package's TypeScript is the only caller. Options come in and results go out as JSON texts, bytes as
//! `Uint8Array`s; errors are thrown as JSON texts `{"code", "message", "details"}`, or as what the caller's own folder threw.
#![cfg(target_arch = "wasm32")]
#![deny(missing_docs)]

mod engine;
mod failure;
mod folder;
mod options;

pub use engine::{CancelFlag, Engine};
pub use folder::{JsFile, JsFolder};

use incoder::{Config, Kv};
use sha2::Digest;
use std::cell::RefCell;
use wasm_bindgen::prelude::*;

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

#[wasm_bindgen(start)]
fn start() {
    // A panic reaches JavaScript as a bare `RuntimeError: unreachable`; this keeps what it said.
    std::panic::set_hook(Box::new(|info| PANIC.with_borrow_mut(|panic| *panic = Some(info.to_string()))));
}

/// What the last panic said, if there was one: the engine is unusable after it.
#[wasm_bindgen(js_name = lastPanic)]
pub fn last_panic() -> Option<String> {
    PANIC.with_borrow_mut(Option::take)
}

/// Bytes of the wasm heap: it never shrinks, so this is the most that was ever in use.
#[wasm_bindgen(js_name = heapBytes)]
pub fn heap_bytes() -> f64 {
    core::arch::wasm32::memory_size(0) as f64 * 65536.0
}

/// What a model with this config.json takes: `{"gpu_bytes", "buffers": [[what, bytes]…]}`, the largest buffers that
/// cannot be split. `context` 0 is the model's own.
///
/// # Errors
/// What [`Config::from_json`] refuses.
#[wasm_bindgen]
pub fn requirements(config: &str, context: u32, f32_cache: bool) -> Result<String, JsValue> {
    let config = Config::from_json(config).map_err(failure::thrown)?;
    let capacity = if context == 0 { config.max_position_embeddings } else { context as usize };
    let kv = if f32_cache { Kv::F32 } else { Kv::F16 };
    let buffers = incoder::largest_buffers(&config, capacity, kv);
    Ok(serde_json::json!({ "gpu_bytes": config.gpu_bytes(capacity, kv), "buffers": buffers }).to_string())
}

/// An incremental SHA-256, which the web platform lacks.
#[wasm_bindgen]
#[derive(Debug, Default)]
pub struct Sha256(sha2::Sha256);

#[wasm_bindgen]
impl Sha256 {
    /// Of nothing yet.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash in lower-case hexadecimal; consumes the hasher.
    pub fn digest(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
