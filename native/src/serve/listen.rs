//! Sockets and connections.

use super::guard::Local;
use crate::failure::{Failure, Result};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at once; others wait until one is closed.
const MAX_CONNECTIONS: usize = 512;
/// A client has so long for the head of a request, the time between two requests included.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// Bytes of the head of a request.
const MAX_HEAD: usize = 64 << 10;
/// After a failed accept (too many open files, say) it is tried again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Opens the addresses. Without any of the user's own that is the loopback interface, by IPv4 and by IPv6: Node.js reads
/// `localhost` as either.
pub fn open(given: &[SocketAddr], host: Option<IpAddr>, port: u16) -> Result<Vec<StdListener>> {
    let failed = |address: SocketAddr| move |e| Failure::runtime(format!("{address} cannot be listened on: {e}"));
    let mut listeners = Vec::new();
    for &address in given {
        listeners.push(StdListener::bind(address).map_err(failed(address))?);
    }
    match host {
        Some(host) => {
            let address = SocketAddr::new(host, port);
            listeners.push(StdListener::bind(address).map_err(failed(address))?);
        }
        None if given.is_empty() => {
            let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
            let listener = StdListener::bind(address).map_err(failed(address))?;
            // Port 0 is any that is free: the same one for both.
            let port = listener.local_addr().map_err(failed(address))?.port();
            listeners.push(listener);
            // A machine without IPv6 has no ::1.
            listeners.extend(StdListener::bind(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)).ok());
        }
        None => {}
    }
    for listener in &listeners {
        listener.set_nonblocking(true).map_err(|e| Failure::runtime(format!("a socket cannot be set up: {e}")))?;
    }
    Ok(listeners)
}

/// Serves every connection, for ever.
pub async fn serve(listeners: Vec<StdListener>, router: Router) -> Result<()> {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tasks = Vec::new();
    for listener in listeners {
        let listener =
            TcpListener::from_std(listener).map_err(|e| Failure::runtime(format!("a socket failed: {e}")))?;
        tasks.push(tokio::spawn(accept(listener, router.clone(), free.clone())));
    }
    for task in tasks {
        task.await.map_err(|_| Failure::runtime("a listener ended"))?;
    }
    Ok(())
}

async fn accept(listener: TcpListener, router: Router, free: Arc<Semaphore>) {
    loop {
        let Ok(permit) = free.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = connection(stream, router.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!("accepting a connection: {error}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Serves one connection. hyper sees its end in the middle of a request, and drops the handler with the work it is for.
async fn connection(stream: TcpStream, router: Router) {
    let Ok(local) = stream.local_addr() else { return };
    // An answer is small, and somebody waits for it.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router.layer(axum::Extension(Local(local))));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MAX_HEAD);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!("a connection ended early: {error}");
    }
}
