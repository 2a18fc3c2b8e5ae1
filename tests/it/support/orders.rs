//! Every order in which a broker can answer a batch: what it says, what is true then, and what the AMQP client
//! makes of it.
//!
//! The space, for a batch of `size` messages with the tags 1 to `size`. A frame is one of
//! - `basic.return` of a message, once at most, and before that message is settled (RabbitMQ's order);
//! - `basic.ack` or `basic.nack` of one message that is not settled;
//! - a coalesced ack or nack (`multiple`) up to a message that is not settled, where that settles two at least.
//!
//! An order is a sequence of such frames, of any length: every prefix is an order of its own, so "silence", "the
//! channel closes" and "the connection closes" at any place are an [`End`] of some order each. A message is
//! unroutable where its return is in the order; one of which nothing is said is the same, to whoever listens,
//! whether it would have been returned or acked later, so it is counted once.

use std::collections::VecDeque;
use std::fmt;

use alipay_notify_gateway::broker::{Confirm, Settled};

use super::amqp_peer::Reply;

/// What a broker says to one batch.
#[derive(Clone, PartialEq, Eq)]
pub struct Order {
    pub size: usize,
    pub frames: Vec<Frame>,
}

/// One thing that it says. Tags are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    Return(usize),
    Settle { tag: usize, word: Word, multiple: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Ack,
    Nack,
}

/// What comes after the last frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nothing.
    Silence,
    /// `channel.close`.
    ChannelCloses,
    /// `connection.close`.
    ConnectionCloses,
    /// The socket is gone.
    Cut,
}

impl End {
    pub const ALL: [Self; 4] = [Self::Silence, Self::ChannelCloses, Self::ConnectionCloses, Self::Cut];
}

/// What is true of a message when its order is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Routed, and acked.
    Taken,
    /// Returned, whatever else was said.
    Unroutable,
    /// Nacked, and not returned.
    Refused,
    /// Nothing was said of it.
    Open,
}

/// What one message has been told so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    returned: bool,
    settled: Option<Word>,
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "of {}:", self.size)?;
        for frame in &self.frames {
            match frame {
                Frame::Return(tag) => write!(f, " return({tag})")?,
                Frame::Settle { tag, word, multiple } => {
                    let word = if *word == Word::Ack { "ack" } else { "nack" };
                    write!(f, " {word}({}{tag})", if *multiple { "≤" } else { "" })?;
                }
            }
        }
        Ok(())
    }
}

impl Order {
    /// Visits every order for a batch of this size, each once.
    pub fn each(size: usize, visit: &mut impl FnMut(&Self)) {
        Self { size, frames: Vec::new() }.grow(visit);
    }

    fn grow(&mut self, visit: &mut impl FnMut(&Self)) {
        visit(self);
        for next in self.possible() {
            self.frames.push(next);
            self.grow(visit);
            self.frames.pop();
        }
    }

    fn possible(&self) -> Vec<Frame> {
        let told = self.told();
        let mut possible = Vec::new();
        for tag in 1..=self.size {
            let Told { returned, settled: None } = told[tag - 1] else { continue };
            if !returned {
                possible.push(Frame::Return(tag));
            }
            let coalesces = told[..tag].iter().filter(|told| told.settled.is_none()).count() >= 2;
            for word in [Word::Ack, Word::Nack] {
                possible.push(Frame::Settle { tag, word, multiple: false });
                if coalesces {
                    possible.push(Frame::Settle { tag, word, multiple: true });
                }
            }
        }
        possible
    }

    fn told(&self) -> Vec<Told> {
        let mut told = vec![Told { returned: false, settled: None }; self.size];
        for frame in &self.frames {
            match *frame {
                Frame::Return(tag) => told[tag - 1].returned = true,
                Frame::Settle { tag, word, multiple } => {
                    let from = if multiple { 1 } else { tag };
                    for told in &mut told[from - 1..tag] {
                        told.settled.get_or_insert(word);
                    }
                }
            }
        }
        told
    }

