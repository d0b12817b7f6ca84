//! `incoder infill`: the holes of a file filled.

use crate::failure::{Failure, Result};
use crate::split::{self, LineEnds};
use crate::terminal::{Interrupt, Output, note};
use crate::{Global, cli, engine, input, report, write_back};
use incoder::{Event, FinishReason, InfillOptions, Infilling};

/// The texts around the holes, and what to do with the line ends of the result.
struct Document {
    parts: Vec<String>,
    ends: LineEnds,
    /// The file's text as it was read, for --diff and --in-place.
    original: String,
}

pub fn run(args: &cli::Infill, global: &Global) -> Result<()> {
    let document = read(args)?;
    let interrupt = Interrupt::install()?;
    let mut engine = engine::open(&args.model, &args.device, global)?;
    let mut output = Output::new(&interrupt.cancel);
    let options = InfillOptions {
        max_new_tokens: args.max_tokens,
        sampling: super::sampling(&args.decoding),
        retries: args.retries,
        extra_sentinel: !args.no_extra_sentinel,
        sentinels: super::sentinels(args.decoding.allow_sentinels),
        heal: !args.decoding.no_heal,
        lookup: super::lookup(&args.decoding),
        cancel: interrupt.cancel.clone(),
        ..InfillOptions::default()
    };
    // A person watches it grow. So does a pipe where what was written stays: no second attempt, no other line ends.
    let plain = !(global.json || args.diff || args.in_place);
    let stays = args.retries == 1 && document.ends == LineEnds::AsTheyAre;
    let streams = plain && (output.is_terminal() || stays);
    let mut growing = Growing { parts: &document.parts, next: 0, quiet: global.quiet };
    let mut on_event = |event: Event<'_>| {
        if streams {
            growing.show(event, &mut output);
        }
    };
    interrupt.generating();
    let made = incoder::infill(&mut engine.session, &engine.tokenizer, &document.parts, &options, &mut on_event);
    let filled = in_file_form(pollster::block_on(made)?, document.ends);
    if global.json {
        output.exact(&report::infilling(&filled)?);
    } else if args.diff {
        diff(args, &document, &filled, &mut output);
    } else if streams {
        growing.reach(document.parts.len(), &mut output);
    } else if plain {
        whole(&filled, &mut output);
    }
    output.end_line();
    if args.in_place {
        write(args, &document, &filled, &interrupt)?;
    }
    notes(&filled, &interrupt, global);
    output.finish()?;
    interrupt.result()
}

fn read(args: &cli::Infill) -> Result<Document> {
    if let Some(path) = &args.parts {
        return Ok(Document { parts: input::read_parts(path)?, ends: LineEnds::AsTheyAre, original: String::new() });
    }
    if let (Some(prefix), Some(suffix)) = (&args.prefix_file, &args.suffix_file) {
        if input::is_stdin(prefix) && input::is_stdin(suffix) {
            return Err(Failure::usage("--prefix-file and --suffix-file cannot both be stdin"));
        }
        let (left, right) = (input::read_text(prefix)?, input::read_text(suffix)?);
        let original = format!("{left}{right}");
        let ends = LineEnds::of(&original);
        return Ok(Document { parts: vec![ends.to_model(&left), ends.to_model(&right)], ends, original });
    }
    let Some(path) = args.file() else {
        return Err(Failure::usage("nothing to fill: name a FILE (- for stdin), or give --parts"));
    };
    if args.in_place && input::is_stdin(path) {
        return Err(Failure::usage("--in-place needs a file, not stdin"));
    }
    let (original, name) = (input::read_text(path)?, input::name_of(path));
    let ends = LineEnds::of(&original);
    let text = ends.to_model(&original);
    let parts = match &args.at[..] {
        [] => split::at_markers(&text, &ends.to_model(&args.marker), &name)?,
        positions => split::at_positions(&text, positions, &name)?,
    };
    Ok(Document { parts, ends, original })
}

/// The result with the file's own line ends.
fn in_file_form(mut filled: Infilling, ends: LineEnds) -> Infilling {
    filled.text = ends.to_file(&filled.text);
    for part in &mut filled.parts {
        *part = ends.to_file(part);
    }
    for infill in &mut filled.infills {
        infill.text = ends.to_file(&infill.text);
    }
    filled
}

/// The document as it grows: each part when its hole is reached, the new text in colour.
struct Growing<'a> {
    parts: &'a [String],
    /// The first part that was not shown yet.
    next: usize,
    quiet: bool,
}

impl Growing<'_> {
    fn show(&mut self, event: Event<'_>, output: &mut Output) {
        match event {
            Event::Retry { attempt } => {
                self.next = 0;
                output.end_line();
                note(self.quiet, &format!("a hole was not ended by the model: attempt {attempt} begins"));
            }
            Event::Prefilled { index, .. } => self.reach(index + 1, output),
            Event::Token { index, text, .. } | Event::End { index, text, .. } => {
                self.reach(index + 1, output);
                output.filled(text);
            }
            _ => {}
        }
    }

    /// Shows the parts before part `end` that were not shown yet.
    fn reach(&mut self, end: usize, output: &mut Output) {
        self.parts[self.next..end.max(self.next)].iter().for_each(|part| output.given(part));
        self.next = end.max(self.next);
    }
}

/// The whole result at once.
fn whole(filled: &Infilling, output: &mut Output) {
    for (i, part) in filled.parts.iter().enumerate() {
        output.given(part);
        if let Some(infill) = filled.infills.get(i) {
            output.filled(&infill.text);
        }
    }
}

fn diff(args: &cli::Infill, document: &Document, filled: &Infilling, output: &mut Output) {
    let name = args.file().map(input::name_of).unwrap_or_default();
    for line in write_back::diff(&name, &document.original, &filled.text).split_inclusive('\n') {
        if line.starts_with('+') { output.filled(line) } else { output.given(line) }
    }
}

fn write(args: &cli::Infill, document: &Document, filled: &Infilling, interrupt: &Interrupt) -> Result<()> {
    let Some(path) = args.file() else { return Ok(()) };
    if interrupt.was_pressed() {
        return Err(Failure::interrupted(format!("stopped: {} is as it was", path.display())));
    }
    write_back::replace(path, &document.original, &filled.text)
}

fn notes(filled: &Infilling, interrupt: &Interrupt, global: &Global) {
    if global.talks() {
        let tokens = filled.infills.iter().map(|i| i.ids.len()).sum();
        note(global.quiet, &report::speed(&filled.timings, tokens));
    }
    let open = filled.infills.iter().filter(|i| i.finish_reason != FinishReason::EndOfMask).count();
    if !filled.complete && !interrupt.was_pressed() && !global.json {
        let holes = filled.infills.len();
        note(global.quiet, &format!("{open} of {holes} holes were not ended by the model: see -n and --retries"));
    }
}
