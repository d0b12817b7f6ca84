//! How much of a model's accuracy quantized weights keep: perplexity, the Kullback-Leibler divergence of the next token's distribution
//! from that of the fp16 weights, and how often the likeliest token is the same.
//!
//! ```text
//! cargo run --release -p incoder --example quantization -- [MODEL_FOLDER] [--weights FILE] [--tokenizer FOLDER] [--count N]
//!     [--outliers] [--variants] [--gpu]
//! ```
//! The texts are the held-out ones of examples/demo-model/eval/ppl.jsonl. `--outliers` first makes one input channel of a hundred
//! thirty times as large in the matrices that a layer norm feeds. `--variants` adds what was tried and not kept: scales without a
//! minimum, and the embedding in 4 bits.

mod variants;

use incoder::{
    Cancel, Device, Gpu, GpuOptions, Kv, LoadOptions, MemoryFolder, MemoryLimits, MemoryPlan, Quantization, Sentinels,
    Session, Tokenizer,
};
use pollster::block_on;
use std::error::Error;
use std::path::{Path, PathBuf};

/// Tokens of a text at most.
const LONGEST: usize = 512;

#[derive(serde::Deserialize)]
struct Text {
    text: String,
}

/// What is said of one way to store the weights.
#[derive(Default)]
struct Figures {
    nats: f64,
    tokens: usize,
    divergences: Vec<f64>,
    agreed: usize,
}

struct Arguments {
    folder: PathBuf,
    weights: String,
    tokenizer: Option<PathBuf>,
    count: usize,
    outliers: bool,
    variants: bool,
    gpu: bool,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let mut read = Arguments {
        folder: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/demo-model/weights"),
        weights: "model.safetensors".to_owned(),
        tokenizer: None,
        count: usize::MAX,
        outliers: false,
        variants: false,
        gpu: false,
    };
    let mut all = std::env::args().skip(1);
    while let Some(argument) = all.next() {
        let mut value = || all.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--weights" => read.weights = value()?,
            "--tokenizer" => read.tokenizer = Some(value()?.into()),
            "--count" => read.count = value()?.parse()?,
            "--outliers" => read.outliers = true,
            "--variants" => read.variants = true,
            "--gpu" => read.gpu = true,
            flag if flag.starts_with("--") => return Err(format!("{flag} is no option").into()),
            folder => read.folder = folder.into(),
        }
    }
    Ok(read)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let file = |name: &str| {
        let path = arguments.folder.join(name);
        std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
    };
    let mut weights = file(&arguments.weights)?;
    if arguments.outliers {
        weights = variants::with_outliers(&weights)?;
    }
    let plain = MemoryFolder::default().with("config.json", file("config.json")?);
    let original = plain.clone().with("model.safetensors", weights.clone());
    let tokenizer = arguments.tokenizer.as_ref().unwrap_or(&arguments.folder).join("tokenizer.json");
    let tokenizer = Tokenizer::from_json(&std::fs::read_to_string(tokenizer)?)?;
    let device = match arguments.gpu {
        true => Device::Gpu(block_on(Gpu::open(&GpuOptions::default()))?),
        false => Device::Cpu,
    };
    let load = |folder: &MemoryFolder, quantize| {
        let options = LoadOptions { context: Some(LONGEST), quantize, ..Default::default() };
        block_on(Session::load(folder, &device, &options, &mut |_| ()))
    };
    let mut sessions = Vec::new();
    for quantize in [None].into_iter().chain(Quantization::ALL.map(Some)) {
        let session = load(&original, quantize)?;
        let plan = MemoryPlan::new(session.config(), LONGEST, Kv::F16, &MemoryLimits::default());
        sessions.push((quantize.map_or("fp16", Quantization::name).to_owned(), plan.weights, session));
    }
    if arguments.variants {
        for variant in variants::ALL {
            let folder = plain.clone().with("model.safetensors", variants::made(&weights, variant)?);
            sessions.push((variant.name.to_owned(), 0, load(&folder, None)?));
        }
    }
    let texts = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/demo-model/eval/ppl.jsonl"),
    )?;
    let mut figures: Vec<Figures> = sessions.iter().map(|_| Figures::default()).collect();
    for (number, line) in texts.lines().take(arguments.count).enumerate() {
        let Text { text } = serde_json::from_str(line)?;
        let mut ids = tokenizer.encode(&text, Sentinels::Literal)?;
        ids.truncate(LONGEST);
        let mut wanted: Vec<Vec<f64>> = Vec::new();
        for ((_, _, session), figures) in sessions.iter_mut().zip(&mut figures) {
            let of_fp16 = wanted.is_empty();
            let mut each = |at: usize, logits: &[f32]| {
                let logprobs = logprobs(logits);
                if let Some(&next) = ids.get(at + 1) {
                    figures.nats -= logprobs[next as usize];
                    figures.tokens += 1;
                }
                if of_fp16 {
                    wanted.push(logprobs);
                } else {
                    figures.divergences.push(divergence(&wanted[at], &logprobs));
                    figures.agreed += usize::from(likeliest(&wanted[at]) == likeliest(&logprobs));
                }
            };
            block_on(session.logits_of_all(&ids, &Cancel::default(), &mut each))?;
        }
        eprint!("\r{} texts", number + 1);
    }
    eprintln!();
    print(&sessions, figures);
    Ok(())
}

fn print(sessions: &[(String, u64, Session)], figures: Vec<Figures>) {
    println!("{} tokens\n", figures[0].tokens);
    println!("| weights | MB | perplexity | of fp16's | KL mean | KL 99.9 % | greedy token equal |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    let perplexity = |figures: &Figures| (figures.nats / figures.tokens.max(1) as f64).exp();
    let of_fp16 = perplexity(&figures[0]);
    for ((name, bytes, _), mut figures) in sessions.iter().zip(figures) {
        let perplexity = perplexity(&figures);
        let size = if *bytes > 0 { format!("{:.2}", *bytes as f64 / 1e6) } else { "–".to_owned() };
        let more = format!("{:+.2} %", 100.0 * (perplexity / of_fp16 - 1.0));
        figures.divergences.sort_by(f64::total_cmp);
        let count = figures.divergences.len();
        let distances = match count {
            0 => "– | – | –".to_owned(),
            _ => {
                let mean = figures.divergences.iter().sum::<f64>() / count as f64;
                let high = figures.divergences[(count * 999 / 1000).min(count - 1)];
                format!("{mean:.5} | {high:.4} | {:.2} %", 100.0 * figures.agreed as f64 / count as f64)
            }
        };
        println!("| {name} | {size} | {perplexity:.4} | {more} | {distances} |");
    }
}

fn logprobs(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit - most) - sum.ln()).collect()
}

/// Of `other` from `wanted`, nats.
fn divergence(wanted: &[f64], other: &[f64]) -> f64 {
    wanted.iter().zip(other).map(|(p, q)| p.exp() * (p - q)).sum::<f64>().max(0.0)
}

fn likeliest(logprobs: &[f64]) -> usize {
    (0..logprobs.len()).max_by(|&a, &b| logprobs[a].total_cmp(&logprobs[b])).unwrap_or(0)
}
