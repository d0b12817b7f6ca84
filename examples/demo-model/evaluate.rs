//! Scores a model on the held-out files of eval/ with the project's own engine, greedily, and prints the tables of the model
//! card.
//!
//! ```text
//! cargo run --release -p incoder --example evaluate -- [MODEL_FOLDER] [--only SETS] [--forms FORMS] [--count N] [--cpu]
//!     [--quantize q8|q4]
//! ```
//! SETS are names with commas between them: `holes` (whole lines), `cursor` (ends of lines), `middle` (texts between two
//! characters of a line), `multiline` (two to six lines) and `ppl` (perplexity). `--count` takes the first N of each.
//! FORMS are rows of the first table: `published`, a number of lines above the cursor, `whole`, `default` and `left`; all, unless
//! named. A hole counts as found when its text equals the hidden one, trailing blanks aside.

use incoder::{
    Cancel, Device, Folder, GenerateOptions, Gpu, GpuOptions, HoleEnd, InfillOptions, LoadOptions, MemoryFolder,
    Prompt, Quantization, Sampling, Sentinels, Session, Tokenizer, generate, infill, score,
};
use std::error::Error;
use std::path::{Path, PathBuf};

/// Most tokens generated for a hole within a line, and for one of several lines.
const LONGEST: usize = 64;
const LONGEST_BLOCK: usize = 160;
/// Lines above the cursor at which a hole begins.
const EARLIER: [usize; 7] = [0, 1, 2, 4, 8, 16, 32];

/// One hole of eval/*.jsonl.
#[derive(Debug, Clone, serde::Deserialize)]
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

/// How a hole is asked for.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// The published prompt: the hole begins at the cursor.
    Published,
    /// The hole begins at the start of the line so many lines above the cursor's.
    Earlier(usize),
    /// Everything before the cursor is in the hole.
    WholePrefix,
    /// As the program does it unless told otherwise.
    Default,
    /// The text before the cursor alone.
    LeftToRight,
}

impl Form {
    fn named(name: &str) -> Result<Self, Box<dyn Error>> {
        Ok(match name {
            "published" => Self::Published,
            "whole" => Self::WholePrefix,
            "default" => Self::Default,
            "left" => Self::LeftToRight,
            lines => Self::Earlier(lines.parse().map_err(|_| format!("--forms: {lines:?} is no form"))?),
        })
    }

    fn name(self) -> String {
        match self {
            Self::Published => "the hole begins at the cursor (as published)".into(),
            Self::Earlier(0) => "at the start of its line".into(),
            Self::Earlier(1) => "1 line earlier".into(),
            Self::Earlier(n) => format!("{n} lines earlier"),
            Self::WholePrefix => "with the whole text before the cursor".into(),
            Self::Default => format!("the program's default, {} to {} lines earlier", LOOK_BACK, 2 * LOOK_BACK - 1),
            Self::LeftToRight => "left to right alone".into(),
        }
    }
}

const LOOK_BACK: usize = incoder::LOOK_BACK_LINES;

struct Model {
    session: Session,
    tokenizer: Tokenizer,
}

impl Model {
    /// What stands in the hole when it is asked for in this form and ends at `end`.
    async fn fill(&mut self, hole: &Hole, form: Form, end: HoleEnd, longest: usize) -> incoder::Result<String> {
        let Hole { left, right, .. } = hole;
        let at = match form {
            Form::LeftToRight => return self.continued(left, end, longest).await,
            Form::Published | Form::Default => left.len(),
            Form::WholePrefix => 0,
            Form::Earlier(lines) => {
                let breaks = left.bytes().enumerate().rev().filter(|&(_, byte)| byte == b'\n');
                breaks.map(|(at, _)| at + 1).nth(lines).unwrap_or(0)
            }
        };
        let options = InfillOptions {
            begun: left[at..].to_owned(),
            look_back: if matches!(form, Form::Default) { None } else { Some(0) },
            max_new_tokens: longest,
            sampling: Sampling::greedy(),
            end,
            ..Default::default()
        };
        let parts = [left[..at].to_owned(), right.clone()];
        let filled = infill(&mut self.session, &self.tokenizer, &parts, &options, &mut |_| ()).await?;
        Ok(filled.infills.into_iter().next().map(|infill| infill.text).unwrap_or_default())
    }

    async fn continued(&mut self, left: &str, end: HoleEnd, longest: usize) -> incoder::Result<String> {
        let options = GenerateOptions {
            max_new_tokens: longest,
            sampling: Sampling::greedy(),
            stop: if end == HoleEnd::Line { vec!["\n".to_owned()] } else { Vec::new() },
            ..Default::default()
        };
        let made = generate(&mut self.session, &self.tokenizer, Prompt::Text(left), &options, &mut |_| ()).await?;
        Ok(made.candidates.into_iter().next().map(|candidate| candidate.text).unwrap_or_default())
    }

