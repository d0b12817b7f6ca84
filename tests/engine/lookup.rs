//! Lookup decoding changes how many tokens a step computes, and nothing else.

use crate::support::{cpu_and_gpu, folder, load, tiny, tokenizer};
use incoder::{
    Cancel, Event, GenerateOptions, Generation, InfillOptions, Kv, Lookup, MemoryFolder, Prompt, Sampling, Sentinels,
    Session, Tokenizer, generate, infill,
};
use pollster::block_on;
use proptest::prelude::*;
use std::path::Path;

/// Everything that a caller sees, the last distribution, and the one from which the next call would go on.
fn seen(
    session: &mut Session,
    tokenizer: &Tokenizer,
    prompt: Prompt<'_>,
    options: &GenerateOptions,
) -> (Generation, Vec<String>, [Vec<f32>; 2]) {
    let mut events = Vec::new();
    let mut on_event = |event: Event<'_>| {
        if !matches!(event, Event::Prefilled { .. }) {
            events.push(format!("{event:?}"));
        }
    };
    let made = block_on(generate(session, tokenizer, prompt, options, &mut on_event)).unwrap();
    let last = session.logits().to_vec();
    let mut context = session.tokens().to_vec();
    // A full cache takes no more.
    context.truncate(session.capacity() - 1);
    context.push(5);
    block_on(session.set_context(&context, &Cancel::default())).unwrap();
    (made, events, [last, session.logits().to_vec()])
}

fn options(n: usize, sampling: Sampling, lookup: Lookup) -> GenerateOptions {
    GenerateOptions { max_new_tokens: n, sampling, lookup, ignore_eos: true, ..GenerateOptions::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn gives_what_decoding_one_by_one_gives(
        words in proptest::collection::vec(0usize..4, 1..30),
        n in 1usize..24,
        temperature in prop_oneof![Just(0.0), Just(0.3), Just(1.0)],
        repetition_penalty in prop_oneof![Just(1.0), Just(1.3)],
        seed: u64,
        stop in proptest::option::of("[a-e ]"),
        context in 40usize..64,
    ) {
        let tokenizer = tokenizer("tok-512");
        let text: String = words.iter().map(|&i| ["for i in range(", "n):\n", "    x = i\n", "return x "][i]).collect();
        let sampling = Sampling { temperature, repetition_penalty, seed, top_k: 0, top_p: 0.9, ..Sampling::DEFAULT };
        let ids: Vec<u32> = tokenizer.encode(&text, Sentinels::Refuse).unwrap().into_iter().take(30).collect();
        let with = |lookup| {
            let options = GenerateOptions { stop: stop.iter().cloned().collect(), ..options(n, sampling, lookup) };
            seen(&mut tiny(Some(context)), &tokenizer, Prompt::Ids(&ids), &options)
        };
        let (off, on) = (with(Lookup::Off), with(Lookup::Always));
        prop_assert_eq!(&off.0.candidates, &on.0.candidates);
        prop_assert_eq!(off.1, on.1);
        prop_assert_eq!(off.2, on.2);
        prop_assert_eq!(off.0.timings.drafted_tokens, 0);
        prop_assert!(on.0.timings.accepted_tokens <= on.0.timings.drafted_tokens);
    }
}

/// The bundled demo model: the oracle's random weights never repeat themselves.
fn demo() -> (MemoryFolder, Tokenizer) {
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/demo-model/weights");
    let file = |name: &str| std::fs::read(weights.join(name)).unwrap();
    let folder = ["config.json", "model.safetensors"]
        .into_iter()
        .fold(MemoryFolder::default(), |folder, name| folder.with(name, file(name)));
    (folder, Tokenizer::from_json(&String::from_utf8(file("tokenizer.json")).unwrap()).unwrap())
}

#[test]
fn drafts_are_right_where_the_model_repeats_itself() {
    let (folder, tokenizer) = demo();
    for (name, device) in cpu_and_gpu() {
        let mut session = load(&folder, &device, Kv::F32, Some(256));
        let prompt = Prompt::Text("self.width = width\nself.height = height\nself.width = width\nself.height =");
        let mut with = |lookup| seen(&mut session, &tokenizer, prompt, &options(48, Sampling::greedy(), lookup));
        let (off, on) = (with(Lookup::Off), with(Lookup::Always));
        assert_eq!(off.0.candidates, on.0.candidates, "{name}");
        assert_eq!(off.1, on.1, "{name}");
        let timings = on.0.timings;
        assert!(timings.accepted_tokens > 16, "{name}: {timings:?}");
        assert_eq!(off.0.candidates, with(Lookup::Auto).0.candidates, "{name}");
    }
}

#[test]
fn fills_holes_with_the_same_text() {
    let tokenizer = tokenizer("tok-2k");
    for (name, device) in cpu_and_gpu() {
        let mut session = load(&folder("small-b", "model.fp16.safetensors"), &device, Kv::F32, Some(256));
        let parts = ["def add(a, b):\n    ret", "\n\ndef sub(a, b):\n    return a - b\n", "\n"].map(str::to_owned);
        let mut with = |lookup, seed| {
            let sampling = Sampling { temperature: 0.8, seed, ..Sampling::default() };
            let options =
                InfillOptions { max_new_tokens: 24, sampling, lookup, retries: 2, ..InfillOptions::default() };
            let filled = block_on(infill(&mut session, &tokenizer, &parts, &options, &mut |_| ())).unwrap();
            (filled.infills, filled.retries_attempted)
        };
        for seed in 0..3 {
            assert_eq!(with(Lookup::Off, seed), with(Lookup::Always, seed), "{name}, seed {seed}");
        }
    }
}
