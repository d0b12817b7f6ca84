//! What can be wrong with a request, in the form in which each dialect's clients read it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use incoder::Error;
use serde_json::{Value, json};

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub status: StatusCode,
    /// What llama-server and OpenAI call it.
    pub kind: &'static str,
    pub message: String,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into() }
    }

    /// The request is wrong.
    pub fn request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    pub fn too_slow(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message)
    }

    pub fn key() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", "Invalid API key")
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", "File Not Found")
    }

    pub fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "Method Not Allowed")
    }

    pub fn not_supported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not_supported_error", message)
    }

    pub fn loading() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", "Loading model")
    }

    pub fn no_slot() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", "no slot available")
    }

    /// Something failed here.
    pub fn server(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// As llama-server and OpenAI have it.
    pub fn body(&self) -> Value {
        json!({ "error": { "code": self.status.as_u16(), "message": self.message, "type": self.kind } })
    }

    /// As Ollama and text-generation-inference have it.
    pub fn plain_body(&self) -> Value {
        json!({ "error": self.message })
    }

    /// The response in the form that clients of this path read.
    pub fn response_for(&self, path: &str) -> Response {
        let is_plain = path.starts_with("/api/") || path == "/generate";
        let body = if is_plain { self.plain_body() } else { self.body() };
        let mut response = (self.status, super::reply::json(&body)).into_response();
        if self.status.is_server_error() {
            // OpenAI's library asks again, which helps with none of these.
            response.headers_mut().insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match &error {
            Error::Context { .. } => Self::new(StatusCode::BAD_REQUEST, "exceed_context_size_error", error.to_string()),
            Error::Argument { .. } => Self::request(error.to_string()),
            _ => Self::server(error.to_string()),
        }
    }
}
