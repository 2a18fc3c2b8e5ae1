//! The broker and the exchange of a demonstration, which `simulate story` watches with a queue of its own.
//!
//! Such a queue makes every event routable, and is gone afterwards: on an exchange that carries real events, one that no
//! queue of a consumer's takes would be confirmed, recorded, and seen by nobody. So it is a demonstration's exchange, by
//! its name, or none.

use std::path::PathBuf;

use super::Failure;
use crate::secret::Secret;

/// A demonstration's exchange, to look at what was announced.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct BrokerAt {
    /// The broker's URI.
    #[arg(long, value_name = "URI", default_value = "amqp://guest:guest@127.0.0.1:5672/%2f")]
    amqp: String,
    /// A file with its URI, so that no password is on the command line.
    #[arg(long, value_name = "FILE", conflicts_with = "amqp")]
    amqp_file: Option<PathBuf>,
    /// The exchange of a gateway that is run for a demonstration: its name begins with gateway-demo-. It is declared if it is not there.
    #[arg(long, value_name = "NAME", value_parser = demonstration)]
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

fn demonstration(name: &str) -> Result<String, String> {
    name.starts_with("gateway-demo-").then(|| name.to_owned()).ok_or_else(|| {
        "only a demonstration's exchange (gateway-demo-…): a queue that is bound here for watching would take real events from \
         under the consumers. For a gateway of yours there is `simulate scenario`, which asks its admin listener"
            .to_owned()
    })
}
