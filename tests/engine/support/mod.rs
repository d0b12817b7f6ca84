//! The oracle's models, on the CPU and on every variant of the GPU kernels.
#![allow(dead_code)]

use incoder::{Device, Disabled, Gpu, GpuOptions, Kv, LoadOptions, MemoryFolder, Session, Tokenizer, Tuning};
use std::path::{Path, PathBuf};

/// A text without what half a character at its end is decoded to: the engine leaves it out, the published code shows it.
pub fn whole(text: &str) -> &str {
    text.trim_end_matches(char::REPLACEMENT_CHARACTER)
}

/// A file of tests/oracle.
pub fn oracle(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/oracle").join(file)
}

/// A JSON file of tests/oracle.
pub fn read<T: serde::de::DeserializeOwned>(file: &str) -> T {
    serde_json::from_str(&std::fs::read_to_string(oracle(file)).unwrap()).unwrap()
}

/// tok-512 or tok-2k.
pub fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_json(&std::fs::read_to_string(oracle(name).join("tokenizer.json")).unwrap()).unwrap()
}

/// A model folder made of `model`'s config.json and its safetensors file `weights`.
pub fn folder(model: &str, weights: &str) -> MemoryFolder {
    let file = |name: &str| std::fs::read(oracle(model).join(name)).unwrap();
    MemoryFolder::default().with("config.json", file("config.json")).with("model.safetensors", file(weights))
}

/// The model in `folder` on `device`.
pub fn load(folder: &MemoryFolder, device: &Device, kv: Kv, context: Option<usize>) -> Session {
    pollster::block_on(Session::load(folder, device, &LoadOptions { context, kv, ..Default::default() }, &mut |_| ()))
        .unwrap()
}

/// A model of the oracle on the CPU, with an exact cache.
pub fn session(model: &str, weights: &str, context: Option<usize>) -> Session {
    load(&folder(model, weights), &Device::Cpu, Kv::F32, context)
}

/// tiny-a in fp16.
pub fn tiny(context: Option<usize>) -> Session {
    session("tiny-a", "model.fp16.safetensors", context)
}

/// An open GPU.
pub fn gpu(options: GpuOptions) -> Device {
    let opened = pollster::block_on(Gpu::open(&options));
    Device::Gpu(opened.expect("the tests need a Vulkan adapter; cargo xtask setup installs one"))
}

/// The CPU reference, and the GPU as the adapter at hand would be used.
pub fn cpu_and_gpu() -> Vec<(&'static str, Device)> {
    vec![("cpu", Device::Cpu), ("gpu", gpu(GpuOptions::default()))]
}

/// The CPU reference and every variant of the GPU kernels, forced.
pub fn devices() -> Vec<(&'static str, Device)> {
    let disabled = Disabled { subgroups: true, ..Default::default() };
    let hardware = Some(Tuning::HARDWARE);
    let software = Some(Tuning::SOFTWARE);
    vec![
        ("cpu", Device::Cpu),
        ("software", gpu(GpuOptions { tuning: software, ..Default::default() })),
        ("software, no subgroups", gpu(GpuOptions { tuning: software, disabled, ..Default::default() })),
        ("hardware", gpu(GpuOptions { tuning: hardware, ..Default::default() })),
        ("hardware, no subgroups", gpu(GpuOptions { tuning: hardware, disabled, ..Default::default() })),
        ("split matrices", gpu(GpuOptions { max_binding_bytes: Some(300_000), ..Default::default() })),
    ]
}
