//! The sizes that `--shape` names.

use crate::cli::Shape;
use crate::commands::devices::PUBLISHED;
use incoder::{Config, Result};

const SMALL: &str =
    r#"{"model_type":"xglm","num_layers":8,"d_model":512,"attention_heads":8,"ffn_dim":2048,"vocab_size":8192}"#;

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Self::OneB => PUBLISHED[0].name,
            Self::SixB => PUBLISHED[1].name,
            Self::Small => "small",
        }
    }

    pub fn config(self) -> Result<Config> {
        Config::from_json(match self {
            Self::OneB => PUBLISHED[0].config,
            Self::SixB => PUBLISHED[1].config,
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
            (Shape::OneB, "1B", 1_312_063_488),
            (Shape::SixB, "6B", 6_651_084_800),
        ] {
            assert_eq!((shape.name(), shape.config().unwrap().parameters()), (name, parameters));
        }
    }
}
