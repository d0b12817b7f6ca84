//! Rotary positions: by what angle each pair of a head's values is rotated at each position.
//!
//! Source: RoFormer (arXiv 2104.09864); the kinds of scaling are those of `modeling_rope_utils` in Hugging Face transformers.

use crate::checkpoint::fields::Fields;
use crate::error::{Error, Result};
use serde_json::Map;
use std::f64::consts::TAU;

/// The frequencies of a head, and what cosine and sine are multiplied with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rotary {
    /// Radians a position, for each of the head dim / 2 pairs.
    pub frequencies: Vec<f32>,
    /// 1 but for YaRN.
    pub factor: f32,
}

impl Rotary {
    /// What config.json says of a model whose heads have `head_dim` values and that was trained on `positions` positions.
    ///
    /// # Errors
    /// [`Error::Config`] for a field with a wrong value, [`Error::Unsupported`] for a kind of scaling that is not computed.
    pub fn read(fields: &Fields<'_>, head_dim: usize, positions: usize) -> Result<Self> {
        // transformers 5 has everything in `rope_parameters`; before, the base stood beside `rope_scaling`.
        let nothing = Map::new();
        let scaling = fields.object("rope_parameters")?.or(fields.object("rope_scaling")?).unwrap_or(&nothing);
        let scaling = Fields(scaling);
        let base = match scaling.number("rope_theta")? {
            Some(base) => base,
            None => fields.number("rope_theta")?.unwrap_or(10_000.0),
        };
        if !(base > 1.0 && base.is_finite()) {
            return Err(Error::Config { problem: format!("rope_theta is {base}, expected a number above 1") });
        }
        if let Some(share) = scaling.number("partial_rotary_factor")?.or(fields.number("partial_rotary_factor")?)
            && share != 1.0
        {
            return Err(Error::Unsupported { what: format!("partial_rotary_factor {share}; whole heads are rotated") });
        }
        let plain = frequencies(base, head_dim);
        let kind = match scaling.text("rope_type")?.or(scaling.text("type")?) {
            Some(kind) => kind,
            None if scaling.get("factor").is_some() => {
                return Err(Error::Config { problem: "rope_scaling has a factor and no rope_type".to_owned() });
            }
            None => "default",
        };
        let factor = || scaling.positive("factor");
        match kind {
            // What "dynamic" does begins beyond the positions of the training.
            "default" | "dynamic" => Ok(Self { frequencies: plain, factor: 1.0 }),
            "linear" => {
                let factor = factor()? as f32;
                Ok(Self { frequencies: plain.into_iter().map(|f| f / factor).collect(), factor: 1.0 })
            }
            "llama3" => {
                let [factor, low, high, original] = [
                    factor()?,
                    scaling.positive("low_freq_factor")?,
                    scaling.positive("high_freq_factor")?,
                    scaling.positive("original_max_position_embeddings")?,
                ];
                if high <= low {
                    let problem = format!("high_freq_factor {high} is not above low_freq_factor {low}");
                    return Err(Error::Config { problem });
                }
                let scaled = |frequency: f32| {
                    let f = f64::from(frequency);
                    let wavelength = TAU / f;
                    if wavelength < original / high {
                        frequency
                    } else if wavelength > original / low {
                        (f / factor) as f32
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        ((1.0 - smooth) * f / factor + smooth * f) as f32
                    }
                };
                Ok(Self { frequencies: plain.into_iter().map(scaled).collect(), factor: 1.0 })
            }
            "yarn" => yarn(&scaling, base, &plain, positions),
            other => Err(Error::Unsupported {
                what: format!(
                    "rope_scaling of the type {other:?}; default, linear, dynamic, llama3 and yarn are computed"
                ),
            }),
        }
    }

