//! Logits → the next token: greedy, temperature, top-k, top-p, repetition penalty, with draws anyone can repeat.

use crate::error::{Error, Result};
use bytemuck::{Pod, Zeroable};
use std::cmp::Ordering;

/// How the next token is chosen. The defaults are the published `infill()`'s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 takes the most probable token, the lowest id among equals; higher is more random.
    pub temperature: f64,
    /// Only so many most probable tokens are drawn from (with any equal to the last of them); 0: no limit.
    pub top_k: usize,
    /// Only the most probable tokens that together reach this probability are drawn from; 1: all.
    pub top_p: f64,
    /// Only tokens at least this often as probable as the most probable one are drawn from; 0: all.
    pub min_p: f64,
    /// Makes tokens that are already in the context less probable; 1: no change.
    pub repetition_penalty: f64,
    /// How many of the context's last tokens the repetition penalty looks at; [`usize::MAX`]: all of them.
    pub repeat_last_n: usize,
    /// Equal seeds give equal texts on the same adapter.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Sampling {
    /// The published `infill()`'s.
    pub const DEFAULT: Self = Self {
        temperature: 0.2,
        top_k: 50,
        top_p: 0.95,
        min_p: 0.0,
        repetition_penalty: 1.0,
        repeat_last_n: usize::MAX,
        seed: 0,
    };

    /// The most probable token each time.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// What the repetition penalty looks at of a prompt and the tokens after it.
    pub(crate) fn penalized<'t>(&self, prompt: &'t [u32], ids: &'t [u32]) -> [&'t [u32]; 2] {
        let last = |tokens: &'t [u32], n: usize| &tokens[tokens.len().saturating_sub(n)..];
        let ids = last(ids, self.repeat_last_n);
        [last(prompt, self.repeat_last_n - ids.len()), ids]
    }

    /// Whether two runs give the same tokens whatever the seed.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Argument`] with the number and its range.
    pub fn check(&self) -> Result<()> {
        let Self { temperature, top_p, min_p, repetition_penalty, .. } = *self;
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(Error::argument(format!("temperature is {temperature}, expected 0 or more")));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(Error::argument(format!("top_p is {top_p}, expected more than 0 and at most 1")));
        }
        if !(0.0..=1.0).contains(&min_p) {
            return Err(Error::argument(format!("min_p is {min_p}, expected 0 to 1 (0 changes nothing)")));
        }
        if !(repetition_penalty.is_finite() && repetition_penalty > 0.0) {
            return Err(Error::argument(format!(
                "repetition_penalty is {repetition_penalty}, expected more than 0 (1 changes nothing)"
            )));
        }
        Ok(())
    }
}

/// The most tokens that the GPU tells of a distribution: `MOST` of choose.wgsl.
pub(crate) const MOST_TOLD: usize = 65;

/// Which random number a draw takes: equal draws are equal numbers, whatever was drawn before.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
pub struct Draw {
    /// The candidate, or the attempt at a region.
    pub stream: u32,
    /// The token's number in it.
    pub step: u32,
}

/// Chooses tokens; keeps its working memory between them.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    banned: Vec<u32>,
    scores: Vec<f32>,
    entries: Vec<(f32, u32)>,
    kept: Vec<(u32, f64)>,
}

impl Sampler {
    /// A sampler that never chooses a `banned` token.
    ///
    /// # Errors
    /// As [`Sampling::check`].
    pub fn new(sampling: Sampling, banned: Vec<u32>) -> Result<Self> {
        sampling.check()?;
        Ok(Self { sampling, banned, scores: Vec::new(), entries: Vec::new(), kept: Vec::new() })
    }

    /// The tokens that a draw chooses from and their probabilities, most probable first, the lower id among equals.
    ///
    /// `allowed` (None: all) are the only tokens considered; `context` is what the repetition penalty looks at.
    /// As in Hugging Face transformers: penalty, then bans, temperature, top-k (ties with the last one kept), top-p, min-p.
    ///
    /// # Errors
    /// [`Error::Tensor`] for logits that are not numbers, [`Error::Argument`] when no token is left.
    pub fn distribution(
        &mut self,
        logits: &[f32],
        allowed: Option<&[u32]>,
        context: impl IntoIterator<Item = u32>,
    ) -> Result<&[(u32, f64)]> {
        self.collect(logits, allowed, context)?;
        self.narrow()
    }

