//! `keygen`: the merchant's key pair, in the formats that Alipay's console and the SDKs want, and which goes where.

use std::io::Write;
use std::path::PathBuf;

use super::key_files::{KeyFile, Readers, unmade, write_all};
use super::{DONE, Failure};
use crate::signer::Signer;

/// Make the key pair of your app (RSA2, 2048 bits). Never overwrites one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  alipay-notify-gateway keygen keys/

Four keys meet in an integration. This command makes the first two:
  your app's private key    signs your requests. Stays with your application.
  your app's public key     is pasted into Alipay's console.
  Alipay's public key       the console shows it in exchange: it goes into alipay_public_keys of gateway.toml.
  Alipay's private key      signs the notifications. Nobody but Alipay has it.")]
pub(super) struct Args {
    /// The folder to write into.
    #[arg(value_name = "FOLDER", default_value = "keys")]
    folder: PathBuf,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let signer = Signer::generate().map_err(unmade)?;
    let line = signer.public_line().map_err(unmade)?;
    let file = |name: &str, readers, content| KeyFile { path: args.folder.join(name), readers, content };
    let files = [
        file("app-private-pkcs1.pem", Readers::Owner, signer.private_pkcs1_pem().map_err(unmade)?),
        file("app-private-pkcs8.pem", Readers::Owner, signer.private_pem().map_err(unmade)?),
        file("app-public.pem", Readers::All, signer.public_pem().map_err(unmade)?),
        file("app-public-to-paste.txt", Readers::All, format!("{line}\n")),
    ];
    write_all(&args.folder, &files)?;
    let [pkcs1, pkcs8, public, paste] = files.map(|file| file.path.display().to_string());
    writeln!(
        out,
        "\
PRIVATE, for your application alone (it signs your requests). Never paste it anywhere; not into gateway.toml either:
  {pkcs1}   for Node.js, Python, PHP, Go, and for pay-link
  {pkcs8}   the same key, for Java
PUBLIC, for Alipay's console (your app, 接口加签方式, 公钥 mode, 应用公钥): paste this line
  {line}
  which is also in {paste}; in PEM: {public}
The console then shows ALIPAY's public key (支付宝公钥). That one, and not yours, goes into alipay_public_keys of gateway.toml."
    )?;
    Ok(DONE)
}
