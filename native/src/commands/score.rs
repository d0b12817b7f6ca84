//! `incoder score`: how probable the model finds a text, token by token.

use super::Given;
use crate::failure::Result;
use crate::terminal::{Interrupt, Output, note};
use crate::{Global, cli, engine, report};
use std::fmt::Write;

pub fn run(args: &cli::Score, global: &Global) -> Result<()> {
    let given = super::prompt(&args.prompt, false)?;
    let interrupt = Interrupt::install()?;
    let prepared = engine::prepare(&args.model, &args.device, global)?;
    super::check_prompt(&given, args.shown.sentinels(), &prepared)?;
    let mut engine = prepared.load(global)?;
    let ids = match given {
        Given::Text(text, _) => engine.tokenizer.encode_long(&text, args.shown.sentinels(), &interrupt.cancel)?,
        Given::Ids(ids) => ids.to_vec(),
    };
    let (tokens, have) = (ids.len(), engine.session.capacity());
    if tokens > have && args.shown.overflow == cli::Overflow::Error {
        let trained = engine.session.config().max_position_embeddings;
        return Err(incoder::Error::Context { need: tokens, have, trained }.into());
    }
    interrupt.generating();
    let score = incoder::score(&mut engine.session, &ids, args.top_logprobs, &interrupt.cancel);
    let score = pollster::block_on(score)?;
    super::note_overflow(&engine.session, global);
    if score.windows > 1 {
        let windows = format!("{} windows of {have} tokens that overlap by half", score.windows);
        note(global.quiet, &format!("{tokens} tokens are longer than the context window: scored in {windows}"));
    }
    let mut output = Output::new(&interrupt.cancel);
    if global.json {
        output.exact(&report::line(&score)?);
    } else {
        let mut table = String::new();
        for (id, logprob) in score.ids.iter().zip(&score.logprobs) {
            let logprob = logprob.map_or("-".into(), |l| format!("{l:.4}"));
            let piece = engine.tokenizer.piece(*id).unwrap_or_default();
            let _ = writeln!(table, "{logprob:>10}  {id:>6}  {piece}");
        }
        if let (Some(sum), Some(mean)) = (score.sum, score.mean) {
            let _ = writeln!(table, "sum {sum:.4}  mean {mean:.4}  perplexity {:.3}", (-mean).exp());
        }
        output.given(&table);
    }
    output.finish()?;
    interrupt.result()
}
