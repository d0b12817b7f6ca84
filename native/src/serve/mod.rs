//! `incoder serve`: the engine behind the HTTP interfaces that editors speak.
//!
//! Every dialect is a translation to and from a [`completion::Completion`]. Requests queue for one thread that owns the
//! session; a client that goes away takes its request with it.

mod about;
pub mod completion;
pub mod engine;
mod guard;
mod lines;
mod listen;
mod llama;
pub mod metrics;
mod ollama;
mod openai;
mod problem;
pub mod queue;
mod reply;
mod request;
mod state;
mod tabby;
mod tgi;

use crate::cli;
use crate::failure::{Failure, Result};
use crate::terminal::{Interrupt, note};
use crate::{Global, engine as loading};
use axum::Router;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use guard::Guard;
use problem::Problem;
use request::Fields;
use state::{Defaults, Model, Server};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// llama.vim sends a hundred kilobytes of other files, and more.
const MAX_BODY: usize = 8 << 20;
/// Unless said otherwise, KV caches take so much memory together, at least two and at most so many of them.
const SLOTS_BYTES: u64 = 1 << 30;
const MOST_SLOTS: usize = 8;
/// The `Server` header of every response, by which `incoder lsp` tells this server from others.
const SIGNATURE: &str = concat!("incoder/", env!("CARGO_PKG_VERSION"));
/// A client has so long to send its body.
const BODY_TIME: Duration = Duration::from_secs(30);

pub fn run(args: &cli::Serve, global: &Global) -> Result<()> {
    let key = args.key()?;
    let addresses = args.listen.iter().map(SocketAddr::ip).chain(args.host);
    if let (None, Some(open)) = (&key, addresses.into_iter().find(|address| !address.is_loopback())) {
        return Err(Failure::usage(format!(
            "on {open} everybody in the network could use this server: give --api-key, or listen on 127.0.0.1"
        )));
    }
    let _interrupt = Interrupt::install()?;
    let listeners = listen::open(&args.listen, args.host, args.port)?;
    for listener in &listeners {
        if let Ok(address) = listener.local_addr() {
            note(global.quiet, &format!("listening on http://{address}"));
        }
    }
    let defaults = Defaults {
        sampling: crate::commands::sampling_without_seed(&args.decoding),
        seed: args.decoding.seed(),
        max_tokens: args.max_tokens,
    };
    let name = args.alias.clone().unwrap_or_else(|| model_name(&args.model));
    let server = Arc::new(Server::new(name, defaults));
    let guard = Guard { key, hosts: args.allow_host.clone(), origins: args.allow_origin.clone() };
    let router = router(server.clone(), Arc::new(guard));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::runtime(format!("the server cannot start: {e}")))?;
    std::thread::scope(|scope| {
        let (ended, end) = oneshot::channel();
        scope.spawn(move || {
            let failure = load_and_serve(args, global, &server);
            let _ = ended.send(failure);
        });
        runtime.block_on(async {
            tokio::select! {
                served = listen::serve(listeners, router) => served,
                end = end => Err(end.unwrap_or_else(|_| Failure::runtime("the engine ended unexpectedly"))),
            }
        })
    })
}

/// The engine's thread.
fn load_and_serve(args: &cli::Serve, global: &Global, server: &Server) -> Failure {
    let loaded = loading::prepare(&args.model, &args.device, global).and_then(|prepared| {
        let config = prepared.config.clone();
        Ok((config, prepared.load(global)?))
    });
    let (config, engine) = match loaded {
        Ok(loaded) => loaded,
        Err(failure) => return failure,
    };
    let (tokenizer, mut session) = (Arc::new(engine.tokenizer), engine.session);
    let context = session.capacity();
    let bytes = config.kv_bytes_per_token(session.kv().bytes()).saturating_mul(context as u64).max(1);
    let slots = args.slots.unwrap_or(usize::try_from(SLOTS_BYTES / bytes).unwrap_or(MOST_SLOTS).clamp(2, MOST_SLOTS));
    session.set_slots(slots);
    let model = Model { tokenizer: tokenizer.clone(), config, context, slots, device: engine.device };
    if server.model.set(model).is_err() {
        return Failure::runtime("the model was loaded twice");
    }
    note(global.quiet, "ready");
    engine::serve(&mut session, &tokenizer, &server.queue, &server.metrics)
}

