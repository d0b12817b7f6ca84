//! `incoder bench`.

use super::options::{Kv, Model, Quantize};
use super::values::{depths, layers, pair, positive, prompts, tokens};
use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

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
    /// Quantize the weights on their way to the device (left out: fp16, or as the model is stored)
    #[arg(long, value_enum, value_name = "TYPE")]
    pub quantize: Option<Quantize>,
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
    /// Qwen2.5-Coder 0.5B: 1.0 GB of weights
    #[value(name = "0.5B", alias = "0.5b")]
    HalfB,
    /// Qwen2.5-Coder 1.5B: 3.1 GB of weights
    #[value(name = "1.5B", alias = "1.5b")]
    OneAndAHalfB,
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
