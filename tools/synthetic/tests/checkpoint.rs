//! Small models, read back by the engine.

use incoder::{Cancel, Config, Device, Kv, LoadOptions, MemoryFolder, Sentinels, Session, Tokenizer};
use incoder_synthetic::{Dtype, Error, Format, Model, Options, tokenizer_json, write};
use std::fs;
use std::path::Path;

fn small() -> Options {
    let model = Model { num_layers: 4, d_model: 256, heads: 4, ffn_dim: 1024, vocab_size: 2048 };
    Options { shard_bytes: 2_500_000, ..Options::new(model) }
}

fn folder(path: &Path) -> MemoryFolder {
    fs::read_dir(path).unwrap().map(Result::unwrap).fold(MemoryFolder::default(), |folder, file| {
        folder.with(&file.file_name().to_string_lossy(), fs::read(file.path()).unwrap())
    })
}

fn written(options: &Options) -> MemoryFolder {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let mut bytes = 0;
    write(options, &out, &mut |n| bytes += n).unwrap();
    assert_eq!(bytes, options.bytes());
    folder(&out)
}

/// The greedy continuation of `<|endoftext|>` and a few tokens, and the logits of its first token.
fn greedy(folder: &MemoryFolder) -> (Vec<u32>, Vec<f32>) {
    let options = LoadOptions { context: Some(32), kv: Kv::F32, ..Default::default() };
    pollster::block_on(async {
        let mut session = Session::load(folder, &Device::Cpu, &options, &mut |_| ()).await.unwrap();
        let mut tokens = vec![2, 300, 301, 302];
        let mut first = Vec::new();
        for _ in 0..16 {
            session.set_context(&tokens, &Cancel::default()).await.unwrap();
            let logits = session.logits();
            if first.is_empty() {
                first = logits.to_vec();
            }
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            tokens.push(best as u32);
        }
        (tokens.split_off(4), first)
    })
}

#[test]
fn greedy_output_is_not_degenerate() {
    for (num_layers, seed) in [(1, 1), (2, 1), (4, 1), (4, 2), (4, 3)] {
        let options = Options { seed, ..small() };
        let options = Options { model: Model { num_layers, ..options.model }, ..options };
        let (tokens, logits) = greedy(&written(&options));
        let mut distinct = tokens.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let mean = logits.iter().sum::<f32>() / logits.len() as f32;
        let std = (logits.iter().map(|l| (l - mean).powi(2)).sum::<f32>() / logits.len() as f32).sqrt();
        println!("{} distinct of {tokens:?}; logits have a standard deviation of {std}", distinct.len());
        assert!(distinct.len() >= 4, "{num_layers} layers, seed {seed}: {tokens:?}");
        assert!((2.0..4.5).contains(&std), "{std}");
    }
}

#[test]
fn every_file_holds_the_same_model() {
    let one = greedy(&written(&small()));
    let sharded = Options { format: Format::SafetensorsSharded, dtype: Dtype::F16, ..small() };
    assert_eq!(greedy(&written(&sharded)), one);
    let bf16 = greedy(&written(&Options { dtype: Dtype::Bf16, ..small() }));
    assert!(bf16.1.iter().zip(&one.1).all(|(a, b)| (a - b).abs() < 0.5));
    assert_ne!(greedy(&written(&Options { seed: 2, ..small() })).0, one.0);
}

#[test]
fn published_configs_are_accepted() {
    for model in [Model::incoder_1b(), Model::incoder_6b()] {
        let config = Config::from_json(&model.config_json(Dtype::F16)).unwrap();
        let model_type = config.model_type();
        assert_eq!((config.parameters(), config.eos_token_ids), (model.parameters(), vec![2]));
        assert_eq!(model_type, "xglm");
    }
}

#[test]
fn the_whole_vocabulary_is_there_and_every_token_is_reached() {
    let tokenizer = Tokenizer::from_json(&tokenizer_json(50518).unwrap()).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.mask_count()), (50518, 256));
    assert_eq!(
        (tokenizer.mask(0), tokenizer.mask(255), tokenizer.end_of_mask()),
        (Some(50261), Some(50516), Some(50517))
    );
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(2), Some(2)));
    assert_eq!(["<|", "<|/", "|>"].map(|t| tokenizer.encode(t, Sentinels::Refuse).unwrap()), [[2, 4], [2, 5], [2, 6]]);
    for id in 4..50261 {
        // Half a character is no text, so that only the tokens that are text can be asked for.
        if let Ok(text) = std::str::from_utf8(tokenizer.token_bytes(id).unwrap()) {
            assert_eq!(tokenizer.encode_with(text, Sentinels::Refuse, false).unwrap(), [id], "{text:?}");
        }
    }
}

#[test]
fn texts_come_back() {
    let text = "def kilometre(x):\r\n\n    return x * 1_000  # é ✓ 🦀 <| file |>\n";
    for size in [280, 512, 50518] {
        let tokenizer = Tokenizer::from_json(&tokenizer_json(size).unwrap()).unwrap();
        assert_eq!(tokenizer.vocab_size(), size);
        let ids = tokenizer.encode(text, Sentinels::Refuse).unwrap();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
        let sentinel = tokenizer.encode_with("<|mask:1|><|endofmask|>", Sentinels::Parse, false).unwrap();
        assert_eq!(sentinel, [tokenizer.mask(1).unwrap(), tokenizer.end_of_mask().unwrap()]);
    }
    assert!(matches!(tokenizer_json(279), Err(Error::Argument(_))));
}

#[test]
fn torch_shards_are_indexed_and_nothing_is_left_over() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/model");
    let options = Options { format: Format::BinSharded, dtype: Dtype::F16, ..small() };
    write(&options, &out, &mut |_| ()).unwrap();
    let index: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(out.join("pytorch_model.bin.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], options.bytes());
    let map = index["weight_map"].as_object().unwrap();
    assert_eq!(map.len(), 4 * 16 + 4);
    assert_eq!(map["lm_head.weight"], map["model.embed_tokens.weight"]);
    let mut shards: Vec<&str> = map.values().map(|name| name.as_str().unwrap()).collect();
    shards.sort_unstable();
    shards.dedup();
    let mut files: Vec<String> =
        fs::read_dir(&out).unwrap().map(|file| file.unwrap().file_name().to_string_lossy().into_owned()).collect();
    files.sort_unstable();
    let n = shards.len();
    assert!(n > 2 && shards[0] == format!("pytorch_model-00001-of-{n:05}.bin"), "{shards:?}");
    let rest = ["config.json", "pytorch_model.bin.index.json", "tokenizer.json"];
    assert_eq!(files, [&["config.json"], &shards[..], &rest[1..]].concat());
    assert_eq!(fs::read_dir(out.parent().unwrap()).unwrap().count(), 1);

    let again = write(&options, &out, &mut |_| ()).unwrap_err().to_string();
    assert!(again.contains("exists already"), "{again}");
    let model = Model { heads: 3, ..options.model };
    assert!(matches!(write(&Options::new(model), &dir.path().join("no"), &mut |_| ()), Err(Error::Argument(_))));
}
