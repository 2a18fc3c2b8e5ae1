use super::super::change::PUT_RECORD;
use super::schema::{APPLICATION_ID, VERSION, versions};
use super::*;

fn config(folder: &std::path::Path) -> Config {
    Config {
        path: folder.join("gateway.db"),
        max_deferred: 9,
        max_returned: 9,
        max_deferred_bytes: 1 << 20,
        max_held: 9,
        max_held_bytes: 1 << 20,
    }
}

fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("gateway.core.{:08x}", rand::random::<u32>()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn is_granted(claim: &Claim) -> bool {
    matches!(claim, Claim::Granted(Some(_)))
}

fn plan(core: &Core, sql: &str) -> Vec<String> {
    let mut explain = core.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let mut rows = explain.raw_query();
    let mut plan = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        plan.push(row.get::<_, String>(3).unwrap());
    }
    plan
}

#[test]
fn every_commit_is_synced() {
    let folder = folder();
    let core = Core::open(&config(&folder), Opening::ToWrite).unwrap();
    let synchronous: i64 = core.connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
    assert_eq!(synchronous, 2, "FULL: in WAL mode, 1 would lose the last commits in a power cut");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_due_and_how_much_waits_is_answered_by_indices_of_what_waits_alone() {
    let folder = folder();
    let core = Core::open(&config(&folder), Opening::ToWrite).unwrap();
    // In order out of the index: nothing is sorted, and nothing that is not due is looked at.
    assert_eq!(
        plan(&core, &format!("SELECT {WAITING} FROM event {IS_DUE}")),
        ["SEARCH event USING INDEX due (is_refused=? AND due_at<?)"]
    );
    let tally = plan(&core, TALLY);
    assert!(tally.iter().all(|step| step.contains("COVERING INDEX unsettled")), "{tally:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

/// What versions 1 to 3 had in common.
const EARLIER: &str = "
CREATE TABLE event (
  subject TEXT NOT NULL, id TEXT NOT NULL, state INTEGER NOT NULL, digest BLOB, notify_id TEXT NOT NULL,
  type TEXT, first_at INTEGER NOT NULL, at INTEGER NOT NULL, attempts INTEGER NOT NULL, expires_at INTEGER,
  reason TEXT, payment_at INTEGER, message BLOB, PRIMARY KEY (subject, id)
)";
const ROWS: &str = "
INSERT INTO event (subject, id, state, notify_id, first_at, at, attempts, reason, message, digest, type)
VALUES ('T', 'a', 1, 'n', 5, 7000, 3, 'returned', x'7b7d', zeroblob(32), 'payment.late'),
  ('T', 'b', 1, 'n', 5, 7000, 3, 'broker_down', x'7b7d', zeroblob(32), 'payment.late'),
  ('S', 'c', 0, 'n', 5, 7000, 1, NULL, NULL, zeroblob(32), 'payment.succeeded')";
/// As versions 2 and 3 had them; their definitions differed, and are of no use any more.
const COMPUTED: &str = "
ALTER TABLE event ADD COLUMN due_at INTEGER GENERATED ALWAYS AS (at + 60000) VIRTUAL;
ALTER TABLE event ADD COLUMN is_refused INTEGER GENERATED ALWAYS AS (0) VIRTUAL;
CREATE INDEX unsettled ON event (state, first_at, payment_at) WHERE state BETWEEN 1 AND 3;
CREATE INDEX due ON event (is_refused, due_at, type) WHERE state BETWEEN 1 AND 2;";

/// A file of the third version.
fn make_third(config: &Config) -> Connection {
    let connection = Connection::open(&config.path).unwrap();
    let numbers = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 3;");
    connection.execute_batch(&format!("{EARLIER}; {COMPUTED} {numbers} {ROWS}")).unwrap();
    connection
}

#[test]
fn an_earlier_version_of_the_file_becomes_the_fourth_with_what_it_has() {
    let older = "CREATE INDEX unsettled ON event (state, first_at) WHERE state IN (1, 2, 3);";
    for (version, table, more) in
        [(1, "", older), (1, " WITHOUT ROWID", older), (2, "", COMPUTED), (3, "", COMPUTED)]
    {
        let folder = folder();
        let config = config(&folder);
        let connection = Connection::open(&config.path).unwrap();
        connection
            .execute_batch(&format!(
                "{EARLIER}{table}; {more} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version};
                 {ROWS}"
            ))
            .unwrap();
        drop(connection);
        let mut read = 0;
        each::<Error>(&Core::open_to_read(&config).unwrap(), |_| {
            read += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(read, 3, "an earlier version can be exported as it is");
        for _ in 0..2 {
            let core = Core::open(&config, Opening::ToWrite).unwrap();
            assert_eq!(versions(&core.connection).unwrap(), (VERSION, APPLICATION_ID));
            let due = |at| core.due(Timestamp::from_unix_millis(at), 9, &[]).unwrap().len();
            assert_eq!([7_999, 8_000, 10_999, 11_000].map(due), [0, 1, 1, 2]);
            assert_eq!(core.tally().unwrap().deferred, 2);
            let key = |subject: &str, id: &str| Key { subject: subject.to_owned(), id: id.to_owned() };
            let known = core.known(&[key("S", "c"), key("T", "a"), key("T", "c")]).unwrap();
            assert_eq!(known.iter().map(is_granted).collect::<Vec<_>>(), [true, true, false]);
            assert_eq!(core.find("T").unwrap().len(), 2);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn the_file_of_a_running_gateway_of_an_earlier_version_stays_as_it_is() {
    let folder = folder();
    let config = config(&folder);
    let connection = make_third(&config);
    let running = place::lock(&config.path).unwrap();
    let refused = Core::open(&config, Opening::Beside).err().unwrap().to_string();
    assert!(refused.contains("restart that"), "{refused}");
    assert_eq!(versions(&connection).unwrap(), (3, APPLICATION_ID));
    drop(running);
    assert!(Core::open(&config, Opening::Beside).is_ok());
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_file_that_there_is_no_room_to_copy_is_refused_before_it_is_touched() {
    use std::os::unix::fs::FileExt as _;
    let folder = folder();
    let config = config(&folder);
    drop(make_third(&config));
    // A thousand million pages by its header and its length, of which few are there.
    let file = File::options().read(true).write(true).open(&config.path).unwrap();
    file.set_len(4096 * 1_000_000_000).unwrap();
    file.write_all_at(&1_000_000_000_u32.to_be_bytes(), 28).unwrap();
    let read = || {
        let mut first = vec![0; 1 << 16];
        file.read_exact_at(&mut first, 0).unwrap();
        first
    };
    let before = read();
    for opening in [Opening::ToWrite, Opening::ToRead, Opening::Beside] {
        let refused = Core::open(&config, opening).err().unwrap();
        assert!(matches!(refused, Error::Refused(_)), "{refused}");
        assert!(refused.to_string().contains("takes 7812500 MiB"), "{refused}");
        assert!(read() == before, "touched");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_record_is_written_without_a_table_in_memory() {
    let folder = folder();
    let core = Core::open(&config(&folder), Opening::ToWrite).unwrap();
    let mut explain = core.connection.prepare(&format!("EXPLAIN {PUT_RECORD}")).unwrap();
    let mut rows = explain.raw_query();
    while let Some(row) = rows.next().unwrap() {
        assert_ne!(row.get::<_, String>(1).unwrap(), "OpenEphemeral");
    }
    drop(rows);
    drop(explain);
    drop(core);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_probe_writes_for_real() {
    let folder = folder();
    let mut core = Core::open(&config(&folder), Opening::ToWrite).unwrap();
    core.mend().unwrap();
    let log = folder.join("gateway.db-wal");
    assert_eq!(std::fs::metadata(&log).unwrap().len(), 0, "mended: the log is empty");
    core.commit(&[&Change::Probe]).unwrap();
    assert!(std::fs::metadata(&log).unwrap().len() > 4096);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_was_not_committed_is_as_if_it_had_never_been() {
    let folder = folder();
    let mut core = Core::open(&config(&folder), Opening::ToWrite).unwrap();
    let insert = "INSERT INTO event (subject, id, state, notify_id, first_at, at, attempts, digest)
                  VALUES ('T', 'a', 0, 'n', 1, 1, 1, zeroblob(32))";
    let writing = Writing::begin(&core.connection, &mut core.places).unwrap();
    writing.execute_batch(insert).unwrap();
    drop(writing);
    core.places.catch_up(&core.connection).unwrap();
    let key = Key { subject: "T".to_owned(), id: "a".to_owned() };
    assert_eq!(core.known(std::slice::from_ref(&key)).unwrap(), [Claim::Granted(None)]);
    core.commit(&[&Change::Probe]).unwrap();
    let writing = Writing::begin(&core.connection, &mut core.places).unwrap();
    writing.execute_batch(insert).unwrap();
    writing.commit().unwrap();
    core.places.catch_up(&core.connection).unwrap();
    let known = core.known(&[key.clone(), key]).unwrap();
    assert!(known.iter().all(is_granted), "{known:?}");
    assert!(core.connection.is_autocommit(), "looking leaves no lock behind");
    std::fs::remove_dir_all(folder).unwrap();
}
