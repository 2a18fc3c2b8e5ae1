//! `simulate send`: many notifications at a rate or a concurrency, every answer checked; with `--time-scale` each one
//! again and again on Alipay's schedule, until it is answered `success`.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::Identity;
use super::journal::{Delivered, Journal};
use super::plan::{Plan, Signed, read_bodies, write_bodies};
use super::tally::{Summary, Tally};
use crate::cli::{DONE, FAILED, Failure};
use crate::clock::{Clock as _, SystemClock};
use crate::lifecycle::Tasks;
use crate::signer::Signer;
use crate::signer::notification::{Kind, Notification};
use crate::simulator::client::{Answer, Client, Target};
use crate::simulator::schedule::Schedule;

/// Send signed notifications and check the answers. Exits 0 if every answer was as promised, else 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  alipay-notify-gateway simulate send --url http://127.0.0.1:8080/alipay/notify --key sandbox/alipay-private.pem \\
    --count 1000 --concurrency 64 --shares payment=80,redelivery=10,refund=5,finish=3,forged=2

With --time-scale it is as stubborn as Alipay: what is not answered exactly success, or not at all, is delivered again
with a new notify_time and signature, 4, 10 and 10 minutes and 1, 2, 6 and 15 hours later, divided by the scale.")]
pub(super) struct Args {
    /// The notify URL.
    #[arg(long, value_name = "URL", required_unless_present = "bodies_out")]
    url: Option<String>,
    #[command(flatten)]
    pub(super) identity: Identity,
    /// How many notifications.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) count: u32,
    /// How many at once, each on a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    concurrency: u32,
    /// How many a second, first deliveries only; as many as get answered if not given.
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// The shares of the kinds: payment, redelivery, refund, finish, forged.
    #[arg(long, value_name = "KIND=SHARE,…", default_value = "payment=100")]
    pub(super) shares: String,
    /// Makes the same trades again.
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// Deliver again what is not answered success, on Alipay's schedule divided by this: 1 is Alipay's own pace,
    /// 3600 makes its 24 hours 24 seconds.
    #[arg(long, value_name = "N", conflicts_with = "bodies", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(super) time_scale: Option<u32>,
    /// Add a JSON line for each delivery to this file; each then carries a trace context by which its event is known.
    #[arg(long, value_name = "FILE", conflicts_with = "bodies")]
    pub(super) journal: Option<PathBuf>,
    /// Sign everything before the first is sent (for measuring).
    #[arg(long)]
    presign: bool,
    /// Send these instead: a file that --bodies-out wrote.
    #[arg(long, value_name = "FILE", conflicts_with = "bodies_out")]
    bodies: Option<PathBuf>,
    /// Sign, write to a file, and send nothing.
    #[arg(long, value_name = "FILE")]
    bodies_out: Option<PathBuf>,
    /// How to print the summary.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// A delivery that is due.
struct Due {
    signed: Signed,
    /// When it was to go, where `--rate` says so: what it waits then for a connection counts as waiting for its answer.
    at: Option<Instant>,
    /// From 1.
    attempt: u32,
    /// Where the next one goes. Everything is over when nobody holds one of these any more.
    again: mpsc::Sender<Self>,
}

/// What the senders share.
struct Post {
    due: Mutex<mpsc::Receiver<Due>>,
    tally: Mutex<Tally>,
    schedule: Option<Schedule>,
    journal: Option<Journal>,
    signer: Signer,
    bar: ProgressBar,
    tasks: Tasks,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let plan = Plan::of(args)?;
    if let Some(file) = &args.bodies_out {
        return write_bodies(plan, file, out);
    }
    let target = Target::parse(args.url.as_deref().unwrap_or_default()).map_err(Failure::usage)?;
    let bodies = args.bodies.as_deref().map(read_bodies).transpose()?;
    let journal = args.journal.as_deref().map(Journal::create).transpose()?;
    let signer = args.identity.signer()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let summary = runtime.block_on(send_all(args, plan, bodies, target, (journal, signer)));
    runtime.shutdown_background();
    match args.format {
        Format::Text => summary.print(out)?,
        Format::Json => writeln!(out, "{}", serde_json::to_string(&summary).unwrap_or_default())?,
    }
    Ok(if summary.is_as_promised() { DONE } else { FAILED })
}

async fn send_all(
    args: &Args,
    plan: Plan,
    bodies: Option<Vec<Signed>>,
    target: Target,
    (journal, signer): (Option<Journal>, Signer),
) -> Summary {
    let count = bodies
        .as_ref()
        .map_or(u64::from(args.count), |bodies| u64::try_from(bodies.len()).unwrap_or(u64::MAX));
    // Bound: signing runs ahead of sending by this much.
    let ahead = if args.presign { usize::try_from(count).unwrap_or(1) } else { 1024 };
    let (sender, signed) = mpsc::channel(ahead);
    let feeding = tokio::task::spawn_blocking(move || match bodies {
        Some(bodies) => bodies.into_iter().for_each(|signed| drop(sender.blocking_send(signed))),
        None => plan.into_iter().for_each(|signed| drop(sender.blocking_send(signed))),
    });
    if args.presign {
        let _ = feeding.await;
    }
    let began = Instant::now();
    // Bound: what is due and finds every connection busy waits outside.
    let (again, due) = mpsc::channel(usize::try_from(args.concurrency).unwrap_or(1));
    let post = Arc::new(Post {
        due: Mutex::new(due),
        tally: Mutex::default(),
        schedule: args.time_scale.map(Schedule::divided_by),
        journal,
        signer,
        bar: progress(count),
        tasks: Tasks::default(),
    });
    post.tasks.spawn(pace(signed, args.rate, again));
    for _ in 0..args.concurrency {
        post.tasks.spawn(Arc::clone(&post).deliver_all(Client::new(target.clone())));
    }
    post.tasks.ended().await;
    post.bar.finish_and_clear();
    let tally = std::mem::take(&mut *post.tally.lock().await);
    tally.summary(began.elapsed())
}

/// Lets the first deliveries go when it is their turn.
async fn pace(mut signed: mpsc::Receiver<Signed>, rate: Option<u32>, again: mpsc::Sender<Due>) {
    let began = Instant::now();
    let pace = rate.map(|rate| Duration::from_secs(1) / rate);
    let mut count = 0;
    while let Some(signed) = signed.recv().await {
        let at = pace.map(|pace| began + pace * count);
        if let Some(at) = at {
            tokio::time::sleep_until(at).await;
            count += 1;
        }
        let due = Due { signed, at, attempt: 1, again: again.clone() };
        let _ = again.send(due).await;
    }
}

impl Post {
    /// One connection's work.
    async fn deliver_all(self: Arc<Self>, mut client: Client) {
        let mut mine = Tally::default();
        let mut random = SmallRng::seed_from_u64(rand::random());
        loop {
            let due = self.due.lock().await.recv().await;
            let Some(due) = due else { break };
            let kind = due.signed.kind;
            let since = due.at.unwrap_or_else(Instant::now);
            let answer = self.deliver(&due, &mut client, &mut random).await;
            let success = answer.as_ref().map(Answer::is_success);
            mine.count(kind, success, since.elapsed());
            match self.next(&due, success, kind) {
                Some(pause) => self.deliver_later(due, pause),
                None => {
                    mine.judge(kind, success);
                    self.bar.inc(1);
                }
            }
        }
        self.tally.lock().await.merge(mine);
    }

