//! Plays a story's steps: delivers, watches what the gateway announces, and says what was not as promised.

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
use crate::cli::Failure;
use crate::cli::events::{Watch, Watched};
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
    watch: Watch,
    /// What was announced while a command ran.
    early: Vec<Value>,
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
        watched: &Watched,
        target: Target,
        (signer, next): (Signer, Option<Signer>),
        commands: Commands,
    ) -> Result<Self, Failure> {
        let watch = watched.begin().await?;
        let merchant = Merchant { app_id: identity.app_id.clone(), seller_id: identity.seller_id.clone() };
        let stranger = Signer::generate().map_err(|error| Failure::running(error.to_string()))?;
        let random = SmallRng::seed_from_u64(rand::random());
        let early = Vec::new();
        Ok(Self { watch, early, target, merchant, signer, next, stranger, commands, random })
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
                    let mend = self.commands.mend.clone().filter(|_| tale.needs_commands());
                    let _ = self.shell(mend).await;
                    return Err(failure);
                }
            };
            for fault in &faults {
                writeln!(out, "   NOT AS PROMISED: {fault}")?;
            }
            if !faults.is_empty() {
                for kept in self.watch.kept(trade.trade_no()).await {
                    writeln!(out, "   the gateway keeps: {kept}")?;
                }
            }
            broken += u32::from(!faults.is_empty());
        }
        Ok(broken)
    }

    async fn step(&mut self, step: &Step, trade: &Trade) -> Result<(Seen, Vec<String>), Failure> {
        match step.scene {
            Scene::Broken => {
                self.shell(self.commands.r#break.clone()).await?;
                Ok((Seen { answers: Vec::new(), events: Vec::new() }, Vec::new()))
            }
            Scene::Mended(event) => {
                self.shell(self.commands.mend.clone()).await?;
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
        // What was not answered success is not announced before the answer; it may be long after.
        let was_taken = answers.iter().flatten().any(Answer::is_success);
        let patience = if was_taken { PATIENCE } else { SILENCE };
        let events = self.events(trade, event.len(), patience).await?;
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
            let before = events.len();
            self.early.append(&mut self.watch.look().await?.events);
            // Somebody else's trades may be announced, too.
            events.extend(self.early.drain(..).filter_map(|event| event_of(&event, trade)));
            if before < expected && events.len() >= expected {
                until = Instant::now() + SILENCE;
            }
            if Instant::now() >= until {
                return Ok(events);
            }
            tokio::time::sleep(PAUSE).await;
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

    /// Looks meanwhile, so that the gateway goes on gathering. Bound: [`COMMAND_DEADLINE`].
    async fn shell(&mut self, command: Option<String>) -> Result<(), Failure> {
        let Some(command) = command else { return Ok(()) };
        let running = command.clone();
        let mut running = tokio::task::spawn_blocking(move || {
            let mut shell = Command::new("sh");
            shell.args(["-c", &running]).stdin(Stdio::null()).stdout(Stdio::null()).status()
        });
        let until = Instant::now() + COMMAND_DEADLINE;
        while Instant::now() < until {
            match tokio::time::timeout(SILENCE, &mut running).await {
                Ok(Ok(Ok(status))) if status.success() => return Ok(()),
                Ok(Ok(Ok(status))) => {
                    return Err(Failure::running(format!("`{command}` ended with {status}")));
                }
                Ok(Ok(Err(error))) => return Err(Failure::running(format!("`{command}`: {error}"))),
                Ok(Err(error)) => return Err(Failure::running(format!("`{command}`: {error}"))),
                Err(_) => self.early.append(&mut self.watch.look().await?.events),
            }
        }
        Err(Failure::running(format!("`{command}` took longer than {COMMAND_DEADLINE:?}")))
    }
}

/// The type of an event, if it is the trade's.
fn event_of(event: &Value, trade: &Trade) -> Option<String> {
    let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    // An id is app, trade, type, and more.
    let is_of_it = text("event_id").split('.').nth(1) == Some(trade.trade_no());
    is_of_it.then(|| text("event_type").to_owned())
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

/// How long an event that must come may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The gateway's back-off, and the broker's own time to recover.
const PATIENCE_AFTER_AN_OUTAGE: Duration = Duration::from_secs(90);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// How long to look for one that must not come: long after the answer, which comes after the confirm.
const SILENCE: Duration = Duration::from_millis(500);
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);
/// Beyond `freshness.max_age` as it is by default.
const TWO_DAYS_MILLIS: i64 = 48 * 3600 * 1000;
