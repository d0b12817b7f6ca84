//! Whole models against the oracle: every device variant, fp32 and fp16 KV cache.

use crate::support::{cpu_and_gpu, devices, folder, load, read};
use incoder::{Cancel, Device, Kv, Session};
use serde_json::Value;

/// fp32 KV: what the kernels' arithmetic may differ from the oracle's.
const F32_TOLERANCE: f32 = 2e-3;
/// fp16 KV: what rounding keys and values may add.
const F16_TOLERANCE: f32 = 2e-2;

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// The lowest of the highest.
fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

/// Top-1 minus top-2.
fn margin(logits: &[f32]) -> f32 {
    let top = argmax(logits) as usize;
    let second = logits.iter().enumerate().filter(|(i, _)| *i != top).map(|(_, v)| *v).fold(f32::MIN, f32::max);
    logits[top] - second
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// `n` greedy tokens after `prompt`, and the smallest margin met.
fn greedy(session: &mut Session, prompt: &[u32], n: usize) -> (Vec<u32>, f32) {
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
fn long_sequence(len: u64, vocab: u64) -> Vec<u32> {
    (0..len).map(|i| if i == 0 { 2 } else { (4 + (i * i * 31 + i * 7919 + 13) % (vocab - 8)) as u32 }).collect()
}

fn logits_after(session: &mut Session, prompt: &[u32]) -> Vec<f32> {
    pollster::block_on(session.set_context(prompt, &Cancel::default())).unwrap();
    session.logits().to_vec()
}

/// Every recorded sequence of one model on every device.
fn check_sequences(model: &str) {
    check_sequences_of(model, "expected.fp16.json", "model.fp16.safetensors", devices());
}

fn check_sequences_of(model: &str, expected: &str, weights: &str, devices: Vec<(&'static str, Device)>) {
    let expected = read::<Value>(&format!("{model}/{expected}"));
    let folder = folder(model, weights);
    for (name, device) in devices {
        let mut session = load(&folder, &device, Kv::F32, Some(168));
        let mut worst = 0f32;
        for case in expected["sequences"].as_array().unwrap() {
            let prompt = ids(&case["ids"]);
            let logits = logits_after(&mut session, &prompt);
            worst = worst.max(max_difference(&logits, &floats(&case["last_logits"])));
            let (tokens, _) = greedy(&mut session, &prompt, 24);
            assert_eq!(tokens, ids(&case["greedy24"]), "{model} on {name}: {}", case["name"]);
        }
        println!("{model} on {name}, fp32 KV: largest logit error {worst:.2e}");
        assert!(worst < F32_TOLERANCE, "{model} on {name}: {worst}");
    }
}

#[test]
fn tiny_sequences() {
    check_sequences("tiny-a");
}

#[test]
fn small_sequences() {
    check_sequences("small-b");
}

/// Queries that share keys and values, biases and none, heads of their own and tied ones, every kind of scaled positions.
#[test]
fn llama_sequences() {
    for model in ["mha", "llama3-tied", "linear-biases", "yarn-head-dim", "qwen2-tied", "qwen2"] {
        let devices = devices().into_iter().filter(|(name, _)| !name.contains("no subgroups")).collect();
        check_sequences_of(&format!("llama/{model}"), "expected.json", "model.safetensors", devices);
    }
}

#[test]
fn fp16_kv_stays_within_its_rounding() {
    for model in ["tiny-a", "small-b"] {
        let expected = read::<Value>(&format!("{model}/expected.fp16.json"));
        let folder = folder(model, "model.fp16.safetensors");
        for (name, device) in devices() {
            let mut session = load(&folder, &device, Kv::F16, Some(160));
            let mut worst = 0f32;
            for case in expected["sequences"].as_array().unwrap() {
                let prompt = ids(&case["ids"]);
                let logits = logits_after(&mut session, &prompt);
                let error = max_difference(&logits, &floats(&case["last_logits"]));
                worst = worst.max(error);
                if case["greedy_min_margin"].as_f64().unwrap() > 2.0 * f64::from(F16_TOLERANCE) {
                    let (tokens, _) = greedy(&mut session, &prompt, 24);
                    assert_eq!(tokens, ids(&case["greedy24"]), "{model} on {name}: {}", case["name"]);
                }
            }
            println!("{model} on {name}, fp16 KV: largest logit error {worst:.2e}");
            assert!(worst < F16_TOLERANCE, "{model} on {name}: {worst}");
        }
    }
}

#[test]
fn token_log_probabilities() {
    for model in ["tiny-a", "small-b"] {
        let expected = read::<Value>(&format!("{model}/expected.fp16.json"));
        let folder = folder(model, "model.fp16.safetensors");
        for (name, device) in devices() {
            let mut session = load(&folder, &device, Kv::F32, Some(160));
            for case in expected["sequences"].as_array().unwrap() {
                let prompt = ids(&case["ids"]);
                let recorded = floats(&case["token_logprobs"]);
                let mut got = Vec::new();
                let mut each = |i: usize, logits: &[f32]| {
                    if let Some(&next) = prompt.get(i + 1) {
                        let max = logits.iter().copied().fold(f32::MIN, f32::max);
                        let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
                        got.push(logits[next as usize] - max - sum.ln() as f32);
                    }
                };
                pollster::block_on(session.logits_of_all(&prompt, &Cancel::default(), &mut each)).unwrap();
                let error = max_difference(&got, &recorded);
                assert!(error < F32_TOLERANCE, "{model} on {name}: {} {error}", case["name"]);
            }
        }
    }
}

#[test]
fn a_padded_batch_equals_single_runs() {
    for model in ["tiny-a", "small-b"] {
        let expected = &read::<Value>(&format!("{model}/expected.fp16.json"))["left_padded_batch"];
        let folder = folder(model, "model.fp16.safetensors");
        for (name, device) in cpu_and_gpu() {
            let mut session = load(&folder, &device, Kv::F32, Some(160));
            for i in 0..expected["input_ids"].as_array().unwrap().len() {
                let mask = ids(&expected["attention_mask"][i]);
                let padded = ids(&expected["input_ids"][i]);
                let prompt: Vec<u32> = padded.iter().zip(&mask).filter(|(_, m)| **m == 1).map(|(id, _)| *id).collect();
                let logits = logits_after(&mut session, &prompt);
                let error = max_difference(&logits, &floats(&expected["last_logits"][i]));
                assert!(error < F32_TOLERANCE, "{model} on {name}, row {i}: {error}");
                assert_eq!(
                    greedy(&mut session, &prompt, 24).0,
                    ids(&expected["greedy24"][i]),
                    "{model} on {name}, row {i}"
                );
            }
        }
    }
}

#[test]
fn long_contexts() {
    for model in ["tiny-a", "small-b"] {
        let expected = read::<Value>(&format!("{model}/expected.fp16.json"));
        let folder = folder(model, "model.fp16.safetensors");
        // The reference and one GPU variant: the oracle's 2100 tokens are far beyond any chunk size.
        for (name, device) in cpu_and_gpu() {
            let mut session = load(&folder, &device, Kv::F32, Some(2176));
            for case in expected["long"].as_array().unwrap() {
                let len = case["len"].as_u64().unwrap();
                let prompt = long_sequence(len, session.config().vocab_size as u64);
                assert_eq!(prompt[..8], ids(&case["first8"])[..]);
                let logits = logits_after(&mut session, &prompt);
                let top = ids(&case["top5_ids"]);
                let got: Vec<f32> = top.iter().map(|&id| logits[id as usize]).collect();
                let error = max_difference(&got, &floats(&case["top5_logits"]));
                assert!(error < F32_TOLERANCE, "{model} on {name}, {len} tokens: {error}");
                assert_eq!(argmax(&logits), top[0]);
                let (tokens, smallest) = greedy(&mut session, &prompt, 8);
                assert!(
                    tokens == ids(&case["greedy8"]) || smallest < 2.0 * F32_TOLERANCE,
                    "{model} on {name}, {len} tokens"
                );
            }
        }
    }
}

#[test]
fn every_form_of_the_checkpoint_is_the_same_model() {
    let expected = read::<Value>("tiny-a/expected.fp16.json");
    let case = &expected["sequences"][2];
    let prompt = ids(&case["ids"]);
    for weights in ["variants/no_prefix.fp16.safetensors", "variants/with_head_and_positions.fp16.safetensors"] {
        for (name, device) in cpu_and_gpu() {
            let mut session = load(&folder("tiny-a", weights), &device, Kv::F32, Some(160));
            let error = max_difference(&logits_after(&mut session, &prompt), &floats(&case["last_logits"]));
            assert!(error < F32_TOLERANCE, "{weights} on {name}: {error}");
        }
    }
}

#[test]
fn an_fp32_checkpoint_is_exact_on_the_cpu_and_rounds_to_fp16_on_the_gpu() {
    let exact = read::<Value>("tiny-a/expected.fp32.json");
    let folder = folder("tiny-a", "model.fp32.safetensors");
    for (name, device) in devices() {
        let mut session = load(&folder, &device, Kv::F32, Some(160));
        // Rounding every weight to 11 bits moves these logits, of magnitude 7, by about a hundredth.
        let tolerance = if name == "cpu" { F32_TOLERANCE } else { 2e-2 };
        for case in exact["sequences"].as_array().unwrap() {
            let logits = logits_after(&mut session, &ids(&case["ids"]));
            let error = max_difference(&logits, &floats(&case["last_logits"]));
            assert!(error < tolerance, "{name}: {} {error}", case["name"]);
        }
    }
}

#[test]
fn a_kept_prefix_gives_the_tokens_of_a_fresh_run() {
    let folder = folder("small-b", "model.fp16.safetensors");
    let long = long_sequence(150, 2048);
    for (name, device) in devices() {
        let mut session = load(&folder, &device, Kv::F16, Some(256));
        let fresh = greedy(&mut session, &long, 6).0;
        // Another ending, then the first one again: only what differs is computed.
        let mut other = long[..130].to_vec();
        other.extend([5, 6, 7]);
        greedy(&mut session, &other, 4);
        let prefill = pollster::block_on(session.set_context(&long, &Cancel::default())).unwrap();
        assert_eq!((prefill.cached, prefill.computed), (130, 20), "{name}");
        assert_eq!(greedy(&mut session, &long, 6).0, fresh, "{name}");
        // A shorter context is all there, but for the logits of its last token.
        let prefill = pollster::block_on(session.set_context(&long[..100], &Cancel::default())).unwrap();
        assert_eq!((prefill.cached, prefill.computed), (99, 1), "{name}");
        let short = greedy(&mut session, &long[..100], 6).0;
        assert_eq!(greedy(&mut load(&folder, &device, Kv::F16, Some(256)), &long[..100], 6).0, short, "{name}");
    }
}

#[test]
fn candidates_equal_single_runs() {
    let folder = folder("small-b", "model.fp16.safetensors");
    let prompt = long_sequence(37, 2048);
    let first = [3u32, 500, 77, 1999, 4];
    for (name, device) in devices() {
        let mut session = load(&folder, &device, Kv::F32, Some(128));
        let singles: Vec<Vec<u32>> = first
            .iter()
            .map(|&token| {
                let mut prompt = prompt.clone();
                prompt.push(token);
                greedy(&mut session, &prompt, 5).0
            })
            .collect();
        pollster::block_on(async {
            session.set_context(&prompt, &Cancel::default()).await.unwrap();
            assert_eq!(session.fork(first.len(), 16).unwrap(), 16);
            let mut pushes: Vec<(usize, u32)> = first.iter().copied().enumerate().collect();
            let mut together = vec![Vec::new(); first.len()];
            for length in 0..5 {
                let logits = session.step(&pushes).await.unwrap();
                for (&(branch, _), logits) in pushes.iter().zip(&logits) {
                    together[branch].push(argmax(logits));
                }
                // Ragged: branch b stops after b + 1 tokens.
                pushes = (0..first.len()).filter(|&b| b > length).map(|b| (b, together[b][length])).collect();
                if pushes.is_empty() {
                    break;
                }
            }
            for (branch, tokens) in together.iter().enumerate() {
                assert_eq!(tokens[..], singles[branch][..tokens.len()], "branch {branch} on {name}");
                assert_eq!(tokens.len(), (branch + 1).min(5));
            }
        });
    }
}

#[test]
fn a_cancelled_prefill_leaves_a_usable_cache() {
    let folder = folder("tiny-a", "model.fp16.safetensors");
    let prompt = long_sequence(90, 512);
    for (name, device) in devices() {
        let mut session = load(&folder, &device, Kv::F32, Some(128));
        let expected = greedy(&mut session, &prompt, 8).0;
        let cancel = Cancel::default();
        cancel.cancel();
        let other = long_sequence(100, 500);
        let cancelled = pollster::block_on(session.set_context(&other, &cancel));
        assert!(matches!(cancelled, Err(incoder::Error::Cancelled)), "{name}");
        assert_eq!(greedy(&mut session, &prompt, 8).0, expected, "{name}");
        assert!(margin(session.logits()) >= 0.0);
    }
}

#[test]
fn a_context_beyond_all_memory_is_refused_with_numbers() {
    let folder = folder("tiny-a", "model.fp16.safetensors");
    for (name, device) in cpu_and_gpu() {
        let options = incoder::LoadOptions { context: Some(1 << 40), ..Default::default() };
        let refused = pollster::block_on(Session::load(&folder, &device, &options, &mut |_| ())).unwrap_err();
        let limit = matches!(refused, incoder::Error::Limit { .. } | incoder::Error::OutOfMemory { .. });
        assert!(limit && refused.to_string().contains("needs"), "{name}: {refused}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_numbers() {
    let folder = folder("tiny-a", "model.fp16.safetensors");
    for (name, device) in cpu_and_gpu() {
        let mut session = load(&folder, &device, Kv::F32, Some(16));
        let mut refused = |tokens: &[u32]| {
            pollster::block_on(session.set_context(tokens, &Cancel::default())).unwrap_err().to_string()
        };
        assert_eq!(refused(&[2; 17]), "the context is full: 17 tokens are needed, it holds 16", "{name}");
        assert_eq!(refused(&[]), "the prompt is empty: give at least one token", "{name}");
        assert_eq!(refused(&[2, 512]), "token id 512 is out of range: the vocabulary has 512 ids, 0 to 511", "{name}");
        pollster::block_on(session.set_context(&[2; 14], &Cancel::default())).unwrap();
        assert_eq!(session.fork(1, 10).unwrap(), 2);
        pollster::block_on(session.step(&[(0, 5)])).unwrap();
        pollster::block_on(session.step(&[(0, 5)])).unwrap();
        assert!(matches!(
            pollster::block_on(session.step(&[(0, 5)])),
            Err(incoder::Error::Context { need: 17, have: 16, .. })
        ));
    }
}
