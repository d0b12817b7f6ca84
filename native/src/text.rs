//! The bytes of a file → text: the byte-order mark is kept apart, and what is not UTF-8 is called by its name.

use crate::failure::{Failure, Result};

/// Some editors begin a file with it. It is no part of the text: no model sees it, and it takes no column.
pub const MARK: char = '\u{feff}';

/// So many zeros are no sign of anything.
const FEW_NULLS: usize = 16;

/// A text as it lay in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Whether it began with a byte-order mark.
    pub has_mark: bool,
    /// The rest.
    pub body: String,
}

impl Text {
    /// Takes the mark off.
    pub fn new(mut text: String) -> Self {
        let has_mark = text.starts_with(MARK);
        if has_mark {
            text.drain(..MARK.len_utf8());
        }
        Self { has_mark, body: text }
    }

    /// Reads the bytes of the file `name`.
    ///
    /// Fails with USAGE for what is not UTF-8, and says what it may be and what to do.
    pub fn read(bytes: Vec<u8>, name: &str) -> Result<Self> {
        if let Some(encoding) = wide(&bytes) {
            let advice = converts(encoding, name);
            return Err(Failure::usage(format!("{name} is {encoding} and not UTF-8: convert it with {advice}")));
        }
        let nulls = bytes.iter().filter(|&&byte| byte == 0).count();
        let text = match String::from_utf8(bytes) {
            // A text may hold a NUL; what consists of them is none.
            Ok(text) if nulls < FEW_NULLS || nulls * 3 <= text.len() => text,
            Ok(_) => return Err(Failure::usage(format!("{name} is binary: most of its bytes are 0"))),
            Err(error) => return Err(not_utf8(error.as_bytes(), error.utf8_error(), name)),
        };
        Ok(Self::new(text))
    }

    /// `text` as the file is to hold it.
    pub fn with_mark(&self, text: &str) -> String {
        if self.has_mark { format!("{MARK}{text}") } else { text.to_owned() }
    }
}

/// An encoding of two or four bytes a character, by its mark or, as most texts have Latin letters, by its zeros.
fn wide(bytes: &[u8]) -> Option<&'static str> {
    for (mark, encoding) in [
        (&b"\xff\xfe\x00\x00"[..], "UTF-32"),
        (b"\x00\x00\xfe\xff", "UTF-32"),
        (b"\xff\xfe", "UTF-16"),
        (b"\xfe\xff", "UTF-16"),
    ] {
        if bytes.starts_with(mark) {
            return Some(encoding);
        }
    }
    let zeros = |phase: usize, step: usize| bytes.iter().skip(phase).step_by(step).filter(|&&byte| byte == 0).count();
    let all = zeros(0, 1);
    let (pairs, quads) = (bytes.len() / 2, bytes.len() / 4);
    if bytes.len() >= 16 && bytes.len().is_multiple_of(4) {
        for (last, encoding) in [(0, "UTF-32LE"), (3, "UTF-32BE")] {
            if zeros(last, 4) == 0 && all * 10 >= quads * 27 {
                return Some(encoding);
            }
        }
    }
    if bytes.len() >= 8 && bytes.len().is_multiple_of(2) {
        for (letters, encoding) in [(0, "UTF-16LE"), (1, "UTF-16BE")] {
            if zeros(letters, 2) * 20 <= pairs && zeros(1 - letters, 2) * 10 >= pairs * 9 {
                return Some(encoding);
            }
        }
    }
    None
}

fn not_utf8(bytes: &[u8], error: std::str::Utf8Error, name: &str) -> Failure {
    let at = error.valid_up_to();
    if bytes.contains(&0) {
        return Failure::usage(format!("{name} is binary, not text: it holds bytes that are 0 and is not UTF-8"));
    }
    let (line, column) = place(&String::from_utf8_lossy(&bytes[..at]));
    let place = format!("{name}:{line}:{column}");
    if error.error_len().is_none() {
        return Failure::usage(format!(
            "{place}: the file ends in the middle of a character (byte {}): it was cut",
            at + 1
        ));
    }
    let (byte, advice) = (bytes[at], converts("WINDOWS-1252", name));
    Failure::usage(format!(
        "{place}: not UTF-8: byte {} is 0x{byte:02X}; if the file is Latin-1 or Windows-1252, convert it with {advice}",
        at + 1
    ))
}

