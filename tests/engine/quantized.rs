//! Files of quantized weights: what is written, read back and refused, and weights that are quantized while they are loaded.

use crate::support::{self, folder, oracle};
use incoder::checkpoint::Checkpoint;
use incoder::{Cancel, Config, Device, Folder, GpuOptions, Kv, LoadOptions, MemoryFolder, Quantization, Session};
use pollster::block_on;
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A tensor of a file: dtype, shape, bytes.
type Tensor = (Dtype, Vec<usize>, Vec<u8>);
type Tensors = BTreeMap<String, Tensor>;

fn config() -> Config {
    let folder = folder("tiny-a", "model.fp16.safetensors");
    block_on(Config::read(&folder as &dyn Folder)).unwrap()
}

/// The tensors of tiny-a as `quantization` has them on disk.
fn tensors(quantization: Quantization) -> Tensors {
    let (folder, config) = (folder("tiny-a", "model.fp16.safetensors"), config());
    let checkpoint = block_on(Checkpoint::open(&folder, &config)).unwrap();
    let mut tensors = Tensors::new();
    for (name, shape) in checkpoint.shapes() {
        let rows = if shape.len() > 1 { shape[0] } else { 1 };
        let parts = quantization.parts(name, shape);
        if parts.is_empty() {
            let values = block_on(checkpoint.rows(name, 0..rows)).unwrap();
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            tensors.insert(format!("model.{name}"), (Dtype::F32, shape.to_vec(), bytes));
            continue;
        }
        let bytes = block_on(checkpoint.quantized(name, 0..rows, quantization)).unwrap().into_bytes();
        for (part, bytes) in parts.into_iter().zip(bytes) {
            let dtype = match part.dtype {
                "I8" => Dtype::I8,
                "U8" => Dtype::U8,
                _ => Dtype::F16,
            };
            tensors.insert(format!("model.{}", part.name), (dtype, part.shape.to_vec(), bytes));
        }
    }
    tensors
}

fn file(tensors: &Tensors) -> Vec<u8> {
    let view = |(name, (dtype, shape, bytes))| (name, TensorView::new(dtype, shape, bytes).unwrap());
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| view((name, (*dtype, shape.clone(), &bytes[..]))));
    safetensors::serialize(views, None).unwrap()
}

