//! Options and results as the package writes them: camelCase JSON.

use incoder::{
    FinishReason, GenerateOptions, HoleEnd, InfillOptions, Kv, LineEnds, Lookup, Overflow, Quantization, Sampling,
    Sentinels, Timings, Window,
};
use serde::{Deserialize, Serialize};

/// How a model is loaded.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Load {
    pub context_length: Option<usize>,
    #[serde(default)]
    pub kv: Cache,
    #[serde(default)]
    pub quantize: Option<Weights>,
    /// The page added `subgroups` to the device request.
    pub subgroups: bool,
    /// The adapter computes on the CPU, which wgpu cannot always tell in a browser: nothing is measured on it.
    pub software: bool,
    /// The GPU makes the weights; the folder has the rest.
    #[serde(default)]
    pub random_weights: bool,
    /// Names the GPU and the browser, for what is measured on them.
    pub adapter: String,
    /// What was to be kept of an earlier load's measurements; empty when nothing was.
    pub tuning: String,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cache {
    #[default]
    Auto,
    F16,
    F32,
}

impl From<Cache> for Kv {
    fn from(cache: Cache) -> Self {
        match cache {
            Cache::Auto => Self::Auto,
            Cache::F16 => Self::F16,
            Cache::F32 => Self::F32,
        }
    }
}

/// What weights are quantized to on the way to the device.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Weights {
    Q8,
    Q4,
}

impl From<Weights> for Quantization {
    fn from(weights: Weights) -> Self {
        match weights {
            Weights::Q8 => Self::Q8,
            Weights::Q4 => Self::Q4,
        }
    }
}

/// How text is made; what is left out has the engine's defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Make {
    begun: String,
    max_tokens: Option<usize>,
    temperature: Option<f64>,
    top_k: Option<usize>,
    top_p: Option<f64>,
    repetition_penalty: Option<f64>,
    seed: Option<u64>,
    stop: Vec<String>,
    candidates: Option<usize>,
    heal: Option<bool>,
    lookup: Option<bool>,
    special_tokens: Special,
    ignore_eos: bool,
    extra_sentinel: Option<bool>,
    max_retries: Option<usize>,
    lookback: Option<usize>,
    end: End,
    max_prompt_tokens: Option<usize>,
    on_overflow: OnOverflow,
    /// The parts are the published form's input: shown to the model exactly as they are, and in its prompt.
    pub published: bool,
}

/// What ends a hole, as the package's `end`.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum End {
    #[default]
    Auto,
    Mask,
    Line,
    Block,
}

impl From<End> for HoleEnd {
    fn from(end: End) -> Self {
        match end {
            End::Auto => Self::Auto,
            End::Mask => Self::Mask,
            End::Line => Self::Line,
            End::Block => Self::Block,
        }
    }
}

/// What to do with more text than the context window holds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnOverflow {
    #[default]
    Window,
    Error,
}

impl From<OnOverflow> for Overflow {
    fn from(overflow: OnOverflow) -> Self {
        match overflow {
            OnOverflow::Window => Self::Window,
            OnOverflow::Error => Self::Error,
        }
    }
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Special {
    #[default]
    Literal,
    Reject,
    Parse,
}

impl From<Special> for Sentinels {
    fn from(special: Special) -> Self {
        match special {
            Special::Literal => Self::Literal,
            Special::Reject => Self::Refuse,
            Special::Parse => Self::Parse,
        }
    }
}

impl Make {
    fn sampling(&self) -> Sampling {
        let default = Sampling::default();
        Sampling {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
            seed: self.seed.unwrap_or(default.seed),
            ..default
        }
    }

    fn lookup(&self) -> Lookup {
        if self.lookup == Some(false) { Lookup::Off } else { Lookup::Auto }
    }

