//! The command line: what can be said, and what it means. Names follow llama.cpp's where it has one.

mod bench;
mod doctor;
mod options;
mod serve;
#[cfg(test)]
mod tests;
mod values;

pub use bench::{Bench, Shape, Table};
pub use doctor::Doctor;
pub use options::{Decoding, Device, Kv, Model, Overflow, Prompt, Quantize, Shown};
pub use serve::{Lsp, Serve, api_key};
pub use values::{Ids, UNTIL_THE_END, parse_ids, unescaped};

use self::values::{byte_count, new_tokens, positive, stop_text, tokens};
use crate::hub::name::ModelName;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::engine::ArgValueCompleter;
use incoder::Quantization;
use incoder::checkpoint::Encoding;
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
  INCODER_DISABLE   paths of the engine to do without, with commas between them: subgroups, textures, tiles, products, tuning,
                    choosing
  INCODER_API_KEY                 what --api-key of `incoder serve` is when it is left out
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
    /// Serve editors over HTTP, in the dialects of llama.cpp, OpenAI, Mistral, Ollama and Tabby
    Serve(Serve),
    /// Complete in editors that speak the Language Server Protocol, over stdin and stdout
    Lsp(Lsp),
    /// Write a model as safetensors: half as large as fp32, quick to load, and what a web page should serve
    Convert(Convert),
    /// Say what a model takes, and on which GPU it fits, before anything is downloaded
    Plan(Plan),
    /// Time a model or random weights on a GPU, and hold that against what the GPU can do
    Bench(Bench),
    /// Check that a GPU computes right, kernel by kernel, and say what to switch off where it does not
    Doctor(Doctor),
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
    #[arg(long, value_name = "IDS", value_parser = values::parse_ids)]
    pub ids: Option<Ids>,
    /// Leave special tokens out of the text
    #[arg(long)]
    pub skip_special: bool,
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
    /// 8 bits a weight (8.5 with the scales): half of fp16, and as accurate
    Q8,
    /// 4 bits a weight (5 with scales and minima), the embedding in 8: a third of fp16, and a little less accurate
    Q4,
}

impl Dtype {
    /// What the weights are quantized to.
    pub fn quantization(self) -> Option<Quantization> {
        self.encoding().quantization()
    }

    /// What values become in a file.
    pub fn encoding(self) -> Encoding {
        match self {
            Self::F16 => Encoding::F16,
            Self::F32 => Encoding::F32,
            Self::Q8 => Encoding::Quantized(Quantization::Q8),
            Self::Q4 => Encoding::Quantized(Quantization::Q4),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
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
    /// Type of the weights (left out: fp16, or as the model is stored); the others are listed after it
    #[arg(long, value_enum, value_name = "TYPE")]
    pub quantize: Option<Quantize>,
    /// Memory of the GPU, as 8GB (left out: the machine's, where the GPU shares it)
    #[arg(long, value_name = "SIZE", value_parser = byte_count)]
    pub memory: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub enum Models {
    #[command(alias = "download")]
    /// Download models, or bring them up to date, and print their folders
    Pull {
        /// org/name[@revision], for example facebook/incoder-1B
        #[arg(value_name = "MODEL", required = true, value_parser = ModelName::parse)]
        models: Vec<ModelName>,
        /// Keep the weights quantized, as a load with --quantize does: the original is not stored
        #[arg(long, value_enum, value_name = "TYPE")]
        quantize: Option<Quantize>,
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
