//! The command line: what can be said, and what it means. Names follow llama.cpp's where it has one.

use crate::hub::name::ModelName;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::engine::ArgValueCompleter;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    something failed while running (a write, the network, the GPU)
  2    the command or its input is wrong
  3    no suitable GPU
  4    the model cannot be used
  5    infill: filled, but the model did not end every hole
  130  stopped with Ctrl-C; what there was has been printed

Environment:
  INCODER_MODEL, INCODER_DEVICE   what -m and -d are when they are left out
  HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE   as for Python's huggingface_hub

Meta's InCoder weights are licensed CC-BY-NC 4.0 (no commercial use). They are not part of this program.";

/// Fill holes in code, and continue it, with InCoder models on any GPU.
#[derive(Debug, Parser)]
#[command(name = "incoder", version, after_help = EXIT_CODES, arg_required_else_help = true, args_override_self = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    /// List the GPUs and exit (the same as `incoder devices`)
    #[arg(long, global = true, display_order = 1000)]
    pub list_devices: bool,
    /// Print one JSON object on stdout instead of text
    #[arg(long, global = true, display_order = 1000)]
    pub json: bool,
    /// No progress and no notes on stderr
    #[arg(short, long, global = true, display_order = 1000, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say on stderr what is being done; twice: in detail
    #[arg(short, long, global = true, display_order = 1000, action = ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Continue a text from left to right
    Generate(Generate),
    /// Fill the holes of a file
    Infill(Infill),
    /// Log probability of every token of a text
    Score(Score),
    /// Text to token ids
    Tokenize(Tokenize),
    /// Token ids to text
    Detokenize(Detokenize),
    /// Download, list, remove and check models of the Hugging Face hub
    #[command(subcommand)]
    Models(Models),
    /// Write a model as safetensors: half as large as fp32, quick to load, and what a web page should serve
    Convert(Convert),
    /// Say what a model takes, and on which GPU it fits, before anything is downloaded
    Plan(Plan),
    /// Time a model or random weights on a GPU, and hold that against what the GPU can do
    Bench(Bench),
    /// List the GPUs, their limits, and whether the 1B and 6B models fit
    Devices,
    /// Print the completion script of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page (`incoder man | man -l -`)
    Man {
        /// The page of this command; several words for one within another
        #[arg(value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Print the version (the same as `incoder --version`)
    #[command(hide = true)]
    Version,
}

#[derive(Debug, Args)]
pub struct Generate {
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub device: Device,
    #[command(flatten)]
    pub prompt: Prompt,
    #[command(flatten)]
    pub shown: Shown,
    #[command(flatten)]
    pub decoding: Decoding,
    /// At most this many new tokens; -1: until the model ends the text or the context is full
    #[arg(short = 'n', long, visible_aliases = ["predict", "n-predict"], value_name = "N", default_value = "128", value_parser = new_tokens, allow_negative_numbers = true)]
    pub max_tokens: usize,
    /// This many candidates, from one reading of the prompt
    #[arg(long = "n", value_name = "K", default_value_t = 1, value_parser = positive())]
    pub candidates: usize,
    /// Do not stop at <|endoftext|>
    #[arg(long)]
    pub ignore_eos: bool,
    /// Stop before this text; may be given more than once
    #[arg(short = 'r', long, visible_alias = "reverse-prompt", value_name = "TEXT", value_parser = stop_text)]
    pub stop: Vec<String>,
    /// Take \n, \t, \r, \", \' and \\ in --prompt and --stop as what they stand for
    #[arg(short, long)]
    pub escape: bool,
}

