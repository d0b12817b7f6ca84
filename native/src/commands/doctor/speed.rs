//! How fast prefill and decoding are, in two sizes.

use super::greedy::{demo, greedy};
use crate::cli::{Kv, Shape};
use crate::failure::Result;
use incoder::{Cancel, Device, Gpu, LoadOptions, Session};
use serde::Serialize;
use std::time::Instant;

const PROMPT_TOKENS: usize = 128;
const NEW_TOKENS: usize = 32;
const ROUNDS: usize = 3;
/// Random weights are the same every time.
const SEED: u32 = 1;

/// What is timed.
#[derive(Debug, Clone, Copy)]
pub enum Model {
    Demo,
    Small,
}

pub const MODELS: [Model; 2] = [Model::Demo, Model::Small];

/// The best of some rounds.
#[derive(Debug, Serialize)]
pub struct Speed {
    pub model: &'static str,
    pub prompt_tokens: usize,
    pub prefill_tokens_per_second: f64,
    pub new_tokens: usize,
    pub decode_tokens_per_second: f64,
}

pub fn measure(gpu: &Gpu, model: Model) -> Result<Speed> {
    let device = Device::Gpu(gpu.clone());
    let context = PROMPT_TOKENS + NEW_TOKENS;
    let (model, mut session) = match model {
        Model::Demo => ("demo", demo(&device, Kv::F16, context)?),
        Model::Small => ("small", small(&device, context)?),
    };
    let (mut prefill, mut decode) = (0f64, 0f64);
    // The first round compiles, and does not count.
    for round in 0..=ROUNDS {
        let prompt = prompt(&session, round);
        let start = Instant::now();
        pollster::block_on(session.set_context(&prompt, &Cancel::default()))?;
        let filled = start.elapsed().as_secs_f64();
        pollster::block_on(greedy(&mut session, &prompt, NEW_TOKENS))?;
        let made = start.elapsed().as_secs_f64() - filled;
        if round > 0 {
            prefill = prefill.max(PROMPT_TOKENS as f64 / filled);
            decode = decode.max((NEW_TOKENS - 1) as f64 / made);
        }
    }
    Ok(Speed {
        model,
        prompt_tokens: PROMPT_TOKENS,
        prefill_tokens_per_second: prefill,
        new_tokens: NEW_TOKENS,
        decode_tokens_per_second: decode,
    })
}

/// Random weights of a small size.
pub fn small(device: &Device, context: usize) -> Result<Session> {
    let config = Shape::Small.config()?;
    let options = LoadOptions { context: Some(context), kv: Kv::F16.into(), ..LoadOptions::default() };
    Ok(pollster::block_on(Session::load_random(&config, SEED, device, &options, &mut |_| ()))?)
}

/// Tokens without a pattern, of which no other `round` has the first.
pub fn prompt(session: &Session, round: usize) -> Vec<u32> {
    let vocab = session.config().vocab_size;
    (0..PROMPT_TOKENS).map(|i| ((i * 7919 + 13 * round + 5) % vocab) as u32).collect()
}
