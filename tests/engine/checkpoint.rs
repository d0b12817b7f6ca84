//! Damaged, lying and strange checkpoints: one clear error each, and never a panic.

use crate::support::{folder, oracle};
use incoder::checkpoint::Checkpoint;
use incoder::{Config, Device, LoadOptions, MemoryFolder, Session};
use pollster::block_on;
use proptest::prelude::*;
use serde_json::{Value, json};

fn config() -> Config {
    Config::from_json(&std::fs::read_to_string(oracle("tiny-a/config.json")).unwrap()).unwrap()
}

fn weights() -> Vec<u8> {
    std::fs::read(oracle("tiny-a/model.fp16.safetensors")).unwrap()
}

/// The header and the data of a safetensors file.
fn taken_apart(file: &[u8]) -> (Value, Vec<u8>) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&file[8..8 + length]).unwrap(), file[8 + length..].to_vec())
}

fn put_together(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = serde_json::to_vec(header).unwrap();
    [&(header.len() as u64).to_le_bytes(), &header[..], data].concat()
}

fn refusal(file: Vec<u8>) -> String {
    let opened = block_on(Checkpoint::open(&MemoryFolder::default().with("model.safetensors", file), &config()));
    opened.expect_err("it must be refused").to_string()
}

#[test]
fn the_oracles_broken_variants_are_refused_by_name() {
    let refused =
        |weights: &str| block_on(Checkpoint::open(&folder("tiny-a", weights), &config())).unwrap_err().to_string();
    let missing = refused("variants/MISSING_fc2_bias.fp16.safetensors");
    assert!(missing.contains("fc2.bias") && missing.contains("missing"), "{missing}");
    let shape = refused("variants/WRONG_SHAPE_fc1.fp16.safetensors");
    assert!(shape.contains("fc1.weight") && shape.contains("[256, 64]"), "{shape}");
}

#[test]
fn an_extra_tensor_is_refused_by_name() {
    let (mut header, mut data) = taken_apart(&weights());
    let end = data.len();
    header["model.layers.9.fc1.bias"] = json!({"dtype": "F16", "shape": [2], "data_offsets": [end, end + 4]});
    data.extend([0; 4]);
    assert_eq!(
        refusal(put_together(&header, &data)),
        "tensor layers.9.fc1.bias: is not part of an InCoder model with this config.json"
    );
}

#[test]
fn another_dtype_is_refused_by_name() {
    let (mut header, data) = taken_apart(&weights());
    header["model.layer_norm.weight"]["dtype"] = json!("I16");
    let error = refusal(put_together(&header, &data));
    assert_eq!(error, "tensor model.layer_norm.weight: is stored as I16; F32, F16 and BF16 are read");
}

#[test]
fn truncated_and_lying_files_are_refused_with_numbers() {
    let file = weights();
    let cut = refusal(file[..file.len() - 10].to_vec());
    assert!(cut.contains("truncated"), "{cut}");
    assert!(refusal(Vec::new()).contains("0 bytes long"));
    let lie = refusal([&u64::MAX.to_le_bytes(), &file[8..]].concat());
    assert!(lie.contains(&u64::MAX.to_string()), "{lie}");
    // Two tensors that claim the same bytes.
    let (mut header, data) = taken_apart(&file);
    let stolen = header["model.layers.0.fc1.bias"]["data_offsets"].clone();
    header["model.layers.1.fc1.bias"]["data_offsets"] = stolen;
    assert!(refusal(put_together(&header, &data)).contains("damaged safetensors header"));
    // A shape whose size overflows.
    header["model.layers.0.fc1.bias"]["shape"] = json!([u64::MAX, u64::MAX]);
    assert!(refusal(put_together(&header, &data)).contains("damaged safetensors header"));
}

