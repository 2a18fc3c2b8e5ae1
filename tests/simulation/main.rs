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
mod store;
mod verdict;
mod world;

use verdict::Report;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.replace('_', "").parse().unwrap())
}

fn print(report: &Report) {
    for (what, count) in &report.counts {
        eprintln!("{count:>12}  {what}");
    }
}

#[test]
fn whatever_breaks_nothing_is_lost_and_nothing_is_repeated_outside_the_windows() {
    let mut all = Report::default();
    if let Some(seed) = number("SIMULATION_SEED") {
        let (report, hash) = world::run(seed, number("SIMULATION_TOLD").is_some());
        eprintln!("seed {seed}: history {hash:016x}");
        all.add(report);
    } else {
        let length = number("SIMULATION_NOTIFICATIONS").unwrap_or(20_000);
        let first = number("SIMULATION_FIRST_SEED").unwrap_or(1);
        for seed in first.. {
            all.add(world::run(seed, false).0);
            if all.get("notifications") >= length || !all.violations.is_empty() {
                break;
            }
        }
    }
    print(&all);
    assert!(all.violations.is_empty(), "{}", all.violations.join("\n"));
}
