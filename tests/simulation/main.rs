//! The real publication code in simulated worlds.

#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may fail loudly, and spawn"
)]

mod alipay;
mod broker;
mod faults;
mod replicas;
mod store;
mod verdict;
mod world;

use std::cell::Cell;
use std::sync::Once;

use verdict::Report;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.replace('_', "").parse().unwrap())
}

fn print(report: &Report) {
    for (what, count) in &report.counts {
        eprintln!("{count:>12}  {what}");
    }
}

/// The worlds of so many notifications, from one seed on; they end with the first that fails.
fn worlds(first: u64, notifications: u64) -> Report {
    let mut all = Report::default();
    let mut said = 0;
    for seed in first.. {
        all.add(live_through(seed, false).0);
        if seed & world::SHARED == 0 && seed.is_multiple_of(SHARED_EVERY) && all.violations.is_empty() {
            all.add(live_through(seed | world::SHARED, false).0);
        }
        if all.get("notifications") >= said + PROGRESS {
            said = all.get("notifications");
            eprintln!("{said} notifications, up to seed {seed}");
        }
        if all.get("notifications") >= notifications || !all.violations.is_empty() {
            break;
        }
    }
    all
}

/// Lives through one world. What panics in a task of the gateway ends the process: then this is how its seed is known.
fn live_through(seed: u64, is_told: bool) -> (Report, u64) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            eprintln!("in the world of SIMULATION_SEED={}", SEED.get());
            usual(panic);
        }));
    });
    SEED.set(seed);
    world::run(seed, is_told)
}

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

#[test]
fn whatever_breaks_nothing_is_lost_and_nothing_is_repeated_outside_the_windows() {
    let first = number("SIMULATION_FIRST_SEED").unwrap_or(1);
    let all = match number("SIMULATION_SEED") {
        Some(seed) => {
            let (report, history) = live_through(seed, number("SIMULATION_TOLD").is_some());
            eprintln!("the history of seed {seed} is {history:016x}");
            report
        }
        None => worlds(first, number("SIMULATION_NOTIFICATIONS").unwrap_or(USUAL)),
    };
    print(&all);
    let list = all.violations.join("\n");
    assert!(all.violations.is_empty(), "{list}\nreplay it with SIMULATION_SEED=… SIMULATION_TOLD=1");
    if all.get("notifications") >= ENOUGH {
        let never: Vec<_> = MUST_HAPPEN.iter().filter(|what| all.get(what) == 0).collect();
        assert!(never.is_empty(), "these never happened, so nothing is shown about them: {never:?}");
    }
}

#[test]
fn a_seed_replays_exactly_in_this_process_and_in_another() {
    const SEED: u64 = 1;
    let (_, history) = live_through(SEED, false);
    assert_eq!(live_through(SEED, false).1, history);
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["whatever_breaks", "--nocapture"])
        .env("SIMULATION_SEED", SEED.to_string())
        .env_remove("SIMULATION_TOLD")
        .output()
        .unwrap();
    let told = String::from_utf8(child.stderr).unwrap();
    let line = format!("the history of seed {SEED} is {history:016x}");
    assert!(told.contains(&line), "{line}, but in another process:\n{told}");
}

/// What each found is in CHANGELOG.md and beside the code that was mended. A change of the simulation draws other worlds from
/// them; until then they are these.
#[test]
fn the_worlds_that_once_found_something_find_nothing_now() {
    for seed in FOUND_SOMETHING {
        let (report, _) = live_through(seed, false);
        assert!(report.violations.is_empty(), "{}", report.violations.join("\n"));
    }
}

const FOUND_SOMETHING: [u64; 6] =
    [102_288, 104_657, MANY + 100_053, MANY + 100_386, MANY + 100_977, MANY + 101_655];
/// Added to a seed, several gateways live in its world.
const MANY: u64 = 1 << 32;

/// Without a word of the environment: a taste of it for every run of the tests.
const USUAL: u64 = 3_000;
/// Beside every so-manyth world there is one of several gateways over one store, whose seed has a bit more.
const SHARED_EVERY: u64 = 3;
/// A line for each so many notifications.
const PROGRESS: u64 = 100_000;
/// From so many notifications on everything below must have happened.
const ENOUGH: u64 = 200_000;
/// Windows and crash points without which a run shows little.
const MUST_HAPPEN: [&str; 24] = [
    "again: same id, other money",
    "broker: channel closed",
    "broker: connection lost",
    "broker: returned",
    "channel or connection lost before the confirm",
    "confirm later than 60 s",
    "confirm: ack with a return",
    "crash before the confirm",
    "crash between confirm and record",
    "crash: before a claim or a look",
    "crash: before a confirm",
    "crash: before a delivery",
    "crash: before a publish, or within a batch",
    "crash: before a write",
    "crash: before the answer",
    "crash: before the broker takes a message",
    "crash: synced, not known",
    "crash: written, not synced",
    "nacked by one of several queues",
    "stopped in order",
    "success: followed",
    "the client hung up",
    "the disk was lost",
    "unchecked: the store was away",
];
