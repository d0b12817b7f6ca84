//! Every kernel against the plain CPU reference, over odd shapes, in every variant.

mod choosing;
mod wide;

use super::autotune::{of_narrow, of_one, of_products, of_tiles};
use super::check::{Kernels, Values, read};
use super::plan::Plan;
use super::weights::Weights;
use crate::checkpoint::MemoryFolder;
use crate::checkpoint::config::Config;
use crate::engine::cpu::Reference;
use crate::engine::forward::{Column, Kv};
use crate::engine::gpu::{Arrays, Disabled, Gpu, GpuOptions, Tuning};
use crate::engine::load::LoadOptions;
use crate::engine::random::Random;
use crate::engine::tensors::{Origin, TensorSource, Tensors};
use crate::quantize::Quantization;
use half::f16;
use pollster::block_on;
use safetensors::tensor::{Dtype, TensorView};

/// Largest error of logits, relative to the largest value: fp32 sums in another order.
const TOLERANCE: f32 = 2e-5;

const F16: LoadOptions = LoadOptions { context: None, kv: Kv::F16, warm_up: true, quantize: None };
const F32: LoadOptions = LoadOptions { kv: Kv::F32, ..F16 };

fn config(layers: usize, d: usize, heads: usize, ffn: usize, vocab: usize) -> Config {
    Config::from_json(&format!(
        r#"{{"model_type":"xglm","num_layers":{layers},"d_model":{d},"attention_heads":{heads},"ffn_dim":{ffn},"vocab_size":{vocab}}}"#
    ))
    .unwrap()
}

/// A checkpoint of `config` with random fp16 weights, scaled by the width so that nothing explodes.
fn random_folder(config: &Config, seed: u32) -> MemoryFolder {
    let mut values = Values(seed);
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = config
        .recipe()
        .tensors()
        .into_iter()
        .map(|(name, shape)| {
            let scale = if shape.len() == 2 { 2.0 / (shape[1] as f32).sqrt() } else { 0.5 };
            let shift = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
            let bytes = (0..shape.iter().product())
                .flat_map(|_| f16::from_f32(values.next() * scale + shift).to_le_bytes())
                .collect();
            (name, shape, bytes)
        })
        .collect();
    let views =
        tensors.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F16, shape.clone(), bytes).unwrap()));
    MemoryFolder::default().with("model.safetensors", safetensors::serialize(views, None).unwrap())
}

/// Kernels as an adapter of either kind, with and without subgroups, would run them.
fn variants() -> Vec<(&'static str, Gpu)> {
    let open = |tuning, subgroups| {
        let disabled = Disabled { subgroups, ..Default::default() };
        let options = GpuOptions { tuning: Some(tuning), disabled, ..Default::default() };
        block_on(Gpu::open(&options)).expect("the tests need a Vulkan adapter; cargo xtask setup installs one")
    };
    vec![
        ("software", open(Tuning::SOFTWARE, false)),
        ("software, no subgroups", open(Tuning::SOFTWARE, true)),
        ("hardware", open(Tuning::HARDWARE, false)),
        ("hardware, no subgroups", open(Tuning::HARDWARE, true)),
        ("llvmpipe", open(Tuning::LLVMPIPE, false)),
        ("software, buffers", open(Tuning { arrays: Arrays::Buffers, ..Tuning::SOFTWARE }, false)),
        ("hardware, textures", open(Tuning { arrays: Arrays::Textures, ..Tuning::HARDWARE }, false)),
    ]
}

fn assert_close(got: &[f32], expected: &[f32], what: &str) {
    assert!(got.len() >= expected.len(), "{what}: {} values, expected {}", got.len(), expected.len());
    let scale = expected.iter().fold(1f32, |m, v| m.max(v.abs()));
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        // Written so that NaN fails.
        let close = (got - expected).abs() <= TOLERANCE * scale;
        assert!(close, "{what}: value {i} is {got}, expected {expected} (largest {scale})");
    }
}

