//! Lookup decoding: what followed the same tokens earlier in the context is a draft of what follows now, and one step of several
//! columns tells how much of it the model would have written itself.
//!
//! Exact whatever the draft: every token is chosen from the model's distribution after the tokens before it, with the random
//! number of its own place. Code repeats itself, and a step of a few columns reads the weights once.
//!
//! Source: Saxena, "Prompt Lookup Decoding" (2023); the check is that of Leviathan et al., "Fast Inference from Transformers via
//! Speculative Decoding" (2023), for a draft without probabilities.

/// When to use drafts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lookup {
    /// Never.
    Off,
    /// Where they have paid so far, by the time that steps take and the share of drafts that was right.
    #[default]
    Auto,
    /// Wherever there is one: to test, or to measure.
    Always,
}

/// The tokens before a draft that have to stand earlier in the context, too.
const SHORTEST_MATCH: usize = 2;
/// Longer matches say no more than this one.
const LONGEST_MATCH: usize = 16;
/// Tokens of a draft: with the one before it they fill the widest tile that kernels have.
pub(crate) const DRAFT_TOKENS: usize = 7;
/// How much of an average the latest value makes.
const WEIGHT: f64 = 0.15;
/// How many steps of one token a step with a draft is taken to cost, until it was measured.
const ASSUMED_COST: f64 = 1.7;
/// A draft has to promise this much more than it costs: measured times are noisy, and a wrong draft is felt.
const MARGIN: f64 = 1.5;

/// What a session knows about drafts: learned while decoding, and kept from one text to the next.
#[derive(Debug, Default)]
pub(crate) struct Experience {
    pub costs: StepCosts,
    pub hits: Hits,
}

/// Milliseconds of a step.
#[derive(Debug, Default)]
pub(crate) struct StepCosts {
    of_one: Average,
    with_draft: Average,
}

#[derive(Debug, Default, Clone, Copy)]
struct Average {
    value: f64,
    seen: u32,
}

impl Average {
    fn add(&mut self, value: f64) {
        self.seen += 1;
        // The first one is left out: drivers compile in it.
        match self.seen {
            1 => (),
            2 => self.value = value,
            _ => self.value += WEIGHT * (value - self.value),
        }
    }

    fn get(self) -> Option<f64> {
        (self.seen > 1).then_some(self.value)
    }
}

impl StepCosts {
    /// A step of `tokens` took `ms`.
    pub fn add(&mut self, tokens: usize, ms: f64) {
        match tokens {
            1 => self.of_one.add(ms),
            _ if tokens == 1 + DRAFT_TOKENS => self.with_draft.add(ms),
            _ => (),
        }
    }

    /// How many steps of one token a step with a draft costs; `None` before any was measured.
    fn of_draft(&self) -> Option<f64> {
        let one = self.of_one.get()?;
        Some(self.with_draft.get().map_or(ASSUMED_COST, |ms| ms / one.max(f64::EPSILON)))
    }
}

/// What followed the same tokens before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Draft {
    /// [`DRAFT_TOKENS`] tokens.
    pub ids: Vec<u32>,
    /// How many tokens before them agree.
    matched: usize,
}

/// The draft after `tail`: what followed the longest run of its last tokens in `context`, the latest among equals. When
/// continuing, the two are the same; when infilling, the tail is what stands before the hole and what fills it so far.
pub(crate) fn draft(context: &[u32], tail: &[u32]) -> Option<Draft> {
    let mut best = (SHORTEST_MATCH - 1, 0);
    for end in (1..context.len()).rev() {
        let earlier = context[..end].iter().rev();
        let matched = earlier.zip(tail.iter().rev()).take(LONGEST_MATCH).take_while(|(a, b)| a == b).count();
        if matched > best.0 {
            best = (matched, end);
            if matched == LONGEST_MATCH {
                break;
            }
        }
    }
    let (matched, end) = best;
    // At the end of the context it goes on with itself: what lies between is repeating.
    let followed = context[end..].iter().cycle().take(DRAFT_TOKENS);
    (end > 0).then(|| Draft { ids: followed.copied().collect(), matched })
}

