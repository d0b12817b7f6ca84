//! The JSON forms that scripts rely on. docs/command-line.md documents them; the tests in tests/ hold them.

use crate::failure::{Failure, Result};
use incoder::{Candidate, FinishReason, Generation, Infill, Infilling, Timings, Window};
use serde::Serialize;
use std::path::Path;

/// `1 file`, `2 files`.
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// One line of JSON.
pub fn line(value: &impl Serialize) -> Result<String> {
    let json = serde_json::to_string(value).map_err(|e| Failure::runtime(format!("JSON: {e}")))?;
    Ok(json + "\n")
}

#[derive(Serialize)]
struct Text<'a> {
    text: &'a str,
    ids: &'a [u32],
    finish_reason: FinishReason,
}

impl<'a> From<&'a Candidate> for Text<'a> {
    fn from(candidate: &'a Candidate) -> Self {
        Self { text: &candidate.text, ids: &candidate.ids, finish_reason: candidate.finish_reason }
    }
}

impl<'a> From<&'a Infill> for Text<'a> {
    fn from(infill: &'a Infill) -> Self {
        Self { text: &infill.text, ids: &infill.ids, finish_reason: infill.finish_reason }
    }
}

/// `incoder generate --json`: one text at the top, several under "candidates".
pub fn generation(generation: &Generation) -> Result<String> {
    #[derive(Serialize)]
    struct One<'a> {
        #[serde(flatten)]
        text: Text<'a>,
        prompt_tokens: usize,
        window: &'a [Window],
        timings: &'a Timings,
    }
    #[derive(Serialize)]
    struct Several<'a> {
        candidates: Vec<Text<'a>>,
        prompt_tokens: usize,
        window: &'a [Window],
        timings: &'a Timings,
    }
    let Generation { candidates, prompt_tokens, window, timings, .. } = generation;
    let (prompt_tokens, window) = (*prompt_tokens, window.as_slice());
    match &candidates[..] {
        [one] => line(&One { text: one.into(), prompt_tokens, window, timings }),
        several => {
            line(&Several { candidates: several.iter().map(Text::from).collect(), prompt_tokens, window, timings })
        }
    }
}

/// `incoder infill --json`: the first of the candidates as a whole, and all of them under "candidates" when there are several.
/// `file` is the document's, when there are several of these.
pub fn infilling(parts: &[String], made: &[Infilling], file: Option<&Path>) -> Result<String> {
    #[derive(Serialize)]
    struct Filled<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        file: Option<std::borrow::Cow<'a, str>>,
        text: String,
        parts: &'a [String],
        infills: Vec<Text<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        candidates: Vec<Text<'a>>,
        retries_attempted: usize,
        complete: bool,
        window: &'a [Window],
        timings: &'a Timings,
    }
    let Some(first) = made.first() else { return Ok(String::new()) };
    let several = if made.len() > 1 { made } else { &[] };
    line(&Filled {
        file: file.map(Path::to_string_lossy),
        text: first.text(parts, ""),
        parts,
        infills: first.infills.iter().map(Text::from).collect(),
        candidates: several.iter().flat_map(|made| made.infills.first()).map(Text::from).collect(),
        retries_attempted: first.retries_attempted,
        complete: first.complete,
        window: &first.windows,
        timings: &first.timings,
    })
}

/// One line for people: how fast it was.
pub fn speed(timings: &Timings, tokens: usize) -> String {
    let first = timings.ttft_ms / 1000.0;
    match tokens {
        0 => "no token".to_owned(),
        1 => format!("1 token, after {first:.2} s"),
        _ => format!("{tokens} tokens, the first after {first:.2} s, then {:.1} tokens/s", timings.tokens_per_second),
    }
}
