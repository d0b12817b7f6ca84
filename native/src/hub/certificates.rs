//! Who vouches for the hub's name.

use crate::failure::{Failure, Result};
use std::sync::Arc;
use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

/// Mozilla's roots, or those of a file where the environment names one, as behind a company's proxy. Fails with USAGE.
pub fn roots() -> Result<RootCerts> {
    let set = |name: &'static str| Some((name, std::env::var_os(name).filter(|path| !path.is_empty())?));
    let Some((name, path)) = set("SSL_CERT_FILE").or_else(|| set("REQUESTS_CA_BUNDLE")) else {
        return Ok(RootCerts::WebPki);
    };
    let pem = std::fs::read(&path).map_err(|e| Failure::usage(format!("{name}: {}: {e}", path.display())))?;
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    let certificates: Vec<Certificate<'static>> = parse_pem(&pem).filter_map(certificate).collect();
    if certificates.is_empty() {
        return Err(Failure::usage(format!("{name}: {} holds no certificates", path.display())));
    }
    Ok(RootCerts::Specific(Arc::new(certificates)))
}
