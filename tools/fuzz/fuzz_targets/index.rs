//! A stranger's model.safetensors.index.json: its shards are files of the same folder, or it is refused.
#![no_main]

use incoder::checkpoint::Checkpoint;
use incoder::{Config, MemoryFolder};
use libfuzzer_sys::fuzz_target;

const CONFIG: &str = r#"{"model_type":"xglm","num_layers":1,"d_model":8,"attention_heads":1,"ffn_dim":8,"vocab_size":8}"#;

fuzz_target!(|bytes: &[u8]| {
    let config = Config::from_json(CONFIG).expect("a valid config");
    for index in ["model.safetensors.index.json", "pytorch_model.bin.index.json"] {
        let folder = MemoryFolder::default().with(index, bytes.to_vec()).with("a", b"not a shard".as_slice());
        assert!(pollster::block_on(Checkpoint::open(&folder, &config)).is_err());
    }
});
