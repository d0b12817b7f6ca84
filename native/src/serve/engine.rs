//! The one thread that owns the session, and serves the requests of the queue one after the other.

use super::completion::{Answer, Completion, Document, End, Options, Text, TokenLogprob, Told};
use super::lines::LineLimits;
use super::metrics::Metrics;
use super::problem::Problem;
use super::queue::{Job, Queue};
use crate::document::whole_characters;
use crate::failure::Failure;
use crate::text::MARK;
use incoder::{
    Candidate, Error, Event, GenerateOptions, HoleEnd, InfillOptions, LineEnds, Prompt, Sentinels, Session, Timings,
    Tokenizer, Window, generate, infill,
};
use std::time::Instant;

/// Serves requests until the device is lost.
pub fn serve(session: &mut Session, tokenizer: &Tokenizer, queue: &Queue, metrics: &Metrics) -> Failure {
    loop {
        let job = queue.take();
        metrics.begin();
        let bytes = job.completion.document.bytes();
        let waited = job.queued.elapsed();
        let started = Instant::now();
        let answered = pollster::block_on(complete(session, tokenizer, &job));
        metrics.set_steps(session.steps());
        metrics.end();
        let ms = started.elapsed().as_secs_f64() * 1e3;
        let mut lost = None;
        match answered {
            Ok(answer) => {
                metrics.count(&answer);
                tracing::debug!(
                    "{bytes} bytes, waited {:.0} ms, {ms:.0} ms: {} prompt tokens ({} cached), {} new tokens",
                    waited.as_secs_f64() * 1e3,
                    answer.prompt_tokens,
                    answer.cached_tokens,
                    answer.completion_tokens(),
                );
                let _ = job.told.send(Told::Done(Box::new(answer)));
            }
            Err(error) => {
                tracing::debug!("{bytes} bytes, {ms:.0} ms: {error}");
                lost = matches!(error, Error::DeviceLost { .. }).then(|| Failure::from(error.clone()));
                let _ = job.told.send(Told::Failed(Problem::from(error)));
            }
        }
        if let Some(failure) = lost {
            return failure;
        }
    }
}

/// The texts of a request as they grow.
struct Growing<'a> {
    job: &'a Job,
    ends: LineEnds,
    texts: Vec<(String, LineLimits)>,
}

impl<'a> Growing<'a> {
    fn new(job: &'a Job, ends: LineEnds) -> Self {
        let Options { candidates, min_indentation, time_limit, .. } = job.completion.options;
        let empty = || (String::new(), LineLimits::new(min_indentation, time_limit));
        Self { job, ends, texts: (0..candidates).map(|_| empty()).collect() }
    }

    fn on_event(&mut self, event: Event<'_>) {
        match event {
            Event::Prefilled { prefill, .. } => {
                self.tell(Told::Begun { prompt_tokens: prefill.cached + prefill.computed });
            }
            Event::Token { index, id, text } => self.push(index, Some(id), text),
            Event::End { index, text, .. } => self.push(index, None, text),
            _ => {}
        }
    }

    /// More text of a completion; its end, where no token comes with it.
    fn push(&mut self, index: usize, id: Option<u32>, text: &str) {
        let Some((whole, limits)) = self.texts.get_mut(index) else { return };
        let text = match self.job.completion.document {
            Document::Hole { .. } => whole_characters(text),
            _ => text.into(),
        };
        let mut text = limits.push(&in_document(self.ends, &text));
        if id.is_none() {
            text += &limits.finish();
        }
        *whole += &text;
        if !text.is_empty() {
            self.tell(Told::Text { index, id: id.unwrap_or_default(), text });
        }
        if self.texts.iter().all(|(_, limits)| limits.is_over()) {
            self.job.cancel.cancel();
        }
    }

    fn tell(&self, told: Told) {
        if self.job.told.send(told).is_err() {
            self.job.cancel.cancel();
        }
    }
}

