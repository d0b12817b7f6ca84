//! `incoder convert` and `incoder plan`, as a user calls them.

use crate::common::{finish, oracle, program, run};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A model folder with these weights of tiny-a under the name that a model has them under.
fn model(folder: &Path, weights: &str, name: &str) -> PathBuf {
    let model = folder.join("model");
    fs::create_dir(&model).unwrap();
    fs::copy(oracle("tiny-a/config.json"), model.join("config.json")).unwrap();
    fs::copy(oracle("tok-512/tokenizer.json"), model.join("tokenizer.json")).unwrap();
    fs::copy(oracle(&format!("tiny-a/{weights}")), model.join(name)).unwrap();
    model
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn score(model: &Path) -> Value {
    let scored = run(&["score", "-m", path(model), "-d", "cpu", "--kv", "f32", "-p", "def f(x):\n", "--json", "-q"]);
    let mut scored = scored.json();
    scored.as_object_mut().unwrap().remove("timings");
    scored
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What Python wrote into a config becomes JSON; the dtype stands where the config has it, as transformers 4 or 5 call it.
#[test]
fn a_config_with_nan_is_written_as_json() {
    for (names, written) in [
        (vec!["dtype"], vec!["dtype"]),
        (vec![], vec!["torch_dtype"]),
        (vec!["dtype", "torch_dtype"], vec!["dtype", "torch_dtype"]),
    ] {
        let temp = TempDir::new().unwrap();
        let source = model(temp.path(), "model.fp32.safetensors", "model.safetensors");
        let text = fs::read_to_string(source.join("config.json")).unwrap();
        let mut config: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
        config.remove("torch_dtype");
        names.iter().for_each(|name| drop(config.insert((*name).to_owned(), "float32".into())));
        let text = Value::Object(config).to_string();
        let text = format!("\u{feff}{},\"layerdrop\": NaN,\"list\": [-Infinity]}}", text.strip_suffix('}').unwrap());
        fs::write(source.join("config.json"), text).unwrap();
        let out = temp.path().join("out");
        let ran = run(&["convert", path(&source), path(&out)]);
        assert!(ran.stderr.contains("layerdrop, list left out"), "{}", ran.stderr);
        ran.ok();
        let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
        let dtypes: Vec<&str> = ["dtype", "torch_dtype"].into_iter().filter(|name| config[name] == "float16").collect();
        assert_eq!((dtypes, config.get("layerdrop")), (written, None));
        score(&out);
    }
}

#[test]
fn converts_torch_weights_to_one_file_and_to_shards() {
    let temp = TempDir::new().unwrap();
    let source = model(temp.path(), "pytorch_model.fp16.bin", "pytorch_model.bin");
    let (one, many) = (temp.path().join("one"), temp.path().join("many"));
    run(&["convert", path(&source), path(&one)]).ok();
    run(&["convert", path(&source), path(&many), "--shard-size", "100kB"]).ok();
    assert_eq!(names(&one), ["README.md", "config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(fs::metadata(one.join("model.safetensors")).unwrap().len() % 8, 0);
    let index: Value = serde_json::from_slice(&fs::read(many.join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], 2 * 132_864);
    assert_eq!(index["weight_map"].as_object().unwrap().len(), 36 - 1);
    for name in names(&many).iter().filter(|name| name.ends_with(".safetensors")) {
        let size = fs::metadata(many.join(name)).unwrap().len();
        assert!(size < 105_000, "{name}: {size}");
    }
    assert_eq!(score(&one), score(&source));
    assert_eq!(score(&many), score(&source));
    let config: Value = serde_json::from_slice(&fs::read(one.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["torch_dtype"], "float16");
    assert!(fs::read_to_string(one.join("README.md")).unwrap().contains("keep the licence"));
    // Nothing is left of the unfinished folders.
    assert_eq!(names(temp.path()), ["many", "model", "one"]);
}

#[test]
fn keeps_single_precision_when_asked() {
    let temp = TempDir::new().unwrap();
    let source = model(temp.path(), "pytorch_model.fp32.bin", "pytorch_model.bin");
    let out = temp.path().join("out");
    run(&["convert", path(&source), path(&out), "--dtype", "f32"]).ok();
    assert_eq!(score(&out), score(&source));
}

/// A file of quantized weights gives what quantizing while loading gives, in one file and in shards.
#[test]
fn quantizes_any_checkpoint() {
    let temp = TempDir::new().unwrap();
    let source = model(temp.path(), "pytorch_model.fp32.bin", "pytorch_model.bin");
    let exact = score(&source)["sum"].as_f64().unwrap();
    // A quarter of the parameters are the embedding's, which are in 8 bits; each 32 have a scale of two bytes.
    for (dtype, most_bytes, close) in [("q8", 160_000, 0.01), ("q4", 115_000, 0.2)] {
        let (one, many) = (temp.path().join(dtype), temp.path().join(format!("{dtype}-many")));
        let ran = run(&["convert", path(&source), path(&one), "--dtype", dtype]);
        assert!(ran.stderr.contains(&format!("bytes of tensors as {dtype} in 1 file")), "{}", ran.stderr);
        ran.ok();
        run(&["convert", path(&source), path(&many), "--dtype", dtype, "--shard-size", "30kB"]).ok();
        assert!(fs::metadata(one.join("model.safetensors")).unwrap().len() < most_bytes);
        let config: Value = serde_json::from_slice(&fs::read(one.join("config.json")).unwrap()).unwrap();
        assert_eq!(
            (&config["quantization_config"]["quant_method"], &config["torch_dtype"]),
            (&"incoder".into(), &"float16".into())
        );
        let while_loading = ["-d", "cpu", "--kv", "f32", "-p", "def f(x):\n", "--json", "-q", "--quantize", dtype];
        let mut expected = run(&[&["score", "-m", path(&source)], &while_loading[..]].concat()).json();
        expected.as_object_mut().unwrap().remove("timings");
        assert_eq!((&score(&one), &score(&many)), (&expected, &expected));
        let sum = expected["sum"].as_f64().unwrap();
        assert!(sum != exact && (sum / exact - 1.0).abs() < close, "{dtype}: {sum}, {exact}");
        // Back to plain numbers, exact.
        let back = temp.path().join(format!("{dtype}-f32"));
        run(&["convert", path(&one), path(&back), "--dtype", "f32"]).ok();
        assert_eq!(score(&back), expected);
        let other = if dtype == "q8" { "q4" } else { "q8" };
        let refused = run(&["convert", path(&one), path(&temp.path().join("no")), "--dtype", other]).refused(2);
        assert!(refused.contains("quantized already"), "{refused}");
    }
}

#[test]
fn leaves_nothing_when_it_fails() {
    let temp = TempDir::new().unwrap();
    let source = model(temp.path(), "model.fp16.safetensors", "model.safetensors");
    let out = temp.path().join("out");
    let mut weights = fs::read(source.join("model.safetensors")).unwrap();
    let end = weights.len();
    weights[end - 2..].copy_from_slice(&0x7E00u16.to_le_bytes());
    fs::write(source.join("model.safetensors"), weights).unwrap();
    assert!(run(&["convert", path(&source), path(&out)]).refused(4).contains("holds NaN"));
    assert_eq!(names(temp.path()), ["model"]);
    fs::create_dir(&out).unwrap();
    assert!(run(&["convert", path(&source), path(&out)]).refused(2).contains("exists already"));
    assert!(run(&["convert", path(&source), "no/such/folder/out"]).refused(1).contains("no/such/folder"));
}

#[test]
fn plans_without_downloading_anything() {
    let mut command = program(&["plan", "facebook/incoder-6B", "--json"]);
    command.env("HF_ENDPOINT", "http://127.0.0.1:1");
    let plan = finish(command).json();
    assert_eq!((&plan["parameters"], &plan["context_tokens"]), (&6_651_084_800u64.into(), &2048.into()));
    let device = &plan["devices"][0];
    let total = device["total_bytes"].as_u64().unwrap();
    assert!((14_000_000_000..=15_000_000_000).contains(&total), "{total}");
    let sum: u64 =
        ["weight_bytes", "kv_bytes", "scratch_bytes"].iter().map(|part| device[part].as_u64().unwrap()).sum();
    assert_eq!(sum, total);
    let candidates = run(&["plan", "1B", "-c", "1000", "--candidates", "3", "-n", "100", "--json"]).json();
    assert_eq!((&candidates["context_tokens"], &candidates["prompt_tokens"]), (&1000.into(), &700.into()));
    let text = run(&["plan"]).ok();
    assert!(text.starts_with("the demo model: 12.5M parameters, 8 layers\n") && text.contains(": fits\n"), "{text}");
    let small = run(&["plan", "6B", "--memory", "8GB", "--json"]).json();
    let device = &small["devices"][0];
    assert_eq!((&device["weights"], &device["fits"]), (&"fp16".into(), &false.into()));
    let others = device["others"].as_array().unwrap();
    let fits: Vec<_> = others.iter().map(|other| (other["weights"].as_str(), other["fits"].as_bool())).collect();
    assert_eq!(fits, [(Some("q8"), Some(false)), (Some("q4"), Some(true))], "{others:?}");
    // What fits a GPU of this size with all of the model's context, and the most that would.
    for (model, weights, memory, most) in [
        ("1B", "q4", "2GB", 5_000),
        ("6B", "q4", "8GB", 6_500),
        ("6B", "q8", "12GB", 8_000),
        ("1B", "q8", "4GB", 12_000),
    ] {
        let plan = |context: &str| {
            let args = ["plan", model, "--quantize", weights, "--memory", memory, "-c", context, "--json"];
            run(&args).json()["devices"][0].clone()
        };
        assert_eq!(plan("0")["fits"], true, "{model} {weights} {memory}");
        let device = plan("1000000");
        let largest = device["largest_context_tokens"].as_u64().unwrap();
        assert!((most..most + most / 5).contains(&largest), "{model} {weights} {memory}: {largest}");
        let at = |tokens: u64| plan(&tokens.to_string())["fits"].clone();
        assert_eq!((at(largest), at(largest + 1)), (true.into(), false.into()), "{device}");
    }
    let text = run(&["plan", "6B", "--memory", "8GB", "--quantize", "q4"]).ok();
    assert!(text.contains(" of 8.0 GB: fits\n") && text.contains("in fp16"), "{text}");
    let text = run(&["plan", "6B", "-c", "1000000"]).ok();
    assert!(text.contains("this adapter allows") && text.contains("would fit: -c "), "{text}");
}