#[derive(Debug, Args)]
pub struct Infill {
    /// The file to fill, `-` for stdin; every marker in it is a hole, or the place where FILE:LINE:COL says
    ///
    /// Several files are filled one after the other, from one loading of the model: with --in-place, --diff or --json.
    #[arg(value_name = "FILE", group = "document", conflicts_with_all = ["parts", "prefix_file", "suffix_file"])]
    arguments: Vec<PathBuf>,
    /// The same FILE, said with a flag
    #[arg(short = 'f', long = "file", value_name = "FILE", group = "document", conflicts_with_all = ["parts", "prefix_file", "suffix_file"])]
    flag: Option<PathBuf>,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub device: Device,
    /// What marks a hole in FILE
    #[arg(long, value_name = "TEXT", default_value = "<infill>")]
    pub marker: String,
    /// Fill at this place of FILE instead (both count from 1, columns in characters); may be given more than once
    #[arg(long, value_name = "LINE:COL", requires = "document", conflicts_with = "marker")]
    pub at: Vec<crate::split::Position>,
    /// The text before the hole
    #[arg(long, value_name = "FILE", requires = "suffix_file", conflicts_with = "parts")]
    pub prefix_file: Option<PathBuf>,
    /// The text after the hole
    #[arg(long, value_name = "FILE", requires = "prefix_file", conflicts_with = "parts")]
    pub suffix_file: Option<PathBuf>,
    /// A JSON array of the texts around the holes (`-` for stdin)
    #[arg(long, value_name = "FILE")]
    pub parts: Option<PathBuf>,
    /// Write the filled text back to FILE
    #[arg(short, long, requires = "document")]
    pub in_place: bool,
    /// Leave FILE as it is unless the model ended every hole
    #[arg(long, requires = "in_place")]
    pub only_complete: bool,
    /// Print a unified diff instead of the filled text; with --in-place both
    #[arg(long, requires = "document", conflicts_with = "json")]
    pub diff: bool,
    #[command(flatten)]
    pub shown: Shown,
    /// Put the last LINES lines before the cursor into the hole, as its beginning; 0 is the published form of the prompt
    ///
    /// The model then goes on from its nearest context, and finds more. The hole begins at a line whose number is a multiple
    /// of LINES, between LINES and twice as many lines before the cursor. Left out: 8 for one hole, 0 for several and with
    /// --parts.
    #[arg(long, value_name = "LINES")]
    pub lookback: Option<usize>,
    /// Fill no more than the rest of the line
    #[arg(long, conflicts_with = "whole_region")]
    pub single_line: bool,
    /// End a hole only where the model ends it, also where --lookback is in use
    ///
    /// With look-back a hole also ends before a line that repeats the text behind it, or that is indented less than the line
    /// of the cursor: the model often writes on past the hole.
    #[arg(long)]
    pub whole_region: bool,
    #[command(flatten)]
    pub decoding: Decoding,
    /// At most this many new tokens in a hole; -1: until the model ends it or the context is full
    #[arg(short = 'n', long, visible_aliases = ["predict", "n-predict"], value_name = "N", default_value = "128", value_parser = new_tokens, allow_negative_numbers = true)]
    pub max_tokens: usize,
    /// This many candidates for the one hole
    #[arg(long = "n", value_name = "K", default_value_t = 1, value_parser = positive(), conflicts_with_all = ["in_place", "diff"])]
    pub candidates: usize,
    /// End a hole before this text, such as $'\n' for the rest of a line; may be given more than once
    #[arg(short = 'r', long, visible_alias = "reverse-prompt", value_name = "TEXT", value_parser = stop_text)]
    pub stop: Vec<String>,
    /// Take \n, \t, \r, \", \' and \\ in --stop as what they stand for
    #[arg(short, long)]
    pub escape: bool,
    /// Try this often until every hole was ended by the model
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive())]
    pub retries: usize,
    /// Do not put one more mask sentinel after the last part
    #[arg(long)]
    pub no_extra_sentinel: bool,
}

impl Infill {
    /// Every FILE, whichever way it was given.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.arguments.iter().chain(&self.flag).map(PathBuf::as_path)
    }
}

#[derive(Debug, Args)]
pub struct Score {
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub device: Device,
    #[command(flatten)]
    pub prompt: Prompt,
    /// Also the K likeliest next tokens after every token
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_logprobs: usize,
    #[command(flatten)]
    pub shown: Shown,
}

#[derive(Debug, Args)]
pub struct Tokenize {
    #[command(flatten)]
    pub model: Model,
    /// The text itself (left out: stdin)
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    pub prompt: Option<String>,
    /// A file with the text, `-` for stdin
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Do not begin with <|endoftext|>
    #[arg(long)]
    pub no_bos: bool,
}

