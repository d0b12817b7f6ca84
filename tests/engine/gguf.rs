//! GGUF files as model folders: what ggml's own package unpacks, any range of bytes, and damaged files.

use crate::support::{cpu_and_gpu, oracle, read};
use incoder::checkpoint::Checkpoint;
use incoder::{
    Config, Error, Folder, GenerateOptions, GgufFolder, LoadOptions, MemoryFolder, Prompt, Result, Sampling, Sentinels,
    Session, Source, Tokenizer, generate,
};
use pollster::block_on;
use proptest::prelude::*;
use serde_json::Value;

const MODEL: &str = "gguf/every-type.gguf";

fn open(bytes: Vec<u8>) -> Result<GgufFolder> {
    let folder = MemoryFolder::default().with("model.gguf", bytes);
    block_on(GgufFolder::open(block_on(Folder::open(&folder, "model.gguf")).unwrap().unwrap()))
}

fn bytes() -> Vec<u8> {
    std::fs::read(oracle(MODEL)).unwrap()
}

fn config(folder: &GgufFolder) -> Config {
    block_on(Config::read(folder as &dyn Folder)).unwrap()
}

fn hugging_face(name: &str) -> String {
    let parts = [
        ("token_embd", "embed_tokens"),
        ("output_norm", "norm"),
        ("blk.", "layers."),
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ];
    parts.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

#[test]
fn every_type_is_unpacked_as_ggml_does() {
    let folder = open(bytes()).unwrap();
    let config = config(&folder);
    assert_eq!((config.model_type(), config.num_layers, config.kv_heads), ("llama", 1, 4));
    assert!(config.tie_word_embeddings);
    assert_eq!(config.eos_token_ids, [1]);
    let checkpoint = block_on(Checkpoint::open(&folder, &config)).unwrap();
    let expected: Value = read("gguf/expected.json");
    let mut kinds = Vec::new();
    for (name, case) in expected["tensors"].as_object().unwrap() {
        kinds.push(case["type"].as_str().unwrap());
        let rows = case["rows"].as_u64().unwrap() as usize;
        let shown = block_on(checkpoint.rows(&hugging_face(name), 0..rows)).unwrap();
        let columns = shown.len() / rows;
        let recorded =
            |row: &str| case[row].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
        let row = |i: usize| shown[i * columns..][..columns].iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        assert_eq!(row(0), recorded("first_row"), "{name}");
        assert_eq!(row(rows - 1), recorded("last_row"), "{name}");
        // llama.cpp's order of the rows: the two of a pair that is rotated side by side, in heads of 32.
        let order = |stored: usize| match name.contains("attn_q") || name.contains("attn_k") {
            true => stored / 32 * 32 + stored % 2 * 16 + stored % 32 / 2,
            false => stored,
        };
        let values = (0..rows).flat_map(|stored| row(order(stored)));
        let sum: f64 = values.enumerate().map(|(i, value)| value * (1 + i % 97) as f64).sum();
        let recorded = case["sum"].as_f64().unwrap();
        assert!((sum - recorded).abs() < 1e-6 * recorded.abs().max(1.0), "{name}: {sum}, recorded {recorded}");
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, ["BF16", "F16", "F32", "Q4_0", "Q4_1", "Q4_K", "Q6_K", "Q8_0"]);
}

#[test]
fn a_gguf_file_is_a_whole_model() {
    let folder = open(bytes()).unwrap();
    let text = block_on((&folder as &dyn Folder).text("tokenizer.json", 1 << 20)).unwrap();
    let tokenizer = Tokenizer::from_json(&text).unwrap();
    let ids = tokenizer.encode("abc ab", Sentinels::Literal).unwrap();
    let pieces: Vec<String> = ids.iter().map(|&id| tokenizer.piece(id).unwrap()).collect();
    assert_eq!(pieces, ["<s>", "abc", "Ġ", "ab"]);
    let expected: Value = read("gguf/expected.json");
    assert_eq!(ids, token_ids(&expected["prompt"]));
    for (name, device) in cpu_and_gpu() {
        let options = LoadOptions { context: Some(32), ..Default::default() };
        let mut session = block_on(Session::load(&folder, &device, &options, &mut |_| ())).unwrap();
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let options = GenerateOptions { sampling, max_new_tokens: 24, ignore_eos: true, ..Default::default() };
        let options = GenerateOptions { sentinels: Sentinels::Parse, ..options };
        let generation =
            block_on(generate(&mut session, &tokenizer, Prompt::Ids(&ids), &options, &mut |_| ())).unwrap();
        assert_eq!(generation.candidates[0].ids, token_ids(&expected["greedy24"]), "on {name}");
    }
}

fn token_ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn damaged_files_are_refused_in_one_line() {
    let whole = bytes();
    let changed = |at: usize, to: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    let find = |text: &str| whole.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
    let of_type = |name: &str| find(name) + name.len() + 4 + 16;
    for (bytes, says) in [
        (Vec::new(), "damaged or cut off"),
        (changed(0, b"GGML"), "does not begin with GGUF"),
        (changed(4, &[1]), "version 1; versions 2 and 3 are read"),
        (changed(4, &[0, 0, 0, 3]), "big-endian"),
        (changed(8, &[0xff; 8]), "claims 18446744073709551615 tensors"),
        (changed(16, &[0xff; 8]), "claims 18446744073709551615 metadata fields"),
        (changed(24, &[0xff; 8]), "damaged or cut off"),
        (whole[..whole.len() / 2].to_vec(), "is cut off"),
        (whole[..300].to_vec(), "damaged or cut off"),
        (changed(of_type("blk.0.ffn_up.weight"), &[13]), "is stored as Q5_K"),
        (changed(of_type("blk.0.ffn_up.weight"), &[77]), "is stored as the type 77"),
        (changed(find("gpt2"), b"bert"), "vocabulary of the kind \"bert\""),
        (changed(find("smollm"), b"nobody"), "split in the way \"nobody\""),
        (changed(find("llama.attention.head_count"), b"other"), "llama.attention.head_count is missing"),
        (changed(find("llama.attention.head_count") + 30, &[0xff; 4]), "llama.attention.head_count is 4294967295"),
        (changed(find("tokenizer.ggml.merges") + 25 + 4, &[0xff; 8]), "claims a list of"),
        (changed(find("blk.0.attn_v"), b"blk.0.other_"), "not part of a model of the Llama family"),
    ] {
        let error = match open(bytes) {
            Ok(folder) => block_on(Checkpoint::open(&folder, &config(&folder))).map(|_| ()).unwrap_err(),
            Err(error) => error,
        };
        let text = error.to_string();
        assert!(text.contains(says) && !text.contains('\n'), "{text}; expected {says}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// What is shown does not depend on the ranges in which it is read.
    #[test]
    fn any_range_of_bytes_is_the_same(start in 0usize..1_900_000, length in 0usize..3000) {
        thread_local! {
            static WHOLE: (Box<dyn Source>, Vec<u8>) = {
                let folder = open(bytes()).unwrap();
                let file = block_on(Folder::open(&folder, "model.safetensors")).unwrap().unwrap();
                let mut all = vec![0; file.size() as usize];
                block_on(file.read(0, &mut all)).unwrap();
                (file, all)
            };
        }
        WHOLE.with(|(file, all)| {
            let start = start.min(all.len());
            let end = (start + length).min(all.len());
            let mut part = vec![0; end - start];
            block_on(file.read(start as u64, &mut part)).unwrap();
            assert!(part == all[start..end], "{start}..{end}");
        });
    }

    /// Whatever the header says, the answer is a model or an error.
    #[test]
    fn no_header_makes_it_panic(at in 0usize..4000, byte in any::<u8>(), cut in 0usize..4000) {
        let mut bytes = bytes();
        bytes[at] = byte;
        if cut % 4 == 0 {
            bytes.truncate(cut);
        }
        match open(bytes) {
            Ok(folder) => {
                if let Ok(config) = block_on(Config::read(&folder as &dyn Folder)) {
                    let _ = block_on(Checkpoint::open(&folder, &config));
                }
            }
            Err(error) => assert!(!matches!(error, Error::Cancelled)),
        }
    }
}
