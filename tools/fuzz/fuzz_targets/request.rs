//! The body of a stranger's request: read or refused, and what is read is in its range.
#![no_main]

use libfuzzer_sys::fuzz_target;

/// In place of the server's own, which knows HTTP.
mod problem {
    #[derive(Debug)]
    pub struct Problem {
        pub message: String,
    }

    impl Problem {
        pub fn request(message: impl Into<String>) -> Self {
            Self { message: message.into() }
        }
    }
}

#[path = "../../../native/src/serve/request.rs"]
mod request;

/// Fields of all dialects.
const NAMES: [&str; 8] = ["prompt", "suffix", "input_prefix", "n_predict", "temperature", "stop", "options", "stream"];

fuzz_target!(|body: &[u8]| {
    let fields = match request::Fields::read(body) {
        Ok(fields) => fields,
        Err(problem) => return assert!(!problem.message.is_empty()),
    };
    for name in NAMES {
        let _ = (fields.text(name), fields.required_text(name), fields.flag(name), fields.whole(&[name, "n"]));
        if let Ok(Some(number)) = fields.real(name) {
            assert!(number.is_finite());
        }
        if let Ok(Some(number)) = fields.within(&[name], 1, 8) {
            assert!((1..=8).contains(&number));
        }
        if let Ok(texts) = fields.stop_texts(name) {
            assert!(texts.len() <= 64 && texts.iter().all(|text| !text.is_empty() && text.len() <= 1024));
        }
        if let Ok(inner) = fields.object(name) {
            let _ = inner.real("temperature");
        }
        if let Some(serde_json::Value::Array(values)) = fields.get(name) {
            assert!(request::ids(values).is_err() || values.iter().all(|value| value.is_u64()));
        }
    }
});
