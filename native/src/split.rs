//! Where the holes of a text are: markers or LINE:COL positions → the parts around them.

use crate::failure::{Failure, Result};
use crate::{report, text};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A place in a text. Lines and columns count from 1; columns count characters (Unicode scalar values), so that
/// column 1 is before the first character and column n + 1 behind the last one of a line of n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let numbers = text.split_once(':').and_then(|(l, c)| Some((l.parse().ok()?, c.parse().ok()?)));
        match numbers {
            Some((line, column)) if line > 0 && column > 0 => Ok(Self { line, column }),
            _ => Err("expected LINE:COL, both counted from 1".into()),
        }
    }
}

/// Splits at every `marker`; the markers are dropped. At least two parts, or an error that names `name`.
pub fn at_markers(text: &str, marker: &str, name: &str) -> Result<Vec<String>> {
    if marker.is_empty() {
        return Err(Failure::usage("--marker is empty"));
    }
    let parts: Vec<String> = text.split(marker).map(String::from).collect();
    if parts.len() < 2 {
        let help = "put it where text is wanted, or say where with --at LINE:COL";
        return Err(Failure::usage(format!("{name} has no {marker}: {help}")));
    }
    Ok(parts)
}

/// Splits before each position, whatever order they are given in; nothing is dropped.
pub fn at_positions(text: &str, positions: &[Position], name: &str) -> Result<Vec<String>> {
    let mut offsets = positions.iter().map(|p| offset(text, *p, name)).collect::<Result<Vec<_>>>()?;
    offsets.sort_unstable();
    offsets.dedup();
    let mut parts = Vec::with_capacity(offsets.len() + 1);
    let mut start = 0;
    for end in offsets {
        parts.push(text[start..end].to_owned());
        start = end;
    }
    parts.push(text[start..].to_owned());
    Ok(parts)
}

/// The byte offset of a position. A line ends with `\n`, `\r\n` or `\r`, as in editors; none of it is part of its columns.
fn offset(text: &str, at: Position, name: &str) -> Result<usize> {
    let mut start = 0;
    let mut breaks = text::breaks(text);
    for line in 1..at.line {
        match breaks.next() {
            Some((_, next)) => start = next,
            None => return Err(Failure::usage(format!("{name} has {}, not {}", report::count(line, "line"), at.line))),
        }
    }
    let end = breaks.next().map_or(text.len(), |(end, _)| end);
    let line = &text[start..end];
    let ends = line.char_indices().map(|(i, _)| i).chain([line.len()]);
    match ends.clone().nth(at.column - 1) {
        Some(column) => Ok(start + column),
        None => {
            let last = ends.count();
            let Position { line, column } = at;
            Err(Failure::usage(format!("{name}:{line}:{column}: line {line} ends at column {last}")))
        }
    }
}

