//! The exact JSON forms that scripts rely on, with what the reference computed in them.

use crate::common::{Model, ids, oracle_json, run, run_with_stdin};
use serde_json::{Value, json};

/// Names in the order they are printed.
#[track_caller]
fn assert_names(value: &Value, names: &[&str]) {
    let mut found: Vec<&String> = value.as_object().expect("an object").keys().collect();
    let mut names = names.to_vec();
    found.sort();
    names.sort_unstable();
    assert_eq!(found, names);
}

const TIMINGS: [&str; 6] =
    ["prompt_ms", "ttft_ms", "decode_ms", "tokens_per_second", "drafted_tokens", "accepted_tokens"];

#[test]
fn generate_gives_the_reference_tokens() {
    let model = Model::tiny();
    let expected = oracle_json("tiny-a/expected.fp32.json");
    for sequence in expected["sequences"].as_array().unwrap().iter().take(4) {
        let prompt = ids(&sequence["ids"]);
        let flags = [
            "--ids",
            &prompt,
            "-n",
            "24",
            "--temp",
            "0",
            "--ignore-eos",
            "--sentinels",
            "parse",
            "--kv",
            "f32",
            "--json",
        ];
        let got = model.run("generate", &flags).json();
        assert_names(&got, &["text", "ids", "finish_reason", "prompt_tokens", "window", "timings"]);
        assert_names(&got["timings"], &TIMINGS);
        assert_eq!(got["ids"], sequence["greedy24"]);
        assert_eq!(got["finish_reason"], "length");
        assert_eq!(got["prompt_tokens"], sequence["ids"].as_array().unwrap().len());
    }
}

#[test]
fn generate_tokenizes_text_and_gives_candidates() {
    let model = Model::tiny();
    let flags = ["-p", "def f(x):", "-n", "5", "--n", "3", "--temp", "1", "-s", "7", "--json"];
    let got = model.run("generate", &flags).json();
    assert_names(&got, &["candidates", "prompt_tokens", "window", "timings"]);
    assert_eq!(got["candidates"].as_array().unwrap().len(), 3);
    for candidate in got["candidates"].as_array().unwrap() {
        assert_names(candidate, &["text", "ids", "finish_reason"]);
    }
    let again = model.run("generate", &flags).json();
    assert_eq!(got["candidates"], again["candidates"], "a seed gives the same texts again");
}

#[test]
fn generate_stops_before_a_stop_text() {
    let model = Model::tiny();
    let free = model.run("generate", &["--ids", "2", "-n", "12", "--temp", "0"]).ok();
    let stop: String = free.chars().skip(2).take(3).collect();
    let got = model.run("generate", &["--ids", "2", "-n", "12", "--temp", "0", "--stop", &stop, "--json"]).json();
    assert_eq!(got["finish_reason"], "stop");
    assert_eq!(got["text"], free.split(&stop).next().unwrap());
}

#[test]
fn infill_gives_the_published_result() {
    let model = Model::tiny();
    let expected = oracle_json("tiny-a/infill.fp32.json");
    let cases = expected["infill"].as_array().unwrap();
    for case in cases.iter().filter(|case| case["max_to_generate"].as_u64() <= Some(30)) {
        model.write("parts.json", case["parts"].to_string().as_bytes());
        let parts = format!("{}/parts.json", model.path());
        let (n, retries) = (case["max_to_generate"].to_string(), case["max_retries"].to_string());
        let mut flags = vec!["--parts", &parts, "-n", &n, "--temp", "0", "--retries", &retries];
        flags.extend(["--sentinels", "parse", "--no-heal", "--kv", "f32", "--json"]);
        if case["extra_sentinel"] == false {
            flags.push("--no-extra-sentinel");
        }
        let got = model.run("infill", &flags).json();
        assert_names(&got, &["text", "parts", "infills", "retries_attempted", "complete", "window", "timings"]);
        assert_names(&got["timings"], &TIMINGS);
        let result = &case["result"];
        assert_eq!(got["parts"], case["parts"]);
        assert_eq!(got["retries_attempted"], result["retries_attempted"]);
        assert_eq!(got["complete"], result["all_regions_ended"]);
        let infills = got["infills"].as_array().unwrap();
        assert_eq!(infills.len(), result["infills"].as_array().unwrap().len());
        for (infill, published) in infills.iter().zip(result["infills"].as_array().unwrap()) {
            assert_names(infill, &["text", "ids", "finish_reason"]);
            // A region that <|endoftext|> ended says so instead of leaving the literal in the text.
            let literal = if infill["finish_reason"] == "eos" { "<|endoftext|>" } else { "" };
            assert_eq!(format!("{}{literal}", infill["text"].as_str().unwrap()), published.as_str().unwrap());
        }
    }
}