#[test]
fn values_that_are_not_finite_are_refused_by_place() {
    let mut file = weights();
    let end = file.len();
    // The last two bytes belong to some tensor; 0x7E00 is a NaN.
    file[end - 2..].copy_from_slice(&0x7E00u16.to_le_bytes());
    for device in crate::support::cpu_and_gpu() {
        let folder = folder("tiny-a", "model.fp16.safetensors").with("model.safetensors", file.clone());
        let loaded = block_on(Session::load(&folder, &device.1, &LoadOptions::default(), &mut |_| ()));
        let error = loaded.unwrap_err().to_string();
        assert!(error.starts_with("tensor ") && error.contains("holds NaN at row"), "{}: {error}", device.0);
    }
}

#[test]
fn values_beyond_fp16_are_refused_on_the_gpu_and_kept_on_the_cpu() {
    let (header, mut data) = taken_apart(&std::fs::read(oracle("tiny-a/model.fp32.safetensors")).unwrap());
    let name = "model.layers.0.fc1.weight";
    let start = header[name]["data_offsets"][0].as_u64().unwrap() as usize;
    data[start..start + 4].copy_from_slice(&70000f32.to_le_bytes());
    let folder = folder("tiny-a", "model.fp32.safetensors").with("model.safetensors", put_together(&header, &data));
    let load = |device: &Device| block_on(Session::load(&folder, device, &LoadOptions::default(), &mut |_| ()));
    assert!(load(&Device::Cpu).is_ok());
    let error = load(&crate::support::gpu(incoder::GpuOptions::default())).unwrap_err().to_string();
    assert_eq!(
        error,
        "tensor layers.0.fc1.weight: holds 70000 at row 0, column 0: beyond the range of fp16, which is 65504; the CPU computes in fp32"
    );
}

#[test]
fn bf16_is_read_exactly() {
    let (mut header, data) = taken_apart(&std::fs::read(oracle("tiny-a/model.fp32.safetensors")).unwrap());
    // bf16 is the upper half of an f32; the lower half cleared, both files hold the same numbers.
    let upper: Vec<u8> = data.chunks_exact(4).flat_map(|b| [b[2], b[3]]).collect();
    let cleared: Vec<u8> = data.chunks_exact(4).flat_map(|b| [0, 0, b[2], b[3]]).collect();
    let as_f32 = put_together(&header, &cleared);
    for (name, tensor) in header.as_object_mut().unwrap() {
        if name != "__metadata__" {
            tensor["dtype"] = json!("BF16");
            let halved = |i: usize| tensor["data_offsets"][i].as_u64().unwrap() / 2;
            tensor["data_offsets"] = json!([halved(0), halved(1)]);
        }
    }
    let as_bf16 = put_together(&header, &upper);
    for (name, device) in crate::support::cpu_and_gpu() {
        let logits = |file: &[u8]| {
            let folder = folder("tiny-a", "model.fp32.safetensors").with("model.safetensors", file.to_vec());
            let mut session = crate::support::load(&folder, &device, incoder::Kv::F32, Some(8));
            block_on(session.set_context(&[2, 17, 99], &incoder::Cancel::default())).unwrap();
            session.logits().to_vec()
        };
        assert_eq!(logits(&as_bf16), logits(&as_f32), "{name}");
    }
}

/// The same model in two shards with an index: the same tensors, whichever file they are in.
#[test]
fn shards_are_one_checkpoint() {
    let (header, data) = taken_apart(&weights());
    let (mut halves, mut index) = ([(json!({}), Vec::new()), (json!({}), Vec::new())], serde_json::Map::new());
    for (i, (name, tensor)) in
        header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__").enumerate()
    {
        let (header, bytes) = &mut halves[i % 2];
        let range = |at: usize| tensor["data_offsets"][at].as_u64().unwrap() as usize;
        let start = bytes.len();
        bytes.extend_from_slice(&data[range(0)..range(1)]);
        let mut tensor = tensor.clone();
        tensor["data_offsets"] = json!([start, bytes.len()]);
        header[name] = tensor;
        index.insert(name.clone(), json!(format!("part-{}.safetensors", i % 2)));
    }
    let shard = |i: usize| put_together(&halves[i].0, &halves[i].1);
    let with_index = |index: Value| {
        MemoryFolder::default()
            .with("model.safetensors.index.json", serde_json::to_vec(&json!({"weight_map": index})).unwrap())
    };
    let whole = with_index(Value::Object(index.clone()))
        .with("part-0.safetensors", shard(0))
        .with("part-1.safetensors", shard(1));
    assert!(block_on(Checkpoint::open(&whole, &config())).is_ok());

    let refused = |folder: &MemoryFolder| block_on(Checkpoint::open(folder, &config())).unwrap_err().to_string();
    let half = with_index(Value::Object(index.clone())).with("part-0.safetensors", shard(0));
    assert!(refused(&half).starts_with("part-1.safetensors: no such file"));
    let outside = with_index(json!({"a": "../part-0.safetensors"}));
    assert!(refused(&outside).contains("not a plain file name"));
    assert!(refused(&with_index(json!({}))).contains("names no shards"));
    assert!(refused(&MemoryFolder::default()).contains("no such file in the model folder"));
}

