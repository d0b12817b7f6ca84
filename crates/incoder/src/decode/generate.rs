//! Text from left to right: one prompt, one or several continuations.

use crate::decode::sampling::{Draw, Sampler, Sampling};
use crate::decode::speculative::{DRAFT_TOKENS, Draft, Lookup, draft};
use crate::decode::stops::{LineRules, Lines, Stops, Until};
use crate::error::Result;
use crate::session::{Cancel, Prefill, Push, Session};
use crate::text::healing::Healer;
use crate::text::tokenizer::{Sentinels, StreamDecoder, Tokenizer};
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
    /// Tokens that were tried because they had followed the same tokens before: see [`Lookup`].
    pub drafted_tokens: usize,
    /// Of these, tokens that were right.
    pub accepted_tokens: usize,
    #[serde(skip)]
    decoded: usize,
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
            let capacity = window::capacity(session, options.max_prompt_tokens, options.max_new_tokens);
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

    fn rate(&mut self) {
        let measured = self.decoded > 0 && self.decode_ms > 0.0;
        self.tokens_per_second = if measured { self.decoded as f64 / self.decode_ms * 1e3 } else { 0.0 };
    }
}

fn ms_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// One prompt to be continued, everything about it decided.
pub(crate) struct Request<'a> {
    pub tokenizer: &'a Tokenizer,
    pub prompt: &'a [u32],
    /// The part of it after which the new text will stand.
    pub before: &'a [u32],
    /// What healing took back: the first bytes of every continuation, and not shown.
    pub taken: &'a [u8],
    pub stops: &'a Stops,
    pub lines: &'a LineRules,
    pub max_new_tokens: usize,
    pub candidates: usize,
    pub lookup: Lookup,
    /// Events count from here.
    pub index: usize,
    /// Random numbers: candidate c draws from stream `stream + c`.
    pub stream: u32,
    pub cancel: &'a Cancel,
    pub start: Instant,
}

/// What a [`Request`] came to.
pub(crate) struct Made {
    pub candidates: Vec<Candidate>,
    /// What the published code has behind the text of each: U+FFFD for half a character.
    pub unfinished: Vec<String>,
    pub prefill: Prefill,
    pub timings: Timings,
}

/// What a step says of the token after one of its own.
#[derive(Clone)]
enum Row {
    /// How probable each is.
    Logits(Vec<f32>),
    /// Which one it is.
    Chosen(u32),
}

/// A continuation in the making.
struct Branch<'a> {
    decoder: StreamDecoder<'a>,
    until: Until<'a>,
    lines: Lines<'a>,
    /// Bytes that healing still wants spelled.
    remaining: Vec<u8>,
    ids: Vec<u32>,
    text: String,
    /// U+FFFD for half a character at its end, which is no part of it.
    unfinished: String,
    finish_reason: Option<FinishReason>,
}

impl Branch<'_> {
    /// Takes a token in; the text that became certain.
    fn push(&mut self, id: u32, request: &Request<'_>, healer: Option<&Healer<'_>>) -> Result<String> {
        self.ids.push(id);
        if let Some(healer) = healer {
            healer.advance(&mut self.remaining, id);
        }
        if let Some(&(_, reason)) = request.stops.ids.iter().find(|stop| stop.0 == id) {
            self.finish_reason = Some(reason);
            return Ok(String::new());
        }
        let (text, reason) = self.until.push(&self.decoder.push(id)?);
        let (text, stopped) = self.lines.push(&text);
        self.finish_reason = if stopped { Some(FinishReason::Stop) } else { reason };
        self.text += &text;
        Ok(text)
    }

    /// The text that was held back, now that nothing follows. Half a character is nobody's text.
    fn end(&mut self) -> String {
        self.unfinished = self.decoder.finish();
        let text = self.until.finish();
        let text = self.lines.push(&text).0 + &self.lines.finish();
        self.text += &text;
        text
    }
}

