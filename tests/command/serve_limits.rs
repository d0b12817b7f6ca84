//! `incoder serve` where clients leave, lie, or are not who they should be.

use crate::common::hub_server::Fault;
use crate::common::server::{PATIENCE, Server};
use crate::common::{Model, run};
use crate::hub::{Home, WEIGHTS};
use serde_json::{Value, json};
use std::io::Read;
use std::time::Duration;

fn tiny(args: &[&str]) -> (Model, Server) {
    let model = Model::tiny();
    let server = Server::start(&[&["-m", model.path(), "-d", "cpu", "--temp", "0"], args].concat());
    (model, server)
}

/// The demo model on the CPU is slow enough to be left in the middle of something.
fn demo() -> Server {
    let server = Server::start(&["-d", "cpu", "--temp", "0"]);
    server.until("loaded", |server| server.get("/health").status == 200);
    server
}

/// Thousands of tokens that take the demo model half a minute.
fn long_answer(stream: bool) -> String {
    json!({"prompt": "x = 1\n", "n_predict": 2000, "ignore_eos": true, "stream": stream}).to_string()
}

/// A prompt that takes it seconds to read.
fn long_prompt() -> String {
    let text: String = (0..600).map(|i| format!("value_{i} = table[{}]\n", i * 7 % 91)).collect();
    json!({"prompt": text, "n_predict": 100, "stream": true}).to_string()
}

#[test]
fn whoever_leaves_takes_the_work_along() {
    let server = demo();
    let is_busy = |server: &Server| server.metric("requests_processing") == 1.0;
    let began = |server: &Server| server.metric("n_requests_total");
    for (what, body) in [
        ("between tokens, streamed", long_answer(true)),
        ("between tokens, in one piece", long_answer(false)),
        ("while the prompt is read", long_prompt()),
    ] {
        for _ in 0..3 {
            let connection = server.send("POST", "/completion", &[], body.as_bytes());
            server.until("begun", is_busy);
            drop(connection);
            let took = server.until("idle", Server::is_idle);
            assert!(took < PATIENCE / 4, "{what}: {took:?}");
        }
    }
    // In the queue: what nobody waits for is never begun.
    let first = server.send("POST", "/completion", &[], long_answer(true).as_bytes());
    server.until("begun", is_busy);
    let before = began(&server);
    let queued: Vec<_> =
        (0..20).map(|_| server.send("POST", "/completion", &[], long_answer(false).as_bytes())).collect();
    server.until("queued", |server| server.metric("requests_deferred") == 20.0);
    drop(queued);
    server.until("left", |server| server.metric("requests_deferred") == 0.0);
    drop(first);
    server.until("idle", Server::is_idle);
    assert_eq!(began(&server), before);
    // And the server goes on.
    assert_eq!(server.post("/completion", &json!({"prompt": "x", "n_predict": 2})).ok()["tokens_predicted"], 2);
}

#[test]
fn of_one_user_the_newest_request_comes_first() {
    let server = demo();
    let first = server.send("POST", "/completion", &[], long_answer(true).as_bytes());
    server.until("begun", |server| server.metric("requests_processing") == 1.0);
    let ask = |user: &str, n: usize| {
        let body = json!({"prompt": "x = ", "max_tokens": n, "user": user}).to_string();
        let waiting = server.metric("requests_deferred");
        let stream = server.send("POST", "/v1/completions", &[], body.as_bytes());
        server.until("queued", |server| server.metric("requests_deferred") > waiting);
        stream
    };
    // The older one would take long: the newer one is answered although it came later.
    let older = ask("a", 2000);
    let mut newer = ask("a", 2);
    drop(first);
    let mut text = String::new();
    newer.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    drop(older);
    server.until("idle", Server::is_idle);
}

