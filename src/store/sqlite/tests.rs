use std::path::Path;

use super::*;
use crate::event::Key;

fn holding(bytes: usize) -> Holding {
    let key = Key { subject: "t".to_owned(), id: "i".to_owned() };
    let at = Timestamp::from_unix_millis(0);
    Holding { key, notify_id: "n".to_owned(), reason: "seller", body: vec![0; bytes], at, payment_time: None }
}

/// A store whose thread is stuck: nobody takes what it is asked.
fn hanging(folder: &Path) -> (Sqlite, Receiver<Box<Asked>>) {
    let (calls, waiting) = sync_channel(CALLS);
    let path = folder.join("gateway.db");
    let lock = place::lock(&path).unwrap();
    let (max_deferred, max_returned, max_held) = (9, 9, 9);
    let (max_deferred_bytes, max_held_bytes) = (1 << 30, 1 << 30);
    let config = Config { path, max_deferred, max_returned, max_deferred_bytes, max_held, max_held_bytes };
    let (calls, thread) = (Mutex::new(Some(calls)), Mutex::new(None));
    let room = Arc::new(Semaphore::new(ROOM_KIB));
    let (load, since) = (Arc::default(), Arc::default());
    (Sqlite { calls, room, thread, config, load, since, _lock: lock }, waiting)
}

#[test]
fn what_waits_for_a_disk_that_hangs_is_bounded_in_bytes() {
    let folder = std::env::temp_dir().join(format!("gateway.hangs.{:08x}", rand::random::<u32>()));
    let (store, waiting) = hanging(&folder);
    // Whoever asks gives up, as at a deadline: what he asked stays.
    let hold = |bytes| store.hold(vec![holding(bytes)]).now_or_never();
    let asked = (0..1000).take_while(|_| hold(1 << 20).is_none()).count();
    assert_eq!(asked, 31, "of a MiB each, in 32 MiB");
    assert!(matches!(hold(1 << 20), Some(Err(_))));
    drop(waiting.recv().unwrap());
    assert!(hold(1 << 20).is_none(), "there is room again");
    waiting.try_iter().for_each(drop);
    assert!(hold(1 << 30).is_none(), "a single one always has room");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn behind_a_disk_that_hangs_nobody_else_waits() {
    let folder = std::env::temp_dir().join(format!("gateway.hangs.{:08x}", rand::random::<u32>()));
    let (store, _waiting) = hanging(&folder);
    let hold = || store.hold(vec![holding(1)]).now_or_never();
    *store.since.lock().unwrap() = Instant::now().checked_sub(STUCK / 2);
    assert!(hold().is_none(), "it may come back");
    *store.since.lock().unwrap() = Instant::now().checked_sub(STUCK * 2);
    assert!(matches!(hold(), Some(Err(_))));
    *store.since.lock().unwrap() = None;
    assert!(hold().is_none());
    std::fs::remove_dir_all(folder).unwrap();
}