/// Text of the model as the client's document has it.
fn in_document(ends: LineEnds, text: &str) -> String {
    match ends {
        LineEnds::AsTheyAre => text.to_owned(),
        // Piece by piece: a pair must not be torn.
        ends => ends.to_document(&text.replace('\r', "")).into_owned(),
    }
}

async fn complete(session: &mut Session, tokenizer: &Tokenizer, job: &Job) -> incoder::Result<Answer> {
    let Completion { document, options, .. } = &job.completion;
    match document {
        Document::Hole { before, after } => fill(session, tokenizer, job, before, after).await,
        Document::Text(text) if options.echo && options.logprobs.is_some() => {
            scored(session, tokenizer, job, tokenizer.encode(text, Sentinels::Literal)?, 1).await
        }
        Document::Ids(ids) if options.echo && options.logprobs.is_some() => {
            scored(session, tokenizer, job, ids.clone(), 0).await
        }
        Document::Text(text) => {
            let text = text.strip_prefix(MARK).unwrap_or(text);
            let ends = LineEnds::of([text]);
            go_on(session, tokenizer, job, Prompt::Text(&ends.to_model(text)), ends).await
        }
        Document::Ids(ids) => go_on(session, tokenizer, job, Prompt::Ids(ids), LineEnds::AsTheyAre).await,
    }
}

/// Fills a hole, as `incoder infill` does.
async fn fill(
    session: &mut Session,
    tokenizer: &Tokenizer,
    job: &Job,
    before: &str,
    after: &str,
) -> incoder::Result<Answer> {
    let options = &job.completion.options;
    let before = before.strip_prefix(MARK).unwrap_or(before);
    let ends = LineEnds::of([before, after]);
    let parts = [before, after].map(|part| ends.to_model(part).into_owned());
    let infill_options = InfillOptions {
        max_new_tokens: options.max_tokens,
        sampling: options.sampling,
        candidates: options.candidates,
        end: if options.single_line { HoleEnd::Line } else { HoleEnd::Auto },
        stop: options.stop.clone(),
        max_prompt_tokens: room_for_candidates(session, options),
        cancel: job.cancel.clone(),
        ..InfillOptions::default()
    };
    let mut growing = Growing::new(job, ends);
    let made = infill(session, tokenizer, &parts, &infill_options, &mut |event| growing.on_event(event)).await?;
    let window = made.windows.first().copied();
    let candidates = made.infills.into_iter().chain(made.alternatives);
    let candidates =
        candidates.map(|made| Candidate { text: made.text, ids: made.ids, finish_reason: made.finish_reason });
    let made = Made {
        candidates: candidates.collect(),
        prompt_tokens: made.prompt_tokens,
        cached_tokens: made.cached_tokens,
        window,
        timings: made.timings,
    };
    made.answer(session, tokenizer, growing).await
}

/// Continues a text, as `incoder generate` does.
async fn go_on(
    session: &mut Session,
    tokenizer: &Tokenizer,
    job: &Job,
    prompt: Prompt<'_>,
    ends: LineEnds,
) -> incoder::Result<Answer> {
    let options = &job.completion.options;
    let generate_options = GenerateOptions {
        max_new_tokens: options.max_tokens,
        sampling: options.sampling,
        stop: if options.single_line { [&options.stop[..], &["\n".to_owned()]].concat() } else { options.stop.clone() },
        ignore_eos: options.ignore_eos,
        candidates: options.candidates,
        max_prompt_tokens: room_for_candidates(session, options),
        cancel: job.cancel.clone(),
        ..GenerateOptions::default()
    };
    let mut growing = Growing::new(job, ends);
    let made = generate(session, tokenizer, prompt, &generate_options, &mut |event| growing.on_event(event)).await?;
    let made = Made {
        candidates: made.candidates,
        prompt_tokens: made.prompt_tokens,
        cached_tokens: made.cached_tokens,
        window: made.window,
        timings: made.timings,
    };
    made.answer(session, tokenizer, growing).await
}