    async fn deliver(&self, due: &Due, client: &mut Client, random: &mut SmallRng) -> Result<Answer, String> {
        let (Some(journal), Some(notification)) = (&self.journal, &due.signed.notification) else {
            return client.deliver(due.signed.body.clone(), None).await;
        };
        let traceparent = format!("00-{:032x}-{:016x}-01", random.random::<u128>(), random.random::<u64>());
        let began = SystemClock.now();
        let answer = client.deliver(due.signed.body.clone(), Some(&traceparent)).await;
        let (attempt, ended) = (due.attempt, SystemClock.now());
        let delivered =
            Delivered { notification, attempt, traceparent: &traceparent, began, ended, answer: &answer };
        match journal.note(&delivered) {
            Ok(()) => answer,
            Err(error) => Err(format!("--journal: {error}")),
        }
    }

    /// When it is delivered again, if it is. A forger is not as stubborn as Alipay.
    fn next(&self, due: &Due, success: Result<bool, &String>, kind: Kind) -> Option<Duration> {
        let again = kind.is_authentic() && success != Ok(true);
        self.schedule.filter(|_| again)?.after(due.attempt)
    }

    /// Bound: one for each notification that is not answered `success` yet.
    fn deliver_later(self: &Arc<Self>, due: Due, pause: Duration) {
        let post = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            let Due { mut signed, attempt, again, .. } = due;
            if let Some(notification) = &mut signed.notification {
                signed.body = post.sign_again(notification);
            }
            let due = Due { signed, at: None, attempt: attempt + 1, again: again.clone() };
            let _ = again.send(due).await;
        });
    }

    fn sign_again(&self, notification: &mut Notification) -> Bytes {
        notification.again(SystemClock.now());
        Bytes::from(notification.body(&self.signer, &mut SmallRng::seed_from_u64(rand::random())))
    }
}

/// On a terminal only.
pub(super) fn progress(count: u64) -> ProgressBar {
    let bar = ProgressBar::new(count);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}");
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_a_connection_is_late_from_the_moment_that_it_was_due() {
        let (signing, signed) = mpsc::channel(3);
        let (again, mut due) = mpsc::channel(1);
        let tasks = Tasks::default();
        for _ in 0..3 {
            let kind = Kind::Payment;
            signing.send(Signed { kind, body: Bytes::new(), notification: None }).await.unwrap();
        }
        drop(signing);
        let began = Instant::now();
        tasks.spawn(pace(signed, Some(100), again));
        for number in 0..3 {
            // Every connection is busy for a second.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let at = due.recv().await.and_then(|due| due.at);
            assert_eq!(at, Some(began + Duration::from_millis(10) * number));
        }
    }
}
