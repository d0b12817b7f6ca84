//! `incoder infill`: the holes of a file filled.

use crate::document::{self, Document, whole_characters};
use crate::failure::{Failure, Result};
use crate::terminal::{Interrupt, Output, note};
use crate::{Global, cli, engine, report};
use incoder::{Event, FinishReason, HoleEnd, InfillOptions, Infilling, LineEnds};

pub fn run(args: &cli::Infill, global: &Global) -> Result<()> {
    let mut documents = document::read_all(args)?;
    if documents.len() > 1 && !(args.in_place || args.diff || global.json) {
        return Err(Failure::usage("several files are filled with --in-place, --diff or --json"));
    }
    let interrupt = Interrupt::install()?;
    let prepared = engine::prepare(&args.model, &args.device, global)?;
    for document in &documents {
        check(document, args, &prepared)?;
    }
    if args.in_place || global.talks() {
        documents.iter().filter_map(Document::holes).for_each(|holes| note(global.quiet, &holes));
    }
    let mut engine = prepared.load(global)?;
    let mut output = Output::new(&interrupt.cancel);
    let mut open = 0;
    for document in &mut documents {
        interrupt.preparing();
        open += fill(document, args, &mut engine, &interrupt, &mut output, global)?;
        if interrupt.was_pressed() || output.is_cancelled() {
            break;
        }
    }
    super::note_overflow(&engine.session, global);
    output.finish()?;
    interrupt.result()?;
    // The notes have said it.
    if open == 0 { Ok(()) } else { Err(Failure::incomplete()) }
}

/// What can be said of a document before the model is loaded.
fn check(document: &Document, args: &cli::Infill, prepared: &engine::Prepared<'_>) -> Result<()> {
    if args.shown.sentinels() == incoder::Sentinels::Refuse {
        document.refuse_sentinels(&prepared.tokenizer)?;
    }
    let (holes, extra) = (document.parts.len() - 1, usize::from(!args.no_extra_sentinel));
    let most = prepared.tokenizer.mask_count().saturating_sub(extra);
    if holes > most {
        let name = &document.name;
        return Err(Failure::usage(format!("{name} has {holes} holes, the model fills at most {most} of one text")));
    }
    if args.candidates > 1 && holes != 1 {
        let candidates = args.candidates;
        return Err(Failure::usage(format!(
            "--n {candidates} needs a text with one hole, {} has {holes}",
            document.name
        )));
    }
    Ok(())
}

/// Fills one document and shows or writes it; how many of its holes the model did not end.
fn fill(
    document: &mut Document,
    args: &cli::Infill,
    engine: &mut engine::Engine,
    interrupt: &Interrupt,
    output: &mut Output,
    global: &Global,
) -> Result<usize> {
    let unescape = |text: &String| if args.escape { cli::unescaped(text) } else { text.clone() };
    let mut options = InfillOptions {
        max_new_tokens: args.max_tokens,
        sampling: super::sampling(&args.decoding),
        retries: args.retries,
        stop: args.stop.iter().map(unescape).collect(),
        extra_sentinel: !args.no_extra_sentinel,
        sentinels: args.shown.sentinels(),
        overflow: args.shown.overflow.into(),
        // Parts are the published form's input, and get its prompt.
        look_back: args.lookback.or(args.parts.is_some().then_some(0)),
        end: match (args.single_line, args.whole_region) {
            (true, _) => HoleEnd::Line,
            (_, true) => HoleEnd::Mask,
            _ => HoleEnd::Auto,
        },
        heal: !args.decoding.no_heal,
        lookup: super::lookup(&args.decoding),
        cancel: interrupt.cancel.clone(),
        ..InfillOptions::default()
    };
    // A person watches it grow. So does a pipe where what was written stays: no second attempt, no other line ends.
    let plain = !(global.json || args.diff || args.in_place || args.candidates > 1);
    let stays = args.retries == 1 && document.ends == LineEnds::AsTheyAre;
    let streams = plain && (output.is_terminal() || stays);
    let published = args.shown.sentinels() == incoder::Sentinels::Parse;
    let mut growing = Growing { next: 0, quiet: global.quiet, published };
    let lines = document.lines();
    if streams {
        output.exact(document.mark());
    }
    let mut made = Vec::new();
    for candidate in 0..args.candidates {
        let mut on_event = |event: Event<'_>| {
            if let Event::Window { window, .. } = event {
                if candidate == 0 {
                    super::note_window(global.quiet, &window, lines);
                }
                return;
            }
            // From here on there is something to print; before, Ctrl-C ends the program at once.
            interrupt.generating();
            if streams {
                growing.show(&document.parts, event, output);
            }
        };
        let filled = incoder::infill(&mut engine.session, &engine.tokenizer, &document.parts, &options, &mut on_event);
        made.push(pollster::block_on(filled)?);
        // The next candidate draws other tokens from the same prompt, which stays in the cache.
        options.sampling.seed = options.sampling.seed.wrapping_add(1);
        if interrupt.was_pressed() {
            break;
        }
    }
    document.put_in_file_form(&mut made, published);
    let filled = &made[0];
    if global.json {
        let file = document.file.as_ref().map(|(path, _)| path.as_path());
        output.exact(&report::infilling(&document.parts, &made, file.filter(|_| args.files().count() > 1))?);
    } else if args.candidates > 1 {
        several(&made, output);
    } else if args.diff {
        diff(document, filled, output);
    } else if streams {
        growing.reach(&document.parts, document.parts.len(), output);
    } else if plain {
        whole(&document.parts, filled, output);
    }
    output.end_line();
    let open = made.iter().flat_map(|filled| &filled.infills).filter(|infill| !ended(infill.finish_reason)).count();
    if args.in_place {
        if interrupt.was_pressed() {
            return Err(Failure::interrupted(format!("stopped: {} is as it was", document.name)));
        }
        if open == 0 || !args.only_complete {
            document.write(filled)?;
        }
    }
    notes(document, filled, args, interrupt, global);
    Ok(open)
}