    /// The same, of the entries that were collected.
    fn narrow(&mut self) -> Result<&[(u32, f64)]> {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let entries = &mut self.entries;
        let Some(best) = entries.iter().copied().reduce(|a, b| if order(&a, &b).is_gt() { b } else { a }) else {
            return Err(Error::argument("no token may follow: every one is ruled out"));
        };
        self.kept.clear();
        if temperature == 0.0 {
            self.kept.push((best.1, 1.0));
            return Ok(&self.kept);
        }
        if top_k > 0 && top_k < entries.len() {
            let (_, last, _) = entries.select_nth_unstable_by(top_k - 1, order);
            let least = last.0;
            entries.retain(|entry| entry.0 >= least);
        }
        let weight = |entry: &(f32, u32)| ((f64::from(entry.0) - f64::from(best.0)) / temperature).exp();
        let total: f64 = entries.iter().map(weight).sum();
        let (mut sum, mut sorted) = (0.0, 0);
        for i in 0..entries.len() {
            // A token stays while those before it have not reached top_p; the first always does.
            if i > 0 && top_p < 1.0 && sum >= top_p * total {
                break;
            }
            if i == sorted {
                // Twice as many each time: a small nucleus never pays for sorting the vocabulary.
                let rest = &mut entries[sorted..];
                let n = rest.len().min(64.max(sorted));
                if n < rest.len() {
                    rest.select_nth_unstable_by(n, order);
                }
                rest[..n].sort_unstable_by(order);
                sorted += n;
            }
            // The weight of the most probable token is 1.
            if i > 0 && weight(&entries[i]) < min_p {
                break;
            }
            sum += weight(&entries[i]);
            self.kept.push((entries[i].1, weight(&entries[i])));
        }
        self.kept.iter_mut().for_each(|kept| kept.1 /= sum);
        Ok(&self.kept)
    }

    /// Chooses the next token. For the arguments see [`Sampler::distribution`].
    ///
    /// # Errors
    /// As [`Sampler::distribution`].
    pub fn sample(
        &mut self,
        logits: &[f32],
        allowed: Option<&[u32]>,
        context: impl IntoIterator<Item = u32>,
        draw: Draw,
    ) -> Result<u32> {
        self.collect(logits, allowed, context)?;
        self.draw(draw)
    }

    /// How it chooses.
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// Ids that it never chooses.
    pub(crate) fn banned(&self) -> &[u32] {
        &self.banned
    }

    /// How many of the best tokens have to be known to choose among them: one more than are drawn from. `None` when that is more
    /// than the GPU tells.
    pub(crate) fn told(&self) -> Option<usize> {
        let drawn_from = if self.sampling.is_greedy() { 1 } else { self.sampling.top_k };
        (1..MOST_TOLD).contains(&drawn_from).then_some(drawn_from + 1)
    }

    /// As [`Sampler::sample`], from the [`Sampler::told`] best tokens and their logits, best first. `None` when these do not tell.
    pub(crate) fn sample_told(&mut self, told: &[(f32, u32)], context: [&[u32]; 2], draw: Draw) -> Result<Option<u32>> {
        let penalty = self.sampling.repetition_penalty as f32;
        self.entries.clear();
        for &(logit, id) in told {
            let seen = penalty != 1.0 && context.iter().any(|part| part.contains(&id));
            self.entries.push((if seen { penalized(logit, penalty) } else { logit }, id));
        }
        let Some(count) = self.told().filter(|_| !told.is_empty()) else { return Ok(None) };
        if let Some(&(beyond, _)) = self.entries.get(count - 1) {
            self.entries.truncate(count - 1);
            let least = self.entries.iter().fold(f32::INFINITY, |least, entry| least.min(entry.0));
            // What equals the last one is drawn from, too, and the GPU divides with a rounding of its own.
            let unsure = if penalty == 1.0 {
                least == beyond && !self.sampling.is_greedy()
            } else {
                least - beyond <= 1e-5 * least.abs()
            };
            if unsure {
                return Ok(None);
            }
        }
        self.draw(draw).map(Some)
    }

    /// Chooses among the entries.
    fn draw(&mut self, draw: Draw) -> Result<u32> {
        let at = f64::from(uniform(self.sampling.seed, draw));
        let kept = self.narrow()?;
        let mut sum = 0.0;
        let chosen = kept.iter().find(|(_, probability)| {
            sum += probability;
            at < sum
        });
        // Rounding may leave the sum a hair below 1.
        chosen.or(kept.last()).map(|kept| kept.0).ok_or_else(|| Error::argument("no token may follow"))
    }

