//! The faster of the CPU and an adapter that runs on the CPU itself, for the model at hand.

use crate::tuning;
use incoder::{Cancel, Config, Device, Gpu, LoadOptions, Session};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The file, in the user's cache folder.
const FILE: &str = "incoder/devices.json";
/// A layer wider than this is not tried: making its weights up would take longer than the first text.
const WIDEST: usize = 2048;
/// Ids of the model that is timed in place of the real one.
const VOCABULARY: usize = 4096;
/// What is timed: a short prompt and the tokens after it, as in a hole that is filled. Of a wide layer an eighth of both.
const PROMPT_TOKENS: usize = 128;
const NEW_TOKENS: usize = 24;
const WIDE: usize = 1024;

/// Seconds for the same work.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Times {
    cpu: f64,
    adapter: f64,
}

/// The CPU where it computes this model faster than `gpu`, which is software: measured with a layer or two of random weights the
/// first time, then taken from the file. Without a file to keep it in, and for the widest models, it is `gpu`.
pub fn of(gpu: Gpu, config: &Config) -> Device {
    let Some(file) = tuning::file(FILE, |name| std::env::var_os(name)) else { return Device::Gpu(gpu) };
    if config.d_model > WIDEST {
        return Device::Gpu(gpu);
    }
    let Config { d_model, heads, ffn_dim, .. } = config;
    let layers = config.num_layers.min(2);
    let report = gpu.report();
    let version = env!("CARGO_PKG_VERSION");
    let key = format!("{}, {}, {layers}x{d_model}x{ffn_dim}, {heads} heads, {version}", report.name, report.driver);
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let mut kept: BTreeMap<String, Times> = serde_json::from_str(&text).unwrap_or_default();
    let known = kept.get(&key).copied();
    let Some(times) = known.or_else(|| pollster::block_on(measure(&gpu, config, layers))) else {
        return Device::Gpu(gpu);
    };
    if known.is_none() {
        kept.insert(key, times);
        let written = serde_json::to_string_pretty(&kept).ok().map(|text| tuning::write(&file, &text));
        if let Some(Err(error)) = written {
            tracing::info!("what was measured is not kept: {error}");
        }
    }
    let (cpu, adapter, name) = (times.cpu * 1e3, times.adapter * 1e3, &report.name);
    tracing::info!("{layers} layers: {cpu:.1} ms on the CPU, {adapter:.1} ms on {name}");
    if times.cpu < times.adapter { Device::Cpu } else { Device::Gpu(gpu) }
}

/// `None` where one of the two cannot be timed.
async fn measure(gpu: &Gpu, config: &Config, layers: usize) -> Option<Times> {
    let json = serde_json::json!({
        "model_type": "xglm",
        "num_layers": layers,
        "d_model": config.d_model,
        "attention_heads": config.heads,
        "ffn_dim": config.ffn_dim,
        "vocab_size": config.vocab_size.min(VOCABULARY),
    });
    let small = Config::from_json(&json.to_string()).ok()?;
    let cpu = seconds(&small, &Device::Cpu).await?;
    let adapter = seconds(&small, &Device::Gpu(gpu.clone())).await?;
    Some(Times { cpu: cpu.as_secs_f64(), adapter: adapter.as_secs_f64() })
}

/// A prompt and what follows it, after one round that does not count.
async fn seconds(config: &Config, device: &Device) -> Option<Duration> {
    let share = if config.d_model < WIDE { 1 } else { 8 };
    let (prompt_tokens, new_tokens) = (PROMPT_TOKENS / share, NEW_TOKENS / share);
    let options = LoadOptions { context: Some(prompt_tokens + new_tokens), ..LoadOptions::default() };
    let mut session = Session::load_random(config, 1, device, &options, &mut |_| ()).await.ok()?;
    let mut best = Duration::MAX;
    for round in 0..3 {
        let prompt: Vec<u32> = (0..prompt_tokens as u32).map(|i| (i * 37 + round) % config.vocab_size as u32).collect();
        let start = Instant::now();
        session.set_context(&prompt, &Cancel::default()).await.ok()?;
        session.fork(1, new_tokens).ok()?;
        for i in 0..new_tokens as u32 {
            session.step(&[(0, i % config.vocab_size as u32)]).await.ok()?;
        }
        if round > 0 {
            best = best.min(start.elapsed());
        }
    }
    Some(best)
}
