//! Groups of options that several commands have.

use super::values::{
    Ids, Seed, above_zero, at_least_zero, at_most_all, last_tokens, layers, parse_ids, probability, seed, share, tokens,
};
use clap::{Args, ValueEnum, ValueHint};
use clap_complete::engine::ArgValueCompleter;
use incoder::Quantization;
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Model {
    /// A folder, or org/name[@revision] of the hub, downloaded once (left out: the small demo model in this program)
    ///
    /// A folder has config.json, tokenizer.json and the weights; a file in it means the folder. A model of the hub goes
    /// into the cache that Python's huggingface_hub uses, and is found there: HF_HOME, HF_HUB_CACHE, HF_TOKEN,
    /// HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean there.
    ///
    /// InCoder's own weights (facebook/incoder-1B, facebook/incoder-6B) are CC-BY-NC 4.0: no commercial use. They are
    /// not part of this program.
    ///
    /// Left out, the environment variable INCODER_MODEL says which.
    #[arg(short = 'm', long = "model", visible_alias = "hf-repo", value_name = "MODEL", value_hint = ValueHint::AnyPath, add = ArgValueCompleter::new(crate::complete::models))]
    name: Option<OsString>,
}

impl Model {
    /// What -m or INCODER_MODEL names.
    pub fn name(&self) -> Option<OsString> {
        or_environment(self.name.clone(), "INCODER_MODEL")
    }
}

/// What was given, or else what the environment says; an empty variable is as none.
pub fn or_environment(given: Option<OsString>, variable: &str) -> Option<OsString> {
    given.or_else(|| std::env::var_os(variable).filter(|value| !value.is_empty()))
}

#[derive(Debug, Args)]
pub struct Device {
    /// Which GPU: its number or a part of its name from `incoder devices`; `cpu` for the CPU (left out: INCODER_DEVICE, or the
    /// fastest)
    #[arg(short = 'd', long = "device", value_name = "DEVICE", add = ArgValueCompleter::new(crate::complete::devices))]
    select: Option<String>,
    /// Number format of the KV cache
    #[arg(long, value_enum, default_value_t = Kv::Auto)]
    pub kv: Kv,
    /// Quantize the weights on their way to the device (left out: fp16, or as the model is stored)
    #[arg(long, value_enum, value_name = "TYPE")]
    pub quantize: Option<Quantize>,
    /// Tokens that the context holds (left out, or 0: what the model was trained on)
    #[arg(short, long, value_name = "N", value_parser = tokens)]
    ctx_size: Option<usize>,
    /// As in llama.cpp: 0 computes on the CPU, any other number on the GPU
    #[arg(long, visible_alias = "gpu-layers", value_name = "N", value_parser = layers, allow_negative_numbers = true)]
    n_gpu_layers: Option<bool>,
    /// Accepted as llama.cpp has it, and without effect: the CPU computes in one thread
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, hide_short_help = true)]
    threads: Option<i64>,
}

impl Device {
    /// What -d or INCODER_DEVICE names.
    pub fn select(&self) -> Option<String> {
        let cpu = self.n_gpu_layers.filter(|on_gpu| !on_gpu).map(|_| "cpu".to_owned());
        cpu.or_else(|| self.select.clone()).or_else(|| {
            if self.n_gpu_layers.is_some() { None } else { or_environment(None, "INCODER_DEVICE")?.into_string().ok() }
        })
    }

    /// Tokens that the context is to hold, where that was said.
    pub fn context(&self) -> Option<usize> {
        self.ctx_size.filter(|&size| size > 0)
    }
}

/// What weights are quantized to on their way to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Quantize {
    /// 8 bits a weight: half the memory of fp16, and as accurate
    Q8,
    /// 4 bits a weight, the embedding in 8: a third, and a little less accurate
    Q4,
}