#[derive(Debug, Args)]
pub struct Detokenize {
    #[command(flatten)]
    pub model: Model,
    /// Token ids with commas or blanks between them (left out: stdin)
    #[arg(long, value_name = "IDS", value_parser = crate::input::parse_ids)]
    pub ids: Option<Ids>,
    /// Leave special tokens out of the text
    #[arg(long)]
    pub skip_special: bool,
}

/// Token ids given as one argument. (A type of its own: clap would read a plain `Vec` as one value each.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids(pub Vec<u32>);

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
pub struct Convert {
    /// A folder, or org/name[@revision] of the hub
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub model: OsString,
    /// The folder to make; it must not exist yet, and is there only when it is whole
    #[arg(value_name = "OUT", value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// Number format of the weights
    #[arg(long, value_enum, default_value_t = Dtype::F16)]
    pub dtype: Dtype,
    /// Bytes of a file at most, as 1GB or 500MB; a larger tensor has a file of its own
    #[arg(long, value_name = "SIZE", default_value = "1GB", value_parser = byte_count)]
    pub shard_size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// What the GPU computes from; a value beyond its range is an error that names the tensor
    F16,
    /// Every value as it is
    F32,
}

impl Dtype {
    /// Bytes of a value.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// As config.json calls it.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F16 => "float16",
            Self::F32 => "float32",
        }
    }
}

#[derive(Debug, Args)]
pub struct Plan {
    /// A folder, org/name[@revision] of the hub, 1B or 6B (left out: the demo model)
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub model: Option<OsString>,
    /// Tokens that the context holds (left out, or 0: what the model was trained on)
    #[arg(short, long, value_name = "N", value_parser = tokens)]
    pub ctx_size: Option<usize>,
    /// Candidates from one prompt: they share its tokens in the KV cache, and each takes -n for itself
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = positive())]
    pub candidates: usize,
    /// New tokens of a candidate
    #[arg(short = 'n', long, visible_aliases = ["predict", "n-predict"], value_name = "N", default_value_t = 128, value_parser = positive())]
    pub max_tokens: usize,
    /// Number format of the KV cache
    #[arg(long, value_enum, default_value_t = Kv::F16)]
    pub kv: Kv,
}

#[derive(Debug, Args)]
pub struct Bench {
    #[command(flatten)]
    pub model: Model,
    /// Random weights in these sizes instead of a model: the GPU makes them, and no file is read or written
    #[arg(long, value_enum, value_name = "SIZE", conflicts_with = "name")]
    pub shape: Option<Shape>,
    /// Prompts of so many tokens, with commas between them; 0: none
    #[arg(short = 'p', long, value_name = "N", default_value = "128", value_delimiter = ',', value_parser = prompts)]
    pub n_prompt: Vec<usize>,
    /// So many new tokens, with commas between them; 0: none
    #[arg(short = 'n', long, value_name = "N", default_value = "32", value_delimiter = ',', value_parser = tokens)]
    pub n_gen: Vec<usize>,
    /// New tokens after so many others, with commas between them
    #[arg(short = 'd', long, value_name = "N", default_value = "0", value_delimiter = ',', value_parser = depths)]
    pub n_depth: Vec<usize>,
    /// Also a prompt of P tokens and N new ones in one time (left out: those of -p and -n)
    #[arg(long, value_name = "P,N", num_args = 0..=1, value_parser = pair)]
    pub pg: Option<Option<(usize, usize)>>,
    /// No infilling
    #[arg(long)]
    pub no_infill: bool,
    /// GPU time by kernel instead, from timestamps: of a step that decodes, after each of -d, and of one that prefills
    #[arg(long, conflicts_with_all = ["pg", "n_gen"])]
    pub profile: bool,
    /// One layer in every size (left out: --shape's), checked against the reference, then every kernel for 1, 2, 4, 8 and
    /// more tokens a step
    #[arg(long, conflicts_with_all = ["profile", "pg", "n_gen", "n_prompt", "name"])]
    pub kernels: bool,
    /// So many times each, after one that does not count
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = positive())]
    pub repetitions: usize,
    /// How the figures are printed (left out: md; json with --json)
    #[arg(short, long, value_enum, value_name = "FORMAT", conflicts_with = "json")]
    pub output: Option<Table>,
    /// Which GPU: its number or a part of its name from `incoder devices`; `cpu` for the CPU (-d is the depth)
    #[arg(long, value_name = "DEVICE", add = ArgValueCompleter::new(crate::complete::devices))]
    pub device: Option<String>,
    /// As in llama-bench: 0 times the CPU, any other number the GPU
    #[arg(long, value_name = "N", value_parser = layers, allow_negative_numbers = true)]
    pub n_gpu_layers: Option<bool>,
    /// Accepted as llama-bench has it, and without effect: the CPU computes in one thread
    #[arg(short, long, value_name = "N", hide_short_help = true)]
    pub threads: Option<u32>,
    /// Number format of the KV cache
    #[arg(long, value_enum, default_value_t = Kv::F16)]
    pub kv: Kv,
    /// Tokens that the context holds (left out, or 0: what the model was trained on)
    #[arg(short, long, value_name = "N", value_parser = tokens)]
    pub ctx_size: Option<usize>,
}

