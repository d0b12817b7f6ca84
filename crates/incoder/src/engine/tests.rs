//! Every kernel against the plain CPU reference, over odd shapes, in every variant.

mod choosing;

use super::autotune::{of_one, of_tiles};
use super::plan::Plan;
use super::step::{Shapes, Step};
use super::weights::{BLOCK_ROWS, Weights};
use crate::checkpoint::config::Config;
use crate::checkpoint::{MemoryFolder, tensor_shapes};
use crate::engine::cpu::{Reference, attend, gelu, stored};
use crate::engine::forward::{Column, Kv, sinusoids};
use crate::engine::gpu::{Array, Arrays, Gpu, GpuOptions, Resource, TEXEL_BYTES, Texel, Tuning};
use crate::engine::load::LoadOptions;
use crate::engine::random::Random;
use crate::engine::tensors::{Origin, Tensors};
use half::f16;
use pollster::block_on;
use safetensors::tensor::{Dtype, TensorView};

/// Largest error, relative to the largest value: fp32 sums in another order.
const TOLERANCE: f32 = 2e-5;

const F16: LoadOptions = LoadOptions { context: None, kv: Kv::F16, warm_up: true };
const F32: LoadOptions = LoadOptions { kv: Kv::F32, ..F16 };

/// Repeatable values in -1..1.
struct Values(u32);

impl Values {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    fn many(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

fn config(layers: usize, d: usize, heads: usize, ffn: usize, vocab: usize) -> Config {
    Config::from_json(&format!(
        r#"{{"model_type":"xglm","num_layers":{layers},"d_model":{d},"attention_heads":{heads},"ffn_dim":{ffn},"vocab_size":{vocab}}}"#
    ))
    .unwrap()
}

/// A checkpoint of `config` with random fp16 weights, scaled by the width so that nothing explodes.
fn random_folder(config: &Config, seed: u32) -> MemoryFolder {
    let mut values = Values(seed);
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = tensor_shapes(config)
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
    let open = |tuning, no_subgroups| {
        let options = GpuOptions { tuning: Some(tuning), no_subgroups, ..Default::default() };
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

/// Runs the dispatches that `build` adds to an empty `step`, and reads all of `output`.
fn run(
    gpu: &Gpu,
    step: &mut Step,
    columns: &[Column],
    logits: usize,
    output: Resource<'_>,
    build: impl FnOnce(&mut Step),
) -> Vec<f32> {
    step.clear();
    build(step);
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    step.encode(&mut encoder, columns, logits);
    gpu.queue.submit([encoder.finish()]);
    read(gpu, output)
}

/// All of `output`.
fn read<T: bytemuck::Pod>(gpu: &Gpu, output: Resource<'_>) -> Vec<T> {
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let readable = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    match output {
        Resource::Buffer(buffer) | Resource::Array(Array::Buffer(buffer)) => {
            let size = buffer.size();
            let staging = gpu.buffer("staging", size, readable).unwrap();
            encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, Some(size));
            gpu.queue.submit([encoder.finish()]);
            block_on(gpu.read(&staging, size as usize / size_of::<T>())).unwrap()
        }
        Resource::Array(Array::Texture(texture, _)) => {
            let row_bytes = texture.width() * texture.format().block_copy_size(None).unwrap();
            // What the API wants rows of a copy to be multiples of.
            let stride = row_bytes.next_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT);
            let size = u64::from(stride * texture.height());
            let staging = gpu.buffer("staging", size, readable).unwrap();
            let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(stride), rows_per_image: None };
            let to = wgpu::TexelCopyBufferInfo { buffer: &staging, layout };
            encoder.copy_texture_to_buffer(texture.as_image_copy(), to, texture.size());
            gpu.queue.submit([encoder.finish()]);
            let padded: Vec<T> = block_on(gpu.read(&staging, size as usize / size_of::<T>())).unwrap();
            let (row, stride) = (row_bytes as usize / size_of::<T>(), stride as usize / size_of::<T>());
            padded.chunks_exact(stride).flat_map(|padded| &padded[..row]).copied().collect()
        }
    }
}

/// An array of rows of `width` texels each that holds `values`.
fn array<T: bytemuck::Pod>(gpu: &Gpu, texel: Texel, width: usize, values: &[T]) -> Array {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let rows = bytes.len() / (width * TEXEL_BYTES as usize);
    let array = gpu.array("array", texel, width as u32, rows as u32).unwrap();
    match &array {
        Array::Buffer(buffer) => gpu.queue.write_buffer(buffer, 0, bytes),
        Array::Texture(texture, _) => {
            let bytes_per_row = Some(width as u32 * TEXEL_BYTES as u32);
            let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row, rows_per_image: None };
            gpu.queue.write_texture(texture.as_image_copy(), bytes, layout, texture.size());
        }
    }
    array
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
    for (variant, (name, gpu)) in variants().iter().enumerate() {
        for (case, &(d, heads, ffn, vocab, count, logits)) in SHAPES.iter().enumerate() {
            // Every variant and every shape has both kinds of cache; all three together would take twice as long.
            let kv = if (variant + case).is_multiple_of(2) { Kv::F16 } else { Kv::F32 };
            let what = |kernel: &str| format!("{kernel} on {name}, case {case}, {kv:?}");
            check_kernels(gpu, &config(1, d, heads, ffn, vocab), count, logits, kv, case as u32, &what);
        }
    }
}

