//! Filling holes: parts of a document in, what belongs between them out.
//!
//! The prompt is `A <|mask:0|> C <|mask:1|> E <|mask:2|>`, then for each hole `<|mask:i|>` and what the model writes up
//! to `<|endofmask|>`. As in the published code the whole text is encoded again for every hole; the session keeps every
//! token that did not change, so nothing is computed twice.

use crate::cancel::Cancel;
use crate::decode::event::{Event, FinishReason, Timings};
use crate::decode::generate::banned;
use crate::decode::prompt::{Document, View, Viewer};
use crate::decode::request::Request;
use crate::decode::speculative::Lookup;
use crate::decode::stops::{LineRules, Stops};
use crate::error::{Error, Result};
use crate::sampling::{Sampler, Sampling};
use crate::session::Session;
use crate::text::tokenizer::{Sentinels, Tokenizer};
use crate::text::window::{self, Overflow, Window};
use serde::Serialize;
use web_time::Instant;

/// How many lines before a cursor are read as the beginning of the hole, unless it is said otherwise and where there is one hole:
/// the number that found the most hidden lines (`docs/performance.md` has the table).
pub const LOOK_BACK_LINES: usize = 8;

/// Of the line that a cursor is in, what its indentation is read from, in bytes before the cursor.
const LONGEST_LINE: usize = 4096;

/// What ends the text of a hole, beside the stop texts and the number of tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HoleEnd {
    /// [`HoleEnd::Mask`] for a hole that begins at the cursor, [`HoleEnd::Block`] for one that begins some lines before it.
    #[default]
    Auto,
    /// `<|endofmask|>` alone, as published.
    Mask,
    /// A line break, too: the hole is the rest of a line.
    Line,
    /// Also a line that repeats the next line of the document, or that is indented less than the line of the cursor.
    Block,
}

/// How to fill holes. The prompt is the published one when `look_back` is `Some(0)`.
#[derive(Debug, Clone)]
pub struct InfillOptions {
    /// What the first hole begins with already: the new text goes on from there. While a user types into a hole and only this
    /// grows, everything around the hole stays in the KV cache, the text behind it too.
    pub begun: String,
    /// How many lines before each cursor are put into the hole, as its beginning, instead of before it: at least this many and
    /// less than twice as many, so that a hole begins at the same line while lines are typed. Left out, it is
    /// [`LOOK_BACK_LINES`] where there is one hole and 0 where there are several.
    pub look_back: Option<usize>,
    /// Most tokens of one region.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Attempts in all, until every region has ended (0 counts as 1).
    pub retries: usize,
    /// Texts for the hole, where there is only one: the first is its infill, the others are alternatives.
    pub candidates: usize,
    /// One more sentinel after the last part, as in training when something was cut off there.
    pub extra_sentinel: bool,
    /// What ends a region.
    pub end: HoleEnd,
    /// Texts that end a region; they are not part of it.
    pub stop: Vec<String>,
    /// What text that spells sentinels is, and whether they may be generated.
    pub sentinels: Sentinels,
    /// Most tokens of a prompt, where that is less than the context window has room for: a shorter prompt is prefilled sooner.
    pub max_prompt_tokens: Option<usize>,
    /// What to do with a document that the context window cannot hold.
    pub overflow: Overflow,
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
            look_back: None,
            max_new_tokens: 128,
            sampling: Sampling::default(),
            retries: 1,
            candidates: 1,
            extra_sentinel: true,
            end: HoleEnd::default(),
            stop: Vec::new(),
            sentinels: Sentinels::default(),
            max_prompt_tokens: None,
            overflow: Overflow::default(),
            heal: true,
            lookup: Lookup::default(),
            cancel: Cancel::default(),
        }
    }
}

impl InfillOptions {
    /// Lines before each of `holes` cursors that are put into the hole.
    pub(crate) fn look_back_lines(&self, holes: usize) -> usize {
        self.look_back.unwrap_or(if holes == 1 { LOOK_BACK_LINES } else { 0 })
    }

