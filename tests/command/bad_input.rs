//! Whatever is wrong is said in one line on stderr, with the exit code that scripts act on, and nothing on stdout.

use crate::common::{Model, finish, program, run, run_with_stdin};
use serde_json::{Value, json};

const USAGE: i32 = 2;
const NO_GPU: i32 = 3;
const MODEL: i32 = 4;

const ASK: [&str; 4] = ["--ids", "2,17", "-n", "2"];

#[track_caller]
fn assert_says(line: &str, words: &[&str]) {
    assert!(words.iter().all(|word| line.contains(word)), "{line:?} lacks one of {words:?}");
}

/// A safetensors file's header and data.
fn taken_apart(file: &[u8]) -> (Value, Vec<u8>) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&file[8..8 + length]).unwrap(), file[8 + length..].to_vec())
}

fn put_together(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string().into_bytes();
    [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
}

#[test]
fn not_a_model_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let line = run(&["generate", "-m", path, "--ids", "2"]).refused(MODEL);
    assert_says(&line, &[path, "is not a model folder: it has no config.json"]);
    let line = run(&["tokenize", "-m", "/no/such/folder"]).refused(MODEL);
    assert_says(&line, &["/no/such/folder", "no such model folder"]);

    for (missing, says) in [("tokenizer.json", "tokenizer.json"), ("model.safetensors", "model.safetensors")] {
        let model = Model::tiny();
        model.remove(missing);
        assert_says(&model.run("generate", &ASK).refused(MODEL), &[says, "no such file"]);
    }
}

