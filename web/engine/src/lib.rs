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
mod quantize;

pub use engine::{CancelFlag, Engine};
pub use folder::{JsFile, JsFolder};
pub use quantize::{JsSink, quantize_model, quantized_version};

use incoder::gpu::{AdapterSpeed, ReadRate};
use incoder::{Config, Gpu, GpuOptions, Kv, MemoryLimits, MemoryPlan, Quantization};
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

/// What a model with this config.json takes on an adapter with these limits, bytes: `{"context", "type", "weights", "kvCache", "scratch",
/// "total", "blockers", "largestContext"}`. The blockers are the limits that the largest buffer which cannot be split exceeds, as the
/// package's `Blocker`s; the largest context is what the limits allow of `context` tokens, or null. `context` 0 is the model's own.
/// `software` says that the adapter computes on the CPU, where a step has fewer tokens. `quantize` is what the weights are to be quantized
/// to, `q8` or `q4`, or empty.
///
/// # Errors
/// What [`Config::from_json`] and [`Config::quantized`] refuse.
#[wasm_bindgen(js_name = memoryPlan)]
pub fn memory_plan(
    config: &str,
    context: u32,
    binding_bytes: f64,
    buffer_bytes: f64,
    software: bool,
    quantize: &str,
) -> Result<String, JsValue> {
    let quantize = Quantization::named(quantize);
    let config = Config::from_json(config).and_then(|config| config.quantized(quantize)).map_err(failure::thrown)?;
    let context = if context == 0 { config.default_context() } else { context as usize };
    let limits = MemoryLimits { binding_bytes: binding_bytes as u64, buffer_bytes: buffer_bytes as u64, software };
    let plan = MemoryPlan::new(&config, context, Kv::F16, &limits);
    let need = plan.unsplit.iter().map(|buffer| buffer.1).max().unwrap_or_default();
    let exceeded = limits.usable().into_iter().filter(|&(_, have)| have < need);
    let blockers = exceeded.map(|(limit, have)| serde_json::json!({ "limit": limit, "need": need, "have": have }));
    Ok(serde_json::json!({
        "context": context,
        "type": config.quantization.map_or("f16", Quantization::name),
        "weights": plan.weights,
        "kvCache": plan.kv_cache,
        "scratch": plan.scratch,
        "total": plan.total(),
        "blockers": blockers.collect::<Vec<_>>(),
        "largestContext": MemoryPlan::largest_context(&config, context, Kv::F16, &limits, None),
    })
    .to_string())
}

/// What the adapter does at best, as the package's `AdapterSpeed`. Opens a device for it.
///
/// # Errors
/// As [`Gpu::open`] and [`AdapterSpeed::measure`].
#[wasm_bindgen(js_name = adapterSpeed)]
pub async fn adapter_speed() -> Result<String, JsValue> {
    let gpu = Gpu::open(&GpuOptions::default()).await.map_err(failure::thrown)?;
    let speed = AdapterSpeed::measure(&gpu).await.map_err(failure::thrown)?;
    let rate = |rate: ReadRate| serde_json::json!({ "gbPerSecond": rate.gb_per_second, "workgroupThreads": rate.workgroup_threads });
    Ok(serde_json::json!({
        "readGbPerSecond": speed.read_gb_per_second(),
        "buffer": rate(speed.buffer),
        "texture": rate(speed.texture),
        "dispatchUs": speed.dispatch_us,
        "roundTripUs": speed.round_trip_us,
    })
    .to_string())
}

/// Every kernel in the sizes of this config.json against the CPU reference, with both kinds of KV cache, as the package's `GpuCheck`
/// without its adapter. Opens a device for it.
///
/// # Errors
/// As [`Gpu::open`] and [`Gpu::check_kernels`].
#[wasm_bindgen(js_name = checkGpu)]
pub async fn check_gpu(config: String, subgroups: bool, software: bool) -> Result<String, JsValue> {
    let config = Config::from_json(&config).map_err(failure::thrown)?;
    let gpu = Gpu::open(&engine::gpu_options(subgroups, software)).await.map_err(failure::thrown)?;
    let mut kernels = Vec::new();
    for (kv, name) in [(Kv::F16, "f16"), (Kv::F32, "f32")] {
        for check in gpu.check_kernels(&config, kv).await.map_err(failure::thrown)? {
            kernels.push(serde_json::json!({
                "kernel": check.kernel,
                "kv": name,
                "tokens": check.tokens,
                "error": check.error,
                "tolerance": check.tolerance,
                "token": check.token,
                "value": check.value,
                "got": check.got,
                "expected": check.expected,
                "right": check.is_right(),
            }));
        }
    }
    let right = kernels.iter().all(|kernel| kernel["right"] == true);
    let remedy = if right { None } else { gpu.remedy(&config).await.map_err(failure::thrown)? };
    let avoided_by = remedy.map(|paths| paths.to_string());
    Ok(serde_json::json!({ "kernels": kernels, "right": right, "avoidedBy": avoided_by }).to_string())
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
