//! A loaded model, as the package's worker holds it.

use crate::failure::thrown;
use crate::folder::{JsFolder, WebFolder};
use crate::options::{self, Load, Make, Special};
use incoder::{
    Cancel, Config, Device, Error, Event, Folder, GgufFolder, Gpu, GpuOptions, LineEnds, LoadOptions, MemoryPlan,
    Progress, Prompt, Session, Tokenizer, Tuning,
};
use js_sys::Function;
use serde_json::json;
use std::cell::RefCell;
use wasm_bindgen::prelude::*;

/// config.json has twenty lines.
pub(crate) const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// The published tokenizer.json has 2 MB.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
/// Stands at the beginning of some files, and is no part of their text.
const BYTE_ORDER_MARK: char = '\u{feff}';
/// Random weights are the same every time.
const SEED: u32 = 1;

/// Stops the call that it is given to, at the next token or prefill chunk.
#[wasm_bindgen]
#[derive(Debug, Default)]
pub struct CancelFlag(Cancel);

#[wasm_bindgen]
impl CancelFlag {
    /// One for one call.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the call to stop.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

/// A loaded model and its KV cache. One call at a time: the package queues them.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Engine {
    /// Out while a call runs.
    session: RefCell<Option<Session>>,
    tokenizer: Tokenizer,
    facts: String,
}

/// How a device is opened to which the page has added `subgroups`, on an adapter that it takes for software.
pub(crate) fn gpu_options(subgroups: bool, software: bool) -> GpuOptions {
    GpuOptions {
        tuning: Some(if software { Tuning::SOFTWARE } else { Tuning::HARDWARE }),
        assume_subgroups: subgroups,
        assume_software: software,
        ..Default::default()
    }
}

fn options<'a, T: serde::Deserialize<'a>>(json: &'a str) -> Result<T, JsValue> {
    serde_json::from_str(json).map_err(|e| thrown(Error::argument(format!("options: {e}"))))
}

fn text(result: &impl serde::Serialize) -> Result<String, JsValue> {
    serde_json::to_string(result).map_err(|e| thrown(Error::argument(e.to_string())))
}

/// Calls back with a JSON text; what the callback throws is its own affair.
fn tell(callback: &Function, event: &serde_json::Value) {
    let _ = callback.call1(&JsValue::NULL, &JsValue::from(event.to_string()));
}

#[wasm_bindgen]
impl Engine {
    /// Opens the GPU and loads the model of `folder`; `on_progress` is called with
    /// `{"phase": "compile" | "upload" | "warmup", "done", "total"}`, `keep_tuning` with the text for later loads'
    /// `tuning` when workgroup shapes were measured.
    ///
    /// # Errors
    /// What [`Session::load`], [`Session::load_random`] and [`Tokenizer::from_json`] refuse, or what the folder threw.
    pub async fn load(
        folder: JsFolder,
        load: String,
        on_progress: Function,
        keep_tuning: Function,
    ) -> Result<Engine, JsValue> {
        let load: Load = options(&load)?;
        let folder = WebFolder::new(folder);
        let wanted = gpu_options(load.subgroups, load.software);
        let mut gpu = Gpu::open(&wanted).await.map_err(thrown)?;
        let kv = load.kv.into();
        let loading =
            LoadOptions { context: load.context_length, kv, warm_up: true, quantize: load.quantize.map(Into::into) };
        let mut progress = |progress| {
            let (phase, done, total) = match progress {
                Progress::Compile { done, total } => ("compile", done, total),
                Progress::Upload { done, total } => ("upload", done, total),
                Progress::WarmUp { done, total } => ("warmup", done, total),
            };
            tell(&on_progress, &json!({ "phase": phase, "done": done, "total": total }));
        };
        let mut warning = None;
        let loaded = async {
            // One file that has everything.
            let gguf = match Folder::open(&folder, "model.gguf").await? {
                Some(file) => Some(GgufFolder::open(file).await?),
                None => None,
            };
            let files: &dyn Folder = gguf.as_ref().map_or(&folder, |gguf| gguf);
            let config = Config::from_json(&files.text("config.json", MAX_CONFIG_BYTES).await?)?;
            if !load.software {
                // In front of the weights, most of which are yet to be downloaded.
                let tuned = gpu.tuned(&config, &load.adapter, &load.tuning).await?;
                (gpu, warning) = (tuned.gpu, tuned.warning);
                if let Some(text) = tuned.keep {
                    let _ = keep_tuning.call1(&JsValue::NULL, &JsValue::from(text));
                }
            }
            let json = files.text("tokenizer.json", MAX_TOKENIZER_BYTES).await?;
            let tokenizer = Tokenizer::from_json(&json)?;
            drop(json);
            let device = Device::Gpu(gpu.clone());
            let session = if load.random_weights {
                Session::load_random(&config, SEED, &device, &loading, &mut progress).await?
            } else {
                Session::load(files, &device, &loading, &mut progress).await?
            };
            let facts = Self::facts(&session, &gpu, kv, warning.as_deref());
            Ok(Self { session: RefCell::new(Some(session)), tokenizer, facts })
        };
        loaded.await.map_err(|error| folder.cause(error))
    }

    /// What is loaded, as the package's `ModelInfo` (without what the package knows itself).
    pub fn info(&self) -> String {
        self.facts.clone()
    }

