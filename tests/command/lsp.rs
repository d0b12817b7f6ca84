//! `incoder lsp`: what editors send, and what they can use.

use crate::common::Model;
use crate::common::editor::Editor;
use crate::common::server::Server;
use serde_json::{Value, json};
use std::time::Instant;

const INLINE: &str = "textDocument/inlineCompletion";
const URI: &str = "file:///project/a.py";

fn neovim() -> Value {
    json!({
        "general": {"positionEncodings": ["utf-8", "utf-16", "utf-32"]},
        "textDocument": {"inlineCompletion": {"dynamicRegistration": false}},
        "window": {"workDoneProgress": true},
    })
}

/// An editor with the tiny model of its own.
fn editor(model: &Model, capabilities: Value) -> Editor {
    let mut editor = Editor::start(&["-m", model.path(), "-d", "cpu", "--temp", "0", "-n", "24", "--alone"]);
    editor.initialize(capabilities);
    editor.until_ready();
    editor
}

/// What the command makes for a hole, as far as an editor shows it.
fn filled(model: &Model, before: &str, after: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let [left, right] = [("left", before), ("right", after)].map(|(name, text)| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let args = ["--prefix-file", &left, "--suffix-file", &right, "--temp", "0", "-n", "24", "--json"];
    let text = model.run("infill", &args).json()["infills"][0]["text"].as_str().unwrap().to_owned();
    text.trim_end_matches('\n').to_owned()
}

#[test]
fn one_hole_has_the_text_that_the_command_prints() {
    let model = Model::tiny();
    let mut editor = editor(&model, neovim());
    let (before, after) = ("def area(w, h):\n    return ", "\n\n\nprint(area(2, 3))\n");
    let expected = filled(&model, before, after);
    assert!(!expected.trim().is_empty());
    // With both line ends, by bytes; what is inserted has `\n` alone.
    for (uri, text) in
        [("file:///a", format!("{before}{after}")), ("file:///b", format!("{before}{after}").replace('\n', "\r\n"))]
    {
        editor.open(uri, &text);
        let id = editor.ask_at(INLINE, uri, 1, 11);
        let item = editor.answer(id)["items"][0].clone();
        assert_eq!(item["insertText"], expected, "{uri}");
        let place = json!({"line": 1, "character": 11});
        assert_eq!(item["range"], json!({"start": place, "end": place}));
    }
}

#[test]
fn a_recorded_session_of_neovim_is_answered() {
    let model = Model::tiny();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases/clients/neovim-lsp.jsonl");
    let mut editor = Editor::start(&["-m", model.path(), "-d", "cpu", "--temp", "0", "-n", "24", "--alone"]);
    let mut suggestions = 0;
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let message: Value = serde_json::from_str(line).unwrap();
        let (method, mut params) = (message["method"].as_str().unwrap(), message["params"].clone());
        if message.get("id").is_none() {
            editor.notify(method, params);
            if method == "initialized" {
                editor.until_ready();
            }
            continue;
        }
        if method == "initialize" {
            // The recorded process has ended.
            params["processId"] = json!(std::process::id());
        }
        let id = editor.ask(method, params);
        let answer = editor.answer(id);
        if method == INLINE {
            suggestions += usize::from(answer["items"][0]["insertText"].is_string());
        }
    }
    assert!(suggestions > 0);
    assert_eq!(editor.end(), 0);
}

