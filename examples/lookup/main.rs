//! What lookup decoding gives on holes of held-out files, with the bundled demo model:
//!
//! ```text
//! cargo run --release -p incoder --example lookup -- [HOLES]
//! ```
//! Each hole is filled greedily four times, without and with drafts in turn. What the model puts into it repeats the context
//! when at least half of its tokens follow the same two tokens there, or in the new text itself, as well.

use incoder::{
    Device, Folder, Gpu, GpuOptions, InfillOptions, Infilling, LoadOptions, Lookup, MemoryFolder, Sampling, Sentinels,
    Session, Tokenizer, infill,
};
use std::error::Error;
use std::path::Path;

/// Tokens generated for one hole at most.
const LONGEST: usize = 64;
const ROUNDS: usize = 2;

/// One hole of examples/demo-model/eval/holes.jsonl.
#[derive(serde::Deserialize)]
struct Hole {
    left: String,
    right: String,
}

/// What the holes of one kind took, all together; without drafts and with them.
#[derive(Default)]
struct Sum {
    holes: usize,
    tokens: usize,
    ms: [f64; 2],
    drafted: usize,
    accepted: usize,
}

async fn fill(session: &mut Session, tokenizer: &Tokenizer, hole: &Hole, lookup: Lookup) -> incoder::Result<Infilling> {
    let options = InfillOptions {
        max_new_tokens: LONGEST,
        look_back: Some(0),
        sampling: Sampling::greedy(),
        lookup,
        ..Default::default()
    };
    infill(session, tokenizer, &[hole.left.clone(), hole.right.clone()], &options, &mut |_| ()).await
}

/// Whether at least half of the new tokens stand behind the same two tokens earlier, too.
fn repeats(tokenizer: &Tokenizer, hole: &Hole, new: &[u32]) -> incoder::Result<bool> {
    let encoded = |text: &str| tokenizer.encode_with(text, Sentinels::Parse, false);
    let context = [encoded(&hole.right)?, encoded(&hole.left)?, new.to_vec()].concat();
    let earlier = context.len() - new.len();
    let again = (earlier..context.len()).filter(|&at| {
        let three = &context[at.saturating_sub(2)..=at];
        context[..at].windows(3).any(|window| window == three)
    });
    Ok(2 * again.count() >= new.len())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let count = std::env::args().nth(1).map_or(Ok(100), |count| count.parse())?;
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/demo-model");
    let mut files = MemoryFolder::default();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        files = files.with(name, std::fs::read(demo.join("weights").join(name))?);
    }
    let gpu = Device::Gpu(Gpu::open(&GpuOptions::default()).await?);
    let options = LoadOptions { context: Some(1536), ..Default::default() };
    let mut session = Session::load(&files, &gpu, &options, &mut |_| ()).await?;
    let folder: &dyn Folder = &files;
    let tokenizer = Tokenizer::from_json(&folder.text("tokenizer.json", 1 << 24).await?)?;

    let mut sums = [Sum::default(), Sum::default()];
    for line in std::fs::read_to_string(demo.join("eval/holes.jsonl"))?.lines().take(count) {
        let hole: Hole = serde_json::from_str(line)?;
        for round in 0..ROUNDS {
            let off = fill(&mut session, &tokenizer, &hole, Lookup::Off).await?;
            let on = fill(&mut session, &tokenizer, &hole, Lookup::Auto).await?;
            let tokens = off.infills[0].ids.len();
            if on.infills != off.infills {
                eprintln!("not the same: {:?} and {:?}", off.infills[0].text, on.infills[0].text);
            }
            let sum = &mut sums[usize::from(!repeats(&tokenizer, &hole, &off.infills[0].ids)?)];
            sum.holes += usize::from(round == 0);
            // The first token comes out of the prefill.
            sum.tokens += tokens - 1;
            sum.drafted += on.timings.drafted_tokens;
            sum.accepted += on.timings.accepted_tokens;
            for (ms, made) in sum.ms.iter_mut().zip([&off, &on]) {
                *ms += made.timings.decode_ms;
            }
        }
    }
    println!("| holes | | tokens | one by one, tokens/s | with lookup | ratio | drafts right |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for (name, Sum { holes, tokens, ms, drafted, accepted }) in ["repeat their context", "others"].iter().zip(sums) {
        let [off, on] = ms.map(|ms| tokens as f64 * 1e3 / ms);
        let (ratio, right) = (on / off, 100.0 * accepted as f64 / drafted as f64);
        println!("| {name} | {holes} | {tokens} | {off:.0} | {on:.0} | {ratio:.2} | {right:.0} % |");
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    pollster::block_on(run())
}
