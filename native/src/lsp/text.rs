//! Documents as clients have them: positions, and changes one after the other.

use serde::{Deserialize, Serialize};

/// How clients count the characters of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    Utf8,
    /// What is meant where nothing was agreed on.
    #[default]
    Utf16,
}

impl Encoding {
    pub fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "utf-8",
            Self::Utf16 => "utf-16",
        }
    }

    /// How long a text is.
    fn length(self, text: &str) -> usize {
        match self {
            Self::Utf8 => text.len(),
            Self::Utf16 => text.encode_utf16().count(),
        }
    }
}

/// Line and character, both from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    pub line: usize,
    pub character: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    pub start: Position,
    pub end: Position,
}

/// One of `contentChanges`.
#[derive(Debug, Clone, Deserialize)]
pub struct Change {
    /// Left out, the text is all of it.
    pub range: Option<Range>,
    pub text: String,
}

/// The byte at a position. One past the end of a line is its end, one past the last line the end of the text, and one within a
/// character its beginning.
pub fn offset(text: &str, at: Position, encoding: Encoding) -> usize {
    let Some(start) = line_start(text, at.line) else { return text.len() };
    let line = line_at(text, start);
    let mut units = 0;
    for (i, c) in line.char_indices() {
        units += encoding.length(c.encode_utf8(&mut [0; 4]));
        if units > at.character {
            return start + i;
        }
    }
    start + line.len()
}

/// The position of a byte.
pub fn position(text: &str, offset: usize, encoding: Encoding) -> Position {
    let start = text[..offset].rfind(['\n', '\r']).map_or(0, |at| at + 1);
    let line = incoder::window::breaks(&text[..start]);
    Position { line, character: encoding.length(&text[start..offset]) }
}

/// The rest of the line that `offset` is in, without its line break.
pub fn rest_of_line(text: &str, offset: usize) -> &str {
    line_at(text, offset)
}

/// The text of the line that `offset` is in, up to there.
pub fn line_before(text: &str, offset: usize) -> &str {
    &text[text[..offset].rfind(['\n', '\r']).map_or(0, |at| at + 1)..offset]
}

fn line_at(text: &str, start: usize) -> &str {
    let rest = &text[start..];
    &rest[..rest.find(['\n', '\r']).unwrap_or(rest.len())]
}

/// Where a line begins, counted as editors do.
fn line_start(text: &str, line: usize) -> Option<usize> {
    let mut start = 0;
    for _ in 0..line {
        let at = start + text[start..].find(['\n', '\r'])?;
        start = at + if text[at..].starts_with("\r\n") { 2 } else { 1 };
    }
    Some(start)
}

/// Applies a change, and says where it was: the bytes that it replaced.
pub fn apply(text: &mut String, change: &Change, encoding: Encoding) -> std::ops::Range<usize> {
    let replaced = match change.range {
        Some(range) => {
            let (start, end) = (offset(text, range.start, encoding), offset(text, range.end, encoding));
            start.min(end)..start.max(end)
        }
        None => 0..text.len(),
    };
    text.replace_range(replaced.clone(), &change.text);
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(line: usize, character: usize) -> Position {
        Position { line, character }
    }

    #[test]
    fn positions_count_units_and_are_brought_into_the_text() {
        let text = "a😀漢b\r\nc\n\rend";
        for (position, utf8, utf16) in [
            (at(0, 0), 0, 0),
            (at(0, 1), 1, 1),
            // Within the emoji.
            (at(0, 2), 1, 1),
            (at(0, 3), 1, 5),
            (at(0, 5), 5, 9),
            (at(0, 99), 9, 9),
            (at(1, 0), 11, 11),
            (at(1, 9), 12, 12),
            (at(2, 0), 13, 13),
            (at(3, 2), 16, 16),
            (at(9, 0), 17, 17),
        ] {
            assert_eq!(offset(text, position, Encoding::Utf8), utf8, "{position:?}");
            assert_eq!(offset(text, position, Encoding::Utf16), utf16, "{position:?}");
        }
        assert_eq!((rest_of_line(text, 5), line_before(text, 5)), ("漢b", "a😀"));
    }

    #[test]
    fn changes_are_applied_in_their_order() {
        let mut text = "def f():\r\n    \n".to_owned();
        let insert = |line, character, what: &str| Change {
            range: Some(Range { start: at(line, character), end: at(line, character) }),
            text: what.into(),
        };
        assert_eq!(apply(&mut text, &insert(1, 4, "r"), Encoding::Utf8), 14..14);
        apply(&mut text, &insert(1, 5, "e"), Encoding::Utf8);
        assert_eq!(text, "def f():\r\n    re\n");
        apply(
            &mut text,
            &Change { range: Some(Range { start: at(0, 8), end: at(1, 0) }), text: " ".into() },
            Encoding::Utf16,
        );
        assert_eq!(text, "def f():     re\n");
        apply(&mut text, &Change { range: None, text: "new".into() }, Encoding::Utf16);
        assert_eq!(text, "new");
    }

    proptest! {
        #[test]
        fn every_character_has_its_position(text in "(?s)(a|é|😀|\n|\r\n|\r){0,16}") {
            for encoding in [Encoding::Utf8, Encoding::Utf16] {
                for (i, c) in text.char_indices() {
                    if c == '\n' && text[..i].ends_with('\r') {
                        continue;
                    }
                    let found = position(&text, i, encoding);
                    prop_assert_eq!(offset(&text, found, encoding), i, "{:?}", found);
                }
            }
        }

        #[test]
        fn any_change_leaves_a_text(
            text in "(?s)(a|é|😀|\n|\r\n|\r){0,12}", a in (0usize..6, 0usize..6), b in (0usize..6, 0usize..6), new in "(?s).{0,3}",
        ) {
            let mut changed = text.clone();
            let range = Range { start: at(a.0, a.1), end: at(b.0, b.1) };
            let replaced = apply(&mut changed, &Change { range: Some(range), text: new.clone() }, Encoding::Utf16);
            prop_assert_eq!(changed, format!("{}{}{}", &text[..replaced.start], new, &text[replaced.end..]));
        }
    }
}