/// How often drafts are right, by how much of the context before them agreed; drafts that were not tried are counted, too.
#[derive(Debug, Clone)]
pub(crate) struct Hits {
    share: [f64; 3],
}

impl Default for Hits {
    fn default() -> Self {
        Self { share: [0.3, 0.5, 0.7] }
    }
}

impl Experience {
    /// Whether `draft` is worth a try.
    pub fn says_try(&self, draft: &Draft) -> bool {
        let share = self.hits.share[Hits::class(draft)];
        let tokens: f64 = (0..=DRAFT_TOKENS as i32).map(|right| share.powi(right)).sum();
        self.costs.of_draft().is_some_and(|cost| tokens > MARGIN * cost)
    }
}

impl Hits {
    fn class(draft: &Draft) -> usize {
        match draft.matched {
            ..=2 => 0,
            3..=5 => 1,
            _ => 2,
        }
    }

    /// A token of `draft`, all before it being right, was right or wrong.
    pub fn add(&mut self, draft: &Draft, right: bool) {
        let share = &mut self.share[Self::class(draft)];
        *share += WEIGHT * (f64::from(u8::from(right)) - *share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(context: &[u32]) -> Option<Vec<u32>> {
        draft(context, context).map(|draft| draft.ids)
    }

    #[test]
    fn finds_the_longest_match_and_the_latest_among_equals() {
        assert_eq!(ids(&[1, 2, 3, 9, 2, 3]), Some(vec![9, 2, 3, 9, 2, 3, 9]));
        assert_eq!(ids(&[2, 3, 8, 2, 3, 9, 2, 3]), Some(vec![9, 2, 3, 9, 2, 3, 9]));
        assert_eq!(ids(&[1, 2, 3, 8, 2, 3, 9, 1, 2, 3]), Some(vec![8, 2, 3, 9, 1, 2, 3]));
        assert_eq!(ids(&[3, 9, 3]), None);
        assert_eq!(ids(&[7, 7, 7, 7]), Some(vec![7; 7]));
        assert_eq!(ids(&[]), None);
        let (hole, filled) = ([1, 2, 3, 4, 8, 1, 2, 100, 5, 101, 100, 3], [1, 2, 3, 4, 8, 1, 2, 3]);
        assert_eq!(draft(&hole, &filled), Some(Draft { ids: vec![4, 8, 1, 2, 100, 5, 101], matched: 3 }));
    }

    #[test]
    fn is_off_where_it_does_not_pay() {
        let context = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2];
        let found = draft(&context, &context).unwrap();
        let (mut right, mut wrong) = (Hits::default(), Hits::default());
        (0..50).for_each(|_| right.add(&found, true));
        (0..50).for_each(|_| wrong.add(&found, false));
        let tried = |hits: &Hits, cost: f64| {
            let mut costs = StepCosts::default();
            for _ in 0..3 {
                costs.add(1, 10.0);
                costs.add(1 + DRAFT_TOKENS, 10.0 * cost);
            }
            Experience { costs, hits: hits.clone() }.says_try(&found)
        };
        assert!(!Experience::default().says_try(&found), "nothing is known of the times yet");
        assert!(tried(&right, 1.0) && tried(&right, 4.0));
        assert!(!tried(&right, 8.0), "tokens that cost a step each");
        assert!(!tried(&wrong, 1.0), "drafts that are wrong");
    }

    proptest! {
        #[test]
        fn a_draft_followed_the_same_tokens(context in proptest::collection::vec(0u32..4, 0..60)) {
            if let Some(Draft { ids, matched }) = draft(&context, &context) {
                prop_assert!(ids.len() == DRAFT_TOKENS && matched >= SHORTEST_MATCH);
                let after = |i: usize| context[..i].ends_with(&context[context.len() - matched..]);
                let with_draft = [&context[..], &ids].concat();
                prop_assert!((matched..context.len()).any(|i| after(i) && with_draft[i..].starts_with(&ids)));
            } else {
                let last = &context[context.len().saturating_sub(SHORTEST_MATCH)..];
                prop_assert!(last.len() < 2 || !context[..context.len() - 1].windows(2).any(|pair| pair == last));
            }
        }
    }
}
