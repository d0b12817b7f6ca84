//! How probable a model finds a text, token by token, and the ranking that the paper builds on it.

use crate::cancel::Cancel;
use crate::error::Result;
use crate::sampling::LogProbs;
use crate::session::Session;
use crate::text::tokenizer::{Sentinels, Tokenizer};
use serde::Serialize;

/// The log probabilities of a sequence of tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// The tokens.
    pub ids: Vec<u32>,
    /// The log probability of each token after those before it; none for the first.
    pub logprobs: Vec<Option<f64>>,
    /// Entry t: the most probable tokens after token t, so the last entry predicts the next token.
    pub top: Vec<Vec<(u32, f64)>>,
    /// Of all log probabilities; none when there is only one token.
    pub sum: Option<f64>,
    /// Their mean.
    pub mean: Option<f64>,
    /// How often the context window was filled: more than once for a sequence that is longer than it.
    pub windows: usize,
}

/// Scores `ids`, with the `top_n` most probable tokens after each.
///
/// A sequence that the context window cannot hold is scored in windows that overlap by half, as is usual for perplexity: every
/// token is scored once, in the first window that holds it, after half a window of other tokens or more.
///
/// # Errors
/// What [`Session::logits_of_all`] refuses, and [`crate::Error::Tensor`] for logits that are not numbers.
pub async fn score(session: &mut Session, ids: &[u32], top_n: usize, cancel: &Cancel) -> Result<Score> {
    score_streaming(session, ids, top_n, cancel, &mut |_, _| ()).await
}

/// [`score`] that hands out (index, log probability) of each token after the first as soon as it is known.
///
/// # Errors
/// As [`score`].
pub async fn score_streaming(
    session: &mut Session,
    ids: &[u32],
    top_n: usize,
    cancel: &Cancel,
    on_token: &mut dyn FnMut(usize, f64),
) -> Result<Score> {
    let mut logprobs: Vec<Option<f64>> = vec![None; ids.len()];
    let mut top = vec![Vec::new(); ids.len()];
    let capacity = session.capacity();
    let stride = (capacity / 2).max(1);
    // The tokens whose next token is scored already, and the windows so far.
    let (mut done, mut windows) = (0, 0);
    loop {
        let start = windows * stride;
        let window = &ids[start..ids.len().min(start + capacity)];
        let mut failed = Ok(());
        let mut each = |t: usize, logits: &[f32]| {
            let t = start + t;
            if t < done {
                return;
            }
            match LogProbs::new(logits) {
                Ok(probabilities) => {
                    if let (Some(&next), Some(logprob)) = (ids.get(t + 1), logprobs.get_mut(t + 1)) {
                        on_token(t + 1, probabilities.of(next));
                        *logprob = Some(probabilities.of(next));
                    }
                    if let (true, Some(top)) = (top_n > 0, top.get_mut(t)) {
                        *top = probabilities.top(top_n);
                    }
                }
                Err(error) => failed = Err(error),
            }
        };
        session.logits_of_all(window, cancel, &mut each).await?;
        failed?;
        windows += 1;
        done = start + window.len();
        if done == ids.len() {
            break;
        }
    }
    let known = logprobs.iter().flatten().count();
    let sum = (known > 0).then(|| logprobs.iter().flatten().sum());
    let mean = sum.map(|sum: f64| sum / known as f64);
    Ok(Score { ids: ids.to_vec(), logprobs, top, sum, mean, windows })
}

/// Scores `ids` as what follows `prompt`, of which nothing is computed that the KV cache holds. Entry i of `top` is for the place of
/// token i.
///
/// # Errors
/// As [`Session::set_context`] and [`Session::step`], and [`crate::Error::Tensor`] for logits that are not numbers.
pub async fn score_after(
    session: &mut Session,
    prompt: &[u32],
    ids: &[u32],
    top_n: usize,
    cancel: &Cancel,
) -> Result<Score> {
    let (mut logprobs, mut top) = (Vec::with_capacity(ids.len()), Vec::with_capacity(ids.len()));
    session.set_context(prompt, cancel).await?;
    let mut note = |id: u32, logits: &[f32]| -> Result<()> {
        let probabilities = LogProbs::new(logits)?;
        logprobs.push(Some(probabilities.of(id)));
        top.push(if top_n > 0 { probabilities.top(top_n) } else { Vec::new() });
        Ok(())
    };
    if let Some((&first, rest)) = ids.split_first() {
        note(first, session.logits())?;
        session.fork(1, rest.len())?;
        let steps = ids.chunks(session.max_step()).zip(rest.chunks(session.max_step()));
        for (given, wanted) in steps {
            cancel.check()?;
            let pushes: Vec<(usize, u32)> = given.iter().take(wanted.len()).map(|&id| (0, id)).collect();
            let logits = session.step(&pushes).await?;
            wanted.iter().zip(&logits).try_for_each(|(&id, logits)| note(id, logits))?;
        }
    }
    let known = logprobs.len();
    let sum = (known > 0).then(|| logprobs.iter().flatten().sum());
    Ok(Score { ids: ids.to_vec(), logprobs, top, sum, mean: sum.map(|sum: f64| sum / known as f64), windows: 1 })
}

/// What a ranking goes by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RankBy {
    /// The log probability of the whole document.
    Total,
    /// The same, a token.
    #[default]
    Mean,
}

/// One candidate's place.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ranked {
    /// Which candidate.
    pub index: usize,
    /// The log probability of the document with it.
    pub sum: f64,
    /// The same, a token.
    pub mean: f64,
}

/// How to rank.
#[derive(Debug, Clone, Default)]
pub struct RankOptions {
    /// Total or mean.
    pub by: RankBy,
    /// What literal sentinels in the texts are.
    pub sentinels: Sentinels,
    /// Stops the work.
    pub cancel: Cancel,
}

/// Ranks `candidates` by how probable the document `left + candidate + right` is, the best first: the paper's
/// left-to-right reranking.
///
/// # Errors
/// As [`score`], and [`crate::Error::Argument`] for a literal sentinel that is not allowed.
pub async fn rerank(
    session: &mut Session,
    tokenizer: &Tokenizer,
    left: &str,
    candidates: &[String],
    right: &str,
    options: &RankOptions,
) -> Result<Vec<Ranked>> {
    let mut ranked = Vec::with_capacity(candidates.len());
    for (index, candidate) in candidates.iter().enumerate() {
        let ids = tokenizer.encode(&format!("{left}{candidate}{right}"), options.sentinels)?;
        let score = score(session, &ids, 0, &options.cancel).await?;
        ranked.push(Ranked { index, sum: score.sum.unwrap_or(0.0), mean: score.mean.unwrap_or(0.0) });
    }
    let key = |ranked: &Ranked| if options.by == RankBy::Total { ranked.sum } else { ranked.mean };
    ranked.sort_by(|a, b| key(b).total_cmp(&key(a)));
    Ok(ranked)
}
