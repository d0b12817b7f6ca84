//! A stranger's pytorch_model.bin: read or refused, never executed, never a panic and never much memory.
//! Seeds: tests/oracle/torch-formats.
#![no_main]

use incoder::checkpoint::Checkpoint;
use incoder::{Config, MemoryFolder};
use libfuzzer_sys::fuzz_target;

const CONFIG: &str = r#"{"model_type":"xglm","num_layers":1,"d_model":8,"attention_heads":1,"ffn_dim":8,"vocab_size":8}"#;

fuzz_target!(|bytes: &[u8]| {
    let config = Config::from_json(CONFIG).expect("a valid config");
    let folder = MemoryFolder::default().with("pytorch_model.bin", bytes.to_vec());
    let _ = pollster::block_on(Checkpoint::open(&folder, &config));
});
