//! Scores a model on the held-out files of eval/ with the project's own engine, greedily, and prints the model card's table.
//!
//! ```text
//! cargo run --release -p incoder --example evaluate -- [MODEL_FOLDER] [--only holes|cursor|ppl] [--count N] [--cpu]
//! ```
//! A line counts as found when it equals the hidden one, trailing blanks aside.

use incoder::{
    Cancel, Device, Folder, GenerateOptions, Gpu, GpuOptions, InfillOptions, LoadOptions, MemoryFolder, Prompt,
    Sampling, Sentinels, Session, Tokenizer, generate, infill, score,
};
use std::error::Error;
use std::path::{Path, PathBuf};

/// Tokens generated for one hole at most.
const LONGEST: usize = 64;

/// One hole of eval/*.jsonl: a line, or its end, hidden from a held-out file.
#[derive(serde::Deserialize)]
struct Hole {
    left: String,
    right: String,
    answer: String,
}

/// One text of eval/ppl.jsonl.
#[derive(serde::Deserialize)]
struct Text {
    text: String,
}

struct Model {
    session: Session,
    tokenizer: Tokenizer,
}

impl Model {
    /// The causal-masked prompt: what comes before `<|endofmask|>`. `typed`: the hole is the whole line, and has begun.
    async fn infilled(&mut self, hole: &Hole, typed: bool, heal: bool) -> incoder::Result<String> {
        let line = hole.left.rfind('\n').map_or(0, |at| at + 1);
        let indentation = hole.left[line..].len() - hole.left[line..].trim_start().len();
        let (left, begun) = hole.left.split_at(if typed { line + indentation } else { hole.left.len() });
        let options = InfillOptions {
            begun: begun.to_owned(),
            max_new_tokens: LONGEST,
            sampling: Sampling::greedy(),
            heal,
            sentinels: Sentinels::Refuse,
            ..Default::default()
        };
        let parts = [left.to_owned(), hole.right.clone()];
        let filled = infill(&mut self.session, &self.tokenizer, &parts, &options, &mut |_| ()).await?;
        Ok(filled.infills.into_iter().next().map(|infill| infill.text).unwrap_or_default())
    }

    /// The left context alone: what comes before the line break.
    async fn continued(&mut self, hole: &Hole, heal: bool) -> incoder::Result<String> {
        let options = GenerateOptions {
            max_new_tokens: LONGEST,
            sampling: Sampling::greedy(),
            stop: vec!["\n".to_owned()],
            heal,
            ..Default::default()
        };
        let made =
            generate(&mut self.session, &self.tokenizer, Prompt::Text(&hole.left), &options, &mut |_| ()).await?;
        Ok(made.candidates.into_iter().next().map(|candidate| candidate.text).unwrap_or_default())
    }

    /// (perplexity a token, bits a character) over `texts`.
    async fn perplexity(&mut self, texts: &[Text]) -> incoder::Result<(f64, f64)> {
        let (mut nats, mut tokens, mut characters) = (0.0, 0, 0);
        for Text { text } in texts {
            let ids = self.tokenizer.encode(text, Sentinels::Refuse)?;
            let scored = score(&mut self.session, &ids, 1, &Cancel::default()).await?;
            nats -= scored.logprobs.iter().flatten().sum::<f64>();
            tokens += ids.len() - 1;
            characters += text.chars().count();
        }
        Ok(((nats / tokens as f64).exp(), nats / std::f64::consts::LN_2 / characters as f64))
    }
}

fn entries<T: serde::de::DeserializeOwned>(name: &str, count: usize) -> Result<Vec<T>, Box<dyn Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/demo-model/eval").join(name);
    let lines = std::fs::read_to_string(path)?;
    lines.lines().take(count).map(|line| Ok(serde_json::from_str(line)?)).collect()
}

async fn exact(model: &mut Model, name: &str, count: usize) -> Result<(), Box<dyn Error>> {
    let holes: Vec<Hole> = entries(name, count)?;
    // Infill, infill of a line that has begun, and left to right, each without and with healing.
    let mut found = [[0; 2]; 3];
    for (i, hole) in holes.iter().enumerate() {
        for (healed, heal) in [false, true].into_iter().enumerate() {
            let texts = [
                model.infilled(hole, false, heal).await?,
                model.infilled(hole, true, heal).await?,
                model.continued(hole, heal).await?,
            ];
            for (method, text) in texts.iter().enumerate() {
                found[method][healed] += usize::from(text.trim_end() == hole.answer.trim_end());
            }
        }
        if (i + 1) % 50 == 0 {
            eprintln!("{name}: {} of {}: {found:?}", i + 1, holes.len());
        }
    }
    let percent = |n: usize| format!("{n} = {:.1} %", 100.0 * n as f64 / holes.len() as f64);
    let methods = ["causal-masked infilling", "the same, the line so far in the hole", "left to right alone"];
    for (method, row) in methods.iter().zip(found) {
        println!("| {name}, {} holes | {method} | {} | {} |", holes.len(), percent(row[0]), percent(row[1]));
    }
    Ok(())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let mut folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/demo-model/weights");
    let (mut count, mut cpu, mut only) = (usize::MAX, false, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--cpu" => cpu = true,
            "--only" => only = Some(arguments.next().ok_or("--only needs holes, cursor or ppl")?),
            "--count" => count = arguments.next().ok_or("--count needs a number")?.parse()?,
            path => folder = PathBuf::from(path),
        }
    }
    let file =
        |name: &str| std::fs::read(folder.join(name)).map_err(|e| format!("{}: {e}", folder.join(name).display()));
    let files = MemoryFolder::default()
        .with("config.json", file("config.json")?)
        .with("tokenizer.json", file("tokenizer.json")?)
        .with("model.safetensors", file("model.safetensors")?);
    let device = if cpu { Device::Cpu } else { Device::Gpu(Gpu::open(&GpuOptions::default()).await?) };
    let options = LoadOptions { context: Some(1536), ..Default::default() };
    let session = Session::load(&files, &device, &options, &mut |_| ()).await?;
    let files: &dyn Folder = &files;
    let tokenizer = Tokenizer::from_json(&files.text("tokenizer.json", 1 << 24).await?)?;
    let mut model = Model { session, tokenizer };

    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    println!("| held-out set | prompt | exact | exact, healed |\n|---|---|---|---|");
    for name in ["holes", "cursor"].into_iter().filter(|name| wanted(name)) {
        exact(&mut model, &format!("{name}.jsonl"), count).await?;
    }
    if wanted("ppl") {
        let (token, bits) = model.perplexity(&entries("ppl.jsonl", count)?).await?;
        println!("\nPerplexity {token:.2} a token, {bits:.3} bits a character.");
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    pollster::block_on(run())
}