/// d_model, heads, ffn, vocab, columns, logits.
const SHAPES: [(usize, usize, usize, usize, usize, usize); 7] = [
    (64, 4, 256, 512, 1, 1),
    (64, 1, 40, 37, 2, 2),
    (48, 3, 72, 101, 3, 1),
    (128, 1, 520, 1031, 7, 5),
    (256, 2, 1000, 259, 9, 9),
    (64, 4, 256, 97, 33, 16),
    (40, 5, 64, 50, 127, 3),
];

fn context(columns: usize, vocab: usize) -> Vec<Column> {
    (0..columns).map(|i| Column::context(((i * 31 + 7) % vocab) as u32, i)).collect()
}

#[test]
fn every_kernel_matches_the_reference() {
    for (name, gpu) in variants() {
        for (case, &(d, heads, ffn, vocab, count, logits)) in SHAPES.iter().enumerate() {
            for kv in [Kv::F16, Kv::F32] {
                let what = |kernel: &str| format!("{kernel} on {name}, case {case}, {kv:?}");
                let case = Case { count, logits, kv, quantization: None, seed: case as u32 };
                check_kernels(&gpu, &config(1, d, heads, ffn, vocab), case, &what);
            }
        }
    }
}

/// The Llama family's: RMS norm, rotary positions, shared keys and values, gated activations, queries of another width than x.
#[test]
fn every_kernel_of_llama_matches_the_reference() {
    let sizes = r#""model_type":"llama","num_hidden_layers":1,"max_position_embeddings":64,"attention_bias":true"#;
    let config = |more: &str| Config::from_json(&format!("{{{sizes},{more}}}")).unwrap();
    let wide = config(
        r#""hidden_size":72,"num_attention_heads":6,"num_key_value_heads":2,"head_dim":32,"intermediate_size":136,"vocab_size":101"#,
    );
    let narrow = config(
        r#""hidden_size":112,"num_attention_heads":14,"num_key_value_heads":2,"intermediate_size":304,"vocab_size":333"#,
    );
    let q4 = Some(Quantization::Q4);
    for (name, gpu) in variants().into_iter().filter(|(name, _)| !name.contains("no subgroups")) {
        for (config, count, logits, kv, quantization) in
            [(&wide, 9, 3, Kv::F16, None), (&narrow, 1, 1, Kv::F32, None), (&narrow, 67, 5, Kv::F16, q4)]
        {
            let what = |kernel: &str| format!("{kernel} on {name}, {count} columns, {kv:?}, {quantization:?}");
            check_kernels(&gpu, config, Case { count, logits, kv, quantization, seed: 5 }, &what);
        }
    }
}

/// The same from quantized weights, in every kind of array and every tile of columns; groups of 32 inputs that are not full among them.
/// The tables of a model in 4 bits are in 8, so that it has both.
#[test]
fn quantized_weights_match_the_reference() {
    use Quantization::{Q4, Q8};
    let cases = [
        ("software", 3, Q4),
        ("software", 1, Q8),
        ("hardware", 3, Q4),
        ("llvmpipe", 3, Q8),
        ("software, buffers", 1, Q4),
        ("hardware, textures", 3, Q8),
    ];
    let variants = variants();
    for (name, case, quantization) in cases {
        let gpu = &variants.iter().find(|(variant, _)| *variant == name).expect("a variant").1;
        let (d, heads, ffn, vocab, count, logits) = SHAPES[case];
        let what = |kernel: &str| format!("{kernel} on {name}, case {case}, {quantization:?}");
        let case = Case { count, logits, kv: Kv::F16, quantization: Some(quantization), seed: case as u32 };
        check_kernels(gpu, &config(1, d, heads, ffn, vocab), case, &what);
    }
}

