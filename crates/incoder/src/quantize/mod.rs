//! Weights in 8 or 4 bits: what they are on disk, and how a checkpoint's values become them.
//!
//! A matrix [outputs, inputs] is cut into groups of 32 along its inputs. A weight is a small whole number, which its group's scale
//! makes a value, in 4 bits from the group's minimum on; both are fp16. `docs/quantization.md` describes the files, and says how accurate and how fast they are.

mod groups;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use half::f16;
use serde_json::{Value, json};

/// Inputs that share a scale.
pub const GROUP: usize = 32;
/// The version of the files' format.
pub const FORMAT_VERSION: u64 = 1;
/// What config.json calls the method.
const METHOD: &str = "incoder";

/// How the matrices of a model are stored where they are not fp16. Biases, layer norms and positions are fp32 on a device always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// 8 bits a weight, 8.5 with the scales.
    Q8,
    /// 4 bits a weight, 5 with scales and minima; the embedding and the head as in [`Quantization::Q8`].
    Q4,
}

/// How one matrix is stored on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    F16,
    Q8,
    Q4,
}

impl Format {
    /// Bytes of a row of `columns` values, without scales.
    pub fn row_bytes(self, columns: usize) -> usize {
        match self {
            Self::F16 => 2 * columns,
            Self::Q8 => columns,
            Self::Q4 => columns / 2,
        }
    }

    /// Scales, and minima where there are any, of a row of `columns` values.
    pub fn row_scales(self, columns: usize) -> usize {
        columns.div_ceil(GROUP) * self.scales_each()
    }

    /// What every group has of them.
    pub fn scales_each(self) -> usize {
        match self {
            Self::F16 => 0,
            Self::Q8 => 1,
            Self::Q4 => 2,
        }
    }

    /// Bytes of a row of `columns` values with its scales.
    pub fn bytes(self, columns: usize) -> usize {
        self.row_bytes(columns) + 2 * self.row_scales(columns)
    }
}

impl Quantization {
    /// Every one, the largest first.
    pub const ALL: [Self; 2] = [Self::Q8, Self::Q4];

    /// `q8` or `q4`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// How the matrices of the layers are stored.
    pub(crate) fn layers(self) -> Format {
        match self {
            Self::Q8 => Format::Q8,
            Self::Q4 => Format::Q4,
        }
    }

    /// How the embedding and the head are stored.
    pub(crate) fn tables(self) -> Format {
        Format::Q8
    }

    /// How the tensor `name` of a model is stored, without the `model.` prefix; `None` for a vector.
    pub(crate) fn format(self, name: &str) -> Option<Format> {
        match name.strip_suffix(".weight")? {
            "embed_tokens" | "lm_head" => Some(self.tables()),
            norm if norm.ends_with("norm") => None,
            _ => Some(self.layers()),
        }
    }

    /// The tensors that the tensor `name` of shape `shape` is in a file; none where it is what it is.
    pub fn parts(self, name: &str, shape: &[usize]) -> Vec<Part> {
        let (Some(format), &[rows, columns]) = (self.format(name), shape) else { return Vec::new() };
        let part = |name: String, dtype, columns| Part { name, dtype, shape: [rows, columns] };
        let groups = columns.div_ceil(GROUP);
        let quants = match format {
            Format::Q4 => part(format!("{name}_packed"), "U8", columns / 2),
            _ => part(name.to_owned(), "I8", columns),
        };
        let others = ["scale", "minimum"].into_iter().take(format.scales_each());
        let others = others.map(|what| part(format!("{name}_{what}"), "F16", groups));
        [quants].into_iter().chain(others).collect()
    }

    /// What config.json says of it, as `quantization_config`: other software refuses a method that it does not know.
    pub fn config(self) -> Value {
        json!({ "quant_method": METHOD, "version": FORMAT_VERSION, "weights": self.name(), "group_size": GROUP })
    }

    /// What a `quantization_config` says.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another method, version, type or size of groups.
    pub(crate) fn from_config(config: &Value) -> Result<Self> {
        let unsupported = |what: String| Err(Error::Unsupported { what });
        let shown = |value: &Value| value.to_string().chars().take(60).collect::<String>();
        let of = |field: &str| config.get(field).unwrap_or(&Value::Null);
        match of("quant_method") {
            method if method == METHOD => {}
            Value::Null => return unsupported(not_ours("quantization_config")),
            method => return unsupported(not_ours(&shown(method))),
        }
        let (version, group) = (of("version"), of("group_size"));
        if *version != json!(FORMAT_VERSION) {
            let what = format!("quantization_config version {}; version {FORMAT_VERSION} is read", shown(version));
            return unsupported(format!("{what}: quantize the original again, or update this program"));
        }
        if *group != json!(GROUP) {
            let what = format!("quantization_config group_size {}; groups of {GROUP} are read", shown(group));
            return unsupported(what);
        }
        match of("weights").as_str().and_then(Self::named) {
            Some(quantization) => Ok(quantization),
            None => {
                unsupported(format!("quantization_config weights {}; \"q8\" and \"q4\" are read", shown(of("weights"))))
            }
        }
    }
}

/// Why a model in `stored` does not become one in `wanted`.
pub(crate) fn already(stored: Quantization, wanted: Quantization) -> String {
    let (stored, wanted) = (stored.name(), wanted.name());
    format!("the weights are quantized already, as {stored}; {wanted} is made from the original")
}

fn not_ours(method: &str) -> String {
    format!("quantized weights ({method}); convert them to F32, F16 or BF16 first")
}

