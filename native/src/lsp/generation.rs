//! A text that is being made for a cursor, and what the user types of it meanwhile.

use std::ops::Range;

/// A text for byte `at` of a document, as far as it is there.
#[derive(Debug)]
pub struct Generation {
    at: usize,
    /// With `\n` alone.
    made: String,
    is_whole: bool,
    /// What was typed since, with `\n` alone, and its bytes in the document.
    typed: String,
    typed_bytes: usize,
    /// Whether another request at the same place may take it over.
    is_shared: bool,
}

impl Generation {
    pub fn new(at: usize, is_shared: bool) -> Self {
        Self { at, made: String::new(), is_whole: false, typed: String::new(), typed_bytes: 0, is_shared }
    }

    /// Where the cursor is after what was typed.
    pub fn cursor(&self) -> usize {
        self.at + self.typed_bytes
    }

    pub fn push(&mut self, text: &str) {
        self.made += &text.replace('\r', "");
    }

    pub fn end(&mut self) {
        self.is_whole = true;
    }

    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// A change of the document: whether it types what is made here, so far as that is known.
    pub fn change(&mut self, replaced: &Range<usize>, text: &str) -> bool {
        if !self.is_shared || !replaced.is_empty() || replaced.start != self.cursor() {
            return false;
        }
        self.typed += &text.replace('\r', "");
        self.typed_bytes += text.len();
        self.agrees()
    }

    /// Whether what was typed is still what is made.
    pub fn agrees(&self) -> bool {
        self.made.starts_with(&self.typed) || !self.is_whole && self.typed.starts_with(&self.made)
    }

    /// Whether it is a text for a request at this place, too. One that was typed to its end has nothing more to say.
    pub fn serves(&self, cursor: usize) -> bool {
        let has_more = !self.is_whole || self.made.len() > self.typed.len() || self.typed.is_empty();
        self.is_shared && cursor == self.cursor() && self.agrees() && has_more
    }

    /// What is left of the text after what was typed.
    pub fn rest(&self) -> &str {
        self.made.strip_prefix(self.typed.as_str()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_along_is_kept_and_shortened() {
        let mut made = Generation::new(10, true);
        made.push("ret");
        assert!(made.serves(10) && !made.serves(11));
        // Faster than the model: it is not known yet.
        assert!(made.change(&(10..10), "re") && made.change(&(12..12), "tur"));
        made.push("urn x\r");
        assert!(made.agrees() && made.serves(15));
        assert_eq!((made.cursor(), made.rest()), (15, "n x"));
        made.push("\n  y");
        made.end();
        // A line break of two characters in the document.
        assert!(made.change(&(15..15), "n x\r\n"));
        assert_eq!((made.cursor(), made.rest()), (20, "  y"));
        assert!(made.change(&(20..20), "  y") && !made.serves(23));
    }

    #[test]
    fn anything_else_ends_it() {
        let made = || {
            let mut made = Generation::new(4, true);
            made.push("abc");
            made
        };
        assert!(!made().change(&(4..4), "x"));
        assert!(!made().change(&(3..3), "a"));
        assert!(!made().change(&(4..5), "a"));
        // Typed further than the whole text goes.
        let mut whole = made();
        whole.end();
        assert!(!whole.change(&(4..4), "abcd"));
        let mut open = made();
        assert!(open.change(&(4..4), "abcd"));
        open.push("x");
        assert!(!open.agrees());
        assert!(!Generation::new(4, false).serves(4));
    }
}
