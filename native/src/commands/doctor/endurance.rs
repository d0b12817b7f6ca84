//! Full load for a while: the same work again and again has to give the same bits.

use super::greedy::greedy;
use super::speed::{prompt, small};
use crate::failure::Result;
use incoder::{Device, Gpu, Session};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Prompts that take turns, so that nothing is taken from the cache.
const PROMPTS: usize = 2;
const NEW_TOKENS: usize = 32;
const CONTEXT: usize = 256;

#[derive(Debug, PartialEq, Serialize)]
pub struct Endurance {
    pub seconds: f64,
    pub rounds: usize,
    /// Rounds whose results were not those of the first of their kind.
    pub changed: usize,
    /// How the first of them differs.
    pub how: Option<String>,
}

/// What a round gives: the logits after the prompt, bit by bit, and the tokens after them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Round {
    logits: Vec<u32>,
    ids: Vec<u32>,
}

pub fn run(gpu: &Gpu, seconds: u64) -> Result<Endurance> {
    let mut session = small(&Device::Gpu(gpu.clone()), CONTEXT)?;
    let first: Vec<Round> = (0..PROMPTS).map(|which| round(&mut session, which)).collect::<Result<_>>()?;
    let (start, limit) = (Instant::now(), Duration::from_secs(seconds));
    let mut endurance = Endurance { seconds: 0.0, rounds: 0, changed: 0, how: None };
    while start.elapsed() < limit {
        let which = endurance.rounds % PROMPTS;
        let now = round(&mut session, which)?;
        endurance.add(&first[which], &now);
    }
    endurance.seconds = start.elapsed().as_secs_f64();
    Ok(endurance)
}

fn round(session: &mut Session, which: usize) -> Result<Round> {
    let prompt = prompt(session, which);
    pollster::block_on(session.set_context(&prompt, &incoder::Cancel::default()))?;
    let logits = session.logits().iter().map(|logit| logit.to_bits()).collect();
    Ok(Round { logits, ids: pollster::block_on(greedy(session, &prompt, NEW_TOKENS))? })
}

impl Endurance {
    fn add(&mut self, first: &Round, now: &Round) {
        self.rounds += 1;
        if first == now {
            return;
        }
        self.changed += 1;
        let at = first.logits.iter().zip(&now.logits).position(|(a, b)| a != b);
        let what = at.map_or("tokens".to_owned(), |at| {
            let [was, is] = [first.logits[at], now.logits[at]].map(f32::from_bits);
            format!("logit {at} is {is}, and was {was}")
        });
        self.how.get_or_insert(format!("round {}: {what}", self.rounds));
    }

    pub fn wrong(&self) -> Option<String> {
        let Self { seconds, rounds, changed, how } = self;
        let how = how.as_ref()?;
        Some(format!("at full load {changed} of {rounds} rounds in {seconds:.0} s gave another result: {how}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_that_changes_is_seen() {
        let first = Round { logits: vec![1f32.to_bits(), 2f32.to_bits()], ids: vec![3, 4] };
        let mut endurance = Endurance { seconds: 1.0, rounds: 0, changed: 0, how: None };
        endurance.add(&first, &first);
        assert_eq!(endurance.wrong(), None);
        endurance.add(&first, &Round { logits: vec![1f32.to_bits(), 2f32.to_bits() + 1], ..first.clone() });
        endurance.add(&first, &Round { ids: vec![3, 5], ..first.clone() });
        let said = "at full load 2 of 3 rounds in 1 s gave another result: round 2: logit 1 is 2.0000002, and was 2";
        assert_eq!(endurance.wrong().as_deref(), Some(said));
    }
}
