//! The sampler against the recorded cases and a slow, plain one.

use incoder::{Draw, Error, LogProbs, Sampler, Sampling};
use proptest::prelude::*;
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    model: String,
    sequence: String,
    temperature: f64,
    top_k: usize,
    top_p: f64,
    kept_ids: Vec<u32>,
    probs: Vec<f64>,
}

#[derive(Deserialize)]
struct Expected {
    sequences: Vec<Sequence>,
}

#[derive(Deserialize)]
struct Sequence {
    name: String,
    last_logits: Vec<f32>,
    top5: Vec<Top>,
}

#[derive(Deserialize)]
struct Top {
    ids: Vec<u32>,
}

fn read<T: serde::de::DeserializeOwned>(file: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/oracle").join(file);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn sampling(temperature: f64, top_k: usize, top_p: f64) -> Sampling {
    Sampling { temperature, top_k, top_p, ..Sampling::default() }
}

#[test]
fn keeps_what_hugging_face_keeps() {
    let cases = read::<Cases>("sampling.json").cases;
    assert_eq!(cases.len(), 60);
    for case in cases {
        let expected: Expected = read(&format!("{}/expected.fp16.json", case.model));
        let sequence = expected.sequences.iter().find(|s| s.name == case.sequence).unwrap();
        let mut sampler = Sampler::new(sampling(case.temperature, case.top_k, case.top_p), Vec::new()).unwrap();
        let kept = sampler.distribution(&sequence.last_logits, None, []).unwrap();
        let what = format!("{} {} {} {} {}", case.model, case.sequence, case.temperature, case.top_k, case.top_p);
        assert_eq!(kept.iter().map(|k| k.0).collect::<Vec<_>>(), case.kept_ids, "{what}");
        for (kept, expected) in kept.iter().zip(&case.probs) {
            assert!((kept.1 - expected).abs() < 1e-5, "{what}: {kept:?} is not {expected}");
        }
        let top = LogProbs::new(&sequence.last_logits).unwrap().top(5);
        assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), sequence.top5.last().unwrap().ids, "{what}");
    }
}

/// min-p by its definition: what is at least so often as probable as the most probable token, of what top-k and top-p leave.
#[test]
fn min_p_is_relative_to_the_most_probable_token() {
    let logits = [0.0, 2.0, 1.0, 1.9, -1.0, 0.5].map(|logit: f32| logit);
    for (temperature, top_k, top_p) in [(1.0, 0, 1.0), (0.5, 0, 1.0), (1.0, 3, 1.0), (1.0, 0, 0.7)] {
        let plain = sampling(temperature, top_k, top_p);
        let all = Sampler::new(plain, Vec::new()).unwrap().distribution(&logits, None, []).unwrap().to_vec();
        for min_p in [0.0, 0.05, 0.2, 0.5, 0.95, 1.0] {
            let mut sampler = Sampler::new(Sampling { min_p, ..plain }, Vec::new()).unwrap();
            let kept: Vec<u32> = sampler.distribution(&logits, None, []).unwrap().iter().map(|kept| kept.0).collect();
            let expected: Vec<u32> =
                all.iter().filter(|kept| kept.1 >= min_p * all[0].1 - 1e-12).map(|kept| kept.0).collect();
            assert_eq!(kept, expected, "{temperature} {top_k} {top_p} {min_p}");
        }
    }
    let refused = Sampler::new(Sampling { min_p: 1.5, ..Sampling::default() }, Vec::new()).unwrap_err();
    assert_eq!(refused.to_string(), "min_p is 1.5, expected 0 to 1 (0 changes nothing)");
}

fn next(sampling: Sampling, logits: &[f32], allowed: Option<&[u32]>) -> Result<u32, Error> {
    Sampler::new(sampling, vec![9]).unwrap().sample(logits, allowed, [], Draw { stream: 0, step: 0 })
}

#[test]
fn greedy_takes_the_lowest_of_equals() {
    assert_eq!(next(Sampling::greedy(), &[1.0, 3.0, 3.0, -1.0], None).unwrap(), 1);
    assert_eq!(next(Sampling::greedy(), &[1.0, 3.0, 3.0, 2.0], Some(&[3, 2])).unwrap(), 2);
    assert_eq!(next(Sampling::greedy(), &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 5.0], None).unwrap(), 0);
}

#[test]
fn bad_logits_are_errors() {
    for (logits, says) in [
        (vec![0.0, f32::NAN], "NaN at id 1 of 2"),
        (vec![f32::INFINITY], "inf at id 0"),
        (vec![f32::NEG_INFINITY; 3], "ruled out"),
        (vec![], "ruled out"),
    ] {
        let error = next(Sampling::default(), &logits, None).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert!(LogProbs::new(&logits).is_err());
    }
    assert!(next(Sampling::default(), &[1.0], Some(&[7, 0xffff_ffff])).is_err());
}

