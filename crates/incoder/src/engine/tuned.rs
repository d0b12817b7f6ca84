//! What was found of an adapter at its first load, kept from load to load as a text: workgroup shapes that were measured, and what it
//! computes wrong.

use super::autotune::{Autotuned, could_choose, measure};
use crate::checkpoint::config::Config;
use crate::engine::gpu::{Disabled, Gpu, Tuning};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// By adapter, sizes of the matrices and version of this engine.
type Kept = BTreeMap<String, Known>;

/// What is known of an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    tuning: Tuning,
    /// Paths that it computes wrong.
    disabled: Disabled,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

/// What [`Gpu::tuned`] gives.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Tuned {
    /// The same device with other shapes, and without what it computes wrong.
    pub gpu: Gpu,
    /// The text to keep from now on; `None`: nothing is new.
    pub keep: Option<String>,
    /// What is wrong with this GPU, and what was done about it.
    pub warning: Option<String>,
}

impl Gpu {
    /// This device with the workgroup shapes that multiply the matrices of `config` fastest, and without the paths that it computes
    /// wrong: measured and checked the first time, in about two seconds and with 128 MiB of the GPU's memory, or less where the
    /// model itself takes less.
    ///
    /// `kept` is the [`Tuned::keep`] of an earlier call: what it has for `adapter`, which names the GPU and what its
    /// speed and its results depend on (its driver, or the browser), is not found again. A text that is empty, damaged or says what
    /// would not be chosen is as none. Software adapters are left as they are: theirs were measured and checked when this engine
    /// was made, and either would take them seconds. So are those that have no memory for it.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] when the device is lost.
    pub async fn tuned(&self, config: &Config, adapter: &str, kept: &str) -> Result<Tuned> {
        if self.memory_limits().software {
            return Ok(Tuned { gpu: self.clone(), keep: None, warning: None });
        }
        recalled(self, config, adapter, kept, checked).await
    }
}

/// The paths without which a GPU computes right, and what is wrong with them.
type Verdict = (Disabled, Option<String>);

/// As [`Gpu::tuned`], of any adapter, with `check` in place of [`checked`].
async fn recalled(
    gpu: &Gpu,
    config: &Config,
    adapter: &str,
    kept: &str,
    check: impl AsyncFnOnce(&Gpu) -> Result<Option<Verdict>>,
) -> Result<Tuned> {
    let without = match gpu.disabled() {
        disabled if disabled.is_empty() => String::new(),
        disabled => format!(", without {disabled}"),
    };
    let key = format!("{adapter}, {}x{}, {}{without}", config.d_model, config.ffn_dim, env!("CARGO_PKG_VERSION"));
    let mut kept: Kept = serde_json::from_str(kept).unwrap_or_default();
    let known = kept.get(&key).filter(|known| could_choose(gpu.tuning(), known.tuning));
    if let Some(Known { tuning, disabled, warning }) = known.cloned() {
        return Ok(Tuned { gpu: gpu.with_tuning(tuning).without(disabled), keep: None, warning });
    }
    let measured = if gpu.disabled().tuning { Some(gpu.tuning()) } else { measured(gpu, config).await? };
    let tuned = gpu.with_tuning(measured.unwrap_or(gpu.tuning()));
    let Some((disabled, warning)) = check(&tuned).await? else {
        return Ok(Tuned { gpu: tuned, keep: None, warning: None });
    };
    let keep = measured.and_then(|tuning| {
        kept.insert(key, Known { tuning, disabled, warning: warning.clone() });
        serde_json::to_string_pretty(&kept).ok()
    });
    Ok(Tuned { gpu: tuned.without(disabled), keep, warning })
}

