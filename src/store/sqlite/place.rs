//! Where the file lies: its lock, its identity, and the damaged ones that lie beside it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, StatVfs, access, statvfs};

use super::OpenError;
use crate::clock::Clock;

/// Which files are at the path: the database, its log, and the index of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity([u64; 3]);

impl Identity {
    pub(super) fn at(path: &Path) -> Self {
        Self(PARTS.map(|part| fs::metadata(beside(path, part)).map(|metadata| metadata.ino()).unwrap_or(0)))
    }

    /// Removes the log and its index of this database from the path of another.
    pub(super) fn remove_logs(self, path: &Path) {
        let there = Self::at(path);
        for ((part, ours), there) in PARTS.iter().zip(self.0).zip(there.0).skip(1) {
            if ours == there && ours != 0 {
                // They stay open where they are in use.
                let _ = fs::remove_file(beside(path, part));
            }
        }
    }

    /// Whether the database is the same; its log may be another.
    pub(super) fn is_same_file(self, other: Self) -> bool {
        self.0.first() == other.0.first()
    }
}

/// What an unprivileged process may still write beside the file; infinity where the file system does not tell.
pub(super) fn free_bytes(path: &Path) -> f64 {
    of_file_system(path, |told| told.f_bavail)
}

/// How large the file system is; infinity where it does not tell.
pub(super) fn size_bytes(path: &Path) -> f64 {
    of_file_system(path, |told| told.f_blocks)
}

fn of_file_system(path: &Path, blocks: impl FnOnce(&StatVfs) -> u64) -> f64 {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    #[expect(clippy::cast_precision_loss, reason = "for a gauge")]
    statvfs(folder).map_or(f64::INFINITY, |told| blocks(&told).saturating_mul(told.f_frsize) as f64)
}

/// The file that a path leads to. A lock beside a link would be another one than that beside the file, and two gateways would
/// have it. Bound: [`MAX_LINKS`].
pub fn behind_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(target) = fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    path
}

/// Whether a file could be made there, and the folders that lead to it.
pub(super) fn can_be_made(path: &Path) -> io::Result<()> {
    let mut folders = path.ancestors().skip(1);
    let there = folders.find(|folder| folder.exists() || folder.as_os_str().is_empty());
    let folder = there.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Whether somebody had it open.
pub(super) fn has_lock(path: &Path) -> bool {
    beside(path, LOCK).exists()
}

/// An advisory lock on a file beside the store. It is gone with the process, however that ends.
pub(super) fn lock(path: &Path) -> Result<File, OpenError> {
    let unusable = |error: io::Error| OpenError::Unusable(path.to_owned(), error.to_string());
    let name = beside(path, LOCK);
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        // What cannot be made fails in the next line, unless it is there already.
        let _ = fs::create_dir_all(parent);
    }
    // A file system that is read-only or full locks what is there.
    let opened = File::options().create(true).append(true).open(&name);
    let file = opened.or_else(|error| File::open(&name).map_err(|_| error)).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::Taken(path.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(unusable(error)),
    }
}

/// The file holds buyers' data while something waits: nobody else reads it.
pub(super) fn prepare(path: &Path) {
    // What cannot be made here fails at open, with its own message.
    if let Some(parent) = path.parent() {
        let _ = fs::create_dir_all(parent);
    }
    let _ = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
}

/// Whether there is a log of a database that is empty or gone.
pub(super) fn is_beheaded(path: &Path) -> bool {
    let has_content = |part| fs::metadata(beside(path, part)).is_ok_and(|file| file.len() > 0);
    !has_content("") && has_content("-wal")
}

/// Renames the file and its log, so that a fresh one can be made and the damaged one be salvaged.
pub(super) fn set_damaged_aside(path: &Path, clock: &dyn Clock) -> io::Result<PathBuf> {
    let mut second = clock.now().unix_seconds();
    let to = loop {
        let to = beside(path, &format!("{DAMAGED}{second}"));
        // Nothing that was set aside before is overwritten: it may hold the only copy.
        if !to.exists() {
            break to;
        }
        second += 1;
    };
    rename(path, &to)?;
    Ok(to)
}

/// Ends the alarm about a file that was set aside: `….damaged-N` becomes `….salvaged-N`. `None` if it is not called so.
pub(super) fn mark_salvaged(path: &Path) -> io::Result<Option<PathBuf>> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((store, number)) = name.rsplit_once(DAMAGED) else { return Ok(None) };
    let to = path.with_file_name(format!("{store}{SALVAGED}{number}"));
    if to.exists() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is there", to.display())));
    }
    rename(path, &to)?;
    Ok(Some(to))
}

/// The log goes with its database: it may hold the newest of it.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    for part in ["-wal", "-shm"] {
        let log = beside(from, part);
        if log.exists() {
            fs::rename(log, beside(to, part))?;
        }
    }
    Ok(())
}

/// Whether the file can be read to its end: if it cannot, that is the disk, and says nothing about what is in it.
pub(super) fn is_readable(path: &Path) -> bool {
    let read = |part: &str| match File::open(beside(path, part)) {
        Ok(mut file) => io::copy(&mut file, &mut io::sink()).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound && !part.is_empty(),
    };
    read("") && read("-wal")
}

/// How many damaged files lie beside the store and were not salvaged.
pub(super) fn count_set_aside(path: &Path) -> u64 {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let is_damaged = |entry: &str| {
        let rest = entry.strip_prefix(&name).and_then(|rest| rest.strip_prefix(DAMAGED));
        rest.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let damaged = entries.flatten().filter(|entry| is_damaged(&entry.file_name().to_string_lossy()));
    u64::try_from(damaged.count()).unwrap_or(u64::MAX)
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

const PARTS: [&str; 3] = ["", "-wal", "-shm"];
const LOCK: &str = ".lock";
/// As many as Linux follows.
const MAX_LINKS: usize = 40;
const DAMAGED: &str = ".damaged-";
const SALVAGED: &str = ".salvaged-";
