//! `generate`, `score` and `rerank` on the CPU reference.

use crate::support::{cpu_and_gpu, folder, load, read, session, tiny, tokenizer};
use incoder::{
    Cancel, Candidate, Error, Event, FinishReason, GenerateOptions, Generation, Kv, Prompt, RankBy, RankOptions,
    Sampling, Sentinels, Session, Tokenizer, generate, rerank, score, score_streaming,
};
use pollster::block_on;
use proptest::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Expected {
    sequences: Vec<Sequence>,
}

#[derive(Deserialize)]
struct Sequence {
    name: String,
    ids: Vec<u32>,
    top5: Vec<Top>,
    token_logprobs: Vec<f64>,
    sum_logprob: Option<f64>,
    mean_logprob: Option<f64>,
    greedy24: Vec<u32>,
    greedy24_stop_at_eos: Vec<u32>,
}

#[derive(Deserialize)]
struct Top {
    ids: Vec<u32>,
}

fn greedy(n: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens: n, sampling: Sampling::greedy(), ..GenerateOptions::default() }
}

fn sampled(n: usize, seed: u64) -> GenerateOptions {
    let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 0.98, seed, ..Sampling::default() };
    GenerateOptions { sampling, ..greedy(n) }
}

/// Runs, and checks that the events are the result.
fn run(
    session: &mut Session,
    tokenizer: &Tokenizer,
    prompt: Prompt<'_>,
    options: &GenerateOptions,
) -> Result<Generation, Error> {
    let mut streamed: BTreeMap<usize, Candidate> = BTreeMap::new();
    let empty = || Candidate { text: String::new(), ids: Vec::new(), finish_reason: FinishReason::Length };
    let mut on_event = |event: Event<'_>| match event {
        Event::Token { index, id, text } => {
            let candidate = streamed.entry(index).or_insert_with(empty);
            candidate.text += text;
            candidate.ids.push(id);
        }
        Event::End { index, text, finish_reason } => {
            let candidate = streamed.entry(index).or_insert_with(empty);
            candidate.text += text;
            candidate.finish_reason = finish_reason;
        }
        _ => (),
    };
    let result = block_on(generate(session, tokenizer, prompt, options, &mut on_event))?;
    assert_eq!(result.candidates, streamed.into_values().collect::<Vec<_>>());
    Ok(result)
}

fn one(session: &mut Session, tokenizer: &Tokenizer, prompt: Prompt<'_>, options: &GenerateOptions) -> Candidate {
    let mut result = run(session, tokenizer, prompt, options).unwrap();
    assert_eq!(result.candidates.len(), 1);
    result.candidates.remove(0)
}

#[test]
fn greedy_equals_the_recorded_tokens() {
    for (model, tok) in [("tiny-a", "tok-512"), ("small-b", "tok-2k")] {
        let expected: Expected = read(&format!("{model}/expected.fp16.json"));
        let (mut session, tokenizer) = (session(model, "model.fp16.safetensors", None), tokenizer(tok));
        for case in expected.sequences {
            let published = GenerateOptions { sentinels: Sentinels::Parse, ..greedy(24) };
            let on = GenerateOptions { ignore_eos: true, ..published.clone() };
            let prompt = Prompt::Ids(&case.ids);
            let candidate = one(&mut session, &tokenizer, prompt, &on);
            assert_eq!(
                (&candidate.ids, candidate.finish_reason),
                (&case.greedy24, FinishReason::Length),
                "{}",
                case.name
            );
            assert_eq!(candidate.text, tokenizer.decode(&case.greedy24, false).unwrap());
            let candidate = one(&mut session, &tokenizer, prompt, &published);
            assert_eq!(candidate.ids, case.greedy24_stop_at_eos, "{}", case.name);
            let reason = if candidate.ids.len() < 24 { FinishReason::Eos } else { FinishReason::Length };
            assert_eq!(candidate.finish_reason, reason);
            assert!(!candidate.text.contains("<|endoftext|>"));
        }
    }
}

