//! The WGSL files, one a kernel.

use super::Source;

macro_rules! shader {
    ($name:literal, subgroups: $subgroups:literal) => {
        Source { name: $name, text: include_str!(concat!("../../shaders/", $name, ".wgsl")), subgroups: $subgroups }
    };
}

/// Goes before every kernel: where its large arrays are.
pub(super) const ARRAYS_IN_BUFFERS: &str = include_str!("../../shaders/arrays_in_buffers.wgsl");
/// The twin of [`ARRAYS_IN_BUFFERS`].
pub(super) const ARRAYS_IN_TEXTURES: &str = include_str!("../../shaders/arrays_in_textures.wgsl");

pub(crate) const EMBED: Source = shader!("embed", subgroups: false);
pub(crate) const LAYER_NORM: Source = shader!("layer_norm", subgroups: false);
pub(crate) const LAYER_NORM_SUBGROUPS: Source = shader!("layer_norm_subgroups", subgroups: true);
pub(crate) const LINEAR: Source = shader!("linear", subgroups: false);
pub(crate) const ATTENTION_SCORES: Source = shader!("attention_scores", subgroups: false);
pub(crate) const ATTENTION_VALUES: Source = shader!("attention_values", subgroups: false);
pub(crate) const STREAMING: Source = shader!("streaming", subgroups: false);
