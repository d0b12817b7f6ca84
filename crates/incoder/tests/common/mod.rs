//! Shared by the whole-model tests: the oracle's folders, and every way to run a model.
#![allow(dead_code)]

use incoder::{Cancel, Device, Gpu, GpuOptions, Kv, LoadOptions, MemoryFolder, Session, Tuning};
use std::path::{Path, PathBuf};

/// The oracle's files, copied into the crate.
pub fn oracle(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle").join(path)
}

pub fn json(path: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(oracle(path)).unwrap()).unwrap()
}

/// A model folder made of `model`'s config.json and the safetensors file `weights`.
pub fn folder(model: &str, weights: &str) -> MemoryFolder {
    MemoryFolder::default()
        .with("config.json", std::fs::read(oracle(&format!("{model}/config.json"))).unwrap())
        .with("model.safetensors", std::fs::read(oracle(&format!("{model}/{weights}"))).unwrap())
}

pub fn gpu(options: GpuOptions) -> Device {
    Device::Gpu(
        pollster::block_on(Gpu::open(&options))
            .expect("the tests need a Vulkan adapter; cargo xtask setup installs one"),
    )
}

/// The CPU reference and every variant of the GPU kernels, forced.
pub fn devices() -> Vec<(&'static str, Device)> {
    let hardware = Some(Tuning::HARDWARE);
    vec![
        ("cpu", Device::Cpu),
        ("software", gpu(GpuOptions::default())),
        ("software, no subgroups", gpu(GpuOptions { no_subgroups: true, ..Default::default() })),
        ("hardware", gpu(GpuOptions { tuning: hardware, ..Default::default() })),
        ("hardware, no subgroups", gpu(GpuOptions { tuning: hardware, no_subgroups: true, ..Default::default() })),
        ("split matrices", gpu(GpuOptions { max_binding_bytes: Some(1 << 20), ..Default::default() })),
    ]
}

pub fn session(folder: &MemoryFolder, device: &Device, kv: Kv, context: Option<usize>) -> Session {
    pollster::block_on(Session::load(folder, device, &LoadOptions { context, kv }, &mut |_| {})).unwrap()
}

pub fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

pub fn floats(value: &serde_json::Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// The lowest of the highest.
pub fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

/// Top-1 minus top-2.
pub fn margin(logits: &[f32]) -> f32 {
    let top = argmax(logits) as usize;
    let second = logits.iter().enumerate().filter(|(i, _)| *i != top).map(|(_, v)| *v).fold(f32::MIN, f32::max);
    logits[top] - second
}

pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// `n` greedy tokens after `prompt`, and the smallest margin met.
pub fn greedy(session: &mut Session, prompt: &[u32], n: usize) -> (Vec<u32>, f32) {
    pollster::block_on(async {
        session.set_context(prompt, &Cancel::default()).await.unwrap();
        let mut logits = session.logits().to_vec();
        session.fork(1, n).unwrap();
        let (mut tokens, mut smallest) = (Vec::new(), f32::MAX);
        loop {
            tokens.push(argmax(&logits));
            smallest = smallest.min(margin(&logits));
            if tokens.len() == n {
                return (tokens, smallest);
            }
            logits = session.step(&[(0, tokens[tokens.len() - 1])]).await.unwrap().remove(0);
        }
    })
}

/// The oracle's formula for long sequences.
pub fn long_sequence(len: u64, vocab: u64) -> Vec<u32> {
    (0..len).map(|i| if i == 0 { 2 } else { (4 + (i * i * 31 + i * 7919 + 13) % (vocab - 8)) as u32 }).collect()
}
