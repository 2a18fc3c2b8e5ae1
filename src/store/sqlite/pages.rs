//! Reads a damaged file of the embedded store page by page, without SQLite, which refuses a file whose first page is
//! gone and everything behind a page that is. A row needs only its own page (and those that its content runs over
//! to), so all that lies on sound pages is found: <https://www.sqlite.org/fileformat2.html>.
//!
//! Pages that are no longer in use may still hold rows as they were. Of two rows of one key what is settled counts, and
//! of two that wait the newer; what remains of that is at worst an event that is announced once more, with its id.
//!
//! Nothing is written, and the newest version of a page may lie in the log: as far as its chain of checksums goes it
//! replaces the page in the file; what lies behind a break in it is looked through as well.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::place::beside;
use crate::clock::Timestamp;
use crate::event::{Digest, Key};
use crate::store::{Entry, State};

/// A damaged file.
#[derive(Debug)]
pub struct Pages {
    file: File,
    log: Option<File>,
    page_size: usize,
    count: u32,
    /// How many there should be.
    stated: u32,
    /// Pages whose newest version is in the log, and where there.
    newer: HashMap<u32, u64>,
    /// Pages in the log behind a break, by their place.
    loose: Vec<u64>,
    /// How many the database had after the newest commit in the log.
    committed: u32,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// Pages of the file.
    pub pages: u32,
    /// Pages that belong to nothing that could be read: damaged, or the far end of something that was.
    pub unreadable: u32,
    /// Rows on readable pages that could not be read to their end.
    pub broken: u64,
}