/// The drafts of a [`Request`] of one candidate.
struct Drafts<'a> {
    lookup: Lookup,
    prompt: &'a [u32],
    /// The part of the prompt after which the new text will stand.
    before: &'a [u32],
    /// What may follow the tokens so far, if anything was found.
    draft: Option<Draft>,
    /// How much of it the last step computed.
    tried: usize,
}

impl<'a> Drafts<'a> {
    fn new(request: &Request<'a>) -> Self {
        let lookup = if request.candidates == 1 { request.lookup } else { Lookup::Off };
        Self { lookup, prompt: request.prompt, before: request.before, draft: None, tried: 0 }
    }

    /// Whether `id` is the draft's token `i`, and the step went on from it.
    fn agrees(&self, i: usize, id: Option<&u32>, session: &mut Session) -> bool {
        let Some(draft) = &self.draft else { return false };
        let right = draft.ids.get(i) == id;
        if i < draft.ids.len() {
            session.experience.hits.add(draft, right);
        }
        right && i < self.tried
    }

    /// The tokens to try after those of `branch`, which may have `room` in the cache.
    fn next(&mut self, branch: &Branch<'_>, room: usize, session: &Session) -> &[u32] {
        (self.draft, self.tried) = (None, 0);
        // While healing, what may follow is known better.
        if self.lookup != Lookup::Off && branch.remaining.is_empty() {
            let and_new = |ids: &[u32]| [ids, &branch.ids].concat();
            self.draft = draft(&and_new(self.prompt), &and_new(self.before));
        }
        let Some(draft) = &self.draft else { return &[] };
        // The step's own token takes a place, too.
        let fits = branch.ids.len() + DRAFT_TOKENS <= room && DRAFT_TOKENS < session.max_step();
        if fits && (self.lookup == Lookup::Always || session.experience.says_try(draft)) {
            self.tried = DRAFT_TOKENS;
        }
        &draft.ids[..self.tried]
    }

    /// What is drafted is not tried now.
    fn postpone(&mut self) {
        self.tried = 0;
    }

    /// Tokens that a branch may have for a while.
    fn spare(&self) -> usize {
        if self.lookup == Lookup::Off { 0 } else { DRAFT_TOKENS }
    }
}

