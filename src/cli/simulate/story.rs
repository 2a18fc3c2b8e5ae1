//! `simulate story`: a payment, its re-delivery, a partial refund and a forged payment, one after the other, with
//! what Alipay was answered beside what came out of the queue. Ends with an error if it is not what it should be.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use serde_json::Value;

use super::Identity;
use crate::broker::tap::{Tap, Tapped};
use crate::cli::broker_at::BrokerAt;
use crate::cli::{DONE, FAILED, Failure};
use crate::clock::{Clock as _, SystemClock};
use crate::signer::Signer;
use crate::signer::notification::{Kind, Merchant, Trade};
use crate::simulator::client::{Client, Target};

/// Play a small story on a demonstration's exchange, and show the events beside the answers.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  alipay-notify-gateway simulate story --url http://127.0.0.1:8080/alipay/notify --key sandbox/alipay-private.pem \\
    --amqp amqp://guest:guest@127.0.0.1:5672/%2f --exchange gateway-demo-1

For deploy/demo.sh and the like. For a gateway that carries real events: simulate scenario.")]
pub(super) struct Args {
    /// The notify URL.
    #[arg(long, value_name = "URL")]
    url: String,
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    broker: BrokerAt,
    /// Take the exchange away at the end (for a demonstration that leaves nothing behind).
    #[arg(long)]
    delete_exchange: bool,
}

/// A step, and what it must lead to.
struct Step {
    kind: Kind,
    title: &'static str,
    event: Option<&'static str>,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let signer = args.identity.signer()?;
    let target = Target::parse(&args.url).map_err(Failure::usage)?;
    crate::cli::block_on(play(args, &signer, target, out))?
}

async fn play(args: &Args, signer: &Signer, target: Target, out: &mut dyn Write) -> Result<u8, Failure> {
    let broker = |error: crate::broker::LinkError| Failure::running(format!("--amqp: {error}"));
    let mut tap = Tap::open(&args.broker.uri()?, &args.broker.exchange).await.map_err(broker)?;
    let merchant =
        Merchant { app_id: args.identity.app_id.clone(), seller_id: args.identity.seller_id.clone() };
    let mut random = SmallRng::seed_from_u64(rand::random());
    let now = SystemClock.now();
    let (trade, other) = (Trade::new(&merchant, &mut random, now), Trade::new(&merchant, &mut random, now));
    let mut client = Client::new(target);
    let mut as_promised = true;
    for step in &STEPS {
        let about = if step.kind == Kind::Forged { &other } else { &trade };
        let body = about.body(step.kind, signer, &mut random, SystemClock.now());
        let answer = client.deliver(Bytes::from(body), None).await.map_err(Failure::running)?;
        writeln!(out, "\n{}\n  trade {}", step.title, about.trade_no())?;
        let text = String::from_utf8(answer.body.to_vec()).unwrap_or_default();
        writeln!(out, "  Alipay was answered   {} {text}", answer.status.as_u16())?;
        let tapped = tap.next(if step.event.is_some() { PATIENCE } else { SILENCE }).await.map_err(broker)?;
        show(tapped.as_ref(), out)?;
        let event = tapped.as_ref().map(|tapped| tapped.routing_key.as_str());
        if event != step.event || answer.is_success() != step.kind.is_authentic() {
            as_promised = false;
            writeln!(out, "  NOT AS PROMISED: expected {}", step.event.unwrap_or("no event"))?;
        }
    }
    if args.delete_exchange {
        tap.close_and_delete_exchange().await.map_err(broker)?;
    }
    writeln!(
        out,
        "\n{}",
        if as_promised { "Everything was as promised." } else { "NOT everything was as promised." }
    )?;
    Ok(if as_promised { DONE } else { FAILED })
}

fn show(tapped: Option<&Tapped>, out: &mut dyn Write) -> std::io::Result<()> {
    let Some(tapped) = tapped else { return writeln!(out, "  the queue received    nothing") };
    writeln!(out, "  the queue received    {}", tapped.routing_key)?;
    writeln!(out, "    message_id          {}", tapped.message_id)?;
    let body: Value = serde_json::from_slice(&tapped.body).unwrap_or_default();
    for name in ["out_trade_no", "total_amount", "paid_at", "subject"] {
        if let Some(text) = body.get(name).and_then(Value::as_str) {
            writeln!(out, "    {name:<19} {text}")?;
        }
    }
    if let Some(refund) = body.get("refund") {
        writeln!(out, "    refund              {refund}")?;
    }
    Ok(())
}

const STEPS: [Step; 4] = [
    Step { kind: Kind::Payment, title: "1  A buyer pays", event: Some("payment.succeeded") },
    Step {
        kind: Kind::Redelivery,
        title: "2  Alipay delivers it again (new notify_time, new sign)",
        event: None,
    },
    Step {
        kind: Kind::Refund,
        title: "3  Half of it is given back (trade_status is still TRADE_SUCCESS)",
        event: Some("payment.refunded"),
    },
    Step { kind: Kind::Forged, title: "4  Somebody changes an amount on the way", event: None },
];
/// How long an event that must come may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to look for one that must not come: long after the answer, which comes after the confirm.
const SILENCE: Duration = Duration::from_millis(500);
