//! What is timed: each job is something that a user waits for. On token ids, so that no tokenizer is needed.

use super::Measurement;
use super::table::{Row, Spread};
use super::work::Work;
use crate::failure::Result;
use incoder::{Cancel, Draw, KernelTime, Push, Sampler, Sampling, Session};
use std::fmt;
use std::time::Instant;

/// Tokens on both sides of the hole, and in it.
const LEFT: usize = 256;
const RIGHT: usize = 128;
const HOLE: usize = 32;
/// A sentinel for the hole, one after the right side, and the one that begins the new text.
const SENTINELS: usize = 3;
/// Tokens that were typed into the hole before.
const BEGUN: usize = 8;
/// Tokens in a hole that begins eight lines early, and of the line that is typed.
const LOOKED_BACK: usize = 96;
const LINE: usize = 12;
/// New tokens of a warm-up: kernels are compiled by then.
const WARM_UP_TOKENS: usize = 2;

/// What is measured together.
#[derive(Debug, Clone, Copy)]
pub enum Job {
    /// A prompt, and the first new token after it.
    Prompt { prompt: usize },
    /// New tokens, one at a time, after `depth` others.
    Decode { depth: usize, new: usize },
    /// A prompt and then new tokens.
    PromptAndDecode { prompt: usize, new: usize },
    /// A hole filled.
    Infill,
    /// The first token for the same hole, after one more token was typed before it.
    InfillTyped,
    /// The first token for the same hole, after one more token was typed into it.
    InfillBegun,
    /// The first token for a hole that begins some lines before the cursor, after a line was typed.
    InfillLine,
}

/// A loaded model, and what jobs need beside it.
pub struct Bench {
    session: Session,
    sampler: Sampler,
    pub work: Work,
    cancel: Cancel,
}

/// Milliseconds until the first part was done, and in all.
#[derive(Debug, Clone, Copy)]
pub struct Time {
    first_ms: f64,
    ms: f64,
}

impl Bench {
    pub fn new(session: Session, work: Work, cancel: &Cancel) -> Result<Self> {
        let sampler = Sampler::new(Sampling::default(), Vec::new())?;
        Ok(Self { session, sampler, work, cancel: cancel.clone() })
    }

    /// `n` ids without a pattern.
    fn ids(&self, n: usize) -> Vec<u32> {
        let vocab = self.session.config().vocab_size as u64;
        // Knuth's multiplicative hash.
        (1..=n as u64).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) % vocab).map(|id| id as u32).collect()
    }

    /// A prompt of which the cache holds nothing.
    fn fresh(&self, n: usize) -> Vec<u32> {
        let (mut ids, vocab) = (self.ids(n), self.session.config().vocab_size as u32);
        if let (Some(first), Some(cached)) = (ids.first_mut(), self.session.tokens().first()) {
            *first = (cached + 1) % vocab;
        }
        ids
    }

    /// Most tokens of one step.
    pub fn largest_step(&self) -> usize {
        self.session.prefill_chunk()
    }

    /// The kernels of a step of `tokens` tokens after `depth` others.
    pub async fn profile(&mut self, depth: usize, tokens: usize) -> Result<Vec<KernelTime>> {
        self.set_context(&self.ids(depth.max(1))).await?;
        Ok(self.session.profile(tokens).await?)
    }

    async fn set_context(&mut self, ids: &[u32]) -> Result<()> {
        self.session.set_context(ids, &self.cancel).await?;
        Ok(())
    }

    /// The next token, chosen as when generating.
    fn sample(&mut self, step: usize) -> Result<u32> {
        let draw = Draw { stream: 0, step: step as u32 };
        Ok(self.sampler.sample(self.session.logits(), None, [], draw)?)
    }

    /// New tokens after the context, each chosen after the one before it.
    async fn decode(&mut self, new: usize) -> Result<()> {
        self.generate(new + 1, Instant::now()).await?;
        Ok(())
    }

    /// A text of `new` tokens, each chosen after the one before it; the time until the first.
    async fn generate(&mut self, new: usize, start: Instant) -> Result<f64> {
        self.session.fork(1, new)?;
        let mut id = self.sample(0)?;
        let first = ms_since(start);
        for step in 1..new {
            let draw = Draw { stream: 0, step: step as u32 };
            let push = Push { id, draw, ..Push::default() };
            id = self.session.decode(&[push], new - 1 - step, &mut self.sampler, &[]).await?[0];
        }
        Ok(first)
    }
}