impl Request<'_> {
    /// Prefills, then decodes all candidates together until each has ended.
    pub async fn run(
        &self,
        session: &mut Session,
        sampler: &mut Sampler,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Made> {
        let prefill = session.set_context(self.prompt, self.cancel).await?;
        on_event(Event::Prefilled { index: self.index, prefill });
        let mut timings = Timings { prompt_ms: ms_since(self.start), ..Timings::default() };
        let mut first = None;
        let mut drafts = Drafts::new(self);
        let cache_room = session.fork(self.candidates, self.max_new_tokens.saturating_add(drafts.spare()))?;
        let room = cache_room.min(self.max_new_tokens);
        let full = if room < self.max_new_tokens { FinishReason::Context } else { FinishReason::Length };
        let healer = (!self.taken.is_empty()).then(|| Healer::new(self.tokenizer));
        let mut branches: Vec<Branch<'_>> = (0..self.candidates).map(|_| self.branch()).collect();
        // All candidates start from the one distribution after the prompt.
        let mut rows = vec![Row::Logits(session.logits().to_vec()); self.candidates];
        let mut live: Vec<usize> = (0..self.candidates).collect();
        let stops: Vec<u32> = self.stops.ids.iter().map(|stop| stop.0).collect();
        loop {
            let mut pushes = Vec::with_capacity(live.len());
            for (rows, &i) in rows.chunks(rows.len() / live.len()).zip(&live) {
                let branch = &mut branches[i];
                let index = self.index + i;
                let mut right = 0;
                for row in rows {
                    if self.cancel.is_cancelled() {
                        branch.finish_reason = Some(FinishReason::Cancelled);
                    } else if branch.ids.len() < room {
                        let id = match row {
                            Row::Logits(logits) => self.choose(sampler, logits, branch, i, healer.as_ref())?,
                            Row::Chosen(id) => *id,
                        };
                        let text = branch.push(id, self, healer.as_ref())?;
                        on_event(Event::Token { index, id, text: &text });
                        let first = *first.get_or_insert_with(|| {
                            timings.ttft_ms = ms_since(self.start);
                            Instant::now()
                        });
                        timings.decode_ms = ms_since(first);
                        timings.decoded += usize::from(branch.ids.len() > 1);
                    }
                    if branch.finish_reason.is_none() && branch.ids.len() >= room {
                        branch.finish_reason = Some(full);
                    }
                    if branch.finish_reason.is_some() || !drafts.agrees(right, branch.ids.last(), session) {
                        break;
                    }
                    right += 1;
                }
                if let Row::Logits(logits) = &rows[right] {
                    session.retract(i, rows.len() - 1 - right, logits);
                }
                timings.drafted_tokens += rows.len() - 1;
                timings.accepted_tokens += right;
                match branch.finish_reason {
                    Some(finish_reason) => {
                        let text = branch.end();
                        on_event(Event::End { index, text: &text, finish_reason });
                    }
                    None => {
                        let last = branch.ids.last().copied();
                        let more = drafts.next(branch, cache_room, session);
                        pushes.extend(last.into_iter().chain(more.iter().copied()).map(|id| (i, id)));
                    }
                }
            }
            live.retain(|&i| branches[i].finish_reason.is_none());
            let Some(&first) = live.first() else { break };
            let drafted = pushes.len() > live.len();
            let push = |&(i, id): &(usize, u32)| {
                let branch: &Branch<'_> = &branches[i];
                Push { branch: i, id, context: [self.prompt, &branch.ids], draw: self.draw(branch, i) }
            };
            let own: Vec<Push<'_>> = pushes[..live.len()].iter().map(push).collect();
            let free = live.iter().all(|&i| branches[i].remaining.is_empty());
            // Where tokens are free the GPU chooses them. A draft waits until it has no step begun.
            if free && (!drafted || session.is_ahead(&own, sampler, &stops)) {
                drafts.postpone();
                // All that are left are as long as the first.
                let left = if drafted { 0 } else { room - branches[first].ids.len() - 1 };
                let ids = session.decode(&own, left, sampler, &stops).await?;
                rows = ids.into_iter().map(Row::Chosen).collect();
            } else {
                rows = session.step(&pushes).await?.into_iter().map(Row::Logits).collect();
            }
        }
        let unfinished = branches.iter_mut().map(|branch| std::mem::take(&mut branch.unfinished)).collect();
        let candidates = branches.into_iter().map(|branch| Candidate {
            text: branch.text,
            ids: branch.ids,
            finish_reason: branch.finish_reason.unwrap_or(full),
        });
        timings.rate();
        Ok(Made { candidates: candidates.collect(), unfinished, prefill, timings })
    }

    fn branch(&self) -> Branch<'_> {
        Branch {
            decoder: self.tokenizer.stream(false).dropping(self.taken.len()),
            until: Until::new(&self.stops.texts),
            lines: Lines::new(self.lines),
            remaining: self.taken.to_vec(),
            ids: Vec::new(),
            text: String::new(),
            unfinished: String::new(),
            finish_reason: None,
        }
    }

    fn choose(
        &self,
        sampler: &mut Sampler,
        logits: &[f32],
        branch: &Branch<'_>,
        candidate: usize,
        healer: Option<&Healer<'_>>,
    ) -> Result<u32> {
        let held_to = healer.filter(|_| !branch.remaining.is_empty()).map(|healer| healer.allowed(&branch.remaining));
        let context = self.prompt.iter().chain(&branch.ids).copied();
        sampler.sample(logits, held_to.as_deref(), context, self.draw(branch, candidate))
    }

    /// The draw of the next token.
    fn draw(&self, branch: &Branch<'_>, candidate: usize) -> Draw {
        Draw { stream: self.stream + candidate as u32, step: branch.ids.len() as u32 }
    }
}
