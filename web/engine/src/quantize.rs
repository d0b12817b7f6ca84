//! Weights that are quantized on their way into the browser's cache.

use crate::engine::MAX_CONFIG_BYTES;
use crate::failure::thrown;
use crate::folder::{JsFolder, WebFolder};
use incoder::checkpoint::{Checkpoint, Encoder, Encoding};
use incoder::quantize::FORMAT_VERSION;
use incoder::{Config, Error, Folder, Quantization};
use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    /// The package's `QuantizedSink`.
    #[derive(Debug, Clone)]
    pub type JsSink;

    #[wasm_bindgen(method, catch)]
    async fn begin(this: &JsSink, config: &str, size: f64) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch)]
    async fn put(this: &JsSink, offset: f64, bytes: Uint8Array) -> Result<JsValue, JsValue>;
}

/// The version of the files that [`quantize_model`] makes.
#[wasm_bindgen(js_name = quantizedVersion)]
pub fn quantized_version() -> f64 {
    FORMAT_VERSION as f64
}

/// Quantizes the model of `folder` to `to`, `q8` or `q4`, a few rows at a time, in the order in which its files have them. `sink.begin`
/// gets the text of config.json and the length of model.safetensors, and says how many bytes of that it has already; `sink.put` gets the
/// others, each piece with where it begins: at first perhaps some that it has.
///
/// # Errors
/// What [`Checkpoint::open`] refuses, and what the folder or the sink threw.
#[wasm_bindgen(js_name = quantizeModel)]
pub async fn quantize_model(folder: JsFolder, to: String, sink: JsSink) -> Result<(), JsValue> {
    let folder = WebFolder::new(folder);
    let cause = |error| folder.cause(error);
    let files: &dyn Folder = &folder;
    let Some(quantization) = Quantization::named(&to) else {
        return Err(thrown(Error::argument(format!("quantize: {to}; it takes q8 or q4"))));
    };
    let text = files.text("config.json", MAX_CONFIG_BYTES).await.map_err(cause)?;
    let config = Config::read(files).await.map_err(cause)?;
    config.quantized(Some(quantization)).map_err(thrown)?;
    let encoding = Encoding::Quantized(quantization);
    let checkpoint = Checkpoint::open(files, &config).await.map_err(cause)?;
    let mut encoder = Encoder::new(&checkpoint, checkpoint.tensors_as_stored(), encoding);
    let problem = |problem| thrown(Error::checkpoint("config.json", problem));
    let (text, _) = encoding.config(&text).map_err(problem)?;
    let kept = sink.begin(&text, encoder.bytes() as f64).await?.as_f64().unwrap_or(0.0);
    let mut offset = encoder.go_on(kept as u64);
    while let Some(bytes) = encoder.next().await.map_err(cause)? {
        sink.put(offset as f64, Uint8Array::from(&bytes[..])).await?;
        offset += bytes.len() as u64;
    }
    Ok(())
}
