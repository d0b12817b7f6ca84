//! `incoder generate`: a text continued from left to right.

use super::Given;
use crate::failure::Result;
use crate::terminal::{Interrupt, Output, note};
use crate::{Global, cli, engine, report};
use incoder::{Event, GenerateOptions, Generation, Prompt};

pub fn run(args: &cli::Generate, global: &Global) -> Result<()> {
    let given = super::prompt(&args.prompt)?;
    let interrupt = Interrupt::install()?;
    let mut engine = engine::open(&args.model, &args.device, global)?;
    let mut output = Output::new(&interrupt.cancel);
    let options = GenerateOptions {
        max_new_tokens: args.max_tokens,
        sampling: super::sampling(&args.decoding),
        stop: args.stop.clone(),
        ignore_eos: args.ignore_eos,
        sentinels: args.shown.sentinels(),
        overflow: args.shown.overflow.into(),
        heal: !args.decoding.no_heal,
        lookup: super::lookup(&args.decoding),
        candidates: args.candidates,
        cancel: interrupt.cancel.clone(),
        ..GenerateOptions::default()
    };
    let prompt = match &given {
        Given::Text(text) => Prompt::Text(text),
        Given::Ids(ids) => Prompt::Ids(ids),
    };
    // Candidates grow side by side: only a single one can be shown while it grows.
    let streams = !global.json && args.candidates == 1;
    let mut on_event = |event: Event<'_>| match event {
        Event::Window { window, .. } => super::note_window(global.quiet, &window, window.last_line),
        Event::Token { text, .. } | Event::End { text, .. } if streams => output.filled(text),
        _ => {}
    };
    interrupt.generating();
    let made = incoder::generate(&mut engine.session, &engine.tokenizer, prompt, &options, &mut on_event);
    let generation = pollster::block_on(made)?;
    if global.json {
        output.exact(&report::generation(&generation)?);
    } else if !streams {
        several(&generation, &mut output);
    }
    output.end_line();
    if global.talks() {
        let tokens = generation.candidates.iter().map(|c| c.ids.len()).sum();
        note(global.quiet, &report::speed(&generation.timings, tokens));
    }
    output.finish()?;
    interrupt.result()
}

fn several(generation: &Generation, output: &mut Output) {
    for (i, candidate) in generation.candidates.iter().enumerate() {
        output.given(&format!("--- {} of {}\n", i + 1, generation.candidates.len()));
        output.filled(&candidate.text);
        if !candidate.text.ends_with('\n') {
            output.given("\n");
        }
    }
}