    fn end(&self, holes: usize) -> HoleEnd {
        match self.end {
            HoleEnd::Auto if self.look_back_lines(holes) > 0 => HoleEnd::Block,
            HoleEnd::Auto => HoleEnd::Mask,
            end => end,
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

/// What fills the holes of a document.
#[derive(Debug, Clone, Serialize)]
pub struct Infilling {
    /// One for each hole.
    pub infills: Vec<Infill>,
    /// Other texts for the only hole, when more than one candidate was asked for.
    pub alternatives: Vec<Infill>,
    /// The part of the document that was shown for each hole.
    pub windows: Vec<Window>,
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

impl Infilling {
    /// The whole document: the parts with the infills between them, and `begun` at the start of the first hole.
    pub fn text(&self, parts: &[String], begun: &str) -> String {
        let fills = self.infills.iter().map(|infill| infill.text.as_str()).chain([""]);
        let begun = [begun].into_iter().chain(std::iter::repeat(""));
        let texts = parts.iter().map(String::as_str).zip(begun.zip(fills));
        texts.flat_map(|(part, (begun, fill))| [part, begun, fill]).collect()
    }
}

/// Fills the holes between `parts`.
///
/// A document that the context window cannot hold is shown in part, see [`Overflow`]; holes that are too far from each other
/// for one prompt are filled one after the other, those filled already being text. Where that is refused, a region that does
/// not fit into the context any more is empty, with that as its finish reason. A cancel ends the region at hand and empties
/// those after it; during a retry it returns the attempt before.
///
/// # Errors
/// [`Error::Argument`] for options out of range, no parts, more holes than the tokenizer has sentinels, or a refused
/// sentinel in a part; [`Error::Context`] when the first prompt does not fit; [`Error::Cancelled`] while it is
/// prefilled.
pub async fn infill(
    session: &mut Session,
    tokenizer: &Tokenizer,
    parts: &[String],
    options: &InfillOptions,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Infilling> {
    let mut options = options.clone();
    if tokenizer.fim().is_some() {
        // Such a model was not trained on holes that begin some lines before what is to be written.
        options.look_back.get_or_insert(0);
    }
    let options = &options;
    let mut filler = Filler {
        tokenizer,
        parts,
        options,
        stops: stops(session, tokenizer, parts, options)?,
        sampler: Sampler::new(
            options.sampling,
            match tokenizer.fim() {
                // Every added token ends the hole.
                Some(_) => banned(session, tokenizer, Sentinels::Parse, None),
                None => banned(session, tokenizer, options.sentinels, tokenizer.end_of_mask()),
            },
        )?,
        prompt: None,
        windows: Vec::new(),
        alternatives: Vec::new(),
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
        let kept = (filler.windows.clone(), filler.alternatives.clone());
        let retried = filler.attempt(session, attempted, on_event).await?;
        if options.cancel.is_cancelled() {
            (filler.windows, filler.alternatives) = kept;
            break;
        }
        infills = retried;
        attempted += 1;
    }
    let (prompt_tokens, cached_tokens) = filler.prompt.unwrap_or_default();
    Ok(Infilling {
        retries_attempted: attempted,
        complete: infills.iter().all(Infill::ended),
        infills,
        alternatives: filler.alternatives,
        windows: filler.windows,
        prompt_tokens,
        cached_tokens,
        timings: filler.timings,
    })
}

/// Checks the parts and the options; what ends a region.
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
    if options.candidates > 1 && holes != 1 {
        let candidates = options.candidates;
        return Err(Error::argument(format!("{candidates} candidates for {holes} holes: they need exactly one hole")));
    }
    let mut stops = Stops::default();
    if tokenizer.fim().is_some() {
        // What ends a document ends a hole, too, and so does whatever else is no text. Some vocabularies have letters among them.
        let is_control = |&id: &u32| tokenizer.token_bytes(id).is_some_and(|name| name.starts_with(b"<"));
        let ends = session.config().eos_token_ids.iter().copied().chain(tokenizer.added().filter(is_control));
        stops.ids.extend(ends.map(|id| (id, FinishReason::EndOfMask)));
    } else {
        causal_mask_stops(&mut stops, session, tokenizer, holes, options)?;
    }
    stops.texts(&options.stop)?;
    if options.end(holes) == HoleEnd::Line {
        stops.texts(&["\n".to_owned()])?;
    }
    Ok(stops)
}

/// What ends a hole whose text goes behind the document.
fn causal_mask_stops(
    stops: &mut Stops,
    session: &Session,
    tokenizer: &Tokenizer,
    holes: usize,
    options: &InfillOptions,
) -> Result<()> {
    let extra = usize::from(options.extra_sentinel);
    if !tokenizer.can_infill() {
        let problem = "this tokenizer has no sentinels for infilling: the model continues texts, and cannot fill holes";
        return Err(Error::argument(problem));
    }
    if holes > 0 && holes + extra > tokenizer.mask_count() {
        return Err(Error::argument(format!(
            "{} parts need {} sentinels, the tokenizer has {}: give at most {} parts",
            holes + 1,
            holes + extra,
            tokenizer.mask_count(),
            (tokenizer.mask_count() + 1).saturating_sub(extra)
        )));
    }
    let Some(end_of_mask) = tokenizer.end_of_mask() else {
        return Err(Error::argument("this tokenizer has no <|endofmask|>: the model cannot fill holes"));
    };
    stops.ids.push((end_of_mask, FinishReason::EndOfMask));
    stops.ids.extend(session.config().eos_token_ids.iter().map(|&id| (id, FinishReason::Eos)));
    if options.sentinels != Sentinels::Literal {
        // The published code cuts by text, so the sentinel counts even when ordinary tokens spell it.
        stops.texts.push((name(tokenizer, end_of_mask), FinishReason::EndOfMask));
    }
    Ok(())
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
    windows: Vec<Window>,
    alternatives: Vec<Infill>,
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
        let holes = self.parts.len() - 1;
        let viewer = Viewer {
            tokenizer: self.tokenizer,
            options: self.options,
            capacity: window::capacity(session.capacity(), self.options.max_prompt_tokens, self.options.max_new_tokens),
            holes,
            trained: session.config().max_position_embeddings,
        };
        let mut infills: Vec<Infill> = Vec::with_capacity(holes);
        // What stands in the holes by now.
        let mut fills: Vec<String> = Vec::with_capacity(holes);
        let mut view: Option<View> = None;
        self.windows.clear();
        for index in 0..holes {
            let start = Instant::now();
            let begun = if index == 0 { self.options.begun.as_str() } else { "" };
            let document = Document { parts: self.parts, fills: &fills };
            let (mut shown, taken, prompt, is_new) = viewer.prompt(&document, index, view.take())?;
            if is_new {
                on_event(Event::Window { index, window: shown.window });
            }
            self.windows.push(shown.window);
            let first = self.prompt.is_none();
            let lines = match self.options.end(holes) {
                HoleEnd::Block => {
                    let before = document.before(index, LONGEST_LINE).0 + begun;
                    LineRules::around(&before, &self.parts[index + 1])
                }
                _ => LineRules::default(),
            };
            let request = Request {
                tokenizer: self.tokenizer,
                prompt: &prompt.all,
                before: &prompt.before,
                taken: taken.as_bytes(),
                stops: &self.stops,
                lines: &lines,
                shows_half_characters: self.options.sentinels == Sentinels::Parse,
                max_new_tokens: self.options.max_new_tokens,
                candidates: self.options.candidates.max(1),
                lookup: self.options.lookup,
                index,
                stream: (attempt * holes + index) as u32,
                cancel: &self.options.cancel,
                start,
            };
            let mut unfinished = String::new();
            let infill = match request.run(session, &mut self.sampler, on_event).await {
                Ok(made) => {
                    self.timings.add(&made.timings);
                    self.prompt.get_or_insert((prompt.all.len(), made.prefill.cached));
                    unfinished = made.unfinished.into_iter().next().unwrap_or_default();
                    let mut made = made.candidates.into_iter().map(|made| Infill {
                        text: made.text,
                        ids: made.ids,
                        finish_reason: made.finish_reason,
                    });
                    let Some(infill) = made.next() else { break };
                    self.alternatives = made.collect();
                    infill
                }
                // What is done stays done.
                Err(Error::Cancelled) if !first => Infill::none(index, FinishReason::Cancelled, on_event),
                Err(Error::Context { .. }) if !first => Infill::none(index, FinishReason::Context, on_event),
                Err(error) => return Err(error),
            };
            // As in the published code: half a character, and the token that ended the text where that was not the end of the
            // hole, stand in it for the regions after this one.
            let eos = infill.ids.last().copied().filter(|_| infill.finish_reason == FinishReason::Eos);
            viewer.filled(&mut shown, &(taken + &infill.text + &unfinished), eos)?;
            fills.push(format!("{begun}{}", infill.text));
            view = Some(shown);
            infills.push(infill);
        }
        Ok(infills)
    }
}

impl Infill {
    /// A region that nothing was generated for.
    fn none(index: usize, finish_reason: FinishReason, on_event: &mut dyn FnMut(Event<'_>)) -> Self {
        on_event(Event::End { index, text: "", finish_reason });
        Self { text: String::new(), ids: Vec::new(), finish_reason }
    }
}
