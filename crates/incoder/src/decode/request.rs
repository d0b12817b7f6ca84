//! The decode loop: a prompt is prefilled, then all candidates grow together, token by token, until each has ended.

use crate::cancel::Cancel;
use crate::decode::event::{Candidate, Event, FinishReason, Timings};
use crate::decode::speculative::{DRAFT_TOKENS, Draft, Lookup, draft};
use crate::decode::stops::{LineRules, Lines, Stops, Until};
use crate::error::Result;
use crate::sampling::{Draw, Sampler};
use crate::session::{Prefill, Push, Session};
use crate::text::healing::Healer;
use crate::text::tokenizer::{StreamDecoder, Tokenizer};
use web_time::Instant;

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
    /// Whether a character that the text ends within is U+FFFD in it, as in the published code; otherwise it is left out.
    pub shows_half_characters: bool,
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

    /// The text that was held back, now that nothing follows.
    fn end(&mut self, shows_half_characters: bool) -> String {
        self.unfinished = self.decoder.finish();
        let text = self.until.finish();
        let mut text = self.lines.push(&text).0 + &self.lines.finish();
        if shows_half_characters {
            text += &std::mem::take(&mut self.unfinished);
        }
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
                        let text = branch.end(self.shows_half_characters);
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
                let context = sampler.sampling().penalized(self.prompt, &branch.ids);
                Push { branch: i, id, context, draw: self.draw(branch, i) }
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
        let context = sampler.sampling().penalized(self.prompt, &branch.ids);
        let context = context.into_iter().flatten().copied();
        sampler.sample(logits, held_to.as_deref(), context, self.draw(branch, candidate))
    }

    /// The draw of the next token.
    fn draw(&self, branch: &Branch<'_>, candidate: usize) -> Draw {
        Draw { stream: self.stream + candidate as u32, step: branch.ids.len() as u32 }
    }
}
