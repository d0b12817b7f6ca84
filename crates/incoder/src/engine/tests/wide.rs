//! One layer in the widths of the published models.

use super::*;

/// 6B's width, one layer of it and the full head: the widest matrices and the only model whose head must be split
/// on an adapter with 128 MiB bindings.
#[test]
fn one_layer_at_the_shapes_of_6b() {
    full_width(&config(1, 4096, 32, 16384, 50518), &[None]);
}

/// The layer alone.
#[test]
fn one_quantized_layer_at_the_shapes_of_6b() {
    full_width(&config(1, 4096, 32, 16384, 512), &Quantization::ALL.map(Some));
}

/// 1B's width.
#[test]
fn one_quantized_layer_at_the_shapes_of_1b() {
    full_width(&config(1, 2048, 32, 8192, 50518), &[Some(Quantization::Q4)]);
    full_width(&config(1, 2048, 32, 8192, 512), &[Some(Quantization::Q8)]);
}

fn full_width(config: &Config, quantizations: &[Option<Quantization>]) {
    let folder = random_folder(config, 5);
    let gpu = block_on(Gpu::open(&GpuOptions { max_binding_bytes: Some(128 << 20), ..Default::default() })).unwrap();
    for &quantize in quantizations {
        let tensors = block_on(Origin::Folder(&folder).open(config, quantize)).unwrap();
        let mut reference = block_on(Reference::load(config, &tensors, 4, Kv::F32, &mut |_| {})).unwrap();
        let options = LoadOptions { quantize, ..F32 };
        let mut plan = block_on(Plan::load(&gpu, config, Origin::Folder(&folder), 4, &options, &mut |_| {})).unwrap();
        let ids = [2, config.vocab_size as u32 - 1, 17].into_iter().enumerate();
        let columns: Vec<Column> = ids.map(|(i, id)| Column::context(id, i)).collect();
        let what = |step: &str| format!("{step}, {} wide, {quantize:?}", config.d_model);
        let got = block_on(plan.forward(&columns[..2], 1)).unwrap();
        assert_close(&got[0], &reference.forward(&columns[..2], 1).unwrap()[0], &what("two tokens"));
        let got = block_on(plan.forward(&columns[2..], 1)).unwrap();
        assert_close(&got[0], &reference.forward(&columns[2..], 1).unwrap()[0], &what("third token"));
    }
}
