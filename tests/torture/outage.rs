//! The broker takes nothing for long, and is away: what the gateway keeps meanwhile, how much memory that takes, how
//! fast it is announced afterwards, and how soon. The broker is a private node (`deploy/broker.sh`), because a shared one
//! is not to be stopped: `TORTURE_BROKER` names its folder, and `tests/torture.sh` sets it.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::checker::Interruption;
use crate::ground::{Ground, figure, number};
use crate::moment::Moment;
use crate::proxy::place;

#[test]
#[ignore = "needs a private node and ten minutes: tests/torture.sh"]
fn what_came_while_the_broker_was_blocked_is_kept_in_bounded_memory_and_drained() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut ground = Ground::new("blocked", str::to_owned);
    let rate = u32::try_from(number("TORTURE_RATE").unwrap_or(40)).unwrap();
    let lasts = Duration::from_secs(number("TORTURE_BLOCKED_SECONDS").unwrap_or(600));
    ground.gateway.start(&[]);
    ground.gateway.wait_until_up();
    let consumer = runtime.block_on(ground.consumer());
    ground.go_on(Duration::from_secs(5), rate);
    let from = Moment::now();
    let blocked = Blocked::now();
    ground.go_on(lasts, rate);
    assert_eq!(ground.gateway.metric("broker_blocked"), Some(1.0));
    let (kept, peak) = (ground.gateway.backlog().unwrap(), ground.gateway.peak_memory().unwrap());
    // Alipay stops first, so that what is announced now is the drain's.
    ground.alipay_is_done();
    drop(blocked);
    let (until, began) = (Moment::now(), Instant::now());
    let recovery = announces_again(&mut ground, began);
    let kept = kept.max(ground.gateway.backlog().unwrap());
    ground.gateway.wait_until_drained(Duration::from_secs(1800));
    let drained_in = began.elapsed();
    ground.come_to_rest();
    runtime.block_on(consumer.catch_up());
    let fault = Interruption::Fault { what: "blocked".to_owned(), from, until };
    let report = ground.chronicle(&consumer, vec![fault]).check();
    assert!(report.is_clean(), "seed {}\n{}", ground.seed, report.complaints());
    runtime.block_on(consumer.take_away());
    let run = "broker blocked under load";
    report.tell(run, ground.seed);
    figure(run, "blocked for, seconds", until.since(from).as_secs());
    figure(run, "notifications a second", rate);
    figure(run, "peak memory, MiB", peak);
    figure(run, "kept for the broker", kept);
    figure(run, "drained in, seconds", drained_in.as_secs());
    figure(run, "drained a second", kept / drained_in.as_secs().max(1));
    figure(run, "until it announced again, ms", recovery.as_millis());
    assert!(peak < 128, "{peak} MiB");
}

#[test]
#[ignore = "needs a private node: tests/torture.sh"]
fn when_the_broker_comes_back_it_is_announced_again_without_a_restart() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut ground = Ground::new("away", str::to_owned);
    ground.gateway.start(&[]);
    ground.gateway.wait_until_up();
    let (mut longest, mut faults) = (Duration::ZERO, Vec::new());
    for _ in 0..number("TORTURE_OUTAGES").unwrap_or(3) {
        let from = Moment::now();
        broker(&["stop_app"]);
        ground.go_on(OUTAGE, RATE);
        let starting = std::thread::spawn(|| broker(&["start_app"]));
        let back = wait_until_back(&mut ground);
        let until = Moment::now();
        longest = longest.max(announces_again(&mut ground, back));
        faults.push(Interruption::Fault { what: "away".to_owned(), from, until });
        starting.join().unwrap();
        ground.go_on(BETWEEN, RATE);
    }
    ground.come_to_rest();
    let consumer = runtime.block_on(ground.consumer());
    runtime.block_on(consumer.catch_up());
    let report = ground.chronicle(&consumer, faults.clone()).check();
    assert!(report.is_clean(), "seed {}\n{}", ground.seed, report.complaints());
    assert_eq!(ground.gateway.lives().len(), 1, "it was never started again");
    runtime.block_on(consumer.take_away());
    let run = "broker stopped and started";
    report.tell(run, ground.seed);
    figure(run, "outages", faults.len());
    figure(run, "longest until it announced again, ms", longest.as_millis());
    assert!(longest < RECOVERY, "{longest:?}");
}

/// How long it takes until the next confirm.
fn announces_again(ground: &mut Ground, back: Instant) -> Duration {
    let before = ground.gateway.confirmed().unwrap();
    ground.gateway.wait_until(PATIENCE, "it announces again", |gateway| gateway.confirmed() > Some(before));
    back.elapsed()
}

/// When the broker takes connections again.
fn wait_until_back(ground: &mut Ground) -> Instant {
    let began = Instant::now();
    loop {
        ground.keep_busy(RATE);
        if TcpStream::connect(place(&ground.amqp)).is_ok() {
            return Instant::now();
        }
        assert!(began.elapsed() < PATIENCE, "the broker does not come back");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A memory alarm, until it is dropped.
struct Blocked;

impl Blocked {
    fn now() -> Self {
        broker(&["set_vm_memory_high_watermark", "0"]);
        Self
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        broker(&["set_vm_memory_high_watermark", "0.4"]);
    }
}

fn broker(arguments: &[&str]) {
    let folder = std::env::var("TORTURE_BROKER").unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/broker.sh");
    let done = Command::new(script).args(["ctl", &folder]).args(arguments).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

const RATE: u32 = 40;
const OUTAGE: Duration = Duration::from_secs(8);
const BETWEEN: Duration = Duration::from_secs(3);
/// The bar: announcing again within 5 s of the broker's return.
const RECOVERY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(600);
