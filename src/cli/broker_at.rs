//! The broker, as commands name it that look at what was announced.

use std::path::PathBuf;

use super::Failure;
use crate::secret::Secret;

/// The broker, to look at what was announced.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct BrokerAt {
    /// Its URI.
    #[arg(long, value_name = "URI", default_value = "amqp://guest:guest@127.0.0.1:5672/%2f")]
    amqp: String,
    /// A file with its URI, so that no password is on the command line.
    #[arg(long, value_name = "FILE", conflicts_with = "amqp")]
    amqp_file: Option<PathBuf>,
    /// The gateway's exchange.
    #[arg(long, value_name = "NAME", default_value = "payments")]
    pub(super) exchange: String,
}

impl BrokerAt {
    pub(super) fn uri(&self) -> Result<Secret, Failure> {
        match &self.amqp_file {
            None => Ok(Secret::new(self.amqp.as_str())),
            Some(file) => std::fs::read_to_string(file)
                .map(|uri| Secret::new(uri.trim()))
                .map_err(|error| Failure::running(format!("--amqp-file {}: {error}", file.display()))),
        }
    }
}
