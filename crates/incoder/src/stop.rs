//! What ends a text: tokens, and texts whose beginnings are held back until it is known that they do not come.

use crate::error::{Error, Result};
use crate::generate::FinishReason;

/// What ends a text.
#[derive(Debug, Default)]
pub(crate) struct Stops {
    /// The first entry of a token counts.
    pub ids: Vec<(u32, FinishReason)>,
    pub texts: Vec<(String, FinishReason)>,
}

impl Stops {
    /// Adds the caller's stop texts.
    pub fn texts(&mut self, texts: &[String]) -> Result<()> {
        if let Some(i) = texts.iter().position(String::is_empty) {
            return Err(Error::argument(format!("stop text {} of {} is empty", i + 1, texts.len())));
        }
        self.texts.extend(texts.iter().map(|text| (text.clone(), FinishReason::Stop)));
        Ok(())
    }
}

/// Passes text on up to the first stop text, holding back what may yet become one.
#[derive(Debug, Clone)]
pub(crate) struct Until<'a> {
    stops: &'a [(String, FinishReason)],
    held: String,
    /// A stop text came: nothing follows.
    over: bool,
}

impl<'a> Until<'a> {
    pub fn new(stops: &'a [(String, FinishReason)]) -> Self {
        Self { stops, held: String::new(), over: false }
    }

    /// The text that is certain now, and the reason when a stop text is complete.
    ///
    /// The stop that ends first counts, so that it makes no difference where token borders fall.
    pub fn push(&mut self, text: &str) -> (String, Option<FinishReason>) {
        if self.over {
            return (String::new(), None);
        }
        self.held += text;
        let found = self.stops.iter().filter_map(|(stop, reason)| {
            let at = self.held.find(stop)?;
            Some((at + stop.len(), at, *reason))
        });
        if let Some((_, at, reason)) = found.min_by_key(|&(end, at, _)| (end, at)) {
            self.held.truncate(at);
            self.over = true;
            return (std::mem::take(&mut self.held), Some(reason));
        }
        let begun = |stop: &str| {
            let starts = stop.char_indices().map(|(i, _)| i).skip(1);
            starts.filter(|&i| self.held.ends_with(&stop[..i])).max().unwrap_or(0)
        };
        let hold = self.stops.iter().map(|(stop, _)| begun(stop)).max().unwrap_or(0);
        let held = self.held.split_off(self.held.len() - hold);
        (std::mem::replace(&mut self.held, held), None)
    }

    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn until(stops: &[(String, FinishReason)], pieces: &[&str]) -> (String, Option<FinishReason>) {
        let mut until = Until::new(stops);
        let mut text = String::new();
        for piece in pieces {
            let (more, reason) = until.push(piece);
            text += &more;
            if reason.is_some() {
                return (text, reason);
            }
        }
        (text + &until.finish(), None)
    }

    fn stops(texts: &[&str]) -> Vec<(String, FinishReason)> {
        texts.iter().map(|&text| (text.to_owned(), FinishReason::Stop)).collect()
    }

    #[test]
    fn holds_back_only_what_may_become_a_stop() {
        let stops = stops(&["\n\n", "END"]);
        let mut until = Until::new(&stops);
        assert_eq!(until.push("a\n"), ("a".into(), None));
        assert_eq!(until.push("bE"), ("\nb".into(), None));
        assert_eq!(until.push("EN"), ("E".into(), None));
        assert_eq!(until.push("D more"), (String::new(), Some(FinishReason::Stop)));
        assert_eq!((until.push("after"), until.finish()), ((String::new(), None), String::new()));
    }

    proptest! {
        #[test]
        fn token_borders_make_no_difference(
            text in "[abé]{0,30}",
            texts in proptest::collection::vec("[abé]{1,4}", 0..4),
            cuts in proptest::collection::vec(1usize..4, 30),
        ) {
            let stops: Vec<_> = texts.iter().map(|stop| (stop.clone(), FinishReason::Stop)).collect();
            let chars: Vec<String> = text.chars().map(String::from).collect();
            let mut pieces = Vec::new();
            let mut rest = &chars[..];
            for cut in cuts {
                let (piece, more) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece.concat());
                rest = more;
            }
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (got, reason) = until(&stops, &pieces);
            // The plain definition: the shortest beginning that ends in a stop, without the longest stop it ends in.
            let stopped = (0..=text.len()).filter(|&end| text.is_char_boundary(end)).find_map(|end| {
                texts.iter().filter(|stop| text[..end].ends_with(stop.as_str())).map(|stop| end - stop.len()).min()
            });
            prop_assert_eq!(reason.is_some(), stopped.is_some());
            prop_assert_eq!(got, &text[..stopped.unwrap_or(text.len())]);
        }
    }
}