/// The same weights as safetensors and in every form that torch wrote: bit for bit the same logits.
#[test]
fn torch_checkpoints_compute_the_same() {
    let read = |name: &str| std::fs::read(oracle(name)).unwrap();
    let config = || MemoryFolder::default().with("config.json", read("tiny-a/config.json"));
    let shard = |n: usize| format!("pytorch_model-0000{n}-of-00002.bin");
    let shards = [1, 2].map(shard).into_iter().fold(config(), |folder, name| {
        let bytes = read(&format!("tiny-a/sharded-fp16/{name}"));
        folder.with(&name, bytes)
    });
    let index = "pytorch_model.bin.index.json";
    let cases = [
        ("zip", config().with("pytorch_model.bin", read("tiny-a/pytorch_model.fp16.bin")), "model.fp16.safetensors"),
        (
            "zip, f32",
            config().with("pytorch_model.bin", read("tiny-a/pytorch_model.fp32.bin")),
            "model.fp32.safetensors",
        ),
        ("sharded", shards.with(index, read(&format!("tiny-a/sharded-fp16/{index}"))), "model.fp16.safetensors"),
        (
            "before torch 1.6",
            config().with("pytorch_model.bin", read("tiny-a/variants/legacy_nonzip.fp16.bin")),
            "model.fp16.safetensors",
        ),
    ];
    for (device_name, device) in crate::support::cpu_and_gpu() {
        let logits = |folder: &MemoryFolder| {
            let mut session = crate::support::load(folder, &device, incoder::Kv::F32, Some(8));
            block_on(session.set_context(&[2, 17, 99], &incoder::Cancel::default())).unwrap();
            session.logits().to_vec()
        };
        for (name, torch, safetensors) in &cases {
            assert_eq!(logits(torch), logits(&folder("tiny-a", safetensors)), "{name} on the {device_name}");
        }
    }
}

/// The names of shards in an index of torch's are as suspicious as in one of safetensors.
#[test]
fn a_torch_index_is_checked() {
    let index = |text: &str| MemoryFolder::default().with("pytorch_model.bin.index.json", text.as_bytes().to_vec());
    let refused = |text: &str| block_on(Checkpoint::open(&index(text), &config())).unwrap_err().to_string();
    assert!(refused(r#"{"weight_map": {"a": "../b.bin"}}"#).contains("not a plain file name"));
    assert!(refused(r#"{"weight_map": {"a": "b.bin"}}"#).starts_with("b.bin: no such file"));
    assert!(refused("{}").contains("names no shards"));
}

proptest! {
    /// Whatever the bytes, the answer is a value.
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        refusal(bytes);
    }

    /// A real file with some bytes of its header changed is read or refused, never a panic.
    #[test]
    fn any_change_of_the_header_is_answered(changes in proptest::collection::vec((0usize..3000, any::<u8>()), 1..4)) {
        let mut file = weights();
        for (at, byte) in changes {
            file[at] = byte;
        }
        let _ = block_on(Checkpoint::open(&MemoryFolder::default().with("model.safetensors", file), &config()));
    }
}
