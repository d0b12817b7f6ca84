//! `infill` against the published code's recorded results, and what it does at its limits.

use crate::support::{cpu_and_gpu, folder, load, read, tiny, tokenizer};
use incoder::{
    Candidate, Error, Event, FinishReason, GenerateOptions, Infill, InfillOptions, Infilling, Kv, Overflow, Prompt,
    Sampling, Sentinels, Session, Tokenizer, generate, infill,
};
use pollster::block_on;
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Recorded {
    tokenizer: String,
    infill: Vec<InfillCase>,
    complete: Vec<CompleteCase>,
}

#[derive(Deserialize)]
struct InfillCase {
    parts: Vec<String>,
    max_to_generate: usize,
    extra_sentinel: bool,
    max_retries: usize,
    result: InfillResult,
    calls: Vec<Call>,
}

#[derive(Deserialize)]
struct InfillResult {
    text: String,
    parts: Vec<String>,
    infills: Vec<String>,
    retries_attempted: usize,
    all_regions_ended: bool,
}

#[derive(Deserialize)]
struct CompleteCase {
    prompt: String,
    max_to_generate: usize,
    text: String,
    call: Call,
}

#[derive(Deserialize)]
struct Call {
    prompt_ids: Vec<u32>,
    new_ids: Vec<u32>,
}

/// The published form: the hole is at the cursor, and what does not fit is an error.
fn plain() -> InfillOptions {
    InfillOptions {
        look_back: Some(0),
        sentinels: Sentinels::Refuse,
        overflow: Overflow::Error,
        ..InfillOptions::default()
    }
}

fn published(case: &InfillCase) -> InfillOptions {
    InfillOptions {
        max_new_tokens: case.max_to_generate,
        sampling: Sampling::greedy(),
        retries: case.max_retries,
        extra_sentinel: case.extra_sentinel,
        sentinels: Sentinels::Parse,
        heal: false,
        ..plain()
    }
}

/// Runs, and checks that the events are the result.
fn run(
    session: &mut Session,
    tokenizer: &Tokenizer,
    parts: &[String],
    options: &InfillOptions,
) -> Result<Infilling, Error> {
    let mut streamed = vec![(String::new(), Vec::new(), None); parts.len().saturating_sub(1)];
    let mut on_event = |event: Event<'_>| match event {
        Event::Token { index, id, text } => {
            streamed[index].0 += text;
            streamed[index].1.push(id);
        }
        Event::End { index, text, finish_reason } => {
            streamed[index].0 += text;
            streamed[index].2 = Some(finish_reason);
        }
        Event::Retry { .. } => streamed.iter_mut().for_each(|region| *region = Default::default()),
        _ => (),
    };
    let result = block_on(infill(session, tokenizer, parts, options, &mut on_event))?;
    let fills = result.infills.iter().map(|infill| infill.text.as_str()).chain([""]);
    let mut text: String = parts.iter().zip(fills).map(|(part, fill)| format!("{part}{fill}")).collect();
    text.insert_str(parts[0].len(), &options.begun);
    assert_eq!(result.text(parts, &options.begun), text);
    if !options.cancel.is_cancelled() {
        for (infill, (text, ids, reason)) in result.infills.iter().zip(&streamed) {
            assert_eq!((&infill.text, &infill.ids, Some(infill.finish_reason)), (text, ids, *reason));
        }
    }
    Ok(result)
}

fn strings(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|&part| part.to_owned()).collect()
}

fn check_published(model: &str, precision: &str) {
    let recorded: Recorded = read(&format!("{model}/infill.{precision}.json"));
    assert_eq!((recorded.infill.len(), recorded.complete.len()), (25, 4));
    let tokenizer = tokenizer(&recorded.tokenizer);
    for (device, session) in &mut sessions(model, precision) {
        println!("{model} {precision} on {device}");
        check_recorded(&recorded, &tokenizer, session);
    }
}

