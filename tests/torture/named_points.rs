//! A program built with the feature `failpoints` (`TORTURE_FAILPOINTS` is its path), killed at each named crash point in turn. It dies there by itself
//! (SIGKILL); what it needs to get there, an outage or a silent broker, the proxy plays.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use alipay_notify_gateway::failpoint::Point;
use rand::RngExt as _;
use rand::seq::SliceRandom as _;

use crate::checker::{Interruption, Report, kills};
use crate::ground::{Ground, amqp_url, figure, number};
use crate::moment::Moment;
use crate::proxy::{Proxy, Way};

#[test]
#[ignore = "needs a program with crash points: tests/torture.sh builds one"]
fn a_death_at_each_named_point_loses_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let proxy = runtime.block_on(Proxy::before(&amqp_url()));
    let program = std::env::var_os("TORTURE_FAILPOINTS").unwrap();
    let mut ground = Ground::of(program.into(), "points", |amqp| proxy.through(amqp));
    // Slow enough that what is kept is drained before Alipay brings it again.
    ground.scale = 600;
    ground.gateway.start(&[]);
    ground.gateway.wait_until_up();
    let consumer = runtime.block_on(ground.consumer());
    let mut deaths: Vec<Option<Point>> = Vec::new();
    let mut faults = Vec::new();
    let rounds = number("TORTURE_ROUNDS");
    let mut report = Report::default();
    for _ in 0..rounds.unwrap_or(1) {
        let mut points = Point::ALL.to_vec();
        points.shuffle(&mut ground.random);
        // What is in doubt waits for a minute: first, so that it is over at the end; and the end of it at length only.
        points.sort_by_key(|point| provocation(*point) != Way::Unconfirmed);
        points.retain(|point| *point != Point::DoubtOver || rounds.is_some());
        for point in points {
            ground.go_on(BETWEEN, RATE);
            ground.gateway.kill();
            deaths.push(None);
            faults.extend(die_at(&mut ground, &proxy, point));
            deaths.push(Some(point));
            ground.gateway.start(&[]);
        }
        ground.come_to_rest();
        runtime.block_on(consumer.catch_up());
        let name = |life: usize| deaths[life].map_or("kill", Point::as_str).to_owned();
        let interruptions = kills(ground.gateway.lives(), name).into_iter().chain(faults.clone());
        report = ground.chronicle(&consumer, interruptions.collect()).check();
        println!("{} kills: {}", deaths.len(), report.summary());
        assert!(report.is_clean(), "seed {}\n{}", ground.seed, report.complaints());
    }
    runtime.block_on(consumer.take_away());
    tell(&ground, &report, &deaths);
}

/// Starts it with the point armed, and sees it die there.
fn die_at(ground: &mut Ground, proxy: &Proxy, point: Point) -> Option<Interruption> {
    let way = provocation(point);
    let pass = if way == Way::Open { ground.random.random_range(1..=5) } else { 1 };
    let armed = ("GATEWAY_FAILPOINT", format!("{}:{pass}", point.as_str()));
    ground.gateway.start(&[armed, ("GATEWAY_AMQP__CONFIRM_TIMEOUT", "1s".to_owned())]);
    // It is to be at work when the way becomes bad; but a start, when there is no connection yet, is an outage too.
    while way != Way::Open && ground.gateway.metric("broker_up") != Some(1.0) {
        if ground.gateway.has_ended() {
            break;
        }
        ground.go_on(LOOK, RATE);
    }
    let (from, began) = (Moment::now(), Instant::now());
    proxy.set(way);
    let status = loop {
        if ground.gateway.has_ended() {
            break ground.gateway.bury().unwrap();
        }
        // What is drained needs a broker that has come back, and again, if Alipay was faster than the drain.
        if is_drained(point) {
            let is_away = began.elapsed().as_millis() % CYCLE.as_millis() < OUTAGE.as_millis();
            proxy.set(if is_away { Way::Cut } else { Way::Open });
        }
        let words = || ground.gateway.last_words();
        assert!(began.elapsed() < PATIENCE, "{} is never reached: {}", point.as_str(), words());
        ground.go_on(LOOK, RATE);
    };
    assert_eq!(status.signal(), Some(9), "{}: {}", point.as_str(), ground.gateway.last_words());
    proxy.set(Way::Open);
    let until = Moment::now();
    (way != Way::Open).then(|| Interruption::Fault { what: way.as_str().to_owned(), from, until })
}

/// How the way to the broker has to be for it to come there.
fn provocation(point: Point) -> Way {
    match point {
        Point::Unclaimed
        | Point::ClaimedUnpublished
        | Point::PublishedUnconfirmed
        | Point::ConfirmedUnrecorded
        | Point::StoreMidCommit
        | Point::RecordedUnanswered
        | Point::Answering => Way::Open,
        Point::Deferring
        | Point::DeferredUnanswered
        | Point::Draining
        | Point::DrainedUnconfirmed
        | Point::DrainedUnrecorded => Way::Cut,
        Point::InDoubt | Point::InDoubtUnanswered | Point::DoubtOver => Way::Unconfirmed,
    }
}

fn is_drained(point: Point) -> bool {
    matches!(point, Point::Draining | Point::DrainedUnconfirmed | Point::DrainedUnrecorded)
}

fn tell(ground: &Ground, report: &Report, deaths: &[Option<Point>]) {
    let run = "kills at named points";
    report.tell(run, ground.seed);
    let mut by_point: BTreeMap<&str, usize> = BTreeMap::new();
    for point in deaths.iter().flatten() {
        *by_point.entry(point.as_str()).or_default() += 1;
    }
    for point in Point::ALL {
        let deaths = by_point.get(point.as_str()).copied().unwrap_or(0);
        figure(run, &format!("kills at {}", point.as_str()), deaths);
    }
    for (what, count) in &report.inside {
        figure(run, &format!("duplicated inside the windows after {what}"), count);
    }
}

const RATE: u32 = 40;
const BETWEEN: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(5);
/// Longer than Alipay's first four deliveries take, so that the drain comes before the fifth.
const OUTAGE: Duration = Duration::from_secs(3);
const CYCLE: Duration = Duration::from_secs(9);
const PATIENCE: Duration = Duration::from_secs(180);
