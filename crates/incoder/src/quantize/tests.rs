//! What quantizing keeps of a matrix, and what it refuses.

use super::*;
use proptest::prelude::*;

/// Repeatable values with about a normal distribution and a standard deviation of 1.
fn normal(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

fn quantized(format: Format, columns: usize, values: &[f32]) -> Rows {
    Rows::quantize("a", format, columns, 0, values).unwrap()
}

/// Root mean square of the error, relative to that of the values.
fn relative_error(format: Format, columns: usize, values: &[f32]) -> f64 {
    let back = quantized(format, columns, values).all_values();
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
    let error = square(&mut values.iter().zip(&back).map(|(a, b)| a - b));
    (error / square(&mut values.iter().copied())).sqrt()
}

/// Of weights as trained models have them, the error relative to the weights; max / 7 is what a plain 4-bit scale is.
#[test]
fn errors_are_those_that_are_stated() {
    let plain = normal(1, 64 * 256);
    // One input of a hundred is thirty times as large: the groups with it lose their other values in 4 bits.
    let outliers: Vec<f32> =
        plain.iter().enumerate().map(|(i, value)| if i % 256 % 100 == 7 { 30.0 * value } else { *value }).collect();
    let naive = |values: &[f32]| {
        let error = |group: &[f32]| {
            let scale = group.iter().fold(0f32, |most, value| most.max(value.abs())) / 7.0;
            group.iter().map(|value| f64::from((value / scale).round() * scale - value).powi(2)).sum::<f64>()
        };
        let all: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
        (values.chunks(GROUP).map(error).sum::<f64>() / all).sqrt()
    };
    for (what, values, most_8, most_4) in [("normal", &plain, 0.006, 0.09), ("outliers", &outliers, 0.013, 0.13)] {
        let (eight, four) = (relative_error(Format::Q8, 256, values), relative_error(Format::Q4, 256, values));
        assert!(eight < most_8 && four < most_4, "{what}: {eight}, {four}");
        assert!(four < 0.97 * naive(values), "{what}: {four}, max / 7: {}", naive(values));
    }
}

#[test]
fn known_groups() {
    let ramp: Vec<f32> = (0..32).map(|i| i as f32 - 16.0).collect();
    let cases: [(&str, Vec<f32>, f32, f32); 5] = [
        ("zeros", vec![0.0; 32], 0.0, 0.0),
        ("a ramp", ramp, 0.07, 1.2),
        ("one value", [vec![0.0; 31], vec![-3.0]].concat(), 0.001, 0.002),
        ("less than fp16 holds", vec![3e-9; 32], 3.1e-9, 3.1e-9),
        ("a short group", vec![1.0, -1.0, 0.5, 0.25, 0.0, 0.0, 0.125, 1.0], 0.01, 0.08),
    ];
    for (what, values, most_8, most_4) in cases {
        for (format, most) in [(Format::Q8, most_8), (Format::Q4, most_4)] {
            let rows = quantized(format, values.len(), &values);
            let error = values.iter().zip(rows.all_values()).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(error <= most, "{what}, {format:?}: {error}");
            assert_eq!((rows.count(), rows.quants.len()), (1, format.row_bytes(values.len())), "{what}");
        }
    }
}

#[test]
fn a_scale_that_fp16_cannot_hold_is_refused_with_its_place() {
    let mut values = vec![1.0; 3 * 64];
    values[64 + 40] = 9e6;
    for format in [Format::Q8, Format::Q4] {
        let error = Rows::quantize("fc1.weight", format, 64, 10, &values).unwrap_err().to_string();
        assert!(error.starts_with("tensor fc1.weight: holds values too large to be quantized"), "{error}");
        assert!(error.ends_with("(row 11, from column 32)"), "{error}");
    }
    values[64 + 40] = 8e6;
    assert!(Rows::quantize("fc1.weight", Format::Q8, 64, 10, &values).is_ok());
}

#[test]
fn configs_of_others_and_of_other_versions_are_named() {
    for quantization in Quantization::ALL {
        assert_eq!(Quantization::from_config(&quantization.config()).unwrap(), quantization);
    }
    let with = |field: &str, value: Value| {
        let mut config = Quantization::Q4.config();
        config[field] = value;
        Quantization::from_config(&config).unwrap_err().to_string()
    };
    let cases = [
        (with("quant_method", json!("gptq")), "quantized weights (\"gptq\"); convert them"),
        (with("quant_method", Value::Null), "quantized weights (quantization_config)"),
        (with("version", json!(2)), "quantization_config version 2; version 1 is read"),
        (with("version", json!("1")), "quantization_config version \"1\"; version 1"),
        (with("group_size", json!(64)), "quantization_config group_size 64; groups of 32 are read"),
        (with("group_size", Value::Null), "quantization_config group_size null"),
        (with("weights", json!("q5")), "quantization_config weights \"q5\"; \"q8\" and \"q4\" are read"),
    ];
    for (error, expected) in cases {
        assert!(error.starts_with(&format!("unsupported model: {expected}")), "{error}");
    }
    assert!(Quantization::from_config(&json!("q4")).is_err());
}

#[test]
fn only_matrices_are_quantized() {
    let parts = |quantization: Quantization, name: &str, shape: &[usize]| -> Vec<String> {
        let parts = quantization.parts(name, shape).into_iter();
        parts.map(|part| format!("{} {} {:?}", part.name, part.dtype, part.shape)).collect()
    };
    let q4 = ["fc1.weight_packed U8 [96, 20]", "fc1.weight_scale F16 [96, 2]", "fc1.weight_minimum F16 [96, 2]"];
    let table = ["embed_tokens.weight I8 [50, 64]", "embed_tokens.weight_scale F16 [50, 2]"];
    for (name, shape, expected) in [
        ("fc1.weight", &[96, 40][..], &q4[..]),
        ("embed_tokens.weight", &[50, 64], &table),
        ("fc1.bias", &[96], &[]),
        ("final_layer_norm.weight", &[40], &[]),
        ("layer_norm.weight", &[40], &[]),
    ] {
        assert_eq!(parts(Quantization::Q4, name, shape), expected);
    }
    assert_eq!(parts(Quantization::Q8, "fc1.weight", &[96, 40])[0], "fc1.weight I8 [96, 40]");
}

proptest! {
    /// Nothing is off by more than half a step of the scale that would be stored for it, in 8 bits; in 4 bits by what the search
    /// may trade at the ends. Quantizing what came out of it changes nothing in 8 bits.
    #[test]
    fn values_come_back(values in prop::collection::vec(-1e4f32..1e4, 8..120), exponent in -12i32..3) {
        let columns = values.len() / 8 * 8;
        let values: Vec<f32> = values[..columns].iter().map(|value| value * 2f32.powi(exponent)).collect();
        let eight = quantized(Format::Q8, columns, &values);
        let (back, four) = (eight.all_values(), quantized(Format::Q4, columns, &values).all_values());
        for (group, (values, (back, four))) in values.chunks(GROUP).zip(back.chunks(GROUP).zip(four.chunks(GROUP))).enumerate() {
            let most = values.iter().fold(0f32, |most, value| most.max(value.abs()));
            let scale = eight.scales[group].to_f32();
            for ((value, back), four) in values.iter().zip(back).zip(four) {
                // The scale's own rounding moves the ends of the range.
                prop_assert!((value - back).abs() <= 0.501 * scale + most * 6e-4, "{value} became {back}, {scale}");
                prop_assert!((value - four).abs() <= most * 0.12, "{value} became {four} of at most {most}");
            }
        }
        prop_assert_eq!(&quantized(Format::Q8, columns, &back).all_values(), &back);
    }
}