/// The GPU rounds weights to fp16, so what was recorded with fp32 weights holds for the CPU alone.
fn sessions(model: &str, precision: &str) -> Vec<(&'static str, Session)> {
    let folder = folder(model, &format!("model.{precision}.safetensors"));
    let exact = |(name, _): &(&str, _)| precision == "fp16" || *name == "cpu";
    let devices = cpu_and_gpu().into_iter().filter(exact);
    devices.map(|(name, device)| (name, load(&folder, &device, Kv::F32, None))).collect()
}

fn check_recorded(recorded: &Recorded, tokenizer: &Tokenizer, session: &mut Session) {
    for case in &recorded.infill {
        let result = run(session, tokenizer, &case.parts, &published(case)).unwrap();
        let expected = &case.result;
        for (i, (infill, expected)) in result.infills.iter().zip(&expected.infills).enumerate() {
            match expected.strip_suffix("<|endoftext|>") {
                Some(text) => assert_eq!((infill.text.as_str(), infill.finish_reason), (text, FinishReason::Eos)),
                None => {
                    assert_eq!(&infill.text, expected, "{:?} region {i}", case.parts);
                }
            }
            // The published code writes on after the sentinel and cuts later.
            assert!(case.calls[i].new_ids.starts_with(&infill.ids), "{:?} region {i}", case.parts);
        }
        assert_eq!(result.infills.len(), expected.infills.len());
        if result.infills.iter().all(|infill| infill.finish_reason != FinishReason::Eos) {
            assert_eq!(result.text(&case.parts, ""), expected.text);
        }
        assert_eq!(case.parts, expected.parts);
        assert_eq!(result.retries_attempted, expected.retries_attempted, "{:?}", case.parts);
        assert_eq!(result.complete, expected.all_regions_ended, "{:?}", case.parts);
        assert_eq!(result.prompt_tokens, case.calls.first().map_or(0, |call| call.prompt_ids.len()));
    }
    for case in &recorded.complete {
        let options = GenerateOptions {
            max_new_tokens: case.max_to_generate,
            sampling: Sampling::greedy(),
            sentinels: Sentinels::Parse,
            heal: false,
            ..GenerateOptions::default()
        };
        let result = block_on(generate(session, tokenizer, Prompt::Text(&case.prompt), &options, &mut |_| ()));
        let result = result.unwrap();
        let Candidate { text, ids, finish_reason } = &result.candidates[0];
        let literal = if *finish_reason == FinishReason::Eos { "<|endoftext|>" } else { "" };
        assert_eq!(*ids, case.call.new_ids);
        assert_eq!(format!("{}{text}{literal}", case.prompt), case.text);
    }
}

#[test]
fn published_results_of_tiny_a_fp16() {
    check_published("tiny-a", "fp16");
}

#[test]
fn published_results_of_tiny_a_fp32() {
    check_published("tiny-a", "fp32");
}

#[test]
fn published_results_of_small_b() {
    check_published("small-b", "fp16");
}

#[test]
fn what_did_not_change_is_not_computed_again() {
    let (mut session, tokenizer) = (tiny(None), tokenizer("tok-512"));
    let parts = strings(&["1def ", "\n    \"\"\" Count. \"\"\"\n    ", "\n<|/ file |>"]);
    let options = InfillOptions {
        max_new_tokens: 20,
        sampling: Sampling::greedy(),
        sentinels: Sentinels::Parse,
        heal: false,
        ..plain()
    };
    let mut prefills = Vec::new();
    let mut on_event = |event: Event<'_>| {
        if let Event::Prefilled { prefill, .. } = event {
            prefills.push(prefill);
        }
    };
    block_on(infill(&mut session, &tokenizer, &parts, &options, &mut on_event)).unwrap();
    assert_eq!(prefills.len(), 2);
    assert_eq!(prefills[0].cached, 0);
    assert!(prefills[1].cached >= prefills[0].computed, "{prefills:?}");
}

