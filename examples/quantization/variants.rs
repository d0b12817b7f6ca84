//! Other ways to quantize, computed from the values that they give back; and a checkpoint with channels as large as trained ones have.

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::error::Error;

const GROUP: usize = 32;
/// One input of so many is so much larger.
const OUTLIER_EVERY: usize = 100;
const OUTLIER_TIMES: f32 = 30.0;

/// A way to store a group of 4-bit weights, as the values that come back.
#[derive(Clone, Copy)]
pub struct Variant {
    pub name: &'static str,
    pub of_group: fn(&mut [f32]),
    /// Whether the embedding is stored in this way, too, or in 8 bits.
    pub tables: bool,
}

pub const ALL: [Variant; 3] = [
    Variant { name: "4 bits, scale = max / 7 (4.5 bits)", of_group: plain, tables: false },
    Variant { name: "4 bits, scale of least squared error (4.5 bits)", of_group: least_squares, tables: false },
    Variant { name: "q4 with the embedding in 4 bits, too", of_group: with_minimum, tables: true },
];

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn read(file: &[u8]) -> Result<Tensors, Box<dyn Error>> {
    let mut tensors = Tensors::new();
    for (name, view) in SafeTensors::deserialize(file)?.tensors() {
        let values = match view.dtype() {
            Dtype::F16 => {
                view.data().chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
            }
            Dtype::F32 => view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            other => return Err(format!("{name} is stored as {other:?}").into()),
        };
        tensors.insert(name, (view.shape().to_vec(), values));
    }
    Ok(tensors)
}

fn written(tensors: &Tensors) -> Result<Vec<u8>, Box<dyn Error>> {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        .collect();
    let views =
        bytes.iter().map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.to_vec(), bytes)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    Ok(safetensors::serialize(views, None)?)
}

/// The file with every matrix as `variant` gives it back.
pub fn made(file: &[u8], variant: Variant) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut tensors = read(file)?;
    for (name, (shape, values)) in &mut tensors {
        let is_table = name.contains("embed_tokens") || name.contains("lm_head");
        if let &mut [_, columns] = &mut shape[..] {
            let of_group = if is_table && !variant.tables { in_8_bits } else { variant.of_group };
            values.chunks_mut(columns).flat_map(|row| row.chunks_mut(GROUP)).for_each(of_group);
        }
    }
    written(&tensors)
}

/// The file with some input channels larger in every matrix that a layer norm feeds, and their layer norm smaller, so that the model
/// computes the same.
pub fn with_outliers(file: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut tensors = read(file)?;
    let is_outlier = |i: usize| i % OUTLIER_EVERY == OUTLIER_EVERY / 2;
    for (name, (shape, values)) in &mut tensors {
        let feeds = ["q_proj.weight", "k_proj.weight", "v_proj.weight", "fc1.weight"];
        if let (true, &mut [_, columns]) = (feeds.iter().any(|end| name.ends_with(end)), &mut shape[..]) {
            let at = values.iter_mut().enumerate().filter(|(i, _)| is_outlier(i % columns));
            at.for_each(|(_, value)| *value *= OUTLIER_TIMES);
        } else if name.contains("layers.") && name.contains("norm.") {
            values
                .iter_mut()
                .enumerate()
                .filter(|(i, _)| is_outlier(*i))
                .for_each(|(_, value)| *value /= OUTLIER_TIMES);
        }
    }
    written(&tensors)
}

fn most(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most: f32, &value| if value.abs() > most.abs() { value } else { most })
}

fn half(value: f32) -> f32 {
    half::f16::from_f32(value).to_f32()
}

fn back(values: &mut [f32], scale: f32, least: f32, most: f32) {
    values.iter_mut().for_each(|value| *value = (*value / scale).round().clamp(least, most) * scale);
}

fn in_8_bits(values: &mut [f32]) {
    let scale = half(most(values).abs() / 127.0);
    if scale > 0.0 {
        back(values, scale, -127.0, 127.0);
    }
}

fn plain(values: &mut [f32]) {
    let scale = half(most(values).abs() / 7.0);
    if scale > 0.0 {
        back(values, scale, -7.0, 7.0);
    }
}

/// Without a minimum: the scale of least squared error of those tried, the largest value being about -8 of them.
fn least_squares(values: &mut [f32]) {
    let largest = most(values);
    if largest == 0.0 {
        return;
    }
    let mut best = (0.0, 0.0);
    for tenths in -12..=12 {
        let scale = largest / (-8.0 - 0.1 * tenths as f32);
        let (mut with_values, mut with_itself) = (0.0, 0.0);
        for &value in &*values {
            let quant = (value / scale).round().clamp(-8.0, 7.0);
            with_values += value * quant;
            with_itself += quant * quant;
        }
        let gain = with_values * with_values / with_itself;
        if gain > best.0 {
            best = (gain, with_values / with_itself);
        }
    }
    back(values, half(best.1), -8.0, 7.0);
}

/// About as `q4`.
fn with_minimum(values: &mut [f32]) {
    let (least, largest) = values.iter().fold((f32::MAX, f32::MIN), |(a, b), &value| (a.min(value), b.max(value)));
    if least == largest {
        return;
    }
    let mean_square = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
    let weight = |value: f32| (mean_square + value * value).sqrt();
    let mut best = (f32::MAX, 0.0, 0.0);
    for tenths in -10..=10 {
        let scale = (largest - least) / (15.0 + 0.2 * tenths as f32);
        let mut sums = [0.0f32; 5];
        let quants: Vec<f32> = values.iter().map(|value| ((value - least) / scale).round().clamp(0.0, 15.0)).collect();
        for (&value, &quant) in values.iter().zip(&quants) {
            let weight = weight(value);
            let terms = [1.0, quant, quant * quant, value, value * quant].map(|term| term * weight);
            sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
        }
        let [all, of_quants, of_squares, of_values, of_products] = sums;
        let determinant = all * of_squares - of_quants * of_quants;
        if determinant <= 0.0 {
            continue;
        }
        let scale = half((all * of_products - of_values * of_quants) / determinant);
        let minimum = half((of_squares * of_values - of_quants * of_products) / determinant);
        let error = values.iter().zip(&quants).map(|(&value, quant)| {
            let error = quant * scale + minimum - value;
            weight(value) * error * error
        });
        let error: f32 = error.sum();
        if error < best.0 {
            best = (error, scale, minimum);
        }
    }
    let (_, scale, minimum) = best;
    if scale > 0.0 {
        let back = |value: f32| ((value - minimum) / scale).round().clamp(0.0, 15.0) * scale + minimum;
        values.iter_mut().for_each(|value| *value = back(*value));
    }
}
