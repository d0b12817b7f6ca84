//! How a text for the cursor is put into an answer, in the form that the client asked for.

use super::suggestion::{Suggestion, suggestion};
use super::text::{Change, Encoding, Range, apply, line_before, position};
use serde_json::{Value, json};

/// `CompletionItemKind.Text`.
const KIND_TEXT: u32 = 1;
/// `InsertTextFormat.PlainText`.
const PLAIN_TEXT: u32 = 1;
/// `InsertTextMode.asIs`: the client inserts the text as it is.
const AS_IS: u32 = 1;
/// `InsertTextMode.adjustIndentation`: the client puts the indentation of the cursor's line in front of every further line.
const ADJUST_INDENTATION: u32 = 2;

/// What a request is answered with.
#[derive(Debug, Clone)]
pub enum Form {
    Inline,
    /// What a completion list has selected: the suggestion goes on from it.
    Selected {
        range: Range,
        text: String,
    },
    /// `textDocument/completion`, of clients that know no other.
    Item,
}

/// What of the answers depends on the client.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    pub encoding: Encoding,
    /// Whether the client indents the lines of a completion item itself, and cannot be told not to.
    pub indents_items: bool,
}

impl Style {
    /// The style of a client with these capabilities, which offers positions in this encoding.
    pub fn new(capabilities: &Value, encoding: Encoding) -> Self {
        let modes = &capabilities["textDocument"]["completion"]["completionItem"]["insertTextModeSupport"]["valueSet"];
        let knows = |mode: u32| modes.as_array().is_some_and(|all| all.iter().any(|known| known == mode));
        Self { encoding, indents_items: knows(ADJUST_INDENTATION) && !knows(AS_IS) }
    }
}

/// What is answered when `made` is the text at byte `cursor` of `document`.
pub fn answer(document: &str, cursor: usize, made: &str, form: &Form, style: Style) -> Value {
    match form {
        Form::Inline => inline(document, cursor, made, style),
        Form::Selected { range, text } => selected(document, made, *range, text, style),
        Form::Item => item(document, cursor, made, style),
    }
}

fn inline(document: &str, cursor: usize, made: &str, style: Style) -> Value {
    let Some(Suggestion { text, replaces }) = suggestion(document, cursor, made) else { return Value::Null };
    let at = |byte| position(document, byte, style.encoding);
    let range = Range { start: at(cursor), end: at(cursor + replaces) };
    json!({ "items": [{ "insertText": text, "range": range }] })
}

/// Suggests what follows the selected text, once that stands in the document.
fn selected(document: &str, made: &str, range: Range, chosen: &str, style: Style) -> Value {
    let mut document = document.to_owned();
    let change = Change { range: Some(range), text: chosen.to_owned() };
    let replaced = apply(&mut document, &change, style.encoding);
    match suggestion(&document, replaced.start + chosen.len(), made) {
        Some(Suggestion { text, .. }) => {
            json!({ "items": [{ "insertText": format!("{chosen}{text}"), "range": range }] })
        }
        None => Value::Null,
    }
}

fn item(document: &str, cursor: usize, made: &str, style: Style) -> Value {
    let Some(Suggestion { text, .. }) = suggestion(document, cursor, made) else {
        return json!({ "isIncomplete": true, "items": [] });
    };
    let line = line_before(document, cursor);
    let begins = |&(_, c): &(usize, char)| !c.is_alphanumeric() && c != '_';
    let word = line.char_indices().rev().find(begins).map_or(line, |(at, c)| &line[at + c.len_utf8()..]);
    let first = text.lines().next().unwrap_or_default();
    let (label, filter) = (text.trim().lines().next().unwrap_or_default().to_owned(), format!("{word}{first}"));
    let (mode, text) = match style.indents_items {
        true => (ADJUST_INDENTATION, without_indentation(&text, line)),
        false => (AS_IS, text),
    };
    let at = position(document, cursor, style.encoding);
    let item = json!({
        "label": label,
        "kind": KIND_TEXT,
        "filterText": filter,
        "insertTextFormat": PLAIN_TEXT,
        "insertTextMode": mode,
        "textEdit": { "range": Range { start: at, end: at }, "newText": text },
        "preselect": false,
        // Behind what other servers know for certain.
        "sortText": "\u{10ffff}",
    });
    json!({ "isIncomplete": true, "items": [item] })
}

/// A text whose further lines lack the indentation of the line in which it is inserted.
fn without_indentation(text: &str, line: &str) -> String {
    let indentation = &line[..line.len() - line.trim_start().len()];
    let lines = text.split('\n').enumerate();
    let lines = lines.map(|(i, line)| if i == 0 { line } else { line.strip_prefix(indentation).unwrap_or(line) });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsp::text::Position;

    fn style(modes: &Value) -> Style {
        let completion = json!({ "completionItem": { "insertTextModeSupport": { "valueSet": modes } } });
        Style::new(&json!({ "textDocument": { "completion": completion } }), Encoding::Utf8)
    }

    #[test]
    fn clients_that_indent_get_lines_without_indentation() {
        let document = "def f():\n    x = \n";
        for (modes, mode, text) in [
            (json!([1, 2]), 1, "[\n        1,\n    ]"),
            (json!(null), 1, "[\n        1,\n    ]"),
            (json!([2]), 2, "[\n    1,\n]"),
        ] {
            let item = &answer(document, 17, "[\n        1,\n    ]\n", &Form::Item, style(&modes))["items"][0];
            assert_eq!(
                (&item["insertTextMode"], &item["textEdit"]["newText"]),
                (&json!(mode), &json!(text)),
                "{modes}"
            );
            assert_eq!((&item["label"], &item["filterText"]), (&json!("["), &json!("[")));
        }
    }

    #[test]
    fn what_follows_a_selected_text_is_suggested() {
        let at = |character| Position { line: 0, character };
        let form = Form::Selected { range: Range { start: at(3), end: at(5) }, text: "path".into() };
        let answer = |document, made| answer(document, 5, made, &form, Style::default());
        assert_eq!(answer("os.pa\n", ".join(a)\n")["items"][0]["insertText"], "path.join(a)");
        // Within a line there is room for one, without what stands there already.
        assert_eq!(answer("os.pa)\n", ".sep)\nx")["items"][0]["insertText"], "path.sep");
        assert_eq!(answer("os.pa\n", "\n"), Value::Null);
    }
}