impl Pages {
    /// Opens the file and its log, which lies beside it.
    ///
    /// # Errors
    /// If it cannot be read at all.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // Opening one succeeds, and every page of it would be called damaged.
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let log = File::open(beside(path, "-wal")).ok();
        let mut head = [0; 100];
        let _ = file.read_exact_at(&mut head, 0);
        let stated = usize::from(u16_at(&head, 16).unwrap_or(0));
        let is_sound = head.starts_with(b"SQLite format 3\0") && stated.is_power_of_two() && stated >= 512;
        let page_size = if is_sound { stated } else { PAGE_SIZE };
        let mut pages = Self {
            file,
            log,
            page_size,
            count: 0,
            stated: 0,
            newer: HashMap::new(),
            loose: Vec::new(),
            committed: 0,
        };
        pages.read_log()?;
        let in_file = pages.file.metadata()?.len().div_ceil(u64::try_from(page_size).unwrap_or(1));
        pages.count = u32::try_from(in_file).unwrap_or(u32::MAX).max(pages.committed);
        // Of a file that was cut off its head says how much is missing, if nothing was written behind its back. One that is
        // empty has lost its head, too.
        let is_told = pages.committed == 0 && is_sound && u32_at(&head, 24) == u32_at(&head, 92);
        pages.stated = u32_at(&head, 28).filter(|_| is_told).unwrap_or(0).max(pages.count).max(1);
        Ok(pages)
    }

    /// Gives every entry that can be read, each key of what waits once.
    ///
    /// # Errors
    /// What `take` says.
    pub fn read<E>(&self, mut take: impl FnMut(Entry) -> Result<(), E>) -> Result<Found, E> {
        // Bound: what waits is, by the store's own bounds.
        let mut waiting: HashMap<Key, Entry> = HashMap::new();
        self.rows(&mut Trace::default(), &mut |entry| {
            let is_newer = |old: &Entry| (old.at, old.attempts) < (entry.at, entry.attempts);
            if waits(entry.state) && waiting.get(&entry.key).is_none_or(is_newer) {
                waiting.insert(entry.key.clone(), entry);
            }
            Ok(())
        })?;
        let mut trace = Trace::default();
        self.rows(&mut trace, &mut |entry| {
            if waits(entry.state) {
                return Ok(());
            }
            waiting.remove(&entry.key);
            take(entry)
        })?;
        let mut waiting: Vec<Entry> = waiting.into_values().collect();
        waiting.sort_by(|a, b| (a.first_at, &a.key).cmp(&(b.first_at, &b.key)));
        waiting.into_iter().try_for_each(take)?;
        self.mark_free(&mut trace);
        let used = u32::try_from(trace.used.len()).unwrap_or(u32::MAX);
        Ok(Found { pages: self.stated, unreadable: self.stated.saturating_sub(used), broken: trace.broken })
    }

    /// Since when nothing is missing of what it kept ([`Store::complete_since`](crate::store::Store::complete_since)), as far as that can
    /// be read: the epoch where it cannot, or nothing had been deleted. What is damaged may say any time; none behind `now` counts,
    /// by which every payment would be late.
    pub fn complete_since(&self, now: Timestamp) -> Timestamp {
        let mut trace = Trace { now: now.unix_millis(), ..Trace::default() };
        let Ok(()) = self.rows(&mut trace, &mut |_| Ok::<(), Infallible>(()));
        Timestamp::from_unix_millis(trace.forgotten)
    }

    fn rows<E>(&self, trace: &mut Trace, take: &mut impl FnMut(Entry) -> Result<(), E>) -> Result<(), E> {
        for number in 1..=self.count {
            let Some(page) = self.page(number) else { continue };
            if self.rows_of(&page, if number == 1 { 100 } else { 0 }, trace, take)? {
                trace.used.insert(number);
            }
        }
        for at in &self.loose {
            if let Some(page) = self.logged(*at) {
                self.rows_of(&page, 0, trace, take)?;
            }
        }
        Ok(())
    }

    /// Whether the page is part of a tree.
    fn rows_of<E>(
        &self,
        page: &[u8],
        from: usize,
        trace: &mut Trace,
        take: &mut impl FnMut(Entry) -> Result<(), E>,
    ) -> Result<bool, E> {
        let kind = page.get(from).copied().and_then(Kind::of);
        let (Some(kind), Some(cells)) = (kind, u16_at(page, from + 3).map(usize::from)) else {
            return Ok(false);
        };
        let pointers = from + if kind.is_interior() { 12 } else { 8 };
        if pointers + 2 * cells > page.len() || (cells == 0 && kind.is_interior()) {
            return Ok(false);
        }
        for cell in 0..cells {
            let at =
                u16_at(page, pointers + 2 * cell).map(usize::from).filter(|at| *at >= pointers + 2 * cells);
            let read = at.and_then(|at| self.cell(page, at, kind, trace));
            let columns = |payload: &[u8]| {
                Columns::of(payload).map(|columns| (columns.len(), entry(&columns), moment(&columns)))
            };
            match read.map(|payload| columns(&payload)) {
                Some(Some((COLUMNS..=WITH_NUMBER, Some(entry), _))) => take(entry)?,
                Some(Some((2, _, Some(at)))) if kind == Kind::Table => trace.forgot(at),
                // Of an index, or of SQLite's own table.
                Some(Some((2..=6, ..))) => {}
                _ if kind == Kind::InnerTable => {}
                Some(_) | None => trace.broken += 1,
            }
        }
        Ok(true)
    }

    /// The payload of a cell, with what runs over to other pages.
    fn cell(&self, page: &[u8], at: usize, kind: Kind, trace: &mut Trace) -> Option<Vec<u8>> {
        let mut at = at + if kind.is_interior() { 4 } else { 0 };
        let (length, next) = varint(page, at)?;
        at = next;
        if kind == Kind::InnerTable {
            return None;
        }
        if kind == Kind::Table {
            at = varint(page, at)?.1;
        }
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_PAYLOAD)?;
        let usable = self.page_size;
        let most = if kind == Kind::Table { usable - 35 } else { (usable - 12) * 64 / 255 - 23 };
        let least = (usable - 12) * 32 / 255 - 23;
        if length <= most {
            return page.get(at..at + length).map(<[u8]>::to_vec);
        }
        let here = least + (length - least) % (usable - 4);
        let here = if here <= most { here } else { least };
        let mut payload = page.get(at..at + here)?.to_vec();
        let mut following = u32_at(page, at + here)?;
        // Bound: the payload's length.
        while payload.len() < length {
            let more = self.page(following)?;
            trace.used.insert(following);
            let rest = (length - payload.len()).min(usable - 4);
            payload.extend_from_slice(more.get(4..4 + rest)?);
            following = u32_at(&more, 0)?;
        }
        Some(payload)
    }

    /// Pages that are in no use are not missing.
    fn mark_free(&self, trace: &mut Trace) {
        let mut trunk = self.page(1).and_then(|first| u32_at(&first, 32)).unwrap_or(0);
        let mut left = self.count;
        while trunk != 0 && left > 0 {
            let Some(page) = self.page(trunk) else { return };
            trace.used.insert(trunk);
            let leaves = usize::try_from(u32_at(&page, 4).unwrap_or(0)).unwrap_or(0).min(self.page_size / 4);
            for leaf in (0..leaves).filter_map(|n| u32_at(&page, 8 + 4 * n)) {
                if (1..=self.count).contains(&leaf) {
                    trace.used.insert(leaf);
                }
            }
            trunk = u32_at(&page, 0).unwrap_or(0);
            left -= 1;
        }
    }

    /// The newest version of a page.
    fn page(&self, number: u32) -> Option<Vec<u8>> {
        if let Some(at) = self.newer.get(&number) {
            return self.logged(*at);
        }
        let mut page = vec![0; self.page_size];
        let at = u64::from(number.checked_sub(1)?) * u64::try_from(self.page_size).ok()?;
        self.file.read_exact_at(&mut page, at).ok()?;
        Some(page)
    }

    fn logged(&self, at: u64) -> Option<Vec<u8>> {
        let mut page = vec![0; self.page_size];
        self.log.as_ref()?.read_exact_at(&mut page, at).ok()?;
        Some(page)
    }

    /// Finds the frames that were committed: those of this generation of the log, as far as the checksums go.
    fn read_log(&mut self) -> io::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let mut head = [0; 32];
        if log.read_exact_at(&mut head, 0).is_err() {
            return Ok(());
        }
        let order = if u32_at(&head, 0) == Some(0x377f_0683) { Order::Big } else { Order::Little };
        let mut sum = order.checksum([0, 0], head.get(..24).unwrap_or_default());
        let mut is_whole = [u32_at(&head, 24), u32_at(&head, 28)] == sum.map(Some);
        let (mut at, mut pending) = (32u64, Vec::new());
        let mut frame = vec![0; 24 + self.page_size];
        while log.read_exact_at(&mut frame, at).is_ok() {
            let place = at + 24;
            at += u64::try_from(frame.len()).unwrap_or(u64::MAX);
            if frame.get(8..16) != head.get(16..24) {
                is_whole = false;
                continue;
            }
            sum = order.checksum(sum, frame.get(..8).unwrap_or_default());
            sum = order.checksum(sum, frame.get(24..).unwrap_or_default());
            is_whole &= [u32_at(&frame, 16), u32_at(&frame, 20)] == sum.map(Some);
            if !is_whole {
                self.loose.push(place);
                continue;
            }
            pending.push((u32_at(&frame, 0).unwrap_or(0), place));
            // What was not committed never was.
            if let Some(count) = u32_at(&frame, 4).filter(|count| *count != 0) {
                self.committed = count;
                self.newer.extend(pending.drain(..));
            }
        }
        Ok(())
    }
}

