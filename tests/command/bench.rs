//! `incoder bench`: the forms of its figures, what it leaves out, and one run on the GPU at hand.

use crate::common::{Model, run};
use serde_json::Value;

const USAGE: i32 = 2;

const KEYS: [&str; 12] = [
    "model",
    "parameters",
    "weight_bytes",
    "weights",
    "kv",
    "context_tokens",
    "repetitions",
    "device",
    "limit",
    "reference_error",
    "rows",
    "left_out",
];
const ROW_KEYS: [&str; 13] = [
    "test",
    "label",
    "prompt_tokens",
    "depth_tokens",
    "new_tokens",
    "ms",
    "ttft_ms",
    "tokens_per_second",
    "ms_per_token",
    "gb_per_second",
    "limit_percent",
    "gflop_per_second",
    "share_percent",
];

/// tiny-a on the CPU: what is tested is the program, not the speed.
fn bench(model: &Model, more: &[&str]) -> crate::common::Ran {
    run(&[&["bench", "-m", model.path(), "--device", "cpu", "-q", "-p", "8", "-n", "2", "-r", "2"], more].concat())
}

#[track_caller]
fn assert_names(value: &Value, names: &[&str]) {
    let mut found: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut names = names.to_vec();
    found.sort_unstable();
    names.sort_unstable();
    assert_eq!(found, names);
}

fn tests(benchmark: &Value) -> Vec<&str> {
    benchmark["rows"].as_array().unwrap().iter().map(|row| row["test"].as_str().unwrap()).collect()
}

