//! A broker with the habits of RabbitMQ, behind a client with the habits of lapin 4.12.3.
//!
//! RabbitMQ takes the messages of a channel in their order; it returns an unroutable one before it acks it; it acks late,
//! several at once, one before another, or never; it nacks what one of several queues refused and the others took. lapin
//! hands a return to whichever confirm completes next, and completes those of one ack in no order. A channel ends with
//! some of its messages taken and nobody told; a connection with all of its channels.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use alipay_notify_gateway::broker::{Broker, Confirm, Confirms, Link, LinkError, Publisher, Settled};
use alipay_notify_gateway::clock::Timestamp;
use alipay_notify_gateway::event::Message;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::faults::{Kind, chance};
use crate::world::{Inner, World};

/// The broker, the way to it, and the client's end of that.
pub struct Wire {
    link: Link,
    connections: u64,
    /// The last connection that is dead, whether or not the link says so yet.
    dead: u64,
    /// A channel of its own for each who watches: the order in which several would wake is left to chance.
    watchers: Vec<watch::Sender<Link>>,
    channels: BTreeMap<u64, Channel>,
    numbers: u64,
    /// Something that held the broker up is over.
    moves: Arc<Notify>,
}

struct Channel {
    connection: u64,
    /// Messages that the gateway has sent and the broker has not looked at yet.
    in_transit: VecDeque<Sent>,
    /// lapin's list of returned messages that no confirm has taken yet.
    returned: VecDeque<String>,
    /// The batch that is outstanding.
    batch: Option<usize>,
}

/// A message on its way.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    pub batch: usize,
    pub index: usize,
    refuse: bool,
    /// It is taken by no queue although the broker goes on, as by one that is stuck.
    stuck: bool,
}

/// A batch, as the client knows it.
pub struct Batch {
    /// The event and the number of its attempt.
    pub attempts: Vec<(usize, usize)>,
    told: Vec<bool>,
    /// Told, and not fetched by the gateway.
    fetch: Vec<Settled>,
    pub is_lost: bool,
    pub is_watched: bool,
    wake: Arc<Notify>,
}

/// What happens to a batch, one after the other.
enum Act {
    Wait(Duration),
    Take,
    Answer(Vec<usize>),
    Close,
    Lose,
}

/// Queues: one for payments, one for the rest, and one for everything.
pub const QUEUES: usize = 3;

impl Wire {
    pub fn new() -> Self {
        Self {
            link: Link::Down,
            connections: 0,
            dead: 0,
            watchers: Vec::new(),
            channels: BTreeMap::new(),
            numbers: 0,
            moves: Arc::default(),
        }
    }

    fn set_link(&mut self, link: Link) {
        self.link = link;
        self.watchers.retain(|watcher| watcher.receiver_count() > 0);
        for watcher in &self.watchers {
            watcher.send_replace(link);
        }
        self.moves.notify_waiters();
    }

    fn connection(&self) -> Option<u64> {
        match self.link {
            Link::Down => None,
            Link::Up(connection) | Link::Blocked(connection) => Some(connection),
        }
    }
}

impl Batch {
    /// Every confirm came, and the broker said each.
    pub fn is_resolved(&self) -> bool {
        !self.is_lost && self.told.iter().all(|told| *told)
    }
}

/// The gateway's end of it.
pub struct SimulatedBroker(pub Arc<World>);

impl Broker for SimulatedBroker {
    fn link(&self) -> watch::Receiver<Link> {
        let mut inner = self.0.lock();
        let sender = watch::Sender::new(inner.life.wire.link);
        let receiver = sender.subscribe();
        inner.life.wire.watchers.push(sender);
        receiver
    }

