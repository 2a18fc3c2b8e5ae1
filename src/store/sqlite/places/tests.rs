use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::clock::Timestamp;
use crate::event::{Digest, EventType};
use crate::store::sqlite::Config;
use crate::store::sqlite::change::Change;
use crate::store::sqlite::core::{Core, Opening};
use crate::store::{Claim, Entry, Holding, Merged, Record, State};

/// A store's file in a folder of its own, which goes with it.
struct File(PathBuf);

impl File {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("gateway.places.{:08x}", rand::random::<u32>()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.join("gateway.db")
    }

    fn config(&self) -> Config {
        Config {
            path: self.path(),
            max_deferred: 99,
            max_returned: 99,
            max_deferred_bytes: 1 << 20,
            max_held: 99,
            max_held_bytes: 1 << 20,
        }
    }

    /// The core that a gateway has, with slices so small that a few rows make many turns.
    fn open(&self) -> Core {
        let mut core = Core::open(&self.config(), Opening::ToWrite).unwrap();
        (core.places.much, core.places.slice) = (8, 3);
        core
    }

    fn number(&self, sql: &str) -> i64 {
        Connection::open(self.path()).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn key(n: u32) -> Key {
    // Three events of a trade.
    Key { subject: format!("T{}", n / 3), id: format!("A.T{n}.payment.succeeded") }
}

fn record(n: u32, expires_at: i64) -> Record {
    let at = Timestamp::from_unix_millis(1);
    Record {
        key: key(n),
        app_id: "A".to_owned(),
        event_type: EventType::PaymentSucceeded,
        digest: Digest::from_bytes([7; 32]),
        notify_id: format!("n{n}"),
        state: State::Recorded,
        at,
        expires_at: Timestamp::from_unix_millis(expires_at),
    }
}

fn entry(n: u32) -> Entry {
    let at = Timestamp::from_unix_millis(1);
    Entry {
        key: key(n),
        state: State::Recorded,
        digest: Some(Digest::from_bytes([7; 32])),
        notify_id: format!("n{n}"),
        event_type: Some("payment.succeeded".to_owned()),
        first_at: at,
        at,
        attempts: 1,
        expires_at: Some(Timestamp::from_unix_millis(NEVER)),
        reason: None,
        payment_time: None,
        content: None,
    }
}

/// A held notification, which the record of the same notification deletes.
fn holding(n: u32) -> Holding {
    let at = Timestamp::from_unix_millis(1);
    Holding {
        key: crate::store::held_key("A", &format!("n{n}"), key(n).subject),
        notify_id: format!("n{n}"),
        reason: "seller",
        body: vec![1],
        at,
        payment_time: None,
    }
}

fn write(core: &mut Core, records: impl IntoIterator<Item = Record>) {
    core.commit(&[&Change::Record(records.into_iter().collect())]).unwrap();
}

fn is_granted(claim: &Claim) -> bool {
    matches!(claim, Claim::Granted(Some(_)))
}

fn is_known(core: &Core, n: u32) -> bool {
    is_granted(&core.known(&[key(n)]).unwrap()[0])
}

/// Whatever is written, deleted, brought by another process and opened again, every key has one row or none, and is found
/// if it has one.
#[test]
fn every_row_is_found_whatever_happened_to_the_file() {
    let turns = |seed| {
        let (file, mut random) = (File::new(), SmallRng::seed_from_u64(seed));
        let (mut core, mut rows) = (file.open(), HashMap::<u32, i64>::new());
        let mut other = Core::open(&file.config(), Opening::Beside).unwrap();
        let mut turns = 0;
        for now in 1..400i64 {
            let some: Vec<u32> =
                (0..random.random_range(1..6)).map(|_| random.random_range(0..300)).collect();
            let ends = if random.random_bool(0.3) { now + 5 } else { NEVER };
            match random.random_range(0..12) {
                0 => core = file.open(),
                1 => {
                    let merged = other.merge(&some.iter().map(|n| entry(*n)).collect::<Vec<_>>()).unwrap();
                    for (n, merged) in some.iter().zip(merged) {
                        let is_new = rows.insert(*n, *rows.get(n).unwrap_or(&NEVER)).is_none();
                        assert_eq!(merged == Merged::Taken, is_new, "seed {seed}, {now}: {n}");
                    }
                }
                2 => {
                    core.commit(&[&Change::Hold(vec![holding(some[0])])]).unwrap();
                    // Its row is the last, and so its number is given again.
                    write(&mut core, [record(some[0], NEVER), record(some[0] / 3 * 3, NEVER)]);
                    rows.extend([(some[0], NEVER), (some[0] / 3 * 3, NEVER)]);
                }
                3 => {
                    core.swept = 0;
                    // Some at a time.
                    while core.sweep(Timestamp::from_unix_millis(now), Duration::ZERO).is_ok()
                        && core.swept != 0
                    {}
                    rows.retain(|_, expires_at| *expires_at >= now);
                }
                _ => {
                    let before = core.places.turn;
                    write(&mut core, some.iter().map(|n| record(*n, ends)));
                    turns += usize::from(core.places.turn != before);
                    for n in some {
                        let row = rows.entry(n).or_insert(ends);
                        *row = ends.max(*row);
                    }
                }
            }
            for n in 0..300 {
                assert_eq!(is_known(&core, n), rows.contains_key(&n), "seed {seed}, {now}: {n}");
            }
        }
        let sound = "SELECT count(*) = count(DISTINCT subject || '/' || id) FROM event";
        assert_eq!(file.number(sound), 1, "seed {seed}: a key has two rows");
        assert!(turns > 5, "seed {seed}: {turns} turns");
        // What is in `place` and in no row goes with the row.
        core.merge(&[]).unwrap();
        assert_eq!(file.number("SELECT count(*) FROM place"), file.number("SELECT count(*) FROM event"));
    };
    (0..5).for_each(turns);
}

#[test]
fn a_number_that_is_given_again_is_found_by_who_opens_the_file_later() {
    let file = File::new();
    let mut core = file.open();
    write(&mut core, [record(0, 5), record(1, NEVER)]);
    write(&mut core, (2..40).map(|n| record(n, 5)));
    core.merge(&[]).unwrap();
    assert_eq!(file.number("SELECT row FROM placed"), 40);
    core.sweep(Timestamp::from_unix_millis(9), Duration::ZERO).unwrap();
    // Its number is the second again.
    write(&mut core, [record(50, NEVER)]);
    assert_eq!(file.number("SELECT max(row) FROM event"), 3);
    drop(core);
    let core = file.open();
    assert!(is_known(&core, 50) && is_known(&core, 1) && !is_known(&core, 0));
}

/// The number of a row that has expired is given again, to a row whose slice has had its turn.
#[test]
fn a_number_that_is_given_again_behind_the_slices_is_found_by_who_opens_the_file_later() {
    for seed in 0..10 {
        let (file, mut n) = (File::new(), seed * 1000);
        let mut core = file.open();
        let mut next = |expires_at| {
            n += 1;
            record(n, expires_at)
        };
        write(&mut core, [next(NEVER), next(NEVER)]);
        let begins = |core: &Core| core.places.cursor.is_none() && core.places.turn > 20;
        while !begins(&core) {
            write(&mut core, [next(5)]);
        }
        let turn = core.places.turn;
        for _ in 0..6 {
            write(&mut core, [next(5)]);
        }
        while core.sweep(Timestamp::from_unix_millis(9), Duration::ZERO).is_ok() && core.swept != 0 {}
        let mut stays = Vec::new();
        while core.places.placed < turn {
            let record = next(NEVER);
            stays.push(record.key.clone());
            write(&mut core, [record]);
        }
        drop(core);
        let known = file.open().known(&stays).unwrap();
        assert!(known.iter().all(is_granted), "seed {seed}: {known:?}");
    }
}

#[test]
fn who_merges_knows_what_the_gateway_wrote_since_he_opened_the_file() {
    let file = File::new();
    let (mut core, mut other) = (file.open(), Core::open(&file.config(), Opening::Beside).unwrap());
    write(&mut core, [record(1, NEVER)]);
    assert_eq!(other.merge(&[entry(1), entry(2)]).unwrap(), [Merged::Known, Merged::Taken]);
    assert!(is_known(&core, 2));
    assert_eq!(core.merge(&[entry(2)]).unwrap(), [Merged::Known]);
}

/// With the `sqlite3` shell, say.
#[test]
fn rows_that_somebody_else_writes_are_found_at_the_next_look_whatever_turn_it_is() {
    let file = File::new();
    let mut core = file.open();
    write(&mut core, (0..40).map(|n| record(n, NEVER)));
    for n in 100..140 {
        let Key { subject, id } = key(n);
        let insert = "INSERT INTO event (subject, id, state, notify_id, first_at, at, attempts, digest)
                      VALUES (?1, ?2, 0, 'n', 1, 1, 1, zeroblob(32))";
        Connection::open(file.path()).unwrap().execute(insert, [subject, id]).unwrap();
        core.recount_if_changed().unwrap();
        write(&mut core, [record(n, NEVER), record(n + 100, NEVER)]);
    }
    assert!((100..140).chain(200..240).chain(0..40).all(|n| is_known(&core, n)));
    assert_eq!(file.number("SELECT count(*) = count(DISTINCT subject || '/' || id) FROM event"), 1);
    drop(core);
    let core = file.open();
    assert!((100..140).chain(200..240).chain(0..40).all(|n| is_known(&core, n)));
}

#[test]
fn rows_that_somebody_else_writes_are_bounded_in_memory() {
    let file = File::new();
    let mut core = file.open();
    let many = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
                INSERT INTO event (subject, id, state, notify_id, first_at, at, attempts, digest)
                SELECT 'S' || n, 'A.S' || n, 0, 'n', 1, 1, 1, zeroblob(32) FROM n";
    let most = i64::try_from(MOST).unwrap();
    Connection::open(file.path()).unwrap().execute(many, [most + 1]).unwrap();
    core.recount_if_changed().unwrap();
    assert!(core.places.recent.len() <= MOST);
    assert!(file.number("SELECT row FROM placed") > 0);
    let known = |n| {
        core.known(&[Key { subject: format!("S{n}"), id: format!("A.S{n}") }]).unwrap()[0]
            != Claim::Granted(None)
    };
    assert!([1, 2, most, most + 1].into_iter().all(known));
}

#[test]
fn tables_that_somebody_has_emptied_are_made_again() {
    for (table, merges) in [("place", false), ("place", true), ("placed", false), ("placed", true)] {
        let file = File::new();
        let mut core = file.open();
        write(&mut core, (0..30).map(|n| record(n, NEVER)));
        core.merge(&[]).unwrap();
        drop(core);
        Connection::open(file.path()).unwrap().execute_batch(&format!("DELETE FROM {table}")).unwrap();
        // Salvage comes first, or the gateway.
        if merges {
            let merged =
                Core::open(&file.config(), Opening::Beside).unwrap().merge(&[entry(3), entry(70)]).unwrap();
            assert_eq!(merged, [Merged::Known, Merged::Taken], "{table}");
        }
        let mut core = file.open();
        assert!((0..30).all(|n| is_known(&core, n)), "{table}");
        write(&mut core, [record(60, NEVER)]);
        assert!(is_known(&core, 60), "{table}");
    }
}

#[test]
fn a_subject_that_is_no_text_any_more_harms_no_other() {
    let file = File::new();
    let mut core = file.open();
    write(&mut core, (0..30).map(|n| record(n, 5)));
    drop(core);
    let flip = "UPDATE event SET subject = CAST(x'54ff' AS TEXT) WHERE row = 30";
    Connection::open(file.path()).unwrap().execute_batch(flip).unwrap();
    let mut core = file.open();
    assert!((0..29).all(|n| is_known(&core, n)) && !is_known(&core, 29));
    core.merge(&[entry(50)]).unwrap();
    core.sweep(Timestamp::from_unix_millis(9), Duration::ZERO).unwrap();
    assert_eq!(file.number("SELECT count(*) FROM event"), 1, "what has expired goes");
}

#[test]
fn the_newest_that_was_ever_deleted_is_remembered() {
    let file = File::new();
    let mut core = file.open();
    let at = Timestamp::from_unix_millis;
    let announced = |n, when| Record { at: at(when), ..record(n, when + 5) };
    write(&mut core, [announced(1, 3), announced(2, 2), announced(3, 40)]);
    core.sweep(at(5), Duration::ZERO).unwrap();
    assert_eq!(core.forgotten().unwrap(), at(0), "nothing has expired");
    core.sweep(at(9), Duration::ZERO).unwrap();
    assert_eq!(core.forgotten().unwrap(), at(3));
    assert!(is_known(&core, 3));
    write(&mut core, [announced(4, 1)]);
    core.sweep(at(9), Duration::ZERO).unwrap();
    drop(core);
    let old = file.open();
    assert_eq!(old.forgotten().unwrap(), at(3));
    let other = File::new();
    let mut core = other.open();
    core.take_over(&old).unwrap();
    assert_eq!(core.forgotten().unwrap(), at(3), "also where another file takes over");
}

#[test]
fn a_row_whose_values_are_of_another_kind_keeps_no_other_from_being_read_or_written() {
    for flip in
        ["state = NULL", "state = x'01'", "attempts = NULL", "subject = 5", "digest = 'a'", "at = 'a'"]
    {
        let file = File::new();
        let mut core = file.open();
        write(&mut core, (0..30).map(|n| record(n, 5)));
        drop(core);
        let connection = Connection::open(file.path()).unwrap();
        // As bits in the file would have it: no constraint and no kind of a column is asked, and no index is told.
        let schema = |change: &str| {
            let sql = format!(
                "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = {change} WHERE name = 'event';
                 PRAGMA writable_schema = RESET;"
            );
            connection.execute_batch(&sql).unwrap();
        };
        schema(
            "replace(replace(replace(sql, ' NOT NULL', '/**/'), ' TEXT/**/', '/*T*/'), ' INTEGER/**/', '/*I*/')",
        );
        connection.execute_batch(&format!("UPDATE event SET {flip} WHERE row = 30")).unwrap();
        schema(
            "replace(replace(replace(sql, '/*I*/', ' INTEGER/**/'), '/*T*/', ' TEXT/**/'), '/**/', ' NOT NULL')",
        );
        // Something else waits, so that what is recorded is asked for what waits under its key.
        connection
            .execute_batch(
                "INSERT INTO event (subject, id, state, notify_id, type, first_at, at, attempts)
                 VALUES ('W', 'A.W', 1, 'n', 'payment.succeeded', 1, 1, 1)",
            )
            .unwrap();
        drop(connection);
        let mut core = file.open();
        assert!((0..29).all(|n| is_known(&core, n)), "{flip}");
        assert_eq!(core.due(Timestamp::from_unix_millis(NEVER), 9, &[]).unwrap().len(), 1, "{flip}");
        write(&mut core, (25..40).map(|n| record(n, 5)));
        assert!((0..40).all(|n| is_known(&core, n)), "{flip}: what is written over is known");
        core.commit(&[&Change::Hold(vec![holding(1)])]).unwrap();
        core.merge(&[entry(29), entry(50)]).unwrap();
        core.sweep(Timestamp::from_unix_millis(9), Duration::ZERO).unwrap();
        drop(core);
        let core = file.open();
        assert!(is_known(&core, 50), "{flip}");
    }
}

#[test]
fn a_row_that_cannot_be_read_in_a_file_that_is_moved_is_lost_alone() {
    let (old, new) = (File::new(), File::new());
    write(&mut old.open(), (0..9).map(|n| record(n, NEVER)));
    let flip = "UPDATE event SET notify_id = CAST(x'ff' AS TEXT) WHERE row = 5";
    Connection::open(old.path()).unwrap().execute_batch(flip).unwrap();
    let mut core = new.open();
    assert_eq!(core.take_over(&old.open()).unwrap(), 8);
    for n in 0..9 {
        assert_eq!(is_known(&core, n), n != 4);
    }
}

#[test]
fn a_held_row_that_cannot_be_read_keeps_no_file_from_being_opened() {
    let file = File::new();
    let mut core = file.open();
    write(&mut core, [record(0, NEVER)]);
    core.commit(&[&Change::Hold(vec![holding(1), holding(2)])]).unwrap();
    drop(core);
    let flip = "UPDATE event SET subject = CAST(x'54ff' AS TEXT) WHERE row = 2";
    Connection::open(file.path()).unwrap().execute_batch(flip).unwrap();
    let core = file.open();
    assert!(is_known(&core, 0));
    assert_eq!(core.tally().unwrap().held, 2, "it is counted as what waits");
}

#[test]
fn what_a_rolled_back_commit_would_have_placed_is_still_found() {
    let file = File::new();
    let mut core = file.open();
    write(&mut core, (0..20).map(|n| record(n, NEVER)));
    let mut writing = Writing::begin(&core.connection, &mut core.places).unwrap();
    for _ in 0..9 {
        writing.place_some().unwrap();
    }
    drop(writing);
    assert!((0..20).all(|n| is_known(&core, n)));
}

#[test]
fn a_commit_of_few_rows_places_few() {
    let file = File::new();
    let mut core = file.open();
    let placed = || file.number("SELECT count(*) FROM place");
    write(&mut core, (0..8).map(|n| record(n, NEVER)));
    assert_eq!(placed(), 0, "they are remembered in memory alone");
    write(&mut core, [record(8, NEVER)]);
    assert_eq!(placed(), 3, "a slice");
    write(&mut core, (9..29).map(|n| record(n, NEVER)));
    assert!(core.places.recent.len() <= 8, "as many as it writes, and more");
}

/// What `place` has of a file whose rows were written by a gateway that had no such table.
#[test]
fn rows_that_are_many_when_a_file_is_opened_go_into_the_table_at_once() {
    let file = File::new();
    let mut core = file.open();
    write(&mut core, [record(0, NEVER)]);
    let many = i64::try_from(MOST).unwrap();
    core.connection
        .execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
             INSERT INTO event (subject, id, state, notify_id, first_at, at, attempts, digest)
             SELECT 'S' || n, 'A.S' || n, 0, 'n', 1, 1, 1, zeroblob(32) FROM n",
            [many],
        )
        .unwrap();
    drop(core);
    let core = file.open();
    assert_eq!(core.places.recent.len(), 0);
    assert_eq!(file.number("SELECT count(*) FROM place"), many + 1);
    let key = |n| Key { subject: format!("S{n}"), id: format!("A.S{n}") };
    assert!(core.known(&[key(1), key(many)]).unwrap().iter().all(is_granted));
}

#[test]
fn a_file_that_was_vacuumed_has_its_rows_where_they_were() {
    let file = File::new();
    let mut core = file.open();
    write(&mut core, (0..30).map(|n| record(n, if n % 2 == 0 { 5 } else { NEVER })));
    core.merge(&[]).unwrap();
    core.sweep(Timestamp::from_unix_millis(9), Duration::ZERO).unwrap();
    Connection::open(file.path()).unwrap().execute_batch("VACUUM").unwrap();
    assert!((0..30).all(|n| is_known(&core, n) == (n % 2 == 1)));
}

/// In the file: a hash of another kind would find no row that is there.
#[test]
fn the_hash_of_a_subject_is_what_it_was() {
    assert_eq!(hash(b"2026112322001427340000000001"), 88_518_686_778_545);
}

const NEVER: i64 = i64::MAX;
