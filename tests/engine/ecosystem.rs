//! Checkpoints as other programs write them: a head of its own, tied weights under either name, prefixes, long headers, duplicates.

use crate::support::oracle;
use incoder::checkpoint::Checkpoint;
use incoder::{Cancel, Config, Device, Error, GenerateOptions, Kv, MemoryFolder, Prompt, generate};
use pollster::block_on;
use serde_json::{Value, json};

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// A safetensors file that can be changed tensor by tensor, all of it fp32.
#[derive(Clone)]
struct Weights {
    metadata: Value,
    tensors: Vec<(String, Vec<u64>, Vec<f32>)>,
}

impl Weights {
    fn tiny() -> Self {
        let file = std::fs::read(oracle("tiny-a/model.fp32.safetensors")).unwrap();
        let data = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let header: serde_json::Map<String, Value> = serde_json::from_slice(&file[8..data]).unwrap();
        let tensor = |(name, entry): (&String, &Value)| {
            let range = [0, 1].map(|i| data + entry["data_offsets"][i].as_u64().unwrap() as usize);
            let bytes = file[range[0]..range[1]].chunks_exact(4);
            let values = bytes.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            (name.clone(), serde_json::from_value(entry["shape"].clone()).unwrap(), values)
        };
        let tensors = header.iter().filter(|(name, _)| *name != "__metadata__").map(tensor).collect();
        Self { metadata: json!({"format": "pt"}), tensors }
    }

    fn values(&self, name: &str) -> Vec<f32> {
        self.tensors.iter().find(|tensor| tensor.0 == name).unwrap().2.clone()
    }

    fn with(mut self, name: &str, shape: [u64; 2], values: Vec<f32>) -> Self {
        self.tensors.push((name.to_owned(), shape.to_vec(), values));
        self
    }

    fn changed(mut self, name: &str, change: impl Fn(&mut [f32])) -> Self {
        self.tensors.iter_mut().filter(|tensor| tensor.0 == name).for_each(|tensor| change(&mut tensor.2));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.tensors.retain(|tensor| tensor.0 != name);
        self
    }

    fn renamed(mut self, rename: impl Fn(&str) -> String) -> Self {
        self.tensors.iter_mut().for_each(|tensor| tensor.0 = rename(&tensor.0));
        self
    }

    /// The file; its header is written by hand, as a map would not hold a name twice.
    fn file(&self) -> Vec<u8> {
        let (mut header, mut data) = (format!("{{\"__metadata__\":{}", self.metadata), Vec::new());
        for (name, shape, values) in &self.tensors {
            let start = data.len();
            data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
            header += &format!(",{}:{entry}", json!(name));
        }
        header.push('}');
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
    }

