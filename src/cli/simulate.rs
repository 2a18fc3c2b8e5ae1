//! `simulate`: plays Alipay. `keys` makes its key pair, `send` sends signed notifications and checks the
//! answers, `story` plays one small story for a demonstration and shows what came out of the queue, `scenario` plays named ones and holds
//! them to the promise, `serve` is a local Alipay with a cashier page.

mod journal;
mod keys;
mod plan;
mod scenario;
mod send;
mod serve;
mod story;
mod tally;

use std::io::Write;

use super::broker_at::BrokerAt;
use super::{DONE, Failure};
use crate::broker::tap::Tap;
use crate::signer::Signer;

/// Play Alipay: signed notifications, re-deliveries, refunds, forgeries.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  alipay-notify-gateway simulate keys sandbox/
  alipay-notify-gateway simulate send --url http://127.0.0.1:8080/alipay/notify --key sandbox/alipay-private.pem \\
    --app-id 2021000000000001 --seller-id 2088101117955611 --count 1000 --shares payment=80,redelivery=15,forged=5")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Keys(keys::Args),
    Send(Box<send::Args>),
    Serve(Box<serve::Args>),
    Story(story::Args),
    Scenario(Box<scenario::Args>),
    /// Take a demonstration's exchange away.
    #[command(hide = true)]
    Clear(BrokerAt),
}

/// Whose notifications, signed with what.
#[derive(Debug, Clone, clap::Args)]
struct Identity {
    /// The simulated Alipay's private key (PKCS#8 or PKCS#1, PEM or bare base64).
    #[arg(long, value_name = "FILE")]
    key: std::path::PathBuf,
    /// The app that is notified.
    #[arg(long, value_name = "ID", default_value = "2021000000000001")]
    app_id: String,
    /// The seller of every trade.
    #[arg(long, value_name = "ID", default_value = "2088101117955611")]
    seller_id: String,
}

impl Identity {
    fn signer(&self) -> Result<Signer, Failure> {
        super::key_files::private_key("--key", &self.key)
    }
}

pub(super) fn run(args: Args, out: &mut dyn Write) -> Result<u8, Failure> {
    match args.command {
        Command::Keys(args) => keys::run(&args, out),
        Command::Send(args) => send::run(&args, out),
        Command::Serve(args) => serve::run(*args, out),
        Command::Story(args) => story::run(&args, out),
        Command::Scenario(args) => scenario::run(&args, out),
        Command::Clear(broker) => clear(&broker),
    }
}

fn clear(broker: &BrokerAt) -> Result<u8, Failure> {
    let uri = broker.uri()?;
    let cleared = super::block_on(async {
        Tap::open(&uri, &broker.exchange).await?.close_and_delete_exchange().await
    })?;
    cleared.map_err(|error| Failure::running(error.to_string()))?;
    Ok(DONE)
}
