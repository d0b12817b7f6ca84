//! What a client says of lines and time: where a completion ends that the model goes on with.

use std::time::{Duration, Instant};

/// Passes the text of one completion on up to the line that ends it.
///
/// As llama-server has it: from the second line on, a line with fewer leading blanks than asked for is cut off, and once the
/// time is up the text ends at the next line break.
#[derive(Debug)]
pub struct LineLimits {
    min_indentation: usize,
    time: Option<Duration>,
    first: Option<Instant>,
    /// A line break and the blanks after it, while it is not known whether the line belongs to the text.
    held: String,
    /// Whether a line break is in `held`.
    in_question: bool,
    over: bool,
}

impl LineLimits {
    pub fn new(min_indentation: usize, time: Option<Duration>) -> Self {
        Self { min_indentation, time, first: None, held: String::new(), in_question: false, over: false }
    }

    /// Whether the text was ended.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The text that is certain now.
    pub fn push(&mut self, text: &str) -> String {
        let first = *self.first.get_or_insert_with(Instant::now);
        if self.over {
            return String::new();
        }
        let late = self.time.is_some_and(|time| first.elapsed() >= time);
        if self.min_indentation == 0 && !late && self.held.is_empty() {
            return text.to_owned();
        }
        let mut certain = String::new();
        for c in text.chars() {
            match c {
                '\n' if late => {
                    certain += &std::mem::take(&mut self.held);
                    self.over = true;
                    return certain;
                }
                '\n' if self.min_indentation > 0 => {
                    self.held.push(c);
                    self.in_question = true;
                }
                ' ' | '\t' | '\r' if self.in_question => self.held.push(c),
                _ if self.in_question => {
                    let line = self.held.rsplit('\n').next().unwrap_or_default();
                    if line.chars().count() < self.min_indentation {
                        self.held.clear();
                        self.over = true;
                        return certain;
                    }
                    certain += &std::mem::take(&mut self.held);
                    certain.push(c);
                    self.in_question = false;
                }
                _ => certain.push(c),
            }
        }
        certain
    }

    /// What was held back, now that nothing follows.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limited(min_indentation: usize, time: Option<Duration>, pieces: &[&str]) -> (String, bool) {
        let mut limits = LineLimits::new(min_indentation, time);
        let mut text: String = pieces.iter().map(|piece| limits.push(piece)).collect();
        text += &limits.finish();
        (text, limits.is_over())
    }

    #[test]
    fn lines_with_fewer_blanks_end_a_text() {
        for (indentation, text, kept, ended) in [
            (4, "x = 1\n    y = 2\nz = 3", "x = 1\n    y = 2", true),
            (4, "x\n\n\n    y\n", "x\n\n\n    y\n", false),
            (4, "x\n\n  y", "x", true),
            (4, "x", "x", false),
            (1, "x\n\ty", "x\n\ty", false),
            (0, "x\ny", "x\ny", false),
        ] {
            assert_eq!(limited(indentation, None, &[text]), (kept.into(), ended), "{text:?}");
        }
    }

    #[test]
    fn time_ends_a_text_at_a_line_break() {
        let none = Some(Duration::ZERO);
        assert_eq!(limited(0, none, &["a", "b\nc"]), ("ab".into(), true));
        assert_eq!(limited(0, none, &["a", "b"]), ("ab".into(), false));
        assert_eq!(limited(4, none, &["a\n    b"]), ("a".into(), true));
        let long = Some(Duration::from_secs(3600));
        assert_eq!(limited(0, long, &["a\nb\n"]), ("a\nb\n".into(), false));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "[a \\n]{0,24}", cut in 0usize..24, indentation in 0usize..5) {
            let cut = cut.min(text.len());
            let whole = limited(indentation, None, &[&text]);
            prop_assert_eq!(&limited(indentation, None, &[&text[..cut], &text[cut..]]), &whole);
            prop_assert!(text.starts_with(&whole.0));
            for line in whole.0.split('\n').skip(1).filter(|line| !line.trim().is_empty()) {
                prop_assert!(line.len() - line.trim_start().len() >= indentation);
            }
        }
    }
}
