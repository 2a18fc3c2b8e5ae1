//! The files that a configuration came from, as they were just before they were read: what is exchanged at any later moment is a
//! change, though it came while the others were still being read.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::SystemTime;

/// A file, and what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Where it is.
    pub path: PathBuf,
    /// What tells one state of it from another: inode, length, and the time of its last change; `None` if it is not there.
    pub stamp: Option<(u64, u64, Option<SystemTime>)>,
}

impl Watched {
    /// Looks at a file, of which nothing is read.
    pub fn look(path: PathBuf) -> Self {
        let about = fs::metadata(&path).ok();
        let stamp = about.map(|about| (about.ino(), about.len(), about.modified().ok()));
        Self { path, stamp }
    }
}