/// What the model is called where nothing else was said: never a path of this machine.
fn model_name(model: &cli::Model) -> String {
    let Some(name) = model.name() else { return "incoder-demo".to_owned() };
    match crate::hub::name::classify(&name) {
        Ok(crate::hub::name::Named::Hub(name)) => name.id().to_owned(),
        Ok(crate::hub::name::Named::Path(path)) => {
            path.file_name().map_or("incoder".to_owned(), |name| name.to_string_lossy().into_owned())
        }
        Err(_) => "incoder".to_owned(),
    }
}

fn router(server: Arc<Server>, guard: Arc<Guard>) -> Router {
    let allowed = guard.clone();
    let is_allowed = move |origin: &axum::http::HeaderValue, _: &axum::http::request::Parts| {
        origin.to_str().is_ok_and(|origin| allowed.allows_origin(origin))
    };
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(is_allowed))
        .allow_methods([Method::GET, Method::POST, Method::HEAD, Method::OPTIONS])
        .allow_headers(AllowHeaders::mirror_request())
        .allow_private_network(true)
        .vary([header::ORIGIN, HeaderName::from_static("access-control-request-method")]);
    Router::new()
        .route("/", get(ollama::is_running))
        .route("/health", get(about::health))
        .route("/v1/health", get(about::tabby_health).post(about::tabby_health))
        .route("/props", get(about::props))
        .route("/slots", get(about::slots))
        .route("/metrics", get(about::metrics))
        .route("/models", get(about::models))
        .route("/v1/models", get(about::models))
        .route("/tokenize", post(about::tokenize))
        .route("/detokenize", post(about::detokenize))
        .route("/infill", post(llama::infill))
        .route("/completion", post(llama::completion))
        .route("/completions", post(llama::completions))
        .route("/v1/completions", post(openai::completions))
        .route("/beta/completions", post(openai::completions))
        .route("/v1/fim/completions", post(openai::fim))
        .route("/fim/completions", post(openai::fim))
        .route("/api/generate", post(ollama::generate))
        .route("/api/tags", get(ollama::tags))
        .route("/api/ps", get(ollama::tags))
        .route("/api/show", post(ollama::show))
        .route("/api/version", get(ollama::version))
        .route("/v1beta/server_setting", get(tabby::server_setting))
        .route("/v1/events", post(tabby::events))
        .route("/generate", post(tgi::generate))
        .route("/v1/chat/completions", post(about::no_chat))
        .route("/chat/completions", post(about::no_chat))
        .route("/api/chat", post(about::no_chat))
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || Problem::method())
        .layer(middleware::from_fn_with_state(guard.clone(), guard::check_key))
        .layer(cors)
        .layer(middleware::from_fn_with_state(guard, guard::check_source))
        .layer(middleware::from_fn(problems_in_form))
        .with_state(server)
}

/// Gives a problem the form that clients of the path read, and signs every response.
async fn problems_in_form(request: Request, next: middleware::Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let mut formed = problem.response_for(&path);
        // CORS headers stay, so that a page can read what is wrong.
        for (name, value) in response.headers() {
            if name.as_str().starts_with("access-control-") || name == header::VARY {
                formed.headers_mut().append(name, value.clone());
            }
        }
        response = formed;
    }
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static(SIGNATURE));
    response
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> std::result::Result<Self, Problem> {
        let reading = axum::body::to_bytes(request.into_body(), MAX_BODY);
        match tokio::time::timeout(BODY_TIME, reading).await {
            Ok(Ok(body)) => Self::read(&body),
            Ok(Err(_)) => {
                Err(Problem::too_large(format!("the body could not be read, or has more than {MAX_BODY} bytes")))
            }
            Err(_) => Err(Problem::too_slow(format!("the body did not come within {} s", BODY_TIME.as_secs()))),
        }
    }
}
