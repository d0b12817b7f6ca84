//! The engine's errors as the package's error codes.

use incoder::Error;
use serde_json::json;
use wasm_bindgen::JsValue;

/// What is thrown for `error`: the JSON text of the package's `InCoderError`.
pub(crate) fn thrown(error: Error) -> JsValue {
    let details = match &error {
        Error::Limit { what, need, have } => json!({ "limit": what, "need": need, "have": have }),
        Error::Tensor { name, .. } => json!({ "tensor": name }),
        Error::Checkpoint { file, .. } | Error::Source { file, .. } => json!({ "file": file }),
        Error::OutOfMemory { what, need } => json!({ "what": what, "need": need }),
        Error::Context { need, have, trained } => json!({ "need": need, "have": have, "trained": trained }),
        Error::Kernel { name, .. } => json!({ "kernel": name }),
        _ => json!({}),
    };
    JsValue::from(json!({ "code": code(&error), "message": error.to_string(), "details": details }).to_string())
}

fn code(error: &Error) -> &'static str {
    match error {
        Error::NoAdapter { .. } => "WEBGPU_UNAVAILABLE",
        Error::Limit { .. } | Error::Kernel { .. } => "LIMIT_TOO_SMALL",
        Error::Unsupported { .. } => "UNSUPPORTED_MODEL",
        Error::Config { .. } | Error::Tokenizer { .. } | Error::Checkpoint { .. } | Error::Tensor { .. } => {
            "BAD_CHECKPOINT"
        }
        Error::Source { .. } => "NETWORK",
        Error::DeviceLost { .. } => "DEVICE_LOST",
        Error::OutOfMemory { .. } => "OUT_OF_MEMORY",
        // The package turns this one into the caller's own reason.
        Error::Cancelled => "CANCELLED",
        Error::Context { .. } => "CONTEXT_OVERFLOW",
        _ => "INVALID_ARGUMENT",
    }
}
