//! The body of a request: read leniently, as the servers do whose dialects these are.
//!
//! A null is as none, unknown fields are ignored, and a number that is out of its range is brought into it, unless that would
//! change what is asked for.

use super::problem::Problem;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// Stop texts of a request; Continue sends up to 12.
const MAX_STOP_TEXTS: usize = 64;
/// In bytes.
const MAX_STOP_TEXT: usize = 1024;

/// The fields of a JSON object.
#[derive(Debug, Clone, Default)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a body. It is to be JSON, whatever its Content-Type says: Ollama's documented commands send none of their own.
    pub fn read(body: &[u8]) -> Result<Self, Problem> {
        let value = serde_json::from_slice(body).or_else(|error| {
            // Editors send text as it is, with half a surrogate pair or half a character in it.
            let mended = mend_surrogates(&String::from_utf8_lossy(body)).into_owned();
            serde_json::from_str(&mended).map_err(|_| Problem::request(format!("the body is not JSON: {error}")))
        })?;
        match value {
            Value::Object(fields) => Ok(Self(fields)),
            other => Err(Problem::request(format!("the body is {}, expected an object", kind(&other)))),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// What is there and not null.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn wrong(name: &str, value: &Value, expected: &str) -> Problem {
        Problem::request(format!("Field '{name}': expected {expected}, got {}", kind(value)))
    }

    pub fn text(&self, name: &str) -> Result<Option<String>, Problem> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(Self::wrong(name, other, "a string")),
        }
    }

    pub fn required_text(&self, name: &str) -> Result<String, Problem> {
        self.text(name)?.ok_or_else(|| Problem::request(format!("Field '{name}' is required")))
    }

    pub fn flag(&self, name: &str) -> Result<Option<bool>, Problem> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(Self::wrong(name, other, "true or false")),
        }
    }

    /// A finite number.
    pub fn real(&self, name: &str) -> Result<Option<f64>, Problem> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => match value.as_f64().filter(|number| number.is_finite()) {
                Some(number) => Ok(Some(number)),
                None => Err(Self::wrong(name, value, "a number")),
            },
        }
    }

    /// A whole number, by the first of these names that is there.
    pub fn whole(&self, names: &[&str]) -> Result<Option<i64>, Problem> {
        for name in names {
            if let Some(value) = self.get(name) {
                // Beyond the range of an i64 it is cut to that.
                let whole = value.as_i64().or_else(|| Some(value.as_f64().filter(|n| n.fract() == 0.0)? as i64));
                return whole.map(Some).ok_or_else(|| Self::wrong(name, value, "a whole number"));
            }
        }
        Ok(None)
    }

    /// A whole number that is refused outside `least..=most`.
    pub fn within(&self, names: &[&str], least: usize, most: usize) -> Result<Option<usize>, Problem> {
        let Some(number) = self.whole(names)? else { return Ok(None) };
        match usize::try_from(number) {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => {
                let name = names.iter().find(|name| self.has(name)).unwrap_or(&"");
                Err(Problem::request(format!(
                    "Field '{name}': Value must be between {least} <= value <= {most}, but got {number}"
                )))
            }
        }
    }

    /// One text or several; empty ones are left out.
    pub fn stop_texts(&self, name: &str) -> Result<Vec<String>, Problem> {
        let texts: Vec<String> = match self.get(name) {
            None => Vec::new(),
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(values)) => {
                let text = |value: &Value| match value {
                    Value::String(text) => Ok(text.clone()),
                    other => Err(Self::wrong(name, other, "strings")),
                };
                values.iter().map(text).collect::<Result<_, _>>()?
            }
            Some(other) => return Err(Self::wrong(name, other, "a string or an array of strings")),
        };
        if texts.len() > MAX_STOP_TEXTS || texts.iter().any(|text| text.len() > MAX_STOP_TEXT) {
            return Err(Problem::request(format!(
                "Field '{name}': at most {MAX_STOP_TEXTS} texts of {MAX_STOP_TEXT} bytes are possible"
            )));
        }
        Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
    }

    /// The fields of an object within this one; none where it is left out.
    pub fn object(&self, name: &str) -> Result<Self, Problem> {
        match self.get(name) {
            None => Ok(Self::default()),
            Some(Value::Object(fields)) => Ok(Self(fields.clone())),
            Some(other) => Err(Self::wrong(name, other, "an object")),
        }
    }
}

