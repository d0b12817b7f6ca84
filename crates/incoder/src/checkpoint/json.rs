//! JSON as the ecosystem writes it: with a byte-order mark, and with the numbers that Python's `json` module adds.

use serde_json::{Map, Value};
use std::borrow::Cow;

/// The numbers that Python writes and JSON does not have.
pub(crate) const NOT_FINITE: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// Reads JSON; `NaN`, `Infinity`, `-Infinity` and numbers beyond double precision become strings with that text, so that they
/// are accepted where nobody reads them and named where somebody does.
///
/// # Errors
/// What is wrong, with line and column.
pub fn parse(text: &str) -> Result<Value, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let strict = serde_json::from_str(text);
    let value = strict.or_else(|error| match with_quoted_numbers(text) {
        Cow::Borrowed(_) => Err(error),
        // Quotes move what follows in its line; the place of another error is the one in the file.
        Cow::Owned(quoted) => serde_json::from_str(&quoted).map_err(|_| first_other_error(text).unwrap_or(error)),
    });
    value.map_err(|error| explained(&error, text))
}

/// The fields of an object without those that hold, at whatever depth, a number that JSON does not have: what is left can be
/// written as JSON again. Their names come second.
///
/// # Errors
/// As [`parse`], and for what is no object.
pub fn strict_fields(text: &str) -> Result<(Map<String, Value>, Vec<String>), String> {
    let Value::Object(fields) = parse(text)? else { return Err("is no JSON object".to_owned()) };
    let is_strict = serde_json::from_str::<serde::de::IgnoredAny>(text.trim_start_matches('\u{feff}')).is_ok();
    let (kept, left): (Vec<_>, Vec<_>) = fields.into_iter().partition(|(_, value)| is_strict || !holds_replaced(value));
    Ok((kept.into_iter().collect(), left.into_iter().map(|(name, _)| name).collect()))
}

fn holds_replaced(value: &Value) -> bool {
    match value {
        Value::String(text) => NOT_FINITE.contains(&text.as_str()) || text.parse::<f64>().is_ok_and(f64::is_infinite),
        Value::Array(values) => values.iter().any(holds_replaced),
        Value::Object(fields) => fields.values().any(holds_replaced),
        _ => false,
    }
}

/// The error that remains when each of the numbers above is replaced by digits of the same length.
fn first_other_error(text: &str) -> Option<serde_json::Error> {
    let digits = replaced(text, |number| "1".repeat(number.len()));
    serde_json::from_str::<serde::de::IgnoredAny>(&digits).err()
}

fn with_quoted_numbers(text: &str) -> Cow<'_, str> {
    replaced(text, |number| format!("\"{number}\""))
}

/// `text` with every number that JSON does not have, or that is beyond double precision, replaced. Strings stay as they are.
fn replaced(text: &str, by: impl Fn(&str) -> String) -> Cow<'_, str> {
    let mut out = String::new();
    let (mut copied, mut at) = (0, 0);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = end_of_string(bytes, at),
            b'-' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.' | b'_');
                let end = at + bytes[at..].iter().take_while(|byte| is_part(byte)).count();
                let word = &text[at..end];
                let is_number = word.starts_with(|c: char| c == '-' || c.is_ascii_digit());
                let is_beyond = is_number && word.parse::<f64>().is_ok_and(f64::is_infinite);
                if NOT_FINITE.contains(&word) || is_beyond {
                    out += &text[copied..at];
                    out += &by(word);
                    copied = end;
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out += &text[copied..];
    Cow::Owned(out)
}

/// Where a string that begins at `start` ends; the end of the text when it does not.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn explained(error: &serde_json::Error, text: &str) -> String {
    if text.trim().is_empty() {
        return "is empty".to_owned();
    }
    if text.trim_start().starts_with("version https://git-lfs") {
        return "is a git-lfs pointer, not the file: fetch it with `git lfs pull`".to_owned();
    }
    if text.trim_start().starts_with('<') {
        return "is no JSON: it begins with \"<\", as a web page does".to_owned();
    }
    let cut_off = if error.is_eof() { "; the file ends too early" } else { "" };
    format!("is no valid JSON: {error}{cut_off}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn numbers_as_python_writes_them() {
        let big = format!("1{}", "0".repeat(400));
        for (text, value) in [
            ("\u{feff}{\"a\": 1}", json!({"a": 1})),
            ("{\"a\": NaN, \"b\": [Infinity, -Infinity]}", json!({"a": "NaN", "b": ["Infinity", "-Infinity"]})),
            ("{\"NaN\": \"NaN, \\\" Infinity\", \"a\":NaN}", json!({"NaN": "NaN, \" Infinity", "a": "NaN"})),
            ("[1e999, -1e400, 1e-999]", json!(["1e999", "-1e400", 0.0])),
            (&format!("[{big}]"), json!([big])),
            ("{\"max\": 1000000000000000019884624838656}", json!({"max": 1e30})),
        ] {
            assert_eq!(parse(text).unwrap(), value, "{text}");
        }
    }

    #[test]
    fn what_is_no_json_can_be_left_out() {
        let (fields, left) = strict_fields(r#"{"a": NaN, "b": "NaN ", "c": [1, {"d": 1e999}], "e": 2}"#).unwrap();
        assert_eq!((Value::Object(fields), left), (json!({"b": "NaN ", "e": 2}), vec!["a".to_owned(), "c".to_owned()]));
        assert_eq!(strict_fields(r#"{"a": "NaN"}"#).unwrap().1.len(), 0);
        assert_eq!(strict_fields("[]").unwrap_err(), "is no JSON object");
    }

    #[test]
    fn says_where_and_what() {
        for (text, says) in [
            ("", "is empty"),
            (" \n", "is empty"),
            ("<!doctype html>", "is no JSON: it begins with \"<\""),
            ("version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
            ("{\"a\": 1", "the file ends too early"),
            ("{\"a\": nan}", "line 1 column 8"),
            ("{\"a\": NaN, b}", "line 1 column 12"),
            ("{\"a\": NaNs}", "line 1 column 7"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    proptest! {
        /// What is JSON is read as JSON, and everything else ends with a message.
        #[test]
        fn agrees_with_json(text in "[\\[\\]{}:, \"\\\\NaInfty0-9e.+-]{0,24}") {
            let text = text.replace("NN", "NaN").replace("II", "Infinity");
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                prop_assert_eq!(parse(&text).unwrap(), value);
            } else {
                let _ = parse(&text);
            }
        }

        /// Numbers are replaced outside strings only.
        #[test]
        fn strings_stay(text in ".{0,20}", key in "[a-z\"\\\\]{0,6}") {
            let with = |number: &str| format!("{{{}: [{}, {number}]}}", json!(key), json!(text));
            let value = json!({ (key.clone()): [text, "-Infinity"] });
            prop_assert_eq!(parse(&with("-Infinity")).unwrap(), value);
        }
    }
}
