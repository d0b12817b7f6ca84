//! `incoder infill`: the holes of a file filled.

use crate::failure::{Failure, Result};
use crate::split::{self, LineEnds};
use crate::terminal::{Interrupt, Output, note};
use crate::{Global, cli, engine, input, report, write_back};
use incoder::{Event, FinishReason, HoleEnd, InfillOptions, Infilling};
use std::borrow::Cow;

/// The texts around the holes, and what to do with the line ends of the result.
struct Document {
    parts: Vec<String>,
    ends: LineEnds,
    /// The file's text as it was read, where --diff or --in-place asks for it.
    original: Option<String>,
    /// Lines of the text.
    lines: usize,
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
    let plain = !(global.json || args.diff || args.in_place);
    let stays = args.retries == 1 && document.ends == LineEnds::AsTheyAre;
    let streams = plain && (output.is_terminal() || stays);
    let mut growing = Growing { next: 0, quiet: global.quiet };
    let mut on_event = |event: Event<'_>| {
        if let Event::Window { window, .. } = event {
            super::note_window(global.quiet, &window, document.lines);
        }
        if streams {
            growing.show(&document.parts, event, &mut output);
        }
    };
    interrupt.generating();
    let made = incoder::infill(&mut engine.session, &engine.tokenizer, &document.parts, &options, &mut on_event);
    let filled = pollster::block_on(made)?;
    let (parts, filled) = in_file_form(document.parts, filled, document.ends);
    if global.json {
        output.exact(&report::infilling(&parts, &filled)?);
    } else if streams {
        growing.reach(&parts, parts.len(), &mut output);
    } else if plain {
        whole(&parts, &filled, &mut output);
    }
    let text = document.original.as_ref().map(|_| filled.text(&parts, ""));
    let changed = document.original.as_deref().zip(text.as_deref());
    if let (true, Some((old, new))) = (args.diff, changed) {
        diff(args, old, new, &mut output);
    }
    output.end_line();
    if let (true, Some((old, new))) = (args.in_place, changed) {
        write(args, old, new, &interrupt)?;
    }
    notes(&filled, &interrupt, global);
    output.finish()?;
    interrupt.result()
}

fn read(args: &cli::Infill) -> Result<Document> {
    if let Some(path) = &args.parts {
        return Ok(document(input::read_parts(path)?, LineEnds::AsTheyAre, None));
    }
    let keep = |text: String| (args.diff || args.in_place).then_some(text);
    if let (Some(prefix), Some(suffix)) = (&args.prefix_file, &args.suffix_file) {
        if input::is_stdin(prefix) && input::is_stdin(suffix) {
            return Err(Failure::usage("--prefix-file and --suffix-file cannot both be stdin"));
        }
        let (left, right) = (input::read_text(prefix)?, input::read_text(suffix)?);
        let original = format!("{left}{right}");
        let ends = LineEnds::of(&original);
        let parts = vec![ends.to_model(&left).into_owned(), ends.to_model(&right).into_owned()];
        return Ok(document(parts, ends, keep(original)));
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
    Ok(document(parts, ends, keep(original)))
}

fn document(parts: Vec<String>, ends: LineEnds, original: Option<String>) -> Document {
    let breaks = |part: &String| part.bytes().filter(|&byte| byte == b'\n').count();
    let lines = 1 + parts.iter().map(breaks).sum::<usize>();
    Document { parts, ends, original, lines }
}

/// The parts and the result with the file's own line ends.
fn in_file_form(mut parts: Vec<String>, mut filled: Infilling, ends: LineEnds) -> (Vec<String>, Infilling) {
    let texts = filled.infills.iter_mut().chain(&mut filled.alternatives).map(|infill| &mut infill.text);
    for text in parts.iter_mut().chain(texts) {
        if let Cow::Owned(changed) = ends.to_file(text) {
            *text = changed;
        }
    }
    (parts, filled)
}

/// The document as it grows: each part when its hole is reached, the new text in colour.
struct Growing {
    /// The first part that was not shown yet.
    next: usize,
    quiet: bool,
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
                output.filled(text);
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

fn diff(args: &cli::Infill, old: &str, new: &str, output: &mut Output) {
    let name = args.file().map(input::name_of).unwrap_or_default();
    for line in write_back::diff(&name, old, new).split_inclusive('\n') {
        if line.starts_with('+') { output.filled(line) } else { output.given(line) }
    }
}

fn write(args: &cli::Infill, old: &str, new: &str, interrupt: &Interrupt) -> Result<()> {
    let Some(path) = args.file() else { return Ok(()) };
    if interrupt.was_pressed() {
        return Err(Failure::interrupted(format!("stopped: {} is as it was", path.display())));
    }
    write_back::replace(path, old, new)
}

fn notes(filled: &Infilling, interrupt: &Interrupt, global: &Global) {
    if global.talks() {
        let tokens = filled.infills.iter().map(|i| i.ids.len()).sum();
        note(global.quiet, &report::speed(&filled.timings, tokens));
    }
    let open = filled
        .infills
        .iter()
        .filter(|i| !matches!(i.finish_reason, FinishReason::EndOfMask | FinishReason::Stop))
        .count();
    if !filled.complete && !interrupt.was_pressed() && !global.json {
        let holes = filled.infills.len();
        note(global.quiet, &format!("{open} of {holes} holes were not ended by the model: see -n and --retries"));
    }
}