    fn problems(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn open(&self) -> BoxFuture<'_, Result<Box<dyn Publisher>, LinkError>> {
        let world = Arc::clone(&self.0);
        async move {
            let (pause, works) = {
                let mut inner = world.lock();
                let now = inner.now();
                let stands = inner.faults.lasts(Kind::Blocked, now) || inner.faults.lasts(Kind::Frozen, now);
                (if stands { 1_000 } else { inner.random.random_range(0..5) }, !stands)
            };
            if pause > 0 {
                sleep(Duration::from_millis(pause)).await;
            }
            let Some(opened) = world.lock().open_channel(works) else {
                return std::future::pending().await;
            };
            let channel = opened?;
            let publisher: Box<dyn Publisher> = Box::new(SimulatedPublisher { world, channel });
            Ok(publisher)
        }
        .boxed()
    }
}

struct SimulatedPublisher {
    world: Arc<World>,
    channel: u64,
}

impl Publisher for SimulatedPublisher {
    fn publish(&mut self, messages: Vec<Message>, _at: Timestamp) -> Box<dyn Confirms> {
        let mut inner = self.world.lock();
        let inner = &mut *inner;
        let batch = inner.batches.len();
        let count = messages.len();
        let wake = Arc::new(Notify::new());
        let is_open = inner.life.wire.channels.contains_key(&self.channel);
        inner.batches.push(Batch {
            attempts: Vec::new(),
            told: vec![false; count],
            fetch: Vec::new(),
            is_lost: false,
            is_watched: true,
            wake: Arc::clone(&wake),
        });
        for (index, message) in messages.iter().enumerate() {
            if !inner.step("publish") {
                break;
            }
            let attempt = inner.judge_publish(message, batch);
            inner.batches[batch].attempts.push(attempt);
            let refuse = chance(&mut inner.random, inner.faults.nack);
            let stuck = chance(&mut inner.random, inner.faults.silent) && inner.random.random_bool(0.5);
            if let Some(channel) = inner.life.wire.channels.get_mut(&self.channel) {
                channel.batch = Some(batch);
                channel.in_transit.push_back(Sent { batch, index, refuse, stuck });
            }
        }
        if inner.is_alive() && is_open {
            let acts = inner.acts(count);
            tokio::spawn(serve(Arc::clone(&self.world), self.channel, batch, acts));
        } else if inner.is_alive() {
            for index in 0..count {
                inner.tell(batch, index, Confirm::Unsent);
            }
        }
        Box::new(SimulatedConfirms { world: Arc::clone(&self.world), batch, wake })
    }

    fn is_usable(&self) -> bool {
        self.world.lock().life.wire.channels.contains_key(&self.channel)
    }
}

struct SimulatedConfirms {
    world: Arc<World>,
    batch: usize,
    wake: Arc<Notify>,
}

impl Confirms for SimulatedConfirms {
    fn settle(&mut self) -> BoxFuture<'_, Vec<Settled>> {
        async {
            loop {
                let settled = self.settle_now();
                if !settled.is_empty() || self.world.lock().batches[self.batch].told.iter().all(|told| *told)
                {
                    return settled;
                }
                self.wake.notified().await;
            }
        }
        .boxed()
    }

    fn settle_now(&mut self) -> Vec<Settled> {
        let mut inner = self.world.lock();
        if !inner.is_alive() {
            return Vec::new();
        }
        std::mem::take(&mut inner.batches[self.batch].fetch)
    }
}

impl Drop for SimulatedConfirms {
    /// Nobody watches any more: what is told from now on, or was told and not fetched, is not known to the gateway.
    fn drop(&mut self) {
        let mut inner = self.world.lock();
        if inner.is_alive() {
            inner.forget_told(self.batch);
        }
    }
}

impl Inner {
    fn forget_told(&mut self, batch: usize) {
        let unfetched = std::mem::take(&mut self.batches[batch].fetch);
        self.batches[batch].is_watched = false;
        for settled in unfetched {
            self.judge_forgotten(batch, settled.index);
        }
    }

    /// `None`: the gateway died meanwhile.
    fn open_channel(&mut self, works: bool) -> Option<Result<u64, LinkError>> {
        if !self.step("open") {
            return None;
        }
        let connection =
            self.life.wire.connection().filter(|connection| works && *connection > self.life.wire.dead);
        let Some(connection) = connection else {
            return Some(Err(LinkError { message: "no channel".to_owned() }));
        };
        self.life.wire.numbers += 1;
        let channel =
            Channel { connection, in_transit: VecDeque::new(), returned: VecDeque::new(), batch: None };
        self.life.wire.channels.insert(self.life.wire.numbers, channel);
        Some(Ok(self.life.wire.numbers))
    }

