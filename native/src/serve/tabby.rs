//! Tabby's own API, for its agent and the editors that it serves.

use super::completion::Document;
use super::openai::new_id;
use super::problem::Problem;
use super::reply;
use super::request::Fields;
use super::state::Server;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// `POST /v1/completions` with `segments`.
pub async fn completions(server: &Server, fields: &Fields) -> Result<Response, Problem> {
    let segments = fields.object("segments")?;
    let (before, after) = (segments.required_text("prefix")?, segments.text("suffix")?.unwrap_or_default());
    let options = server.options(fields, "stop")?;
    let client = fields.text("user")?.filter(|user| !user.is_empty());
    let answer = server.submit(Document::Hole { before, after }, &options, client).answer().await?;
    let choices: Vec<_> =
        answer.texts.iter().enumerate().map(|(i, text)| json!({ "index": i, "text": text.text })).collect();
    Ok(reply::json(&json!({ "id": new_id(), "choices": choices })).into_response())
}

/// `GET /v1beta/server_setting`.
pub async fn server_setting() -> Response {
    reply::json(&json!({ "disable_client_side_telemetry": true })).into_response()
}

/// `POST /v1/events`: what was shown and taken, which nobody counts here.
pub async fn events() {}
