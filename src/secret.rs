//! A value that must never be printed: it has no `Display`, and its `Debug` is a row of stars.

use std::path::PathBuf;
use std::{fmt, fs, io};

/// A password, a token, or a URI that holds one.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value that was read from a configuration.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one call that needs it. The name is loud so that it can be searched for.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a secret is. One in a file is read anew each time that it is needed, so that it can be changed beneath a running
/// program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Here.
    Here(Secret),
    /// In a file, with or without white space around it.
    File(PathBuf),
}

impl Source {
    /// The secret as it is now.
    ///
    /// # Errors
    /// If the file cannot be read, or has nothing in it, or far too much.
    pub fn read(&self) -> io::Result<Secret> {
        let file = match self {
            Self::Here(secret) => return Ok(secret.clone()),
            Self::File(file) => file,
        };
        if fs::metadata(file)?.len() > MAX_BYTES {
            return Err(io::Error::other("is too large for a secret"));
        }
        let content = fs::read_to_string(file)?;
        match content.trim() {
            "" => Err(io::Error::other("is empty")),
            secret => Ok(Secret::new(secret)),
        }
    }
}

/// Bound: no secret is larger.
const MAX_BYTES: u64 = 64 * 1024;
