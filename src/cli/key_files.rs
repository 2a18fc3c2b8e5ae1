//! Key files: written anew or not at all, a private one for its owner alone.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::Failure;
use crate::signer::{Signer, SignerError};

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readers {
    /// Its owner.
    Owner,
    /// Everybody.
    All,
}

/// A key file that is to be written.
pub(super) struct KeyFile {
    pub(super) path: PathBuf,
    pub(super) readers: Readers,
    pub(super) content: String,
}

/// Writes all of them, or none if one of them is there already.
pub(super) fn write_all(folder: &Path, files: &[KeyFile]) -> Result<(), Failure> {
    let told = |path: &Path, error: std::io::Error| Failure::running(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(folder).map_err(|error| told(folder, error))?;
    // A link that leads nowhere is there, too.
    if let Some(file) = files.iter().find(|file| file.path.symlink_metadata().is_ok()) {
        return Err(Failure::running(format!(
            "{} is there already: keys are never overwritten, and nothing was written",
            file.path.display()
        )));
    }
    for KeyFile { path, readers, content } in files {
        let mode = match readers {
            Readers::Owner => 0o600,
            Readers::All => 0o644,
        };
        let file: std::io::Result<File> = File::options().write(true).create_new(true).mode(mode).open(path);
        file.and_then(|mut file| file.write_all(content.as_bytes())).map_err(|error| told(path, error))?;
    }
    Ok(())
}

pub(super) fn unmade(error: SignerError) -> Failure {
    Failure::running(error.to_string())
}

/// Reads a private key, and says which option named it if it is none.
pub(super) fn private_key(option: &str, path: &Path) -> Result<Signer, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::running(format!("{option} {}: {error}", path.display())))?;
    Signer::read(&text).map_err(|error| Failure::running(format!("{option} {}: {error}", path.display())))
}