/// One tensor of a quantized file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name, without the `model.` prefix.
    pub name: String,
    /// As safetensors calls it.
    pub dtype: &'static str,
    /// Rows and values of a row.
    pub shape: [usize; 2],
}

/// Some rows of a quantized matrix, row-major, as they are on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    pub(crate) format: Format,
    pub(crate) columns: usize,
    /// 8 bits: a two's complement byte each. 4 bits: two a byte, the first in the low half.
    pub(crate) quants: Vec<u8>,
    /// Of every group of every row.
    pub(crate) scales: Vec<f16>,
    /// The same, in 4 bits.
    pub(crate) minima: Vec<f16>,
}

impl Rows {
    /// Little-endian bytes of the tensors of [`Quantization::parts`].
    pub fn into_bytes(self) -> Vec<Vec<u8>> {
        let bytes = |halves: Vec<f16>| halves.into_iter().flat_map(f16::to_le_bytes).collect();
        let mut all = vec![self.quants, bytes(self.scales)];
        if !self.minima.is_empty() {
            all.push(bytes(self.minima));
        }
        all
    }

    /// How many rows these are.
    pub(crate) fn count(&self) -> usize {
        self.scales.len() / self.columns.div_ceil(GROUP).max(1)
    }

    /// Quantizes rows of `columns` finite values each of the tensor `name`, the first of which is its row `first`. On every core, where
    /// there are threads.
    ///
    /// # Errors
    /// [`Error::Tensor`] for values whose scale or minimum fp16 cannot hold.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn quantize(name: &str, format: Format, columns: usize, first: usize, values: &[f32]) -> Result<Self> {
        let rows = values.len() / columns.max(1);
        // Less than this is done sooner than a thread has begun.
        let least = (1 << 14) / columns.max(1) + 1;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let each = rows.div_ceil(cores).max(least);
        if each >= rows {
            return Self::quantize_here(name, format, columns, first, values);
        }
        let parts = std::thread::scope(|scope| {
            let of_part = |(part, values)| {
                scope.spawn(move || Self::quantize_here(name, format, columns, first + part * each, values))
            };
            let threads: Vec<_> = values.chunks(each * columns).enumerate().map(of_part).collect();
            threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
        });
        let mut all = Self { format, columns, quants: Vec::new(), scales: Vec::new(), minima: Vec::new() };
        for part in parts {
            let mut part = part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            all.quants.append(&mut part.quants);
            all.scales.append(&mut part.scales);
            all.minima.append(&mut part.minima);
        }
        Ok(all)
    }

    /// As it is natively, on one core.
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn quantize(name: &str, format: Format, columns: usize, first: usize, values: &[f32]) -> Result<Self> {
        Self::quantize_here(name, format, columns, first, values)
    }

    fn quantize_here(name: &str, format: Format, columns: usize, first: usize, values: &[f32]) -> Result<Self> {
        let rows = values.len() / columns.max(1);
        let mut quants = Vec::with_capacity(rows * format.row_bytes(columns));
        let (mut scales, mut minima) = (Vec::new(), Vec::new());
        for (row, values) in values.chunks_exact(columns.max(1)).enumerate() {
            for (group, values) in values.chunks(GROUP).enumerate() {
                // A group that is not full has its values several times over, which changes nothing of their range.
                let filled = std::array::from_fn(|i| values[i % values.len()]);
                let is_finite = if format == Format::Q4 {
                    let (scale, minimum, counts) = groups::in_4_bits(&filled);
                    quants.extend(counts[..values.len()].chunks_exact(2).map(|two| two[0] | two[1] << 4));
                    scales.push(scale);
                    minima.push(minimum);
                    scale.is_finite() && minimum.is_finite()
                } else {
                    let (scale, counts) = groups::in_8_bits(&filled);
                    quants.extend_from_slice(bytemuck::cast_slice(&counts[..values.len()]));
                    scales.push(scale);
                    scale.is_finite()
                };
                if !is_finite {
                    let (row, from) = (first + row, group * GROUP);
                    let what = "holds values too large to be quantized: their scale is beyond the range of fp16, which is 65504";
                    return Err(Error::tensor(name, format!("{what} (row {row}, from column {from})")));
                }
            }
        }
        Ok(Self { format, columns, quants, scales, minima })
    }

    /// Row `row` as values, in `out`: those that the kernels compute with.
    pub(crate) fn values(&self, row: usize, out: &mut [f32]) {
        let (bytes, groups) = (self.format.row_bytes(self.columns), self.columns.div_ceil(GROUP));
        let quants = &self.quants[row * bytes..][..bytes];
        let of_group = out.chunks_mut(GROUP).zip(quants.chunks(self.format.row_bytes(GROUP)));
        for (group, (out, quants)) in of_group.enumerate() {
            let at = row * groups + group;
            let scale = self.scales[at].to_f32();
            match self.format {
                Format::Q4 => {
                    let minimum = self.minima[at].to_f32();
                    for (out, &two) in out.chunks_exact_mut(2).zip(quants) {
                        out[0] = f32::from(two & 15) * scale + minimum;
                        out[1] = f32::from(two >> 4) * scale + minimum;
                    }
                }
                _ => out.iter_mut().zip(quants).for_each(|(out, &quant)| *out = f32::from(quant as i8) * scale),
            }
        }
    }

    /// All of them as values.
    pub(crate) fn all_values(&self) -> Vec<f32> {
        let mut all = vec![0.0; self.count() * self.columns];
        for (row, out) in all.chunks_exact_mut(self.columns.max(1)).enumerate() {
            self.values(row, out);
        }
        all
    }
}
