//! The shared store: Redis (or Valkey), for several replicas: one node, one that sentinels name, or a cluster. One Lua
//! script does each operation where the data lies; what a script touches is in one of 256 buckets ([`bucket`]), so that
//! a cluster spreads it.
//!
//! Claims are leases, in the name of this process ([`Store`]). What survives is what Redis keeps: with its append-only file
//! synced each second (its default) a crash can take the last second of records, and a fail-over takes what had not
//! reached the new master. Either can repeat an event, with the same id, and loses none that Alipay still delivers; an
//! event that *waits* and is taken so is only with Alipay again.

mod answer;
mod batch;
mod bucket;
mod damage;
mod drain;
mod heads;
mod horizon;
mod judge;
mod line;
mod load;
mod scripts;
mod shelf;
mod target;

use std::path::PathBuf;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use redis::{Script, Value};

use self::answer::{Deferred, Fields, odd};
use self::batch::{Batch, Spread, number, text};
use self::bucket::{Names, bucket};
use self::damage::Damage;
use self::heads::Heads;
use self::line::{Failure, Line};
use self::load::{Books, Room, Sums};
use self::scripts::Scripts;
use super::conflict::{Rival, as_conflict};
use super::{
    Claim, DOUBT, Decision, Deferral, Holding, Kept, LEASE, MAX_FOUND, Record, Row, Store, StoreError, Tally,
    Waiting, WhenAway, held_key,
};
use crate::clock::Timestamp;
use crate::event::{Digest, EventType, Key};
use crate::secret::Source;

pub use self::judge::{Verdict, check, judge};
pub use self::shelf::{Shelf, ShelfError, complete_since, read_all};

/// The shared store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `store.uri`, `store.uri_file`.
    pub uri: Source,
    /// `store.ca_file`: the authorities that are believed, in PEM. Without it, the system's.
    pub ca_file: Option<PathBuf>,
    /// `store.prefix`: what all keys begin with.
    pub prefix: String,
    /// `store.unavailable`.
    pub when_away: WhenAway,
    /// `store.max_deferred`: rows deferred or in doubt, but for those that no queue took.
    pub max_deferred: u64,
    /// `store.max_returned`: rows deferred because no queue took them.
    pub max_returned: u64,
    /// `store.max_deferred_bytes`: of all of both; the latter have half of it.
    pub max_deferred_bytes: u64,
    /// `store.max_held`: rows held.
    pub max_held: u64,
    /// `store.max_held_bytes`.
    pub max_held_bytes: u64,
}

/// A running store.
pub struct Redis {
    line: Line,
    names: Names,
    scripts: Scripts,
    /// In whose name leases are taken.
    token: Vec<u8>,
    books: Books,
    heads: Heads,
    damage: Damage,
    when_away: WhenAway,
}

impl Redis {
    /// Begins to connect; Redis may be away. Needs a runtime.
    pub async fn open(config: &Config) -> Self {
        let store = Self {
            line: Line::start(config.clone()),
            names: Names::new(&config.prefix),
            scripts: Scripts::new(),
            token: number(format_args!("{:032x}", rand::random::<u128>())),
            books: Books::new(config),
            heads: Heads::new(),
            damage: Damage::default(),
            when_away: config.when_away,
        };
        if let Err(error) = store.line.tried().await {
            tracing::error!(%error, "starting without the store");
        }
        store
    }

