//! What a stranger's editor sends: frames are read or refused, and any change of any document leaves a text whose positions are
//! those of its bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lsp_server::Message;

#[path = "../../../native/src/lsp/text.rs"]
#[allow(dead_code)]
mod text;

use text::{Change, Encoding, apply, line_before, offset, position, rest_of_line};

fuzz_target!(|data: (&[u8], String, Vec<([usize; 4], String)>)| {
    let (mut frames, mut document, changes) = data;
    while let Ok(Some(message)) = Message::read(&mut frames) {
        if let Message::Notification(note) = message {
            let changes = serde_json::from_value::<Vec<Change>>(note.params["contentChanges"].clone());
            changes.iter().flatten().for_each(|change| check(&mut document, change));
        }
    }
    for ([line, character, other_line, other], text) in changes {
        let start = text::Position { line, character };
        let range = Some(text::Range { start, end: text::Position { line: other_line, character: other } });
        check(&mut document, &Change { range, text });
    }
});

fn check(document: &mut String, change: &Change) {
    for encoding in [Encoding::Utf8, Encoding::Utf16] {
        let mut text = document.clone();
        let length = text.len();
        let replaced = apply(&mut text, change, encoding);
        assert_eq!(text.len(), length - replaced.len() + change.text.len());
        let end = replaced.start + change.text.len();
        let at = position(&text, end, encoding);
        // Between the two characters of a line break there is no position.
        if !text[..end].ends_with('\r') || !text[end..].starts_with('\n') {
            assert_eq!(offset(&text, at, encoding), end);
        }
        let _ = (rest_of_line(&text, end), line_before(&text, end));
        *document = text;
    }
}
