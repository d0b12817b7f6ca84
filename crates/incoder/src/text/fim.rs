//! Fill-in-the-middle: prompts of the models that see what is before a hole, what is after it, and then write what is between.
//!
//! Sources: "Efficient Training of Language Models to Fill in the Middle" (arXiv 2207.14255), and the model cards of each family.

/// The sentinels of one family of models, as their tokenizers spell them.
struct Family {
    prefix: &'static str,
    suffix: &'static str,
    middle: &'static str,
    /// Whether what is after the hole comes first.
    suffix_first: bool,
}

/// The families that are known. A tokenizer belongs to the first of which it has all three tokens.
const FAMILIES: [Family; 5] = [
    // Qwen2.5-Coder and CodeGemma.
    Family { prefix: "<|fim_prefix|>", suffix: "<|fim_suffix|>", middle: "<|fim_middle|>", suffix_first: false },
    // StarCoder and those that took its vocabulary.
    Family { prefix: "<fim_prefix>", suffix: "<fim_suffix>", middle: "<fim_middle>", suffix_first: false },
    Family { prefix: "<fim-prefix>", suffix: "<fim-suffix>", middle: "<fim-middle>", suffix_first: false },
    // DeepSeek-Coder.
    Family {
        prefix: "<｜fim▁begin｜>", suffix: "<｜fim▁hole｜>", middle: "<｜fim▁end｜>", suffix_first: false
    },
    // Seed-Coder.
    Family { prefix: "<[fim-prefix]>", suffix: "<[fim-suffix]>", middle: "<[fim-middle]>", suffix_first: true },
];

/// A tokenizer's sentinels for filling in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FillInTheMiddle {
    prefix: u32,
    suffix: u32,
    middle: u32,
    suffix_first: bool,
}

impl FillInTheMiddle {
    /// Tokens of a prompt that are no text.
    pub const SENTINELS: usize = 3;

    /// The sentinels among the added tokens, of which `id` finds one by its text.
    pub fn find(id: impl Fn(&str) -> Option<u32>) -> Option<Self> {
        FAMILIES.iter().find_map(|family| {
            let (prefix, suffix, middle) = (id(family.prefix)?, id(family.suffix)?, id(family.middle)?);
            Some(Self { prefix, suffix, middle, suffix_first: family.suffix_first })
        })
    }

    /// The prompt: `begin` goes before everything, the model continues after `begun`, which the hole begins with.
    pub fn prompt(&self, begin: &[u32], before: &[u32], after: &[u32], begun: &[u32]) -> Vec<u32> {
        let (prefix, suffix, middle) = ([self.prefix], [self.suffix], [self.middle]);
        match self.suffix_first {
            false => [begin, &prefix, before, &suffix, after, &middle, begun].concat(),
            true => [begin, &suffix, after, &prefix, before, &middle, begun].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_known_by_their_tokens() {
        let qwen = ["<|fim_suffix|>", "<|fim_middle|>", "<|fim_prefix|>"];
        let seed = ["<[fim-suffix]>", "<[fim-middle]>", "<[fim-prefix]>"];
        let id = |tokens: [&'static str; 3]| {
            move |name: &str| tokens.iter().position(|token| *token == name).map(|at| at as u32)
        };
        let prompt = |tokens| FillInTheMiddle::find(id(tokens)).map(|fim| fim.prompt(&[9], &[10], &[11], &[12]));
        assert_eq!(prompt(qwen), Some(vec![9, 2, 10, 0, 11, 1, 12]));
        assert_eq!(prompt(seed), Some(vec![9, 0, 11, 2, 10, 1, 12]));
        assert_eq!(prompt(["<|fim_prefix|>", "<|fim_suffix|>", "<fim_middle>"]), None);
    }
}