impl Measurement for Job {
    fn need(&self) -> usize {
        match *self {
            Self::Prompt { prompt } => prompt,
            Self::Decode { depth, new } => depth.max(1).saturating_add(new),
            Self::PromptAndDecode { prompt, new } => prompt.saturating_add(new),
            Self::Infill => LEFT + RIGHT + SENTINELS + HOLE,
            Self::InfillTyped => LEFT + 1 + RIGHT + SENTINELS,
            Self::InfillBegun => LEFT + RIGHT + SENTINELS + BEGUN + 1,
            Self::InfillLine => LEFT + RIGHT + SENTINELS + LOOKED_BACK + LINE,
        }
    }

    fn rows(
        &self,
        bench: &mut Bench,
        repetitions: usize,
        limit: Option<f64>,
        done: &mut dyn FnMut(),
    ) -> Result<Vec<Row>> {
        let once = |repetition| pollster::block_on(self.time(bench, repetition));
        let times = super::repeated(repetitions, done, once)?;
        Ok(self.figures(&times, &bench.work, limit))
    }
}

impl Job {
    /// Does it once. Repetition 0 is the warm-up, for which a few new tokens are enough.
    async fn time(self, bench: &mut Bench, repetition: usize) -> Result<Time> {
        let most = if repetition == 0 { WARM_UP_TOKENS } else { usize::MAX };
        let rest = bench.ids(RIGHT + SENTINELS);
        match self {
            Self::Prompt { prompt } => {
                let ids = bench.fresh(prompt);
                let start = Instant::now();
                bench.set_context(&ids).await?;
                let first_ms = ms_since(start);
                bench.sample(0)?;
                Ok(Time { first_ms, ms: ms_since(start) })
            }
            Self::Decode { depth, new } => {
                // A text has a first token, before which there is nothing to decode from.
                bench.set_context(&bench.ids(depth.max(1))).await?;
                let start = Instant::now();
                bench.decode(new.min(most)).await?;
                Ok(Time::whole(start))
            }
            Self::PromptAndDecode { prompt, new } => {
                let ids = bench.fresh(prompt);
                let start = Instant::now();
                bench.set_context(&ids).await?;
                let first_ms = ms_since(start);
                bench.decode(new.min(most)).await?;
                Ok(Time { first_ms, ms: ms_since(start) })
            }
            Self::Infill => {
                let ids = [bench.fresh(LEFT), rest].concat();
                let start = Instant::now();
                bench.set_context(&ids).await?;
                let first_ms = bench.generate(HOLE.min(most), start).await?;
                Ok(Time { first_ms, ms: ms_since(start) })
            }
            Self::InfillTyped | Self::InfillBegun | Self::InfillLine => {
                // Another token each time: what stands before it is in the cache, and nothing behind it is.
                let typed = vec![(repetition % bench.session.config().vocab_size) as u32];
                let ids = match self {
                    Self::InfillTyped => [bench.ids(LEFT), typed, rest].concat(),
                    Self::InfillLine => {
                        [bench.ids(LEFT), rest, bench.ids(LOOKED_BACK), typed, bench.ids(LINE - 1)].concat()
                    }
                    _ => [bench.ids(LEFT), rest, bench.ids(BEGUN), typed].concat(),
                };
                let start = Instant::now();
                bench.set_context(&ids).await?;
                bench.sample(0)?;
                Ok(Time::whole(start))
            }
        }
    }

