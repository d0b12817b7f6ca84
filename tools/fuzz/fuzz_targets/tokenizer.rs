//! A stranger's tokenizer.json, and what it makes of a text.
#![no_main]

use incoder::{Sentinels, Tokenizer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(tokenizer) = Tokenizer::from_json(text) {
        if let Ok(ids) = tokenizer.encode("def f(x):\n    return <|mask:0|>", Sentinels::Parse) {
            let _ = tokenizer.decode(&ids, false);
        }
    }
});