#[test]
fn no_sentinel_is_generated_unless_allowed() {
    let (mut session, tokenizer) = (tiny(None), tokenizer("tok-512"));
    let parts = strings(&["foo(", ")"]);
    for temperature in [0.0, 2.0] {
        let sampling = Sampling { temperature, top_k: 0, top_p: 1.0, seed: 3, ..Sampling::default() };
        let options = InfillOptions { max_new_tokens: 60, sampling, heal: false, ..plain() };
        let result = run(&mut session, &tokenizer, &parts, &options).unwrap();
        assert!(!result.infills[0].ids.iter().any(|&id| tokenizer.is_mask(id)));
    }
}

#[test]
fn healing_shows_only_what_follows_the_cursor() {
    let (mut session, tokenizer) = (tiny(None), tokenizer("tok-512"));
    let parts = strings(&["class Foo:\n    def __init__(sel", "\n        retur", " x\n"]);
    for seed in 0..6 {
        let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
        let options = InfillOptions { max_new_tokens: 12, sampling, ..plain() };
        let result = run(&mut session, &tokenizer, &parts, &options).unwrap();
        for (part, infill) in parts.iter().zip(&result.infills) {
            let taken = taken(&tokenizer, infill);
            assert!(!taken.is_empty() && part.ends_with(&taken), "{part:?} {taken:?}");
        }
    }
}

#[test]
fn a_hole_goes_on_from_what_has_begun() {
    let recorded: Recorded = read("tiny-a/infill.fp16.json");
    let tokenizer = tokenizer(&recorded.tokenizer);
    for (device, mut session) in sessions("tiny-a", "fp16") {
        let mut compared = 0;
        for case in recorded.infill.iter().filter(|case| case.parts.len() > 1) {
            let options = InfillOptions { retries: 1, max_new_tokens: 8, ..published(case) };
            let whole = run(&mut session, &tokenizer, &case.parts, &options).unwrap();
            let ids = &whole.infills[0].ids;
            for split in 1..ids.len() {
                let begun = tokenizer.decode(&ids[..split], false).unwrap();
                // A text may be other tokens than those that spelled it.
                if tokenizer.encode_with(&begun, Sentinels::Parse, false).unwrap() != ids[..split] {
                    continue;
                }
                let options = InfillOptions { begun, max_new_tokens: 8 - split, ..options.clone() };
                let rest = run(&mut session, &tokenizer, &case.parts, &options).unwrap();
                assert_eq!(rest.infills[0].ids, ids[split..], "{device}: {:?} at {split}", case.parts);
                assert_eq!(rest.infills[0].finish_reason, whole.infills[0].finish_reason);
                compared += 1;
            }
        }
        assert!(compared > 20, "{device}: {compared}");
    }
}

#[test]
fn what_is_typed_into_a_hole_costs_its_own_tokens_only() {
    let (mut session, tokenizer) = (tiny(None), tokenizer("tok-512"));
    let parts =
        strings(&["class Foo:\n    def __init__(self):\n        ret", "\n\n    def bar(self):\n        return 1\n"]);
    let mut last = 0;
    for begun in ["", "u", "urn", "urn sel", "urn self.", "urn self.value"] {
        let options =
            InfillOptions { begun: begun.to_owned(), max_new_tokens: 3, sampling: Sampling::greedy(), ..plain() };
        let result = run(&mut session, &tokenizer, &parts, &options).unwrap();
        let new = result.prompt_tokens - result.cached_tokens;
        // What was taken back from the end is tokens of the hole by now.
        assert!(last == 0 || new <= 1 + begun.len(), "{begun:?}: {new} of {} tokens", result.prompt_tokens);
        assert!(result.prompt_tokens >= last);
        last = result.prompt_tokens;
        let spelled = taken(&tokenizer, &result.infills[0]);
        assert!(
            result.infills[0].text.is_empty() || format!("ret{begun}").ends_with(&spelled),
            "{begun:?} {spelled:?}"
        );
    }
}

