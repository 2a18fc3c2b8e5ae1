//! `simulate keys`: the simulated Alipay's key pair.

use std::io::Write;
use std::path::PathBuf;

use crate::cli::key_files::{KeyFile, Readers, unmade, write_all};
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
    let signer = Signer::generate().map_err(unmade)?;
    let file = |name: &str, readers, content| KeyFile { path: args.folder.join(name), readers, content };
    let files = [
        file("alipay-private.pem", Readers::Owner, signer.private_pem().map_err(unmade)?),
        file("alipay-public.pem", Readers::All, signer.public_pem().map_err(unmade)?),
    ];
    write_all(&args.folder, &files)?;
    let [private, public] = files.map(|file| file.path.display().to_string());
    writeln!(out, "{private}: the simulated Alipay signs with it")?;
    writeln!(out, "{public}: name it in alipay_public_keys")?;
    Ok(DONE)
}