fn quantized_folder(file: Vec<u8>, quantization: &Value) -> MemoryFolder {
    let text = std::fs::read_to_string(oracle("tiny-a").join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["quantization_config"] = quantization.clone();
    MemoryFolder::default().with("config.json", config.to_string().into_bytes()).with("model.safetensors", file)
}

fn load(folder: &MemoryFolder, device: &Device, quantize: Option<Quantization>) -> incoder::Result<Session> {
    let options = LoadOptions { context: Some(32), kv: Kv::F32, quantize, ..Default::default() };
    block_on(Session::load(folder, device, &options, &mut |_| ()))
}

fn logits(mut session: Session) -> Vec<f32> {
    block_on(session.set_context(&[2, 17, 99, 4, 250], &Cancel::default())).unwrap();
    session.logits().to_vec()
}

/// The three ways to the same weights: quantized while loading on each device, and read from a file.
#[test]
fn a_file_holds_what_loading_makes() {
    let original = folder("tiny-a", "model.fp16.safetensors");
    let exact = logits(load(&original, &Device::Cpu, None).unwrap());
    let gpu = support::gpu(GpuOptions::default());
    for (quantization, most) in [(Quantization::Q8, 0.03), (Quantization::Q4, 0.5)] {
        let stored = quantized_folder(file(&tensors(quantization)), &quantization.config());
        let made = logits(load(&original, &Device::Cpu, Some(quantization)).unwrap());
        assert_eq!(logits(load(&stored, &Device::Cpu, None).unwrap()), made);
        assert_eq!(logits(load(&stored, &Device::Cpu, Some(quantization)).unwrap()), made);
        let session = load(&stored, &gpu, None).unwrap();
        assert_eq!(session.config().quantization, Some(quantization));
        let scale = exact.iter().fold(0f32, |most, logit| most.max(logit.abs()));
        let largest = |other: &[f32]| made.iter().zip(other).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / scale;
        let (from_file, on_the_way) = (logits(session), logits(load(&original, &gpu, Some(quantization)).unwrap()));
        assert_eq!(from_file, on_the_way);
        assert!(largest(&from_file) < 1e-5, "{quantization:?}: the GPU is off by {}", largest(&from_file));
        assert!(largest(&exact) > 1e-4 && largest(&exact) < most, "{quantization:?}: fp16 is {} off", largest(&exact));
        // Another type is not made of it.
        let [q8, q4] = Quantization::ALL;
        let other = if quantization == q8 { q4 } else { q8 };
        let error = load(&stored, &Device::Cpu, Some(other)).unwrap_err().to_string();
        assert!(error.contains("quantized already") && error.contains(other.name()), "{error}");
    }
}

#[test]
fn damaged_files_are_refused_by_name() {
    let good = tensors(Quantization::Q4);
    let weights = "model.layers.1.fc1.weight_packed";
    let scales = "model.layers.1.fc1.weight_scale";
    let refused = |tensors: &Tensors, config: &Value| {
        load(&quantized_folder(file(tensors), config), &Device::Cpu, None).unwrap_err().to_string()
    };
    let config = Quantization::Q4.config();
    type Change = fn(&mut Tensors, &str);
    let cases: [(&str, Change, &str); 9] = [
        (scales, |all, name| drop(all.remove(name)), "tensor layers.1.fc1.weight_scale: is missing"),
        (
            "model.layers.1.fc1.weight_minimum",
            |all, name| all.get_mut(name).unwrap().2[..2].copy_from_slice(&0xfc00u16.to_le_bytes()),
            "tensor layers.1.fc1.weight_minimum: holds -inf at row 0, column 0",
        ),
        (weights, |all, name| drop(all.remove(name)), "tensor layers.1.fc1.weight_packed: is missing"),
        (
            scales,
            |all, name| all.get_mut(name).unwrap().2[6..8].copy_from_slice(&0x7e00u16.to_le_bytes()),
            "tensor layers.1.fc1.weight_scale: holds NaN at row 1, column 1",
        ),
        (
            scales,
            |all, name| all.get_mut(name).unwrap().2[..2].copy_from_slice(&0x7c00u16.to_le_bytes()),
            "tensor layers.1.fc1.weight_scale: holds inf at row 0, column 0",
        ),
        // Groups of 64.
        (
            scales,
            |all, name| {
                let (_, shape, bytes) = all.get_mut(name).unwrap();
                shape[1] /= 2;
                bytes.truncate(shape[0] * shape[1] * 2);
            },
            "tensor layers.1.fc1.weight_scale: has shape [256, 1], config.json calls for [256, 2]",
        ),
        (
            scales,
            |all, name| {
                let (dtype, _, bytes) = all.get_mut(name).unwrap();
                *dtype = Dtype::F32;
                bytes.extend(bytes.clone());
            },
            "tensor layers.1.fc1.weight_scale: is stored as F32, config.json calls for F16",
        ),
        (
            weights,
            |all, name| all.get_mut(name).unwrap().0 = Dtype::I8,
            "tensor layers.1.fc1.weight_packed: is stored as I8, config.json calls for U8",
        ),
        (
            "model.layers.0.fc1.bias",
            |all, name| {
                let (dtype, _, bytes) = all.get_mut(name).unwrap();
                *dtype = Dtype::U8;
                bytes.truncate(bytes.len() / 4);
            },
            "tensor layers.0.fc1.bias: is stored as U8; F32, F16 and BF16 are read",
        ),
    ];
    for (name, change, expected) in cases {
        let mut tensors = good.clone();
        change(&mut tensors, name);
        let error = refused(&tensors, &config);
        assert!(error.starts_with(expected), "{error}, expected {expected}");
    }
    // Of another type than config.json says, and plain weights that it calls quantized.
    let error = refused(&good, &Quantization::Q8.config());
    assert!(error.contains("weight_packed") || error.contains("is missing"), "{error}");
    let mut whole = file(&good);
    whole.truncate(whole.len() - 10);
    let error = load(&quantized_folder(whole, &config), &Device::Cpu, None).unwrap_err().to_string();
    assert!(error.contains("truncated or damaged"), "{error}");
    for (field, value, expected) in [
        ("version", json!(7), "quantization_config version 7"),
        ("group_size", json!(128), "quantization_config group_size 128"),
        ("quant_method", json!("awq"), "quantized weights (\"awq\")"),
    ] {
        let mut config = config.clone();
        config[field] = value;
        let error = refused(&good, &config);
        assert!(error.starts_with("unsupported model: ") && error.contains(expected), "{error}");
    }
}

/// What is not a number is named, whichever way the weights are to be quantized.
#[test]
fn a_tensor_with_nan_is_named() {
    let original = folder("tiny-a", "model.fp16.safetensors");
    let bytes = std::fs::read(oracle("tiny-a").join("model.fp16.safetensors")).unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut all = Tensors::new();
    for (name, view) in read.tensors() {
        let mut data = view.data().to_vec();
        if name.ends_with("layers.1.fc2.weight") {
            data[200..202].copy_from_slice(&0x7e00u16.to_le_bytes());
        }
        all.insert(name, (view.dtype(), view.shape().to_vec(), data));
    }
    let damaged = original.with("model.safetensors", file(&all));
    for quantization in Quantization::ALL {
        let error = load(&damaged, &Device::Cpu, Some(quantization)).unwrap_err().to_string();
        assert_eq!(error, "tensor layers.1.fc2.weight: holds NaN at row 0, column 100: the checkpoint is damaged");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// No byte of a file ends the program: it is read, or refused.
    #[test]
    fn damaged_bytes_are_errors_or_values(at in any::<prop::sample::Index>(), byte in any::<u8>(), header in any::<bool>()) {
        let mut bytes = file(&tensors(Quantization::Q4));
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 8;
        let end = if header { length } else { bytes.len() };
        bytes[at.index(end)] = byte;
        let _ = load(&quantized_folder(bytes, &Quantization::Q4.config()), &Device::Cpu, None);
    }
}