/// What the generated tokens spell before the text that is returned.
fn taken(tokenizer: &Tokenizer, infill: &Infill) -> String {
    let ends = [tokenizer.eos(), tokenizer.end_of_mask()];
    let ids: Vec<u32> = infill.ids.iter().copied().filter(|&id| !ends.contains(&Some(id))).collect();
    let spelled = tokenizer.decode(&ids, false).unwrap();
    crate::support::whole(&spelled).strip_suffix(crate::support::whole(&infill.text)).unwrap().to_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_parts_come_back_with_what_is_between_them(
        parts in proptest::collection::vec("[ a-zé😀\\r\\n(<|>]{0,6}(self\\.|    return |\\n|é|<\\|mask:|<\\|endof)?[a-z|<]{0,2}", 1..4),
        begun in "( |é😀|retur|self\\.|\n|<)?[a-z]{0,3}",
        seed: u64,
        extra_sentinel: bool,
    ) {
        let (mut session, tokenizer) = (tiny(Some(256)), tokenizer("tok-512"));
        let sampling = Sampling { temperature: 1.2, seed, ..Sampling::default() };
        let begun = if parts.len() == 1 { String::new() } else { begun };
        // Such text is refused, which is another test's.
        prop_assume!(parts.iter().chain([&begun]).all(|text| tokenizer.find_sentinel(text).is_none()));
        let options = InfillOptions { begun, max_new_tokens: 8, sampling, extra_sentinel, ..plain() };
        let result = run(&mut session, &tokenizer, &parts, &options).unwrap();
        prop_assert_eq!(result.infills.len(), parts.len() - 1);
        let mut before = parts.clone();
        before[0] += &options.begun;
        for (part, infill) in before.iter().zip(&result.infills) {
            // Eight tokens may be too few to spell what was taken; a region that showed text has spelled it.
            prop_assert!(infill.text.is_empty() || part.ends_with(&taken(&tokenizer, infill)));
        }
    }
}

#[test]
fn sampled_retries_differ_and_a_seed_repeats_them() {
    let (mut session, tokenizer) = (tiny(None), tokenizer("tok-512"));
    let parts = strings(&["foo(", ")"]);
    let mut attempts: Vec<Vec<u32>> = Vec::new();
    for retries in [1, 2, 3, 3] {
        let sampling = Sampling { temperature: 1.5, top_k: 0, top_p: 1.0, seed: 5, ..Sampling::default() };
        let options = InfillOptions { max_new_tokens: 6, sampling, retries, ..plain() };
        let result = run(&mut session, &tokenizer, &parts, &options).unwrap();
        assert_eq!((result.retries_attempted, result.complete), (retries, false));
        attempts.push(result.infills[0].ids.clone());
    }
    assert!(attempts[0] != attempts[1] && attempts[1] != attempts[2] && attempts[2] == attempts[3], "{attempts:?}");
}

#[test]
fn a_stop_text_ends_a_region() {
    let (mut session, tokenizer) = (tiny(None), tokenizer("tok-512"));
    let parts = strings(&["foo(", ")"]);
    let mut options = InfillOptions { max_new_tokens: 60, sampling: Sampling::greedy(), ..plain() };
    let whole = run(&mut session, &tokenizer, &parts, &options).unwrap().infills.remove(0);
    let stop: String = whole.text.chars().skip(4).take(3).collect();
    options.stop = vec![stop.clone()];
    options.retries = 3;
    let result = run(&mut session, &tokenizer, &parts, &options).unwrap();
    assert_eq!(result.infills[0].text, whole.text[..whole.text.find(&stop).unwrap()]);
    assert_eq!((result.infills[0].finish_reason, result.complete), (FinishReason::Stop, true));
    assert_eq!(result.retries_attempted, 1);
}

