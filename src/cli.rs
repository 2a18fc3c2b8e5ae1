//! The commands: one file each, which calls what it names. Exit codes: 0 done, 1 failed while running, 2 usage,
//! 65 input data did not verify, 78 configuration.

mod admin_client;
mod broker_at;
mod check;
mod consumer_check;
mod events;
mod explain;
mod healthcheck;
mod key_files;
mod keygen;
mod pay_link;
mod reconcile;
mod replay;
mod serve;
mod simulate;
mod store;
mod trade;

use std::io::Write;
use std::process::ExitCode;

pub use explain::json_of as explain_json;

use clap::{Parser, Subcommand};

/// Stands between Alipay and your services: verifies notifications, announces them in RabbitMQ, and says
/// success only when the broker has confirmed.
#[derive(Debug, Parser)]
#[command(name = "alipay-notify-gateway", version, after_help = EXAMPLE)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Check(check::Args),
    Explain(explain::Args),
    Simulate(simulate::Args),
    Keygen(keygen::Args),
    PayLink(Box<pay_link::Args>),
    Trade(trade::Args),
    Store(store::Args),
    Events(events::Args),
    Replay(replay::Args),
    Reconcile(reconcile::Args),
    ConsumerCheck(consumer_check::Args),
    Healthcheck(healthcheck::Args),
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// It failed while running.
    pub fn running(message: impl Into<String>) -> Self {
        Self { code: FAILED, message: message.into() }
    }

    /// It was asked in the wrong way.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, message: message.into() }
    }

    /// The configuration is wrong.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self { code: CONFIGURATION, message: message.into() }
    }
}

/// Runs the command that the program was started with.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr());
    let outcome = match cli.command {
        Command::Serve(args) => {
            // The logs have standard output to themselves.
            drop(out);
            serve::run(&args)
        }
        Command::Check(args) => check::run(&args, &mut out),
        Command::Explain(args) => explain::run(&args, &mut out),
        Command::Simulate(args) => simulate::run(args, &mut out),
        Command::Keygen(args) => keygen::run(&args, &mut out),
        Command::PayLink(args) => pay_link::run(&args, &mut out),
        Command::Trade(args) => trade::run(&args, &mut out),
        Command::Store(args) => store::run(&args, &mut out),
        Command::Events(args) => events::run(&args, &mut out),
        Command::Replay(args) => replay::run(&args, &mut out),
        Command::ConsumerCheck(args) => consumer_check::run(&args, &mut out),
        Command::Reconcile(args) => reconcile::run(&args, &mut out),
        Command::Healthcheck(args) => healthcheck::run(&args),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            // Nobody is left to tell if standard error is gone.
            let _ = match failure.code {
                // One problem a line, each beginning with its key.
                CONFIGURATION => writeln!(err, "{}", failure.message),
                _ => writeln!(err, "alipay-notify-gateway: {}", failure.message),
            };
            ExitCode::from(failure.code)
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::running(error.to_string())
    }
}

/// Runs a short command's future to its end.
fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(future);
    // A name that nobody resolves holds a thread up for longer than anybody wants to wait.
    runtime.shutdown_background();
    Ok(done)
}

const DONE: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NOT_VERIFIED: u8 = 65;
const CONFIGURATION: u8 = 78;

const EXAMPLE: &str = "\
Examples:
  alipay-notify-gateway check --config gateway.toml --connect
  alipay-notify-gateway serve --config gateway.toml
  alipay-notify-gateway explain --key alipay-public.pem captured-body.txt

Exit codes: 0 done, 1 failed while running, 2 usage, 65 input did not verify, 78 configuration";
