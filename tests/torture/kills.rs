//! The program as it is shipped, killed at random moments.

use std::time::{Duration, Instant};

use rand::RngExt as _;

use crate::alipay::{Alipay, Task};
use crate::checker::{Report, kills};
use crate::consumer::Consumer;
use crate::ground::{Ground, figure, number};

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_announced_twice_without_a_kill_between() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let all = number("TORTURE_KILLS").unwrap_or(8);
    let mut ground = Ground::new("kills", str::to_owned);
    ground.gateway.start(&[]);
    ground.gateway.wait_until_up();
    let consumer = runtime.block_on(ground.consumer());
    let began = Instant::now();
    let mut killed = 0;
    let mut report = Report::default();
    while killed < all {
        killed += round(&mut ground, (all - killed).min(KILLS_A_ROUND));
        runtime.block_on(consumer.catch_up());
        report = check(&ground, &consumer);
        println!(
            "{killed} kills, {} notifications, {} acknowledged, {} copies, {} duplicates inside the windows, {} recovered",
            report.attempted,
            report.acknowledged,
            report.copies,
            report.inside(),
            report.recovered
        );
        assert!(report.is_clean(), "seed {}\n{}", ground.seed, report.complaints());
    }
    assert!(ground.gateway.stop().success());
    tell(&ground, &report, killed, began.elapsed());
}

/// Kills it again and again while Alipay is at work; then everything comes to rest.
fn round(ground: &mut Ground, most: u64) -> u64 {
    let rate = number("TORTURE_RATE").unwrap_or(60);
    let mean = Duration::from_millis(number("TORTURE_KILL_EVERY_MS").unwrap_or(1500));
    let count = rate * most * u64::try_from(mean.as_millis()).unwrap() / 1000;
    let (count, rate) = (u32::try_from(count.max(1)).unwrap(), u32::try_from(rate).unwrap());
    let task = Task { count, rate, seed: ground.random.random(), scale: 3600 };
    let mut alipay = Alipay::start(ground.folder(), ground.gateway.http(), &task);
    let mut killed = 0;
    while killed < most && !alipay.is_done() {
        // Now and then before it is even up.
        let most = if ground.random.random_ratio(1, 16) { mean / 10 } else { mean * 2 };
        std::thread::sleep(most.mul_f64(ground.random.random()));
        ground.gateway.kill();
        ground.gateway.start(&[]);
        killed += 1;
    }
    ground.deliveries.extend(alipay.finish());
    ground.gateway.wait_until_up();
    ground.gateway.wait_until_drained(PATIENCE);
    killed
}

fn check(ground: &Ground, consumer: &Consumer) -> Report {
    let interruptions = kills(ground.gateway.lives(), |_| "kill at a random moment".to_owned());
    ground.chronicle(consumer, interruptions).check()
}

fn tell(ground: &Ground, report: &Report, killed: u64, took: Duration) {
    let run = "kills at random moments";
    figure(run, "seed", ground.seed);
    figure(run, "minutes", took.as_secs().div_ceil(60));
    figure(run, "kills", killed);
    figure(run, "notifications", report.attempted);
    figure(run, "deliveries", report.deliveries);
    figure(run, "forged", report.forged);
    figure(run, "acknowledged", report.acknowledged);
    figure(run, "events in the queue, copies counted", report.copies);
    figure(run, "recovered", report.recovered);
    figure(run, "duplicated inside the windows", report.inside());
    figure(run, "duplicated outside", report.outside.len());
    figure(run, "lost", report.lost.len());
    figure(run, "unexpected", report.unexpected.len());
}

/// Bound: Alipay's schedule is checked round by round, so that what is wrong is seen early.
const KILLS_A_ROUND: u64 = 50;
/// What is in doubt after a kill waits for a minute.
const PATIENCE: Duration = Duration::from_secs(180);