    /// Cosine and sine of every pair at `position`: [head dim / 2].
    pub fn cos_sin(&self, position: usize) -> impl Iterator<Item = [f32; 2]> + '_ {
        let position = position as f32;
        self.frequencies.iter().map(move |frequency| {
            let (sin, cos) = (position * frequency).sin_cos();
            [cos * self.factor, sin * self.factor]
        })
    }

    /// Rotates the heads of `values`, whose pairs are `i` and `i + head dim / 2`.
    pub fn rotate(&self, values: &mut [f32], position: usize) {
        let half = self.frequencies.len();
        for head in values.chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for ((a, b), [cos, sin]) in first.iter_mut().zip(second).zip(self.cos_sin(position)) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

fn frequencies(base: f64, head_dim: usize) -> Vec<f32> {
    (0..head_dim).step_by(2).map(|i| 1.0 / (base as f32).powf(i as f32 / head_dim as f32)).collect()
}

/// YaRN (arXiv 2309.00071): high frequencies stay, low ones are divided, and a ramp lies between.
fn yarn(scaling: &Fields<'_>, base: f64, plain: &[f32], positions: usize) -> Result<Rotary> {
    let dim = 2.0 * plain.len() as f64;
    // DeepSeek's two change the factor of attention.
    if let Some(name) = ["mscale", "mscale_all_dim"].into_iter().find(|name| scaling.get(name).is_some()) {
        return Err(Error::Unsupported { what: format!("{name} in rope_scaling of the type \"yarn\"") });
    }
    let or = |name: &str, otherwise: f64| match scaling.get(name) {
        Some(_) => scaling.positive(name),
        None => Ok(otherwise),
    };
    let original = or("original_max_position_embeddings", positions as f64)?;
    let factor = or("factor", positions as f64 / original)?;
    let attention = or("attention_factor", if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 })?;
    let (beta_fast, beta_slow) = (or("beta_fast", 32.0)?, or("beta_slow", 1.0)?);
    let pair_of = |rotations: f64| dim * (original / (rotations * TAU)).ln() / (2.0 * base.ln());
    let (mut low, mut high) = (pair_of(beta_fast), pair_of(beta_slow));
    if scaling.flag_or("truncate", true)? {
        (low, high) = (low.floor(), high.ceil());
    }
    let low = low.max(0.0);
    let mut high = high.min(dim - 1.0);
    if low == high {
        high += 0.001;
    }
    let scaled = |(i, &frequency): (usize, &f32)| {
        let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0) as f32;
        let kept = 1.0 - ramp;
        frequency / factor as f32 * (1.0 - kept) + frequency * kept
    };
    Ok(Rotary { frequencies: plain.iter().enumerate().map(scaled).collect(), factor: attention as f32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (fields, says) in [
            (r#"{"rope_theta":0}"#, "rope_theta is 0"),
            (r#"{"rope_scaling":{"rope_type":"longrope"}}"#, "\"longrope\""),
            (r#"{"rope_scaling":{"rope_type":4}}"#, "rope_type is 4, expected a text"),
            (r#"{"rope_scaling":{"factor":4}}"#, "has a factor and no rope_type"),
            (r#"{"rope_scaling":[4]}"#, "rope_scaling is [4], expected an object"),
            (r#"{"rope_scaling":{"type":"linear"}}"#, "factor is missing"),
            (r#"{"rope_scaling":{"type":"linear","factor":0}}"#, "factor is 0, expected a number above 0"),
            (r#"{"rope_scaling":{"type":"yarn","factor":2,"original_max_position_embeddings":0}}"#, "above 0"),
            (r#"{"rope_scaling":{"type":"yarn","factor":2,"beta_slow":0}}"#, "beta_slow is 0"),
            (r#"{"rope_scaling":{"type":"yarn","factor":2,"mscale":1}}"#, "mscale in rope_scaling"),
            (r#"{"partial_rotary_factor":0.5}"#, "partial_rotary_factor 0.5"),
        ] {
            let value: serde_json::Value = serde_json::from_str(fields).unwrap();
            let error = Rotary::read(&Fields(value.as_object().unwrap()), 64, 2048).unwrap_err().to_string();
            assert!(error.contains(says), "{fields}: {error}");
        }
    }

    #[test]
    fn scaled_frequencies_are_finite_and_no_higher() {
        let plain = frequencies(10_000.0, 64);
        for scaling in [
            r#"{"rope_type":"linear","factor":4}"#,
            r#"{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":64}"#,
            r#"{"rope_type":"yarn","factor":4}"#,
            r#"{"rope_type":"yarn","factor":4,"original_max_position_embeddings":1}"#,
        ] {
            let value: serde_json::Value = serde_json::from_str(&format!(r#"{{"rope_scaling":{scaling}}}"#)).unwrap();
            let rotary = Rotary::read(&Fields(value.as_object().unwrap()), 64, 2048).unwrap();
            let pairs = rotary.frequencies.iter().zip(&plain);
            assert!(pairs.clone().all(|(scaled, plain)| *scaled > 0.0 && scaled <= plain), "{scaling}");
        }
    }
}
