//! Which part of a document the model is shown when its context window cannot hold all of it, and where a hole begins.
//!
//! Text is cut before it is tokenized: only as much as the context window may hold is ever encoded, whatever the size of
//! the document. Cuts lie at line borders where there are any. They depend on the position in the document alone and move
//! in steps, so that what the KV cache holds stays useful while somebody types.

use crate::error::Result;
use crate::text::tokenizer::{Sentinels, Tokenizer};
use serde::Serialize;

/// What to do with a document that the context window cannot hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Show the model the text around the hole, or the end of a text that is to be continued.
    #[default]
    Window,
    /// Fail with [`crate::Error::Context`].
    Error,
}

/// The part of a document that the model was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Window {
    /// The first line of it, counted from 1.
    pub first_line: usize,
    /// The last line of it.
    pub last_line: usize,
    /// Its tokens, without sentinels.
    pub tokens: usize,
    /// Tokens of the document outside it, estimated from its size in bytes; 0 when the whole document was shown.
    pub left_out_tokens: usize,
}

/// No token is longer than this on average, so more bytes than this for each token never have to be looked at.
pub(crate) const BYTES_A_TOKEN: usize = 32;
/// A first guess, in bytes, that is corrected by tokenizing.
const LIKELY_BYTES_A_TOKEN: usize = 4;
/// Of the tokens that are left for text, the share of what follows the hole is one in this many.
const AFTER_SHARE: usize = 4;
/// Room that one side hands to the other comes in steps of this many tokens.
const SPARE_STEP: usize = 64;
/// In a line that is too long to begin a hole at its start, the hole begins at multiples of this many bytes.
const LONG_LINE_STEP: usize = 128;

/// Tokens that a prompt and what is made from it may have together, in a context window of `context` tokens.
pub(crate) fn capacity(context: usize, max_prompt: Option<usize>, max_new: usize) -> usize {
    max_prompt.map_or(context, |prompt| context.min(prompt.saturating_add(reserve(context, max_new))))
}

/// Tokens kept for a new text: those that were asked for, but at most half of the context window.
pub(crate) fn reserve(capacity: usize, max_new: usize) -> usize {
    max_new.min(capacity / 2)
}

/// The text on one side of a hole, as far as it may matter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Side<'a> {
    /// What is nearest to the hole.
    pub text: &'a str,
    /// Bytes of the document beyond it.
    pub beyond: usize,
}

/// What is shown of both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fitted {
    /// The first byte shown of the text before the hole.
    pub start: usize,
    /// The end of what is shown of the text after it.
    pub end: usize,
    /// Tokens of both together, within a few: text that is cut is tokenized a little differently at the cut.
    pub tokens: usize,
    /// Whether that is all there is.
    pub whole: bool,
}

/// Counts tokens of the ends of texts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counter<'a> {
    pub tokenizer: &'a Tokenizer,
    pub sentinels: Sentinels,
}

impl Counter<'_> {
    /// Where the last `limit` tokens of `text` begin, and how many there are.
    fn tail(&self, text: &str, limit: usize) -> Result<(usize, usize)> {
        let mut bytes = (limit * LIKELY_BYTES_A_TOKEN).max(LIKELY_BYTES_A_TOKEN);
        loop {
            let from = text.floor_char_boundary(text.len().saturating_sub(bytes));
            let ids = self.encode(&text[from..])?;
            if from == 0 && ids.len() <= limit {
                return Ok((0, ids.len()));
            }
            if ids.len() > limit {
                let kept: usize = ids[ids.len() - limit..].iter().map(|&id| self.bytes(id)).sum();
                return Ok((text.ceil_char_boundary(text.len().saturating_sub(kept)), limit));
            }
            bytes *= 2;
        }
    }

    /// Where the first `limit` tokens of `text` end, and how many there are.
    fn head(&self, text: &str, limit: usize) -> Result<(usize, usize)> {
        let mut bytes = (limit * LIKELY_BYTES_A_TOKEN).max(LIKELY_BYTES_A_TOKEN);
        loop {
            let to = text.ceil_char_boundary(bytes.min(text.len()));
            let ids = self.encode(&text[..to])?;
            if to == text.len() && ids.len() <= limit {
                return Ok((to, ids.len()));
            }
            if ids.len() > limit {
                let kept: usize = ids[..limit].iter().map(|&id| self.bytes(id)).sum();
                return Ok((text.floor_char_boundary(kept.min(text.len())), limit));
            }
            bytes *= 2;
        }
    }

    /// Whether `text` has at most `limit` tokens.
    fn within(&self, text: &str, limit: usize) -> Result<bool> {
        Ok(text.len() <= limit * BYTES_A_TOKEN && self.encode(text)?.len() <= limit)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode_with(text, self.sentinels, false)
    }

    fn bytes(&self, id: u32) -> usize {
        self.tokenizer.token_bytes(id).map_or(0, <[u8]>::len)
    }

    /// What of a hole's two sides to show, in at most `budget` tokens: all of it where that fits, otherwise three times as
    /// much before the hole as after it, and what one side does not need goes to the other.
    pub fn fit(&self, before: Side<'_>, after: Side<'_>, budget: usize) -> Result<Fitted> {
        let (mut start, mut left) = self.tail(before.text, budget)?;
        let (mut end, mut right) = self.head(after.text, budget)?;
        let all_before = start == 0 && before.beyond == 0;
        let all_after = end == after.text.len() && after.beyond == 0;
        if all_before && all_after && left + right <= budget {
            return Ok(Fitted { start, end, tokens: left + right, whole: true });
        }
        let share = budget / AFTER_SHARE;
        let spare = if all_before { budget.saturating_sub(left.next_multiple_of(SPARE_STEP)) } else { 0 };
        if !all_after || right > share.max(spare) {
            let cut;
            (cut, right) = self.head(after.text, share.max(spare))?;
            end = last_line_end(after.text, cut);
            if end < cut {
                right = self.encode(&after.text[..end])?.len();
            }
        }
        if !all_before || left > budget - right {
            (start, left) = self.tail(before.text, budget - right)?;
            if start > 0 || before.beyond > 0 {
                let reach = (before.text.len() - start) / 4;
                let cut = line_start_after(before.text, before.beyond, start, reach);
                if cut > start {
                    (start, left) = (cut, self.encode(&before.text[cut..])?.len());
                }
            }
        }
        Ok(Fitted { start, end, tokens: left + right, whole: false })
    }

    /// Where a hole begins that is to hold the last `lines` lines of `shown`, the text before the cursor: at least that many
    /// and less than twice as many, as it begins at a line whose number is a multiple of `lines`. So it stays where it is
    /// while lines are added.
    ///
    /// `line` is the number of the cursor's line in the document, from 0, `beyond` counts the bytes before `shown`. At most
    /// `most_lines` lines and `limit` tokens are taken; in lines that are too long for that the hole begins within the line.
    pub fn look_back(
        &self,
        shown: &str,
        beyond: usize,
        line: usize,
        lines: usize,
        most_lines: usize,
        limit: usize,
    ) -> Result<usize> {
        let mut step = lines;
        while step > 0 {
            let up = if line >= step { line - (line - step) / step * step } else { line };
            let start = start_of_line(shown, up.min(most_lines));
            if self.within(&shown[start..], limit)? {
                return Ok(start);
            }
            step /= 2;
        }
        if lines == 0 {
            return Ok(shown.len());
        }
        let start = start_of_line(shown, 0);
        if self.within(&shown[start..], limit)? {
            return Ok(start);
        }
        let at = (beyond + shown.len()).saturating_sub(LONG_LINE_STEP) / LONG_LINE_STEP * LONG_LINE_STEP;
        Ok(shown.ceil_char_boundary(at.saturating_sub(beyond).max(start)))
    }
}

