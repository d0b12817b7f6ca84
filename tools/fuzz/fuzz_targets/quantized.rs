//! A stranger's model.safetensors of quantized weights, read to its end: values or errors, never a panic.
#![no_main]

use incoder::checkpoint::Checkpoint;
use incoder::{Config, MemoryFolder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, &[u8])| {
    let (in_4_bits, bytes) = input;
    let weights = if in_4_bits { "q4" } else { "q8" };
    let quantization = format!(r#"{{"quant_method":"incoder","version":1,"weights":"{weights}","group_size":32}}"#);
    let sizes = r#""num_layers":1,"d_model":40,"attention_heads":1,"ffn_dim":8,"vocab_size":8"#;
    let config = format!(r#"{{"model_type":"xglm",{sizes},"quantization_config":{quantization}}}"#);
    let config = Config::from_json(&config).expect("a valid config");
    let folder = MemoryFolder::default().with("model.safetensors", bytes.to_vec());
    let Ok(checkpoint) = pollster::block_on(Checkpoint::open(&folder, &config)) else { return };
    for (name, shape) in checkpoint.shapes() {
        let rows = if shape.len() > 1 { shape[0] } else { 1 };
        if let Ok(values) = pollster::block_on(checkpoint.rows(name, 0..rows)) {
            assert!(values.iter().all(|value| value.is_finite()));
        }
    }
});
