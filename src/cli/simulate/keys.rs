//! `simulate keys`: the simulated Alipay's key pair.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::cli::{DONE, Failure};
use crate::signer::Signer;

/// Make the simulated Alipay's key pair. Never overwrites one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  alipay-notify-gateway simulate keys sandbox/

Writes alipay-private.pem (which signs, here only) and alipay-public.pem, which goes into alipay_public_keys.")]
pub(super) struct Args {
    /// The folder to write into.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let unmade = |error: crate::signer::SignerError| Failure::running(error.to_string());
    std::fs::create_dir_all(&args.folder)?;
    let (private, public) = (args.folder.join("alipay-private.pem"), args.folder.join("alipay-public.pem"));
    if private.exists() || public.exists() {
        return Err(Failure::running(format!(
            "{} has keys already: they are left alone",
            args.folder.display()
        )));
    }
    let signer = Signer::generate().map_err(unmade)?;
    write_new(&private, 0o600, &signer.private_pem().map_err(unmade)?)?;
    write_new(&public, 0o644, &signer.public_pem().map_err(unmade)?)?;
    writeln!(out, "{}: the simulated Alipay signs with it", private.display())?;
    writeln!(out, "{}: name it in alipay_public_keys", public.display())?;
    Ok(DONE)
}

fn write_new(path: &Path, mode: u32, content: &str) -> Result<(), Failure> {
    let file: std::io::Result<File> = File::options().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(content.as_bytes()))
        .map_err(|error| Failure::running(format!("{}: {error}", path.display())))
}
