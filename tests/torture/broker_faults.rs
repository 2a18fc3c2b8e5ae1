//! The way to the broker is cut, frozen, slowed, half-open; the gateway is not killed.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt as _;
use rand::seq::SliceRandom as _;

use crate::checker::{Interruption, Report};
use crate::ground::{Ground, amqp_url, figure, number};
use crate::moment::Moment;
use crate::proxy::{Proxy, Way};

#[test]
fn faults_on_the_way_to_the_broker_lose_nothing_and_need_no_restart() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let proxy = runtime.block_on(Proxy::before(&amqp_url()));
    let mut ground = Ground::new("faults", |amqp| proxy.through(amqp));
    ground.gateway.start(&[]);
    ground.gateway.wait_until_up();
    let consumer = runtime.block_on(ground.consumer());
    let (mut faults, mut by_kind) = (Vec::new(), BTreeMap::<&str, usize>::new());
    let (all, mut done) = (number("TORTURE_FAULTS").unwrap_or(8), 0);
    let mut longest = Duration::ZERO;
    let mut report = Report::default();
    while done < all {
        let mut ways = ways();
        ways.shuffle(&mut ground.random);
        // What is in doubt waits for a minute: first, so that it is over at the end.
        ways.sort_by_key(|way| *way != Way::Unconfirmed);
        for way in ways {
            let (fault, recovery) = disturb(&mut ground, &proxy, way);
            faults.push(fault);
            longest = longest.max(recovery);
            *by_kind.entry(way.as_str()).or_default() += 1;
            done += 1;
        }
        // Bound: what is wrong is seen early.
        if done < all && !done.is_multiple_of(40) {
            continue;
        }
        ground.come_to_rest();
        runtime.block_on(consumer.catch_up());
        report = ground.chronicle(&consumer, faults.clone()).check();
        println!("{done} faults: {}", report.summary());
        assert!(report.is_clean(), "seed {}\n{}", ground.seed, report.complaints());
        assert_eq!(ground.gateway.lives().len(), 1, "it was never started again");
    }
    runtime.block_on(consumer.take_away());
    let run = "faults on the way to the broker";
    report.tell(run, ground.seed);
    for (kind, count) in &by_kind {
        figure(run, &format!("faults: {kind}"), count);
    }
    for (what, count) in &report.inside {
        figure(run, &format!("duplicated inside the windows after {what}"), count);
    }
    figure(run, "longest until it announced again, ms", longest.as_millis());
}

/// One fault, and how long after it something was announced again.
fn disturb(ground: &mut Ground, proxy: &Proxy, way: Way) -> (Interruption, Duration) {
    let lasts = Duration::from_millis(ground.random.random_range(100..6000));
    let from = Moment::now();
    proxy.set(way);
    ground.go_on(lasts, RATE);
    let before = ground.gateway.confirmed().unwrap();
    proxy.set(Way::Open);
    let until = Moment::now();
    ground.keep_busy(RATE);
    ground.gateway.wait_until(RECOVERY, "it announces again", |gateway| gateway.confirmed() > Some(before));
    let recovery = Moment::now().since(until);
    println!("{way:?} for {lasts:?}: it announced again after {recovery:?}");
    let pause = Duration::from_millis(ground.random.random_range(0..1500));
    ground.go_on(pause, RATE);
    (Interruption::Fault { what: way.as_str().to_owned(), from, until }, recovery)
}

fn ways() -> [Way; 8] {
    let slow = |millis| Way::Slow(Duration::from_millis(millis));
    [slow(20), slow(150), Way::Cut, Way::Frozen, Way::Mute, Way::Deaf, Way::Vanishing, Way::Unconfirmed]
}

const RATE: u32 = 40;
/// A bound for what is broken. The bar is 5 s, and `tests/torture.sh` holds it: a busy machine proves nothing here.
const RECOVERY: Duration = Duration::from_secs(60);
