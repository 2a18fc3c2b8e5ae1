//! The connection: one for all lanes, over which everything is on its way at once. A supervisor makes it, and makes it
//! again for ever. While there is none, whoever asks is told so at once: nothing queues up here.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use rand::RngExt as _;
use redis::{RedisError, Script, Value};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::Config;
use super::batch::Batch;
use super::bucket::Names;
use super::scripts;
use super::target::{Link, Target};
use crate::lifecycle::{Stopping, Tasks};
use crate::store::StoreError;

/// The connection, as those that ask see it.
pub(super) struct Line {
    state: Arc<watch::Sender<State>>,
    stopping: Stopping,
    room: Semaphore,
}

/// Why there is no answer.
pub(super) enum Failure {
    Away(StoreError),
    /// Something lies under one of the keys that is none of ours, or is damaged: the others can be asked without it.
    OfAKey(String),
}

#[derive(Clone)]
enum State {
    Up {
        generation: u64,
        link: Link,
    },
    /// Since then, if it was ever up; and why.
    Down {
        since: Option<Instant>,
        why: String,
    },
}

impl Line {
    /// Begins to connect. Needs a runtime.
    pub(super) fn start(config: Config) -> Self {
        let down = State::Down { since: Some(Instant::now()), why: NOT_YET.to_owned() };
        let (state, stopping) = (Arc::new(watch::Sender::new(down)), Stopping::default());
        let supervisor = supervise(config, Arc::clone(&state));
        let until = stopping.clone();
        Tasks::default().spawn(async move {
            tokio::select! {
                () = until.begun() => {}
                () = supervisor => {}
            }
        });
        Self { state, stopping, room: Semaphore::new(ROOM_KIB) }
    }

    /// Ends it. Whoever asks after it is told so.
    pub(super) fn close(&self) {
        self.stopping.begin();
        self.state.send_replace(State::Down { since: None, why: "the store is closed".to_owned() });
    }

    /// Why it is down, if it is.
    pub(super) fn problem(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Up { .. } => None,
            State::Down { why, .. } => Some(why.clone()),
        }
    }

    /// Waits for the first try to connect.
    pub(super) async fn tried(&self) -> Result<(), StoreError> {
        let mut state = self.state.subscribe();
        let tried = state.wait_for(|state| !matches!(state, State::Down { why, .. } if why == NOT_YET));
        let _ = timeout(CONNECT_DEADLINE, tried).await;
        self.problem().map_or(Ok(()), |why| Err(away(&why)))
    }

    /// The connection, which is waited for where it has just gone.
    pub(super) async fn link(&self) -> Result<Link, StoreError> {
        self.up().await.map(|(_, link)| link)
    }

    /// Asks, and once more where the answer was lost with the connection: what is asked may be asked twice.
    pub(super) async fn run(&self, script: &Script, batch: &Batch<'_>) -> Result<Vec<Value>, Failure> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        // A single batch always has room, or it could never be kept.
        let kib = u32::try_from((batch.weight() / 1024 + 1).min(ROOM_KIB)).unwrap_or(u32::MAX);
        let room = self.room.try_acquire_many(kib);
        let _room = room.map_err(|_| Failure::Away(away("it has not done what it was asked")))?;
        let mut lost = None;
        // Bound: two tries, each of a patience and an answer's deadline at most.
        for _ in 0..2 {
            let (generation, link) = match self.up().await {
                Ok(up) => up,
                Err(error) => return Err(Failure::Away(lost.unwrap_or(error))),
            };
            match timeout(ANSWER_DEADLINE, ask(script, batch, &link)).await {
                Ok(Ok(Some(answers))) => return Ok(answers),
                Ok(Ok(None)) => return Err(Failure::Away(super::answer::odd())),
                Ok(Err(error)) if is_of_a_key(&error) => return Err(Failure::OfAKey(error.to_string())),
                Ok(Err(error)) if !is_of_the_line(&error) => {
                    return Err(Failure::Away(away(&error.to_string())));
                }
                Ok(Err(error)) => lost = Some(self.broken(generation, error.to_string())),
                Err(_) => {
                    lost = Some(self.broken(generation, format!("no answer within {ANSWER_DEADLINE:?}")))
                }
            }
        }
        Err(Failure::Away(lost.unwrap_or_else(|| away("it is away"))))
    }

    async fn up(&self) -> Result<(u64, Link), StoreError> {
        let mut state = self.state.subscribe();
        let now = Instant::now();
        let (until, why) = match &*state.borrow_and_update() {
            State::Up { generation, link } => return Ok((*generation, link.clone())),
            State::Down { since: Some(since), why } if *since + PATIENCE > now => {
                (*since + PATIENCE, why.clone())
            }
            State::Down { why, .. } => return Err(away(why)),
        };
        let back = state.wait_for(|state| matches!(state, State::Up { .. }));
        match timeout_at(until, back).await {
            Ok(Ok(state)) => match &*state {
                State::Up { generation, link } => Ok((*generation, link.clone())),
                State::Down { why, .. } => Err(away(why)),
            },
            Ok(Err(_)) | Err(_) => Err(away(&why)),
        }
    }

    /// Lets go of a connection that does not do, unless there is another one already.
    fn broken(&self, generation: u64, why: String) -> StoreError {
        let error = away(&why);
        self.state.send_if_modified(|state| {
            let is_this = matches!(state, State::Up { generation: of, .. } if *of == generation);
            if is_this {
                *state = State::Down { since: Some(Instant::now()), why };
            }
            is_this
        });
        error
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.stopping.begin();
    }
}

