//! One file a command.

pub mod bench;
pub mod convert;
pub mod devices;
pub mod generate;
pub mod infill;
pub mod models;
pub mod plan;
pub mod score;
pub mod tokenize;

use crate::cli::{Decoding, Prompt};
use crate::failure::{Failure, Result};
use crate::input;
use crate::terminal::note;
use incoder::{Lookup, Sampling, Window};
use std::path::Path;

/// How tokens are chosen, from the flags.
fn sampling(flags: &Decoding) -> Sampling {
    let seed = flags.seed.unwrap_or_else(new_seed);
    tracing::info!("seed {seed}");
    Sampling {
        temperature: flags.temp,
        top_k: flags.top_k,
        top_p: flags.top_p,
        repetition_penalty: flags.repeat_penalty,
        seed,
    }
}

/// Another seed every time, short enough to be typed again.
fn new_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos() ^ std::process::id().rotate_left(16))
}

fn lookup(flags: &Decoding) -> Lookup {
    if flags.no_lookup { Lookup::Off } else { Lookup::Auto }
}

/// Says which part of a text was used, where that is not all of it.
fn note_window(quiet: bool, window: &Window, lines: usize) {
    if window.left_out_tokens > 0 {
        let Window { first_line, last_line, tokens, left_out_tokens } = window;
        let what = format!("{tokens} tokens; about {left_out_tokens} did not fit");
        note(quiet, &format!("used lines {first_line}–{last_line} of {lines} ({what})"));
    }
}

/// A prompt as it was given: exactly one of text, file and ids.
enum Given<'a> {
    Text(String),
    Ids(&'a [u32]),
}

fn prompt(flags: &Prompt) -> Result<Given<'_>> {
    match (&flags.prompt, &flags.file, &flags.ids) {
        (Some(text), _, _) => Ok(Given::Text(text.clone())),
        (_, Some(path), _) => Ok(Given::Text(input::read_text(path)?)),
        (_, _, Some(ids)) => Ok(Given::Ids(&ids.0)),
        _ => Err(Failure::usage("no prompt: give -p TEXT, -f FILE (- for stdin) or --ids IDS")),
    }
}

/// -p, -f or, without either, stdin.
fn text(prompt: Option<&str>, file: Option<&Path>) -> Result<String> {
    match prompt {
        Some(text) => Ok(text.to_owned()),
        None => input::read_text(file.unwrap_or(Path::new("-"))),
    }
}