#[test]
fn bad_settings_are_errors_with_the_number() {
    let penalty = |repetition_penalty| Sampling { repetition_penalty, ..Sampling::default() };
    for (sampling, says) in [
        (sampling(-0.5, 0, 1.0), "-0.5"),
        (sampling(f64::NAN, 0, 1.0), "NaN"),
        (sampling(1.0, 0, 0.0), "top_p is 0"),
        (sampling(1.0, 0, 1.01), "1.01"),
        (penalty(0.0), "repetition_penalty is 0"),
        (penalty(f64::INFINITY), "inf"),
    ] {
        let error = Sampler::new(sampling, Vec::new()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn repetition_penalty_counts_a_token_once() {
    let sampling = Sampling { repetition_penalty: 2.0, ..sampling(1.0, 0, 1.0) };
    let mut sampler = Sampler::new(sampling, Vec::new()).unwrap();
    let punished = sampler.distribution(&[4.0, -1.0, 1.0], None, [0, 1, 0, 0, 77]).unwrap().to_vec();
    let mut plain = Sampler::new(Sampling { repetition_penalty: 1.0, ..sampling }, Vec::new()).unwrap();
    assert_eq!(punished, plain.distribution(&[2.0, -2.0, 1.0], None, []).unwrap());
}

#[test]
fn draws_are_the_same_everywhere() {
    // Fixed for ever: a shader must find the same numbers.
    let drawn = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (u64::MAX, u32::MAX, u32::MAX)]
        .map(|(seed, stream, step)| incoder::sampling::uniform(seed, Draw { stream, step }) * 16_777_216.0);
    assert_eq!(drawn, [13_837_640.0, 5_811_046.0, 11_559_037.0, 6_438_153.0, 10_599_330.0]);
}

#[test]
fn draws_follow_the_probabilities() {
    let logits: Vec<f32> = [0.5f32, 0.25, 0.125, 0.125].map(f32::ln).to_vec();
    let n = 20_000;
    for seed in [0, 1 << 40] {
        let mut sampler = Sampler::new(Sampling { seed, ..sampling(1.0, 0, 1.0) }, Vec::new()).unwrap();
        let mut counts = [0.0f64; 4];
        for i in 0..n {
            let draw = Draw { stream: i % 7, step: i / 7 };
            counts[sampler.sample(&logits, None, [], draw).unwrap() as usize] += 1.0 / f64::from(n);
        }
        for (count, p) in counts.iter().zip([0.5, 0.25, 0.125, 0.125]) {
            // Four standard deviations.
            assert!((count - p).abs() < 4.0 * (p * (1.0 - p) / f64::from(n)).sqrt(), "{counts:?}");
        }
    }
}

/// The same rules with everything sorted.
fn plain(sampling: &Sampling, logits: &[f32]) -> Vec<(u32, f64)> {
    let mut entries: Vec<(u32, f64)> = logits.iter().enumerate().map(|(i, &l)| (i as u32, f64::from(l))).collect();
    entries.sort_by(|a, b| b.1.total_cmp(&a.1));
    if sampling.top_k > 0 && sampling.top_k < entries.len() {
        let least = entries[sampling.top_k - 1].1;
        entries.retain(|e| e.1 >= least);
    }
    let most = entries[0].1;
    entries.iter_mut().for_each(|e| e.1 = ((e.1 - most) / sampling.temperature).exp());
    let total: f64 = entries.iter().map(|e| e.1).sum();
    let mut before = 0.0;
    entries.retain(|e| {
        let keep = before == 0.0 || sampling.top_p == 1.0 || before < sampling.top_p * total;
        before += e.1;
        keep
    });
    let kept: f64 = entries.iter().map(|e| e.1).sum();
    entries.into_iter().map(|e| (e.0, e.1 / kept)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn equals_the_plain_one(
        quarters in proptest::collection::vec(-40i32..40, 1..300),
        temperature in 0.05f64..3.0,
        top_k in 0usize..320,
        top_p in 0.01f64..1.02,
    ) {
        // Quarters: many exact ties.
        let logits: Vec<f32> = quarters.iter().map(|&q| q as f32 / 4.0).collect();
        let sampling = sampling(temperature, top_k, top_p.min(1.0));
        let mut sampler = Sampler::new(sampling, Vec::new()).unwrap();
        let kept = sampler.distribution(&logits, None, []).unwrap();
        let expected = plain(&sampling, &logits);
        prop_assert_eq!(kept.iter().map(|k| k.0).collect::<Vec<_>>(), expected.iter().map(|k| k.0).collect::<Vec<_>>());
        for (a, b) in kept.iter().zip(&expected) {
            prop_assert!((a.1 - b.1).abs() < 1e-12);
        }
    }

    #[test]
    fn chooses_only_what_is_allowed(
        logits in proptest::collection::vec(-5f32..5.0, 10..50),
        allowed in proptest::collection::vec(0u32..60, 1..9),
        banned in proptest::collection::vec(0u32..60, 0..9),
        temperature in prop_oneof![Just(0.0), 0.1f64..4.0],
        seed: u64,
        step: u32,
    ) {
        let mut sampler = Sampler::new(Sampling { seed, ..sampling(temperature, 0, 0.99) }, banned.clone()).unwrap();
        let possible = allowed.iter().any(|id| (*id as usize) < logits.len() && !banned.contains(id));
        let chosen = sampler.sample(&logits, Some(&allowed), [], Draw { stream: 3, step });
        prop_assert_eq!(chosen.is_ok(), possible);
        if let Ok(id) = chosen {
            prop_assert!(allowed.contains(&id) && !banned.contains(&id));
        }
    }

    #[test]
    fn log_probabilities_sum_to_one(logits in proptest::collection::vec(-80f32..80.0, 1..60), n in 0usize..70) {
        let probabilities = LogProbs::new(&logits).unwrap();
        let sum: f64 = (0..logits.len() as u32).map(|id| probabilities.of(id).exp()).sum();
        prop_assert!((sum - 1.0).abs() < 1e-9);
        let top = probabilities.top(n);
        prop_assert_eq!(top.len(), n.min(logits.len()));
        prop_assert!(top.is_sorted_by(|a, b| a.1 >= b.1));
    }
}
