//! The arithmetic of one group of weights, in single precision and in one order of operations: the same bits on every machine.

use super::GROUP;
use half::f16;

/// A group's values; one that is shorter ends in zeros.
pub(super) type Values = [f32; GROUP];

/// Adding and subtracting it rounds to the nearest whole number, and to the even one of two, below 2^22.
const ROUNDER: f32 = 12_582_912.0;
/// The largest magnitude of an 8-bit weight.
const MOST_8: f32 = 127.0;
/// The largest 4-bit weight; the least is 0.
const MOST_4: f32 = 15.0;
/// Scales that are tried for a group in 4 bits: the range of its values is so many fourths of one.
const FOURTHS: std::ops::RangeInclusive<i32> = 56..=66;
/// Sums of a group are taken in so many parts, so that the compiler can use vector registers.
const LANES: usize = 8;

fn rounded(value: f32) -> f32 {
    (value + ROUNDER) - ROUNDER
}

/// The scale as it is stored; never 0 where something is to be scaled.
fn stored_scale(scale: f32) -> f16 {
    let half = f16::from_f32(scale);
    if half == f16::ZERO { f16::from_bits(1) } else { half }
}

/// The scale and the quants of a group in 8 bits: the largest value is ±127 scales.
pub(super) fn in_8_bits(values: &Values) -> (f16, [i8; GROUP]) {
    let most = values.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
    if most == 0.0 {
        return (f16::ZERO, [0; GROUP]);
    }
    let scale = stored_scale(most / MOST_8);
    let inverse = 1.0 / scale.to_f32();
    (scale, values.map(|value| rounded((value * inverse).clamp(-MOST_8, MOST_8)) as i8))
}

/// The scale, the minimum and the quants of a group in 4 bits, with the least weighted squared error of those that were tried.
///
/// A value's weight grows with its magnitude, from that of a typical value of the group on: large weights decide more of what a
/// layer computes.
pub(super) fn in_4_bits(values: &Values) -> (f16, f16, [u8; GROUP]) {
    let (least, most) = values.iter().fold((values[0], values[0]), |(a, b), &value| (a.min(value), b.max(value)));
    if least == most {
        return (f16::ZERO, f16::from_f32(least), [0; GROUP]);
    }
    // From 0 to 1: squares of what fp32 holds may not fit it.
    let range = most - least;
    let from_0 = values.map(|value| (value - least) / range);
    let base = least / range;
    let mean_square = from_0.iter().map(|value| (value + base) * (value + base)).sum::<f32>() / GROUP as f32;
    let weights = from_0.map(|value| (mean_square + (value + base) * (value + base)).sqrt());
    let all = sum(|i| weights[i]);
    let of_values = sum(|i| weights[i] * from_0[i]);
    let mut best = (f32::INFINITY, 0.0, 0.0);
    for fourths in FOURTHS {
        let scales = 0.25 * fourths as f32;
        let quants = from_0.map(|value| rounded((value * scales).min(MOST_4)));
        let of_quants = sum(|i| weights[i] * quants[i]);
        let of_squares = sum(|i| weights[i] * (quants[i] * quants[i]));
        let of_products = sum(|i| weights[i] * (from_0[i] * quants[i]));
        // The scale and the minimum of least error for these quants.
        let determinant = all * of_squares - of_quants * of_quants;
        let scale = (all * of_products - of_values * of_quants) / determinant;
        let minimum = (of_squares * of_values - of_quants * of_products) / determinant;
        let error = sum(|i| {
            let error = quants[i] * scale + minimum - from_0[i];
            weights[i] * (error * error)
        });
        if error < best.0 {
            best = (error, scale, minimum);
        }
    }
    let (_, scale, minimum) = best;
    let (scale, minimum) = (stored_scale(scale * range), f16::from_f32(minimum * range + least));
    let inverse = 1.0 / scale.to_f32();
    (scale, minimum, values.map(|value| rounded(((value - minimum.to_f32()) * inverse).clamp(0.0, MOST_4)) as u8))
}

/// What `of` gives for every value of a group, together. Inlined, so that it becomes vector instructions.
#[inline(always)]
fn sum(of: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    for first in (0..GROUP).step_by(LANES) {
        sums.iter_mut().enumerate().for_each(|(lane, sum)| *sum += of(first + lane));
    }
    sums.iter().sum()
}