#[test]
fn bad_arguments_are_errors_with_the_numbers() {
    let (mut session, tokenizer) = (tiny(None), tokenizer("tok-512"));
    let options = plain();
    let mut error = |parts: &[String], options: &InfillOptions| {
        run(&mut session, &tokenizer, parts, options).unwrap_err().to_string()
    };
    assert!(error(&[], &options).contains("no parts"));
    let many = vec!["x".to_owned(); 17];
    let message = error(&many, &options);
    assert!(
        message.contains("17 parts need 17 sentinels") && message.contains("has 16") && message.contains("16 parts"),
        "{message}"
    );
    let message = error(&strings(&["a", "b\n <|mask:1|>"]), &options);
    assert!(
        message.contains("part 2 of 2") && message.contains("<|mask:1|>") && message.contains("line 2, column 2"),
        "{message}"
    );
    let sentinel = InfillOptions { begun: "x<|mask:0|>".to_owned(), ..options.clone() };
    assert!(error(&strings(&["a", "b"]), &sentinel).contains("what the hole begins with"));
    let nowhere = InfillOptions { begun: "x".to_owned(), ..options.clone() };
    assert!(error(&strings(&["a"]), &nowhere).contains("no hole"));
    let hot = InfillOptions { sampling: Sampling { temperature: -1.0, ..Sampling::default() }, ..options.clone() };
    assert!(error(&strings(&["a", "b"]), &hot).contains("temperature is -1"));
    let empty = InfillOptions { stop: strings(&["x", ""]), ..options.clone() };
    assert!(error(&strings(&["a", "b"]), &empty).contains("stop text 2 of 2 is empty"));
    let no_extra = InfillOptions { extra_sentinel: false, max_new_tokens: 1, sampling: Sampling::greedy(), ..options };
    assert_eq!(run(&mut session, &tokenizer, &many, &no_extra).unwrap().infills.len(), 16);
}

#[test]
fn a_full_context_is_said_with_what_was_reached() {
    let tokenizer = tokenizer("tok-512");
    let parts = strings(&["_a", "b", "c"]);
    let options = InfillOptions { max_new_tokens: 30, sampling: Sampling::greedy(), ..plain() };
    let whole = run(&mut tiny(None), &tokenizer, &parts, &options).unwrap();
    let need = whole.prompt_tokens;
    let error = run(&mut tiny(Some(need - 1)), &tokenizer, &parts, &options).unwrap_err();
    assert!(matches!(error, Error::Context { need: n, have, .. } if n == need && have == need - 1), "{error}");
    let result = run(&mut tiny(Some(need)), &tokenizer, &parts, &options).unwrap();
    let reasons: Vec<FinishReason> = result.infills.iter().map(|infill| infill.finish_reason).collect();
    assert_eq!((reasons, result.complete), (vec![FinishReason::Context; 2], false));
    assert_eq!(result.text(&parts, ""), "_abc");
}

#[test]
fn cancelling_keeps_what_is_done() {
    let tokenizer = tokenizer("tok-512");
    let parts = strings(&["_a", "b", "c"]);
    let sampling = Sampling { temperature: 1.0, seed: 1, ..Sampling::default() };
    let options = || InfillOptions { max_new_tokens: 8, sampling, retries: 2, ..plain() };
    let whole = run(&mut tiny(None), &tokenizer, &parts, &InfillOptions { retries: 1, ..options() }).unwrap();
    let total: usize = whole.infills.iter().map(|infill| infill.ids.len()).sum();
    let mut session = tiny(None);
    for after in 0..2 * total {
        let options = options();
        let mut seen = 0;
        let mut on_event = |event: Event<'_>| {
            seen += usize::from(matches!(event, Event::Token { .. }));
            // The window comes before the prefill, in which a cancel would be an error.
            if seen == after && !matches!(event, Event::Window { .. }) {
                options.cancel.cancel();
            }
        };
        let result = block_on(infill(&mut session, &tokenizer, &parts, &options, &mut on_event)).unwrap();
        assert_eq!((result.infills.len(), result.complete), (2, false));
        let ids: Vec<u32> = result.infills.iter().flat_map(|infill| infill.ids.clone()).collect();
        let expected: Vec<u32> = whole.infills.iter().flat_map(|infill| infill.ids.clone()).take(after).collect();
        assert_eq!(ids, expected, "cancelled after {after}");
        assert_eq!(result.retries_attempted, 1);
    }
    let options = options();
    options.cancel.cancel();
    assert!(matches!(run(&mut tiny(None), &tokenizer, &parts, &options), Err(Error::Cancelled)));
}