#[test]
fn positions_are_counted_as_agreed() {
    let model = Model::tiny();
    let text = "s = '😀漢'\nx = \n";
    let mut ranges = Vec::new();
    for (encodings, encoding, character) in
        [(json!(["utf-8", "utf-16"]), "utf-8", 12), (json!(["utf-16"]), "utf-16", 8), (Value::Null, "utf-16", 8)]
    {
        let mut editor = Editor::start(&["-m", model.path(), "-d", "cpu", "--temp", "0", "-n", "12", "--alone"]);
        let capabilities =
            json!({"general": {"positionEncodings": encodings}, "textDocument": {"inlineCompletion": {}}});
        let result = editor.initialize(capabilities);
        assert_eq!(result["capabilities"]["positionEncoding"], encoding);
        assert_eq!(result["capabilities"]["inlineCompletionProvider"], true);
        assert!(result["capabilities"].get("completionProvider").is_none());
        editor.until_ready();
        editor.open(URI, text);
        // Before the quote, which is text behind the cursor: one line, and nothing of what is there.
        let id = editor.ask_at(INLINE, URI, 0, character);
        let answer = editor.answer(id);
        if let Some(item) = answer["items"].get(0) {
            assert!(!item["insertText"].as_str().unwrap().contains('\n'));
            ranges.push((character, item["range"]["start"]["character"].as_u64().unwrap() as usize));
        }
        // Past the end of a line and of the text.
        for (line, character) in [(0, 99), (99, 0)] {
            let id = editor.ask_at(INLINE, URI, line, character);
            editor.answer(id);
        }
    }
    assert!(!ranges.is_empty() && ranges.iter().all(|(asked, given)| asked == given), "{ranges:?}");
}

#[test]
fn the_newest_request_of_a_document_wins() {
    let model = Model::tiny();
    let mut editor = editor(&model, neovim());
    // Long enough that the prompt is still being read when the next message comes.
    let lines: String = (0..400).map(|i| format!("value_{i} = table[{}]\n", i * 7 % 91)).collect();
    let line = 401;
    editor.open(URI, &format!("{lines}def area(w, h):\n    return \n"));
    // Three without an answer in between: at other places the older ones are stopped.
    let ids = [4, 11, 0].map(|character| editor.ask_at(INLINE, URI, line, character));
    assert_eq!([editor.answer(ids[0]), editor.answer(ids[1])], [Value::Null, Value::Null]);
    editor.notify("$/cancelRequest", json!({"id": ids[2]}));
    assert_eq!(editor.response(ids[2])["error"]["code"], -32800);
    // At the same place the text that is being made is taken over.
    let ids = [11, 11].map(|character| editor.ask_at(INLINE, URI, line, character));
    assert_eq!(editor.answer(ids[0]), Value::Null);
    let whole = editor.answer(ids[1])["items"][0]["insertText"].as_str().unwrap().to_owned();
    // Typing along goes on with it, at once; anything else does not.
    let (typed, rest) = whole.split_at(whole.char_indices().nth(2).unwrap().0);
    editor.type_at(URI, line, 11, typed);
    let start = Instant::now();
    let id = editor.ask_at(INLINE, URI, line, 11 + typed.len());
    assert_eq!(editor.answer(id)["items"][0]["insertText"], rest);
    let along = start.elapsed();
    editor.type_at(URI, line, 11 + typed.len(), "~");
    let start = Instant::now();
    let id = editor.ask_at(INLINE, URI, line, 12 + typed.len());
    editor.answer(id);
    assert!(along < start.elapsed(), "{along:?}");
}

#[test]
fn a_selected_completion_is_gone_on_from() {
    let model = Model::tiny();
    let mut editor = editor(&model, neovim());
    editor.open(URI, "import os\nos.pa\n");
    let range = json!({"start": {"line": 1, "character": 3}, "end": {"line": 1, "character": 5}});
    let id = editor.ask(
        INLINE,
        json!({
            "textDocument": {"uri": URI}, "position": {"line": 1, "character": 5},
            "context": {"triggerKind": 2, "selectedCompletionInfo": {"range": range, "text": "path"}},
        }),
    );
    let item = editor.answer(id)["items"][0].clone();
    assert_eq!(item["range"], range);
    assert!(item["insertText"].as_str().unwrap().starts_with("path"), "{item}");
}

