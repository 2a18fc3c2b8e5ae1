//! A round of the drain: what is due of the buckets whose turn it is ([`Heads`](super::heads::Heads)), taken under a lease.

use std::time::{Duration, Instant};

use super::batch::{Batch, number, text};
use super::heads::{self, List, Visit};
use super::{Redis, time};
use crate::clock::Timestamp;
use crate::event::EventType;
use crate::store::{LEASE, StoreError, Waiting};

impl Redis {
    /// See [`Store::due`](crate::store::Store::due).
    pub(super) async fn drain(
        &self,
        now: Timestamp,
        limit: usize,
        skip: Vec<EventType>,
    ) -> Result<Vec<Waiting>, StoreError> {
        if !self.has_waiting().await? {
            return Ok(Vec::new());
        }
        self.look(&skip).await?;
        let began = Instant::now();
        let mut refused = self.take(now, List::Refused, limit / 4, &skip).await?;
        let mut due = Vec::new();
        for list in [List::Fresh, List::Refused] {
            let so_far = due.len() + refused.len();
            if so_far > 0 && began.elapsed() > ENOUGH {
                break;
            }
            match self.take(now, list, limit.saturating_sub(so_far), &skip).await {
                Ok(mut more) if list == List::Fresh => due.append(&mut more),
                Ok(mut more) => refused.append(&mut more),
                Err(error) if so_far == 0 => return Err(error),
                Err(_) => break,
            }
        }
        due.append(&mut refused);
        Ok(due)
    }

    /// Whether there may be something to drain. Where the gauges are kept up to date it costs nothing to know.
    async fn has_waiting(&self) -> Result<bool, StoreError> {
        if let Some(has_waiting) = self.books.has_waiting() {
            return Ok(has_waiting);
        }
        self.sum().await.map(|tally| tally.deferred + tally.in_doubt > 0)
    }

    /// Looks where something waits, unless that is known.
    async fn look(&self, skip: &[EventType]) -> Result<(), StoreError> {
        if !self.heads.are_known(skip) {
            let types = wanted(skip).collect();
            let batch = Batch::over_buckets(&self.names, types);
            let heads = self.run_each(&self.scripts.heads, &batch, heads::read).await?;
            self.heads.saw(skip.to_vec(), heads.into_iter().map(Option::unwrap_or_default));
        }
        Ok(())
    }

    /// Takes up to so much of what is due, of the buckets whose turn it is. What holds of the order: within a bucket (one in
    /// 256 of the trades) the longest due come first, and at most [`SHARE`] of it in one visit while others have something
    /// due; a visit goes to buckets whose first is among the longer due half of the firsts; and among those each process goes
    /// round in an order of its own. So an event waits for those of its own bucket that are due for longer, and for no other
    /// bucket more often than once a turn. Each that is looked at is taken, or put off until it can be.
    ///
    /// What has been taken is handed out even where the next visit fails, or where Redis is so slow that whoever asks would
    /// be gone: it is put off for a lease, and so nobody else would have it for as long.
    async fn take(
        &self,
        now: Timestamp,
        list: List,
        count: usize,
        skip: &[EventType],
    ) -> Result<Vec<Waiting>, StoreError> {
        let types: Vec<Vec<u8>> = wanted(skip).collect();
        let fixed = [self.token.clone(), number(LEASE.as_millis()), time(now), number(list.code())];
        let head = || fixed.iter().cloned().chain([number(types.len())]).chain(types.iter().cloned());
        let (mut taken, began) = (Vec::new(), Instant::now());
        // Bound: where buckets have less than a share, more are visited, of which less is expected.
        let mut share = SHARE;
        for _ in 0..MAX_VISITS {
            let visited = self.heads.next(now, list, count.saturating_sub(taken.len()), share);
            if visited.is_empty() {
                break;
            }
            share = (share / 2).max(1);
            let shares = visited.iter().map(|&(bucket, share)| (bucket, vec![number(share)]));
            let batch = Batch::over(&self.names, head().collect(), shares);
            let visits = match self.run_each(&self.scripts.due, &batch, Visit::read).await {
                Ok(visits) => visits,
                Err(error) if taken.is_empty() => return Err(error),
                Err(_) => break,
            };
            for ((bucket, _), visit) in visited.into_iter().zip(visits) {
                let visit = visit.unwrap_or_default();
                self.heads.visited(bucket, list, visit.next);
                for key in visit.unreadable {
                    self.damage.tell(&self.names.trade(&key.subject), "what is kept of an event that waits");
                }
                taken.extend(visit.taken);
            }
            if began.elapsed() > ENOUGH {
                break;
            }
        }
        taken.sort_by(|(at, a), (of, b)| (at, &a.key).cmp(&(of, &b.key)));
        Ok(taken.into_iter().map(|(_, waiting)| waiting).collect())
    }
}

fn wanted(skip: &[EventType]) -> impl Iterator<Item = Vec<u8>> {
    let wanted = EventType::ALL.into_iter().filter(|event_type| !skip.contains(event_type));
    wanted.map(|event_type| text(event_type.as_str()))
}

/// How many of a bucket are taken at once, while others have something too: the more, the cheaper; the fewer, the nearer to
/// the longest due first.
const SHARE: usize = 4;
/// Bound: how often buckets are visited for one round. Each time they give something, or are seen to have nothing.
const MAX_VISITS: usize = 16;
/// Bound: after so long nothing more is begun: whoever asks waits 2 s, and one visit may take most of the rest.
const ENOUGH: Duration = Duration::from_millis(250);
