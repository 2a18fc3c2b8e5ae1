//! `store export`, `import`, `salvage`: a backup, a move, and the rescue of a damaged file.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{DONE, Failure, NOT_VERIFIED};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config;
use crate::event::Message;
use crate::store::engine::{Config, Shelf, ShelfError, complete_since, read_all};
use crate::store::sqlite::end_alarm;
use crate::store::sqlite::pages::{Found, Pages};
use crate::store::transfer::{self, TransferError, Writer};
use crate::store::{Entry, State, Sums};

/// Back up, move or rescue what the gateway keeps.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  alipay-notify-gateway store export --config gateway.toml > backup.jsonl
  alipay-notify-gateway store import --config gateway.toml backup.jsonl
  alipay-notify-gateway store salvage data/gateway.db.damaged-1764000000 --config gateway.toml")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Write everything that is kept as JSON lines, as it is at this moment; the gateway may be running.
    #[command(after_help = "\
Example:
  alipay-notify-gateway store export --config gateway.toml --out backup.jsonl

What waits is written with its content: messages with what event.buyer leaves of the buyer, and held notifications as
Alipay sent them. Keep the file as you keep the store. Beside a gateway with SQLite, let whatever it is piped into read on (a
pager that waits does not): until the export ends, the log of its file grows with all that is written.")]
    Export(ExportArgs),
    /// Put an export into the store. What is announced stays so. No gateway may have SQLite's file open; with Redis they may
    /// be running.
    #[command(after_help = "\
Example:
  alipay-notify-gateway store import --config gateway.toml backup.jsonl

The whole file is looked through before anything is written. Exits 65 when it is not a whole export, or when the store
has other money facts under a key; 1 when a gateway has SQLite's file open.")]
    Import(ImportArgs),
    /// Read what can be read of a damaged store, and put it into the present one or into a file.
    #[command(after_help = "\
Examples:
  alipay-notify-gateway store salvage data/gateway.db.damaged-1764000000 --config gateway.toml
  alipay-notify-gateway store salvage data/gateway.db.damaged-1764000000 --out rescued.jsonl

The gateway may be running: what waited is announced by its drain. The damaged file is only read. When everything could
be read it is renamed to ….salvaged-…, which ends the alarm (store_damaged_files). When not, the exit code is 65 and the
alarm stays, until the same is said with --accept-loss.")]
    Salvage(SalvageArgs),
}

#[derive(Debug, clap::Args)]
struct ExportArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to; standard output if it is not given. A file that is there is not overwritten.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What `store export` or `store salvage` wrote.
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
struct SalvageArgs {
    /// The damaged file; its log is looked for beside it.
    file: PathBuf,
    /// Put it into the store of this configuration: gateway.toml here and the environment, if neither this nor --out is given.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write it into this file, for `store import`; the alarm is ended then, too.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// End the alarm although not everything could be read.
    #[arg(long)]
    accept_loss: bool,
}

impl From<ShelfError> for Failure {
    fn from(error: ShelfError) -> Self {
        Self::running(error.to_string())
    }
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    match &args.action {
        Action::Export(args) => export(args, out),
        Action::Import(args) => import(args, out),
        Action::Salvage(args) => salvage(args),
    }
}

fn configuration(file: Option<&Path>) -> Result<config::Config, Failure> {
    let loaded = config::load(file).map_err(|problems| Failure::configuration(problems.to_string()))?;
    Ok(loaded.config)
}

fn store_of(file: Option<&Path>) -> Result<Config, Failure> {
    Ok(configuration(file)?.store)
}

fn export(args: &ExportArgs, out: &mut dyn Write) -> Result<u8, Failure> {
    let loaded = configuration(args.config.as_deref())?;
    let store = loaded.store;
    let since = complete_since(&store, loaded.policy.retention)?;
    let mut draft = args.out.as_deref().map(Draft::create).transpose()?;
    let target: &mut dyn Write = match &mut draft {
        Some(draft) => &mut draft.file,
        None => out,
    };
    let mut writer = Writer::begin(target, SystemClock.now(), since)?;
    read_all(&store, |entry| writer.add(entry))?;
    let entries = writer.end()?;
    if let Some(draft) = draft {
        draft.publish()?;
        writeln!(out, "{entries} entries")?;
    }
    Ok(DONE)
}

fn import(args: &ImportArgs, out: &mut dyn Write) -> Result<u8, Failure> {
    let config::Config { store, policy, .. } = configuration(args.config.as_deref())?;
    let file = || File::open(&args.file).map(BufReader::new);
    let name = args.file.display();
    let unreadable = |error: &dyn std::fmt::Display| Failure::running(format!("{name}: {error}"));
    // All of it is looked through before anything is written.
    let mut number = 1;
    let checked = transfer::read(file().map_err(|error| unreadable(&error))?, |entry| {
        number += 1;
        match transfer::fault(&entry) {
            None => Ok(()),
            Some(fault) => Err(TransferError::Line(number, format!("{}: {fault}", entry.key.id))),
        }
    });
    let contents = match checked {
        Ok(contents) => contents,
        Err(error @ TransferError::Line(..)) => {
            return Err(Failure { code: NOT_VERIFIED, ..unreadable(&error) });
        }
        Err(error @ TransferError::Io(_)) => return Err(unreadable(&error)),
    };
    if contents.complete_since > SystemClock.now() {
        // Every payment would be late.
        let told = "its first line says that it has forgotten what is to come (complete_since)";
        return Err(Failure { code: NOT_VERIFIED, ..unreadable(&told) });
    }
    let mut shelf = Shelf::alone(&store).map_err(|error| Failure::running(error.to_string()))?;
    shelf.bring_complete_since(contents.complete_since)?;
    let mut failure = None;
    let read = transfer::read(file()?, |mut entry| {
        // It was written under another retention, perhaps a shorter one.
        entry.expires_at = entry.expires_at.map(|expires_at| expires_at.max(entry.at.plus(policy.retention)));
        shelf.put(entry).map_err(|error| {
            failure = Some(error);
            TransferError::Line(0, String::new())
        })
    });
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    read.map_err(|error| unreadable(&error))?;
    let sums = shelf.finish()?;
    report(&sums, out)?;
    Ok(if sums.differing.is_empty() { DONE } else { NOT_VERIFIED })
}