/// Shapes for one column and for tiles in turn; two, three and nine columns take every tile.
#[test]
fn every_shape_that_autotune_tries_matches_the_reference() {
    let gpu = block_on(Gpu::open(&GpuOptions { tuning: Some(Tuning::HARDWARE), ..Default::default() })).unwrap();
    let of_one = of_one(Tuning::HARDWARE).map(|tuning| (tuning, &[(1, 1)][..]));
    let of_tiles = of_tiles(Tuning::HARDWARE).map(|tuning| (tuning, &[(2, 2), (9, 3)][..]));
    for (tuning, columns) in of_one.chain(of_tiles) {
        for &(count, logits) in columns {
            let what = |kernel: &str| format!("{kernel} of {count} columns, {tuning:?}");
            // Five blocks of the inner matrix and three of the head: no number of blocks a workgroup divides them.
            let config = config(1, 64, 4, 264, 137);
            check_kernels(&gpu.with_tuning(tuning), &config, count, logits, Kv::F16, 3, &what);
        }
    }
}

/// All kernels of one layer, each fed random inputs of its own.
fn check_kernels(
    gpu: &Gpu,
    config: &Config,
    count: usize,
    logits: usize,
    kv: Kv,
    seed: u32,
    what: &dyn Fn(&str) -> String,
) {
    let (d, ffn, vocab, head_dim) = (config.d_model, config.ffn_dim, config.vocab_size, config.head_dim());
    let capacity = count + 3;
    let folder = random_folder(config, seed + 1);
    let tensors = block_on(Origin::Folder(&folder).open(config)).unwrap();
    let reference = block_on(Reference::load(config, &tensors, capacity, kv, &mut |_| {})).unwrap();
    let weights = block_on(Weights::load(gpu, config, &tensors, &mut |_| {})).unwrap();
    let (layer, cpu) = (&weights.layers[0], &reference.layers[0]);
    let shapes = Shapes::new(config, capacity, kv);
    let mut step = block_on(Step::new(gpu, shapes.clone(), &mut |_| ())).unwrap();
    let columns = context(count, vocab);
    let mut run =
        |output: Resource<'_>, build: &dyn Fn(&mut Step)| run(gpu, &mut step, &columns, logits, output, build);
    let mut random = Values(seed + 77);
    let inputs = random.many(count * d);
    let rows = |values: &[f32], width: usize, each: &dyn Fn(&[f32]) -> Vec<f32>| -> Vec<f32> {
        values.chunks_exact(width).flat_map(each).collect()
    };
    let upload = |values: &[f32]| gpu.upload("input", values).unwrap();
    // Poison: a value that no kernel writes must not pass for a result.
    let output = |n: usize| upload(&vec![f32::NAN; n]);
    let floats = |width: usize, values: &[f32]| array(gpu, Texel::Floats, width / 4, values);
    let poisoned = |width: usize, rows: usize| floats(width, &vec![f32::NAN; width * rows]);
    let (x, input) = (upload(&inputs), floats(d, &inputs));

    let positions = sinusoids(0..capacity, d);
    let expected: Vec<f32> = columns.iter().flat_map(|c| reference.embedded(c)).collect();
    let out = output(count * d);
    let table = upload(&positions);
    assert_close(&run((&out).into(), &|step| step.embed(&weights.embedding, &table, &out)), &expected, &what("embed"));

    let out = poisoned(d, count);
    let expected = rows(&inputs, d, &|x| cpu.attention_norm.apply(x));
    assert_close(&run((&out).into(), &|step| step.norm(&x, &layer.attention_norm, &out)), &expected, &what("norm"));

    let out = poisoned(d, logits);
    let expected = rows(&inputs[(count - logits) * d..], d, &|x| reference.final_norm.apply(x));
    assert_close(
        &run((&out).into(), &|step| step.norm_last(&x, &weights.final_norm, &out)),
        &expected,
        &what("norm_last"),
    );

    let out = poisoned(ffn, count);
    let expected = rows(&inputs, d, &|x| cpu.fc1.apply(x).into_iter().map(gelu).collect());
    assert_close(&run((&out).into(), &|step| step.gelu(&input, &layer.fc1, &out)), &expected, &what("gelu"));

    let (inner, before) = (random.many(count * ffn), random.many(count * d));
    let (inner_array, out) = (floats(ffn, &inner), upload(&before));
    let product = rows(&inner, ffn, &|x| cpu.fc2.apply(x));
    let expected: Vec<f32> = product.iter().zip(&before).map(|(a, b)| a + b).collect();
    assert_close(
        &run((&out).into(), &|step| step.residual(&inner_array, &layer.fc2, &out)),
        &expected,
        &what("residual"),
    );

    let stride = vocab.next_multiple_of(BLOCK_ROWS);
    let out = output(logits * stride);
    let got = run((&out).into(), &|step| step.logits(&input, &weights.embedding, &out));
    for (i, x) in inputs.chunks_exact(d).take(logits).enumerate() {
        assert_close(&got[i * stride..][..vocab], &reference.head(x), &what("logits"));
    }

    let cache = || shapes.cache(gpu, "cache").unwrap();
    let (keys, values, q) = (cache(), cache(), poisoned(d, count));
    let expected =
        rows(&inputs, d, &|x| cpu.query.apply(x).into_iter().map(|q| q * (head_dim as f32).powf(-0.5)).collect());
    let qkv = |step: &mut Step| step.qkv(&input, &layer.qkv, &q, &keys, &values);
    assert_close(&run((&q).into(), &qkv), &expected, &what("queries"));
    for (buffer, linear, part) in [(&keys, &cpu.key, "keys"), (&values, &cpu.value, "values")] {
        let raw = run(buffer.into(), &qkv);
        let got = unpack(&by_head(&raw, &shapes, buffer), kv);
        for (row, x) in inputs.chunks_exact(d).enumerate() {
            let expected = stored(kv, linear.apply(x)).unwrap();
            for head in 0..config.heads {
                let at = (head * capacity + row) * head_dim;
                let (got, expected) = (&got[at..at + head_dim], &expected[head * head_dim..][..head_dim]);
                // One rounding step of fp16 where the sums differ in their last bits.
                let tolerance = if kv == Kv::F16 { 2e-3 } else { TOLERANCE * 4.0 };
                let close = got.iter().zip(expected).all(|(g, e)| (g - e).abs() <= tolerance * e.abs().max(1.0));
                assert!(close, "{}: row {row}, head {head}: {got:?}, expected {expected:?}", what(part));
            }
        }
    }

    check_attention(gpu, &mut step, config, &shapes, &mut random, what);
}