    fn collect(
        &mut self,
        logits: &[f32],
        allowed: Option<&[u32]>,
        context: impl IntoIterator<Item = u32>,
    ) -> Result<()> {
        check_logits(logits)?;
        let scores = &mut self.scores;
        scores.clear();
        scores.extend_from_slice(logits);
        let penalty = self.sampling.repetition_penalty as f32;
        if penalty != 1.0 {
            for id in context {
                // From the logit itself, so that a token seen twice is not punished twice.
                if let Some(&logit) = logits.get(id as usize) {
                    scores[id as usize] = penalized(logit, penalty);
                }
            }
        }
        for &id in &self.banned {
            if let Some(score) = scores.get_mut(id as usize) {
                *score = f32::NEG_INFINITY;
            }
        }
        self.entries.clear();
        let possible = |&id: &u32| scores.get(id as usize).is_some_and(|&score| score > f32::NEG_INFINITY);
        let entry = |id: u32| (scores[id as usize], id);
        match allowed {
            Some(ids) => self.entries.extend(ids.iter().copied().filter(possible).map(entry)),
            None => self.entries.extend((0..scores.len() as u32).filter(possible).map(entry)),
        }
        Ok(())
    }
}

fn penalized(logit: f32, penalty: f32) -> f32 {
    if logit < 0.0 { logit * penalty } else { logit / penalty }
}

/// Descending scores, ascending ids.
fn order(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1))
}

fn check_logits(logits: &[f32]) -> Result<()> {
    match logits.iter().position(|logit| logit.is_nan() || *logit == f32::INFINITY) {
        Some(id) => {
            Err(Error::tensor("logits", format!("{} at id {id} of {}, expected a number", logits[id], logits.len())))
        }
        None => Ok(()),
    }
}

/// The random number in [0, 1) of a draw: 24 bits of a hash in 32-bit arithmetic, which a shader can compute too.
///
/// Source: `pcg4d` of Jarzynski & Olano, "Hash Functions for GPU Rendering", JCGT 9(3), 2020.
pub fn uniform(seed: u64, draw: Draw) -> f32 {
    let mix = |[x, y, z, w]: [u32; 4]| {
        let x = x.wrapping_add(y.wrapping_mul(w));
        let y = y.wrapping_add(z.wrapping_mul(x));
        let z = z.wrapping_add(x.wrapping_mul(y));
        [x, y, z, w.wrapping_add(y.wrapping_mul(z))]
    };
    let key = [seed as u32, (seed >> 32) as u32, draw.stream, draw.step];
    let mixed = mix(key.map(|v| v.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)));
    let [_, _, _, w] = mix(mixed.map(|v| v ^ (v >> 16)));
    (w >> 8) as f32 / (1 << 24) as f32
}

/// The log probabilities of one distribution.
#[derive(Debug, Clone, Copy)]
pub struct LogProbs<'a> {
    logits: &'a [f32],
    log_total: f64,
}

impl<'a> LogProbs<'a> {
    /// Of these logits.
    ///
    /// # Errors
    /// [`Error::Tensor`] for logits that are not numbers, or none at all.
    pub fn new(logits: &'a [f32]) -> Result<Self> {
        check_logits(logits)?;
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if most == f32::NEG_INFINITY {
            return Err(Error::tensor("logits", format!("none of the {} is finite", logits.len())));
        }
        let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - f64::from(most)).exp()).sum();
        Ok(Self { logits, log_total: f64::from(most) + total.ln() })
    }

    /// The log probability of `id`.
    pub fn of(&self, id: u32) -> f64 {
        self.logits.get(id as usize).map_or(f64::NEG_INFINITY, |&logit| f64::from(logit) - self.log_total)
    }

    /// The `n` most probable ids, the lower id first among equals.
    pub fn top(&self, n: usize) -> Vec<(u32, f64)> {
        let mut entries: Vec<(f32, u32)> = self.logits.iter().copied().zip(0..).collect();
        if n < entries.len() {
            entries.select_nth_unstable_by(n, order);
            entries.truncate(n);
        }
        entries.sort_unstable_by(order);
        entries.into_iter().map(|(_, id)| (id, self.of(id))).collect()
    }
}
