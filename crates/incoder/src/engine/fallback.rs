//! A kernel that a driver's compiler refuses is no reason not to load, where there is another that computes the same.

use super::step::{Shapes, Step};
use crate::engine::gpu::{Disabled, Gpu};
use crate::error::{Error, Result};

/// The kernels for `shapes`. Where one with subgroup operations does not compile, all are compiled without these, and `gpu` is from
/// then on one that does without them.
///
/// # Errors
/// As [`Step::new`].
pub(super) async fn compile(gpu: &mut Gpu, shapes: &Shapes, on_compiled: &mut dyn FnMut(u64)) -> Result<Step> {
    match Step::new(gpu, shapes.clone(), on_compiled).await {
        Err(error @ Error::Kernel { .. }) if gpu.uses_subgroups() => {
            tracing::warn!("{error}: subgroup operations are not used");
            *gpu = gpu.without(Disabled { subgroups: true, ..Disabled::default() });
            Step::new(gpu, shapes.clone(), on_compiled).await
        }
        compiled => compiled,
    }
}
