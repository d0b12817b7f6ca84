//! Requests to the hub, and what its answers mean.

use super::certificates;
use super::name::ModelName;
use super::settings::Settings;
use crate::failure::{Failure, Result};
use crate::files::explained;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use ureq::http::{HeaderMap, Response, Uri, header};
use ureq::tls::TlsConfig;
use ureq::{Agent, Body};

const CONNECT: Duration = Duration::from_secs(10);
/// So long without a byte is a broken connection.
const SILENCE: Duration = Duration::from_secs(30);
/// A model that is in the cache does not wait longer than this for news about it.
const QUICK: Duration = Duration::from_secs(5);
const REDIRECTS: u32 = 5;
/// Tries since it last got on.
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// A server that wants a longer pause is left alone, and the user told.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why a request came to nothing.
#[derive(Debug)]
pub enum Trouble {
    /// It may work when made again, after `wait` where the server said so.
    Again {
        why: String,
        wait: Option<Duration>,
    },
    Final(Failure),
}

impl Trouble {
    pub fn again(why: impl Into<String>) -> Self {
        Self::Again { why: why.into(), wait: None }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Final(failure)
    }
}

/// One thing to ask for.
#[derive(Debug)]
pub struct Request<'a> {
    pub url: &'a str,
    /// For messages.
    pub what: &'a str,
    /// The first byte that is wanted; None for a request without a range.
    pub from: Option<u64>,
    /// What else to say where there is no such thing.
    pub hint: &'a str,
    /// Give up early: there is an answer without the network.
    pub quick: bool,
}

/// All requests for one model.
pub struct Http {
    agent: Agent,
    /// Where the token may go.
    home: Option<Origin>,
    endpoint: String,
    token: Option<String>,
    model: ModelName,
}

type Origin = (String, String, u16);