/// The command that converts a file.
fn converts(encoding: &str, name: &str) -> String {
    let quoted = if name.contains([' ', '\'', '"', '$', '\\']) {
        format!("'{}'", name.replace('\'', "'\\''"))
    } else {
        name.to_owned()
    };
    let file = if name == "stdin" { String::new() } else { format!(" {quoted}") };
    format!("`iconv -f {encoding} -t UTF-8{file}`")
}

/// Line and column behind `before`, both from 1. Lines end with `\n`, `\r\n` or `\r`, as in editors; columns count characters.
pub fn place(before: &str) -> (usize, usize) {
    let before = before.strip_prefix(MARK).unwrap_or(before);
    let (mut line, mut start) = (1, 0);
    for (_, next) in breaks(before) {
        (line, start) = (line + 1, next);
    }
    (line, before[start..].chars().count() + 1)
}

/// Where each line break begins and ends.
pub fn breaks(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let begin = at + bytes[at..].iter().position(|byte| matches!(byte, b'\n' | b'\r'))?;
        at = begin + if bytes[begin..].starts_with(b"\r\n") { 2 } else { 1 };
        Some((begin, at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_kept_apart() {
        for (file, has_mark, body) in
            [("\u{feff}a\n", true, "a\n"), ("a\u{feff}", false, "a\u{feff}"), ("\u{feff}", true, ""), ("", false, "")]
        {
            let text = Text::read(file.as_bytes().to_vec(), "f").unwrap();
            assert_eq!((text.has_mark, text.body.as_str(), text.with_mark(body).as_str()), (has_mark, body, file));
        }
    }

    #[test]
    fn other_encodings_are_called_by_their_names() {
        let wide = |text: &str, big: bool| -> Vec<u8> {
            let bytes = |unit: u16| if big { unit.to_be_bytes() } else { unit.to_le_bytes() };
            text.encode_utf16().flat_map(bytes).collect()
        };
        let quad = |text: &str| -> Vec<u8> { text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect() };
        let python = "def f(x):\n    return x  # é\n";
        let convert = |encoding: &str| {
            format!("a.py is {encoding} and not UTF-8: convert it with `iconv -f {encoding} -t UTF-8 a.py`")
        };
        for (bytes, says) in [
            (wide(&format!("{MARK}{python}"), false), convert("UTF-16")),
            (wide(&format!("{MARK}{python}"), true), convert("UTF-16")),
            (wide(python, false), convert("UTF-16LE")),
            (wide(python, true), convert("UTF-16BE")),
            (quad(&format!("{MARK}{python}")), convert("UTF-32")),
            (quad(python), convert("UTF-32LE")),
            (b"ok\nna\xefve = 1\n".to_vec(), "a.py:2:3: not UTF-8: byte 6 is 0xEF; if the file is Latin-1 or Windows-1252, convert it with `iconv -f WINDOWS-1252 -t UTF-8 a.py`".to_owned()),
            ("x = 'é'".as_bytes()[..6].to_vec(), "a.py:1:6: the file ends in the middle of a character (byte 6): it was cut".to_owned()),
            (b"\x7fELF\x02\x01\x01\x00\x00\xff\xf0".to_vec(), "a.py is binary, not text: it holds bytes that are 0 and is not UTF-8".to_owned()),
            (vec![0; 100], "a.py is binary: most of its bytes are 0".to_owned()),
        ] {
            assert_eq!(Text::read(bytes, "a.py").unwrap_err().to_string(), says);
        }
        for text in ["a\0b = 1\n", "x\0", "日本語\n", ""] {
            assert_eq!(Text::read(text.as_bytes().to_vec(), "f").unwrap().body, text);
        }
    }

    #[test]
    fn names_that_a_shell_would_split_are_quoted() {
        let said = Text::read(b"\xff\xfea\0".to_vec(), "it's a.py").unwrap_err().to_string();
        assert!(said.ends_with("`iconv -f UTF-16 -t UTF-8 'it'\\''s a.py'`"), "{said}");
    }

    #[test]
    fn places_are_those_of_editors() {
        for (before, expected) in [
            ("", (1, 1)),
            ("\u{feff}", (1, 1)),
            ("ab", (1, 3)),
            ("a\nb", (2, 2)),
            ("a\r\nb\r\n", (3, 1)),
            ("a\rb\rc", (3, 2)),
            ("a\x0cb\u{2028}c", (1, 6)),
            ("é😀", (1, 3)),
        ] {
            assert_eq!(place(before), expected, "{before:?}");
        }
    }
}
