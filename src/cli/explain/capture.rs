//! What people have captured, read into a form: a raw body, as it was received.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::super::Failure;

/// A captured notification.
#[derive(Debug)]
pub(super) struct Capture {
    /// As a form.
    pub(super) body: Vec<u8>,
    /// What had to be done to make it one.
    pub(super) remark: Option<&'static str>,
}

impl Capture {
    /// Reads a file; or standard input for `-` and for nothing.
    pub(super) fn read(file: Option<&Path>) -> Result<Self, Failure> {
        let content = match file {
            Some(file) if file != Path::new("-") => {
                read_file(file).map_err(|error| Failure::running(format!("{}: {error}", file.display())))?
            }
            Some(_) | None => read_bounded(io::stdin().lock())?,
        };
        Ok(Self::of(&content))
    }

    fn of(content: &[u8]) -> Self {
        // An editor's or `echo`'s own; a body never ends in one.
        let body = content.strip_suffix(b"\n").unwrap_or(content);
        let body = body.strip_suffix(b"\r").unwrap_or(body);
        Self { body: body.to_vec(), remark: None }
    }
}

/// Reads a file, but not without end.
pub(super) fn read_file(file: &Path) -> io::Result<Vec<u8>> {
    read_bounded(File::open(file)?)
}

fn read_bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("larger than 1 MiB, which no notification is"));
    }
    Ok(content)
}

/// Bound: what is read of a capture or a key; the gateway itself takes 64 KiB.
const MAX_BYTES: u64 = 1 << 20;