    /// The rows of its times; `limit` in GB/s.
    fn figures(self, times: &[Time], work: &Work, limit: Option<f64>) -> Vec<Row> {
        let (first, all) = (Spread::of(times.iter().map(|t| t.first_ms)), Spread::of(times.iter().map(|t| t.ms)));
        // Where there is no limit there is no GPU, and weights and cache are not those counted here.
        let reads = |bytes: f64, row: Row| {
            let gb = limit.map(|_| bytes / 1e6 / row.ms.median);
            let limit_percent = gb.zip(limit).map(|(gb, limit)| 100.0 * gb / limit);
            Row { gb_per_second: gb, limit_percent, ..row }
        };
        match self {
            Self::Prompt { prompt } => {
                let bytes = work.prefill_bytes(0, prompt);
                let prefill = Row {
                    gflop_per_second: Some(work.prefill_flop(prompt) / 1e6 / first.median),
                    ..Row::new("prefill", self.to_string(), first).tokens(prompt, prompt)
                };
                let token = Row {
                    prompt_tokens: prompt,
                    new_tokens: 1,
                    ttft_ms: Some(all),
                    ..Row::new("first_token", format!("first token after {prompt}"), all)
                };
                vec![reads(bytes, prefill), reads(bytes, token)]
            }
            Self::Decode { depth, new } => {
                let row = Row {
                    depth_tokens: depth,
                    ms_per_token: Some(all.median / new as f64),
                    ..Row::new("decode", self.to_string(), all).tokens(0, new)
                };
                vec![reads(work.decode_bytes(depth.max(1), new), row)]
            }
            Self::PromptAndDecode { prompt, new } => {
                let row = Row::new("prefill_decode", self.to_string(), all).tokens(prompt, prompt + new);
                vec![reads(work.prefill_bytes(0, prompt) + work.decode_bytes(prompt, new), row)]
            }
            Self::Infill => {
                let prompt = LEFT + RIGHT + SENTINELS;
                let row = Row {
                    prompt_tokens: prompt,
                    new_tokens: HOLE,
                    ttft_ms: Some(first),
                    ..Row::new("infill", self.to_string(), all)
                };
                // The first token comes from the prompt's last step.
                vec![reads(work.prefill_bytes(0, prompt) + work.decode_bytes(prompt, HOLE - 1), row)]
            }
            Self::InfillTyped | Self::InfillBegun | Self::InfillLine => {
                let (test, depth, prompt) = match self {
                    Self::InfillTyped => ("infill_typed", LEFT, 1 + RIGHT + SENTINELS),
                    Self::InfillLine => ("infill_line", LEFT + RIGHT + SENTINELS + LOOKED_BACK, LINE),
                    _ => ("infill_begun", LEFT + RIGHT + SENTINELS + BEGUN, 1),
                };
                let row = Row {
                    prompt_tokens: prompt,
                    depth_tokens: depth,
                    new_tokens: 1,
                    ttft_ms: Some(all),
                    ..Row::new(test, self.to_string(), all)
                };
                vec![reads(work.prefill_bytes(depth, prompt), row)]
            }
        }
    }
}

impl fmt::Display for Job {
    /// The row's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prompt { prompt } => write!(f, "prefill {prompt}"),
            Self::Decode { depth, new } => write!(f, "decode {new} at {depth}"),
            Self::PromptAndDecode { prompt, new } => write!(f, "prefill {prompt}, decode {new}"),
            Self::Infill => write!(f, "infill {LEFT} _ {RIGHT}, {HOLE} new"),
            Self::InfillTyped => write!(f, "infill, a token typed"),
            Self::InfillBegun => write!(f, "infill, a token typed in it"),
            Self::InfillLine => write!(f, "infill, a line typed in it"),
        }
    }
}

impl Time {
    fn whole(start: Instant) -> Self {
        let ms = ms_since(start);
        Self { first_ms: ms, ms }
    }
}

fn ms_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
