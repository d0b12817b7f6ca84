//! The WGSL files: kernels, and what goes before those of the model.

use super::Source;

macro_rules! shader {
    ($name:literal, model: $model:literal, subgroups: $subgroups:literal) => {
        shader!($name, model: $model, multiplies: false, subgroups: $subgroups)
    };
    ($name:literal, model: $model:literal, multiplies: $multiplies:literal, subgroups: $subgroups:literal) => {
        Source {
            name: $name,
            text: include_str!(concat!("../../../../../shaders/", $name, ".wgsl")),
            model: $model,
            multiplies: $multiplies,
            subgroups: $subgroups,
        }
    };
}

/// Goes before every kernel of the model: what a step is.
pub(super) const STEP: &str = include_str!("../../../../../shaders/step.wgsl");
/// Goes before it, too: where its large arrays are.
pub(super) const ARRAYS_IN_BUFFERS: &str = include_str!("../../../../../shaders/arrays_in_buffers.wgsl");
/// Its second form.
pub(super) const ARRAYS_IN_TEXTURES: &str = include_str!("../../../../../shaders/arrays_in_textures.wgsl");
/// Its third form.
pub(super) const ARRAYS_IN_STORAGE_TEXTURES: &str =
    include_str!("../../../../../shaders/arrays_in_storage_textures.wgsl");

/// Goes before every kernel of the model: eight values at once.
pub(super) const OCTETS: &str = include_str!("../../../../../shaders/octets.wgsl");
/// Goes before every kernel of the model, too: who reads inputs.
pub(super) const INPUTS_READ_ALONE: &str = include_str!("../../../../../shaders/inputs_read_alone.wgsl");
/// Its second form, which uses subgroup operations.
pub(super) const INPUTS_READ_TOGETHER: &str = include_str!("../../../../../shaders/inputs_read_together.wgsl");

/// Goes before the kernels that multiply: how queries and keys are rotated.
pub(super) const ROTARY: &str = include_str!("../../../../../shaders/rotary.wgsl");
/// Its second form, for models whose positions are added to the embedding.
pub(super) const NOT_ROTARY: &str = include_str!("../../../../../shaders/not_rotary.wgsl");
/// Goes before the kernels that multiply, too: what becomes of a sum.
pub(super) const LINEAR_OUTPUTS: &str = include_str!("../../../../../shaders/linear_outputs.wgsl");
/// Goes before every kernel of the model, too: what a matrix consists of.
pub(super) const WEIGHTS_IN_FP16: &str = include_str!("../../../../../shaders/weights_in_fp16.wgsl");
/// Its second form.
pub(super) const WEIGHTS_IN_Q8: &str = include_str!("../../../../../shaders/weights_in_q8.wgsl");
/// Its third form.
pub(super) const WEIGHTS_IN_Q4: &str = include_str!("../../../../../shaders/weights_in_q4.wgsl");

pub(crate) const EMBED: Source = shader!("embed", model: true, subgroups: false);
pub(crate) const LAYER_NORM: Source = shader!("layer_norm", model: true, subgroups: false);
pub(crate) const LAYER_NORM_SUBGROUPS: Source = shader!("layer_norm_subgroups", model: true, subgroups: true);
pub(crate) const LINEAR: Source = shader!("linear", model: true, multiplies: true, subgroups: false);
pub(crate) const LINEAR_TILED: Source = shader!("linear_tiled", model: true, multiplies: true, subgroups: false);
pub(crate) const ATTENTION_SCORES: Source = shader!("attention_scores", model: true, subgroups: false);
pub(crate) const ATTENTION_VALUES: Source = shader!("attention_values", model: true, subgroups: false);
pub(crate) const CHOOSE: Source = shader!("choose", model: true, subgroups: false);
pub(crate) const RANDOM: Source = shader!("random", model: true, subgroups: false);
pub(crate) const STREAMING: Source = shader!("streaming", model: false, subgroups: false);
pub(crate) const STREAMING_STORAGE_TEXTURE: Source =
    shader!("streaming_storage_texture", model: false, subgroups: false);
