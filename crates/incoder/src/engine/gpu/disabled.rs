//! Optional paths of the engine: what an adapter computes wrong, or not at all, is switched off by its name.

use super::{Arrays, Gpu, Tuning};
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Optional paths of the engine that are switched off. Every result is the same without them, within rounding; it may come later.
///
/// As a text it is their names with commas between them, which is what the command line's `INCODER_DISABLE` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Disabled {
    /// Subgroup operations.
    pub subgroups: bool,
    /// Weights, activations and the KV cache in textures: they are in storage buffers.
    pub textures: bool,
    /// Several tokens for one read of the weights.
    pub tiles: bool,
    /// Matrices multiplied tile by tile through workgroup memory, in steps of many tokens.
    pub products: bool,
    /// Measured workgroup shapes: they are those for the adapter's kind.
    pub tuning: bool,
    /// Choosing tokens on the GPU, and with it steps that are begun before they are asked for.
    pub choosing: bool,
}

/// A path by its name.
type Switch = (&'static str, fn(&mut Disabled) -> &mut bool);

const SWITCHES: [Switch; 6] = [
    ("subgroups", |disabled| &mut disabled.subgroups),
    ("textures", |disabled| &mut disabled.textures),
    ("tiles", |disabled| &mut disabled.tiles),
    ("products", |disabled| &mut disabled.products),
    ("tuning", |disabled| &mut disabled.tuning),
    ("choosing", |disabled| &mut disabled.choosing),
];

impl Disabled {
    /// None of the optional paths is used.
    pub const ALL: Self =
        Self { subgroups: true, textures: true, tiles: true, products: true, tuning: true, choosing: true };

    /// Each path alone, in the order of what it costs to do without; then all of them.
    pub fn each() -> impl Iterator<Item = Self> {
        let alone = |(_, switch): Switch| {
            let mut one = Self::default();
            *switch(&mut one) = true;
            one
        };
        SWITCHES.into_iter().map(alone).chain([Self::ALL])
    }

    /// What either of the two switches off.
    #[must_use]
    pub fn and(mut self, mut other: Self) -> Self {
        SWITCHES.into_iter().for_each(|(_, switch)| *switch(&mut self) |= *switch(&mut other));
        self
    }

    /// Whether everything is used.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Disabled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = *self;
        let names: Vec<&str> =
            SWITCHES.into_iter().filter(|(_, switch)| *switch(&mut all)).map(|(name, _)| name).collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for Disabled {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut disabled = Self::default();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let Some((_, switch)) = SWITCHES.into_iter().find(|(known, _)| *known == name) else {
                let names = SWITCHES.map(|(name, _)| name).join(", ");
                return Err(Error::argument(format!("{name:?} cannot be switched off: {names} can")));
            };
            *switch(&mut disabled) = true;
        }
        Ok(disabled)
    }
}

impl Gpu {
    /// The same device without these paths, and without those that are switched off already; arrays that were made with textures
    /// stay there, so that this comes before a model is loaded.
    #[must_use]
    pub fn without(&self, disabled: Disabled) -> Self {
        let disabled = self.disabled.and(disabled);
        let mut tuning = if disabled.tuning { *self.untuned } else { self.tuning };
        tuning.together &= !disabled.subgroups;
        if disabled.textures {
            tuning.arrays = Arrays::Buffers;
        }
        if disabled.tiles {
            tuning = Tuning { linear_columns: 1, ..tuning };
        }
        if disabled.tiles || disabled.products {
            tuning.tiled_from = 0;
        }
        Self { tuning, disabled, ..self.clone() }
    }

    /// The optional paths that are not used.
    pub fn disabled(&self) -> Disabled {
        self.disabled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_read_as_they_are_written() {
        for (text, shown) in [
            ("", ""),
            ("subgroups", "subgroups"),
            (" tiles, subgroups,,", "subgroups,tiles"),
            ("choosing,tuning,products,tiles,textures,subgroups", "subgroups,textures,tiles,products,tuning,choosing"),
        ] {
            assert_eq!(text.parse::<Disabled>().unwrap().to_string(), shown, "{text:?}");
        }
        let error = "subgroups,everything".parse::<Disabled>().unwrap_err().to_string();
        assert_eq!(
            error,
            "\"everything\" cannot be switched off: subgroups, textures, tiles, products, tuning, choosing can"
        );
    }

    #[test]
    fn each_is_another_and_the_last_is_all() {
        let each: Vec<Disabled> = Disabled::each().collect();
        assert!(each.iter().enumerate().all(|(i, one)| !one.is_empty() && !each[..i].contains(one)));
        assert_eq!(each.last(), Some(&Disabled::ALL));
        assert_eq!(each.iter().fold(Disabled::default(), |all, one| all.and(*one)), Disabled::ALL);
    }
}
