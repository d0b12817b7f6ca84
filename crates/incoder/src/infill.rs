//! Filling holes: parts of a document in, what belongs between them out.
//!
//! The prompt is `A <|mask:0|> C <|mask:1|> E <|mask:2|>`, then for each hole `<|mask:i|>` and what the model writes up
//! to `<|endofmask|>`. As in the published code the whole text is encoded again for every hole; the session keeps every
//! token that did not change, so nothing is computed twice.

use crate::error::{Error, Result};
use crate::generate::{Event, FinishReason, Request, Timings, banned};
use crate::heal::Healer;
use crate::lookup::Lookup;
use crate::sample::{Sampler, Sampling};
use crate::session::{Cancel, Session};
use crate::stop::Stops;
use crate::tokenizer::{Sentinels, Tokenizer};
use serde::Serialize;
use web_time::Instant;

/// How to fill holes. The defaults are the published ones.
#[derive(Debug, Clone)]
pub struct InfillOptions {
    /// What the first hole begins with already: the new text goes on from there. While a user types into a hole and only this
    /// grows, everything around the hole stays in the KV cache, the text behind it too.
    pub begun: String,
    /// Most tokens of one region.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Attempts in all, until every region has ended (0 counts as 1).
    pub retries: usize,
    /// One more sentinel after the last part, as in training when something was cut off there.
    pub extra_sentinel: bool,
    /// Texts that end a region; they are not part of it.
    pub stop: Vec<String>,
    /// Whether sentinels in the parts are taken as sentinels, and whether they may be generated.
    pub sentinels: Sentinels,
    /// Take back the tokens before each hole that may begin a longer token (token healing).
    pub heal: bool,
    /// Whether to try what followed the same tokens before, several tokens a step: the result is the same.
    pub lookup: Lookup,
    /// Stops the work.
    pub cancel: Cancel,
}

impl Default for InfillOptions {
    fn default() -> Self {
        Self {
            begun: String::new(),
            max_new_tokens: 128,
            sampling: Sampling::default(),
            retries: 1,
            extra_sentinel: true,
            stop: Vec::new(),
            sentinels: Sentinels::Refuse,
            heal: true,
            lookup: Lookup::default(),
            cancel: Cancel::default(),
        }
    }
}

/// What fills one hole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Infill {
    /// Its text, without what had begun.
    pub text: String,
    /// The tokens generated: with the one that ended it, and with those that spell what healing took back.
    pub ids: Vec<u32>,
    /// Why it ends.
    pub finish_reason: FinishReason,
}

impl Infill {
    fn ended(&self) -> bool {
        matches!(self.finish_reason, FinishReason::EndOfMask | FinishReason::Stop)
    }
}

/// A document with its holes filled.
#[derive(Debug, Clone, Serialize)]
pub struct Infilling {
    /// The parts with the infills between them.
    pub text: String,
    /// The parts as they were given.
    pub parts: Vec<String>,
    /// One for each hole.
    pub infills: Vec<Infill>,
    /// Attempts made.
    pub retries_attempted: usize,
    /// Whether every region ended by itself (or at a stop text).
    pub complete: bool,
    /// Tokens of the first region's prompt.
    pub prompt_tokens: usize,
    /// Of these, tokens that were still in the KV cache.
    pub cached_tokens: usize,
    /// Where the time went: prompts and decoding of all regions together.
    pub timings: Timings,
}