/// Sizes of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// InCoder-1B: 2.6 GB of weights
    #[value(name = "1B", alias = "1b")]
    OneB,
    /// InCoder-6B: 13.3 GB of weights
    #[value(name = "6B", alias = "6b")]
    SixB,
    /// 29.4 million parameters: 59 MB of weights
    Small,
}

/// A form for figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Table {
    /// A table in Markdown
    Md,
    /// One JSON object, in one line
    #[value(alias = "jsonl")]
    Json,
    /// Comma-separated values, one line a row
    Csv,
}

#[derive(Debug, Subcommand)]
pub enum Models {
    #[command(alias = "download")]
    /// Download models, or bring them up to date, and print their folders
    Pull {
        /// org/name[@revision], for example facebook/incoder-1B
        #[arg(value_name = "MODEL", required = true, value_parser = ModelName::parse)]
        models: Vec<ModelName>,
    },
    /// List the models in the cache that this program can run, and their unfinished downloads
    ///
    /// The cache may hold others, of other programs: only those whose config.json has the model_type xglm are listed.
    #[command(alias = "list")]
    Ls,
    /// Remove a model from the cache, or one revision of it
    #[command(alias = "remove")]
    Rm {
        /// org/name, or org/name@revision for one revision
        #[arg(value_name = "MODEL", value_parser = ModelName::parse, add = ArgValueCompleter::new(crate::complete::cached_models))]
        model: ModelName,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Compare a model's files in the cache with their hashes, and remove the damaged ones
    Verify {
        /// org/name
        #[arg(value_name = "MODEL", value_parser = ModelName::parse, add = ArgValueCompleter::new(crate::complete::cached_models))]
        model: ModelName,
    },
    /// Print the folder of a model in the cache
    Path {
        /// org/name[@revision]
        #[arg(value_name = "MODEL", value_parser = ModelName::parse, add = ArgValueCompleter::new(crate::complete::cached_models))]
        model: ModelName,
    },
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
    #[arg(long, value_name = "IDS", value_parser = crate::input::parse_ids)]
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

/// A seed; none for a new one every time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seed(Option<u64>);

fn seed(text: &str) -> Result<Seed, String> {
    match text {
        "-1" => Ok(Seed(None)),
        _ => text.parse().map(|seed| Seed(Some(seed))).map_err(|_| "not a whole number of 0 or more, or -1".into()),
    }
}

/// New tokens: as many as said, or for a negative number as many as there is room for.
fn new_tokens(text: &str) -> Result<usize, String> {
    match text.parse::<i64>() {
        Ok(n @ 1..=0xffff_ffff) => Ok(n as usize),
        Ok(-2 | -1) => Ok(UNTIL_THE_END),
        _ => Err("not a number of tokens of 1 or more, or -1 for as many as there is room for".into()),
    }
}

/// More tokens than any context holds.
pub const UNTIL_THE_END: usize = u32::MAX as usize;

fn at_most_all(text: &str) -> Result<usize, String> {
    let number = text.parse::<i64>().map_err(|_| "not a whole number".to_owned())?;
    Ok(usize::try_from(number).unwrap_or(0))
}

/// llama.cpp's number of layers on the GPU: whether there are any.
fn layers(text: &str) -> Result<bool, String> {
    match text {
        "all" | "auto" => Ok(true),
        _ => text.parse::<i64>().map(|layers| layers != 0).map_err(|_| "not a number of layers, all or auto".into()),
    }
}

fn stop_text(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("an empty text stands everywhere: nothing would be generated".into())
    } else {
        Ok(text.into())
    }
}

/// `\n` and its like as what they stand for; others stay as they are.
pub fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let known = match rest.clone().next().filter(|_| c == '\\') {
            Some('n') => Some('\n'),
            Some('t') => Some('\t'),
            Some('r') => Some('\r'),
            Some(quoted @ ('\\' | '"' | '\'')) => Some(quoted),
            _ => None,
        };
        if known.is_some() {
            rest.next();
        }
        out.push(known.unwrap_or(c));
    }
    out
}