    /// What is true of each message.
    pub fn fates(&self) -> Vec<Fate> {
        let fate = |told: Told| match told {
            Told { returned: true, .. } => Fate::Unroutable,
            Told { settled: Some(Word::Ack), .. } => Fate::Taken,
            Told { settled: Some(Word::Nack), .. } => Fate::Refused,
            Told { settled: None, .. } => Fate::Open,
        };
        self.told().into_iter().map(fate).collect()
    }

    /// Whether the broker settled every message.
    pub fn is_resolved(&self) -> bool {
        self.told().iter().all(|told| told.settled.is_some())
    }

    /// The frames, as the peer says them.
    pub fn replies(&self, end: End) -> Vec<Reply> {
        let tag_of = |tag: usize| u64::try_from(tag).unwrap();
        let said = self.frames.iter().map(|frame| match *frame {
            Frame::Return(tag) => Reply::Return(tag_of(tag)),
            Frame::Settle { tag, word: Word::Ack, multiple } => Reply::Ack { tag: tag_of(tag), multiple },
            Frame::Settle { tag, word: Word::Nack, multiple } => Reply::Nack { tag: tag_of(tag), multiple },
        });
        let close =
            (end == End::ChannelCloses).then_some(Reply::CloseChannel(404, "NOT_FOUND - no exchange"));
        said.chain(close).collect()
    }

    /// What lapin 4.12.3 makes of it (`acknowledgement.rs` and `returned_messages.rs` there): a return is queued; a
    /// confirm takes the first of the queue when it resolves, whosever it is; a coalesced one resolves all that it
    /// covers in the order of a hash map, which is any order. Each outcome is the confirms as they resolve.
    pub fn outcomes(&self, name: &impl Fn(usize) -> String) -> Vec<Vec<Settled>> {
        let mut client = Client { queue: VecDeque::new(), resolved: Vec::new() };
        let mut outcomes = Vec::new();
        client.hear(self, 0, name, &mut outcomes);
        outcomes
    }
}

/// lapin's channel, as far as it matters here.
#[derive(Clone)]
struct Client {
    queue: VecDeque<String>,
    resolved: Vec<Settled>,
}

impl Client {
    fn hear(
        &mut self,
        order: &Order,
        at: usize,
        name: &impl Fn(usize) -> String,
        outcomes: &mut Vec<Vec<Settled>>,
    ) {
        match order.frames.get(at) {
            None => outcomes.push(self.resolved.clone()),
            Some(Frame::Return(tag)) => {
                self.queue.push_back(name(*tag));
                self.hear(order, at + 1, name, outcomes);
            }
            Some(Frame::Settle { tag, word, multiple }) => {
                let from = if *multiple { 1 } else { *tag };
                let covered: Vec<usize> = (from - 1..*tag)
                    .filter(|index| self.resolved.iter().all(|one| one.index != *index))
                    .collect();
                for covered in permutations(&covered) {
                    let mut next = self.clone();
                    for index in covered {
                        next.resolve(index, *word);
                    }
                    next.hear(order, at + 1, name, outcomes);
                }
            }
        }
    }

    fn resolve(&mut self, index: usize, word: Word) {
        let carried = self.queue.pop_front();
        let confirm = match word {
            Word::Ack => Confirm::Ack(carried),
            Word::Nack => Confirm::Nack(carried),
        };
        self.resolved.push(Settled { index, confirm });
    }
}

fn permutations(of: &[usize]) -> Vec<Vec<usize>> {
    if of.len() <= 1 {
        return vec![of.to_vec()];
    }
    let mut all = Vec::new();
    for (at, first) in of.iter().enumerate() {
        let rest: Vec<usize> =
            of.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, one)| *one).collect();
        for mut tail in permutations(&rest) {
            tail.insert(0, *first);
            all.push(tail);
        }
    }
    all
}
