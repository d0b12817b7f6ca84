//! What a call that makes text reports: events on the way, and in the end the texts, why they end, and where the time went.

use crate::session::Prefill;
use crate::text::window::Window;
use serde::Serialize;

/// Why a text ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model wrote `<|endoftext|>`.
    Eos,
    /// A stop text or stop token came.
    Stop,
    /// It has as many tokens as were asked for.
    Length,
    /// The KV cache is full.
    Context,
    /// The caller cancelled.
    Cancelled,
    /// The model wrote `<|endofmask|>`: the hole is filled.
    EndOfMask,
}

/// What happens while a text is made. The texts of one `index` together are the text that is returned in the end.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// An infill begins its second or a later attempt: the texts so far are void.
    Retry {
        /// Its number, from 1.
        attempt: usize,
    },
    /// Which part of the document the prompts from here on show (or of the prompt, when generating).
    Window {
        /// The region; 0 when generating.
        index: usize,
        /// The part.
        window: Window,
    },
    /// The prompt (of region `index` when infilling) is in the KV cache.
    Prefilled {
        /// The region; 0 when generating.
        index: usize,
        /// What it took.
        prefill: Prefill,
    },
    /// One more token.
    Token {
        /// The candidate or region.
        index: usize,
        /// The token.
        id: u32,
        /// The text that is certain now; empty while a character or a possible stop text is unfinished.
        text: &'a str,
    },
    /// The end of one candidate or region.
    End {
        /// The candidate or region.
        index: usize,
        /// Text that had been held back.
        text: &'a str,
        /// Why it ends.
        finish_reason: FinishReason,
    },
}

/// One continuation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// What follows the cursor, without the beginning of a character that never came to its end.
    pub text: String,
    /// The tokens generated: with the one that ended it, and with those that spell what healing took back.
    pub ids: Vec<u32>,
    /// Why it ends.
    pub finish_reason: FinishReason,
}

/// Where the time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Timings {
    /// Milliseconds until the prompt was in the KV cache.
    pub prompt_ms: f64,
    /// Milliseconds until the first token.
    pub ttft_ms: f64,
    /// Milliseconds from the first token to the last.
    pub decode_ms: f64,
    /// Tokens after the first, of all candidates together, a second of `decode_ms`.
    pub tokens_per_second: f64,
    /// Tokens that were tried because they had followed the same tokens before: see [`Lookup`](crate::Lookup).
    pub drafted_tokens: usize,
    /// Of these, tokens that were right.
    pub accepted_tokens: usize,
    #[serde(skip)]
    /// Tokens after the first.
    pub(crate) decoded: usize,
}

impl Timings {
    /// Adds a later run of the same call: prompts and decoding are summed, the first first token counts.
    pub(crate) fn add(&mut self, later: &Self) {
        self.prompt_ms += later.prompt_ms;
        if self.ttft_ms == 0.0 {
            self.ttft_ms = later.ttft_ms;
        }
        self.decode_ms += later.decode_ms;
        self.decoded += later.decoded;
        self.drafted_tokens += later.drafted_tokens;
        self.accepted_tokens += later.accepted_tokens;
        self.rate();
    }

    /// Computes `tokens_per_second`.
    pub(crate) fn rate(&mut self) {
        let measured = self.decoded > 0 && self.decode_ms > 0.0;
        self.tokens_per_second = if measured { self.decoded as f64 / self.decode_ms * 1e3 } else { 0.0 };
    }
}