    /// (perplexity a token, bits a character) over `texts`.
    async fn perplexity(&mut self, texts: &[Text]) -> incoder::Result<(f64, f64)> {
        let (mut nats, mut tokens, mut characters) = (0.0, 0, 0);
        for Text { text } in texts {
            let ids = self.tokenizer.encode(text, Sentinels::Literal)?;
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

/// Holes between two characters of a line: the first half of each hidden end of a line.
fn middles(count: usize) -> Result<Vec<Hole>, Box<dyn Error>> {
    let half = |hole: Hole| {
        let characters = hole.answer.chars().count();
        let at = hole.answer.char_indices().nth(characters.div_ceil(2)).map_or(hole.answer.len(), |(at, _)| at);
        let (answer, rest) = hole.answer.split_at(at);
        Hole { left: hole.left, right: format!("{rest}{}", hole.right), answer: answer.to_owned() }
    };
    let cut: Vec<Hole> = entries::<Hole>("cursor.jsonl", count)?.into_iter().map(half).collect();
    Ok(cut.into_iter().filter(|hole| !hole.right.starts_with('\n') && !hole.answer.trim().is_empty()).collect())
}

fn percent(n: usize, of: usize) -> String {
    format!("{n} = {:.1} %", 100.0 * n as f64 / of.max(1) as f64)
}

/// The rest of the line behind the hole, which a model may write again, is no mistake: editors take it off.
fn is_found(text: &str, hole: &Hole) -> bool {
    let rest = hole.right.split('\n').next().unwrap_or_default();
    let text = text.strip_suffix(rest).filter(|_| !rest.is_empty()).unwrap_or(text);
    text.trim_end() == hole.answer.trim_end()
}

/// One table: every form a row, every set a column.
async fn lines(model: &mut Model, sets: &[(&str, Vec<Hole>)], forms: &[Form]) -> Result<(), Box<dyn Error>> {
    println!(
        "\n| | {} |",
        sets.iter().map(|(name, holes)| format!("{name}, {}", holes.len())).collect::<Vec<_>>().join(" | ")
    );
    println!("|---|{}", "--:|".repeat(sets.len()));
    for &form in forms {
        let mut row = Vec::new();
        for (name, holes) in sets {
            let mut found = 0;
            for hole in holes {
                found += usize::from(is_found(&model.fill(hole, form, HoleEnd::Line, LONGEST).await?, hole));
            }
            eprintln!("{}, {name}: {found} of {}", form.name(), holes.len());
            row.push(percent(found, holes.len()));
        }
        println!("| {} | {} |", form.name(), row.join(" | "));
    }
    Ok(())
}

/// What ends a hole of several lines, in the program's default form and in the published one.
async fn multiline(model: &mut Model, holes: &[Hole]) -> Result<(), Box<dyn Error>> {
    println!(
        "\n| {} holes of two to six lines | exact | first line right | as many lines | mean lines (hidden) |",
        holes.len()
    );
    println!("|---|--:|--:|--:|--:|");
    let hidden: usize = holes.iter().map(|hole| hole.answer.lines().count()).sum();
    for (form, end, name) in [
        (Form::Published, HoleEnd::Mask, "as published, ended by the model"),
        (Form::Published, HoleEnd::Block, "as published, also ended by lines"),
        (Form::Default, HoleEnd::Mask, "with look-back, ended by the model"),
        (Form::Default, HoleEnd::Block, "with look-back, also ended by lines"),
        (Form::LeftToRight, HoleEnd::Mask, "left to right"),
    ] {
        let (mut exact, mut first, mut as_many, mut written) = (0, 0, 0, 0);
        for hole in holes {
            let text = model.fill(hole, form, end, LONGEST_BLOCK).await?;
            let (text, answer) = (text.trim_end(), hole.answer.trim_end());
            exact += usize::from(text == answer);
            first += usize::from(text.lines().next() == answer.lines().next());
            as_many += usize::from(text.lines().count() == answer.lines().count());
            written += text.lines().count();
        }
        let mean = |lines: usize| lines as f64 / holes.len().max(1) as f64;
        let [exact, first, as_many] = [exact, first, as_many].map(|n| percent(n, holes.len()));
        println!("| {name} | {exact} | {first} | {as_many} | {:.1} ({:.1}) |", mean(written), mean(hidden));
    }
    Ok(())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let mut folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/demo-model/weights");
    let (mut count, mut cpu, mut only, mut quantize) = (usize::MAX, false, None, None);
    let earlier = EARLIER.map(Form::Earlier);
    let mut forms = [&[Form::Published][..], &earlier, &[Form::WholePrefix, Form::Default, Form::LeftToRight]].concat();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--cpu" => cpu = true,
            "--only" => only = Some(arguments.next().ok_or("--only needs names of sets")?),
            "--forms" => {
                let names = arguments.next().ok_or("--forms needs names of forms")?;
                forms = names.split(',').map(Form::named).collect::<Result<_, _>>()?;
            }
            "--quantize" => {
                let name = arguments.next().ok_or("--quantize needs q8 or q4")?;
                quantize = Some(Quantization::named(&name).ok_or("--quantize takes q8 or q4")?);
            }
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
    let options = LoadOptions { context: Some(1536), quantize, ..Default::default() };
    let session = Session::load(&files, &device, &options, &mut |_| ()).await?;
    let files: &dyn Folder = &files;
    let tokenizer = Tokenizer::from_json(&files.text("tokenizer.json", 1 << 24).await?)?;
    let mut model = Model { session, tokenizer };

    let wanted = |name: &str| only.as_deref().is_none_or(|only| only.split(',').any(|only| only == name));
    let mut sets = Vec::new();
    for (name, what) in [("holes", "whole lines"), ("cursor", "ends of lines"), ("middle", "within a line")] {
        if wanted(name) {
            let holes = if name == "middle" { middles(count)? } else { entries(&format!("{name}.jsonl"), count)? };
            sets.push((what, holes));
        }
    }
    if !sets.is_empty() {
        lines(&mut model, &sets, &forms).await?;
    }
    if wanted("multiline") {
        multiline(&mut model, &entries("multiline.jsonl", count)?).await?;
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