/// Scores and values together, over a shared prefix with ragged tails.
fn check_attention(
    gpu: &Gpu,
    step: &mut Step,
    config: &Config,
    shapes: &Shapes,
    random: &mut Values,
    what: &dyn Fn(&str) -> String,
) {
    let (d, head_dim, heads) = (config.d_model, config.head_dim(), config.heads);
    let (capacity, kv) = (shapes.capacity, shapes.kv);
    let column = |prefix: usize, tail_start: usize, tail_len: usize| Column {
        token: 0,
        position: (prefix + tail_len - 1) as u32,
        row: 0,
        prefix: prefix as u32,
        tail_start: tail_start as u32,
        tail_len: tail_len as u32,
        ..Column::default()
    };
    let shared = capacity / 2;
    let columns = [
        column(1, 0, 0),
        column(capacity, 0, 0),
        column(shared, shared, 1),
        column(shared, shared + 1, capacity - shared - 1),
        column(shared, capacity - 1, 1),
    ];
    let queries = random.many(columns.len() * d);
    let [keys, values] = [0, 1].map(|_| stored(kv, random.many(capacity * d)).unwrap());
    let cached = |rows: &[f32]| {
        let halves: Vec<f16> = rows.iter().map(|v| f16::from_f32(*v)).collect();
        let rows: &[u8] = if kv == Kv::F16 { bytemuck::cast_slice(&halves) } else { bytemuck::cast_slice(rows) };
        let words = rows.len() / 16 / capacity;
        let word = |row: usize, word: usize| &rows[(row * words + word) * 16..][..16];
        let mut bytes = Vec::with_capacity(rows.len());
        if gpu.tuning().arrays != Arrays::Buffers {
            // [word, row]
            (0..words).for_each(|w| (0..capacity).for_each(|row| bytes.extend_from_slice(word(row, w))));
        } else {
            // [head, row, word of the head]
            let of_head = shapes.head_words();
            for head in 0..heads {
                for row in 0..capacity {
                    (0..of_head).for_each(|w| bytes.extend_from_slice(word(row, head * of_head + w)));
                }
            }
        }
        array(gpu, Texel::Words, capacity, &bytes)
    };
    let (key_cache, value_cache) = (cached(&keys), cached(&values));
    let q = array(gpu, Texel::Floats, d / 4, &queries);
    let scores =
        gpu.array("scores", Texel::Floats, capacity.div_ceil(4) as u32, (columns.len() * heads) as u32).unwrap();
    let out = array(gpu, Texel::Floats, d / 4, &vec![f32::NAN; columns.len() * d]);
    let got = run(gpu, step, &columns, 1, (&out).into(), |step| {
        step.scores(&q, &key_cache, &scores);
        step.values(&scores, &value_cache, &out);
    });
    let expected: Vec<f32> = columns
        .iter()
        .zip(queries.chunks_exact(d))
        .flat_map(|(column, query)| {
            let head =
                |head: usize| attend(column, &query[head * head_dim..][..head_dim], &keys, &values, d, head * head_dim);
            (0..heads).flat_map(head).collect::<Vec<f32>>()
        })
        .collect();
    assert_close(&got, &expected, &what("attention"));
}