/// What was met on the way.
#[derive(Default)]
struct Trace {
    used: HashSet<u32>,
    broken: u64,
    /// In milliseconds.
    forgotten: i64,
    now: i64,
}

impl Trace {
    fn forgot(&mut self, at: i64) {
        if at <= self.now {
            self.forgotten = self.forgotten.max(at);
        }
    }
}

/// What a page of a tree holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Table,
    InnerTable,
    Index,
    InnerIndex,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        match byte {
            0x0d => Some(Self::Table),
            0x05 => Some(Self::InnerTable),
            0x0a => Some(Self::Index),
            0x02 => Some(Self::InnerIndex),
            _ => None,
        }
    }

    fn is_interior(self) -> bool {
        matches!(self, Self::InnerTable | Self::InnerIndex)
    }
}

/// A value of a record.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value<'a> {
    Null,
    Integer(i64),
    Text(&'a str),
    Blob(&'a [u8]),
}

struct Columns;

impl Columns {
    fn of(payload: &[u8]) -> Option<Vec<Value<'_>>> {
        let (head, mut at) = varint(payload, 0)?;
        let head = usize::try_from(head).ok()?;
        let (mut body, mut values) = (head, Vec::with_capacity(WITH_NUMBER));
        while at < head && values.len() <= WITH_NUMBER {
            let (kind, next) = varint(payload, at)?;
            at = next;
            let length = match kind {
                0 | 8 | 9 => 0,
                1..=4 => kind,
                5 => 6,
                6 => 8,
                12.. => (kind - 12) / 2,
                // A floating point number, or what SQLite keeps for itself.
                7 | 10 | 11 => return None,
            };
            let end = body.checked_add(usize::try_from(length).ok()?)?;
            let bytes = payload.get(body..end)?;
            body = end;
            values.push(match kind {
                0 => Value::Null,
                8 => Value::Integer(0),
                9 => Value::Integer(1),
                1..=6 => Value::Integer(integer(bytes)),
                _ if kind % 2 == 0 => Value::Blob(bytes),
                _ => Value::Text(std::str::from_utf8(bytes).ok()?),
            });
        }
        (body == payload.len()).then_some(values)
    }
}