impl Http {
    /// Fails with USAGE where a file of certificates that the environment names cannot be read.
    pub fn new(settings: &Settings, model: &ModelName) -> Result<Self> {
        let tls = TlsConfig::builder().root_certs(certificates::roots()?).build();
        let agent = Agent::config_builder()
            .user_agent(concat!("incoder/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .tls_config(tls)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .build()
            .new_agent();
        let (endpoint, token) = (settings.endpoint.clone(), settings.token.clone());
        let home = endpoint.parse().ok().and_then(|uri| origin(&uri));
        Ok(Self { agent, home, endpoint, token, model: model.clone() })
    }

    /// Whose these are.
    pub fn model(&self) -> &ModelName {
        &self.model
    }

    /// One try: an answer with status 200, 206 or 416, after redirects.
    pub fn get(&self, request: &Request<'_>) -> std::result::Result<Response<Body>, Trouble> {
        let mut url: Uri = request.url.parse().map_err(|e| Failure::runtime(format!("{}: {e}", request.url)))?;
        for _ in 0..=REDIRECTS {
            let response = self.send(&url, request)?;
            if !response.status().is_redirection() {
                if let Some(encoding) = encoding(response.headers()) {
                    return Err(Failure::runtime(format!(
                        "{}: the server sends it compressed ({encoding}), and was asked not to: another mirror may do better (HF_ENDPOINT)",
                        request.what
                    ))
                    .into());
                }
                return match self.refusal(response.status().as_u16(), response.headers(), request) {
                    Some(trouble) => Err(trouble),
                    None => Ok(response),
                };
            }
            let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
            url = redirected(&url, to)
                .ok_or_else(|| Failure::runtime(format!("{}: redirected to {to:?}, which is refused", request.what)))?;
        }
        Err(Failure::runtime(format!("{}: redirected more than {REDIRECTS} times", request.what)).into())
    }

    /// The whole of a short answer, with retries. `limit` in bytes.
    pub fn bytes(&self, request: &Request<'_>, limit: u64) -> Result<Vec<u8>> {
        let mut patience = Patience::new(if request.quick { 1 } else { TRIES });
        loop {
            let read = self.get(request).and_then(|response| {
                let read = response.into_body().into_with_config().limit(limit).read_to_vec();
                read.map_err(|e| match e {
                    ureq::Error::BodyExceedsLimit(_) => {
                        Failure::runtime(format!("{}: longer than {limit} bytes", request.what)).into()
                    }
                    e => Trouble::again(said(&e)),
                })
            });
            match read {
                Ok(bytes) => return Ok(bytes),
                Err(Trouble::Final(failure)) => return Err(failure),
                Err(Trouble::Again { why, wait }) => {
                    if !patience.pause(0, wait, &AtomicBool::new(false)) {
                        return Err(self.gave_up(request.what, &why));
                    }
                }
            }
        }
    }

    /// The failure after the last retry.
    pub fn gave_up(&self, what: &str, why: &str) -> Failure {
        Failure::runtime(format!("{what}: {why} ({}); check the connection and try again", self.endpoint))
    }

    fn send(&self, url: &Uri, request: &Request<'_>) -> std::result::Result<Response<Body>, Trouble> {
        let mut get = self.agent.get(url.clone());
        if let Some(from) = request.from {
            get = get.header(header::RANGE, format!("bytes={from}-"));
        }
        if let Some(token) = self.token.as_ref().filter(|_| self.home.is_some() && origin(url) == self.home) {
            get = get.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let limit = request.quick.then_some(QUICK);
        get.config().timeout_global(limit).build().call().map_err(|error| {
            use ureq::Error as E;
            let why = said(&error);
            match error {
                // What rustls says of a certificate; no later try finds another.
                E::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                    let advice = "behind a company's proxy, SSL_CERT_FILE names the file with its certificates";
                    Failure::runtime(format!("{}: {why} ({}); {advice}", request.what, self.endpoint)).into()
                }
                E::Io(_) | E::Timeout(_) | E::HostNotFound | E::ConnectionFailed | E::Protocol(_) => {
                    Trouble::again(why)
                }
                _ => Failure::runtime(format!("{}: {why} ({})", request.what, self.endpoint)).into(),
            }
        })
    }

    fn refusal(&self, status: u16, headers: &HeaderMap, request: &Request<'_>) -> Option<Trouble> {
        let Request { what, hint, .. } = request;
        let (endpoint, id) = (&self.endpoint, self.model.id());
        let failure = match status {
            200 if headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html")) => {
                Failure::runtime(format!("{what}: a web page came instead; is there a login page in between?"))
            }
            200 | 206 | 416 => return None,
            401 | 403 if self.token.is_some() => Failure::model(format!(
                "{what}: refused ({status}), the token given: it is wrong or has no access; accept the model's terms on {endpoint}/{id}, or check HF_TOKEN"
            )),
            401 | 403 => Failure::model(format!(
                "{what}: refused ({status}): the name is misspelt, or the model needs a token: accept its terms on {endpoint}/{id} and set HF_TOKEN"
            )),
            404 if headers.get("x-error-code").is_some_and(|code| code == "RevisionNotFound") => {
                let (revision, advice) = (self.model.revision(), "check the spelling of what follows the @");
                Failure::model(format!("{what}: {id} is at {endpoint}, and has no revision {revision}: {advice}"))
            }
            404 | 410 => Failure::model(format!("{what}: not found at {endpoint} ({status}); {hint}")),
            408 | 429 | 500..=599 => {
                let wait = headers.get(header::RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.trim().parse().ok());
                let wait = wait.map(Duration::from_secs);
                if let Some(wait) = wait.filter(|wait| *wait > LONGEST_PAUSE) {
                    let seconds = wait.as_secs();
                    let advice = "try again then, or set HF_TOKEN for a higher limit";
                    let message =
                        format!("{what}: the hub answers {status} and asks for {seconds} s of patience: {advice}");
                    return Some(Failure::runtime(message).into());
                }
                return Some(Trouble::Again { why: format!("the hub answers {status}"), wait });
            }
            _ => Failure::runtime(format!("{what}: the hub answers {status} ({endpoint})")),
        };
        Some(failure.into())
    }
}

/// How often something is tried again, and after what pause.
#[derive(Debug)]
pub struct Patience {
    tries: u32,
    failures: u32,
    best: u64,
}

impl Patience {
    pub fn for_download(position: u64) -> Self {
        Self { best: position, ..Self::new(TRIES) }
    }

