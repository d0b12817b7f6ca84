//! What the user hands in: prompt texts from an argument, a file or stdin, token ids, parts.json.

use crate::failure::{Failure, Result};
use crate::files;
use crate::text::Text;
use std::path::Path;

/// The text of a file, or of stdin where the path is `-`, with its byte-order mark apart. What is not UTF-8 is refused: the
/// model's tokens are text.
pub fn read(path: &Path) -> Result<Text> {
    let name = name_of(path);
    let bytes = match is_stdin(path) {
        true => files::to_end(std::io::stdin().lock(), &name)?,
        false => files::read(path, &name)?,
    };
    Text::read(bytes, &name)
}

/// The same, for a text whose file is not written again: without the mark.
pub fn read_text(path: &Path) -> Result<String> {
    Ok(read(path)?.body)
}

pub fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// What to call a file in a message.
pub fn name_of(path: &Path) -> String {
    if is_stdin(path) { "stdin".into() } else { path.display().to_string() }
}

/// parts.json: an array of strings, or an object that has one under "parts" (as `incoder infill --json` prints).
pub fn read_parts(path: &Path) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum File {
        Parts(Vec<String>),
        Object { parts: Vec<String> },
    }
    let text = read_text(path)?;
    let problem = |what: String| Failure::usage(format!("{}: {what}", name_of(path)));
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| problem(format!("wrong JSON: {e}")))?;
    let parts = match serde_json::from_value(value) {
        Ok(File::Parts(parts) | File::Object { parts }) => parts,
        Err(_) => return Err(problem("expected a JSON array of strings".into())),
    };
    if parts.is_empty() {
        return Err(problem("the array of parts is empty".into()));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_as_array_or_object() {
        let file = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            read_parts(file.path()).map_err(|e| e.to_string().rsplit_once(": ").unwrap().1.to_owned())
        };
        assert_eq!(file(r#"["a", "\r\n"]"#).unwrap(), ["a", "\r\n"]);
        assert_eq!(file(r#"{"text": "ab", "parts": ["a", "b"]}"#).unwrap(), ["a", "b"]);
        assert_eq!(file("[]").unwrap_err(), "the array of parts is empty");
        assert_eq!(file("[1]").unwrap_err(), "expected a JSON array of strings");
        assert!(file("[").unwrap_err().contains("EOF"));
    }
}