/// A file and, where the argument goes on with `:LINE:COL` as compilers print it, a place in it. What exists is a file, whatever
/// its name.
pub fn file_and_place(argument: &Path) -> (PathBuf, Option<Position>) {
    let whole = || (argument.to_owned(), None);
    let Some(text) = argument.to_str().filter(|_| !argument.exists()) else { return whole() };
    let Some((at, _)) = text.rmatch_indices(':').nth(1) else { return whole() };
    match text[at + 1..].parse() {
        Ok(position) if at > 0 => (text[..at].into(), Some(position)),
        _ => whole(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str, line: usize, column: usize) -> std::result::Result<Vec<String>, String> {
        at_positions(text, &[Position { line, column }], "f.py").map_err(|e| e.to_string())
    }

    #[test]
    fn markers_split_and_vanish() {
        assert_eq!(at_markers("a<infill>b<infill>", "<infill>", "f").unwrap(), ["a", "b", ""]);
        let error = at_markers("abc", "<infill>", "f.py").unwrap_err().to_string();
        assert_eq!(error, "f.py has no <infill>: put it where text is wanted, or say where with --at LINE:COL");
        assert!(at_markers("abc", "", "f.py").is_err());
    }

    #[test]
    fn positions_count_characters_from_one() {
        assert_eq!(at("é😀x\nlast", 1, 3).unwrap(), ["é😀", "x\nlast"]);
        assert_eq!(at("ab\r\ncd\r\n", 1, 3).unwrap(), ["ab", "\r\ncd\r\n"]);
        assert_eq!(at("ab\r\ncd\r\n", 2, 1).unwrap(), ["ab\r\n", "cd\r\n"]);
        assert_eq!(at("ab\n", 2, 1).unwrap(), ["ab\n", ""]);
        assert_eq!(at("", 1, 1).unwrap(), ["", ""]);
        assert_eq!(at("ab\r\n", 1, 4).unwrap_err(), "f.py:1:4: line 1 ends at column 3");
        assert_eq!(at("ab", 2, 1).unwrap_err(), "f.py has 1 line, not 2");
        assert_eq!(at("ab\ncd", 3, 1).unwrap_err(), "f.py has 2 lines, not 3");
        assert_eq!(at("ab\n", 3, 1).unwrap_err(), "f.py has 2 lines, not 3");
    }

    #[test]
    fn several_positions_in_any_order() {
        let places =
            [Position { line: 2, column: 2 }, Position { line: 1, column: 1 }, Position { line: 2, column: 2 }];
        assert_eq!(at_positions("ab\ncd", &places, "f").unwrap(), ["", "ab\nc", "d"]);
    }

    #[test]
    fn reads_line_and_column() {
        assert_eq!("12:4".parse(), Ok(Position { line: 12, column: 4 }));
        for bad in ["", "12", "12:", ":4", "0:1", "1:0", "-1:2", "a:b", "1:2:3"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }

    /// The same table that the web package is held to, whose columns are UTF-16 units.
    #[test]
    fn positions_are_those_of_the_table() {
        let cases = include_str!("../../tests/cases/positions.json");
        let cases: Vec<serde_json::Value> = serde_json::from_str(cases).unwrap();
        for case in &cases {
            let text = case["text"].as_str().unwrap();
            let [line, column] = ["line", "column"].map(|key| case[key].as_u64().unwrap() as usize);
            let body = text.strip_prefix(text::MARK).unwrap_or(text);
            match at(body, line, column) {
                Ok(parts) => assert_eq!(Some(parts[0].as_str()), case["before"].as_str(), "{case}"),
                Err(_) => assert!(case["before"].is_null(), "{case}"),
            }
        }
    }

    #[test]
    fn a_place_behind_a_file_name() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("a:1:2");
        std::fs::write(&odd, "").unwrap();
        let place = |line, column| Some(Position { line, column });
        for (argument, file, position) in [
            ("none/a.py:12:4", "none/a.py", place(12, 4)),
            ("C:\\a.py:1:2", "C:\\a.py", place(1, 2)),
            ("a.py", "a.py", None),
            ("a.py:3", "a.py:3", None),
            ("a.py:0:1", "a.py:0:1", None),
            (":1:2", ":1:2", None),
            (odd.to_str().unwrap(), odd.to_str().unwrap(), None),
        ] {
            assert_eq!(file_and_place(Path::new(argument)), (file.into(), position));
        }
    }

    proptest! {
        #[test]
        fn marker_parts_join_to_the_text(text in "(?s)(.|\r\n|<infill>|<in){0,20}", marker in "<infill>|.|\r\n") {
            if let Ok(parts) = at_markers(&text, &marker, "f") {
                prop_assert!(parts.len() >= 2 && parts.iter().all(|p| !p.contains(&marker)));
                prop_assert_eq!(parts.join(&marker), text);
            } else {
                prop_assert!(!text.contains(&marker));
            }
        }

        #[test]
        fn position_parts_join_to_the_text(text in "(?s)(.|\r\n|\n|\r|é){0,30}", line in 1usize..9, column in 1usize..9) {
            if let Ok(parts) = at_positions(&text, &[Position { line, column }], "f") {
                prop_assert_eq!(parts.concat(), text.clone());
                // The cursor is where an editor would put it: that many line breaks, then that many characters.
                prop_assert_eq!(text::place(&parts[0]), (line, column));
                prop_assert!(!(parts[0].ends_with('\r') && parts[1].starts_with('\n')));
            }
        }

        #[test]
        fn every_character_has_its_position(text in "(?s)(.|\r\n|\n|\r|é){0,30}") {
            let (mut line, mut column) = (1, 1);
            for (i, c) in text.char_indices() {
                let inside_crlf = c == '\n' && text[..i].ends_with('\r');
                if !inside_crlf {
                    let parts = at_positions(&text, &[Position { line, column }], "f").unwrap();
                    prop_assert_eq!(parts[0].len(), i);
                }
                let ends_line = c == '\n' || c == '\r' && !text[i + 1..].starts_with('\n');
                (line, column) = if ends_line { (line + 1, 1) } else { (line, column + 1) };
            }
        }
    }
}
