//! Several gateways over one store: each lives its lives beside the others, in one runtime, behind a front that gives a
//! delivery to any of them. One that has died is left to itself: nothing that it does has an effect any more.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use alipay_notify_gateway::gateway::Gateway;
use alipay_notify_gateway::publication::Publication;
use rand::RngExt as _;
use tokio::time::{sleep, timeout};

use crate::broker;
use crate::verdict::Report;
use crate::world::{GRACE, HEALED_LOOKS, Inner, LOOK, World, deliver, start};

/// What runs, of each gateway.
type Houses = Arc<Mutex<Vec<Option<House>>>>;

#[derive(Clone)]
struct House {
    world: Arc<World>,
    gateway: Gateway,
    publication: Publication,
}

/// Lives through the world of a seed.
pub fn run(world: &Arc<World>) -> (Report, u64) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(live(world));
    drop(runtime);
    world.lock().judge_all()
}

async fn live(world: &Arc<World>) {
    let replicas = world.lock().faults.replicas;
    let houses: Houses = Arc::new(Mutex::new(vec![None; replicas]));
    for at in 0..replicas {
        tokio::spawn(live_on(Arc::clone(world), at, Arc::clone(&houses)));
    }
    tokio::spawn(fail_over(Arc::clone(world)));
    loop {
        let (pause, changed) = {
            let mut inner = world.lock();
            let now = inner.now();
            while let Some(due) = inner.alipay.take(now) {
                receive(&mut inner, &houses, due);
            }
            if inner.alipay.is_over() {
                break;
            }
            let next = inner.alipay.next_at().unwrap_or(u64::MAX);
            let pause = Duration::from_millis(next.saturating_sub(now).min(60_000));
            (pause, Arc::clone(&inner.alipay.changed))
        };
        let _ = timeout(pause, changed.notified()).await;
    }
    heal(world, &houses).await;
}

/// The front: to any that takes connections.
fn receive(inner: &mut Inner, houses: &Houses, due: crate::alipay::Due) {
    let open: Vec<House> = houses.lock().unwrap().iter().flatten().cloned().collect();
    if open.is_empty() {
        inner.report.count("deliveries to nobody");
        inner.fail(due);
        return;
    }
    let House { world, gateway, .. } = open[inner.random.random_range(0..open.len())].clone();
    inner.alipay.outstanding.insert(due.number, due);
    tokio::spawn(deliver(world, gateway, due));
}

/// The lives of one gateway.
async fn live_on(world: Arc<World>, at: usize, houses: Houses) {
    loop {
        let (hand, crash, lasts) = {
            let here = world.hand(at, 0);
            let mut inner = here.lock_as_is();
            let crash = inner.begin();
            let lasts = inner.life.stop_at.saturating_sub(inner.now());
            (Arc::new(world.hand(at, inner.life.incarnation)), crash, lasts)
        };
        tokio::spawn(broker::weather(Arc::clone(&hand)));
        let (gateway, publication) = start(&hand);
        let house = House { world: Arc::clone(&hand), gateway, publication: publication.clone() };
        houses.lock().unwrap()[at] = Some(house);
        let stopped = tokio::select! {
            biased;
            () = crash.notified() => false,
            () = sleep(Duration::from_millis(lasts)) => true,
        };
        houses.lock().unwrap()[at] = None;
        publication.close();
        let in_order = stopped
            && tokio::select! {
                biased;
                () = crash.notified() => false,
                done = timeout(GRACE, publication.idle()) => done.is_ok(),
            };
        if in_order {
            sleep(Duration::from_millis(1)).await;
        }
        let rest = {
            let mut inner = hand.lock();
            inner.bury_beside_others(in_order);
            inner.rest()
        };
        sleep(Duration::from_millis(rest)).await;
    }
}

/// The shared store fails over when it is time.
async fn fail_over(world: Arc<World>) {
    let mut times = world.lock().faults.failovers.clone();
    times.sort_unstable();
    for at in times {
        let now = world.lock().now();
        sleep(Duration::from_millis(at.saturating_sub(now))).await;
        let mut inner = world.lock();
        if inner.faults.failovers.is_empty() {
            return;
        }
        inner.fail_over();
    }
}

/// Everything is well from now on: what waits must be announced.
async fn heal(world: &Arc<World>, houses: &Houses) {
    world.lock().faults.heal();
    for _ in 0..HEALED_LOOKS {
        let running: Vec<House> = houses.lock().unwrap().iter().flatten().cloned().collect();
        let mut quiet = true;
        for House { world, publication, .. } in running {
            {
                let mut inner = world.lock();
                inner.life.crash_at = u64::MAX;
                broker::clear_up(&mut inner);
            }
            quiet &= timeout(LOOK, publication.idle()).await.is_ok();
        }
        if quiet && world.lock().disk.waiting() == 0 {
            return;
        }
        sleep(LOOK).await;
    }
    world.lock().violate("not everything was announced although all was well".to_owned());
}