#[test]
fn score_gives_the_reference_log_probabilities() {
    let model = Model::tiny();
    let expected = oracle_json("tiny-a/expected.fp32.json");
    for sequence in expected["sequences"].as_array().unwrap() {
        let length = sequence["ids"].as_array().unwrap().len();
        if !(2..200).contains(&length) {
            continue;
        }
        let prompt = ids(&sequence["ids"]);
        let got = model.run("score", &["--ids", &prompt, "--top-logprobs", "5", "--kv", "f32", "--json"]).json();
        assert_names(&got, &["ids", "logprobs", "top", "sum", "mean", "windows"]);
        assert_eq!(got["ids"], sequence["ids"]);
        assert_eq!(got["logprobs"][0], Value::Null);
        assert_eq!((got["logprobs"].as_array().unwrap().len(), got["top"].as_array().unwrap().len()), (length, length));
        let off = (got["mean"].as_f64().unwrap() - sequence["mean_logprob"].as_f64().unwrap()).abs();
        assert!(off < 1e-4, "{off}");
        for (top, reference) in got["top"].as_array().unwrap().iter().zip(sequence["top5"].as_array().unwrap()) {
            let top_ids: Vec<&Value> = top.as_array().unwrap().iter().map(|pair| &pair[0]).collect();
            assert_eq!(top_ids.len(), 5);
            assert_eq!(top_ids[0], &reference["ids"][0]);
        }
    }
    let alone = model.run("score", &["--ids", "2", "--json"]).json();
    assert_eq!(alone, json!({"ids": [2], "logprobs": [null], "top": [[]], "sum": null, "mean": null, "windows": 1}));
}

#[test]
fn tokenize_and_detokenize_agree_with_the_reference() {
    let model = Model::tiny();
    let cases = oracle_json("tok-512/cases.json");
    for case in cases["encode"].as_array().unwrap().iter().step_by(23) {
        let text = case["text"].as_str().unwrap();
        let got = run_with_stdin(&["tokenize", "-m", model.path(), "--json"], text.as_bytes()).json();
        assert_names(&got, &["ids", "pieces"]);
        assert_eq!(got["ids"], case["ids"], "{text:?}");
        assert_eq!(got["pieces"].as_array().unwrap().len(), case["ids"].as_array().unwrap().len());

        let bare = run_with_stdin(&["tokenize", "-m", model.path(), "--no-bos"], text.as_bytes()).ok();
        assert_eq!(bare.trim_end(), ids(&case["ids"]).split_once(',').map_or("", |(_, rest)| rest));

        let list = ids(&case["ids"]);
        let back = run(&["detokenize", "-m", model.path(), "--ids", &list, "--json"]).json();
        assert_eq!(back, json!({"text": case["decoded"]}));
        let back = run(&["detokenize", "-m", model.path(), "--ids", &list, "--skip-special", "--json"]).json();
        assert_eq!(back, json!({"text": case["decoded_skip_special"]}));
    }
}

#[test]
fn tokenize_pipes_into_detokenize() {
    let text = "def f():\n\treturn \"é😀\"\r\n";
    let list = run_with_stdin(&["tokenize", "--no-bos"], text.as_bytes()).ok();
    assert_eq!(run_with_stdin(&["detokenize"], list.as_bytes()).ok(), text);
}

#[test]
fn devices_say_what_matters() {
    let got = run(&["devices", "--json"]).json();
    assert_names(&got, &["devices"]);
    for device in got["devices"].as_array().unwrap() {
        assert_names(device, &["index", "name", "backend", "type", "driver", "limits", "features", "models"]);
        assert_eq!(device["models"][0]["model"], "1B");
        // fp16 and a little more: norms and biases are fp32, rows come in blocks.
        let bytes = device["models"][1]["weight_bytes"].as_u64().unwrap();
        assert!((13_302_169_600..13_310_000_000).contains(&bytes), "{bytes}");
        let quantized = &device["models"][1]["quantized"];
        let share = |i: usize| quantized[i]["weight_bytes"].as_f64().unwrap() / bytes as f64;
        assert_eq!((&quantized[0]["weights"], &quantized[1]["weights"]), (&"q8".into(), &"q4".into()));
        assert!((0.53..0.535).contains(&share(0)) && (0.31..0.33).contains(&share(1)), "{quantized}");
    }
    assert_eq!(
        run(&["--list-devices", "--json"]).json()["devices"].as_array().map(Vec::len),
        got["devices"].as_array().map(Vec::len)
    );
}

#[test]
fn completion_scripts_ask_the_program() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(&["completions", shell]).ok();
        assert!(script.contains("incoder") && script.contains("COMPLETE"), "{shell}: {script}");
    }
}

#[test]
fn help_names_the_licence_of_the_weights() {
    for args in [&["--help"][..], &["infill", "--help"], &["generate", "--help"]] {
        assert!(run(args).ok().contains("CC-BY-NC 4.0"), "{args:?}");
    }
}