/// The row, if these are the columns of one.
fn entry(columns: &[Value<'_>]) -> Option<Entry> {
    let column = |at: usize| columns.get(at).copied();
    let text = |at| match column(at)? {
        Value::Text(text) => Some(text.to_owned()),
        Value::Null | Value::Integer(_) | Value::Blob(_) => None,
    };
    let number = |at| match column(at)? {
        Value::Integer(number) => Some(number),
        Value::Null | Value::Text(_) | Value::Blob(_) => None,
    };
    let blob = |at| match column(at)? {
        Value::Blob(bytes) => Some(bytes),
        Value::Null | Value::Integer(_) | Value::Text(_) => None,
    };
    let digest = match column(3)? {
        Value::Null => None,
        Value::Blob(bytes) => Some(Digest::from_bytes(bytes.try_into().ok()?)),
        Value::Integer(_) | Value::Text(_) => return None,
    };
    let key = Key { subject: text(0)?, id: text(1)? };
    let is_plain =
        |name: &str| !name.is_empty() && name.len() <= 512 && name.bytes().all(|b| b.is_ascii_graphic());
    if !is_plain(&key.subject) || !is_plain(&key.id) {
        return None;
    }
    let state = State::from_code(number(2)?)?;
    let at = |column| number(column).map(Timestamp::from_unix_millis);
    Some(Entry {
        key,
        state,
        digest,
        notify_id: text(4)?,
        event_type: text(5),
        first_at: at(6)?,
        at: at(7)?,
        attempts: u32::try_from(number(8)?).ok()?,
        expires_at: at(9),
        reason: text(10),
        payment_time: at(11),
        content: blob(12).map(<[u8]>::to_vec),
    })
}

/// What a row of `forgotten` says, in milliseconds. One of `placed` looks the same, and has the number of a row.
fn moment(columns: &[Value<'_>]) -> Option<i64> {
    if let [Value::Null, Value::Integer(at @ MANY_ROWS..)] = columns { Some(*at) } else { None }
}

fn waits(state: State) -> bool {
    matches!(state, State::Deferred | State::InDoubt | State::Held)
}

/// A number of up to nine bytes, and where it ends.
fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut number = 0u64;
    for count in 0..9 {
        let byte = *bytes.get(at + count)?;
        if count == 8 {
            return Some((number << 8 | u64::from(byte), at + 9));
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((number, at + count + 1));
        }
    }
    None
}

/// Big-endian and signed, of up to eight bytes.
fn integer(bytes: &[u8]) -> i64 {
    let sign = if bytes.first().is_some_and(|first| first & 0x80 != 0) { -1 } else { 0 };
    bytes.iter().fold(sign, |number, byte| number << 8 | i64::from(*byte))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

/// The byte order of the log's sums, which its magic number states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Big,
    Little,
}

impl Order {
    /// The log's own sum, over pairs of words.
    fn checksum(self, [mut a, mut b]: [u32; 2], bytes: &[u8]) -> [u32; 2] {
        let word = |bytes: &[u8]| {
            let bytes = bytes.try_into().unwrap_or_default();
            if self == Self::Big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
        };
        for pair in bytes.chunks_exact(8) {
            let (left, right) = pair.split_at(4);
            a = a.wrapping_add(word(left)).wrapping_add(b);
            b = b.wrapping_add(word(right)).wrapping_add(a);
        }
        [a, b]
    }
}

/// Of the table, as they are stored.
const COLUMNS: usize = 13;
/// And behind them a null for the row's number, since version 4.
const WITH_NUMBER: usize = COLUMNS + 1;
/// More than there ever are; and as a moment, in the year 2001.
const MANY_ROWS: i64 = 1_000_000_000_000;
/// What SQLite makes a page of, and the store never says otherwise.
const PAGE_SIZE: usize = 4096;
/// Bound: a body is at most 16 MiB by `http.max_body`.
const MAX_PAYLOAD: usize = 17 << 20;
