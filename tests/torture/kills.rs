//! The program as it is shipped, killed at random moments.

use std::time::{Duration, Instant};

use rand::RngExt as _;

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
        for _ in 0..(all - killed).min(KILLS_A_ROUND) {
            kill(&mut ground);
            killed += 1;
        }
        ground.come_to_rest();
        runtime.block_on(consumer.catch_up());
        report = check(&ground, &consumer);
        println!("{killed} kills: {}", report.summary());
        assert!(report.is_clean(), "seed {}\n{}", ground.seed, report.complaints());
    }
    assert!(ground.gateway.stop().success());
    runtime.block_on(consumer.take_away());
    tell(&ground, &report, killed, began.elapsed());
}

/// Kills it at a random moment, now and then before it is even up, and starts it again at once.
fn kill(ground: &mut Ground) {
    let mean = Duration::from_millis(number("TORTURE_KILL_EVERY_MS").unwrap_or(1500));
    let rate = u32::try_from(number("TORTURE_RATE").unwrap_or(60)).unwrap();
    let most = if ground.random.random_ratio(1, 16) { mean / 10 } else { mean * 2 };
    let pause = most.mul_f64(ground.random.random());
    ground.go_on(pause, rate);
    ground.gateway.kill();
    ground.gateway.start(&[]);
}

fn check(ground: &Ground, consumer: &Consumer) -> Report {
    let interruptions = kills(ground.gateway.lives(), |_| "kill at a random moment".to_owned());
    ground.chronicle(consumer, interruptions).check()
}

fn tell(ground: &Ground, report: &Report, killed: u64, took: Duration) {
    let run = "kills at random moments";
    report.tell(run, ground.seed);
    figure(run, "minutes", took.as_secs().div_ceil(60));
    figure(run, "kills", killed);
}

/// Bound: Alipay's schedule is checked round by round, so that what is wrong is seen early.
const KILLS_A_ROUND: u64 = 50;