async fn ask(script: &Script, batch: &Batch<'_>, link: &Link) -> Result<Option<Vec<Value>>, RedisError> {
    let calls = batch.parts(link.spread()).into_iter().map(|part| {
        let call = batch.call(script, &part);
        let mut link = link.clone();
        async move { Ok::<_, RedisError>((part, call.invoke_async::<Value>(&mut link).await?)) }
    });
    Ok(batch.gather(try_join_all(calls).await?))
}

/// Connects, and connects again for ever.
async fn supervise(config: Config, state: Arc<watch::Sender<State>>) {
    let (names, look) = (Names::new(&config.prefix), scripts::tally());
    let config = Arc::new(config);
    let mut changes = state.subscribe();
    let (mut generation, mut pause) = (0, FIRST_PAUSE);
    let mut told = false;
    loop {
        // One that answers for some buckets and not for others would hold up every batch.
        let connecting = async {
            let link = Target::read(&config).await?.connect().await?;
            let batch = Batch::over_buckets(&names, Vec::new());
            match timeout(ANSWER_DEADLINE, ask(&look, &batch, &link)).await {
                Ok(Ok(_)) => Ok(link),
                Ok(Err(error)) if is_of_a_key(&error) => Ok(link),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {ANSWER_DEADLINE:?}")),
            }
        };
        match timeout(CONNECT_DEADLINE, connecting).await.unwrap_or_else(|_| Err(late())) {
            Ok(link) => {
                generation += 1;
                tracing::info!(nodes = %link.name(), "redis: connected");
                state.send_replace(State::Up { generation, link });
                let up_at = Instant::now();
                let _ = changes.wait_for(|state| matches!(state, State::Down { .. })).await;
                if let State::Down { why, .. } = &*changes.borrow_and_update() {
                    tracing::warn!(why, "redis: the connection is gone");
                }
                told = false;
                // One that goes as soon as it comes is no reason to hurry.
                if up_at.elapsed() > MAX_PAUSE {
                    pause = FIRST_PAUSE;
                    continue;
                }
            }
            Err(error) => {
                if !told {
                    tracing::error!(error, "redis: cannot connect");
                    told = true;
                }
                state.send_if_modified(|state| {
                    let State::Down { why, .. } = state else { return false };
                    why.clone_from(&error);
                    true
                });
            }
        }
        // Bound: for ever, at most a jittered MAX_PAUSE apart.
        let jitter = rand::rng().random_range(0.5..1.0);
        tokio::time::sleep(pause.mul_f64(jitter)).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// Whether another connection may do better.
fn is_of_the_line(error: &RedisError) -> bool {
    let elsewhere = ["READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH", "MOVED", "UNBLOCKED"];
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
        || error.code().is_some_and(|code| elsewhere.contains(&code))
}

/// Whether a script met what it cannot read: another type, or what does not unpack as a row; or what a cluster is just
/// moving, which is one slot's and keeps no other bucket from being asked.
fn is_of_a_key(error: &RedisError) -> bool {
    let error = error.to_string();
    let words =
        ["WRONGTYPE", "bytes in input", "format in input", "attempt to ", "non local key", "TRYAGAIN"];
    words.iter().any(|word| error.contains(word))
}

fn late() -> String {
    format!("no connection within {CONNECT_DEADLINE:?}")
}

pub(super) fn away(why: &str) -> StoreError {
    StoreError { message: format!("redis: {why}") }
}

/// Bound: what is on its way to Redis.
const ROOM_KIB: usize = 32 * 1024;
/// Bound: how long an answer may take. Two of them, and the patience between, fit into what publication allows a store.
const ANSWER_DEADLINE: Duration = Duration::from_millis(700);
/// How long somebody who asks waits for a connection that has just gone.
const PATIENCE: Duration = Duration::from_millis(400);
/// Bound: how long connecting may take, with all that is asked of a cluster or of sentinels.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
const NOT_YET: &str = "it is not connected yet";
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(2);