#[test]
fn wrong_json() {
    for (file, bytes) in
        [("config.json", "{"), ("config.json", "[]"), ("tokenizer.json", "{"), ("tokenizer.json", "{}")]
    {
        let model = Model::tiny();
        model.write(file, bytes.as_bytes());
        assert_says(&model.run("generate", &ASK).refused(MODEL), &[file]);
    }
    let model = Model::tiny();
    model.write("config.json", br#"{"model_type":"gpt2"}"#);
    assert_says(&model.run("generate", &ASK).refused(MODEL), &["unsupported model", "gpt2"]);
}

#[test]
fn a_tokenizer_of_another_model() {
    let model = Model::tiny();
    model.write("tokenizer.json", &std::fs::read(crate::common::oracle("tok-2k/tokenizer.json")).unwrap());
    assert_says(&model.run("generate", &ASK).refused(MODEL), &["tokenizer.json has 2048 ids", "vocab_size 512"]);
}

#[test]
fn missing_extra_and_misshapen_tensors() {
    for (weights, words) in [
        ("variants/MISSING_fc2_bias.fp16.safetensors", ["fc2.bias", "is missing"]),
        ("variants/WRONG_SHAPE_fc1.fp16.safetensors", ["fc1.", "has shape"]),
    ] {
        assert_says(&Model::new("tiny-a", weights).run("generate", &ASK).refused(MODEL), &words);
    }
    let model = Model::tiny();
    let (mut header, mut data) = taken_apart(&model.read("model.safetensors"));
    let end = data.len();
    header["model.layers.9.fc1.bias"] = json!({"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]});
    data.extend([0; 4]);
    model.write("model.safetensors", &put_together(&header, &data));
    assert_says(&model.run("generate", &ASK).refused(MODEL), &["layers.9.fc1.bias", "is not part of"]);
}

#[test]
fn truncated_or_lying_safetensors() {
    let whole = Model::tiny().read("model.safetensors");
    let huge = [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat();
    let (mut overlong, data) = taken_apart(&whole);
    overlong["model.layer_norm.bias"]["data_offsets"] = json!([0, 1_u64 << 40]);
    let overlong = put_together(&overlong, &data);
    for bytes in [&whole[..whole.len() - 1], &whole[..100], &whole[..4], b"", &huge, &overlong] {
        let model = Model::tiny();
        model.write("model.safetensors", bytes);
        assert_says(&model.run("generate", &ASK).refused(MODEL), &["model.safetensors"]);
    }
}

#[test]
fn weights_that_are_not_numbers() {
    let model = Model::tiny();
    let (header, mut data) = taken_apart(&model.read("model.safetensors"));
    let start = header["model.layers.1.fc2.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    data[start + 4..start + 8].copy_from_slice(&f32::NAN.to_le_bytes());
    model.write("model.safetensors", &put_together(&header, &data));
    assert_says(&model.run("generate", &ASK).refused(MODEL), &["layers.1.fc2.weight", "NaN", "damaged"]);
}

#[test]
fn ids_out_of_range() {
    let model = Model::tiny();
    let line = model.run("generate", &["--ids", "2,512"]).refused(USAGE);
    assert_says(&line, &["token id 512 is out of range", "512 ids"]);
    assert_says(&model.run("score", &["--ids", "2,99999"]).refused(USAGE), &["99999"]);
    assert_says(&run(&["detokenize", "-m", model.path(), "--ids", "600"]).refused(USAGE), &["600"]);
    assert_says(
        &run_with_stdin(&["detokenize", "-m", model.path()], b"2,x").refused(USAGE),
        &["\"x\" is not a token id"],
    );
}

#[test]
fn prompts_that_are_none() {
    let model = Model::tiny();
    assert_says(&model.run("generate", &["--ids", ""]).refused(USAGE), &["the prompt is empty"]);
    assert_says(&model.run("generate", &[]).refused(USAGE), &["no prompt", "-p TEXT"]);
    assert_says(&model.run("score", &[]).refused(USAGE), &["no prompt"]);
    assert_says(&model.run("generate", &["-f", "/no/such/file.py"]).refused(USAGE), &["/no/such/file.py"]);
    assert_says(&model.run("infill", &[]).refused(USAGE), &["nothing to fill"]);
}

#[test]
fn a_prompt_longer_than_the_context() {
    let model = Model::tiny();
    let line = model.run("generate", &["-c", "4", "--ids", "2,5,6,7,8"]).refused(USAGE);
    assert_says(&line, &["the context is full: 5 tokens are needed, it holds 4"]);
}

#[test]
fn text_that_is_not_utf8() {
    let model = Model::tiny();
    let bytes = b"def f():\n    \xff";
    for args in [
        model.args("generate", &["-f", "-"]),
        model.args("score", &["-f", "-"]),
        model.args("infill", &["-"]),
        model.args("infill", &["--parts", "-"]),
        vec!["tokenize", "-m", model.path()],
    ] {
        let line = run_with_stdin(&args, bytes).refused(USAGE);
        assert_says(&line, &["stdin:2:5: not UTF-8: byte 14 is 0xFF", "`iconv -f WINDOWS-1252 -t UTF-8`"]);
    }
}

#[test]
fn sentinels_in_the_users_own_text() {
    let model = Model::tiny();
    let line = model.run("generate", &["-p", "a <|mask:0|> b", "--sentinels", "refuse"]).refused(USAGE);
    assert_says(&line, &["<|mask:0|>", "line 1, column 3", "--sentinels literal"]);
    let args = model.args("infill", &["-", "--sentinels", "refuse"]);
    let line = run_with_stdin(&args, b"a <|endofmask|> <infill>").refused(USAGE);
    assert_says(&line, &["<|endofmask|>", "--sentinels literal"]);
}

#[test]
fn holes_that_are_not_there() {
    let model = Model::tiny();
    assert_says(&run_with_stdin(&model.args("infill", &["-"]), b"no hole").refused(USAGE), &["stdin has no <infill>"]);
    let args = model.args("infill", &["-", "--at", "9:1"]);
    assert_says(&run_with_stdin(&args, b"a\nb\n").refused(USAGE), &["stdin has 3 lines, not 9"]);
    let args = model.args("infill", &["-", "--marker", ""]);
    assert_says(&run_with_stdin(&args, b"a").refused(USAGE), &["--marker is empty"]);
    for (parts, says) in [("[", "wrong JSON"), ("{}", "array of strings"), ("[1]", "array of strings"), ("[]", "empty")]
    {
        let line = run_with_stdin(&model.args("infill", &["--parts", "-"]), parts.as_bytes()).refused(USAGE);
        assert_says(&line, &["stdin", says]);
    }
    let line = run_with_stdin(&model.args("infill", &["-", "--in-place"]), b"<infill>").refused(USAGE);
    assert_says(&line, &["--in-place needs a file"]);
}

#[test]
fn flags_that_make_no_sense() {
    // These are clap's own: several lines, with the usage; the code is what scripts see.
    for args in [
        &["generate", "-n", "-3"][..],
        &["generate", "--temp", "warm"],
        &["generate", "--ids", "1,x"],
        &["generate", "-p", "a", "--ids", "1"],
        &["infill", "a.py", "--parts", "b.json"],
        &["infill", "a.py", "--at", "3"],
        &["infill", "--prefix-file", "a"],
        &["infill", "a.py", "--diff", "--json"],
        &["nonsense"],
    ] {
        let ran = run(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (USAGE, ""), "{args:?}");
        assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    }
}

/// The program where the Vulkan loader finds no driver.
#[cfg(target_os = "linux")]
fn without_gpu(args: &[&str]) -> std::process::Command {
    let mut command = program(args);
    command.env("VK_DRIVER_FILES", "/nonexistent.json").env("VK_ICD_FILENAMES", "/nonexistent.json");
    command
}

#[test]
#[cfg(target_os = "linux")]
fn no_adapter() {
    // What one thread would compute for long has to be asked for.
    let line = finish(without_gpu(&["bench", "--shape", "1B"])).refused(NO_GPU);
    assert_says(&line, &["no GPU adapter found", "--device cpu"]);
    assert_eq!(finish(without_gpu(&["devices", "--json"])).json(), json!({"devices": []}));

    // A small model still answers, on the CPU, and says so in one line.
    let model = Model::tiny();
    for more in [&[][..], &["-m", model.path()]] {
        let args = [&["generate", "-p", "import ", "-n", "1", "--temp", "0", "--json"], more].concat();
        let ran = finish(without_gpu(&args));
        assert_eq!(ran.stderr, "incoder: no GPU found: computing on the CPU\n");
        assert_eq!(ran.json()["ids"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn an_adapter_of_no_such_name() {
    let line = run(&["generate", "-d", "no such GPU", "-p", "a"]).refused(NO_GPU);
    assert_says(&line, &["no GPU \"no such GPU\": ", "incoder devices", "-d cpu"]);
}

#[test]
fn an_adapter_whose_limits_are_too_small() {
    let model = Model::tiny();
    // No adapter binds buffers for so many positions: 2^26 of them take 16 GB.
    let line = run(&["generate", "-m", model.path(), "-c", "67108864", "--ids", "2"]).refused(NO_GPU);
    assert_says(&line, &["needs"]);
}
