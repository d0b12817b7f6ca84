//! The sizes that `--shape` names.

use crate::cli::Shape;
use crate::commands::devices::PUBLISHED;
use incoder::{Config, Result};

const SMALL: &str =
    r#"{"model_type":"xglm","num_layers":8,"d_model":512,"attention_heads":8,"ffn_dim":2048,"vocab_size":8192}"#;
/// Qwen2.5-Coder's.
const HALF_B: &str = r#"{"model_type":"qwen2","num_hidden_layers":24,"hidden_size":896,"num_attention_heads":14,
    "num_key_value_heads":2,"intermediate_size":4864,"vocab_size":151936,"max_position_embeddings":32768,
    "rope_theta":1000000.0,"tie_word_embeddings":true,"rms_norm_eps":1e-6}"#;
const ONE_AND_A_HALF_B: &str = r#"{"model_type":"qwen2","num_hidden_layers":28,"hidden_size":1536,"num_attention_heads":12,
    "num_key_value_heads":2,"intermediate_size":8960,"vocab_size":151936,"max_position_embeddings":32768,
    "rope_theta":1000000.0,"tie_word_embeddings":true,"rms_norm_eps":1e-6}"#;

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Self::OneB => PUBLISHED[0].name,
            Self::SixB => PUBLISHED[1].name,
            Self::HalfB => "0.5B",
            Self::OneAndAHalfB => "1.5B",
            Self::Small => "small",
        }
    }

    pub fn config(self) -> Result<Config> {
        Config::from_json(match self {
            Self::OneB => PUBLISHED[0].config,
            Self::SixB => PUBLISHED[1].config,
            Self::HalfB => HALF_B,
            Self::OneAndAHalfB => ONE_AND_A_HALF_B,
            Self::Small => SMALL,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_the_parameters_that_help_says() {
        for (shape, name, parameters) in [
            (Shape::Small, "small", 29_414_400),
            (Shape::HalfB, "0.5B", 494_032_768),
            (Shape::OneAndAHalfB, "1.5B", 1_543_714_304),
            (Shape::OneB, "1B", 1_312_063_488),
            (Shape::SixB, "6B", 6_651_084_800),
        ] {
            assert_eq!((shape.name(), shape.config().unwrap().parameters()), (name, parameters));
        }
    }
}
