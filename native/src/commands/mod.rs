//! One file a command.

pub mod bench;
pub mod convert;
pub mod devices;
pub mod doctor;
pub mod generate;
pub mod infill;
pub mod models;
pub mod plan;
pub mod score;
pub mod tokenize;

use crate::cli::{self, Decoding, Prompt};
use crate::failure::{Failure, Result};
use crate::terminal::note;
use crate::{Global, engine, input, text};
use incoder::{Lookup, Sampling, Sentinels, Session, Window};
use std::path::Path;

/// How tokens are chosen, from the flags.
fn sampling(flags: &Decoding) -> Sampling {
    let seed = flags.seed().unwrap_or_else(new_seed);
    tracing::info!("seed {seed}");
    Sampling { seed, ..sampling_without_seed(flags) }
}

/// The same for a server, whose requests have their own seeds.
pub fn sampling_without_seed(flags: &Decoding) -> Sampling {
    Sampling {
        temperature: flags.temp,
        top_k: flags.top_k,
        top_p: flags.top_p,
        min_p: flags.min_p,
        repetition_penalty: flags.repeat_penalty,
        repeat_last_n: flags.repeat_last_n.unwrap_or(usize::MAX),
        seed: 0,
    }
}

/// Says that keys or values did not fit into an fp16 cache, where that was found.
fn note_overflow(session: &Session, global: &Global) {
    if let Some(overflow) = session.overflow() {
        note(global.quiet, &format!("{overflow}, as was done on the way (--kv f32 does so from the beginning)"));
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
    /// With the name of the file that it is from.
    Text(String, Option<String>),
    Ids(&'a [u32]),
}

fn prompt(flags: &Prompt, escape: bool) -> Result<Given<'_>> {
    match (&flags.prompt, &flags.file, &flags.ids) {
        (Some(text), _, _) if escape => Ok(Given::Text(cli::unescaped(text), None)),
        (Some(text), _, _) => Ok(Given::Text(text.clone(), None)),
        (_, Some(path), _) => Ok(Given::Text(input::read_text(path)?, Some(input::name_of(path)))),
        (_, _, Some(ids)) => Ok(Given::Ids(&ids.0)),
        _ => Err(Failure::usage("no prompt: give -p TEXT, -f FILE (- for stdin) or --ids IDS")),
    }
}

/// What can be said of a prompt before the model is loaded.
fn check_prompt(given: &Given<'_>, sentinels: Sentinels, prepared: &engine::Prepared<'_>) -> Result<()> {
    match given {
        Given::Text(text, name) => {
            let Some(found) = prepared.tokenizer.find_sentinel(text).filter(|_| sentinels == Sentinels::Refuse) else {
                return Ok(());
            };
            let (line, column) = text::place(&text[..found.at]);
            let sentinel = prepared.tokenizer.token_bytes(found.id).unwrap_or_default();
            let sentinel = String::from_utf8_lossy(sentinel);
            let where_it_is = match name {
                Some(name) => format!("{name}:{line}:{column}"),
                None => format!("line {line}, column {column}"),
            };
            let advice = "take it out, or give --sentinels literal";
            Err(Failure::usage(format!("{where_it_is}: the text spells the sentinel {sentinel}: {advice}")))
        }
        Given::Ids([]) => Err(Failure::usage("--ids: the prompt is empty: give at least one id")),
        Given::Ids(ids) if ids.len() > prepared.capacity() => {
            let (need, have) = (ids.len(), prepared.capacity());
            Err(Failure::usage(format!(
                "the context is full: {need} tokens are needed, it holds {have}; -c {need} makes it longer"
            )))
        }
        Given::Ids(ids) => {
            let vocab = prepared.config.vocab_size;
            match ids.iter().find(|&&id| id as usize >= vocab) {
                Some(id) => {
                    Err(Failure::usage(format!("token id {id} is out of range: the vocabulary has {vocab} ids")))
                }
                None => Ok(()),
            }
        }
    }
}

/// -p, -f or, without either, stdin.
fn given_text(prompt: Option<&str>, file: Option<&Path>) -> Result<String> {
    match prompt {
        Some(text) => Ok(text.to_owned()),
        None => input::read_text(file.unwrap_or(Path::new("-"))),
    }
}