    fn folder(&self, tied: Option<bool>) -> MemoryFolder {
        let text = std::fs::read_to_string(oracle("tiny-a/config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        if let Some(tied) = tied {
            config["tie_word_embeddings"] = json!(tied);
        }
        MemoryFolder::default()
            .with("config.json", config.to_string().into_bytes())
            .with("model.safetensors", self.file())
    }
}

fn logits(folder: &MemoryFolder, device: &Device) -> Vec<f32> {
    let mut session = crate::support::load(folder, device, Kv::F32, Some(8));
    block_on(session.set_context(&[2, 17, 99], &Cancel::default())).unwrap();
    session.logits().to_vec()
}

fn opened(folder: &MemoryFolder) -> Result<Checkpoint, String> {
    let open = async { Checkpoint::open(folder, &Config::read(folder).await?).await };
    block_on(open).map_err(|error| error.to_string())
}

/// A head of its own that is twice the embedding doubles the logits. (Not exactly: the least values of fp16 round otherwise.)
#[test]
fn a_head_of_its_own_is_computed() {
    let tiny = Weights::tiny();
    let doubled: Vec<f32> = tiny.values(EMBEDDING).iter().map(|value| 2.0 * value).collect();
    let shape = [512, 64];
    let both = tiny.clone().with(HEAD, shape, doubled.clone());
    let only = tiny.clone().without(EMBEDDING).with(HEAD, shape, tiny.values(EMBEDDING));
    for (name, device) in crate::support::devices() {
        let tied = logits(&tiny.folder(None), &device);
        let untied = logits(&both.folder(Some(false)), &device);
        let error = tied.iter().zip(&untied).map(|(tied, untied)| (2.0 * tied - untied).abs()).fold(0.0, f32::max);
        assert!(error < 1e-4, "{name}: {error}");
        assert!(logits(&both.folder(None), &device) == tied, "{name}: tied, and the embedding counts");
        assert!(logits(&only.folder(None), &device) == tied, "{name}: tied, under the head's name");
    }
}

#[test]
fn heads_that_do_not_fit_are_refused() {
    let tiny = Weights::tiny();
    let other = |shape: [u64; 2]| tiny.clone().with(HEAD, shape, vec![0.0; (shape[0] * shape[1]) as usize]);
    for (folder, says) in [
        (
            tiny.folder(Some(false)),
            "lm_head.weight: is missing from the checkpoint, and config.json has tie_word_embeddings false",
        ),
        (other([500, 64]).folder(Some(false)), "lm_head.weight: has shape [500, 64], config.json calls for [512, 64]"),
        (other([64, 512]).folder(Some(true)), "lm_head.weight: has shape [64, 512], config.json calls for [512, 64]"),
        (tiny.clone().without(EMBEDDING).folder(Some(true)), "embed_tokens.weight: is missing"),
        (other([512, 64]).without(EMBEDDING).folder(Some(false)), "embed_tokens.weight: is missing"),
    ] {
        let error = opened(&folder).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_head_counts_among_parameters_and_memory() {
    let config = |tied: bool| {
        let folder = Weights::tiny().folder(Some(tied));
        block_on(Config::read(&folder)).unwrap()
    };
    let (tied, untied) = (config(true), config(false));
    assert_eq!(untied.parameters() - tied.parameters(), 512 * 64);
    let plan =
        |config: &Config| incoder::MemoryPlan::new(config, 64, Kv::F16, &incoder::MemoryLimits::default()).weights;
    assert_eq!(plan(&untied) - plan(&tied), 2 * 512 * 64);
}

#[test]
fn names_with_prefixes_are_the_same_tensors() {
    let tiny = Weights::tiny();
    let bare = |name: &str| name.trim_start_matches("model.").to_owned();
    for prefix in ["", "model.", "module.", "module.model.", "_orig_mod.model."] {
        let renamed = tiny.clone().renamed(|name| prefix.to_owned() + &bare(name));
        assert!(opened(&renamed.folder(None)).is_ok(), "{prefix}");
    }
    let strange = tiny.renamed(|name| format!("transformer.{}", bare(name)));
    assert!(opened(&strange.folder(None)).unwrap_err().contains("embed_tokens.weight: is missing"));
}

#[test]
fn duplicates_are_named() {
    let tiny = Weights::tiny();
    let name = "model.layers.0.fc1.bias";
    let values = tiny.values(name);
    let again = |name: &str, values: Vec<f32>| {
        let mut weights = tiny.clone();
        weights.tensors.push((name.to_owned(), vec![values.len() as u64], values));
        opened(&weights.folder(None)).unwrap_err()
    };
    let twice = "model.safetensors: damaged safetensors header: it describes the tensor model.layers.0.fc1.bias twice";
    assert_eq!(again(name, values.clone()), twice);
    assert_eq!(again(name, vec![0.0; values.len()]), twice);
    let bare = again("layers.0.fc1.bias", values.clone());
    assert_eq!(bare, "tensor layers.0.fc1.bias: is twice in model.safetensors, with and without a prefix");
    // Both entries of the same bytes.
    let file = tiny.file();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(file[8..8 + length].to_vec()).unwrap();
    let entry = &header[header.find(&format!("\"{name}\"")).unwrap()..];
    let entry = &entry[..=entry.find('}').unwrap()];
    let header = header.replace(entry, &format!("{entry},{entry}"));
    let same = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &file[8 + length..]].concat();
    assert_eq!(opened(&tiny.folder(None).with("model.safetensors", same)).unwrap_err(), twice);
}

#[test]
fn long_headers_are_read() {
    let mut tiny = Weights::tiny();
    for length in [2 << 20, 40 << 20] {
        tiny.metadata = json!({"format": "pt", "history": "x".repeat(length)});
        assert!(opened(&tiny.folder(None)).is_ok(), "{length}");
    }
    let beyond = [&100_000_001u64.to_le_bytes()[..], &vec![b' '; 100_000_001]].concat();
    let error = opened(&tiny.folder(None).with("model.safetensors", beyond)).unwrap_err();
    assert!(error.contains("claims a header of 100000001 bytes"), "{error}");
}

#[test]
fn json_files_may_begin_with_a_byte_order_mark() {
    let folder = Weights::tiny().folder(None);
    let text = block_on((&folder as &dyn incoder::Folder).text("config.json", 1 << 20)).unwrap();
    let marked = folder.clone().with("config.json", format!("\u{feff}{text}").into_bytes());
    assert!(opened(&marked).is_ok());
    let utf16: Vec<u8> = format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(opened(&folder.with("config.json", utf16)).unwrap_err(), "config.json: is UTF-16; it must be UTF-8");
}

#[test]
fn generation_config_says_what_ends_a_text() {
    let eos = |generation: &str| {
        let folder = Weights::tiny().folder(None).with("generation_config.json", generation.as_bytes().to_vec());
        block_on(Config::read(&folder)).map(|config| config.eos_token_ids).map_err(|error| error.to_string())
    };
    for (generation, expected) in [
        ("{}", Ok(vec![2])),
        (r#"{"eos_token_id": [2, 5], "temperature": NaN}"#, Ok(vec![2, 5])),
        (r#"{"eos_token_id": 7}"#, Ok(vec![7])),
        (r#"{"eos_token_id": 512}"#, Err("generation_config.json: eos_token_id 512 is not below vocab_size 512")),
        ("[]", Err("generation_config.json: is no JSON object")),
    ] {
        assert_eq!(eos(generation), expected.map_err(str::to_owned), "{generation}");
    }
}

/// A key or value beyond fp16 is noticed wherever it is, and what is computed then is what an fp32 cache gives.
#[test]
fn keys_and_values_beyond_fp16_are_noticed() {
    let prompt: Vec<u32> = (2..40).collect();
    let cases = [(0, "keys", "k_proj"), (1, "values", "v_proj"), (1, "keys", "k_proj"), (0, "values", "v_proj")];
    for (i, (name, device)) in crate::support::devices().into_iter().enumerate() {
        let (layer, what, projection) = cases[i % cases.len()];
        let bias = format!("model.layers.{layer}.self_attn.{projection}.bias");
        let folder = Weights::tiny().changed(&bias, |values| values[40] = -70000.0).folder(None);
        let run = |kv| {
            let mut session = crate::support::load(&folder, &device, kv, Some(64));
            let made = block_on(session.set_context(&prompt, &Cancel::default()));
            (made.map(|_| session.logits().to_vec()), session)
        };
        let (exact, _) = run(Kv::F32);
        let (noticed, session) = run(Kv::Auto);
        assert!(noticed.unwrap() == exact.unwrap(), "{name}: {what} of layer {layer}");
        let told = session.overflow().unwrap().to_string();
        assert!(told.starts_with(&format!("the {what} of layer {layer} exceed 65504")), "{name}: {told}");
        assert_eq!(session.kv(), Kv::F32);
        let (refused, mut session) = run(Kv::F16);
        assert_eq!(refused.unwrap_err().to_string(), told, "{name}");
        // What was computed before it was noticed is not taken for good afterwards.
        let again = block_on(session.set_context(&prompt, &Cancel::default()));
        assert!(matches!(again, Err(Error::KvOverflow { .. })), "{name}: {again:?}");
    }
}

/// Tokens that are chosen before and after a key leaves fp16's range are those of an fp32 cache, for one candidate and for three.
#[test]
fn a_cache_that_grows_wider_on_the_way_changes_no_token() {
    let tokenizer = crate::support::tokenizer("tok-512");
    let ids = [2, 17, 99];
    // A key that grows with the first value of a token after the layer norm, so that few tokens take it out of the range. No query
    // looks at it: in fp16 such a key is so coarse that other tokens would be right.
    let folder = |weight: f32| {
        let layer = "model.layers.0.self_attn";
        let tiny = Weights::tiny().changed(&format!("{layer}_layer_norm.weight"), |values| values[0] = 100.0);
        let tiny = tiny.changed(&format!("{layer}.q_proj.weight"), |values| values[..64].fill(0.0));
        let tiny = tiny.changed(&format!("{layer}.q_proj.bias"), |values| values[0] = 0.0);
        tiny.changed(&format!("{layer}.k_proj.weight"), move |values| values[0] = weight).folder(None)
    };
    let run = |device: &Device, weight: f32, kv: Kv, candidates: usize| {
        let mut session = crate::support::load(&folder(weight), device, kv, Some(128));
        block_on(session.set_context(&ids, &Cancel::default())).unwrap();
        let before = session.overflow().is_some();
        let options = GenerateOptions {
            max_new_tokens: 24,
            candidates,
            sampling: incoder::Sampling { temperature: 1.0, seed: 3, ..Default::default() },
            ..Default::default()
        };
        let made = block_on(generate(&mut session, &tokenizer, Prompt::Ids(&ids), &options, &mut |_| ())).unwrap();
        let made: Vec<_> = made.candidates.into_iter().map(|candidate| candidate.ids).collect();
        (made, !before && session.overflow().is_some())
    };
    for candidates in [1, 3] {
        let mut weights = (0..40).map(|i| 150.0 * 1.06f32.powi(i));
        let on_the_way = |&weight: &f32| run(&Device::Cpu, weight, Kv::Auto, candidates).1;
        let weight = weights.find(on_the_way).expect("a key that leaves the range while tokens are chosen");
        for (name, device) in crate::support::cpu_and_gpu() {
            let (made, on_the_way) = run(&device, weight, Kv::Auto, candidates);
            assert!(on_the_way, "{name}, {weight}");
            assert_eq!(made, run(&device, weight, Kv::F32, candidates).0, "{name}, {weight}");
        }
    }
}
