//! Models of random weights: the same on every device, and fit to be measured.

use incoder::{Cancel, Config, Device, Gpu, GpuOptions, Kv, LoadOptions, Session};
use pollster::block_on;

/// The greedy continuation of a few tokens, and the logits of its first token.
fn greedy(config: &Config, seed: u32, device: &Device) -> (Vec<u32>, Vec<f32>) {
    let options = LoadOptions { context: Some(32), kv: Kv::F32, ..Default::default() };
    let mut session = block_on(Session::load_random(config, seed, device, &options, &mut |_| ())).unwrap();
    let mut tokens = vec![2, 300, 301, 302];
    let mut first = Vec::new();
    for _ in 0..16 {
        block_on(session.set_context(&tokens, &Cancel::default())).unwrap();
        let logits = session.logits();
        if first.is_empty() {
            first = logits.to_vec();
        }
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        tokens.push(best as u32);
    }
    (tokens.split_off(4), first)
}

#[test]
fn logits_are_those_of_a_model_and_the_same_on_every_device() {
    let gpu = Device::Gpu(block_on(Gpu::open(&GpuOptions::default())).unwrap());
    for (layers, seed) in [(1, 1), (4, 1), (4, 2)] {
        let json = format!(
            r#"{{"model_type":"xglm","num_layers":{layers},"d_model":256,"attention_heads":4,"ffn_dim":1024,"vocab_size":2000}}"#
        );
        let config = Config::from_json(&json).unwrap();
        let (tokens, logits) = greedy(&config, seed, &gpu);
        let mean = logits.iter().sum::<f32>() / logits.len() as f32;
        let std = (logits.iter().map(|l| (l - mean).powi(2)).sum::<f32>() / logits.len() as f32).sqrt();
        assert!((2.0..4.5).contains(&std), "{std}");
        let mut distinct = tokens.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() >= 4, "{layers} layers, seed {seed}: {tokens:?}");
        let (expected, reference) = greedy(&config, seed, &Device::Cpu);
        assert_eq!(tokens, expected);
        assert!(logits.iter().zip(&reference).all(|(a, b)| (a - b).abs() < 1e-3));
    }
}