    /// Draws what happens to a batch.
    fn acts(&mut self, count: usize) -> Vec<Act> {
        let random = &mut self.random;
        let faults = &self.faults;
        let slow = chance(random, faults.slow);
        let pause = if slow { random.random_range(100..6_000) } else { random.random_range(0..4) };
        let mut acts = vec![Act::Wait(Duration::from_millis(pause))];
        let mut open = Vec::new();
        let mut late = Vec::new();
        for index in 0..count {
            acts.push(Act::Take);
            if chance(random, faults.silent) {
                continue;
            } else if chance(random, faults.late) {
                late.push(index);
                continue;
            }
            open.push(index);
            if chance(random, faults.coalesce) {
                continue;
            }
            if open.len() > 1 && chance(random, faults.overtake) {
                let one = open.swap_remove(random.random_range(0..open.len()));
                acts.push(Act::Answer(vec![one]));
            } else {
                // The order of a `HashMap`.
                open.shuffle(random);
                acts.push(Act::Answer(std::mem::take(&mut open)));
            }
            if random.random_bool(0.1) {
                acts.push(Act::Wait(Duration::from_millis(random.random_range(1..10))));
            }
        }
        open.shuffle(random);
        acts.push(Act::Answer(open));
        for index in late {
            let longest = [1_000, 10_000, 200_000][random.random_range(0..3)];
            acts.push(Act::Wait(Duration::from_millis(random.random_range(100..longest))));
            acts.push(Act::Answer(vec![index]));
        }
        let end = if chance(random, faults.close) {
            Some(Act::Close)
        } else if chance(random, faults.lose) {
            Some(Act::Lose)
        } else {
            None
        };
        if let Some(end) = end {
            let at = random.random_range(0..=acts.len());
            acts.insert(at, end);
        }
        acts
    }

    /// The broker looks at the next message of a channel.
    fn take(&mut self, channel: u64) {
        let Some(sent) =
            self.life.wire.channels.get_mut(&channel).and_then(|channel| channel.in_transit.pop_front())
        else {
            return;
        };
        if let Some(id) = self.queue(sent)
            && let Some(channel) = self.life.wire.channels.get_mut(&channel)
        {
            channel.returned.push_back(id);
        }
    }

    /// Puts a message into its queues. Gives its id if it has none and is returned.
    fn queue(&mut self, sent: Sent) -> Option<String> {
        let (event, attempt) = self.batches[sent.batch].attempts[sent.index];
        let now = self.now();
        let is_payment = self.events[event].is_payment;
        let own = if is_payment { 0 } else { 1 };
        let mut queues = vec![own];
        if is_payment && self.faults.lasts(Kind::Unbound, now) {
            queues.clear();
        }
        if self.faults.ledger {
            queues.push(2);
        }
        let known = &mut self.events[event].attempts[attempt];
        known.is_refused = sent.refuse;
        known.is_stuck = sent.stuck;
        known.is_taken = !queues.is_empty() && !sent.refuse && !sent.stuck;
        self.events[event].is_safe |= self.events[event].attempts[attempt].is_taken;
        if queues.is_empty() {
            self.trace("returned", event as u64);
            self.report.count("broker: returned");
            self.events[event].attempts[attempt].is_returned = true;
            return Some(self.events[event].id.clone());
        }
        // The one that refuses it, or is stuck, takes nothing; the others do.
        if sent.refuse || sent.stuck {
            queues.remove(0);
        }
        for queue in queues {
            self.store_copy(event, attempt, queue);
        }
        None
    }