/// Fills the holes between `parts`.
///
/// A region that does not fit into the context any more is empty, with that as its finish reason. A cancel ends the
/// region at hand and empties those after it; during a retry it returns the attempt before.
///
/// # Errors
/// [`Error::Argument`] for options out of range, no parts, more holes than the tokenizer has sentinels, or a literal
/// sentinel in a part; [`Error::Context`] when the first prompt does not fit; [`Error::Cancelled`] while it is
/// prefilled.
pub async fn infill(
    session: &mut Session,
    tokenizer: &Tokenizer,
    parts: &[String],
    options: &InfillOptions,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Infilling> {
    let allow = options.sentinels == Sentinels::Allow;
    let mut filler = Filler {
        tokenizer,
        parts,
        options,
        stops: stops(session, tokenizer, parts, options)?,
        sampler: Sampler::new(options.sampling, banned(session, tokenizer, allow, None))?,
        prompt: None,
        timings: Timings::default(),
    };
    let mut infills = filler.attempt(session, 0, on_event).await?;
    let mut attempted = 1;
    while attempted < options.retries && !infills.iter().all(Infill::ended) && !options.cancel.is_cancelled() {
        if options.sampling.is_greedy() {
            // Every attempt would come out as the first did: they are counted, as published, and not computed.
            attempted = options.retries;
            break;
        }
        on_event(Event::Retry { attempt: attempted + 1 });
        let retried = filler.attempt(session, attempted, on_event).await?;
        if options.cancel.is_cancelled() {
            break;
        }
        infills = retried;
        attempted += 1;
    }
    let fills = infills.iter().map(|infill| infill.text.as_str()).chain([""]);
    let begun = [options.begun.as_str()].into_iter().chain(std::iter::repeat(""));
    let texts = parts.iter().map(String::as_str).zip(begun.zip(fills));
    let (prompt_tokens, cached_tokens) = filler.prompt.unwrap_or_default();
    Ok(Infilling {
        text: texts.flat_map(|(part, (begun, fill))| [part, begun, fill]).collect(),
        parts: parts.to_vec(),
        retries_attempted: attempted,
        complete: infills.iter().all(Infill::ended),
        infills,
        prompt_tokens,
        cached_tokens,
        timings: filler.timings,
    })
}

/// Checks the parts; what ends a region.
fn stops(session: &Session, tokenizer: &Tokenizer, parts: &[String], options: &InfillOptions) -> Result<Stops> {
    let Some(holes) = parts.len().checked_sub(1) else {
        return Err(Error::argument("there are no parts: give at least one, and a hole lies between every two"));
    };
    if options.sentinels == Sentinels::Refuse {
        for (i, part) in parts.iter().enumerate() {
            tokenizer.refuse_sentinels(part, &format!("part {} of {}", i + 1, parts.len()))?;
        }
        tokenizer.refuse_sentinels(&options.begun, "what the hole begins with")?;
    }
    if holes == 0 && !options.begun.is_empty() {
        return Err(Error::argument("there is no hole that could have begun: give at least two parts"));
    }
    let extra = usize::from(options.extra_sentinel);
    if holes > 0 && holes + extra > tokenizer.mask_count() {
        return Err(Error::argument(format!(
            "{} parts need {} sentinels, the tokenizer has {}: give at most {} parts",
            parts.len(),
            holes + extra,
            tokenizer.mask_count(),
            (tokenizer.mask_count() + 1).saturating_sub(extra)
        )));
    }
    let Some(end_of_mask) = tokenizer.end_of_mask() else {
        return Err(Error::argument("this tokenizer has no <|endofmask|>: the model cannot fill holes"));
    };
    let mut stops = Stops::default();
    stops.ids.push((end_of_mask, FinishReason::EndOfMask));
    stops.ids.extend(session.config().eos_token_ids.iter().map(|&id| (id, FinishReason::Eos)));
    // The published code cuts by text, so the sentinel counts even when ordinary tokens spell it.
    stops.texts.push((name(tokenizer, end_of_mask), FinishReason::EndOfMask));
    stops.texts(&options.stop)?;
    Ok(stops)
}

fn name(tokenizer: &Tokenizer, id: u32) -> String {
    String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()).into_owned()
}

struct Filler<'a> {
    tokenizer: &'a Tokenizer,
    parts: &'a [String],
    options: &'a InfillOptions,
    stops: Stops,
    sampler: Sampler,
    /// Tokens of the first prompt, and how many of them were cached.
    prompt: Option<(usize, usize)>,
    timings: Timings,
}