#[test]
fn only_those_may_ask_who_may() {
    let (_model, server) = tiny(&["--api-key", "secret", "--allow-host", "box.lan", "--allow-origin", "app://*"]);
    let body = json!({"prompt": "x", "n_predict": 1}).to_string();
    let asked = || server.metric_with_key("n_requests_total", "secret");
    let before = asked();
    let key = ("authorization", "Bearer secret");
    for (headers, status) in [
        (&[("host", "evil.test"), key][..], 403),
        (&[("host", "localhost.evil.test"), key], 403),
        (&[("origin", "https://evil.test"), key], 403),
        (&[("origin", "null"), key], 403),
        (&[("sec-fetch-site", "cross-site"), key], 403),
        (&[("origin", "https://evil.test"), ("content-type", "text/plain"), key], 403),
        (&[], 401),
        (&[("authorization", "Bearer ")], 401),
        (&[("authorization", "Bearer secre")], 401),
        (&[("authorization", "Basic secret")], 401),
    ] {
        let reply = server.ask("POST", "/completion", headers, &body);
        assert_eq!(reply.status, status, "{headers:?}: {reply:?}");
        assert!(reply.json()["error"]["message"].is_string());
    }
    assert_eq!(asked(), before, "refused requests were computed");
    for headers in [
        &[key][..],
        &[("x-api-key", "secret")],
        &[("host", "localhost:1"), key],
        &[("host", "box.lan"), key],
        &[("origin", "http://localhost:5173"), key],
        &[("origin", "app://obsidian.md"), ("sec-fetch-site", "cross-site"), key],
        // Node.js says this although it is no browser.
        &[("sec-fetch-mode", "cors"), key],
        &[("content-type", "application/x-www-form-urlencoded"), key],
    ] {
        let reply = server.ask("POST", "/completion", headers, &body);
        assert_eq!(reply.status, 200, "{headers:?}: {reply:?}");
        let origin = headers.iter().find(|(name, _)| *name == "origin").map(|(_, origin)| *origin);
        assert_eq!(reply.header("access-control-allow-origin"), origin);
    }
    // Whether a server is there is no secret, and a preflight request has no key.
    server.until("loaded", |server| server.ask("GET", "/health", &[], "").status == 200);
    let preflight = [
        ("origin", "http://localhost:5173"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type,x-stainless-os"),
        ("access-control-request-private-network", "true"),
    ];
    let reply = server.ask("OPTIONS", "/infill", &preflight, "");
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("access-control-allow-private-network"), Some("true"));
    assert!(reply.header("access-control-allow-headers").unwrap().contains("x-stainless-os"));
    assert!(reply.header("vary").unwrap().contains("origin"));
    let foreign = [("origin", "https://evil.test"), ("access-control-request-method", "POST")];
    assert_eq!(server.ask("OPTIONS", "/infill", &foreign, "").status, 403);
    // Somewhere that others reach, a key is demanded; one that cannot be sent is refused.
    let line = run(&["serve", "--host", "0.0.0.0", "--port", "0"]).refused(2);
    assert!(line.contains("--api-key"), "{line}");
    assert!(run(&["serve", "--listen", "[::]:0"]).refused(2).contains("--api-key"));
    run(&["serve", "--api-key", "a b"]).refused(2);
}