    fn new(tries: u32) -> Self {
        Self { tries, failures: 0, best: 0 }
    }

    /// Waits for the next try; false when there is none. `position` in bytes: who gets on starts counting anew.
    pub fn pause(&mut self, position: u64, wait: Option<Duration>, stop: &AtomicBool) -> bool {
        if position > self.best {
            (self.best, self.failures) = (position, 0);
        }
        self.failures += 1;
        if self.failures >= self.tries {
            return false;
        }
        let end = Instant::now() + wait.unwrap_or(FIRST_PAUSE * 2_u32.pow(self.failures - 1)).min(LONGEST_PAUSE);
        while Instant::now() < end {
            if stop.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::sleep((end - Instant::now()).min(Duration::from_millis(50)));
        }
        true
    }
}

/// `text` as a part of a path in a URL.
pub fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// What a failed request says, without the library's prefix and the system's number.
fn said(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => explained(error),
        other => other.to_string(),
    }
}

/// In what form a body comes, unless as it is.
fn encoding(headers: &HeaderMap) -> Option<String> {
    let encoding = headers.get(header::CONTENT_ENCODING)?.to_str().unwrap_or("unknown").trim().to_ascii_lowercase();
    Some(encoding).filter(|encoding| !matches!(encoding.as_str(), "" | "identity"))
}

/// Scheme, host and port: what a token is for.
fn origin(url: &Uri) -> Option<Origin> {
    let scheme = url.scheme_str()?.to_ascii_lowercase();
    let port = url.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, url.host()?.to_ascii_lowercase(), port))
}

/// Where a redirect leads; None where it is no address, or leads from https to http.
fn redirected(from: &Uri, to: &str) -> Option<Uri> {
    let base = format!("{}://{}", from.scheme_str()?, from.authority()?);
    let has_scheme = to.split(['/', '?', '#']).next().is_some_and(|begin| begin.contains(':'));
    let to = match to.strip_prefix('/') {
        Some(host) if host.starts_with('/') => format!("{}:{to}", from.scheme_str()?),
        Some(_) => format!("{base}{to}"),
        None if has_scheme => to.to_owned(),
        None if to.is_empty() || to.contains("..") => return None,
        None if to.starts_with('?') => format!("{base}{}{to}", from.path()),
        // Beside what was asked for.
        None => format!("{base}{}/{to}", from.path().rsplit_once('/')?.0),
    };
    let to: Uri = to.parse().ok()?;
    let allowed = matches!((from.scheme_str()?, to.scheme_str()?), (_, "https") | ("http", "http"));
    allowed.then_some(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_path_does_not_take() {
        assert_eq!(escaped("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(escaped("model-1.safetensors"), "model-1.safetensors");
        assert_eq!(escaped("ä ?"), "%C3%A4%20%3F");
    }

    #[test]
    fn follows_redirects_that_are_safe() {
        let to = |from: &str, to: &str| redirected(&from.parse().unwrap(), to).map(|uri| uri.to_string());
        assert_eq!(to("https://a/x", "/y?z=1").as_deref(), Some("https://a/y?z=1"));
        assert_eq!(to("http://a:8/x", "http://b/y").as_deref(), Some("http://b/y"));
        assert_eq!(to("https://a/x", "//b/y").as_deref(), Some("https://b/y"));
        assert_eq!(to("https://a/x/y", "z?q=/1").as_deref(), Some("https://a/x/z?q=/1"));
        assert_eq!(to("https://a/x", "?z").as_deref(), Some("https://a/x?z"));
        for refused in ["http://a/x", "ftp://a/x", "", "../y", "file:///etc/passwd"] {
            assert_eq!(to("https://a/x", refused), None, "{refused}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |url: &str| origin(&url.parse().unwrap());
        assert_eq!(origin("https://A.b/x"), origin("https://a.b:443/y"));
        for other in ["http://a.b/", "https://a.b.c/", "https://a.b:8443/"] {
            assert_ne!(origin("https://a.b/"), origin(other));
        }
    }
}