#[test]
fn scores_equal_the_recorded_ones() {
    for (model, tolerance) in [("tiny-a", 1e-4), ("small-b", 1e-3)] {
        let expected: Expected = read(&format!("{model}/expected.fp16.json"));
        let mut session = session(model, "model.fp16.safetensors", None);
        for case in expected.sequences {
            let mut streamed = vec![None];
            let mut on_token = |i: usize, logprob| {
                assert_eq!(i, streamed.len());
                streamed.push(Some(logprob));
            };
            let cancel = Cancel::default();
            let score = block_on(score_streaming(&mut session, &case.ids, 5, &cancel, &mut on_token)).unwrap();
            assert_eq!(score.logprobs, streamed);
            assert_eq!((score.logprobs.len(), score.logprobs[0]), (case.ids.len(), None));
            for (got, expected) in score.logprobs[1..].iter().zip(&case.token_logprobs) {
                assert!((got.unwrap() - expected).abs() < tolerance, "{got:?} is not {expected}");
            }
            let top: Vec<Vec<u32>> = score.top.iter().map(|top| top.iter().map(|entry| entry.0).collect()).collect();
            assert_eq!(top, case.top5.iter().map(|top| top.ids.clone()).collect::<Vec<_>>());
            let close = |a: Option<f64>, b: Option<f64>| match (a, b) {
                (Some(a), Some(b)) => (a - b).abs() < tolerance * case.ids.len() as f64,
                (a, b) => a == b,
            };
            assert!(close(score.sum, case.sum_logprob) && close(score.mean, case.mean_logprob), "{score:?}");
        }
    }
}

#[test]
fn score_says_what_is_wrong() {
    let mut session = tiny(Some(8));
    let mut error = |ids: &[u32]| block_on(score(&mut session, ids, 1, &Cancel::default())).unwrap_err();
    assert!(error(&[2, 512]).to_string().contains("512"));
    assert!(matches!(error(&[]), Error::Argument { .. }));
    let cancel = Cancel::default();
    cancel.cancel();
    assert!(matches!(block_on(score(&mut session, &[2], 1, &cancel)), Err(Error::Cancelled)));
}

#[test]
fn the_likeliest_document_ranks_first() {
    let (mut session, tokenizer) = (tiny(None), tokenizer("tok-512"));
    let candidates: Vec<String> = ["x", "return x, y", "", "zz"].map(String::from).to_vec();
    for by in [RankBy::Total, RankBy::Mean] {
        let (left, right, options) = ("def f(x):\n    ", "\n", RankOptions { by, ..RankOptions::default() });
        let ranking = block_on(rerank(&mut session, &tokenizer, left, &candidates, right, &options)).unwrap();
        let mut expected: Vec<(usize, f64)> = Vec::new();
        for (i, candidate) in candidates.iter().enumerate() {
            let ids = tokenizer.encode(&format!("{left}{candidate}{right}"), Sentinels::Refuse).unwrap();
            let score = block_on(score(&mut session, &ids, 0, &Cancel::default())).unwrap();
            expected.push((i, if by == RankBy::Total { score.sum } else { score.mean }.unwrap()));
        }
        expected.sort_by(|a, b| b.1.total_cmp(&a.1));
        assert_eq!(
            ranking.iter().map(|r| r.index).collect::<Vec<_>>(),
            expected.iter().map(|e| e.0).collect::<Vec<_>>()
        );
    }
}

#[test]
fn sentinels_are_generated_only_when_allowed() {
    let (mut session, tokenizer) = (tiny(None), tokenizer("tok-512"));
    let ids = tokenizer.encode("", Sentinels::Refuse).unwrap();
    // Left to itself this model begins with sentinels.
    let allowed = GenerateOptions { sentinels: Sentinels::Parse, ..greedy(12) };
    assert!(one(&mut session, &tokenizer, Prompt::Ids(&ids), &allowed).ids.iter().any(|&id| tokenizer.is_mask(id)));
    for options in [greedy(60), GenerateOptions { ignore_eos: true, ..sampled(200, 1) }] {
        let candidate = one(&mut session, &tokenizer, Prompt::Ids(&ids), &options);
        let sentinel = |id: &u32| tokenizer.is_mask(*id) || tokenizer.end_of_mask() == Some(*id);
        assert!(!candidate.ids.iter().any(sentinel), "{:?}", candidate.ids);
    }
}

