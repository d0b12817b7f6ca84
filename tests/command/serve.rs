//! `incoder serve`: what each dialect's clients send, and what they read.

use crate::common::Model;
use crate::common::server::{Reply, Server};
use serde_json::{Value, json};
use std::path::Path;

const BEFORE: &str = "def area(w, h):\n    \"\"\"Of a rectangle.\"\"\"\n    return ";
const AFTER: &str = "\n\n\nprint(area(2, 3))\n";
const NEW_TOKENS: usize = 24;

fn server(model: &Model) -> Server {
    Server::start(&["-m", model.path(), "-d", "cpu", "--temp", "0"])
}

/// What the command prints for a hole.
fn filled(model: &Model, before: &str, after: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let [left, right] = [("left", before), ("right", after)].map(|(name, text)| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let n = NEW_TOKENS.to_string();
    let args = ["--prefix-file", &left, "--suffix-file", &right, "--temp", "0", "-n", &n, "--json"];
    model.run("infill", &args).json()["infills"][0]["text"].as_str().unwrap().to_owned()
}

/// How another model is asked to fill the hole.
fn templates(before: &str, after: &str) -> Vec<String> {
    vec![
        format!("<fim_prefix>{before}<fim_suffix>{after}<fim_middle>"),
        format!("# b.py\nx = 1\n<|fim_prefix|>{before}<|fim_suffix|>{after}<|fim_middle|>"),
        format!("<PRE> {before} <SUF>{after} <MID>"),
        format!("<｜fim▁begin｜>{before}<｜fim▁hole｜>{after}<｜fim▁end｜>"),
        format!("[SUFFIX]{after}[PREFIX]{before}"),
        format!("<|code_prefix|>{before}<|code_suffix|>{after}<|code_middle|>"),
        format!("<[fim-prefix]>{before}<[fim-suffix]>{after}<[fim-middle]>"),
        format!("{before}<|mask:0|>{after}<|mask:1|><|mask:0|>"),
    ]
}

/// Every way to ask for the text of one hole: a path, a body, and where the text is in the answer and in what is streamed.
fn ways(before: &str, after: &str) -> Vec<(&'static str, Value, &'static str, Option<&'static str>)> {
    let n = NEW_TOKENS;
    let (lines, cursor) = before.split_at(before.rfind('\n').map_or(0, |at| at + 1));
    let text = "/choices/0/text";
    let mut ways = vec![
        (
            "/infill",
            json!({"input_prefix": lines, "prompt": cursor, "input_suffix": after, "n_predict": n}),
            "/content",
            Some("/content"),
        ),
        ("/v1/completions", json!({"prompt": before, "suffix": after, "max_tokens": n}), text, Some(text)),
        ("/completions", json!({"prompt": before, "suffix": after, "max_tokens": n}), text, Some(text)),
        ("/beta/completions", json!({"prompt": before, "suffix": after, "max_tokens": n}), text, Some(text)),
        (
            "/v1/fim/completions",
            json!({"prompt": before, "suffix": after, "max_tokens": n}),
            "/choices/0/message/content",
            Some("/choices/0/delta/content"),
        ),
        (
            "/v1/completions",
            json!({"language": "python", "segments": {"prefix": before, "suffix": after}, "max_tokens": n}),
            text,
            None,
        ),
        (
            "/api/generate",
            json!({"model": "m", "prompt": before, "suffix": after, "options": {"num_predict": n}}),
            "/response",
            Some("/response"),
        ),
    ];
    for prompt in templates(before, after) {
        ways.push(("/completion", json!({"prompt": prompt, "n_predict": n}), "/content", Some("/content")));
        ways.push(("/v1/completions", json!({"prompt": prompt, "max_tokens": n}), text, Some(text)));
        let raw = json!({"model": "m", "raw": true, "prompt": prompt, "options": {"num_predict": n}});
        ways.push(("/api/generate", raw, "/response", Some("/response")));
        let inputs = json!({"inputs": prompt, "parameters": {"max_new_tokens": n, "return_full_text": false}});
        ways.push(("/generate", inputs, "/generated_text", None));
    }
    ways
}

/// The texts of a stream, one after the other.
fn streamed(path: &str, reply: &Reply, pointer: &str) -> String {
    let data = match path {
        "/api/generate" => {
            assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/x-ndjson")));
            reply.body.lines().map(String::from).collect()
        }
        _ => reply.events(),
    };
    let (last, chunks) = data.split_last().expect("chunks");
    // Only OpenAI's streams end in a word: others' clients read every event as JSON.
    assert_eq!(last == "[DONE]", path.contains("completions"), "{path}: {last}");
    let objects = chunks.iter().chain(Some(last).filter(|last| *last != "[DONE]"));
    let objects = objects.map(|data| serde_json::from_str::<Value>(data).unwrap_or_else(|e| panic!("{e}: {data}")));
    let text = |object: Value| object.pointer(pointer).and_then(|text| Some(text.as_str()?.to_owned()));
    objects.map(|object| text(object.clone()).unwrap_or_else(|| panic!("no text: {object}"))).collect()
}

#[test]
fn one_greedy_hole_has_one_text_in_every_dialect() {
    let model = Model::tiny();
    let server = server(&model);
    for (before, after) in [(BEFORE, AFTER), ("x = [1, 2]\n", "\ny = x\n"), ("# é 漢 😀\nprint('", "')\n")] {
        let expected = filled(&model, before, after);
        assert!(!expected.is_empty());
        for (path, mut body, pointer, in_stream) in ways(before, after) {
            body["stream"] = json!(false);
            let reply = server.post(path, &body).ok();
            assert_eq!(reply.pointer(pointer), Some(&json!(expected)), "{path} {body}\n{reply}");
            if let Some(pointer) = in_stream {
                body["stream"] = json!(true);
                assert_eq!(streamed(path, &server.post(path, &body), pointer), expected, "{path} {body}");
            }
        }
    }
}

#[test]
fn a_prompt_without_a_hole_is_continued_as_the_command_does() {
    let model = Model::tiny();
    let server = server(&model);
    let generated = model.run("generate", &["-p", BEFORE, "--temp", "0", "-n", "24", "--json"]).json();
    let text = &generated["text"];
    for (path, body, pointer) in [
        ("/completion", json!({"prompt": BEFORE, "n_predict": 24}), "/content"),
        ("/completions", json!({"prompt": BEFORE, "n_predict": 24}), "/content"),
        ("/v1/completions", json!({"prompt": BEFORE, "max_tokens": 24, "suffix": null}), "/choices/0/text"),
        (
            "/api/generate",
            json!({"prompt": BEFORE, "stream": false, "suffix": "", "options": {"num_predict": 24}}),
            "/response",
        ),
        ("/generate", json!({"inputs": BEFORE, "parameters": {"max_new_tokens": 24}}), "/generated_text"),
    ] {
        let reply = server.post(path, &body).ok();
        assert_eq!(reply.pointer(pointer), Some(text), "{path}: {reply}");
    }
    // Several prompts, as texts and as tokens.
    let ids = server.post("/tokenize", &json!({"content": BEFORE, "add_special": true})).ok()["tokens"].clone();
    let both = server.post("/v1/completions", &json!({"prompt": [BEFORE, "a"], "max_tokens": 24, "n": 2})).ok();
    let choices = both["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(choices[0]["text"] == *text && choices[1]["text"] == *text && choices[2]["text"] != *text);
    let spelled = format!("<|endoftext|>{BEFORE}");
    assert_eq!(server.post("/detokenize", &json!({"tokens": ids})).ok()["content"], spelled);
    let echoed = server.post("/v1/completions", &json!({"prompt": ids, "max_tokens": 0, "echo": true})).ok();
    assert_eq!(echoed["choices"][0]["text"], spelled);
}

#[test]
fn recorded_sessions_of_editors_are_answered() {
    let model = Model::tiny();
    let server = server(&model);
    let mut prompt_tokens = Vec::new();
    for name in ["llama.vim", "minuet", "tabby-agent"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/cases/clients/{name}.jsonl"));
        let session = std::fs::read_to_string(path).unwrap();
        for line in session.lines() {
            let request: Value = serde_json::from_str(line).unwrap();
            let [method, path] = ["method", "path"].map(|key| request[key].as_str().unwrap());
            let headers = request["headers"].as_object().unwrap();
            let headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap())).collect();
            let body = if request["body"].is_null() { String::new() } else { request["body"].to_string() };
            let reply = server.ask(method, path, &headers, &body);
            assert_eq!(reply.status, 200, "{line}\n{reply:?}");
            match (name, path) {
                ("llama.vim", _) => {
                    assert!(reply.body.starts_with('{') && !reply.body.contains('\n'), "{reply:?}");
                    let asked: Vec<&str> = request["body"]["response_fields"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .filter_map(|field| field.as_str().filter(|name| !name.is_empty()))
                        .collect();
                    let answer = reply.json();
                    let mut given: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
                    assert!(asked.iter().all(|name| given.contains(name)) && given.len() == asked.len(), "{reply:?}");
                    given.clear();
                    if asked.is_empty() {
                        assert_eq!(reply.body, "{}");
                    } else {
                        // The plugin looks for exactly these characters.
                        assert!(reply.body.contains("\"content\":\""), "{reply:?}");
                        prompt_tokens.push(answer["timings/prompt_n"].as_u64().unwrap());
                    }
                }
                ("minuet", _) => {
                    let events = reply.events();
                    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
                    let first: Value = serde_json::from_str(&events[0]).unwrap();
                    assert!(first["choices"][0]["text"].is_string());
                }
                (_, "/v1/health") => assert!(reply.json()["version"]["git_describe"].is_string()),
                (_, "/v1beta/server_setting") => {
                    assert_eq!(reply.json()["disable_client_side_telemetry"], true);
                }
                _ => assert!(reply.json()["choices"][0]["text"].is_string() && reply.json()["id"].is_string()),
            }
        }
    }
    // What warms a cache up elsewhere costs nothing here, and takes nothing from the hole at hand.
    let first = prompt_tokens[0];
    assert!(prompt_tokens[1..].iter().all(|&n| n < first), "{prompt_tokens:?}");
}

#[test]
fn llama_vscode_gets_as_many_as_it_asks_for() {
    let model = Model::tiny();
    let server = server(&model);
    let body = |n: usize| {
        json!({
            "id_slot": 0, "input_prefix": BEFORE, "input_suffix": AFTER, "prompt": "w", "n_predict": 12, "n_cmpl": n,
            "input_extra": [{"text": "x = 1\n", "time": 17.5, "filename": "/a/b.py"}], "top_k": 40, "top_p": 0.99,
            "stream": false, "samplers": ["top_k", "top_p", "infill"], "cache_prompt": true, "n_indent": 4,
            "t_max_prompt_ms": 500, "t_max_predict_ms": 500,
        })
    };
    let three = server.post("/infill", &body(3)).ok();
    let three = three.as_array().unwrap();
    assert_eq!(three.len(), 3);
    for (i, one) in three.iter().enumerate() {
        assert_eq!((&one["index"], &one["generation_settings"]["n_ctx"]), (&json!(i), &json!(2048)));
        for name in
            ["prompt_n", "prompt_ms", "prompt_per_second", "predicted_n", "predicted_ms", "predicted_per_second"]
        {
            assert!(one["timings"][name].is_number(), "{name}");
        }
        assert!(one["content"].is_string() && one["tokens_cached"].is_number());
    }
    assert!(server.post("/infill", &body(1)).ok().is_object());
    let refused = server.post("/infill", &body(9));
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(refused.status, 400);
    assert!(message.starts_with("Field 'n_cmpl': Value must be between 1 <= value <= 8, but got 9"), "{message}");
}

#[test]
fn lines_and_time_end_what_llama_vim_shows() {
    let model = Model::tiny();
    let server = server(&model);
    let body = |extra: Value| {
        let mut body = json!({"prompt": BEFORE, "n_predict": 200, "ignore_eos": true});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        server.post("/completion", &body).ok()
    };
    let whole = body(json!({}))["content"].as_str().unwrap().to_owned();
    let (first, _) = whole.split_once('\n').expect("this model writes line breaks");
    let timed = body(json!({"t_max_predict_ms": 1}));
    let text = timed["content"].as_str().unwrap();
    assert!(whole.starts_with(text) && text.len() < whole.len(), "{text:?} of {whole:?}");
    assert!(text.len() >= first.len() && timed["stop_type"] == "limit", "{text:?}");
    let indented = body(json!({"n_indent": 4}));
    let text = indented["content"].as_str().unwrap();
    assert!(text.split('\n').skip(1).all(|line| line.trim().is_empty() || line.starts_with("    ")), "{text:?}");
    // Without a line break only the number of tokens ends it.
    let no_break = body(json!({"t_max_predict_ms": 1, "n_predict": 2}));
    assert_eq!((&no_break["tokens_predicted"], &no_break["stop_type"]), (&json!(2), &json!("limit")));
    // A stop text that comes is named.
    let stop = whole.chars().nth(3).unwrap().to_string();
    let stopped = body(json!({"stop": [stop, ""]}));
    assert_eq!((&stopped["stop_type"], &stopped["stopping_word"]), (&json!("word"), &json!(stop)));
    assert_eq!(stopped["content"].as_str(), whole.split(&stop).next());
}

#[test]
fn log_probabilities_are_those_of_score() {
    let model = Model::tiny();
    let server = server(&model);
    let text = "def f(x):\n    return x\n";
    let scored = model.run("score", &["-p", text, "--top-logprobs", "2", "--json"]).json();
    let asked = json!({"prompt": text, "echo": true, "max_tokens": 0, "logprobs": 2});
    let choice = server.post("/v1/completions", &asked).ok()["choices"][0].clone();
    assert_eq!(choice["text"], text);
    let logprobs = &choice["logprobs"];
    let tokens: Vec<&str> =
        logprobs["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(tokens.concat(), text);
    let ours = logprobs["token_logprobs"].as_array().unwrap();
    assert!(ours[0].is_null() && logprobs["top_logprobs"][0].is_null());
    let theirs = scored["logprobs"].as_array().or_else(|| scored["tokens"].as_array()).expect("log probabilities");
    let of = |value: &Value| value.as_f64().or_else(|| value["logprob"].as_f64());
    for (i, our) in ours.iter().enumerate().skip(1) {
        // The command counts the token that stands before every text, too.
        assert_eq!(our.as_f64(), of(&theirs[i + 1]), "token {i}: {scored}");
        assert_eq!(logprobs["top_logprobs"][i].as_object().unwrap().len(), 2);
    }
    // Those of new tokens are the same whether they are generated or scored.
    let made = json!({"prompt": text, "max_tokens": 8, "logprobs": 0});
    let made = server.post("/v1/completions", &made).ok()["choices"][0].clone();
    let made_logprobs = made["logprobs"]["token_logprobs"].as_array().unwrap();
    assert_eq!(made_logprobs.len(), 8);
    assert!(made_logprobs.iter().all(|logprob| logprob.as_f64().is_some_and(|logprob| logprob <= 0.0)));
    let native = server.post("/completion", &json!({"prompt": text, "n_predict": 8, "n_probs": 3})).ok();
    let native = native["completion_probabilities"].as_array().unwrap();
    for (one, made) in native.iter().zip(made_logprobs) {
        assert!((one["logprob"].as_f64().unwrap() - made.as_f64().unwrap()).abs() < 1e-4, "{one}, {made}");
        assert_eq!(one["top_logprobs"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn what_clients_require_is_there() {
    let model = Model::tiny();
    let server = server(&model);
    // A path, and what must be there: Zed's, Continue's and Tabby's own types name these.
    for (path, body, strings, numbers) in [
        (
            "/v1/completions",
            json!({"prompt": "x", "max_tokens": 2}),
            &["id", "object", "model", "choices/0/text"][..],
            &["created", "usage/prompt_tokens", "usage/completion_tokens", "usage/total_tokens"][..],
        ),
        (
            "/v1/fim/completions",
            json!({"prompt": "x", "max_tokens": 2}),
            &[
                "id",
                "object",
                "model",
                "choices/0/message/content",
                "choices/0/message/role",
                "choices/0/finish_reason",
            ],
            &["created", "choices/0/index", "usage/prompt_tokens", "usage/completion_tokens", "usage/total_tokens"],
        ),
        (
            "/api/generate",
            json!({"model": "m", "prompt": "x", "stream": false, "raw": true, "options": {"num_predict": 2}}),
            &["model", "created_at", "response", "done_reason"],
            &["eval_count", "prompt_eval_count", "total_duration"],
        ),
        (
            "/api/show",
            json!({"model": "m"}),
            &["template", "parameters", "modified_at"],
            &["model_info/incoder.context_length"],
        ),
    ] {
        let reply = server.post(path, &body).ok();
        for name in strings {
            assert!(reply.pointer(&format!("/{name}")).is_some_and(Value::is_string), "{path} {name}: {reply}");
        }
        for name in numbers {
            assert!(reply.pointer(&format!("/{name}")).is_some_and(Value::is_u64), "{path} {name}: {reply}");
        }
    }
    assert!(server.post("/api/show", &json!({"name": "m"})).ok()["template"].as_str().unwrap().contains(".Suffix"));
    for (path, pointers) in [
        (
            "/api/tags",
            &["models/0/name", "models/0/digest", "models/0/modified_at", "models/0/details/parameter_size"][..],
        ),
        ("/api/ps", &["models/0/name"]),
        ("/api/version", &["version"]),
        ("/v1/models", &["data/0/id", "object"]),
        ("/props", &["build_info"]),
        ("/health", &["status"]),
        ("/v1/health", &["status", "version/git_describe"]),
    ] {
        let reply = server.get(path).ok();
        for name in pointers {
            assert!(reply.pointer(&format!("/{name}")).is_some_and(Value::is_string), "{path} {name}: {reply}");
        }
    }
    assert_eq!(server.get("/slots").ok()[0]["is_processing"], false);
    assert_eq!(server.get("/slots?fail_on_no_slot=1").status, 200);
    let metrics = server.get("/metrics");
    // By this, `incoder lsp` knows that the server is no other.
    assert!(metrics.header("server").unwrap().starts_with("incoder/"));
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4"));
    let before = server.metric("n_decode_total");
    // With usage, one more chunk without a choice.
    let body = json!({"prompt": "x", "max_tokens": 3, "stream": true, "stream_options": {"include_usage": true}});
    let events = server.post("/v1/completions", &body).events();
    let usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(3)));
    // One step for the prompt, and one for every token but the last, unless drafts saved some.
    let steps = server.metric("n_decode_total") - before;
    assert!((2.0..=4.0).contains(&steps), "{steps}");
    // What asks for no text has its answers, too.
    for (body, reason) in
        [(json!({"model": "m", "prompt": ""}), "load"), (json!({"model": "m", "keep_alive": 0}), "unload")]
    {
        assert_eq!(server.post("/api/generate", &body).ok()["done_reason"], reason);
    }
    let top =
        json!({"model": "m", "prompt": "", "suffix": "\nx = 1\n", "stream": false, "options": {"num_predict": 4}});
    let answer = server.post("/api/generate", &top).ok();
    assert!(answer["prompt_eval_count"].as_u64() > Some(4) && answer["done_reason"] != "load", "{answer}");
}
