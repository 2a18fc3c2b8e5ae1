//! `simulate scenario NAME`: a named story, told to the gateway step by step, each with what the promise says of it: what Alipay
//! is answered, and which event is announced. `tales` has the stories; `stage` plays a step. It asks the gateway's admin
//! listener what is announced: a queue that it bound for itself would make routable what no queue of the merchant's takes.

mod stage;
mod tales;

use std::io::Write;
use std::path::PathBuf;

use super::Identity;
use crate::cli::events::Watched;
use crate::cli::{DONE, FAILED, Failure, key_files};
use crate::simulator::client::Target;
use stage::{Commands, Stage};
use tales::{TALES, Tale};

/// Play a named story, and check every answer and event against the promise. Exits 0 if all was as promised, else 1.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct Args {
    /// Which story; `all`: each that needs no more than the options given.
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    /// The notify URL.
    #[arg(long, value_name = "URL")]
    url: String,
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    watched: Watched,
    /// key-rotation: the private key that Alipay signs with from now on. Its public half must be in alipay_public_keys beside
    /// the old one.
    #[arg(long, value_name = "FILE")]
    next_key: Option<PathBuf>,
    /// broker-outage: a shell command after which the broker takes nothing more.
    #[arg(long = "break", value_name = "COMMAND", requires = "mend")]
    r#break: Option<String>,
    /// broker-outage: a shell command after which it does again.
    #[arg(long, value_name = "COMMAND", requires = "break")]
    mend: Option<String>,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let target = Target::parse(&args.url).map_err(Failure::usage)?;
    let tales: Vec<&Tale> = TALES.iter().filter(|tale| args.name == ALL || tale.name == args.name).collect();
    let playable: Vec<&Tale> = tales.iter().copied().filter(|tale| missing(tale, args).is_none()).collect();
    for tale in &tales {
        if let Some(missing) = missing(tale, args) {
            if args.name != ALL {
                return Err(Failure::usage(format!("{} needs {missing}", tale.name)));
            }
            writeln!(out, "{}: left out, because it needs {missing}", tale.name)?;
        }
    }
    crate::cli::block_on(play(args, &playable, target, out))?
}

/// What a story needs and was not given.
fn missing(tale: &Tale, args: &Args) -> Option<&'static str> {
    if tale.needs_next_key() && args.next_key.is_none() {
        return Some("--next-key");
    }
    (tale.needs_commands() && args.r#break.is_none()).then_some("--break and --mend")
}

async fn play(args: &Args, tales: &[&Tale], target: Target, out: &mut dyn Write) -> Result<u8, Failure> {
    let signer = args.identity.signer()?;
    let next = args.next_key.as_deref().map(|file| key_files::private_key("--next-key", file)).transpose()?;
    let commands = Commands { r#break: args.r#break.clone(), mend: args.mend.clone() };
    let mut stage = Stage::open(&args.identity, &args.watched, target, (signer, next), commands).await?;
    let mut broken = 0u32;
    for tale in tales {
        writeln!(out, "\n== {}: {}", tale.name, tale.about)?;
        broken += stage.play(tale, out).await?;
    }
    let played = tales.len();
    match broken {
        0 => writeln!(out, "\n{played} played: everything was as promised.")?,
        _ => writeln!(out, "\n{played} played: {broken} step(s) were NOT as promised.")?,
    }
    Ok(if broken == 0 { DONE } else { FAILED })
}

fn name(text: &str) -> Result<String, String> {
    let known = text == ALL || TALES.iter().any(|tale| tale.name == text);
    known.then(|| text.to_owned()).ok_or_else(|| {
        let names: Vec<&str> = TALES.iter().map(|tale| tale.name).collect();
        format!("known are {}, and all", names.join(", "))
    })
}

fn help() -> String {
    let tales: String = TALES.iter().map(|tale| format!("  {:<16} {}\n", tale.name, tale.about)).collect();
    format!(
        "\
Stories:
{tales}
--url and --admin must be of one and the same gateway. Its events are real ones, of trades that nobody made: they go to the
queues that are bound, and the gateway must trust --key. Nothing is declared or bound at the broker.

Examples:
  alipay-notify-gateway simulate scenario double-payment --url http://127.0.0.1:8080/alipay/notify \\
    --key sandbox/alipay-private.pem --token-file admin.token
  alipay-notify-gateway simulate scenario broker-outage --url http://127.0.0.1:8080/alipay/notify \\
    --key sandbox/alipay-private.pem --token-file admin.token \\
    --break 'deploy/broker.sh ctl broker set_vm_memory_high_watermark 0.00001' \\
    --mend 'deploy/broker.sh ctl broker set_vm_memory_high_watermark 0.4'"
    )
}

const ALL: &str = "all";