#[test]
fn candidates_are_what_each_would_be_alone() {
    let (mut session, tokenizer) = (tiny(None), tokenizer("tok-512"));
    let prompt = Prompt::Text("def f(x):\n    retur");
    // Stopping at a common token makes them ragged.
    let options = GenerateOptions { candidates: 5, stop: vec![" ".into()], ..sampled(12, 7) };
    let together = run(&mut session, &tokenizer, prompt, &options).unwrap().candidates;
    assert!(together.iter().any(|c| c.ids.len() != together[0].ids.len()), "{together:?}");
    let again = run(&mut tiny(None), &tokenizer, prompt, &options).unwrap().candidates;
    assert_eq!(together, again);
    for n in 1..5 {
        let fewer = GenerateOptions { candidates: n, ..options.clone() };
        assert_eq!(run(&mut session, &tokenizer, prompt, &fewer).unwrap().candidates, together[..n]);
    }
    let other = GenerateOptions { sampling: Sampling { seed: 8, ..options.sampling }, ..options.clone() };
    assert_ne!(run(&mut session, &tokenizer, prompt, &other).unwrap().candidates, together);
}

#[test]
fn a_prompt_seen_before_is_not_prefilled_again() {
    let (mut session, tokenizer) = (tiny(None), tokenizer("tok-512"));
    let options = GenerateOptions { heal: false, ..greedy(6) };
    let first = run(&mut session, &tokenizer, Prompt::Text("def f(x):\n    return"), &options).unwrap();
    let longer = run(&mut session, &tokenizer, Prompt::Text("def f(x):\n    return\n"), &options).unwrap();
    assert_eq!((first.cached_tokens, longer.cached_tokens), (0, first.prompt_tokens));
    assert_eq!(
        longer.candidates,
        run(&mut tiny(None), &tokenizer, Prompt::Text("def f(x):\n    return\n"), &options).unwrap().candidates
    );
}

#[test]
fn stop_texts_are_cut_wherever_they_begin() {
    let (mut session, tokenizer) = (tiny(None), tokenizer("tok-512"));
    let prompt = Prompt::Text("class A:\n");
    let whole = one(&mut session, &tokenizer, prompt, &greedy(24)).text;
    let borders: Vec<usize> = whole.char_indices().map(|(i, _)| i).collect();
    for window in borders.windows(5).step_by(2) {
        let stop = &whole[window[0]..window[4]];
        let options = GenerateOptions { stop: vec!["never there".into(), stop.into()], ..greedy(24) };
        let candidate = one(&mut session, &tokenizer, prompt, &options);
        assert_eq!(candidate.text, whole[..whole.find(stop).unwrap()]);
        assert_eq!(candidate.finish_reason, FinishReason::Stop);
    }
}

#[test]
fn the_repetition_penalty_looks_at_so_many_of_the_last_tokens() {
    let tokenizer = tokenizer("tok-512");
    let prompt = Prompt::Ids(&[2, 71, 72, 73, 74]);
    let mut texts = Vec::new();
    for (name, device) in cpu_and_gpu() {
        let mut session = load(&folder("tiny-a", "model.fp16.safetensors"), &device, Kv::F32, None);
        let mut ids = |repetition_penalty, repeat_last_n| {
            let sampling = Sampling { repetition_penalty, repeat_last_n, ..Sampling::greedy() };
            let options = GenerateOptions { sampling, ignore_eos: true, ..greedy(40) };
            one(&mut session, &tokenizer, prompt, &options).ids
        };
        let plain = ids(1.0, usize::MAX);
        assert_eq!(ids(1e6, 0), plain, "{name}");
        assert_eq!(ids(1e6, 45), ids(1e6, usize::MAX), "{name}");
        for last in [1, 8] {
            let ids = ids(1e6, last);
            assert!(ids.windows(last + 1).all(|w| !w[..last].contains(&w[last])), "{name}: {ids:?}");
            // What is farther back may come again.
            assert!((1..ids.len()).any(|i| ids[..i].contains(&ids[i])), "{name}: {ids:?}");
            texts.push(ids);
        }
    }
    assert_eq!(texts[..2], texts[2..]);
}

#[test]
fn stop_ids_end_without_their_text() {
    let (mut session, tokenizer) = (tiny(None), tokenizer("tok-512"));
    let prompt = Prompt::Ids(&[2, 71, 72]);
    let whole = one(&mut session, &tokenizer, prompt, &greedy(10));
    let at = whole.ids.iter().position(|id| *id == whole.ids[5]).unwrap();
    let options = GenerateOptions { stop_ids: vec![whole.ids[5]], ..greedy(10) };
    let stopped = one(&mut session, &tokenizer, prompt, &options);
    assert_eq!((stopped.ids, stopped.finish_reason), (whole.ids[..=at].to_vec(), FinishReason::Stop));
    assert_eq!(stopped.text, crate::support::whole(&tokenizer.decode(&whole.ids[..at], false).unwrap()));
}