/// What kind of value it is; never the value itself, which may be a text of the user's.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Token ids.
pub fn ids(values: &[Value]) -> Result<Vec<u32>, Problem> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids: Option<Vec<u32>> = values.iter().map(id).collect();
    ids.ok_or_else(|| Problem::request("an array of token ids holds something else"))
}

/// JSON with U+FFFD for escapes of half a surrogate pair, which JavaScript writes and no text holds.
fn mend_surrogates(json: &str) -> Cow<'_, str> {
    let mut mended = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = json[at..].find('\\') {
        at += found;
        let (high, low) = (unit(&json[at..]), json.get(at + 6..).and_then(unit));
        let skip = match (high, low) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => {
                mended += &json[copied..at];
                mended += "\\ufffd";
                copied = at + 6;
                6
            }
            // The character after a backslash is no backslash of its own.
            _ => 1 + json[at + 1..].chars().next().map_or(0, char::len_utf8),
        };
        at += skip;
    }
    if copied == 0 {
        return json.into();
    }
    mended += &json[copied..];
    mended.into()
}

/// The UTF-16 unit of the escape that `text` begins with, such as `\u20ac`.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(json: &str) -> Fields {
        Fields::read(json.as_bytes()).unwrap()
    }

    #[test]
    fn reads_leniently() {
        let it = fields(r#"{"a":null,"s":"x","n":128.0,"big":1e300,"neg":-5,"t":[ "", "x"],"b":true,"o":{"p":1}}"#);
        assert_eq!((it.text("a"), it.text("s"), it.text("none")), (Ok(None), Ok(Some("x".into())), Ok(None)));
        assert_eq!((it.whole(&["a", "n"]), it.whole(&["big"])), (Ok(Some(128)), Ok(Some(i64::MAX))));
        assert_eq!((it.real("neg"), it.flag("b")), (Ok(Some(-5.0)), Ok(Some(true))));
        assert_eq!((it.stop_texts("t"), it.stop_texts("s")), (Ok(vec!["x".into()]), Ok(vec!["x".into()])));
        assert_eq!(it.object("o").unwrap().whole(&["p"]), Ok(Some(1)));
        assert!(!it.object("none").unwrap().has("p"));
        for wrong in [it.text("n").err(), it.flag("s").err(), it.real("s").err(), it.object("s").err()] {
            assert!(wrong.unwrap().message.starts_with("Field '"));
        }
        assert!(it.whole(&["s"]).is_err() && it.stop_texts("o").is_err());
        let refused = fields(r#"{"n_cmpl":9}"#).within(&["n_cmpl"], 1, 8).unwrap_err();
        assert_eq!(refused.message, "Field 'n_cmpl': Value must be between 1 <= value <= 8, but got 9");
    }

    #[test]
    fn half_characters_are_no_error() {
        for (json, text) in [
            (&br#"{"p":"\ud800"}"#[..], "\u{fffd}"),
            (br#"{"p":"\udc00a\ud800"}"#, "\u{fffd}a\u{fffd}"),
            (br#"{"p":"\ud83d\ude00"}"#, "😀"),
            (br#"{"p":"\ud800\ud83d\ude00\\ud800"}"#, "\u{fffd}😀\\ud800"),
            (br#"{"p":"\ud800\n\u0000"}"#, "\u{fffd}\n\0"),
            (b"{\"p\":\"\xff\"}", "\u{fffd}"),
        ] {
            assert_eq!(Fields::read(json).unwrap().text("p"), Ok(Some(text.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_json_object_is_refused() {
        for body in ["", "{", "[]", "1", "\"\\ud800\"", &"[".repeat(1000), &"{\"a\":".repeat(1000)] {
            assert!(Fields::read(body.as_bytes()).is_err(), "{body}");
        }
    }

    proptest! {
        #[test]
        fn mending_leaves_valid_json_alone(text in ".{0,20}") {
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(mend_surrogates(&json), json.as_str());
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Fields::read(&body);
        }

        #[test]
        fn escapes_are_mended(text in "(\\\\u(d[89a-f][0-9a-f]{2}|00[0-9a-f]{2})|\\\\\\\\|a|é){0,8}") {
            let body = format!("{{\"p\":\"{text}\"}}");
            prop_assert!(Fields::read(body.as_bytes()).is_ok(), "{body}");
        }
    }
}
