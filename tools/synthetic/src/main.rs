//! `cargo xtask synthetic`: a full-size checkpoint of random weights.

use clap::Parser;
use incoder_synthetic::{Dtype, Format, Model, Options, write};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::process::ExitCode;

/// Write a full-size InCoder checkpoint of random weights
#[derive(Parser)]
#[command(bin_name = "cargo xtask synthetic")]
struct Arguments {
    /// 1B or 6B
    #[arg(value_parser = model)]
    model: Model,
    /// The folder to write; it must not exist yet
    out: PathBuf,
    /// bin, bin-sharded, safetensors or safetensors-sharded
    #[arg(long, default_value = "safetensors")]
    format: Format,
    /// f32, f16 (the same values) or bf16 (rounded)
    #[arg(long, default_value = "f32")]
    dtype: Dtype,
    /// Write fewer or more layers
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Write a vocabulary of another size
    #[arg(long, value_name = "N")]
    vocab: Option<usize>,
    /// Another seed makes another model
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Most bytes of tensors in a shard, such as 500MB or 2GB
    #[arg(long, value_name = "BYTES", default_value = "2GB", value_parser = bytes)]
    shard_size: u64,
}

fn model(name: &str) -> Result<Model, &'static str> {
    match name {
        "1B" => Ok(Model::incoder_1b()),
        "6B" => Ok(Model::incoder_6b()),
        _ => Err("expected 1B or 6B"),
    }
}

fn bytes(text: &str) -> Result<u64, &'static str> {
    let (number, unit) = match text {
        _ if text.ends_with("KB") => (text.trim_end_matches("KB"), 1_000),
        _ if text.ends_with("MB") => (text.trim_end_matches("MB"), 1_000_000),
        _ if text.ends_with("GB") => (text.trim_end_matches("GB"), 1_000_000_000),
        _ => (text, 1),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.ok_or("expected a whole number of bytes, KB, MB or GB")
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut model = arguments.model;
    model.num_layers = arguments.layers.unwrap_or(model.num_layers);
    model.vocab_size = arguments.vocab.unwrap_or(model.vocab_size);
    let options = Options {
        model,
        format: arguments.format,
        dtype: arguments.dtype,
        seed: arguments.seed,
        shard_bytes: arguments.shard_size,
    };
    // It draws on stderr, and only on a terminal.
    let bar = ProgressBar::new(options.bytes());
    if let Ok(style) =
        ProgressStyle::with_template("writing {bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}")
    {
        bar.set_style(style);
    }
    let written = write(&options, &arguments.out, &mut |bytes| bar.inc(bytes));
    bar.finish_and_clear();
    match written {
        Ok(()) => {
            println!("{}: {} bytes of tensors", arguments.out.display(), options.bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