#[test]
fn json_has_the_documented_keys() {
    let model = Model::tiny();
    // A model that is only timed needs no tokenizer.
    model.remove("tokenizer.json");
    let got = bench(&model, &["-o", "json", "-d", "0,16", "--pg"]).json();
    assert_names(&got, &KEYS);
    assert_names(&got["device"], &["name", "backend", "type", "driver"]);
    assert_eq!(
        (&got["parameters"], &got["context_tokens"], &got["limit"]),
        (&132_864.into(), &2048.into(), &Value::Null)
    );
    let names = [
        "prefill",
        "first_token",
        "decode",
        "decode",
        "prefill_decode",
        "infill",
        "infill_typed",
        "infill_begun",
        "infill_line",
    ];
    assert_eq!(tests(&got), names);
    for row in got["rows"].as_array().unwrap() {
        assert_names(row, &ROW_KEYS);
        assert_names(&row["ms"], &["median", "min", "max"]);
        let ms = |name: &str| row["ms"][name].as_f64().unwrap();
        assert!(0.0 < ms("min") && ms("min") <= ms("median") && ms("median") <= ms("max"), "{row}");
    }
    let [prefill, first, _, deep, both, infill, typed, begun, _] = &got["rows"].as_array().unwrap()[..] else {
        panic!("{got}")
    };
    let rate = prefill["tokens_per_second"]["median"].as_f64().unwrap();
    assert!((rate * prefill["ms"]["median"].as_f64().unwrap() / 8e3 - 1.0).abs() < 1e-9);
    assert!(prefill["gflop_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(first["ms"], first["ttft_ms"]);
    assert_eq!((&deep["depth_tokens"], &deep["new_tokens"]), (&16.into(), &2.into()));
    assert!(deep["ms_per_token"].as_f64().unwrap() > 0.0 && deep["gb_per_second"].is_null());
    assert_eq!((&both["prompt_tokens"], &both["new_tokens"]), (&8.into(), &2.into()));
    assert!(infill["ttft_ms"]["median"].as_f64() < infill["ms"]["median"].as_f64());
    assert_eq!((&typed["depth_tokens"], &typed["prompt_tokens"]), (&256.into(), &132.into()));
    assert!(typed["ms"]["median"].as_f64() < infill["ttft_ms"]["median"].as_f64(), "the cache is of use: {got}");
    assert_eq!((&begun["depth_tokens"], &begun["prompt_tokens"]), (&395.into(), &1.into()));
    assert!(begun["ms"]["median"].as_f64() < typed["ms"]["median"].as_f64(), "the cache is of use: {got}");
    // The flag of every other command means the same.
    assert_names(&bench(&model, &["--json", "--no-infill"]).json(), &KEYS);
}

#[test]
fn tables_are_markdown_and_csv() {
    let model = Model::tiny();
    let markdown = bench(&model, &["--no-infill"]).ok();
    let rows: Vec<&str> = markdown.lines().filter(|line| line.starts_with('|')).collect();
    assert!(rows[0].starts_with("| test ") && rows[0].contains("| tokens/s |") && rows[1].contains("-:"), "{markdown}");
    let names: Vec<&str> = rows[2..].iter().map(|row| row.split('|').nth(1).unwrap().trim()).collect();
    assert_eq!(names, ["prefill 8", "first token after 8", "decode 2 at 0"]);
    assert!(rows.iter().all(|row| row.matches('|').count() == 10), "{markdown}");

    let csv = bench(&model, &["--no-infill", "-o", "csv"]).ok();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 4, "{csv}");
    assert!(lines[0].starts_with("model,device,test,prompt_tokens,depth_tokens,new_tokens,repetitions,ms,"), "{csv}");
    let decode = lines[3].split_once("\"CPU, the plain reference\",").expect("a quoted name").1;
    assert!(decode.starts_with("decode,0,0,2,2,") && decode.ends_with(",,,,,,,,decode 2 at 0,"), "{csv}");
    assert_eq!(decode.matches(',').count() + 2, lines[0].matches(',').count(), "{csv}");
}

#[test]
fn what_does_not_fit_is_left_out_and_said() {
    let model = Model::tiny();
    let small =
        ["bench", "-m", model.path(), "--device", "cpu", "-c", "40", "-p", "8", "-n", "2", "-r", "1", "-d", "0,39"];
    let ran = run(&[&small[..], &["-o", "json"]].concat());
    assert!(ran.stderr.contains("left out: decode 2 at 39 takes 41 tokens, the context holds 40 (-c)\n"), "{ran:?}");
    let got = ran.json();
    assert_eq!(tests(&got), ["prefill", "first_token", "decode"]);
    let left_out: Vec<&str> = got["left_out"].as_array().unwrap().iter().map(|l| l["row"].as_str().unwrap()).collect();
    assert_eq!(
        left_out,
        [
            "decode 2 at 39",
            "infill 256 _ 128, 32 new",
            "infill, a token typed",
            "infill, a token typed in it",
            "infill, a line typed in it"
        ]
    );
    assert_eq!((&got["left_out"][0]["need_tokens"], &got["left_out"][0]["have_tokens"]), (&41.into(), &40.into()));

    let line = bench(&model, &["-c", "1"]).refused(USAGE);
    assert!(line.contains("nothing fits a context of 1 tokens"), "{line}");
    let line = run(&["bench", "-p", "0", "-n", "0", "--no-infill"]).refused(USAGE);
    assert!(line.contains("nothing to measure"), "{line}");
}

#[test]
fn wrong_flags_say_what_would_be_right() {
    for (args, says) in [
        (&["-d", "cpu"][..], "a GPU is --device"),
        (&["-pg", "128,32"], "are --pg"),
        (&["--pg", "128"], "such as 128,32"),
        (&["--shape", "small", "-m", "model"], "cannot be used with"),
        (&["--json", "-o", "csv"], "cannot be used with"),
    ] {
        let ran = run(&[&["bench"], args].concat());
        assert!((ran.code, ran.stdout.as_str()) == (USAGE, "") && ran.stderr.contains(says), "{args:?}: {ran:?}");
    }
}

/// Random weights through the loader, the limit, and figures held against it.
#[test]
fn random_weights_on_the_gpu() {
    let args = ["bench", "--shape", "small", "-p", "4", "-n", "1", "-r", "1", "-c", "32", "--no-infill", "--json"];
    let got = run(&args).json();
    assert_eq!((&got["model"], &got["parameters"]), (&"small, random weights".into(), &29_414_400.into()));
    let limit = &got["limit"];
    assert_names(
        limit,
        &["read_gb_per_second", "buffer", "texture", "storage_texture", "dispatch_us", "round_trip_us"],
    );
    let best = limit["read_gb_per_second"].as_f64().unwrap();
    for way in ["buffer", "texture", "storage_texture"] {
        assert_names(&limit[way], &["gb_per_second", "workgroup_threads"]);
        let rate = limit[way]["gb_per_second"].as_f64().unwrap();
        assert!(rate > 0.01 && rate <= best, "{limit}");
        assert!([8, 16, 64, 256].contains(&limit[way]["workgroup_threads"].as_u64().unwrap()));
    }
    assert!(["dispatch_us", "round_trip_us"].iter().all(|cost| limit[cost].as_f64().unwrap() > 0.0), "{limit}");
    let [prefill, first, decode] = &got["rows"].as_array().unwrap()[..] else { panic!("{got}") };
    assert!(prefill["gflop_per_second"].as_f64().unwrap() > 0.0);
    let gb = decode["gb_per_second"].as_f64().unwrap();
    let read = got["weight_bytes"].as_f64().unwrap() + 2.0 * 2.0 * 8.0 * 512.0 * 2.0;
    assert!((gb * 1e6 * decode["ms_per_token"].as_f64().unwrap() / read - 1.0).abs() < 1e-9, "{decode}");
    // The keys and values of the four tokens of the prompt, in one step.
    let read = got["weight_bytes"].as_f64().unwrap() + 4.0 * 2.0 * 8.0 * 512.0 * 2.0;
    for row in [prefill, first] {
        let gb = row["gb_per_second"].as_f64().unwrap();
        assert!((gb * 1e6 * row["ms"]["median"].as_f64().unwrap() / read - 1.0).abs() < 1e-9, "{row}");
    }
    for row in [prefill, first, decode] {
        let gb = row["gb_per_second"].as_f64().unwrap();
        assert!((row["limit_percent"].as_f64().unwrap() / (100.0 * gb / best) - 1.0).abs() < 1e-9, "{row}");
    }
}

/// Timestamps of every kernel: the parts of a step are not longer than the step.
#[test]
fn a_profile_names_every_kernel() {
    let args = ["bench", "--shape", "small", "--profile", "-p", "4", "-r", "1", "-c", "32", "--json"];
    let got = run(&args).json();
    let rows = got["rows"].as_array().unwrap();
    let labels: Vec<&str> = rows.iter().map(|row| row["label"].as_str().unwrap()).collect();
    let kernels = [
        "embed (1)",
        "layer_norm (17)",
        "project_qkv 1536×512 (8)",
        "attention_scores (8)",
        "attention_values (8)",
        "project_residual 512×512 (8)",
        "project_gelu 2048×512 (8)",
        "project_residual 512×2048 (8)",
        "project_logits 8192×512 (1)",
        "choose_best (1)",
        "choose_token (1)",
    ];
    assert_eq!(labels, [&["step of 1 at 0"][..], &kernels, &["step of 4 at 0"], &kernels].concat());
    for step in rows.chunks(1 + kernels.len()) {
        let median = |row: &Value| row["ms"]["median"].as_f64().unwrap();
        let parts: f64 = step[1..].iter().map(median).sum();
        assert!((parts / median(&step[0]) - 1.0).abs() < 1e-6 && step.iter().all(|row| median(row) > 0.0), "{got}");
        assert!(step[3]["gb_per_second"].as_f64().unwrap() > 0.0 && step[3]["limit_percent"].as_f64().unwrap() > 0.0);
        assert!(step[3]["gflop_per_second"].as_f64().unwrap() > 0.0 && step[1]["gb_per_second"].is_null());
    }
    let line = run(&["bench", "--shape", "small", "--profile", "--device", "cpu", "--quiet"]).refused(USAGE);
    assert!(line.contains("time a GPU's kernels"), "{line}");
}

#[test]
fn kernels_are_held_against_the_reference_and_timed() {
    let got = run(&["bench", "--kernels", "--shape", "small", "-r", "1", "--json"]).json();
    assert_eq!(got["model"], "one layer of small, random weights");
    let error = got["reference_error"].as_f64().unwrap();
    assert!(error > 0.0 && error < 1e-3, "{got}");
    let steps = got["rows"].as_array().unwrap().iter().filter(|row| row["test"] == "step");
    let steps: Vec<&str> = steps.map(|row| row["label"].as_str().unwrap()).collect();
    assert_eq!(steps, [1, 2, 4, 8, 32].map(|tokens| format!("step of {tokens} at 512")));
}