    /// The client completes the confirms of an ack or a nack, in this order.
    fn answer(&mut self, channel: u64, batch: usize, indices: &[usize]) {
        for &index in indices {
            let (event, attempt) = self.batches[batch].attempts[index];
            let attempt = &self.events[event].attempts[attempt];
            let (is_returned, is_refused, is_taken) =
                (attempt.is_returned, attempt.is_refused, attempt.is_taken);
            if !(is_returned || is_refused || is_taken) {
                continue;
            }
            let returned =
                self.life.wire.channels.get_mut(&channel).and_then(|channel| channel.returned.pop_front());
            let confirm =
                if is_returned || is_taken { Confirm::Ack(returned) } else { Confirm::Nack(returned) };
            self.tell(batch, index, confirm);
        }
    }

    /// Those of payments while their queue confirms nothing.
    fn is_mute(&self, batch: usize, index: usize) -> bool {
        let (event, _) = self.batches[batch].attempts[index];
        self.events[event].is_payment && self.faults.lasts(Kind::Mute, self.now())
    }

    fn tell(&mut self, batch: usize, index: usize, confirm: Confirm) {
        if self.batches[batch].told[index] {
            return;
        }
        self.judge_told(batch, index, &confirm);
        let batch = &mut self.batches[batch];
        batch.told[index] = true;
        batch.is_lost |= matches!(confirm, Confirm::Lost);
        batch.fetch.push(Settled { index, confirm });
        batch.wake.notify_one();
    }

    /// A channel ends. What was on its way gets there up to some message, or not at all.
    fn end_channel(&mut self, number: u64, arrives: bool) {
        let Some(channel) = self.life.wire.channels.remove(&number) else { return };
        let last = if arrives { self.random.random_range(0..=channel.in_transit.len()) } else { 0 };
        for sent in channel.in_transit.into_iter().take(last) {
            self.queue(sent);
        }
        if let Some(batch) = channel.batch {
            for index in 0..self.batches[batch].attempts.len() {
                self.tell(batch, index, Confirm::Lost);
            }
        }
    }

    fn end_channels(&mut self, connection: u64, arrives: bool) {
        let of = self.life.wire.channels.iter().filter(|(_, channel)| channel.connection <= connection);
        for channel in of.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.end_channel(channel, arrives);
        }
    }

    /// With the gateway its connections are gone.
    pub fn hang_up_on_broker(&mut self) {
        self.end_channels(u64::MAX, true);
        self.life.wire.watchers.clear();
        self.life.wire.link = Link::Down;
    }

    fn connect(&mut self) {
        if self.is_after_life() {
            return;
        }
        let now = self.now();
        if self.life.wire.link == Link::Down && !self.faults.lasts(Kind::Away, now) {
            self.life.wire.connections += 1;
            let connection = self.life.wire.connections;
            let blocked = self.faults.lasts(Kind::Blocked, now);
            self.life.wire.set_link(if blocked { Link::Blocked(connection) } else { Link::Up(connection) });
            self.trace("connected", connection);
        }
    }

    /// Whether the broker takes something from the connection now.
    fn moves(&self, act: &Act) -> bool {
        let now = self.now();
        let frozen = self.faults.lasts(Kind::Frozen, now);
        let stopped = self.faults.lasts(Kind::Stopped, now);
        match act {
            Act::Take => !frozen && !stopped && !self.faults.lasts(Kind::Blocked, now),
            Act::Answer(_) => !frozen && !stopped,
            Act::Wait(_) | Act::Close | Act::Lose => true,
        }
    }
}