    pub fn generate(self, cancel: incoder::Cancel) -> GenerateOptions {
        let default = GenerateOptions::default();
        GenerateOptions {
            max_new_tokens: self.max_tokens.unwrap_or(default.max_new_tokens),
            sampling: self.sampling(),
            heal: self.heal.unwrap_or(default.heal),
            lookup: self.lookup(),
            candidates: self.candidates.unwrap_or(default.candidates),
            sentinels: self.special_tokens.into(),
            overflow: self.on_overflow.into(),
            max_prompt_tokens: self.max_prompt_tokens,
            stop: self.stop,
            ignore_eos: self.ignore_eos,
            cancel,
            ..default
        }
    }

    /// What the text of the first hole begins with.
    pub fn begun(&self) -> &str {
        &self.begun
    }

    /// `ends` are those of the document, whose stop texts and beginning these are.
    pub fn infill(self, ends: LineEnds, cancel: incoder::Cancel) -> InfillOptions {
        let default = InfillOptions::default();
        InfillOptions {
            max_new_tokens: self.max_tokens.unwrap_or(default.max_new_tokens),
            sampling: self.sampling(),
            retries: self.max_retries.unwrap_or(default.retries),
            extra_sentinel: self.extra_sentinel.unwrap_or(default.extra_sentinel),
            heal: self.heal.unwrap_or(default.heal),
            lookup: self.lookup(),
            sentinels: self.special_tokens.into(),
            overflow: self.on_overflow.into(),
            look_back: self.lookback.or(self.published.then_some(0)),
            max_prompt_tokens: self.max_prompt_tokens,
            end: self.end.into(),
            begun: ends.to_model(&self.begun).into_owned(),
            stop: self.stop.iter().map(|stop| ends.to_model(stop).into_owned()).collect(),
            cancel,
            ..default
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Text {
    text: String,
    ids: Vec<u32>,
    finish_reason: FinishReason,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Times {
    prompt_ms: f64,
    ttft_ms: f64,
    decode_ms: f64,
    tokens_per_second: f64,
}

impl From<Timings> for Times {
    fn from(timings: Timings) -> Self {
        let Timings { prompt_ms, ttft_ms, decode_ms, tokens_per_second, .. } = timings;
        Self { prompt_ms, ttft_ms, decode_ms, tokens_per_second }
    }
}

/// The package's `Generation`, but for its first candidate's fields.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Generation {
    candidates: Vec<Text>,
    prompt_tokens: usize,
    cached_tokens: usize,
    window: Option<Shown>,
    timings: Times,
}

impl From<incoder::Generation> for Generation {
    fn from(made: incoder::Generation) -> Self {
        let text = |c: incoder::Candidate| Text { text: c.text, ids: c.ids, finish_reason: c.finish_reason };
        Self {
            candidates: made.candidates.into_iter().map(text).collect(),
            prompt_tokens: made.prompt_tokens,
            cached_tokens: made.cached_tokens,
            window: made.window.map(Shown::from),
            timings: made.timings.into(),
        }
    }
}

/// The package's `Window`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    first_line: usize,
    last_line: usize,
    tokens: usize,
    left_out_tokens: usize,
}

impl From<Window> for Shown {
    fn from(window: Window) -> Self {
        let Window { first_line, last_line, tokens, left_out_tokens } = window;
        Self { first_line, last_line, tokens, left_out_tokens }
    }
}

/// The package's `Infilling`, without the texts that the package has itself.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Infilling {
    infills: Vec<Text>,
    windows: Vec<Shown>,
    retries_attempted: usize,
    complete: bool,
    prompt_tokens: usize,
    cached_tokens: usize,
    timings: Times,
}

impl Infilling {
    /// What was made for a document with these line ends.
    pub fn new(made: incoder::Infilling, ends: LineEnds) -> Self {
        let text = |c: incoder::Infill| Text {
            text: ends.to_document(&c.text).into_owned(),
            ids: c.ids,
            finish_reason: c.finish_reason,
        };
        Self {
            windows: made.windows.into_iter().map(Shown::from).collect(),
            infills: made.infills.into_iter().map(text).collect(),
            retries_attempted: made.retries_attempted,
            complete: made.complete,
            prompt_tokens: made.prompt_tokens,
            cached_tokens: made.cached_tokens,
            timings: made.timings.into(),
        }
    }
}
