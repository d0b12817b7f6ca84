//! Workgroup shapes that were measured, kept from load to load as a text.

use super::autotune::{Autotuned, could_choose, measure};
use crate::checkpoint::config::Config;
use crate::engine::gpu::{Gpu, Tuning};
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// By adapter, sizes of the matrices and version of this engine.
type Kept = BTreeMap<String, Tuning>;

/// What [`Gpu::tuned`] gives.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Tuned {
    /// The same device with other shapes.
    pub gpu: Gpu,
    /// The text to keep from now on; `None`: nothing was measured.
    pub keep: Option<String>,
}

impl Gpu {
    /// This device with the workgroup shapes that multiply the matrices of `config` fastest, measured the first time, in
    /// about a second and with 128 MiB of the GPU's memory, or less where the model itself takes less.
    ///
    /// `kept` is the [`Tuned::keep`] of an earlier call: what it has for `adapter`, which names the GPU and what its
    /// speed depends on (its driver, or the browser), is not measured again. A text that is empty, damaged or says what
    /// would not be chosen is as none. Software adapters keep the shapes they have: theirs were measured, and measuring
    /// would take them seconds. So do those that have no memory to measure in, or refuse a kernel.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] when the device is lost.
    pub async fn tuned(&self, config: &Config, adapter: &str, kept: &str) -> Result<Tuned> {
        if self.memory_limits().software {
            return Ok(Tuned { gpu: self.clone(), keep: None });
        }
        recalled(self, config, adapter, kept).await
    }
}

/// As [`Gpu::tuned`], of any adapter.
async fn recalled(gpu: &Gpu, config: &Config, adapter: &str, kept: &str) -> Result<Tuned> {
    let key = format!("{adapter}, {}x{}, {}", config.d_model, config.ffn_dim, env!("CARGO_PKG_VERSION"));
    let mut kept: Kept = serde_json::from_str(kept).unwrap_or_default();
    if let Some(&tuning) = kept.get(&key).filter(|&&tuning| could_choose(gpu.tuning(), tuning)) {
        return Ok(Tuned { gpu: gpu.with_tuning(tuning), keep: None });
    }
    let Autotuned { tuning, tried } = match measure(gpu, config).await {
        // The model may yet fit, as it needs other memory, and its own shapes compile.
        Err(error @ (Error::OutOfMemory { .. } | Error::Limit { .. } | Error::Kernel { .. })) => {
            tracing::info!("no workgroup shapes were measured: {error}");
            return Ok(Tuned { gpu: gpu.clone(), keep: None });
        }
        measured => measured?,
    };
    tracing::info!("measured workgroup shapes (columns, [slices, blocks], GFLOP/s): {tried:?}");
    kept.insert(key, tuning);
    Ok(Tuned { gpu: gpu.with_tuning(tuning), keep: serde_json::to_string_pretty(&kept).ok() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::gpu::GpuOptions;
    use pollster::block_on;

    #[test]
    fn measures_once_and_again_what_is_damaged_or_not_its_own() {
        let options = GpuOptions { tuning: Some(Tuning::HARDWARE), ..Default::default() };
        let gpu = block_on(Gpu::open(&options)).unwrap();
        let json =
            r#"{"model_type":"xglm","num_layers":1,"d_model":64,"attention_heads":4,"ffn_dim":256,"vocab_size":64}"#;
        let config = Config::from_json(json).unwrap();
        let tuned = |adapter: &str, kept: &str| block_on(recalled(&gpu, &config, adapter, kept)).unwrap();
        let first = tuned("a", "");
        let text = first.keep.unwrap();
        let again = tuned("a", &text);
        assert_eq!((again.gpu.tuning(), again.keep), (first.gpu.tuning(), None));
        // Another adapter's is added.
        let both: Kept = serde_json::from_str(&tuned("b", &text).keep.unwrap()).unwrap();
        assert_eq!(both.len(), 2);
        assert!(both.values().any(|&kept| kept == first.gpu.tuning()));
        // Of another kind of adapter, or of no kernel that compiles.
        let (key, _) = both.iter().next().unwrap();
        let stale = [
            Tuning { norm_threads: 1, ..Tuning::HARDWARE },
            Tuning { linear_slices: 3, ..Tuning::HARDWARE },
            Tuning { tile_slices: 32, ..Tuning::HARDWARE },
            Tuning { linear_blocks: 0, ..Tuning::HARDWARE },
        ];
        let stale = stale.map(|tuning| serde_json::to_string(&Kept::from([(key.clone(), tuning)])).unwrap());
        for damaged in ["no JSON", "[]", &text[..text.len() / 2]].into_iter().chain(stale.iter().map(String::as_str)) {
            let measured = tuned("a", damaged);
            assert!(could_choose(Tuning::HARDWARE, measured.gpu.tuning()));
            assert_eq!(serde_json::from_str::<Kept>(&measured.keep.unwrap()).unwrap().len(), 1, "{damaged}");
        }
        if gpu.memory_limits().software {
            let untouched = block_on(gpu.tuned(&config, "a", "")).unwrap();
            assert_eq!((untouched.gpu.tuning(), untouched.keep), (Tuning::HARDWARE, None));
        }
    }
}