    /// Continues `prompt`; `on_event` gets the package's `TokenEvent`s.
    ///
    /// # Errors
    /// As [`incoder::generate()`].
    pub async fn generate(
        &self,
        prompt: String,
        make: String,
        cancel: &CancelFlag,
        on_event: Function,
    ) -> Result<String, JsValue> {
        self.continued(Prompt::Text(&prompt), &make, cancel, &on_event).await
    }

    /// Continues token ids, taken as they are.
    ///
    /// # Errors
    /// As [`incoder::generate()`].
    #[wasm_bindgen(js_name = generateIds)]
    pub async fn generate_ids(
        &self,
        ids: Vec<u32>,
        make: String,
        cancel: &CancelFlag,
        on_event: Function,
    ) -> Result<String, JsValue> {
        self.continued(Prompt::Ids(&ids), &make, cancel, &on_event).await
    }

    /// Fills the holes between `parts`; `on_event` gets the package's `TokenEvent`s. Unless the parts are the published form's, the
    /// model is shown neither a byte-order mark nor line ends other than `\n`, and new text gets the document's line ends.
    ///
    /// # Errors
    /// As [`incoder::infill()`].
    pub async fn infill(
        &self,
        parts: Vec<String>,
        make: String,
        cancel: &CancelFlag,
        on_event: Function,
    ) -> Result<String, JsValue> {
        let make = options::<Make>(&make)?;
        let (mut parts, mut ends) = (parts, LineEnds::AsTheyAre);
        if !make.published {
            ends = LineEnds::of(parts.iter().map(String::as_str).chain([make.begun()]));
            for (i, part) in parts.iter_mut().enumerate() {
                let text = part.strip_prefix(BYTE_ORDER_MARK).filter(|_| i == 0).unwrap_or(part);
                *part = ends.to_model(text).into_owned();
            }
        }
        let make = make.infill(ends, cancel.0.clone());
        let mut session = self.take()?;
        let mut tell = |event: Event<'_>| report(&on_event, event, ends);
        let made = incoder::infill(&mut session, &self.tokenizer, &parts, &make, &mut tell).await;
        self.session.replace(Some(session));
        text(&options::Infilling::new(made.map_err(thrown)?, ends))
    }

    /// The log probabilities of `ids`, with the `top` most probable tokens after each.
    ///
    /// # Errors
    /// As [`incoder::score()`].
    pub async fn score(&self, ids: Vec<u32>, top: usize, cancel: &CancelFlag) -> Result<String, JsValue> {
        let mut session = self.take()?;
        let scored = incoder::score(&mut session, &ids, top, &cancel.0).await;
        self.session.replace(Some(session));
        text(&scored.map_err(thrown)?)
    }

    /// The token ids of a text, after the token that comes first if `bos`; `special` says what text is that spells a special
    /// token: `literal`, `reject` or `parse`.
    ///
    /// # Errors
    /// Text that spells a special token, with `reject`.
    pub fn encode(&self, text: &str, bos: bool, special: &str) -> Result<Vec<u32>, JsValue> {
        let special: Special = options(&json!(special).to_string())?;
        self.tokenizer.encode_with(text, special.into(), bos).map_err(thrown)
    }

    /// The text of token ids.
    ///
    /// # Errors
    /// An id that is not in the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, JsValue> {
        self.tokenizer.decode(ids, skip_special).map_err(thrown)
    }

    async fn continued(
        &self,
        prompt: Prompt<'_>,
        make: &str,
        cancel: &CancelFlag,
        on_event: &Function,
    ) -> Result<String, JsValue> {
        let make = options::<Make>(make)?.generate(cancel.0.clone());
        let mut session = self.take()?;
        let mut tell = |event: Event<'_>| report(on_event, event, LineEnds::AsTheyAre);
        let made = incoder::generate(&mut session, &self.tokenizer, prompt, &make, &mut tell).await;
        self.session.replace(Some(session));
        text(&options::Generation::from(made.map_err(thrown)?))
    }

    fn take(&self) -> Result<Session, JsValue> {
        let busy = || thrown(Error::argument("another call is still running"));
        self.session.take().ok_or_else(busy)
    }

    fn facts(session: &Session, gpu: &Gpu, kv: incoder::Kv, warning: Option<&str>) -> String {
        let config = session.config();
        json!({
            "parameters": config.parameters(),
            "contextLength": session.capacity(),
            "prefillChunk": session.prefill_chunk(),
            "vocabSize": config.vocab_size,
            "layers": config.num_layers,
            "dModel": config.d_model,
            "heads": config.heads,
            "weights": config.quantization.map_or("f16", incoder::Quantization::name),
            "kv": if kv == incoder::Kv::F32 { "f32" } else { "f16" },
            "gpuBytes": MemoryPlan::new(config, session.capacity(), kv, &gpu.memory_limits()).total(),
            "subgroups": session.gpu().is_some_and(Gpu::uses_subgroups),
            "warning": warning,
        })
        .to_string()
    }
}

/// An event as the package's `TokenEvent`.
fn report(callback: &Function, event: Event<'_>, ends: LineEnds) {
    let event = match event {
        Event::Retry { attempt } => json!({ "index": 0, "id": null, "text": "", "attempt": attempt }),
        Event::Token { index, id, text } => json!({ "index": index, "id": id, "text": ends.to_document(text) }),
        Event::End { index, text, finish_reason } => {
            json!({ "index": index, "id": null, "text": ends.to_document(text), "finishReason": finish_reason })
        }
        _ => return,
    };
    tell(callback, &event);
}
