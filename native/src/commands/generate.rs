//! `incoder generate`: a text continued from left to right.

use super::Given;
use crate::failure::Result;
use crate::terminal::{Interrupt, Output, note};
use crate::{Global, cli, engine, report};
use incoder::{Event, FinishReason, GenerateOptions, Generation, Prompt};

pub fn run(args: &cli::Generate, global: &Global) -> Result<()> {
    let unescape = |text: &String| if args.escape { cli::unescaped(text) } else { text.clone() };
    let given = super::prompt(&args.prompt, args.escape)?;
    let interrupt = Interrupt::install()?;
    let prepared = engine::prepare(&args.model, &args.device, global)?;
    super::check_prompt(&given, args.shown.sentinels(), &prepared)?;
    let mut engine = prepared.load(global)?;
    let mut output = Output::new(&interrupt.cancel);
    let options = GenerateOptions {
        max_new_tokens: args.max_tokens,
        sampling: super::sampling(&args.decoding),
        stop: args.stop.iter().map(unescape).collect(),
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
        Given::Text(text, _) => Prompt::Text(text),
        Given::Ids(ids) => Prompt::Ids(ids),
    };
    // Candidates grow side by side: only a single one can be shown while it grows.
    let streams = !global.json && args.candidates == 1;
    let mut on_event = |event: Event<'_>| {
        if let Event::Window { window, .. } = event {
            super::note_window(global.quiet, &window, window.last_line);
            return;
        }
        // From here on there is something to print; before, Ctrl-C ends the program at once.
        interrupt.generating();
        match event {
            Event::Token { text, .. } | Event::End { text, .. } if streams => output.filled(text),
            _ => {}
        }
    };
    let made = incoder::generate(&mut engine.session, &engine.tokenizer, prompt, &options, &mut on_event);
    let generation = pollster::block_on(made)?;
    if global.json {
        output.exact(&report::generation(&generation)?);
    } else if !streams {
        several(&generation, &mut output);
    }
    output.end_line();
    super::note_overflow(&engine.session, global);
    let full = |candidate: &incoder::Candidate| candidate.finish_reason == FinishReason::Context;
    if !global.json && generation.candidates.iter().any(full) {
        note(global.quiet, "the context is full: see -c");
    }
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