/// The broker at one batch.
async fn serve(world: Arc<World>, channel: u64, batch: usize, acts: Vec<Act>) {
    let mut mute = Vec::new();
    for act in acts {
        if let Act::Wait(pause) = &act {
            if !pause.is_zero() {
                sleep(*pause).await;
            }
            continue;
        }
        until(&world, |inner| inner.moves(&act)).await;
        let mut inner = world.lock();
        if !inner.life.wire.channels.contains_key(&channel) {
            return;
        }
        match act {
            Act::Wait(_) => {}
            Act::Take => {
                if inner.step("take") {
                    inner.take(channel);
                }
            }
            Act::Answer(indices) => {
                if inner.step("answer") {
                    let (silent, loud): (Vec<_>, Vec<_>) =
                        indices.into_iter().partition(|index| inner.is_mute(batch, *index));
                    mute.extend(silent);
                    inner.answer(channel, batch, &loud);
                }
            }
            Act::Close => {
                inner.report.count("broker: channel closed");
                let arrives = inner.random.random_bool(0.5);
                inner.end_channel(channel, arrives);
            }
            Act::Lose => {
                drop(inner);
                tokio::spawn(lose_connection(Arc::clone(&world)));
            }
        }
    }
    if mute.is_empty() {
        return;
    }
    until(&world, |inner| !mute.iter().any(|index| inner.is_mute(batch, *index))).await;
    let mut inner = world.lock();
    if inner.life.wire.channels.contains_key(&channel) && inner.step("answer") {
        inner.answer(channel, batch, &mute);
    }
}

/// Waits until the weather allows it.
async fn until(world: &World, allows: impl Fn(&Inner) -> bool) {
    loop {
        let moves = {
            let inner = world.lock();
            if allows(&inner) {
                return;
            }
            Arc::clone(&inner.life.wire.moves).notified_owned()
        };
        moves.await;
    }
}

/// The connection is gone. Its confirms fail before or after the state of the link says so.
async fn lose_connection(world: Arc<World>) {
    let (connection, link_first, arrives, lag) = {
        let mut inner = world.lock();
        let Some(connection) = inner.life.wire.connection().filter(|_| !inner.is_after_life()) else {
            return;
        };
        inner.report.count("broker: connection lost");
        inner.trace("connection lost", connection);
        inner.life.wire.dead = connection;
        let random = &mut inner.random;
        let lag = if random.random_bool(0.5) { 0 } else { random.random_range(1..200) };
        (connection, random.random_bool(0.5), random.random_bool(0.5), lag)
    };
    if link_first {
        world.lock().life.wire.set_link(Link::Down);
    } else {
        world.lock().end_channels(connection, arrives);
    }
    if lag > 0 {
        sleep(Duration::from_millis(lag)).await;
    }
    let pause = {
        let mut inner = world.lock();
        if link_first {
            inner.end_channels(connection, arrives);
        } else {
            inner.life.wire.set_link(Link::Down);
        }
        inner.random.random_range(1..3_000)
    };
    reconnect(world, pause).await;
}

async fn reconnect(world: Arc<World>, pause: u64) {
    sleep(Duration::from_millis(pause)).await;
    world.lock().connect();
}

/// Connects, and follows what lasts.
pub async fn weather(world: Arc<World>) {
    let pause = world.lock().random.random_range(0..50);
    reconnect(Arc::clone(&world), pause).await;
    loop {
        let (now, turn) = {
            let inner = world.lock();
            if inner.is_after_life() {
                return;
            }
            (inner.now(), inner.faults.next_turn(inner.now()))
        };
        let Some(turn) = turn else { return std::future::pending().await };
        let froze = world.lock().faults.lasts(Kind::Frozen, now);
        sleep(Duration::from_millis(turn - now)).await;
        let ends = {
            let inner = world.lock();
            let now = inner.now();
            inner.faults.lasts(Kind::Away, now) || froze && !inner.faults.lasts(Kind::Frozen, now)
        };
        if ends {
            lose_connection(Arc::clone(&world)).await;
        }
        let mut inner = world.lock();
        if inner.is_after_life() {
            return;
        }
        inner.connect();
        if let Some(connection) = inner.life.wire.connection() {
            let blocked = inner.faults.lasts(Kind::Blocked, inner.now());
            inner.life.wire.set_link(if blocked { Link::Blocked(connection) } else { Link::Up(connection) });
        }
        inner.life.wire.moves.notify_waiters();
    }
}

/// What lasted has been ended from outside.
pub fn clear_up(inner: &mut Inner) {
    if let Some(connection) = inner.life.wire.connection() {
        inner.life.wire.set_link(Link::Up(connection));
    }
    inner.connect();
    inner.life.wire.moves.notify_waiters();
}