/// Shapes for one column and for tiles in turn; two, three and nine columns take every tile.
#[test]
fn every_shape_that_autotune_tries_matches_the_reference() {
    let gpu = block_on(Gpu::open(&GpuOptions { tuning: Some(Tuning::HARDWARE), ..Default::default() })).unwrap();
    let of_one = of_one(Tuning::HARDWARE).map(|tuning| (tuning, &[(1, 1)][..]));
    let of_tiles = of_tiles(Tuning::HARDWARE).map(|tuning| (tuning, &[(2, 2), (9, 3)][..]));
    let of_products =
        of_products(Tuning { tiled_from: 16, ..Tuning::HARDWARE }).map(|tuning| (tuning, &[(70, 17)][..]));
    // The head has three blocks, the inner matrix five: one of both sides.
    let of_narrow = of_narrow(Tuning { narrow_below: 5, ..Tuning::HARDWARE }).map(|tuning| (tuning, &[(1, 1)][..]));
    for (tuning, columns) in of_one.chain(of_tiles).chain(of_products).chain(of_narrow) {
        for &(count, logits) in columns {
            let what = |kernel: &str| format!("{kernel} of {count} columns, {tuning:?}");
            // Five blocks of the inner matrix and three of the head: no number of blocks a workgroup divides them.
            let config = config(1, 64, 4, 264, 137);
            let case = Case { count, logits, kv: Kv::F16, quantization: None, seed: 3 };
            check_kernels(&gpu.with_tuning(tuning), &config, case, &what);
        }
    }
}

/// What the kernels of one layer are asked to compute.
struct Case {
    /// Columns, and those whose logits are read.
    count: usize,
    logits: usize,
    kv: Kv,
    quantization: Option<Quantization>,
    seed: u32,
}

/// All kernels of one layer, each fed random inputs of its own.
fn check_kernels(gpu: &Gpu, config: &Config, case: Case, what: &dyn Fn(&str) -> String) {
    let Case { count, logits, kv, quantization, seed } = case;
    let folder = random_folder(config, seed + 1);
    let tensors = block_on(Origin::Folder(&folder).open(config, quantization)).unwrap();
    let mut kernels = block_on(Kernels::new(gpu, config, &tensors, count + 3, kv)).unwrap();
    for check in block_on(kernels.check(count, logits, seed)).unwrap() {
        assert!(check.is_right(), "{}: {check:?}", what(check.kernel));
    }
}

/// Every tensor of `random`, written to a file.
fn random_file(config: &Config, random: &Random) -> MemoryFolder {
    let shapes = config.recipe().tensors();
    let bytes = shapes.iter().map(|(name, shape)| {
        let rows = if shape.len() == 2 { shape[0] } else { 1 };
        random.rows(name, 0..rows).unwrap().iter().flat_map(|value| value.to_le_bytes()).collect()
    });
    let bytes: Vec<Vec<u8>> = bytes.collect();
    let views = shapes.into_iter().zip(&bytes);
    let views = views.map(|((name, shape), bytes)| (name, TensorView::new(Dtype::F32, shape, bytes).unwrap()));
    MemoryFolder::default().with("model.safetensors", safetensors::serialize(views, None).unwrap())
}

/// What the kernel makes against the same function here, uploaded; the last block of a matrix is not full.
#[test]
fn kernel_random_makes_the_weights_that_would_be_uploaded() {
    let llama = r#"{"model_type":"llama","num_hidden_layers":2,"hidden_size":40,"num_attention_heads":5,"head_dim":16,
        "num_key_value_heads":1,"intermediate_size":72,"vocab_size":1031}"#;
    for config in [config(2, 40, 5, 72, 1031), Config::from_json(llama).unwrap()] {
        check_random_weights(&config);
    }
}

