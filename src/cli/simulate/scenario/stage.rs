//! Plays a story's steps: delivers, listens to the queue, and says what was not as promised.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use serde_json::Value;
use tokio::time::Instant;

use super::tales::{Manner, Promise, Scene, Step, Tale, What};
use crate::broker::LinkError;
use crate::broker::tap::Tap;
use crate::cli::Failure;
use crate::cli::broker_at::BrokerAt;
use crate::cli::simulate::Identity;
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::event::Money;
use crate::signer::Signer;
use crate::signer::notification::{Fact, Merchant, Refund, Trade, body_in_gbk, signed_body};
use crate::simulator::client::{Answer, Client, Target};

/// What makes the broker take nothing more, and what ends that.
pub(super) struct Commands {
    pub(super) r#break: Option<String>,
    pub(super) mend: Option<String>,
}

/// Where stories are played.
pub(super) struct Stage {
    tap: Tap,
    target: Target,
    merchant: Merchant,
    signer: Signer,
    next: Option<Signer>,
    stranger: Signer,
    commands: Commands,
    random: SmallRng,
}

/// What was seen of a step.
struct Seen {
    answers: Vec<Result<Answer, String>>,
    events: Vec<String>,
}

impl Stage {
    pub(super) async fn open(
        identity: &Identity,
        broker: &BrokerAt,
        target: Target,
        (signer, next): (Signer, Option<Signer>),
        commands: Commands,
    ) -> Result<Self, Failure> {
        let tap = Tap::open(&broker.uri()?, &broker.exchange).await.map_err(gone)?;
        let merchant = Merchant { app_id: identity.app_id.clone(), seller_id: identity.seller_id.clone() };
        let stranger = Signer::generate().map_err(|error| Failure::running(error.to_string()))?;
        let random = SmallRng::seed_from_u64(rand::random());
        Ok(Self { tap, target, merchant, signer, next, stranger, commands, random })
    }

    /// Gives how many steps were not as promised. The broker is mended whatever happened.
    pub(super) async fn play(&mut self, tale: &Tale, out: &mut dyn Write) -> Result<u32, Failure> {
        let trade = Trade::new(&self.merchant, &mut self.random, SystemClock.now());
        writeln!(out, "   trade {}", trade.trade_no())?;
        let mut broken = 0;
        for (number, step) in tale.steps.iter().enumerate() {
            writeln!(out, "{:>2} {}", number + 1, step.title)?;
            let played = self.step(step, &trade).await;
            let faults = match played {
                Ok((seen, faults)) => {
                    show(&seen, out)?;
                    faults
                }
                Err(failure) => {
                    let _ = self.shell(self.commands.mend.as_deref().filter(|_| tale.needs_commands())).await;
                    return Err(failure);
                }
            };
            for fault in &faults {
                writeln!(out, "   NOT AS PROMISED: {fault}")?;
            }
            broken += u32::from(!faults.is_empty());
        }
        Ok(broken)
    }

    async fn step(&mut self, step: &Step, trade: &Trade) -> Result<(Seen, Vec<String>), Failure> {
        match step.scene {
            Scene::Broken => {
                self.shell(self.commands.r#break.as_deref()).await?;
                Ok((Seen { answers: Vec::new(), events: Vec::new() }, Vec::new()))
            }
            Scene::Mended(event) => {
                self.shell(self.commands.mend.as_deref()).await?;
                let events = self.events(trade, 1, PATIENCE_AFTER_AN_OUTAGE).await?;
                let seen = Seen { answers: Vec::new(), events };
                let faults = unexpected(&seen.events, &[event]);
                Ok((seen, faults))
            }
            Scene::Told(what, manner, promise) => self.tell(trade, what, manner, promise).await,
        }
    }

    async fn tell(
        &mut self,
        trade: &Trade,
        what: What,
        manner: Manner,
        promise: Promise,
    ) -> Result<(Seen, Vec<String>), Failure> {
        let times = if manner == Manner::EightAtOnce { 8 } else { 1 };
        let bodies: Vec<String> = (0..times).map(|_| self.body(trade, what, manner)).collect();
        let deliver = |body: String| {
            let mut client = Client::new(self.target.clone());
            async move { client.deliver(Bytes::from(body), None).await }
        };
        let answers = join_all(bodies.into_iter().map(deliver)).await;
        let (expected, event): (bool, &[&str]) = match &promise {
            Promise::Announced(event) => (true, std::slice::from_ref(event)),
            Promise::Known => (true, &[]),
            Promise::Refused => (false, &[]),
        };
        let events = self.events(trade, event.len(), PATIENCE).await?;
        let mut faults = unexpected(&events, event);
        for answer in &answers {
            let success = answer.as_ref().is_ok_and(Answer::is_success);
            if success != expected {
                let word = if expected { "success" } else { "anything but success" };
                faults.push(format!("the answer had to be {word}"));
            }
        }
        Ok((Seen { answers, events }, faults))
    }

    /// The events of the trade: as many as are expected, and whatever comes in the moment after.
    async fn events(
        &mut self,
        trade: &Trade,
        expected: usize,
        patience: Duration,
    ) -> Result<Vec<String>, Failure> {
        let mut events = Vec::new();
        let mut until = Instant::now() + if expected == 0 { SILENCE } else { patience };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some(tapped) = self.tap.next(left).await.map_err(gone)? else { return Ok(events) };
            let body: Value = serde_json::from_slice(&tapped.body).unwrap_or_default();
            // Somebody else's trades may go through the same exchange.
            if body.get("trade_no").and_then(Value::as_str) == Some(trade.trade_no()) {
                events.push(tapped.routing_key);
                if events.len() == expected {
                    until = Instant::now() + SILENCE;
                }
            }
        }
    }

