//! Models that were trained to fill in the middle: a vocabulary built as Qwen2.5-Coder's is, and prompts with its sentinels.

use crate::support::{cpu_and_gpu, folder, load, read, tokenizer};
use incoder::{Infill, InfillOptions, Kv, Sampling, Sentinels, infill};
use pollster::block_on;
use serde_json::Value;

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn greedy() -> InfillOptions {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    InfillOptions { sampling, heal: false, max_new_tokens: 12, ..InfillOptions::default() }
}

#[test]
fn texts_have_the_recorded_tokens() {
    let tokenizer = tokenizer("fim");
    let expected = read::<Value>("fim/expected.json");
    for case in expected["texts"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, Sentinels::Parse).unwrap(), ids(&case["ids"]), "{text:?}");
    }
    let text = "<|fim_prefix|> is text, and so is <|endoftext|>";
    let literal = tokenizer.encode(text, Sentinels::Literal).unwrap();
    assert_eq!(tokenizer.decode(&literal, true).unwrap(), text);
    assert!(tokenizer.can_infill());
}

#[test]
fn holes_are_filled_as_transformers_would() {
    let (model, tokenizer) = (folder("llama/qwen2", "model.safetensors"), tokenizer("fim"));
    let expected = read::<Value>("fim/expected.json");
    for (name, device) in cpu_and_gpu() {
        let mut session = load(&model, &device, Kv::F32, Some(128));
        for case in expected["holes"].as_array().unwrap() {
            let parts = ["prefix", "suffix"].map(|part| case[part].as_str().unwrap().to_owned());
            let filled = block_on(infill(&mut session, &tokenizer, &parts, &greedy(), &mut |_| ())).unwrap();
            assert_eq!(filled.prompt_tokens, case["prompt"].as_array().unwrap().len(), "on {name}: {parts:?}");
            assert_eq!(filled.infills[0].ids, ids(&case["ids"]), "on {name}: {parts:?}");
        }
    }
}

/// One after the other, each as text in the prompt of the next.
#[test]
fn several_holes_have_a_prompt_each() {
    let (model, tokenizer) = (folder("llama/qwen2", "model.safetensors"), tokenizer("fim"));
    let (_, device) = cpu_and_gpu().remove(0);
    let mut session = load(&model, &device, Kv::F32, Some(128));
    let mut fill = |parts: &[&str]| {
        let parts: Vec<String> = parts.iter().map(|&part| part.to_owned()).collect();
        let options = InfillOptions { max_new_tokens: 3, ..greedy() };
        block_on(infill(&mut session, &tokenizer, &parts, &options, &mut |_| ())).unwrap().infills
    };
    let both = fill(&["a = ", "\nb = ", "\n"]);
    let first = fill(&["a = ", "\nb = \n"]);
    let text = |infill: &Infill| infill.text.clone();
    assert_eq!(both[0], first[0]);
    assert_eq!(both[1], fill(&[&format!("a = {}\nb = ", text(&first[0])), "\n"])[0]);
}

#[test]
fn a_vocabulary_without_sentinels_says_so() {
    let (model, tokenizer) = (folder("llama/qwen2", "model.safetensors"), without_sentinels());
    let (_, device) = cpu_and_gpu().remove(0);
    let mut session = load(&model, &device, Kv::F32, Some(64));
    let parts = ["a".to_owned(), "b".to_owned()];
    let error = block_on(infill(&mut session, &tokenizer, &parts, &greedy(), &mut |_| ())).unwrap_err();
    assert!(error.to_string().contains("no sentinels for infilling"), "{error}");
    assert!(!tokenizer.can_infill());
}

fn without_sentinels() -> incoder::Tokenizer {
    let json = std::fs::read_to_string(crate::support::oracle("fim/tokenizer.json")).unwrap();
    incoder::Tokenizer::from_json(&json.replace("|fim_", "|other_")).unwrap()
}