    /// How much of each bound is used, by the name of its key, as far as it is known.
    pub fn used(&self) -> [(&'static str, f64); 5] {
        self.books.used()
    }

    /// Why it cannot be asked, if it cannot.
    pub fn problem(&self) -> Option<String> {
        self.line.problem()
    }

    /// Asks, of each item whatever its key lets be done: where something else lies under one, or is damaged, they are asked
    /// one by one, and that one has no answer. What has been done of it by then is done once more, as after an answer that
    /// was lost.
    async fn ask(&self, script: &Script, batch: &Batch<'_>) -> Result<Vec<Option<Value>>, StoreError> {
        match self.line.run(script, batch).await {
            Ok(answers) => return Ok(answers.into_iter().map(Some).collect()),
            Err(Failure::Away(error)) => return Err(error),
            Err(Failure::OfAKey(_)) => {}
        }
        let mut answers = Vec::new();
        for (key, one) in batch.one_by_one() {
            match self.line.run(script, &one).await {
                Ok(answer) => answers.extend(answer.into_iter().map(Some)),
                Err(Failure::Away(error)) => return Err(error),
                Err(Failure::OfAKey(error)) => {
                    self.damage.tell(&key, &error);
                    answers.push(None);
                }
            }
        }
        Ok(answers)
    }

    /// What is read of each answer; nothing of what has none.
    async fn run_each<T>(
        &self,
        script: &Script,
        batch: &Batch<'_>,
        read: impl Fn(Fields) -> Result<T, StoreError>,
    ) -> Result<Vec<Option<T>>, StoreError> {
        let answers = self.ask(script, batch).await?;
        answers.into_iter().map(|answer| answer.map(|answer| read(Fields::of(answer)?)).transpose()).collect()
    }

    /// As [`Self::run_each`], where nothing can be done unless each has an answer.
    async fn run<T>(
        &self,
        script: &Script,
        batch: &Batch<'_>,
        read: impl Fn(Fields) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let answers = self.run_each(script, batch, read).await?;
        answers.into_iter().map(|answer| answer.ok_or_else(damage::unreadable)).collect()
    }

    /// As [`Self::run`], where an answer is a number.
    async fn count(&self, script: &Script, batch: &Batch<'_>) -> Result<Vec<i64>, StoreError> {
        let answers = self.ask(script, batch).await?;
        let number = |answer| match answer {
            None => Err(damage::unreadable()),
            Some(Value::Int(number)) => Ok(number),
            Some(_) => Err(odd()),
        };
        answers.into_iter().map(number).collect()
    }

    async fn write_records(&self, records: &[Record]) -> Result<(), StoreError> {
        let mut left: Vec<&Record> = records.iter().collect();
        // Bound: what steps aside is gone from there; another can come in between, but hardly thrice.
        for _ in 0..4 {
            let mut batch = Batch::new(&self.names, []);
            for record in &left {
                let held = held_key(&record.app_id, &record.notify_id, String::new()).id;
                let state = number(record.state.code());
                let (at, expires_at) = (time(record.at), time(record.expires_at));
                let event_type = text(record.event_type.as_str());
                let (digest, notify_id) = (record.digest.as_bytes().to_vec(), text(&record.notify_id));
                batch.add(&record.key, [text(&held), state, digest, notify_id, event_type, at, expires_at]);
            }
            let rivals = self.run_each(&self.scripts.record, &batch, Fields::recorded).await?;
            let mut again = Vec::new();
            for (record, rival) in left.into_iter().zip(rivals) {
                // What cannot be written is let go: others are not to wait for it.
                let Some(Some(rival)) = rival else { continue };
                let (key, digest) = (&record.key, rival.digest);
                if !self.set_aside(key, rival, record.at).await? {
                    // What cannot be read cannot be announced either: only Alipay can bring it again.
                    let away = [text(&key.id), Vec::new(), Vec::new(), time(record.at)];
                    self.put_away(key, digest, away).await?;
                }
                again.push(record);
            }
            if again.is_empty() {
                return Ok(());
            }
            left = again;
        }
        Err(StoreError { message: "redis: what waits under a key does not step aside".to_owned() })
    }

    /// Keeps what waits under a key as the conflict that it is. Says whether it could be read.
    async fn set_aside(&self, key: &Key, rival: Rival, now: Timestamp) -> Result<bool, StoreError> {
        let digest = rival.digest;
        let Some((event, message)) = rival.conflict() else { return Ok(false) };
        tracing::warn!(id = key.id, kept_as = message.id, "other money came under the id of what waits");
        let (id, body) = (&event.key().id, serde_json::to_vec(&message).unwrap_or_default());
        self.put_away(key, digest, [text(id), text(event.event_type.as_str()), body, time(now)]).await?;
        Ok(true)
    }

    /// See `aside.lua`.
    async fn put_away(&self, key: &Key, digest: Digest, aside: [Vec<u8>; 4]) -> Result<(), StoreError> {
        let mut batch = Batch::new(&self.names, []);
        let [id, event_type, body, now] = aside;
        batch.add(key, [digest.as_bytes().to_vec(), id, event_type, body, now]);
        self.ask(&self.scripts.aside, &batch).await.map(drop)
    }

    /// Clears what is held apart from its trade, where anything is.
    async fn clear_apart(&self, records: &[Record]) -> Result<(), StoreError> {
        if !self.books.has_held_apart() {
            return Ok(());
        }
        let mut batch = Batch::new(&self.names, []);
        for record in records.iter().filter(|record| record.key.subject != record.notify_id) {
            let key = held_key(&record.app_id, &record.notify_id, record.notify_id.clone());
            batch.add(&key, [time(record.at)]);
        }
        self.ask(&self.scripts.clear, &batch).await.map(drop)
    }

    async fn write_deferrals(
        &self,
        deferrals: &[Deferral],
        room: &Room,
    ) -> Result<Vec<Deferred>, StoreError> {
        let doubt = number(DOUBT.as_millis());
        let [rows, returned, bytes, returned_bytes] = room.deferred.map(number);
        let head = [self.token.clone(), doubt, rows, returned, bytes, returned_bytes];
        let mut batch = Batch::new(&self.names, head);
        for deferral in deferrals {
            // A message is plain strings: it cannot fail to serialise.
            let message = serde_json::to_vec(&deferral.message).unwrap_or_default();
            let (state, digest) = (number(deferral.state.code()), deferral.digest.as_bytes().to_vec());
            let (event_type, cause) = (text(deferral.event_type.as_str()), text(deferral.cause.as_str()));
            let paid = deferral.payment_time.map(time).unwrap_or_default();
            let (notify_id, at) = (text(&deferral.notify_id), time(deferral.at));
            batch.add(&deferral.key, [state, digest, notify_id, event_type, cause, at, paid, message]);
        }
        // Where something else lies, nothing can be kept.
        let done = self.run_each(&self.scripts.defer, &batch, Fields::deferred).await?;
        Ok(done.into_iter().map(|done| done.unwrap_or(Deferred::Done(Kept::Full))).collect())
    }

    async fn keep(&self, deferrals: &[Deferral]) -> Result<Vec<Kept>, StoreError> {
        let mut kept = Vec::with_capacity(deferrals.len());
        for some in self.portions(deferrals, Sums::of_deferral).await? {
            let room = self.room(some, Sums::of_deferral).await?;
            let done = self.write_deferrals(some, &room).await?;
            for (deferral, done) in some.iter().zip(done) {
                let outcome = match done {
                    Deferred::Done(outcome) => outcome,
                    Deferred::Rival(rival) => self.keep_beside(deferral, *rival).await?,
                };
                if outcome == Kept::Yes {
                    self.books.add(&Sums::of_deferral(deferral));
                    self.heads.put(bucket(&deferral.key.subject), deferral.cause, deferral.at);
                }
                kept.push(outcome);
            }
        }
        Ok(kept)
    }

    /// Keeps one beside what waits of other money under its key. Whichever may be in a queue keeps the key.
    async fn keep_beside(&self, deferral: &Deferral, rival: Rival) -> Result<Kept, StoreError> {
        let is_first = !rival.yields_to(deferral);
        let kept_as = if is_first || !self.set_aside(&deferral.key, rival, deferral.at).await? {
            as_conflict(deferral)
        } else {
            Some(deferral.clone())
        };
        let Some(deferral) = kept_as else { return Ok(Kept::Full) };
        let kept_as = [deferral];
        let room = self.room(&kept_as, Sums::of_deferral).await?;
        let done = self.write_deferrals(&kept_as, &room).await?;
        // Another rival so soon: Alipay brings this one again.
        Ok(done.into_iter().next().map_or(Kept::Full, |done| match done {
            Deferred::Done(outcome) => outcome,
            Deferred::Rival(_) => Kept::Full,
        }))
    }

    /// All at once; but where a cluster is nearly full, one by one, so that each sees what the one before took.
    async fn portions<'d, T>(
        &self,
        items: &'d [T],
        of: impl Fn(&T) -> Sums,
    ) -> Result<Vec<&'d [T]>, StoreError> {
        let spread = self.line.link().await?.spread();
        if spread == Spread::ByBucket && self.is_tight_for(items, of) {
            return Ok(items.chunks(1).collect());
        }
        Ok(vec![items])
    }

    /// The room that is left: asked for anew where it is scarce, or not known.
    async fn room<T>(&self, items: &[T], of: impl Fn(&T) -> Sums) -> Result<Room, StoreError> {
        if self.is_tight_for(items, of) {
            self.sum().await?;
        }
        Ok(self.books.room())
    }

    fn is_tight_for<T>(&self, items: &[T], of: impl Fn(&T) -> Sums) -> bool {
        let mut sums = Sums::default();
        items.iter().for_each(|item| sums.add(&of(item)));
        self.books.is_tight_for(&sums)
    }

    /// Adds up what waits in all buckets.
    async fn sum(&self) -> Result<Tally, StoreError> {
        let batch = Batch::over_buckets(&self.names, Vec::new());
        let began = self.books.begin();
        let buckets = self.run_each(&self.scripts.tally, &batch, load::read).await?;
        Ok(self.books.sum(began, buckets.into_iter().map(Option::unwrap_or_default)))
    }

    async fn hold_all(&self, holdings: &[Holding]) -> Result<Vec<Kept>, StoreError> {
        let mut kept = Vec::with_capacity(holdings.len());
        for some in self.portions(holdings, Sums::of_holding).await? {
            let [rows, bytes] = self.room(some, Sums::of_holding).await?.held.map(number);
            let mut batch = Batch::new(&self.names, [self.token.clone(), rows, bytes]);
            for holding in some {
                let (notify_id, reason) = (text(&holding.notify_id), text(holding.reason));
                let paid = holding.payment_time.map_or_else(Vec::new, time);
                let body = holding.body.clone();
                batch.add(&holding.key, [notify_id, reason, time(holding.at), paid, body]);
            }
            for (holding, done) in
                some.iter().zip(self.run_each(&self.scripts.hold, &batch, Fields::deferred).await?)
            {
                let outcome = match done {
                    None => Kept::Full,
                    Some(Deferred::Done(outcome)) => outcome,
                    Some(Deferred::Rival(_)) => return Err(odd()),
                };
                if outcome == Kept::Yes {
                    self.books.add(&Sums::of_holding(holding));
                }
                kept.push(outcome);
            }
        }
        Ok(kept)
    }
}

