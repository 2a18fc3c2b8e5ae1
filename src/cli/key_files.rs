//! Key files: written anew or not at all, a private one for its owner alone.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::Failure;
use super::explain::capture::read_file;
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
    for (number, file) in files.iter().enumerate() {
        if let Err(error) = write(file) {
            // Half a set is worse than none: the next try would refuse to overwrite it. What was made is all ours, since
            // nothing is ever written to what was there.
            let ours = if error.kind() == std::io::ErrorKind::AlreadyExists { number } else { number + 1 };
            for KeyFile { path, .. } in files.iter().take(ours) {
                let _ = std::fs::remove_file(path);
            }
            return Err(told(&file.path, error));
        }
    }
    Ok(())
}

fn write(KeyFile { path, readers, content }: &KeyFile) -> std::io::Result<()> {
    let mode = match readers {
        Readers::Owner => 0o600,
        Readers::All => 0o644,
    };
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content.as_bytes())?;
    // A disk that is full may say so only now.
    file.sync_all()
}

pub(super) fn unmade(error: SignerError) -> Failure {
    Failure::running(error.to_string())
}

/// Reads a private key, and says which option named it if it is none.
pub(super) fn private_key(option: &str, path: &Path) -> Result<Signer, Failure> {
    let text = text(option, path)?;
    Signer::read(&text).map_err(|error| {
        let advice = if text.contains("ENCRYPTED") {
            format!("; it is under a password: openssl rsa -in {} -out plain.pem", path.display())
        } else if text.contains("PUBLIC KEY") {
            "; it is a PUBLIC key, and signing takes the private one".to_owned()
        } else {
            String::new()
        };
        Failure::running(format!("{option} {}: {error}{advice}", path.display()))
    })
}

/// Reads a key's file, and says what to do with one that is no text.
pub(super) fn text(option: &str, path: &Path) -> Result<String, Failure> {
    let told = |why: String| Failure::running(format!("{option} {}: {why}", path.display()));
    let bytes = read_file(path).map_err(|error| told(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| {
        let name = path.display();
        told(match error.as_bytes() {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
                format!("it is text in UTF-16: iconv -f UTF-16 -t UTF-8 {name} > key.pem")
            }
            // A SEQUENCE of more than 255 bytes.
            [0x30, 0x82, ..] => format!(
                "it is DER, and PEM is wanted: openssl pkey -inform DER -in {name} -out key.pem (a public key: with -pubin)"
            ),
            _ => "it is no text: a key in PEM, or in base64 on one line, is wanted".to_owned(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_cannot_be_written_whole_leaves_nothing_behind() {
        let folder = std::env::temp_dir().join(format!("keys.{:08x}", rand::random::<u32>()));
        let file = |name: &str| KeyFile {
            path: folder.join(name),
            readers: Readers::Owner,
            content: "key".to_owned(),
        };
        assert!(write_all(&folder, &[file("first"), file("second"), file("away/third")]).is_err());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        assert!(write_all(&folder, &[file("first"), file("second")]).is_ok());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