fn positive() -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser as _;
    clap::builder::RangedU64ValueParser::<u64>::new().range(1..=u64::from(u32::MAX)).map(|n: u64| n as usize)
}

/// A number of tokens, 0 included.
fn tokens(text: &str) -> Result<usize, String> {
    let number = text.trim().parse::<u32>().ok().and_then(|n| usize::try_from(n).ok());
    number.ok_or_else(|| "not a number of tokens".into())
}

fn prompts(text: &str) -> Result<usize, String> {
    tokens(text).map_err(|problem| match text {
        // As llama-bench spells it: one dash, two letters.
        "g" => format!("{problem}; a prompt and new tokens in one time are --pg"),
        _ => problem,
    })
}

fn depths(text: &str) -> Result<usize, String> {
    tokens(text).map_err(|problem| format!("{problem}; -d is the depth here, a GPU is --device"))
}

fn pair(text: &str) -> Result<(usize, usize), String> {
    let both = text.split_once(',').map(|(prompt, new)| (tokens(prompt), tokens(new)));
    match both {
        Some((Ok(prompt), Ok(new))) if prompt > 0 && new > 0 => Ok((prompt, new)),
        _ => Err("not two numbers of tokens, such as 128,32".into()),
    }
}

/// `1GB`, `500 MB`, `1000000`: decimal units, as disks and downloads have them.
fn byte_count(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err("not a size; 1GB and 500MB are".into()),
    };
    let count = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(factor));
    count.filter(|&bytes| bytes > 0).ok_or_else(|| "not a size; 1GB and 500MB are".into())
}

fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("not a number".into()),
    }
}

fn at_least_zero(text: &str) -> Result<f64, String> {
    number(text).and_then(|v| if v >= 0.0 { Ok(v) } else { Err("must be 0 or more".into()) })
}

fn above_zero(text: &str) -> Result<f64, String> {
    number(text).and_then(|v| if v > 0.0 { Ok(v) } else { Err("must be more than 0".into()) })
}

fn share(text: &str) -> Result<f64, String> {
    number(text).and_then(|v| if (0.0..=1.0).contains(&v) { Ok(v) } else { Err("must be 0 to 1".into()) })
}

