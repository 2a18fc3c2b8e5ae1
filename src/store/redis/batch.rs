//! A batch for a script: on one node it is one call; in a cluster one for each bucket, because a script may not touch two
//! slots. Either way all of it is on its way at once.

use std::collections::BTreeMap;

use redis::{Script, ScriptInvocation, Value};

use super::bucket::{Names, bucket};
use crate::event::Key;

/// What a script is asked.
pub(super) struct Batch<'a> {
    names: &'a Names,
    head: Vec<Vec<u8>>,
    items: Vec<Item>,
    /// How many go into one call at most, where it may touch several buckets.
    portion: usize,
}

#[derive(Clone)]
struct Item {
    bucket: u8,
    key: String,
    args: Vec<Vec<u8>>,
}

/// A part that goes to one slot: which of the items, in order.
pub(super) struct Part(Vec<usize>);

impl<'a> Batch<'a> {
    pub(super) fn new<const N: usize>(names: &'a Names, head: [Vec<u8>; N]) -> Self {
        Self { names, head: head.into(), items: Vec::new(), portion: usize::MAX }
    }

    /// With one item for each bucket.
    pub(super) fn over_buckets(names: &'a Names, head: Vec<Vec<u8>>) -> Self {
        Self::over(names, head, (0..=u8::MAX).map(|bucket| (bucket, Vec::new())))
    }

    /// With one item for each of these buckets, and what the script wants of it. So many go into a call that what others ask
    /// meanwhile has its turn between two.
    pub(super) fn over(
        names: &'a Names,
        head: Vec<Vec<u8>>,
        buckets: impl IntoIterator<Item = (u8, Vec<Vec<u8>>)>,
    ) -> Self {
        let item = |(bucket, args)| Item { bucket, key: names.load(bucket), args };
        Self { names, head, items: buckets.into_iter().map(item).collect(), portion: PORTION }
    }

    /// Adds an item: the trade and the id, and what else the script wants of it.
    pub(super) fn add<const N: usize>(&mut self, key: &Key, rest: [Vec<u8>; N]) {
        self.add_subject(&key.subject, std::iter::once(text(&key.id)).chain(rest).collect());
    }

    pub(super) fn add_subject(&mut self, subject: &str, args: Vec<Vec<u8>>) {
        let key = self.names.trade(subject);
        self.items.push(Item { bucket: bucket(subject), key, args });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// About what it holds in memory, in bytes.
    pub(super) fn weight(&self) -> usize {
        let of = |item: &Item| 256 + item.args.iter().map(Vec::len).sum::<usize>();
        self.items.iter().map(of).sum()
    }

    /// Each item in a batch of its own, with its key.
    pub(super) fn one_by_one(&self) -> impl Iterator<Item = (String, Batch<'a>)> {
        self.items.iter().map(|item| {
            let (names, head, portion) = (self.names, self.head.clone(), self.portion);
            (item.key.clone(), Batch { names, head, items: vec![item.clone()], portion })
        })
    }

    /// The parts, each of one bucket where it is to be spread.
    pub(super) fn parts(&self, spread: Spread) -> Vec<Part> {
        match spread {
            Spread::Together => {
                let all: Vec<usize> = (0..self.items.len()).collect();
                all.chunks(self.portion).map(|some| Part(some.to_vec())).collect()
            }
            Spread::ByBucket => {
                let mut parts: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
                for (index, item) in self.items.iter().enumerate() {
                    parts.entry(item.bucket).or_default().push(index);
                }
                parts.into_values().map(Part).collect()
            }
        }
    }

    pub(super) fn call<'s>(&self, script: &'s Script, part: &Part) -> ScriptInvocation<'s> {
        let mut call = script.prepare_invoke();
        for arg in &self.head {
            call.arg(arg.as_slice());
        }
        for item in part.0.iter().filter_map(|&index| self.items.get(index)) {
            call.key(&item.key);
            for arg in &item.args {
                call.arg(arg.as_slice());
            }
        }
        call
    }

    /// The answers in the order of the items. `None` if there are not as many as items.
    pub(super) fn gather(&self, answers: Vec<(Part, Value)>) -> Option<Vec<Value>> {
        let mut gathered: Vec<Option<Value>> = vec![None; self.items.len()];
        for (part, answer) in answers {
            let Value::Array(values) = answer else { return None };
            for (index, value) in part.0.into_iter().zip(values) {
                *gathered.get_mut(index)? = Some(value);
            }
        }
        gathered.into_iter().collect()
    }
}

/// Whether one call may touch several buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spread {
    Together,
    ByBucket,
}

/// Bound: buckets that one call visits.
const PORTION: usize = 64;

pub(super) fn text(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

pub(super) fn number(number: impl std::fmt::Display) -> Vec<u8> {
    number.to_string().into_bytes()
}
