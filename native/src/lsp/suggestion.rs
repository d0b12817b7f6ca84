//! What of a text for the cursor is suggested: not what stands there already, and not more than an editor can show.

use super::text::{line_before, rest_of_line};

/// A suggestion for the cursor: the text, and how many bytes behind the cursor it replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    pub text: String,
    pub replaces: usize,
}

/// The suggestion that `made` is at byte `at` of `document`; none where it would say nothing new.
pub fn suggestion(document: &str, at: usize, made: &str) -> Option<Suggestion> {
    let rest = rest_of_line(document, at);
    // Editors take `\n` and write their own.
    let made = made.replace("\r\n", "\n").replace('\r', "\n");
    let (text, replaces) = match rest.trim().is_empty() {
        // A text of several lines replaces up to the end of the line: blanks that stand there.
        true => (made.trim_end_matches('\n').to_owned(), rest.len()),
        // Within a line there is room for one.
        false => {
            let line = made.split('\n').next().unwrap_or_default();
            (trim_overlap(line, rest).to_owned(), 0)
        }
    };
    let is_there = text.trim().is_empty() || text == rest || repeats_what_follows(document, at, &text);
    (!is_there).then_some(Suggestion { text, replaces })
}

/// `text` without the longest end of it that `after` begins with.
fn trim_overlap<'t>(text: &'t str, after: &str) -> &'t str {
    let ends = text.char_indices().map(|(i, _)| i);
    let overlap = ends.into_iter().find(|&i| after.starts_with(&text[i..]));
    &text[..overlap.unwrap_or(text.len())]
}

/// Whether the lines that would stand here stand after the cursor's line already.
fn repeats_what_follows(document: &str, at: usize, text: &str) -> bool {
    let line = line_before(document, at).to_owned() + text;
    let rest = &document[at + rest_of_line(document, at).len()..];
    let mut following = rest.split('\n').map(|line| line.trim_end_matches('\r')).skip(1);
    let Some(next) = following.find(|line| !line.trim().is_empty()) else { return false };
    let mut following = std::iter::once(next).chain(following);
    let mut lines = line.split('\n').peekable();
    while let Some(line) = lines.next() {
        let is_last = lines.peek().is_none();
        match following.next() {
            Some(there) if there == line || is_last && !line.trim().is_empty() && there.starts_with(line) => {}
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_is_new_is_suggested() {
        // The document with a | at the cursor, what was made, and the suggestion with how much it replaces.
        for (document, made, suggested) in [
            ("def f():\n    |\n", "return 1\n", Some(("return 1", 0))),
            ("x = |   \ny\n", "1\nz = 2", Some(("1\nz = 2", 3))),
            // Text behind the cursor: one line, without what is there.
            ("print(|)\n", "x)\ny", Some(("x", 0))),
            ("print(|)\n", ")", None),
            ("f(a|, b)\n", "b, c", Some(("b, c", 0))),
            ("f(|)", "\nx", None),
            // Nothing but blanks.
            ("x|\n", "  \n ", None),
            ("x|\n", "", None),
            // What follows already.
            ("a\n|\n\nreturn x\n", "return x", None),
            ("a\n|\nb = 1\nc = 2\n", "b = 1\nc", None),
            ("a\n|\nb = 1\nc = 2\n", "b = 1\nd", Some(("b = 1\nd", 0))),
            ("a\nre|\nreturn x\r\n", "turn x", None),
            // The client's own line ends.
            ("a\r\n|\r\nb", "x\r\ny", Some(("x\ny", 0))),
        ] {
            let at = document.find('|').unwrap();
            let text = document.replacen('|', "", 1);
            let expected = suggested.map(|(text, replaces)| Suggestion { text: text.to_owned(), replaces });
            assert_eq!(suggestion(&text, at, made), expected, "{document:?} + {made:?}");
        }
    }

    proptest! {
        #[test]
        fn suggestions_can_be_inserted(before in "[ab \n]{0,8}", after in "[ab \n]{0,8}", made in "[ab \r\n]{0,8}") {
            let document = format!("{before}{after}");
            if let Some(found) = suggestion(&document, before.len(), &made) {
                prop_assert!(!found.text.trim().is_empty() && !found.text.contains('\r'));
                let replaced = &document[before.len()..before.len() + found.replaces];
                prop_assert!(replaced.trim().is_empty() && !replaced.contains('\n'));
                // A text of several lines ends its line.
                let rest = rest_of_line(&document, before.len());
                prop_assert!(!found.text.contains('\n') || found.replaces == rest.len());
            }
        }
    }
}
