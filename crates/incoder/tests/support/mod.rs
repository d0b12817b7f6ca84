//! The oracle's models on the CPU, for tests of what is built on a session.
#![allow(dead_code)]

use incoder::{Device, Kv, LoadOptions, MemoryFolder, Session, Tokenizer};
use std::path::{Path, PathBuf};

/// A file of tests/oracle.
pub fn oracle(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle").join(file)
}

/// A JSON file of tests/oracle.
pub fn read<T: serde::de::DeserializeOwned>(file: &str) -> T {
    serde_json::from_str(&std::fs::read_to_string(oracle(file)).unwrap()).unwrap()
}

/// tok-512 or tok-2k.
pub fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_json(&std::fs::read_to_string(oracle(name).join("tokenizer.json")).unwrap()).unwrap()
}

/// A model of the oracle on the CPU, with an exact cache.
pub fn session(model: &str, weights: &str, context: Option<usize>) -> Session {
    let file = |name: &str| std::fs::read(oracle(model).join(name)).unwrap();
    let folder =
        MemoryFolder::default().with("config.json", file("config.json")).with("model.safetensors", file(weights));
    let options = LoadOptions { context, kv: Kv::F32 };
    pollster::block_on(Session::load(&folder, &Device::Cpu, &options, &mut |_| ())).unwrap()
}

/// tiny-a in fp16.
pub fn tiny(context: Option<usize>) -> Session {
    session("tiny-a", "model.fp16.safetensors", context)
}
