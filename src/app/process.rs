//! What the process asks of the system for itself, before strangers come.
//!
//! *File descriptors*: as many as it may have, and some that no connection of a stranger gets, so that somebody who
//! hoards them cannot keep the gateway from its broker, its store and its operators. *Small pages*: a connection that is
//! idle has buffers of which it has touched little; in pages of 2 MiB all of it would be memory. *Memory back*: what a
//! flood has held is the system's again soon after.

use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::disable_transparent_huge_pages;
use tokio::runtime::Handle;

/// Raises the soft limit of files to the hard one, as nothing here is hurt by it (the soft one is low for the sake of
/// programs that use `select`), and lowers the bound on connections where even that is not enough for it.
pub(super) fn keep_descriptors_back(max_connections: &mut usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Refused, the soft limit stays as it is.
    let current = setrlimit(Resource::Nofile, raised).map_or(limit.current, |()| limit.maximum);
    let Some(limit) = current.and_then(|limit| usize::try_from(limit).ok()) else { return };
    let left = limit.saturating_sub(KEPT_BACK).max(limit / 2).max(1);
    if left < *max_connections {
        tracing::warn!(
            limit,
            max_connections = left,
            "the process may open fewer files than http.max_connections needs: raise its limit (LimitNOFILE, ulimit -n)"
        );
        *max_connections = left;
    }
}

/// Refused, it has more memory and works as well.
pub(super) fn use_small_pages() {
    let _ = disable_transparent_huge_pages(true);
}

/// Whether one thread of the runtime serves, where another would find a core: several share their work by themselves.
pub(super) fn has_a_core_to_spare() -> bool {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Handle::current().metrics().num_workers() == 1 && cores > 1
}

/// Gives back what the heap of this thread holds and nobody uses. mimalloc has a heap for each thread, and looks what others
/// have freed of it in the course of allocating: after a flood, a thread with little to do would keep the flood's memory.
/// Before it tells anybody that there is no more it looks, too; so it is asked for more than there can be. (To call what it
/// has for this would be `unsafe`.) Any other allocator says no, and that is all.
pub(super) fn give_memory_back() {
    let mut more: Vec<u8> = Vec::new();
    let _ = more.try_reserve_exact(isize::MAX.unsigned_abs());
    std::hint::black_box(&more);
}

/// For the broker's nodes, the store, the admin listener's 64 connections and the files of a reload.
const KEPT_BACK: usize = 128;