impl Store for Redis {
    fn claim(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<Vec<Claim>, StoreError>> {
        async move {
            let mut batch = Batch::new(&self.names, [self.token.clone(), number(LEASE.as_millis())]);
            for key in &keys {
                batch.add(key, []);
            }
            let claim = |mut fields: Fields| match fields.number()? {
                0 => Ok(Claim::Granted(None)),
                1 => fields.known().map(|known| Claim::Granted(Some(known))),
                _ => Ok(Claim::HeldElsewhere),
            };
            let claims = self.run_each(&self.scripts.claim, &batch, claim).await?;
            Ok(claims.into_iter().map(|claim| claim.unwrap_or(Claim::Unreadable)).collect())
        }
        .boxed()
    }

    fn release(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let mut batch = Batch::new(&self.names, [self.token.clone()]);
            for key in &keys {
                batch.add(key, []);
            }
            let released = self.run_each(&self.scripts.release, &batch, Ok).await?;
            let mut released = keys.iter().zip(released).filter_map(|(key, fields)| Some((key, fields?)));
            released.try_for_each(|(key, fields)| self.heads.released(bucket(&key.subject), fields))
        }
        .boxed()
    }

    fn renew(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let mut batch = Batch::new(&self.names, [self.token.clone(), number(DOUBT.as_millis())]);
            for key in &keys {
                batch.add(key, []);
            }
            self.ask(&self.scripts.renew, &batch).await.map(drop)
        }
        .boxed()
    }

    fn record(&self, records: Vec<Record>) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            if records.is_empty() {
                let batch = Batch::over_buckets(&self.names, Vec::new());
                return self.count(&self.scripts.probe, &batch).await.map(drop);
            }
            self.write_records(&records).await?;
            self.clear_apart(&records).await
        }
        .boxed()
    }

    fn defer(&self, deferrals: Vec<Deferral>) -> BoxFuture<'_, Result<Vec<Kept>, StoreError>> {
        async move { self.keep(&deferrals).await }.boxed()
    }

    fn hold(&self, holdings: Vec<Holding>) -> BoxFuture<'_, Result<Vec<Kept>, StoreError>> {
        async move { self.hold_all(&holdings).await }.boxed()
    }

    fn find(&self, subject: String) -> BoxFuture<'_, Result<Vec<Row>, StoreError>> {
        async move {
            let mut batch = Batch::new(&self.names, [Vec::new()]);
            batch.add_subject(&subject, Vec::new());
            let found = self.run(&self.scripts.entries, &batch, |fields| fields.entries(&subject)).await?;
            let mut rows: Vec<Row> = found.into_iter().flatten().map(Row::from).collect();
            rows.sort_by(|a, b| (a.first_at, &a.key.id).cmp(&(b.first_at, &b.key.id)));
            rows.truncate(MAX_FOUND);
            Ok(rows)
        }
        .boxed()
    }

    fn waiting(&self, key: Key) -> BoxFuture<'_, Result<Option<Waiting>, StoreError>> {
        async move {
            let mut batch = Batch::new(&self.names, []);
            batch.add(&key, []);
            let found = self.run(&self.scripts.look, &batch, |fields| fields.waiting(key.clone())).await?;
            Ok(found.into_iter().next().flatten())
        }
        .boxed()
    }

    fn due(
        &self,
        now: Timestamp,
        limit: usize,
        skip: Vec<EventType>,
    ) -> BoxFuture<'_, Result<Vec<Waiting>, StoreError>> {
        self.drain(now, limit, skip).boxed()
    }

    fn decide(&self, decision: Decision) -> BoxFuture<'_, Result<bool, StoreError>> {
        async move {
            let mut batch = Batch::new(&self.names, []);
            let (state, reason) = (number(decision.state.code()), text(&decision.reason));
            let (at, expires_at) = (time(decision.at), time(decision.expires_at));
            batch.add(&decision.key, [text(&decision.notify_id), state, reason, at, expires_at]);
            Ok(self.count(&self.scripts.decide, &batch).await?.first() == Some(&1))
        }
        .boxed()
    }

    fn tally(&self) -> BoxFuture<'_, Result<Tally, StoreError>> {
        self.sum().boxed()
    }

    fn complete_since(
        &self,
        retention: Duration,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Timestamp, StoreError>> {
        self.horizon(now, retention, Timestamp::default()).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async { self.line.close() }.boxed()
    }

    fn lease(&self) -> Duration {
        LEASE
    }

    fn when_away(&self) -> WhenAway {
        self.when_away
    }
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("names", &self.names).finish_non_exhaustive()
    }
}

fn time(at: Timestamp) -> Vec<u8> {
    number(at.unix_millis())
}