#[test]
fn the_context_s_end_is_a_reason_and_a_longer_prompt_an_error() {
    let (mut session, tokenizer) = (tiny(Some(10)), tokenizer("tok-512"));
    let candidate = one(&mut session, &tokenizer, Prompt::Ids(&[2, 71, 72]), &greedy(20));
    assert_eq!((candidate.ids.len(), candidate.finish_reason), (7, FinishReason::Context));
    let candidate = one(&mut session, &tokenizer, Prompt::Ids(&[2, 71, 72]), &greedy(7));
    assert_eq!((candidate.ids.len(), candidate.finish_reason), (7, FinishReason::Length));
    let two = GenerateOptions { candidates: 2, ..greedy(20) };
    let both = run(&mut session, &tokenizer, Prompt::Ids(&[2, 71, 72]), &two).unwrap().candidates;
    assert!(both.iter().all(|c| c.ids.len() == 3 && c.finish_reason == FinishReason::Context));
    let candidate = one(&mut session, &tokenizer, Prompt::Ids(&[2; 10]), &greedy(20));
    assert_eq!((candidate.ids.len(), candidate.finish_reason), (0, FinishReason::Context));
    let error = run(&mut session, &tokenizer, Prompt::Ids(&[2; 11]), &greedy(1)).unwrap_err();
    assert!(matches!(error, Error::Context { need: 11, have: 10, .. }), "{error}");
    let none = one(&mut session, &tokenizer, Prompt::Ids(&[2]), &greedy(0));
    assert_eq!((none.ids.len(), none.finish_reason), (0, FinishReason::Length));
}

#[test]
fn bad_arguments_are_errors_with_the_numbers() {
    let (mut session, tokenizer) = (tiny(Some(16)), tokenizer("tok-512"));
    let mut error =
        |prompt, options: &GenerateOptions| run(&mut session, &tokenizer, prompt, options).unwrap_err().to_string();
    assert!(error(Prompt::Ids(&[]), &greedy(1)).contains("empty"));
    assert!(error(Prompt::Ids(&[2, 512]), &greedy(1)).contains("512"));
    let refuse = GenerateOptions { sentinels: Sentinels::Refuse, ..greedy(1) };
    assert!(error(Prompt::Text("a <|mask:0|>"), &refuse).contains("<|mask:0|>"));
    assert!(error(Prompt::Text("a"), &GenerateOptions { candidates: 0, ..greedy(1) }).contains('0'));
    assert!(
        error(Prompt::Text("a"), &GenerateOptions { stop: vec![String::new()], ..greedy(1) }).contains("stop text 1")
    );
    let hot = Sampling { top_p: 7.0, ..Sampling::default() };
    assert!(error(Prompt::Text("a"), &GenerateOptions { sampling: hot, ..greedy(1) }).contains('7'));
}

#[test]
fn cancelling_returns_what_there_is_and_leaves_a_good_cache() {
    let (mut session, tokenizer) = (tiny(None), tokenizer("tok-512"));
    let prompt = Prompt::Text("def f(x):\n    return x");
    let whole = one(&mut tiny(None), &tokenizer, prompt, &greedy(10));
    for after in 0..10 {
        let options = greedy(10);
        let mut seen = 0;
        let mut on_event = |event: Event<'_>| {
            seen += usize::from(matches!(event, Event::Token { .. }));
            // The window comes before the prefill, in which a cancel would be an error.
            if seen == after && !matches!(event, Event::Window { .. }) {
                options.cancel.cancel();
            }
        };
        let result = block_on(generate(&mut session, &tokenizer, prompt, &options, &mut on_event)).unwrap();
        let candidate = &result.candidates[0];
        assert_eq!((&candidate.ids[..], candidate.finish_reason), (&whole.ids[..after], FinishReason::Cancelled));
        assert!(whole.text.starts_with(&candidate.text));
        assert_eq!(one(&mut session, &tokenizer, prompt, &greedy(10)), whole);
    }
    let options = greedy(3);
    options.cancel.cancel();
    assert!(matches!(run(&mut tiny(None), &tokenizer, prompt, &options), Err(Error::Cancelled)));
}