#[test]
fn wrong_requests_have_clear_answers() {
    let (_model, server) = tiny(&[]);
    let long = "x".repeat(9 << 20);
    for (method, path, body, status, words) in [
        ("GET", "/nothing", "", 404, "File Not Found"),
        ("GET", "/infill", "", 405, "Method Not Allowed"),
        ("POST", "/infill", "{", 400, "not JSON"),
        ("POST", "/infill", "[]", 400, "expected an object"),
        ("POST", "/infill", r#"{"input_prefix":"x"}"#, 400, "'input_suffix' is required"),
        ("POST", "/infill", r#"{"input_prefix":1,"input_suffix":""}"#, 400, "'input_prefix'"),
        (
            "POST",
            "/infill",
            r#"{"input_prefix":"","input_suffix":"","input_extra":[{"filename":"x"}]}"#,
            400,
            "'input_extra'",
        ),
        ("POST", "/completion", "{}", 400, "'prompt' is required"),
        ("POST", "/completion", r#"{"prompt":[]}"#, 400, "'prompt'"),
        ("POST", "/completion", r#"{"prompt":[1,"x"]}"#, 400, "token ids"),
        ("POST", "/completion", r#"{"prompt":[99999]}"#, 400, "99999"),
        ("POST", "/completion", r#"{"prompt":"x","temperature":"hot"}"#, 400, "'temperature'"),
        ("POST", "/completion", r#"{"prompt":"x","stop":[1]}"#, 400, "'stop'"),
        ("POST", "/v1/completions", r#"{"prompt":["x"],"suffix":"y"}"#, 400, "'suffix'"),
        ("POST", "/v1/completions", r#"{"prompt":"x","n":0}"#, 400, "'n'"),
        ("POST", "/v1/completions", r#"{"prompt":"x","logprobs":99}"#, 400, "'logprobs'"),
        ("POST", "/v1/completions", r#"{"segments":{"suffix":"x"}}"#, 400, "'prefix'"),
        ("POST", "/api/generate", r#"{"prompt":1}"#, 400, "'prompt'"),
        ("POST", "/v1/chat/completions", "{}", 501, "does not chat"),
        ("POST", "/api/chat", "{}", 501, "does not chat"),
        ("POST", "/detokenize", r#"{"tokens":[99999]}"#, 400, "99999"),
        ("POST", "/completion", long.as_str(), 413, "8388608 bytes"),
    ] {
        let reply = server.ask(method, path, &[], body);
        assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
        let error = &reply.json()["error"];
        // Ollama's clients read a text there.
        let message = if path.starts_with("/api/") { error } else { &error["message"] };
        assert!(message.as_str().is_some_and(|message| message.contains(words)), "{path}: {reply:?}");
        // OpenAI's library tries again otherwise.
        assert_eq!(reply.header("x-should-retry"), (status >= 500).then_some("false"));
    }
    // Numbers out of their range are brought into it.
    let odd = r#"{"prompt":"x","n_predict":3,"temperature":-1e9,"top_p":7,"top_k":-5,"min_p":2,"repeat_penalty":0,"seed":-1,
        "n_discard":-99,"n_keep":-1,"id_slot":1e300,"t_max_predict_ms":-1,"n_indent":-4,"model":null,"cache_prompt":true}"#;
    assert_eq!(server.ask("POST", "/completion", &[], odd).ok()["tokens_predicted"], 3);
}

#[test]
fn any_text_is_completed() {
    let (_model, server) = tiny(&[]);
    let texts = [
        ("<|mask:0|> <|endoftext|> <fim_prefix> <|endofmask|>", "<|mask:1|>\n"),
        ("a\u{0}b\r\n\tc\r\n", "\r\nd\r\n"),
        ("\u{feff}x = '", "'\n"),
        ("😀漢e\u{301}", "\u{fffd}"),
        ("", ""),
    ];
    let long = "x = [1, 2, 3]; ".repeat(70_000);
    for (before, after) in texts.into_iter().chain([(long.as_str(), long.as_str())]) {
        let infill = json!({"input_prefix": before, "input_suffix": after, "n_predict": 8});
        let answer = server.post("/infill", &infill).ok();
        let text = answer["content"].as_str().unwrap();
        assert!(!text.contains("<|mask") && !text.contains("<|endof") && !text.contains('\u{fffd}'), "{text:?}");
        assert_eq!(answer["truncated"], before.len() > 10_000);
        let continued = server.post("/v1/completions", &json!({"prompt": before, "max_tokens": 4}));
        // There is nothing to continue before the first character.
        assert_eq!(continued.status, 200, "{continued:?}");
    }
    for body in [r#"{"prompt":"\ud800 x","n_predict":2}"#, "{\"prompt\":\"x\\udc00\",\"n_predict\":2}"] {
        server.ask("POST", "/completion", &[], body).ok();
    }
    // A document's line ends are those of its completion.
    let body = json!({"prompt": "a = 1\r\nb = 2\r\n", "suffix": "\r\nc = 3\r\n", "max_tokens": 200});
    let text = server.post("/v1/completions", &body).ok()["choices"][0]["text"].as_str().unwrap().to_owned();
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count(), "{text:?}");
}

#[test]
fn of_long_files_little_is_read_again_for_a_keystroke() {
    let (_model, server) = tiny(&[]);
    let line = |i: usize| format!("{}value_{i} = table[{}] + offset\n", " ".repeat(i % 4 * 4), i * 7 % 91);
    let program = |lines: std::ops::Range<usize>| lines.map(line).collect::<String>();
    let (before, after) = (program(0..10_000), program(10_000..20_000));
    let typed =
        "    total = first + second  # of both\n    if total > limit:\n        return None\n    return total * 2 / 17";
    let mut read_again = Vec::new();
    for length in (0..=100).take_while(|&length| length <= typed.len()) {
        let body = json!({"input_prefix": before, "prompt": typed[..length], "input_suffix": after, "n_predict": 4});
        let answer = server.post("/infill", &body).ok();
        assert_eq!(answer["truncated"], true);
        assert!(answer["tokens_evaluated"].as_u64().unwrap() <= 2048 - 4, "{answer}");
        read_again.push(answer["timings"]["prompt_n"].as_u64().unwrap());
    }
    // At most a hole's own tokens: eight to sixteen lines of look-back.
    let few = read_again[1..].iter().filter(|&&n| n <= 256).count();
    assert!(few * 100 >= 95 * (read_again.len() - 1), "{read_again:?}");
}

#[test]
fn the_port_is_open_while_the_model_is_loaded() {
    let home = Home::new();
    home.hub.fault(WEIGHTS, 1, Fault::Throttle(512));
    let server = Server::started_by(home.command(&["serve", "--port", "0", "-m", "org/tiny", "-d", "cpu"]));
    let early = server.get("/health");
    assert_eq!((early.status, &early.json()["error"]["message"]), (503, &json!("Loading model")));
    // The first request waits for it.
    let answer = server.post("/completion", &json!({"prompt": "x", "n_predict": 2})).ok();
    assert_eq!(answer["tokens_predicted"], 2);
    assert_eq!(server.get("/health").ok(), json!({"status": "ok"}));
}

#[test]
fn a_model_that_cannot_be_loaded_ends_the_server() {
    let line = run(&["serve", "--port", "0", "-q", "-m", "no/such/folder/at/all"]).refused(4);
    assert!(!line.is_empty());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let line = run(&["serve", "--port", &port, "-d", "cpu"]).refused(1);
    assert!(line.contains(&format!("127.0.0.1:{port} cannot be listened on")), "{line}");
}

#[test]
fn a_slow_or_silent_client_is_no_burden() {
    let (_model, server) = tiny(&[]);
    // Connections that say nothing do not keep others from being served.
    let silent: Vec<_> = (0..50).map(|_| std::net::TcpStream::connect(server.address).unwrap()).collect();
    let half = server.send("POST", "/completion", &[("content-length", "1000")], b"{\"prompt\":");
    let body: Value = json!({"prompt": "x", "n_predict": 1});
    assert_eq!(server.post("/completion", &body).status, 200);
    drop((silent, half));
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(server.post("/completion", &body).status, 200);
}
