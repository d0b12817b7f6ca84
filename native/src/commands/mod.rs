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

use crate::cli::{self, Decoding, Prompt};
use crate::failure::{Failure, Result};
use crate::terminal::note;
use crate::{Global, engine, input, text};
use incoder::{Lookup, Sampling, Sentinels, Session};
use std::path::Path;

/// How tokens are chosen, from the flags.
fn sampling(flags: &Decoding) -> Sampling {
    let seed = flags.seed().unwrap_or_else(new_seed);
    tracing::info!("seed {seed}");
    Sampling {
        temperature: flags.temp,
        top_k: flags.top_k,
        top_p: flags.top_p,
        min_p: flags.min_p,
        repetition_penalty: flags.repeat_penalty,
        seed,
    }
}

/// Says that keys or values did not fit into an fp16 cache, where that was found.
fn note_overflow(session: &Session, global: &Global) {
    if let Some(overflow) = session.overflow() {
        note(global.quiet, &format!("{overflow}; this was done on the way"));
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

fn sentinels(allow: bool) -> Sentinels {
    if allow { Sentinels::Allow } else { Sentinels::Refuse }
}

/// A prompt as it was given: exactly one of text, file and ids.
enum Given<'a> {
    /// With what to call it in a message.
    Text(String, String),
    Ids(&'a [u32]),
}

fn prompt(flags: &Prompt, escape: bool) -> Result<Given<'_>> {
    match (&flags.prompt, &flags.file, &flags.ids) {
        (Some(text), _, _) if escape => Ok(Given::Text(cli::unescaped(text), "the prompt".to_owned())),
        (Some(text), _, _) => Ok(Given::Text(text.clone(), "the prompt".to_owned())),
        (_, Some(path), _) => Ok(Given::Text(input::read_text(path)?, input::name_of(path))),
        (_, _, Some(ids)) => Ok(Given::Ids(&ids.0)),
        _ => Err(Failure::usage("no prompt: give -p TEXT, -f FILE (- for stdin) or --ids IDS")),
    }
}

/// What can be said of a prompt before the model is loaded.
fn check_prompt(given: &Given<'_>, allow_sentinels: bool, prepared: &engine::Prepared<'_>) -> Result<()> {
    match given {
        Given::Text(text, name) => {
            let Some(found) = prepared.tokenizer.find_sentinel(text).filter(|_| !allow_sentinels) else {
                return Ok(());
            };
            let (line, column) = text::place(&text[..found.at]);
            let name_of = prepared.tokenizer.token_bytes(found.id).unwrap_or_default();
            Err(Failure::usage(format!(
                "{name}:{line}:{column}: the text spells the sentinel {}: take it out, or give --allow-sentinels to have it taken as one",
                String::from_utf8_lossy(name_of)
            )))
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
