//! Who may ask: the name the server is called by, the page that a request comes from, and the key.
//!
//! A server on one's own machine is in reach of every page that one visits. A page whose domain name leads here
//! ("DNS rebinding") gives itself away by the Host header, any other by its Origin; leaving out CORS headers alone would not
//! keep it from making the engine work.

use super::problem::Problem;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Paths that need no key: whether a server is there is no secret.
const OPEN_PATHS: [&str; 2] = ["/health", "/v1/health"];

/// The address of this machine that a client has connected to.
#[derive(Debug, Clone, Copy)]
pub struct Local(pub SocketAddr);

#[derive(Debug, Clone, Default)]
pub struct Guard {
    pub key: Option<String>,
    /// Names beside `localhost` and the addresses of the loopback interface.
    pub hosts: Vec<String>,
    /// Origins beside pages on this machine; a `*` at the end stands for anything.
    pub origins: Vec<String>,
}

impl Guard {
    /// Whether a request for `host`, with or without a port, is meant for this server.
    fn allows_host(&self, host: &str, local: Option<IpAddr>) -> bool {
        let name = host_name(host);
        match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            // An address is no name that somebody else could make lead here.
            Ok(address) => address.is_loopback() || local == Some(address),
            Err(_) => {
                let is = |allowed: &str| name.trim_end_matches('.').eq_ignore_ascii_case(allowed);
                is("localhost") || self.hosts.iter().any(|allowed| is(allowed))
            }
        }
    }

    /// Whether pages of this origin may ask.
    pub fn allows_origin(&self, origin: &str) -> bool {
        let is_local = origin.parse::<Uri>().ok().filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
        let is_local =
            is_local.and_then(|uri| uri.authority().map(|authority| host_name(authority.as_str()).to_owned()));
        if is_local.is_some_and(|name| matches!(name.as_str(), "localhost" | "127.0.0.1" | "[::1]")) {
            return true;
        }
        self.origins.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(start) => origin.starts_with(start),
            None => origin == allowed,
        })
    }

    fn check(&self, uri: &Uri, headers: &HeaderMap, local: Option<IpAddr>) -> Result<(), Problem> {
        let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default());
        let named = uri.authority().map(|authority| authority.as_str());
        let allowed = [host, named].into_iter().flatten().all(|host| self.allows_host(host, local));
        if !allowed || host.is_none() {
            return Err(Problem::forbidden("this Host is not allowed: see --allow-host"));
        }
        match headers.get(header::ORIGIN) {
            Some(origin) if origin.to_str().is_ok_and(|origin| self.allows_origin(origin)) => Ok(()),
            Some(_) => Err(Problem::forbidden("this Origin is not allowed: see --allow-origin")),
            // A page asks without an Origin for images and the like.
            None if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site") => {
                Err(Problem::forbidden("requests from other sites are not allowed: see --allow-origin"))
            }
            None => Ok(()),
        }
    }

    /// Whether the request has the key, where there is one.
    fn has_key(&self, headers: &HeaderMap) -> bool {
        let Some(key) = &self.key else { return true };
        let bearer = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).and_then(|value| {
            let (scheme, key) = value.split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
        });
        let given = [bearer, headers.get("x-api-key").map(HeaderValue::as_bytes)];
        given.into_iter().flatten().any(|given| given.ct_eq(key.as_bytes()).into())
    }
}

/// `example.org` of `example.org:80`, `[::1]` of `[::1]:80`.
fn host_name(host: &str) -> &str {
    match host.rfind(']') {
        Some(end) => &host[..=end],
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// Refuses hosts and origins that are not allowed, before anything is read or computed.
pub async fn check_source(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let local = request.extensions().get::<Local>().map(|local| local.0.ip().to_canonical());
    match guard.check(request.uri(), request.headers(), local) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Refuses requests without the key. (Preflight requests have none: they are answered before.)
pub async fn check_key(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    if OPEN_PATHS.contains(&request.uri().path()) || guard.has_key(request.headers()) {
        next.run(request).await
    } else {
        Problem::key().into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard {
            key: Some("secret".into()),
            hosts: vec!["box.lan".into()],
            origins: vec!["https://demo.example".into(), "vscode-webview://*".into()],
        }
    }

    #[test]
    fn hosts() {
        let local = Some("192.168.1.5".parse().unwrap());
        for (host, allowed) in [
            ("127.0.0.1:8012", true),
            ("127.1.2.3", true),
            ("[::1]:8012", true),
            ("[::1]", true),
            ("localhost", true),
            ("LOCALHOST:1", true),
            ("localhost.", true),
            ("box.lan:8012", true),
            ("192.168.1.5:8012", true),
            ("192.168.1.6:8012", false),
            ("evil.test", false),
            ("evil.test:8012", false),
            ("localhost.evil.test", false),
            ("127.0.0.1.evil.test", false),
            ("evil.test#localhost", false),
            ("", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(guard().allows_host(host, local), allowed, "{host}");
        }
    }

    #[test]
    fn origins() {
        for (origin, allowed) in [
            ("http://localhost:5173", true),
            ("https://localhost", true),
            ("http://127.0.0.1:3000", true),
            ("http://[::1]:3000", true),
            ("https://demo.example", true),
            ("vscode-webview://abc", true),
            ("https://demo.example:444", false),
            ("https://evil.test", false),
            ("http://localhost.evil.test", false),
            ("http://localhost@evil.test", false),
            ("file://localhost", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(guard().allows_origin(origin), allowed, "{origin}");
        }
    }

    #[test]
    fn keys() {
        let has_key = |name: &'static str, value: &'static str| {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))]);
            guard().has_key(&headers)
        };
        assert!(has_key("authorization", "Bearer secret") && has_key("authorization", "bearer secret"));
        assert!(has_key("x-api-key", "secret"));
        for value in ["", "Bearer ", "Bearer", "Bearer secre", "Bearer secrets", "secret", "Basic secret"] {
            assert!(!has_key("authorization", value), "{value}");
        }
        assert!(Guard::default().has_key(&HeaderMap::new()));
    }
}