    fn body(&mut self, trade: &Trade, what: What, manner: Manner) -> String {
        let now = SystemClock.now();
        let at =
            if manner == Manner::Expired { now.unix_millis() - TWO_DAYS_MILLIS } else { now.unix_millis() };
        let (fact, id) = fact_of(what, trade);
        let notify_id = format!("{}{id}", trade.trade_no());
        let mut fields = trade.told(&fact, &notify_id, Timestamp::from_unix_millis(at));
        let more = Money::from_minor(trade.purchase().total_amount.minor() + 100).to_string();
        if what == What::PaidMore {
            for (_, value) in fields.iter_mut().filter(|(name, _)| name == "total_amount") {
                value.clone_from(&more);
            }
        }
        let random = &mut self.random;
        match manner {
            Manner::Once | Manner::EightAtOnce | Manner::Expired => {
                signed_body(fields, &self.signer, None, random)
            }
            Manner::InGbk => body_in_gbk(fields, &self.signer),
            Manner::Forged => signed_body(fields, &self.signer, Some(&more), random),
            Manner::ByAStranger => signed_body(fields, &self.stranger, None, random),
            Manner::ByTheNextKey => {
                signed_body(fields, self.next.as_ref().unwrap_or(&self.signer), None, random)
            }
        }
    }

    /// Bound: [`COMMAND_DEADLINE`].
    async fn shell(&self, command: Option<&str>) -> Result<(), Failure> {
        let Some(command) = command.map(str::to_owned) else { return Ok(()) };
        let running = command.clone();
        let running = tokio::task::spawn_blocking(move || {
            let mut shell = Command::new("sh");
            shell.args(["-c", &running]).stdin(Stdio::null()).stdout(Stdio::null()).status()
        });
        match tokio::time::timeout(COMMAND_DEADLINE, running).await {
            Ok(Ok(Ok(status))) if status.success() => Ok(()),
            Ok(Ok(Ok(status))) => Err(Failure::running(format!("`{command}` ended with {status}"))),
            Ok(Ok(Err(error))) => Err(Failure::running(format!("`{command}`: {error}"))),
            Ok(Err(error)) => Err(Failure::running(format!("`{command}`: {error}"))),
            Err(_) => Err(Failure::running(format!("`{command}` took longer than {COMMAND_DEADLINE:?}"))),
        }
    }
}

/// What it is, and the part of its `notify_id` that no other has.
fn fact_of(what: What, trade: &Trade) -> (Fact, &'static str) {
    // The same refund is the same whenever it is told.
    let at = trade.created_at().plus(Duration::from_millis(1_500));
    let amount = trade.purchase().total_amount;
    let refund = |number: u32, refunded| {
        Fact::Refunded(Refund {
            out_biz_no: format!("{}-{number}", trade.purchase().out_trade_no),
            refunded,
            at,
        })
    };
    match what {
        What::Paid | What::PaidMore => (Fact::Paid, "p"),
        What::HalfRefunded => (refund(1, Money::from_minor(amount.minor().div_ceil(2))), "r1"),
        What::AllRefunded => (refund(2, amount), "r2"),
        What::Finished => (Fact::Finished, "f"),
        What::Closed => (Fact::Closed(at), "c"),
    }
}

fn unexpected(events: &[String], expected: &[&str]) -> Vec<String> {
    if events == expected {
        return Vec::new();
    }
    let words = |events: &[&str]| if events.is_empty() { "no event".to_owned() } else { events.join(", ") };
    let came: Vec<&str> = events.iter().map(String::as_str).collect();
    vec![format!("expected {}, and there was {}", words(expected), words(&came))]
}

fn show(seen: &Seen, out: &mut dyn Write) -> std::io::Result<()> {
    let mut said: Vec<(String, u32)> = Vec::new();
    for answer in &seen.answers {
        let text = match answer {
            Ok(answer) => format!("{} {}", answer.status.as_u16(), plain(&answer.body)),
            Err(error) => error.clone(),
        };
        match said.iter_mut().find(|(known, _)| *known == text) {
            Some((_, times)) => *times += 1,
            None => said.push((text, 1)),
        }
    }
    for (text, times) in said {
        let times = if times == 1 { String::new() } else { format!(" ({times} times)") };
        writeln!(out, "   answered  {text}{times}")?;
    }
    for event in &seen.events {
        writeln!(out, "   announced {event}")?;
    }
    Ok(())
}

fn plain(body: &[u8]) -> String {
    body.iter().take(40).map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect()
}

fn gone(error: LinkError) -> Failure {
    Failure::running(format!("--amqp: {error}"))
}

/// How long an event that must come may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The gateway's back-off, and the broker's own time to recover.
const PATIENCE_AFTER_AN_OUTAGE: Duration = Duration::from_secs(90);
/// How long to look for one that must not come: long after the answer, which comes after the confirm.
const SILENCE: Duration = Duration::from_millis(500);
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);
/// Beyond `freshness.max_age` as it is by default.
const TWO_DAYS_MILLIS: i64 = 48 * 3600 * 1000;