impl From<Quantize> for Quantization {
    fn from(quantize: Quantize) -> Self {
        match quantize {
            Quantize::Q8 => Self::Q8,
            Quantize::Q4 => Self::Q4,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kv {
    /// fp16, and fp32 from the first key or value on that fp16 cannot hold
    Auto,
    /// Half precision
    F16,
    /// Single precision: twice the memory
    F32,
}

impl Kv {
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

impl From<Kv> for incoder::Kv {
    fn from(kv: Kv) -> Self {
        match kv {
            Kv::Auto => Self::Auto,
            Kv::F16 => Self::F16,
            Kv::F32 => Self::F32,
        }
    }
}

#[derive(Debug, Args)]
pub struct Prompt {
    /// The text itself
    #[arg(short, long, value_name = "TEXT", conflicts_with_all = ["file", "ids"])]
    pub prompt: Option<String>,
    /// A file with the text, `-` for stdin
    #[arg(short, long, value_name = "FILE", conflicts_with = "ids")]
    pub file: Option<PathBuf>,
    /// Token ids instead of a text, with commas between them
    #[arg(long, value_name = "IDS", value_parser = parse_ids)]
    pub ids: Option<Ids>,
}

/// What the model is shown of a text.
#[derive(Debug, Args)]
pub struct Shown {
    /// What to do with a text that is longer than the context window
    #[arg(long = "context", value_name = "WHEN", value_enum, default_value_t)]
    pub overflow: Overflow,
    /// What text is that spells a special token of the model, such as <|mask:0|> or <s>
    #[arg(long, value_name = "AS", value_enum, default_value_t)]
    sentinels: Sentinels,
    /// The former name of --sentinels parse
    #[arg(long, hide = true, conflicts_with = "sentinels")]
    allow_sentinels: bool,
}

impl Shown {
    pub fn sentinels(&self) -> incoder::Sentinels {
        if self.allow_sentinels { incoder::Sentinels::Parse } else { self.sentinels.into() }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Overflow {
    /// Use the text around the hole, or the end of a prompt
    #[default]
    Window,
    /// Refuse it
    Error,
}

impl From<Overflow> for incoder::Overflow {
    fn from(overflow: Overflow) -> Self {
        match overflow {
            Overflow::Window => Self::Window,
            Overflow::Error => Self::Error,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Sentinels {
    /// Text like any other
    #[default]
    Literal,
    /// An error that says where it stands
    Refuse,
    /// The special token itself; the model may generate special tokens, too
    Parse,
}

impl From<Sentinels> for incoder::Sentinels {
    fn from(sentinels: Sentinels) -> Self {
        match sentinels {
            Sentinels::Literal => Self::Literal,
            Sentinels::Refuse => Self::Refuse,
            Sentinels::Parse => Self::Parse,
        }
    }
}

#[derive(Debug, Args)]
pub struct Decoding {
    /// Temperature; 0 takes the likeliest token always
    #[arg(long, visible_alias = "temperature", value_name = "T", default_value_t = 0.2, value_parser = at_least_zero)]
    pub temp: f64,
    /// Keep the likeliest tokens up to this total probability
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = probability)]
    pub top_p: f64,
    /// Keep this many of the likeliest tokens; 0 or less keeps all
    #[arg(long, value_name = "K", default_value = "50", value_parser = at_most_all, allow_negative_numbers = true)]
    pub top_k: usize,
    /// Keep tokens that are at least this often as likely as the likeliest; 0 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = share)]
    pub min_p: f64,
    /// Divide the logits of tokens already in the text by this
    #[arg(long, value_name = "R", default_value_t = 1.0, value_parser = above_zero)]
    pub repeat_penalty: f64,
    /// How many of the last tokens --repeat-penalty looks at (left out, or -1: all of them)
    #[arg(long, value_name = "N", value_parser = last_tokens, allow_negative_numbers = true)]
    pub repeat_last_n: Option<usize>,
    /// The same seed gives the same text on the same GPU (left out, or -1: a new one every time)
    #[arg(short, long, value_parser = seed, allow_negative_numbers = true)]
    seed: Option<Seed>,
    /// Do not complete the token that the cursor is in
    #[arg(long)]
    pub no_heal: bool,
    /// Do not try what followed the same tokens before (the text is the same, and often slower to come)
    #[arg(long)]
    pub no_lookup: bool,
}

impl Decoding {
    /// The seed, where one was given.
    pub fn seed(&self) -> Option<u64> {
        self.seed.and_then(|seed| seed.0)
    }
}