/// The start of the line `up` lines above the one that `text` ends in, or of the text.
fn start_of_line(text: &str, up: usize) -> usize {
    text.bytes().enumerate().rev().filter(|&(_, byte)| byte == b'\n').nth(up).map_or(0, |(at, _)| at + 1)
}

/// The end of the last whole line of `text[..cut]`, or `cut` where that would leave out more than half, or nothing was cut.
fn last_line_end(text: &str, cut: usize) -> usize {
    if cut == text.len() {
        return cut;
    }
    match text[..cut].rfind('\n') {
        Some(at) if at >= cut / 2 => at + 1,
        _ => cut,
    }
}

/// Where to begin at `from` or later: the line start that follows a multiple of a step of bytes in the document, `beyond` of
/// which stand before `text`, or the multiple itself where no line starts within `reach` bytes of it. The step is a power of
/// two up to `reach`.
fn line_start_after(text: &str, beyond: usize, from: usize, reach: usize) -> usize {
    let step = power_of_two_below(reach);
    let at = (beyond + from).next_multiple_of(step) - beyond;
    let at = text.ceil_char_boundary(at.min(text.len()));
    // A line starts at `at` itself when a line break stands before it.
    let search = &text.as_bytes()[at.saturating_sub(1)..text.len().min(at + reach)];
    let start = search.iter().position(|&byte| byte == b'\n').map(|i| at.saturating_sub(1) + i + 1);
    start.filter(|&start| start < text.len() && (start >= at || at == 0)).unwrap_or(if at < text.len() {
        at
    } else {
        from
    })
}

/// The largest power of two up to `n`; 1 for 0.
fn power_of_two_below(n: usize) -> usize {
    1 << n.checked_ilog2().unwrap_or(0)
}

/// The end of a text that is to be continued: all of it where it has at most `budget` tokens.
pub(crate) fn end_of<'t>(counter: &Counter<'_>, text: &'t str, budget: usize) -> Result<(&'t str, Option<Window>)> {
    let near = text.ceil_char_boundary(text.len().saturating_sub(budget.saturating_mul(BYTES_A_TOKEN)));
    let before = Side { text: &text[near..], beyond: near };
    let fitted = counter.fit(before, Side { text: "", beyond: 0 }, budget)?;
    let start = near + fitted.start;
    let window = Window {
        first_line: 1 + breaks(&text[..start]),
        last_line: 1 + breaks(text),
        tokens: fitted.tokens,
        left_out_tokens: if start == 0 { 0 } else { estimate(start, fitted.tokens, text.len() - start) },
    };
    Ok((&text[start..], Some(window)))
}

/// Tokens in `bytes` bytes of text, by the rate of the text that was counted.
pub(crate) fn estimate(bytes: usize, tokens: usize, of_bytes: usize) -> usize {
    if of_bytes == 0 {
        bytes / LIKELY_BYTES_A_TOKEN
    } else {
        (bytes as f64 * tokens as f64 / of_bytes as f64).ceil() as usize
    }
}

/// Line breaks in a text, as editors count them: `\n`, `\r\n`, or `\r` alone.
pub fn breaks(text: &str) -> usize {
    let bytes = text.as_bytes();
    let alone = |&(at, &byte): &(usize, &u8)| byte == b'\n' || byte == b'\r' && bytes.get(at + 1) != Some(&b'\n');
    bytes.iter().enumerate().filter(alone).count()
}