/// What lies in a cache, as [head, row, head dim].
fn by_head(raw: &[f32], shapes: &Shapes, cache: &Array) -> Vec<f32> {
    if matches!(cache, Array::Buffer(_)) {
        return raw.to_vec();
    }
    let mut ordered = Vec::with_capacity(raw.len());
    for head in 0..shapes.heads {
        for row in 0..shapes.capacity {
            for word in head * shapes.head_words()..(head + 1) * shapes.head_words() {
                ordered.extend_from_slice(&raw[(word * shapes.capacity + row) * 4..][..4]);
            }
        }
    }
    ordered
}

fn unpack(raw: &[f32], kv: Kv) -> Vec<f32> {
    match kv {
        Kv::F32 => raw.to_vec(),
        _ => bytemuck::cast_slice::<f32, f16>(raw).iter().map(|h| h.to_f32()).collect(),
    }
}

/// Every tensor of `random`, written to a file.
fn random_file(config: &Config, random: &Random) -> MemoryFolder {
    let shapes = tensor_shapes(config);
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
    let config = config(2, 40, 5, 72, 1031);
    let random = Random::new(&config, 7);
    let folder = random_file(&config, &random);
    let uploaded = block_on(Origin::Folder(&folder).open(&config)).unwrap();
    let made = Tensors::Random(random);
    for arrays in [Arrays::Buffers, Arrays::Textures, Arrays::StorageTextures] {
        for (slices, max_binding_bytes) in [(1, None), (3, Some(32 << 10))] {
            let tuning = Some(Tuning { arrays, ..Tuning::SOFTWARE });
            let gpu = block_on(Gpu::open(&GpuOptions { tuning, max_binding_bytes, ..GpuOptions::default() })).unwrap();
            let weights = |tensors| block_on(Weights::load(&gpu, &config, tensors, &mut |_| {})).unwrap();
            let (made, uploaded) = (weights(&made), weights(&uploaded));
            assert_eq!(made.embedding.slices.len(), slices);
            let words = |weights: &Weights| {
                let layers = weights.layers.iter().flat_map(|layer| [&layer.qkv, &layer.out, &layer.fc1, &layer.fc2]);
                let matrices = layers.map(|linear| &linear.matrix).chain([&weights.embedding]);
                let slices = matrices.flat_map(|matrix| &matrix.slices);
                slices.map(|slice| read(&gpu, (&slice.weights).into())).collect::<Vec<Vec<u32>>>()
            };
            let (made, uploaded) = (words(&made), words(&uploaded));
            assert!(made == uploaded && made.iter().flatten().any(|&word| word != 0), "{arrays:?}, {slices} slices");
        }
    }
}

/// 6B's width, one layer of it and the full head: the widest matrices and the only model whose head must be split
/// on an adapter with 128 MiB bindings.
#[test]
fn one_layer_at_the_shapes_of_6b() {
    let config = config(1, 4096, 32, 16384, 50518);
    let folder = random_folder(&config, 5);
    let tensors = block_on(Origin::Folder(&folder).open(&config)).unwrap();
    let mut reference = block_on(Reference::load(&config, &tensors, 4, Kv::F32, &mut |_| {})).unwrap();
    let gpu = block_on(Gpu::open(&GpuOptions { max_binding_bytes: Some(128 << 20), ..Default::default() })).unwrap();
    let mut plan = block_on(Plan::load(&gpu, &config, Origin::Folder(&folder), 4, &F32, &mut |_| {})).unwrap();
    let columns: Vec<Column> = [2, 50517, 17].into_iter().enumerate().map(|(i, id)| Column::context(id, i)).collect();
    let got = block_on(plan.forward(&columns[..2], 1)).unwrap();
    assert_close(&got[0], &reference.forward(&columns[..2], 1).unwrap()[0], "6B layer, two tokens");
    let got = block_on(plan.forward(&columns[2..], 1)).unwrap();
    assert_close(&got[0], &reference.forward(&columns[2..], 1).unwrap()[0], "6B layer, third token");
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
