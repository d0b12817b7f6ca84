//! One layer in the widths of the published models.

use super::*;

/// 6B's width, one layer of it and the full head: the widest matrices and the only model whose head must be split
/// on an adapter with 128 MiB bindings.
#[test]
fn one_layer_at_the_shapes_of_6b() {
    let config = config(1, 4096, 32, 16384, 50518);
    let folder = random_folder(&config, 5);
    full_width(&config, || Origin::Folder(&folder), None);
}

/// The layer alone, of random quants: to find the scales of so many values takes longer than to compute with them.
#[test]
fn one_quantized_layer_at_the_shapes_of_6b() {
    for quantization in Quantization::ALL {
        full_width(&config(1, 4096, 32, 16384, 512), || Origin::Random { seed: 5 }, Some(quantization));
    }
}

/// 1B's width, once with the full head.
#[test]
fn one_quantized_layer_at_the_shapes_of_1b() {
    for (vocab, quantization) in [(50518, Quantization::Q4), (512, Quantization::Q8)] {
        full_width(&config(1, 2048, 32, 8192, vocab), || Origin::Random { seed: 5 }, Some(quantization));
    }
}

fn full_width<'a>(config: &Config, origin: impl Fn() -> Origin<'a>, quantize: Option<Quantization>) {
    let gpu = block_on(Gpu::open(&GpuOptions { max_binding_bytes: Some(128 << 20), ..Default::default() })).unwrap();
    let tensors = block_on(origin().open(config, quantize)).unwrap();
    let mut reference = block_on(Reference::load(config, &tensors, 4, Kv::F32, &mut |_| {})).unwrap();
    let options = LoadOptions { quantize, ..F32 };
    let mut plan = block_on(Plan::load(&gpu, config, origin(), 4, &options, &mut |_| {})).unwrap();
    let ids = [2, config.vocab_size as u32 - 1, 17].into_iter().enumerate();
    let columns: Vec<Column> = ids.map(|(i, id)| Column::context(id, i)).collect();
    let what = |step: &str| format!("{step}, {} wide, {quantize:?}", config.d_model);
    let got = block_on(plan.forward(&columns[..2], 1)).unwrap();
    assert_close(&got[0], &reference.forward(&columns[..2], 1).unwrap()[0], &what("two tokens"));
    let got = block_on(plan.forward(&columns[2..], 1)).unwrap();
    assert_close(&got[0], &reference.forward(&columns[2..], 1).unwrap()[0], &what("third token"));
}
