//! `incoder serve` and `incoder lsp`.

use super::options::{Decoding, Device, Model, or_environment};
use super::values::{new_tokens, positive};
use crate::failure::{Failure, Result};
use clap::Args;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};

#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub device: Device,
    /// The address to listen on (left out: 127.0.0.1 and ::1, which other machines do not reach); any other needs --api-key
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<IpAddr>,
    /// The port; 0 is one that is free
    #[arg(long, value_name = "PORT", default_value_t = 8012)]
    pub port: u16,
    /// One more address and port, such as 192.168.1.5:8012; may be given more than once
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Vec<SocketAddr>,
    /// The key that clients must have (left out: INCODER_API_KEY, or none)
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Let pages of this origin ask, such as https://example.org or vscode-webview://*; may be given more than once
    ///
    /// Pages on this machine (http://localhost) may ask always.
    #[arg(long, value_name = "ORIGIN")]
    pub allow_origin: Vec<String>,
    /// A name by which clients may call this machine, beside localhost; may be given more than once
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
    /// What to call the model; some clients choose their prompts by it
    #[arg(long, value_name = "NAME")]
    pub alias: Option<String>,
    /// How many contexts to keep in memory, each with a KV cache of its own, so that two files by turns are not read again each time
    /// (left out: as many as fit into 1 GiB, from 2 to 8)
    #[arg(long, visible_alias = "parallel", value_name = "N", value_parser = positive())]
    pub slots: Option<usize>,
    #[command(flatten)]
    pub decoding: Decoding,
    /// At most this many new tokens, where a client does not say
    #[arg(short = 'n', long, visible_aliases = ["predict", "n-predict"], value_name = "N", default_value = "128", value_parser = new_tokens, allow_negative_numbers = true)]
    pub max_tokens: usize,
}

impl Serve {
    /// The key that clients must have.
    pub fn key(&self) -> Result<Option<String>> {
        api_key(self.api_key.clone())
    }
}

/// The key that was given, or else what INCODER_API_KEY says.
pub fn api_key(given: Option<String>) -> Result<Option<String>> {
    match or_environment(given.map(OsString::from), "INCODER_API_KEY").map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(key)) if !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(key)),
        Some(_) => {
            Err(Failure::usage("the API key cannot be sent in a header: use letters, digits and signs, without blanks"))
        }
    }
}

#[derive(Debug, Args)]
pub struct Lsp {
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub device: Device,
    /// Use the `incoder serve` with this host and port where there is one; the key is INCODER_API_KEY
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8012")]
    pub server: String,
    /// Load the model into this process even where there is a server
    #[arg(long)]
    pub alone: bool,
    #[command(flatten)]
    pub decoding: Decoding,
    /// At most this many new tokens of a completion
    #[arg(short = 'n', long, visible_aliases = ["predict", "n-predict"], value_name = "N", default_value = "64", value_parser = new_tokens, allow_negative_numbers = true)]
    pub max_tokens: usize,
}
