//! A stranger's config.json.
#![no_main]

use incoder::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Config::from_json(text);
});
