//! `incoder serve` on a free port, and what a client does with it.

use super::program;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Everything here answers sooner, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The body of a request that went well.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// The data of server-sent events, read as strictly as the strictest client does.
    #[track_caller]
    pub fn events(&self) -> Vec<String> {
        assert_eq!((self.status, self.header("content-type")), (200, Some("text/event-stream")), "{self:?}");
        let events = self.body.strip_suffix("\n\n").expect("an end").split("\n\n");
        let data = |event: &str| event.strip_prefix("data: ").filter(|data| !data.is_empty()).map(String::from);
        // A pause is filled with comments.
        events.filter(|&event| event != ":").map(|event| data(event).unwrap_or_else(|| panic!("{event:?}"))).collect()
    }
}

impl Server {
    /// Starts one, and waits until its port is open.
    pub fn start(args: &[&str]) -> Self {
        Self::started_by(program(&[&["serve", "--port", "0"], args].concat()))
    }

    /// The same, by a command that has more than arguments.
    pub fn started_by(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut said = Vec::new();
        let address = loop {
            let Some(Ok(line)) = lines.next() else { panic!("no address: {said:?}") };
            if let Some(address) = line.strip_prefix("incoder: listening on http://127.0.0.1") {
                break format!("127.0.0.1{address}").parse().expect("an address");
            }
            said.push(line);
        };
        // A pipe that nobody reads would stop the server.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    pub fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.ask("POST", path, &[("content-type", "application/json")], &body.to_string())
    }

    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut stream = self.send(method, path, headers, body.as_bytes());
        let mut text = Vec::new();
        stream.read_to_end(&mut text).expect("an answer");
        let text = String::from_utf8(text).expect("UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())))
            .collect();
        let is_chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if is_chunked { joined(body) } else { body.to_owned() };
        Reply { status, headers, body }
    }

    /// Sends a request, and leaves its connection to the caller. Headers given here replace those that every request has.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        let host = self.address.to_string();
        let length = body.len().to_string();
        let own = [("host", host.as_str()), ("content-length", &length), ("connection", "close")];
        let is_given = |name: &str| headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
        for (name, value) in own.iter().filter(|(name, _)| !is_given(name)).chain(headers) {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all((head + "\r\n").as_bytes()).expect("sent");
        // A server that refuses what the head says does not read the rest.
        let _ = stream.write_all(body);
        stream
    }

    /// The value of one of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        self.metric_with_key(name, "")
    }

    pub fn metric_with_key(&self, name: &str, key: &str) -> f64 {
        let text = self.ask("GET", "/metrics", &[("x-api-key", key)], "").body;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("llamacpp:{name} ")));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}: {text}"))
    }

    pub fn is_idle(&self) -> bool {
        self.metric("requests_processing") == 0.0 && self.metric("requests_deferred") == 0.0
    }

    /// Waits until something is so.
    #[track_caller]
    pub fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < PATIENCE, "still not {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
        start.elapsed()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A body that came in chunks.
fn joined(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a length");
        if length == 0 {
            break;
        }
        whole += &rest[..length];
        body = &rest[length + 2..];
    }
    whole
}