impl Filler<'_> {
    /// Fills every hole once.
    async fn attempt(
        &mut self,
        session: &mut Session,
        attempt: usize,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Vec<Infill>> {
        let (tokenizer, holes) = (self.tokenizer, self.parts.len() - 1);
        let mask = |i: usize| format!("<|mask:{i}|>");
        let mut heads = self.parts.to_vec();
        // The regions filled so far, as they stand behind the document.
        let mut tail = String::new();
        let mut infills: Vec<Infill> = Vec::with_capacity(holes);
        for index in 0..holes {
            let start = Instant::now();
            let mut taken = self.take_back(&mut heads[index])?;
            // What the prompt has of the region itself.
            let mut begun = String::new();
            if index == 0 && !self.options.begun.is_empty() {
                begun = taken + &self.options.begun;
                taken = self.take_back(&mut begun)?;
            }
            let mut prompt = String::new();
            for (i, head) in heads.iter().enumerate() {
                prompt += head;
                if i < holes || self.options.extra_sentinel {
                    prompt += &mask(i);
                }
            }
            tail += &mask(index);
            tail += &begun;
            prompt += &tail;
            let ids = tokenizer.encode(&prompt, Sentinels::Allow)?;
            let is_mask = |&id: &u32| tokenizer.mask(index) == Some(id);
            let hole = ids.iter().position(is_mask).unwrap_or(ids.len());
            let region = ids.iter().rposition(is_mask).map_or(ids.len(), |mask| mask + 1);
            let before = [&ids[..hole], &ids[region..]].concat();
            let request = Request {
                tokenizer,
                prompt: &ids,
                before: &before,
                taken: taken.as_bytes(),
                stops: &self.stops,
                max_new_tokens: self.options.max_new_tokens,
                candidates: 1,
                lookup: self.options.lookup,
                index,
                stream: (attempt * holes + index) as u32,
                cancel: &self.options.cancel,
                start,
            };
            let first = self.prompt.is_none();
            let infill = match request.run(session, &mut self.sampler, on_event).await {
                Ok(mut made) => {
                    self.timings.add(&made.timings);
                    self.prompt.get_or_insert((ids.len(), made.prefill.cached));
                    let Some(made) = made.candidates.pop() else { break };
                    Infill { text: made.text, ids: made.ids, finish_reason: made.finish_reason }
                }
                // What is done stays done.
                Err(Error::Cancelled) if !first => Infill::none(index, FinishReason::Cancelled, on_event),
                Err(Error::Context { .. }) if !first => Infill::none(index, FinishReason::Context, on_event),
                Err(error) => return Err(error),
            };
            tail += &taken;
            tail += &infill.text;
            if infill.finish_reason == FinishReason::Eos {
                // The published code leaves the literal in the text, so the regions after this one see it.
                tail += &infill.ids.last().map_or_else(String::new, |&id| name(tokenizer, id));
            }
            tail += "<|endofmask|>";
            infills.push(infill);
        }
        Ok(infills)
    }

    /// Shortens the text before a cursor by what healing takes back of it.
    fn take_back(&self, head: &mut String) -> Result<String> {
        if !self.options.heal {
            return Ok(String::new());
        }
        let ids = self.tokenizer.encode_with(head, Sentinels::Allow, false)?;
        let (_, taken) = Healer::new(self.tokenizer).take_back(&ids);
        Ok(head.split_off(head.len() - taken.len()))
    }
}

impl Infill {
    /// A region that nothing was generated for.
    fn none(index: usize, finish_reason: FinishReason, on_event: &mut dyn FnMut(Event<'_>)) -> Self {
        on_event(Event::End { index, text: "", finish_reason });
        Self { text: String::new(), ids: Vec::new(), finish_reason }
    }
}