/// Whether the model, or a stop text, ended a hole.
fn ended(reason: FinishReason) -> bool {
    matches!(reason, FinishReason::EndOfMask | FinishReason::Stop)
}

/// What the candidates have for the hole.
fn several(made: &[Infilling], output: &mut Output) {
    for (i, filled) in made.iter().enumerate() {
        output.given(&format!("--- {} of {}\n", i + 1, made.len()));
        filled.infills.iter().for_each(|infill| output.filled(&infill.text));
        output.given("\n");
    }
}

/// The document as it grows: each part when its hole is reached, the new text in colour.
struct Growing {
    /// The first part that was not shown yet.
    next: usize,
    quiet: bool,
    /// Whether what is no character is shown, as in the published code.
    published: bool,
}

impl Growing {
    fn show(&mut self, parts: &[String], event: Event<'_>, output: &mut Output) {
        match event {
            Event::Retry { attempt } => {
                self.next = 0;
                output.end_line();
                note(self.quiet, &format!("a hole was not ended by the model: attempt {attempt} begins"));
            }
            Event::Prefilled { index, .. } => self.reach(parts, index + 1, output),
            Event::Token { index, text, .. } | Event::End { index, text, .. } => {
                self.reach(parts, index + 1, output);
                if self.published { output.filled(text) } else { output.filled(&whole_characters(text)) }
            }
            _ => {}
        }
    }

    /// Shows the parts before part `end` that were not shown yet.
    fn reach(&mut self, parts: &[String], end: usize, output: &mut Output) {
        parts[self.next..end.max(self.next)].iter().for_each(|part| output.given(part));
        self.next = end.max(self.next);
    }
}

/// The whole result at once.
fn whole(parts: &[String], filled: &Infilling, output: &mut Output) {
    for (i, part) in parts.iter().enumerate() {
        output.given(part);
        if let Some(infill) = filled.infills.get(i) {
            output.filled(&infill.text);
        }
    }
}

fn diff(document: &Document, filled: &Infilling, output: &mut Output) {
    for line in document.diff(filled).split_inclusive('\n') {
        if line.starts_with('+') { output.filled(line) } else { output.given(line) }
    }
}

fn notes(document: &Document, filled: &Infilling, args: &cli::Infill, interrupt: &Interrupt, global: &Global) {
    if global.talks() {
        let tokens = filled.infills.iter().map(|i| i.ids.len()).sum();
        note(global.quiet, &report::speed(&filled.timings, tokens));
    }
    let open: Vec<_> = filled.infills.iter().filter(|infill| !ended(infill.finish_reason)).collect();
    if open.is_empty() || interrupt.was_pressed() || global.json {
        return;
    }
    let which = match (open.len(), filled.infills.len()) {
        (_, 1) => "the hole was not ended by the model".to_owned(),
        (1, holes) => format!("1 of {holes} holes was not ended by the model"),
        (open, holes) => format!("{open} of {holes} holes were not ended by the model"),
    };
    let full = open.iter().any(|infill| infill.finish_reason == FinishReason::Context);
    let advice = if full { "the context is full: see -c, or give it less text" } else { "see -n and --retries" };
    let kept = if args.in_place && args.only_complete { "; the file is as it was" } else { "" };
    note(global.quiet, &format!("{}: {which}: {advice}{kept}", document.name));
}
