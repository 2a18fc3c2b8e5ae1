//! `simulate serve`: a local Alipay, with a cashier page and a page of every delivery.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use super::Identity;
use crate::cli::{DONE, Failure, key_files};
use crate::lifecycle::Stopping;
use crate::signer::merchant_key::MerchantKey;
use crate::signer::notification::Merchant;
use crate::simulator::client::Target;
use crate::simulator::schedule::Schedule;
use crate::simulator::{Config, Simulator};

/// Be a local Alipay: takes signed links, shows a cashier page, sends notifications until they are answered success.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  alipay-notify-gateway simulate serve --key sandbox/alipay-private.pem --merchant-key keys/app-public.pem \\
    --app-id 2021000000000001 --time-scale 60

Then make a link (alipay-notify-gateway pay-link), open it in a browser, and pay. http://127.0.0.1:8600/ has every trade.
A development tool: whoever reaches it may pay. Notifications go to this machine and to hosts that you allow.")]
pub(super) struct Args {
    /// Where it listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8600")]
    listen: SocketAddr,
    #[command(flatten)]
    identity: Identity,
    /// Your app's PUBLIC key, as you would paste it into Alipay's console (app-public.pem of keygen).
    #[arg(long, value_name = "FILE")]
    merchant_key: PathBuf,
    /// Deliver again on Alipay's schedule divided by this: 1 is Alipay's own pace, 3600 makes its 24 hours 24 seconds.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    time_scale: u32,
    /// A host, beside this machine, to which a link may send notifications; may be given several times.
    #[arg(long, value_name = "HOST")]
    allow_host: Vec<String>,
    /// Where all notifications go, whatever notify_url a link has.
    #[arg(long, value_name = "URL")]
    deliver_to: Option<String>,
    /// A name by which browsers may call it, beside localhost and addresses; may be given several times.
    #[arg(long, value_name = "NAME")]
    called: Vec<String>,
}

pub(super) fn run(args: Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let signer = args.identity.signer()?;
    let file = args.merchant_key.display();
    let text = key_files::text("--merchant-key", &args.merchant_key)?;
    let merchant_key = MerchantKey::read(&text)
        .map_err(|error| Failure::running(format!("--merchant-key {file}: {error}")))?;
    if let Some(url) = &args.deliver_to {
        Target::parse(url).map_err(|error| Failure::usage(format!("--deliver-to: {error}")))?;
    }
    let config = Config {
        listen: args.listen,
        called: args.called,
        merchant: Merchant { app_id: args.identity.app_id, seller_id: args.identity.seller_id },
        merchant_key,
        signer,
        schedule: Schedule::divided_by(args.time_scale),
        allowed_hosts: args.allow_host,
        deliver_to: args.deliver_to,
    };
    crate::cli::block_on(serve(config, out))?
}

async fn serve(config: Config, out: &mut dyn Write) -> Result<u8, Failure> {
    let (listen, app_id) = (config.listen, config.merchant.app_id.clone());
    let simulator = Simulator::bind(config)
        .await
        .map_err(|error| Failure::running(format!("--listen {listen}: {error}")))?;
    let address = simulator.address()?;
    if !address.ip().is_loopback() {
        writeln!(out, "note: whoever reaches {address} may pay and refund here")?;
    }
    writeln!(
        out,
        "simulated Alipay for app {app_id} on http://{address}/  (links: http://{address}/gateway.do)"
    )?;
    out.flush()?;
    let (mut interrupted, mut terminated) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stopping = Stopping::default();
    let serving = simulator.run(stopping.clone());
    let asked = async {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
        stopping.begin();
        // The serving ends by itself now.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = serving => {}
        () = asked => {}
    }
    Ok(DONE)
}