fn check_random_weights(config: &Config) {
    let random = Random::new(config, 7);
    let folder = random_file(config, &random);
    let uploaded = block_on(Origin::Folder(&folder).open(config, None)).unwrap();
    let made = Tensors { source: TensorSource::Random(random), quantization: None };
    for arrays in [Arrays::Buffers, Arrays::Textures, Arrays::StorageTextures] {
        for (slices, max_binding_bytes) in [(1, None), (3, Some(32 << 10))] {
            let tuning = Some(Tuning { arrays, ..Tuning::SOFTWARE });
            let gpu = block_on(Gpu::open(&GpuOptions { tuning, max_binding_bytes, ..GpuOptions::default() })).unwrap();
            let weights = |tensors| block_on(Weights::load(&gpu, config, tensors, &mut |_| {})).unwrap();
            let (made, uploaded) = (weights(&made), weights(&uploaded));
            let most = made.matrices().map(|matrix| matrix.slices.len()).max();
            assert_eq!(most, Some(slices));
            let words = |weights: &Weights| {
                let slices = weights.matrices().flat_map(|matrix| &matrix.slices);
                slices.map(|slice| block_on(read(&gpu, (&slice.weights).into())).unwrap()).collect::<Vec<Vec<u32>>>()
            };
            let (made, uploaded) = (words(&made), words(&uploaded));
            assert!(made == uploaded && made.iter().flatten().any(|&word| word != 0), "{arrays:?}, {slices} slices");
        }
    }
}

#[test]
fn an_adapter_too_small_is_refused_with_numbers() {
    let config = config(1, 512, 8, 2048, 512);
    let folder = random_folder(&config, 5);
    let gpu = block_on(Gpu::open(&GpuOptions { max_binding_bytes: Some(100_000), ..Default::default() })).unwrap();
    let error =
        block_on(Plan::load(&gpu, &config, Origin::Folder(&folder), 16, &F16, &mut |_| {})).unwrap_err().to_string();
    assert_eq!(
        error,
        "layers.0.fc2.weight (one block of 64 rows, a binding, bytes) needs 262144, this adapter allows 100000"
    );
}

/// A kernel with subgroup operations that does not compile is done without; one that has no other is an error.
#[test]
fn what_does_not_compile_is_done_without() {
    let config = config(1, 64, 4, 256, 97);
    let folder = random_folder(&config, 5);
    let columns = [Column::context(2, 0)];
    let load = |spoilt| {
        let mut gpu = block_on(Gpu::open(&GpuOptions::default())).unwrap();
        gpu.spoilt = spoilt;
        block_on(Plan::load(&gpu, &config, Origin::Folder(&folder), 16, &F16, &mut |_| {}))
    };
    let logits = |mut plan: Plan| block_on(plan.forward(&columns, 1)).unwrap();
    let whole = load(None).unwrap();
    assert!(whole.gpu.uses_subgroups(), "this adapter has subgroups, or the test says nothing");
    let plain = load(Some(["layer_norm_subgroups", "@builtin(subgroup_id)", "@builtin(subgroup_number)"])).unwrap();
    assert!(!plain.gpu.uses_subgroups());
    let (whole, plain) = (logits(whole), logits(plain));
    assert_close(&plain[0], &whole[0], "without subgroups");
    let error = load(Some(["attention_scores", "fn attention_scores(", "fn ("])).unwrap_err();
    assert!(matches!(error, crate::Error::Kernel { .. }), "{error}");
}

#[test]
fn a_lost_device_is_an_error_and_stays_one() {
    let config = config(1, 64, 4, 256, 512);
    let folder = random_folder(&config, 5);
    let gpu = block_on(Gpu::open(&GpuOptions::default())).unwrap();
    let mut plan = block_on(Plan::load(&gpu, &config, Origin::Folder(&folder), 16, &F16, &mut |_| {})).unwrap();
    let columns = [Column::context(2, 0)];
    assert!(block_on(plan.forward(&columns, 1)).is_ok());
    gpu.device.destroy();
    for _ in 0..2 {
        let error = block_on(plan.forward(&columns, 1)).unwrap_err();
        assert!(matches!(error, crate::Error::DeviceLost { .. }), "{error}");
    }
}