fn probability(text: &str) -> Result<f64, String> {
    number(text).and_then(|v| if v > 0.0 && v <= 1.0 { Ok(v) } else { Err("must be more than 0 and at most 1".into()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("1GB", 1_000_000_000), ("500 mb", 500_000_000), ("7", 7), ("2kB", 2000)] {
            assert_eq!(byte_count(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "0", "1.5GB", "-1", "1TB", "99999999999GB"] {
            assert!(byte_count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn short_and_long_n_are_two_things() {
        let cli = Cli::parse_from(["incoder", "generate", "--ids", "2,17, 99", "-n", "24", "--n", "4"]);
        let Some(Command::Generate(generate)) = cli.command else { panic!("not generate") };
        assert_eq!((generate.max_tokens, generate.candidates), (24, 4));
        assert_eq!(generate.prompt.ids, Some(Ids(vec![2, 17, 99])));
    }

    /// What people who come from llama.cpp type.
    #[test]
    fn llama_cpp_habits_are_understood() {
        let generate = |args: &[&str]| {
            let all = [&["incoder", "generate", "-p", "x"], args].concat();
            match Cli::parse_from(crate::args::understood(all.iter().map(Into::into).collect())).command {
                Some(Command::Generate(generate)) => generate,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(generate(&["-n", "-1"]).max_tokens, UNTIL_THE_END);
        assert_eq!(generate(&["--n-predict", "-2"]).max_tokens, UNTIL_THE_END);
        assert_eq!((generate(&["-s", "-1"]).decoding.seed(), generate(&["-s", "7"]).decoding.seed()), (None, Some(7)));
        assert_eq!(
            (generate(&["-c", "0"]).device.context(), generate(&["-c", "64"]).device.context()),
            (None, Some(64))
        );
        for all in ["-1", "0"] {
            assert_eq!(generate(&["--top-k", all]).decoding.top_k, 0);
        }
        assert_eq!(generate(&["--min-p", "0.05"]).decoding.min_p, 0.05);
        assert_eq!(generate(&["-r", "a", "--stop", "b", "--reverse-prompt", "c"]).stop, ["a", "b", "c"]);
        assert_eq!(generate(&["-ngl", "0", "-t", "8"]).device.select().as_deref(), Some("cpu"));
        assert!(generate(&["-ngl", "99"]).device.n_gpu_layers.is_some_and(|on_gpu| on_gpu));
        assert_eq!(generate(&["-hf", "org/name"]).model.name(), Some("org/name".into()));
        assert_eq!(generate(&["-n", "3", "-n", "5", "--temp", "1", "--temp", "0.5"]).max_tokens, 5);
        assert!(generate(&["-e"]).escape);
        assert_eq!(unescaped(r#"a\n\\n\t\q\"\"#), "a\n\\n\t\\q\"\\");
    }

    #[test]
    fn bench_takes_lists_and_a_pair() {
        let bench = |more: &[&str]| match Cli::parse_from(["incoder", "bench"].iter().chain(more)).command {
            Some(Command::Bench(bench)) => bench,
            other => panic!("{other:?}"),
        };
        let lists = bench(&["-p", "128,512", "-n", "0", "-d", "0,512,1900", "--pg", "-r", "3"]);
        assert_eq!((lists.n_prompt, lists.n_gen, lists.n_depth), (vec![128, 512], vec![0], vec![0, 512, 1900]));
        assert_eq!((lists.pg, lists.repetitions), (Some(None), 3));
        assert_eq!(bench(&["--pg", "64,8", "--shape", "1b"]).pg, Some(Some((64, 8))));
        assert_eq!(bench(&[]).pg, None);
    }

    #[test]
    fn refuses_values_out_of_range() {
        for args in [
            ["generate", "--temp", "-1"],
            ["generate", "--temp", "nan"],
            ["generate", "--top-p", "0"],
            ["generate", "--top-p", "1.5"],
            ["generate", "--repeat-penalty", "0"],
            ["generate", "-n", "0"],
            ["generate", "--n", "0"],
            ["generate", "--ids", "2,x"],
            ["generate", "--ids", "-5"],
            ["generate", "-n", "-3"],
            ["generate", "-s", "-2"],
            ["generate", "--min-p", "1.5"],
            ["infill", "--stop", ""],
            ["infill", "--at", "0:1"],
            ["plan", "--candidates", "0"],
            ["bench", "-p", "many"],
            ["bench", "-d", "-1"],
            ["bench", "-r", "0"],
            ["bench", "--pg", "128"],
            ["bench", "--pg", "0,32"],
            ["bench", "--shape", "2B"],
            ["bench", "-o", "xml"],
        ] {
            assert!(Cli::try_parse_from(["incoder"].iter().chain(&args)).is_err(), "{args:?}");
        }
    }
}