/// Every candidate has its own tokens in the KV cache, so a prompt for several leaves more room.
fn room_for_candidates(session: &Session, options: &Options) -> Option<usize> {
    let capacity = session.capacity();
    let new = options.max_tokens.saturating_mul(options.candidates).min(capacity / 2);
    (options.candidates > 1).then_some(capacity - new)
}

/// What infilling and generating have in common.
struct Made {
    candidates: Vec<Candidate>,
    prompt_tokens: usize,
    cached_tokens: usize,
    window: Option<Window>,
    timings: Timings,
}

impl Made {
    async fn answer(
        self,
        session: &mut Session,
        tokenizer: &Tokenizer,
        growing: Growing<'_>,
    ) -> incoder::Result<Answer> {
        let Options { stop, logprobs, .. } = &growing.job.completion.options;
        let prompt: Vec<u32> = session.tokens().iter().copied().take(self.prompt_tokens).collect();
        let mut texts = Vec::with_capacity(self.candidates.len());
        for (made, (text, limits)) in self.candidates.into_iter().zip(growing.texts) {
            let end = match limits.is_over() {
                true => End::Limit,
                false => End::new(made.finish_reason, stop, &tokenizer.decode(&made.ids, false)?),
            };
            let logprobs = match logprobs {
                Some(top) => of_new_tokens(session, &prompt, &made.ids, *top).await?,
                None => Vec::new(),
            };
            texts.push(Text { text, ids: made.ids, end, logprobs });
        }
        let Self { prompt_tokens, cached_tokens, window, timings, .. } = self;
        Ok(Answer { texts, prompt_tokens, cached_tokens, window, timings })
    }
}

/// The log probabilities of `ids` after `prompt`, which is still in the KV cache.
async fn of_new_tokens(
    session: &mut Session,
    prompt: &[u32],
    ids: &[u32],
    top: usize,
) -> incoder::Result<Vec<TokenLogprob>> {
    let score = incoder::score_after(session, prompt, ids, top, &incoder::Cancel::default()).await?;
    let all = ids.iter().zip(score.logprobs).zip(score.top);
    Ok(all.map(|((&id, logprob), top)| TokenLogprob { id, logprob, top }).collect())
}

/// A text with the log probabilities of all its tokens, and of those that continue it. The first `hidden` tokens are not the
/// client's.
async fn scored(
    session: &mut Session,
    tokenizer: &Tokenizer,
    job: &Job,
    ids: Vec<u32>,
    hidden: usize,
) -> incoder::Result<Answer> {
    let options = &job.completion.options;
    let top = options.logprobs.unwrap_or_default();
    let mut answer = match options.max_tokens {
        0 => {
            let nothing = Text { text: String::new(), ids: Vec::new(), end: End::Limit, logprobs: Vec::new() };
            Answer {
                texts: vec![nothing],
                prompt_tokens: ids.len(),
                cached_tokens: 0,
                window: None,
                timings: Timings::default(),
            }
        }
        _ => go_on(session, tokenizer, job, Prompt::Ids(&ids), LineEnds::AsTheyAre).await?,
    };
    let score = incoder::score(session, &ids, top, &job.cancel).await?;
    // Entry t of `top` is for the token after t.
    let tops = std::iter::once(Vec::new()).chain(score.top);
    let all = score.ids.iter().zip(score.logprobs).zip(tops).skip(hidden);
    let mut of_prompt: Vec<TokenLogprob> = all.map(|((&id, logprob), top)| TokenLogprob { id, logprob, top }).collect();
    if let Some(first) = of_prompt.first_mut() {
        // OpenAI's has none for it.
        (first.logprob, first.top) = (None, Vec::new());
    }
    for text in &mut answer.texts {
        text.logprobs = of_prompt.iter().cloned().chain(std::mem::take(&mut text.logprobs)).collect();
    }
    Ok(answer)
}
