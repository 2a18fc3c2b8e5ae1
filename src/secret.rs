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

/// Whether what is to name a file is a key instead, as people paste them: PEM, or the base64 of DER, whose first byte is
/// always that of a sequence. A message that quoted such a name would print a key.
pub fn is_pasted_key(text: &str) -> bool {
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | ' ');
    let is_der = text.len() >= SHORTEST_KEY && text.starts_with('M') && text.chars().all(is_base64);
    is_der || text.len() > LONGEST_NAME || text.contains("-----BEGIN") || text.contains(['\n', '\r'])
}

/// Whatever else is done to a key (it is encoded once more, quoted, put behind a folder): no name is as long.
const LONGEST_NAME: usize = 255;
/// A key of Ed25519, the shortest there is, has 64 characters.
const SHORTEST_KEY: usize = 60;
/// Bound: no secret is larger.
const MAX_BYTES: u64 = 64 * 1024;
