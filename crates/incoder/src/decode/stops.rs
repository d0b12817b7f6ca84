//! What ends a text: tokens, and texts whose beginnings are held back until it is known that they do not come.

use crate::decode::event::FinishReason;
use crate::error::{Error, Result};

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

/// How the lines around a hole end its text: nothing ends it with the default.
#[derive(Debug, Default)]
pub(crate) struct LineRules {
    /// A line that is the same ends the text: it stands behind the hole already.
    next: Option<String>,
    /// What the lines of the text are indented by at least; learnt from the first of them where it is not known.
    indentation: Option<usize>,
    /// The text begins where a line does.
    from_line_start: bool,
    /// A line break follows the hole: the one before the line that ended the text is left out.
    break_follows: bool,
    applies: bool,
}

impl LineRules {
    /// The rules for a hole between `before` and `after`.
    pub fn around(before: &str, after: &str) -> Self {
        let line = before.rsplit('\n').next().unwrap_or_default();
        let from_line_start = line.is_empty();
        let mut following = after.split('\n').skip(usize::from(!from_line_start));
        Self {
            next: following.find(|line| !line.trim().is_empty()).map(|line| line.trim_end().to_owned()),
            indentation: (!from_line_start).then(|| indentation(line)),
            from_line_start,
            break_follows: after.starts_with('\n') || after.starts_with("\r\n"),
            applies: true,
        }
    }
}

/// Characters of white space that a line begins with.
fn indentation(line: &str) -> usize {
    line.chars().take_while(|c| c.is_whitespace()).count()
}

/// Passes text on up to the line that ends it, holding back a line while it may yet be that one.
#[derive(Debug, Clone)]
pub(crate) struct Lines<'a> {
    rules: &'a LineRules,
    indentation: Option<usize>,
    /// Line breaks, blank lines, and the beginning of the line in question; empty within a line that is passed on.
    held: String,
    /// Where that line begins in `held`.
    line: usize,
    in_question: bool,
    over: bool,
}

impl<'a> Lines<'a> {
    pub fn new(rules: &'a LineRules) -> Self {
        let in_question = rules.applies && rules.from_line_start;
        Self { rules, indentation: rules.indentation, held: String::new(), line: 0, in_question, over: false }
    }

    /// The text that is certain now, and whether it ends here.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        if self.over || !self.rules.applies {
            return (if self.over { String::new() } else { text.to_owned() }, false);
        }
        let mut certain = String::new();
        for c in text.chars() {
            if c == '\n' {
                if self.in_question && self.repeats() {
                    return (certain + &self.stop(), true);
                }
                if self.in_question && !self.held[self.line..].trim().is_empty() {
                    certain += &std::mem::take(&mut self.held);
                }
                self.held.push(c);
                (self.line, self.in_question) = (self.held.len(), true);
            } else if !self.in_question {
                certain.push(c);
            } else {
                self.held.push(c);
                let line = &self.held[self.line..];
                if line.trim().is_empty() {
                    continue;
                }
                let indented = indentation(line);
                if *self.indentation.get_or_insert(indented) > indented {
                    return (certain + &self.stop(), true);
                }
                if !self.rules.next.as_ref().is_some_and(|next| next.starts_with(line.trim_end())) {
                    certain += &std::mem::take(&mut self.held);
                    (self.line, self.in_question) = (0, false);
                }
            }
        }
        (certain, false)
    }

    /// What was held back, now that nothing follows.
    pub fn finish(&mut self) -> String {
        if self.in_question && !self.over && self.repeats() {
            return self.stop();
        }
        std::mem::take(&mut self.held)
    }

    fn repeats(&self) -> bool {
        let line = self.held[self.line..].trim_end();
        !line.is_empty() && self.rules.next.as_deref() == Some(line)
    }

    /// Ends the text; what of the held text still belongs to it.
    fn stop(&mut self) -> String {
        self.over = true;
        let held = std::mem::take(&mut self.held);
        if self.rules.break_follows || !held.starts_with('\n') { String::new() } else { "\n".to_owned() }
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

    #[test]
    fn lines_end_a_text() {
        // Text before the hole, text after it, what the model writes, what is kept, whether it was ended.
        let cases = [
            ("def f():\n    x = 1", "\n    return x\n", "\n    y = 2\n    return x\n    z", "\n    y = 2", true),
            ("def f():\n    x = 1", "\n    return x\n", "\n    y = 2\n\n\ndef g():", "\n    y = 2", true),
            ("def f():\n    x = ", "\n\n    return x\n", "1\n    return xs\n", "1\n    return xs\n", false),
            ("def f():\n", "    return x\n", "    y = 2\n    return x\n", "    y = 2\n", true),
            ("def f():\n", "    return x\n", "    y = 2\nend", "    y = 2\n", true),
            ("def f():\n", "    return x\n", "    return x\n", "", true),
            ("a = [\n", "]\n", "    1,\n    2,\n]\nb", "    1,\n    2,\n", true),
            ("x", "", "\n\ny\n", "\n\ny\n", false),
            ("if a:\n    b(", ")\n    c()\n", "1)\n    c()", "1)\n", true),
        ];
        for (before, after, written, kept, ended) in cases {
            for size in [1, 3, 100] {
                let rules = LineRules::around(before, after);
                let (mut lines, mut text, mut stopped) = (Lines::new(&rules), String::new(), false);
                for piece in written.as_bytes().chunks(size) {
                    let (more, stop) = lines.push(std::str::from_utf8(piece).unwrap());
                    text += &more;
                    stopped |= stop;
                }
                text += &lines.finish();
                stopped |= lines.over;
                assert_eq!((text.as_str(), stopped), (kept, ended), "{before:?} _ {after:?}: {written:?} by {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn without_rules_lines_pass_everything(text in "[a\n ]{0,20}") {
            let rules = LineRules::default();
            let mut lines = Lines::new(&rules);
            prop_assert_eq!(lines.push(&text), (text.clone(), false));
            prop_assert_eq!(lines.finish(), "");
        }

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