fn salvage(args: &SalvageArgs) -> Result<u8, Failure> {
    let file = args.file.display();
    let pages = Pages::open(&args.file).map_err(|error| Failure::running(format!("{file}: {error}")))?;
    let mut told = std::io::stderr();
    let mut is_whole = true;
    // The damaged file has the only copy of what waits: the alarm ends when it is in the store, or in a file that was named.
    let store = match (&args.config, &args.out) {
        (None, Some(_)) => None,
        (file, _) => Some(store_of(file.as_deref())?),
    };
    // Before anything is written. The file is written last, because there must be none where it is to be.
    let shelf = store.map(|store| Shelf::beside(&store)).transpose()?;
    let since = pages.complete_since(SystemClock.now());
    if since > Timestamp::default() {
        writeln!(told, "what was announced before {} had been forgotten", since.rfc3339_utc())?;
    }
    if let Some(mut shelf) = shelf {
        shelf.bring_complete_since(since)?;
        is_whole &= salvage_into(&pages, shelf, &mut told)?;
    }
    if let Some(path) = &args.out {
        let mut draft = Draft::create(path)?;
        let mut writer = Writer::begin(&mut draft.file, SystemClock.now(), since)?;
        let found = pages.read(|entry| writer.add(&entry))?;
        let entries = writer.end()?;
        draft.publish()?;
        writeln!(told, "{entries} entries written")?;
        is_whole &= tell(found, &mut told)?;
    }
    if !is_whole && !args.accept_loss {
        writeln!(
            told,
            "not everything could be read: the alarm stays. Say it again with --accept-loss{} to end it",
            if args.out.is_some() { " and another --out" } else { "" }
        )?;
        return Ok(NOT_VERIFIED);
    }
    match end_alarm(&args.file) {
        Ok(Some(name)) => writeln!(told, "the alarm is ended: {file} is {} now", name.display())?,
        Ok(None) => {}
        Err(error) => return Err(Failure::running(format!("{file} cannot be renamed: {error}"))),
    }
    Ok(if is_whole { DONE } else { NOT_VERIFIED })
}

/// Puts what is sound into the store. Says whether that is all that was there.
fn salvage_into(pages: &Pages, mut shelf: Shelf, told: &mut dyn Write) -> Result<bool, Failure> {
    let mut doubtful = Vec::new();
    let found = pages.read(|entry| {
        if is_sound(&entry) {
            return shelf.put(entry);
        }
        doubtful.push(entry.key.id);
        Ok(())
    })?;
    let sums = shelf.finish()?;
    report(&sums, told)?;
    for id in &doubtful {
        writeln!(told, "left out, because what it says does not fit together: {id}")?;
    }
    let is_whole = tell(found, told)?;
    Ok(is_whole && doubtful.is_empty() && sums.differing.is_empty())
}

/// What comes out of a damaged file is announced only if its money facts still give its digest.
fn is_sound(entry: &Entry) -> bool {
    let agrees = || {
        let message = entry.content.as_deref().and_then(|text| serde_json::from_slice::<Message>(text).ok());
        message.zip(entry.digest).is_some_and(|(message, digest)| message.agrees_with(&digest))
    };
    let waits_for_broker = matches!(entry.state, State::Deferred | State::InDoubt);
    transfer::fault(entry).is_none() && (!waits_for_broker || agrees())
}

fn report(sums: &Sums, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{} entries taken, {} were known", sums.taken, sums.known)?;
    for key in &sums.differing {
        writeln!(out, "left out, because the store has other money facts under it: {}", key.id)?;
    }
    Ok(())
}

/// Whether everything could be read.
fn tell(found: Found, told: &mut dyn Write) -> std::io::Result<bool> {
    let Found { pages, unreadable, broken } = found;
    writeln!(
        told,
        "{pages} pages, of which {unreadable} hold nothing that can be read; {broken} rows broken"
    )?;
    Ok(unreadable == 0 && broken == 0)
}

/// A file that is there when all of it is. What was begun and not ended leaves nothing.
struct Draft {
    path: PathBuf,
    /// Beside it, until then.
    partial: PathBuf,
    file: BufWriter<File>,
}

impl Draft {
    /// For its owner alone: it holds what the store holds.
    fn create(path: &Path) -> Result<Self, Failure> {
        let told = |error: std::io::Error| Failure::running(format!("{}: {error}", path.display()));
        if path.symlink_metadata().is_ok() {
            return Err(told(std::io::ErrorKind::AlreadyExists.into()));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(format!(".partial-{}", std::process::id()));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&partial).map_err(told)?;
        Ok(Self { path: path.to_owned(), partial: partial.into(), file: BufWriter::new(file) })
    }

    fn publish(mut self) -> std::io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        std::fs::rename(&self.partial, &self.path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone already where it was published.
        let _ = std::fs::remove_file(&self.partial);
    }
}
