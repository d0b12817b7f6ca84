//! Text from left to right: one prompt, one or several continuations.

use crate::cancel::Cancel;
use crate::decode::event::{Candidate, Event, FinishReason, Timings};
use crate::decode::request::Request;
use crate::decode::speculative::Lookup;
use crate::decode::stops::{LineRules, Stops};
use crate::error::Result;
use crate::sampling::{Sampler, Sampling};
use crate::session::Session;
use crate::text::healing::Healer;
use crate::text::tokenizer::{Sentinels, Tokenizer};
use crate::text::window::{self, Overflow, Window};
use serde::Serialize;
use web_time::Instant;

/// What is to be continued.
#[derive(Debug, Clone, Copy)]
pub enum Prompt<'a> {
    /// A text: tokenized, and healed unless that is turned off.
    Text(&'a str),
    /// Ids, taken as they are.
    Ids(&'a [u32]),
}

/// How to continue a prompt.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// Most tokens of one continuation.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end a continuation; they are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end a continuation; their text is not part of it.
    pub stop_ids: Vec<u32>,
    /// Go on after `<|endoftext|>`, which then is part of the text.
    pub ignore_eos: bool,
    /// What text that spells sentinels is, and whether they may be generated.
    pub sentinels: Sentinels,
    /// Most tokens of a text prompt, where that is less than the context window has room for.
    pub max_prompt_tokens: Option<usize>,
    /// What to do with a text prompt that the context window cannot hold: with [`Overflow::Window`] its end is shown.
    pub overflow: Overflow,
    /// Take back the last tokens of a text prompt that may begin a longer token (token healing).
    pub heal: bool,
    /// Whether to try what followed the same tokens before, several tokens a step: the result is the same. Only for one
    /// candidate.
    pub lookup: Lookup,
    /// How many continuations.
    pub candidates: usize,
    /// Stops the work.
    pub cancel: Cancel,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            sampling: Sampling::default(),
            stop: Vec::new(),
            stop_ids: Vec::new(),
            ignore_eos: false,
            sentinels: Sentinels::default(),
            max_prompt_tokens: None,
            overflow: Overflow::default(),
            heal: true,
            lookup: Lookup::default(),
            candidates: 1,
            cancel: Cancel::default(),
        }
    }
}

/// The continuations of a prompt.
#[derive(Debug, Clone, Serialize)]
pub struct Generation {
    /// In order; as many as asked for.
    pub candidates: Vec<Candidate>,
    /// Tokens of the prompt, without those that healing took back.
    pub prompt_tokens: usize,
    /// Of these, tokens that were still in the KV cache.
    pub cached_tokens: usize,
    /// The part of a text prompt that was shown; none for ids.
    pub window: Option<Window>,
    /// Where the time went.
    pub timings: Timings,
}

/// Continues a prompt.
///
/// # Errors
/// [`crate::Error::Argument`] for options out of range or a refused sentinel, what [`Session::set_context`] refuses (a
/// prompt that does not fit, ids out of range), and [`crate::Error::Cancelled`] while the prompt is prefilled; later a cancel
/// ends the texts, which are returned as they are.
pub async fn generate(
    session: &mut Session,
    tokenizer: &Tokenizer,
    prompt: Prompt<'_>,
    options: &GenerateOptions,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Generation> {
    let start = Instant::now();
    let mut sampler = Sampler::new(options.sampling, banned(session, tokenizer, options.sentinels, None))?;
    let mut stops = Stops::default();
    stops.texts(&options.stop)?;
    stops.ids.extend(options.stop_ids.iter().map(|&id| (id, FinishReason::Stop)));
    if !options.ignore_eos {
        stops.ids.extend(session.config().eos_token_ids.iter().map(|&id| (id, FinishReason::Eos)));
    }
    let mut taken = Vec::new();
    let mut shown = None;
    let ids = match prompt {
        Prompt::Ids(ids) => ids.to_vec(),
        Prompt::Text(text) => {
            if options.sentinels == Sentinels::Refuse {
                tokenizer.refuse_sentinels(text, "the text")?;
            }
            let capacity = window::capacity(session.capacity(), options.max_prompt_tokens, options.max_new_tokens);
            let reserve = window::reserve(capacity, options.max_new_tokens);
            let room = capacity.saturating_sub(tokenizer.prefix().len() + reserve).max(1);
            let counter = window::Counter { tokenizer, sentinels: options.sentinels };
            let (text, window) = match options.overflow {
                Overflow::Window => window::end_of(&counter, text, room)?,
                Overflow::Error => (text, None),
            };
            if let Some(window) = window {
                on_event(Event::Window { index: 0, window });
            }
            shown = window;
            let mut ids = tokenizer.encode(text, options.sentinels)?;
            // The first one always stays: something has to be continued.
            if let (true, Some((_, rest))) = (options.heal, ids.split_first()) {
                let keep;
                (keep, taken) = Healer::new(tokenizer).take_back(rest);
                ids.truncate(1 + keep);
            }
            ids
        }
    };
    let request = Request {
        tokenizer,
        prompt: &ids,
        before: &ids,
        taken: &taken,
        stops: &stops,
        lines: &LineRules::default(),
        shows_half_characters: options.sentinels == Sentinels::Parse,
        max_new_tokens: options.max_new_tokens,
        candidates: options.candidates,
        lookup: options.lookup,
        index: 0,
        stream: 0,
        cancel: &options.cancel,
        start,
    };
    let made = request.run(session, &mut sampler, on_event).await?;
    Ok(Generation {
        candidates: made.candidates,
        prompt_tokens: ids.len(),
        cached_tokens: made.prefill.cached,
        window: shown,
        timings: made.timings,
    })
}

/// Tokens that are never to be generated: ids that nothing is known of, and unless sentinels are parsed, special tokens. Of those
/// `<|endoftext|>` stays, which ends every text, and `end`, which ends this one. Where sentinels are refused, the published
/// code's choice stays, too: only mask sentinels are banned, and the end of a mask where that is no `end`.
pub(crate) fn banned(session: &Session, tokenizer: &Tokenizer, sentinels: Sentinels, end: Option<u32>) -> Vec<u32> {
    let eos = &session.config().eos_token_ids;
    let is_banned = |&id: &u32| match sentinels {
        Sentinels::Parse => false,
        _ if eos.contains(&id) || Some(id) == end => false,
        Sentinels::Refuse => tokenizer.is_mask(id) || tokenizer.end_of_mask() == Some(id),
        Sentinels::Literal => true,
    };
    let unknown = (0..session.config().vocab_size as u32).filter(|&id| !tokenizer.contains(id));
    unknown.chain(tokenizer.added().filter(is_banned)).collect()
}
