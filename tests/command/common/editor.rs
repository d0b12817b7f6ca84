//! `incoder lsp`, and an editor that speaks to it.

use super::program;
use super::server::PATIENCE;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, channel};

pub struct Editor {
    child: Child,
    stdin: Option<ChildStdin>,
    received: Receiver<Value>,
    next: u64,
    /// Notifications and requests of the server, so far.
    pub told: Vec<Value>,
}

impl Editor {
    /// Starts the program, without any handshake.
    pub fn start(args: &[&str]) -> Self {
        let mut command = program(&[&["lsp"], args].concat());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
        let (sender, received) = channel();
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        std::thread::spawn(move || while frame(&mut stdout).is_some_and(|message| sender.send(message).is_ok()) {});
        Self { stdin: child.stdin.take(), child, received, next: 0, told: Vec::new() }
    }

    /// The handshake of a client with these capabilities; the server's result.
    pub fn initialize(&mut self, capabilities: Value) -> Value {
        let params = json!({"processId": std::process::id(), "rootUri": null, "capabilities": capabilities});
        let id = self.ask("initialize", params);
        let result = self.answer(id);
        self.notify("initialized", json!({}));
        result
    }

    /// Waits until the model is there.
    pub fn until_ready(&mut self) {
        let is_ready = |message: &Value| {
            let text = message["params"]["message"].as_str().unwrap_or_default();
            message["method"] == "window/logMessage" && (text.contains("is loaded") || text.contains("come from"))
        };
        while !self.told.iter().any(is_ready) {
            let message = self.receive();
            self.told.push(message);
        }
    }

    /// Waits for a message of this method that says this.
    pub fn until_told(&mut self, method: &str, words: &str) -> Value {
        loop {
            let message = self.receive();
            let is_it = message["method"] == method && message.to_string().contains(words);
            self.told.push(message.clone());
            if is_it {
                return message;
            }
        }
    }

    pub fn open(&mut self, uri: &str, text: &str) {
        let document = json!({"uri": uri, "languageId": "python", "version": 0, "text": text});
        self.notify("textDocument/didOpen", json!({"textDocument": document}));
    }

    /// Types a text at a place.
    pub fn type_at(&mut self, uri: &str, line: usize, character: usize, text: &str) {
        let place = json!({"line": line, "character": character});
        let change = json!({"range": {"start": place, "end": place}, "rangeLength": 0, "text": text});
        self.notify(
            "textDocument/didChange",
            json!({"textDocument": {"uri": uri, "version": 1}, "contentChanges": [change]}),
        );
    }

    /// Asks for what may stand at a place; the request's id.
    pub fn ask_at(&mut self, method: &str, uri: &str, line: usize, character: usize) -> u64 {
        let params = json!({
            "textDocument": {"uri": uri}, "position": {"line": line, "character": character},
            "context": {"triggerKind": 2},
        });
        self.ask(method, params)
    }

    pub fn ask(&mut self, method: &str, params: Value) -> u64 {
        self.next += 1;
        self.send(&json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params}));
        self.next
    }

    pub fn notify(&mut self, method: &str, params: Value) {
        self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params}));
    }

    fn send(&mut self, message: &Value) {
        let text = message.to_string();
        let stdin = self.stdin.as_mut().expect("stdin is open");
        write!(stdin, "Content-Length: {}\r\n\r\n{text}", text.len()).and_then(|()| stdin.flush()).expect("sent");
    }

    fn receive(&mut self) -> Value {
        self.received.recv_timeout(PATIENCE).expect("a message")
    }

    /// The response to a request; what comes before it and is none is kept in `told`.
    pub fn response(&mut self, id: u64) -> Value {
        loop {
            let message = self.receive();
            if message.get("method").is_none() {
                assert_eq!(message["id"], id, "out of order: {message}");
                return message;
            }
            self.told.push(message);
        }
    }

    #[track_caller]
    pub fn answer(&mut self, id: u64) -> Value {
        let response = self.response(id);
        assert!(response.get("error").is_none(), "{response}");
        response["result"].clone()
    }

    /// The exit code after stdin was closed, and after `exit` where it was asked for.
    pub fn end(mut self) -> i32 {
        self.stdin = None;
        self.child.wait().expect("ends").code().expect("a code")
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A message; none at the end. Anything but frames on stdout is a failure.
fn frame(stdout: &mut BufReader<ChildStdout>) -> Option<Value> {
    let mut length = None;
    loop {
        let mut line = String::new();
        if stdout.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            header => {
                let (name, value) = header.split_once(": ").expect("a header");
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.parse().ok();
                }
            }
        }
    }
    let mut text = vec![0; length.expect("a length")];
    stdout.read_exact(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