/// A limit in the middle of a character leaves it out of the text, and its tokens in `ids`.
#[test]
fn half_a_character_is_left_out() {
    let (mut session, tokenizer) = (tiny(None), tokenizer("tok-512"));
    let prompt = Prompt::Text("s = \"日本語");
    let mut cut = 0;
    for limit in 1..=40 {
        for seed in 0..3 {
            let sampling = Sampling { temperature: 1.5, top_k: 0, top_p: 1.0, seed, ..Sampling::default() };
            let options = GenerateOptions { max_new_tokens: limit, sampling, heal: false, ..greedy(limit) };
            let mut streamed = String::new();
            let mut on_event = |event: Event<'_>| match event {
                Event::Token { text, .. } | Event::End { text, .. } => streamed += text,
                _ => {}
            };
            let made = block_on(generate(&mut session, &tokenizer, prompt, &options, &mut on_event)).unwrap();
            let candidate = &made.candidates[0];
            let bytes: Vec<u8> =
                candidate.ids.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap()).copied().collect();
            let whole = match std::str::from_utf8(&bytes) {
                Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
                _ => &bytes,
            };
            let text = String::from_utf8_lossy(whole);
            cut += usize::from(whole.len() < bytes.len());
            let text = if candidate.finish_reason == FinishReason::Eos {
                text.replace("<|endoftext|>", "")
            } else {
                text.into()
            };
            // Broken bytes in the middle are shown; behind the last chunk that is whole they may be half a character.
            assert_eq!(crate::support::whole(&candidate.text), crate::support::whole(&text));
            assert!(whole.len() == bytes.len() || candidate.text == text, "{:?}, {text:?}", candidate.text);
            assert_eq!(streamed, candidate.text);
        }
    }
    assert!(cut > 0, "no text ends in half a character");
}

#[test]
fn timings_and_json_have_the_promised_form() {
    let (mut session, tokenizer) = (tiny(None), tokenizer("tok-512"));
    let result = run(&mut session, &tokenizer, Prompt::Text("a = "), &greedy(4)).unwrap();
    let json = serde_json::to_value(&result).unwrap();
    assert_eq!(json["candidates"][0]["finish_reason"], "length");
    let timings = json["timings"].as_object().unwrap();
    let promised = ["accepted_tokens", "decode_ms", "drafted_tokens", "prompt_ms", "tokens_per_second", "ttft_ms"];
    assert_eq!(timings.keys().collect::<Vec<_>>(), promised);
    assert!(result.timings.prompt_ms > 0.0 && result.timings.ttft_ms >= result.timings.prompt_ms);
    assert!(result.timings.decode_ms > 0.0 && result.timings.tokens_per_second > 0.0);
    assert_eq!(serde_json::to_value(FinishReason::EndOfMask).unwrap(), "end_of_mask");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn healed_text_goes_on_where_the_prompt_ends(
        text in "[ a-z(é😀\\n]{0,8}(    return |self\\.|import |\\n){0,2}[a-z]{0,3}",
        seed: u64,
    ) {
        let (mut session, tokenizer) = (tiny(Some(96)), tokenizer("tok-512"));
        let result = run(&mut session, &tokenizer, Prompt::Text(&text), &sampled(8, seed)).unwrap();
        let whole = tokenizer.encode(&text, Sentinels::Refuse).unwrap();
        let candidate = &result.candidates[0];
        let ids: Vec<u32> = candidate.ids.iter().copied().filter(|&id| Some(id) != tokenizer.eos()).collect();
        let kept = tokenizer.decode(&whole[1..result.prompt_tokens], false).unwrap();
        let all = tokenizer.decode(&[&whole[..result.prompt_tokens], &ids].concat(), false).unwrap();
        // Kept prompt and output together are the prompt as written, then the text returned.
        prop_assert!(text.starts_with(&kept));
        if tokenizer.decode(&ids, false).unwrap().len() > text.len() - kept.len() {
            let shown = format!("{text}{}", candidate.text);
            prop_assert_eq!(crate::support::whole(all.strip_prefix("<|endoftext|>").unwrap()), crate::support::whole(&shown));
        }
    }
}