/// The shapes that are fastest; `None` where that cannot be measured.
async fn measured(gpu: &Gpu, config: &Config) -> Result<Option<Tuning>> {
    match measure(gpu, config).await {
        Ok(Autotuned { tuning, tried }) => {
            let tried: Vec<String> = tried.iter().map(ToString::to_string).collect();
            tracing::info!("measured workgroup shapes, GFLOP/s: {}; {tuning:?}", tried.join(", "));
            Ok(Some(tuning))
        }
        // The model may yet fit, as it needs other memory, and its own shapes compile.
        Err(error @ (Error::OutOfMemory { .. } | Error::Limit { .. } | Error::Kernel { .. })) => {
            tracing::info!("no workgroup shapes were measured: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What is wrong with `gpu`, and what helps; `None` where that cannot be found out.
async fn checked(gpu: &Gpu) -> Result<Option<Verdict>> {
    let name = &gpu.report().name;
    match gpu.quick_check().await {
        Ok(None) => Ok(Some((Disabled::default(), None))),
        Ok(Some((wrong, Some(disabled)))) => {
            let warning = format!(
                "{name} computes wrong values ({wrong}); without {disabled} they are right: that is switched off"
            );
            Ok(Some((disabled, Some(warning))))
        }
        Ok(Some((wrong, None))) => {
            let warning = format!("{name} computes wrong values, whatever is switched off ({wrong})");
            Ok(Some((Disabled::default(), Some(warning))))
        }
        Err(error @ (Error::OutOfMemory { .. } | Error::Limit { .. })) => {
            tracing::info!("the kernels were not checked: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
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
        let right = async |_: &Gpu| Ok(Some((Disabled::default(), None)));
        let tuned = |adapter: &str, kept: &str| block_on(recalled(&gpu, &config, adapter, kept, right)).unwrap();
        let first = tuned("a", "");
        let text = first.keep.unwrap();
        let again = tuned("a", &text);
        assert_eq!((again.gpu.tuning(), again.keep), (first.gpu.tuning(), None));
        // Another adapter's is added.
        let both: Kept = serde_json::from_str(&tuned("b", &text).keep.unwrap()).unwrap();
        assert_eq!(both.len(), 2);
        assert!(both.values().any(|kept| kept.tuning == first.gpu.tuning() && kept.disabled.is_empty()));
        // Of another kind of adapter, or of no kernel that compiles.
        let (key, _) = both.iter().next().unwrap();
        let stale = [
            Tuning { norm_threads: 1, ..Tuning::HARDWARE },
            Tuning { linear_slices: 3, ..Tuning::HARDWARE },
            Tuning { tile_slices: 32, ..Tuning::HARDWARE },
            Tuning { linear_blocks: 0, ..Tuning::HARDWARE },
        ];
        let known = |tuning| Known { tuning, disabled: Disabled::default(), warning: None };
        let stale = stale.map(|tuning| serde_json::to_string(&Kept::from([(key.clone(), known(tuning))])).unwrap());
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

    /// A path that computes wrong, and one that does not compile, are switched off, and stay so.
    #[test]
    fn what_is_broken_is_switched_off() {
        let json =
            r#"{"model_type":"xglm","num_layers":1,"d_model":64,"attention_heads":4,"ffn_dim":256,"vocab_size":64}"#;
        let config = Config::from_json(json).unwrap();
        // Nothing is measured, which takes long on software.
        let disabled = Disabled { tuning: true, ..Disabled::default() };
        let options = GpuOptions { tuning: Some(Tuning::SOFTWARE), disabled, ..Default::default() };
        for (spoilt, switched_off, said) in [
            (
                ["layer_norm_subgroups", "subgroupAdd(value)", "value"],
                "subgroups,tuning",
                "layer_norm of 1 token: value",
            ),
            (["layer_norm_subgroups", "fn total(", "fn total(("], "subgroups,tuning", "does not compile"),
            (["linear", "override COLUMNS", "override COLUMNS_"], "tuning", "whatever is switched off"),
        ] {
            let mut gpu = block_on(Gpu::open(&options)).unwrap();
            gpu.spoilt = Some(spoilt);
            let first = block_on(recalled(&gpu, &config, "a", "", checked)).unwrap();
            let warning = first.warning.unwrap();
            assert_eq!(first.gpu.disabled().to_string(), switched_off, "{warning}");
            assert!(warning.contains(said), "{warning}");
            let kept = first.keep.unwrap();
            let unasked = async |_: &Gpu| panic!("what is known is not checked again");
            let again = block_on(recalled(&gpu, &config, "a", &kept, unasked)).unwrap();
            assert_eq!((again.gpu.disabled(), again.gpu.tuning()), (first.gpu.disabled(), first.gpu.tuning()));
            assert_eq!((again.keep, again.warning), (None, Some(warning)));
        }
    }
}