#[test]
fn clients_without_inline_completion_get_an_item() {
    let model = Model::tiny();
    let mut editor = Editor::start(&["-m", model.path(), "-d", "cpu", "--temp", "0", "-n", "24", "--alone"]);
    let result = editor.initialize(json!({"textDocument": {"completion": {}}}));
    assert_eq!(result["capabilities"]["completionProvider"], json!({}));
    editor.until_ready();
    let (before, after) = ("def area(w, h):\n    re", "\n\nprint(area(2, 3))\n");
    editor.open(URI, &format!("{before}{after}"));
    let id = editor.ask_at("textDocument/completion", URI, 1, 6);
    let list = editor.answer(id);
    let item = &list["items"][0];
    let expected = filled(&model, before, after);
    assert_eq!((&list["isIncomplete"], &item["textEdit"]["newText"]), (&json!(true), &json!(expected)));
    let filter = item["filterText"].as_str().unwrap();
    assert!(filter.starts_with("re") && filter.len() > 2 && !filter.contains('\n'), "{item}");
    assert_eq!(item["textEdit"]["range"]["start"], json!({"line": 1, "character": 6}));
    assert_eq!((&item["insertTextFormat"], &item["insertTextMode"]), (&json!(1), &json!(1)));
}

#[test]
fn it_answers_before_the_model_is_there_and_ends_as_asked() {
    let mut editor = Editor::start(&["-d", "cpu", "--alone"]);
    let id = editor.ask("textDocument/hover", json!({}));
    assert_eq!(editor.response(id)["error"]["code"], -32002);
    editor.initialize(neovim());
    editor.open(URI, "x = \n");
    let id = editor.ask_at(INLINE, URI, 0, 4);
    editor.answer(id);
    for (method, code) in [("textDocument/hover", -32601), ("$/unknown", -32601)] {
        let id = editor.ask(method, json!({}));
        assert_eq!(editor.response(id)["error"]["code"], code, "{method}");
    }
    let id = editor.ask(INLINE, json!({"textDocument": 1}));
    assert_eq!(editor.response(id)["error"]["code"], -32602);
    editor.notify("$/unknown", json!({}));
    editor.until_ready();
    let kinds: Vec<&Value> = editor
        .told
        .iter()
        .filter(|message| message["method"] == "$/progress")
        .map(|message| &message["params"]["value"]["kind"])
        .collect();
    assert_eq!(kinds, ["begin", "end"]);
    let id = editor.ask("shutdown", Value::Null);
    assert_eq!(editor.answer(id), Value::Null);
    editor.notify("exit", Value::Null);
    assert_eq!(editor.end(), 0);
    // Without goodbye.
    let mut editor = Editor::start(&["-d", "cpu", "--alone"]);
    editor.initialize(neovim());
    editor.notify("exit", Value::Null);
    assert_eq!(editor.end(), 1);
    assert_eq!(Editor::start(&["-d", "cpu"]).end(), 1);
}

#[test]
fn a_server_that_has_the_model_is_used() {
    let model = Model::tiny();
    let server = Server::start(&["-m", model.path(), "-d", "cpu", "--temp", "0"]);
    server.until("loaded", |server| server.get("/health").status == 200);
    let address = server.address.to_string();
    // A model that would fail to load is never touched.
    let mut editor = Editor::start(&["-m", "/no/such/model", "--server", &address, "--temp", "0", "-n", "24"]);
    editor.initialize(neovim());
    editor.until_ready();
    let (before, after) = ("def area(w, h):\n    return ", "\n\n\nprint(area(2, 3))\n");
    editor.open(URI, &format!("{before}{after}"));
    let id = editor.ask_at(INLINE, URI, 1, 11);
    assert_eq!(editor.answer(id)["items"][0]["insertText"], filled(&model, before, after));
    assert_eq!(server.metric("n_requests_total"), 1.0);
    // When the server is gone, another one is looked for, and then the model is loaded after all.
    drop(server);
    let id = editor.ask_at(INLINE, URI, 0, 0);
    assert_eq!(editor.answer(id), Value::Null);
    let failed = editor.until_told("window/logMessage", "/no/such/model");
    assert_eq!(failed["params"]["type"], 1);
}
