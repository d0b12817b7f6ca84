//! A stranger's config.json and generation_config.json.
#![no_main]

use incoder::{Config, MemoryFolder, json};
use libfuzzer_sys::fuzz_target;

const CONFIG: &[u8] = br#"{"model_type":"xglm","num_layers":1,"d_model":8,"attention_heads":1,"ffn_dim":8,"vocab_size":8}"#;

fuzz_target!(|text: &str| {
    let _ = Config::from_json(text);
    // What is JSON is read as what it is.
    if let Ok(value) = serde_json::from_str::<serde_json::Value>(text) {
        assert_eq!(json::parse(text).as_ref(), Ok(&value));
    }
    let _ = json::strict_fields(text);
    let folder = MemoryFolder::default().with("config.json", CONFIG).with("generation_config.json", text.as_bytes().to_vec());
    let _ = pollster::block_on(Config::read(&folder));
});
