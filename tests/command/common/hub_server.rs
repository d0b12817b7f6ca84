//! A hub on this machine: serves one small model under every name, and breaks as a test tells it to.

use super::oracle;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub const COMMIT: &str = "1111111111111111111111111111111111111111";

/// What a server does wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// So many bytes, then a pause of a millisecond.
    Throttle(usize),
    /// This status and, where given, Retry-After.
    Status(u16, Option<u64>),
    /// 416 to every request with a range.
    RefuseRange,
    IgnoreRange,
    /// One byte in the middle of the file is another.
    WrongByte,
    /// The length in the header is so much more than that of the body.
    Length(i64),
    /// Another Content-Range.
    Range(&'static str),
    /// A range is answered from the beginning of its block of so many bytes, as a cache of blocks does.
    Blocks(usize),
    /// 206 without Content-Range.
    NoContentRange,
    /// This Content-Encoding.
    Encoding(&'static str),
    /// In the listing, a file has this size.
    ListedSize(&'static str, u64),
    /// A login page instead.
    WebPage,
    /// 302 to the same path on this server (scheme, host and port).
    Redirect(String),
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    commit: String,
    /// Part of the path, how often, and what.
    faults: Vec<(String, usize, Fault)>,
    seen: Vec<Seen>,
}

/// Runs until the test ends.
#[derive(Clone)]
pub struct Hub {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// The model tiny-a, in half precision, with files that it does not need.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let hub = Self { address: listener.local_addr().expect("an address"), state: Arc::default() };
        let read = |path: &str| std::fs::read(oracle(path)).expect("an oracle file");
        hub.state().commit = COMMIT.to_owned();
        hub.put("config.json", read("tiny-a/config.json"));
        hub.put("tokenizer.json", read("tok-512/tokenizer.json"));
        hub.put("model.safetensors", read("tiny-a/model.fp16.safetensors"));
        hub.put("pytorch_model.bin", b"not needed".to_vec());
        hub.put("README.md", b"not needed either".to_vec());
        let server = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // A client that goes away is what many tests are about.
                std::thread::spawn(move || server.answer(stream));
            }
        });
        hub
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same server by another host's name.
    pub fn other_host(&self) -> String {
        format!("http://localhost:{}", self.address.port())
    }

    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        self.state().files.insert(name.to_owned(), bytes);
    }

    pub fn remove(&self, name: &str) {
        self.state().files.remove(name);
    }

    pub fn file(&self, name: &str) -> Vec<u8> {
        self.state().files[name].clone()
    }

    /// What the branch main is from now on.
    pub fn set_commit(&self, commit: &str) {
        self.state().commit = commit.to_owned();
    }

    /// From now on requests whose path contains `path` go wrong, so often.
    pub fn fault(&self, path: &str, times: usize, fault: Fault) {
        self.state().faults.push((path.to_owned(), times, fault));
    }

    pub fn repair(&self) {
        self.state().faults.clear();
    }

    /// The requests since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().seen)
    }

    /// The requests so far whose path contains `part`, which stay.
    pub fn seen_of(&self, part: &str) -> Vec<Seen> {
        self.state().seen.iter().filter(|seen| seen.path.contains(part)).cloned().collect()
    }

    /// Paths of files, and their ranges, that were asked for since the last call.
    pub fn files_seen(&self) -> Vec<(String, Option<String>)> {
        let file =
            |seen: Seen| seen.path.split_once("/resolve/").map(|(_, f)| (f[41..].to_owned(), seen.range.clone()));
        let mut files: Vec<_> = self.seen().into_iter().filter_map(file).collect();
        files.sort();
        files
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    fn answer(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut seen = Seen { path: line.split(' ').nth(1)?.to_owned(), range: None, authorization: None };
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let Some((name, value)) = header.trim().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "range" => seen.range = Some(value.to_owned()),
                "authorization" => seen.authorization = Some(value.to_owned()),
                _ => {}
            }
        }
        let faults = self.note(&seen);
        let other_status = faults.iter().find_map(|fault| match fault {
            Fault::Status(status, wait) => Some((*status, wait.map(|s| format!("Retry-After: {s}\r\n")))),
            Fault::RefuseRange if seen.range.is_some() => Some((416, None)),
            Fault::Redirect(to) => Some((302, Some(format!("Location: {to}{}\r\n", seen.path)))),
            _ => None,
        });
        let mut stream = stream;
        if let Some((status, header)) = other_status {
            return send(&mut stream, status, &header.unwrap_or_default(), b"no", &[]);
        }
        if faults.iter().any(|fault| matches!(fault, Fault::WebPage)) {
            return send(&mut stream, 200, "Content-Type: text/html; charset=utf-8\r\n", b"<html>Log in</html>", &[]);
        }
        if seen.path.starts_with("/api/models/") {
            let listing = self.listing(&faults).to_string();
            return send(&mut stream, 200, "", listing.as_bytes(), &faults);
        }
        let name = seen.path.rsplit('/').next()?;
        let Some(mut bytes) = self.state().files.get(name).cloned() else {
            return send(&mut stream, 404, "", b"Entry not found", &[]);
        };
        if faults.iter().any(|fault| matches!(fault, Fault::WrongByte)) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        let ignores = faults.iter().any(|fault| matches!(fault, Fault::IgnoreRange));
        let from = seen.range.filter(|_| !ignores).map(|range| range["bytes=".len()..range.len() - 1].parse::<usize>());
        match from {
            None => send(&mut stream, 200, "", &bytes, &faults),
            Some(from) => {
                let (mut from, size) = (from.expect("a range"), bytes.len());
                if let Some(block) = faults.iter().find_map(|f| if let Fault::Blocks(b) = f { Some(*b) } else { None })
                {
                    from -= from % block;
                }
                if faults.iter().any(|fault| matches!(fault, Fault::NoContentRange)) {
                    return send(&mut stream, 206, "", &bytes[from..], &faults);
                }
                let lie =
                    faults.iter().find_map(|f| if let Fault::Range(lie) = f { Some((*lie).to_owned()) } else { None });
                let range = lie.unwrap_or(format!("bytes {from}-{}/{size}", size - 1));
                send(&mut stream, 206, &format!("Content-Range: {range}\r\n"), &bytes[from..], &faults)
            }
        }
    }

    /// Notes a request; the faults that are due for it.
    fn note(&self, seen: &Seen) -> Vec<Fault> {
        let mut state = self.state();
        state.seen.push(seen.clone());
        let due = state.faults.iter_mut().filter(|(path, times, _)| *times > 0 && seen.path.contains(path.as_str()));
        due.map(|(_, times, fault)| {
            *times -= 1;
            fault.clone()
        })
        .collect()
    }

    fn listing(&self, faults: &[Fault]) -> Value {
        let state = self.state();
        let siblings = state.files.iter().map(|(name, bytes)| {
            let lie = faults.iter().find_map(|f| match f {
                Fault::ListedSize(of, size) if of == name => Some(*size),
                _ => None,
            });
            let size = lie.unwrap_or(bytes.len() as u64);
            let mut entry = json!({"rfilename": name, "size": size, "blobId": git_blob(bytes)});
            if is_lfs(name) {
                entry["blobId"] = json!("2222222222222222222222222222222222222222");
                entry["lfs"] = json!({"sha256": sha256(bytes), "size": size, "pointerSize": 134});
            }
            entry
        });
        json!({"sha": state.commit, "siblings": siblings.collect::<Vec<_>>()})
    }
}

/// Whether the hub keeps the file in LFS.
fn is_lfs(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".bin")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn git_blob(bytes: &[u8]) -> String {
    hex(&Sha1::digest([format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat()))
}

/// What a file's blob is called in the cache.
pub fn etag(name: &str, bytes: &[u8]) -> String {
    if is_lfs(name) { sha256(bytes) } else { git_blob(bytes) }
}

fn send(stream: &mut TcpStream, status: u16, headers: &str, body: &[u8], faults: &[Fault]) -> Option<()> {
    let (mut length, mut cut, mut step) = (body.len() as i64, body.len(), None);
    let mut encoding = String::new();
    for fault in faults {
        match fault {
            Fault::Length(more) => length += more,
            Fault::Cut(at) => cut = cut.min(*at),
            Fault::Throttle(bytes) => step = Some(*bytes),
            Fault::Encoding(name) => encoding = format!("Content-Encoding: {name}\r\n"),
            _ => {}
        }
    }
    let head =
        format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n{encoding}{headers}\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    for piece in body[..cut].chunks(step.unwrap_or(usize::MAX)) {
        stream.write_all(piece).ok()?;
        stream.flush().ok()?;
        if step.is_some() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Some(())
}
