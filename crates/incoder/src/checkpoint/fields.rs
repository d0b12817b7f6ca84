//! The fields of config.json, checked as they are read.

use super::json;
use crate::error::{Error, Result};
use crate::quantize::Quantization;
use serde_json::{Map, Value};

/// The fields of config.json. One that is null is as one that is not there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(pub &'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// A field that is there, and not null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A size from 1 to `max`, under either of its `names`: the second is the one that all of transformers' models share.
    pub fn size(&self, names: [&str; 2], default: Option<usize>, max: u64) -> Result<usize> {
        let mut found = None;
        for name in names {
            let Some(value) = self.get(name) else { continue };
            match whole(value) {
                Some(size) if (1..=max as i64).contains(&size) => {
                    if let Some(before) = found.filter(|&before| before != size as usize) {
                        let [first, second] = names;
                        return problem(format!("{first} is {before} and {second} is {size}: they must be the same"));
                    }
                    found = Some(size as usize);
                }
                _ => return problem(format!("{name} is {}, expected a whole number from 1 to {max}", shown(value))),
            }
        }
        match found.or(default) {
            Some(size) => Ok(size),
            None => problem(format!("{} is missing", names[0])),
        }
    }

    /// A flag, or `default` where there is none.
    pub fn flag_or(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => problem(format!("{name} is {}, expected true or false", shown(other))),
        }
    }

    /// A finite number.
    pub fn number(&self, name: &str) -> Result<Option<f64>> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => match value.as_f64().filter(|number| number.is_finite()) {
                Some(number) => Ok(Some(number)),
                None => problem(format!("{name} is {}, expected a number", shown(value))),
            },
        }
    }

    /// A number above 0 that has to be there.
    pub fn positive(&self, name: &str) -> Result<f64> {
        match self.number(name)? {
            Some(number) if number > 0.0 => Ok(number),
            Some(number) => problem(format!("{name} is {number}, expected a number above 0")),
            None => problem(format!("{name} is missing")),
        }
    }

    /// A text.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => problem(format!("{name} is {}, expected a text", shown(other))),
        }
    }

    /// A list, of which `each` takes a value; `what` says what they have to be.
    pub fn list<T>(&self, name: &str, what: &str, each: impl Fn(&'a Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        match self.get(name).map(|value| value.as_array().and_then(|list| list.iter().map(each).collect())) {
            None => Ok(None),
            Some(Some(list)) => Ok(Some(list)),
            Some(None) => problem(format!("{name} is not a list of {what}")),
        }
    }

    /// An object.
    pub fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(fields)),
            Some(other) => problem(format!("{name} is {}, expected an object", shown(other))),
        }
    }

    /// How the matrices are quantized; `None` where they are plain numbers.
    pub fn quantization(&self) -> Result<Option<Quantization>> {
        self.get("quantization_config").map(Quantization::from_config).transpose()
    }

    /// The tokens that end a text, where config.json says.
    pub fn eos_token_ids(&self) -> Result<Option<Vec<u32>>> {
        self.token_ids("eos_token_id").map_err(|problem| Error::Config { problem })
    }

    /// One id, several, or none: a number, a list, or null. Negative numbers are no ids. `None` when there is no such field.
    pub fn token_ids(&self, name: &str) -> std::result::Result<Option<Vec<u32>>, String> {
        let id = |value: &Value| match whole(value) {
            Some(id) if id < 0 => Ok(None),
            Some(id) if id <= i64::from(u32::MAX) => Ok(Some(id as u32)),
            _ => Err(format!("{name} is {}, expected a token id or a list of them", shown(value))),
        };
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(Vec::new())),
            Some(Value::Array(all)) => {
                all.iter().filter_map(|value| id(value).transpose()).collect::<std::result::Result<_, _>>().map(Some)
            }
            Some(one) => Ok(Some(id(one)?.into_iter().collect())),
        }
    }
}

/// A whole number, also where it is written as 64.0.
fn whole(value: &Value) -> Option<i64> {
    let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(whole))
}

/// A value as config.json spells it, shortened.
pub(crate) fn shown(value: &Value) -> String {
    const MOST: usize = 60;
    let text = match value {
        Value::String(text) if json::NOT_FINITE.contains(&text.as_str()) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() <= MOST { text } else { text.chars().take(MOST).chain(['…']).collect() }
}

pub(crate) fn unsupported<T>(what: String) -> Result<T> {
    Err(Error::Unsupported { what })
}

fn problem<T>(problem: String) -> Result<T> {
    Err(Error::Config { problem })
}
