//! A stranger's prompt: the hole that it describes is made of its own parts, in one of the known orders.
#![no_main]

use incoder::template;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|prompt: &str| {
    if let Some(hole) = template::hole(prompt) {
        let within = |text: &str| prompt.as_bytes().as_ptr_range().contains(&text.as_ptr()) || text.is_empty();
        assert!([hole.context, hole.before, hole.after].iter().all(|text| within(text)));
        let markers = prompt.len() - hole.context.len() - hole.before.len() - hole.after.len();
        assert!((15..=64).contains(&markers), "{markers} bytes of markers");
    }
});
