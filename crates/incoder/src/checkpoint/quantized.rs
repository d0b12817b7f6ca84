//! The quantized matrices of a checkpoint, and plain ones on their way to be.

use super::{Checkpoint, not_finite};
use crate::error::{Error, Result};
use crate::quantize::{Format, Quantization, Rows, already};
use half::f16;
use std::collections::BTreeMap;
use std::ops::Range;

/// A tensor's shape, and its dtype where only one will do.
pub(super) type Expected = BTreeMap<String, (Vec<usize>, Option<&'static str>)>;

impl Checkpoint {
    /// How the matrices are stored; `None` where they are plain numbers.
    pub fn quantization(&self) -> Option<Quantization> {
        self.quantization
    }

    /// The tensors that the files must have.
    pub(super) fn expected(&self) -> Expected {
        let mut expected = Expected::new();
        for (name, shape) in &self.shapes {
            let parts = self.quantization.map_or(Vec::new(), |quantization| quantization.parts(name, shape));
            if parts.is_empty() {
                expected.insert(name.clone(), (shape.clone(), None));
            }
            expected.extend(parts.into_iter().map(|part| (part.name, (part.shape.to_vec(), Some(part.dtype)))));
        }
        expected
    }

    /// How the tensor `name` is stored, where it is quantized.
    pub(super) fn format(&self, name: &str) -> Option<Format> {
        self.quantization.and_then(|quantization| quantization.format(name))
    }

    /// Rows `rows` of the matrix `name` as `quantization` has them: as they are stored, or quantized now.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a vector, for a value that is not finite, and for one whose scale fp16 cannot hold;
    /// [`Error::Argument`] where they are quantized already in another way; [`Error::Source`] when they cannot be read.
    pub async fn quantized(&self, name: &str, rows: Range<usize>, quantization: Quantization) -> Result<Rows> {
        let Some(format) = quantization.format(name) else { return Err(Error::tensor(name, "is no matrix")) };
        match self.quantization {
            Some(stored) if stored == quantization => self.stored_rows(name, format, rows).await,
            Some(stored) => Err(Error::argument(already(stored, quantization))),
            None => {
                let values = self.rows(name, rows.clone()).await?;
                Rows::quantize(name, format, values.len() / rows.len().max(1), rows.start, &values)
            }
        }
    }

    /// Rows of a quantized matrix as they are stored.
    pub(super) async fn stored_rows(&self, name: &str, format: Format, rows: Range<usize>) -> Result<Rows> {
        let columns = self.shapes.get(name).and_then(|shape| shape.last()).copied().unwrap_or(0);
        let quants = self.stored(&if format == Format::Q4 { format!("{name}_packed") } else { name.to_owned() })?;
        let mut bytes = vec![0; self.row_bytes(quants) * rows.len()];
        self.read(quants, rows.clone(), &mut bytes).await?;
        let scales = self.finite_halves(&format!("{name}_scale"), rows.clone()).await?;
        let minima = match format {
            Format::Q4 => self.finite_halves(&format!("{name}_minimum"), rows).await?,
            _ => Vec::new(),
        };
        Ok(Rows { format, columns, quants: bytes, scales, minima })
    }

    async fn finite_halves(&self, name: &str, rows: Range<usize>) -> Result<Vec<f16>> {
        let stored = self.stored(name)?;
        let mut bytes = vec![0; self.row_bytes(stored) * rows.len()];
        self.read(stored, rows.clone(), &mut bytes).await?;
        let halves: Vec<f16> = bytes.chunks_exact(2).map(|two| f16::from_le_bytes([two[0], two[1]])).collect();
        match halves.iter().position(|half| !half.is_finite()) {
            Some(i) => Err(not_finite(name, stored, &rows, i, halves[i].to_f32())),
            None => Ok(halves),
        }
    }
}
