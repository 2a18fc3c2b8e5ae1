//! The connection in use, and what is done when it fails.
//!
//! A write that failed is never tried again on the connection that it failed on, and nothing is written behind it: after
//! an `fsync` that failed, the kernel may call pages clean that are on no disk, and whatever is appended behind such a
//! hole in the log is lost with the hole when the machine goes down, though its own `fsync` succeeded. So the file is
//! opened once more, its whole log is first written into the database and emptied ([`Core::open`]), and only then is the
//! write tried again, once. While that fails the old connection goes on answering questions (it shows what was
//! committed, and nothing else), and a write is tried once a second.
//!
//! What was committed into a file that somebody has deleted or replaced meanwhile is not answered as kept before it is
//! in the file that lies at the path: everything in the old one is taken over, because the open connection still has it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Config;
use super::core::{Core, Error, Opening, Result};
use super::load::Load;

/// A connection that is opened again after it failed: once at once, then at most once a second.
pub(super) struct Slot {
    core: Option<Core>,
    config: Config,
    /// Nothing is written on this connection any more.
    is_spent: bool,
    failed_at: Option<Instant>,
    why: String,
    looked_at: Instant,
    load: Arc<Mutex<Load>>,
}

impl Slot {
    /// Without a connection if there is none now.
    pub(super) fn new(core: Result<Core>, config: &Config, load: Arc<Mutex<Load>>) -> Self {
        let now = Instant::now();
        let (core, failed_at, why) = match core {
            Ok(core) => (Some(core), None, String::new()),
            Err(error) => (None, Some(now), error.to_string()),
        };
        let slot =
            Self { core, config: config.clone(), is_spent: false, failed_at, why, looked_at: now, load };
        slot.show_load();
        slot
    }

    /// Looks something up, on a connection that is opened again and asked once more if it fails.
    pub(super) fn read<T>(&mut self, mut look: impl FnMut(&Core) -> Result<T>) -> Result<T> {
        if let Some(core) = &self.core {
            match look(core) {
                Ok(found) => return self.noted(Ok(found)),
                Err(error) => self.let_go(&error),
            }
        }
        let found = self.renew(Opening::ToRead).and_then(|core| look(core));
        self.noted(found)
    }

    /// Writes, on a connection that is opened again and tried once more if it fails.
    pub(super) fn write<T>(&mut self, mut work: impl FnMut(&mut Core) -> Result<T>) -> Result<T> {
        if !self.is_spent
            && let Some(core) = &mut self.core
        {
            match work(core) {
                Ok(done) => return self.in_place(done),
                Err(error) if error.is_damage() => self.let_go(&error),
                Err(_) => self.is_spent = true,
            }
        }
        let done = self.renew(Opening::ToWrite).and_then(work);
        match done {
            Ok(done) => self.in_place(done),
            Err(error) => {
                self.is_spent = true;
                self.noted(Err(error))
            }
        }
    }

    /// Looks once a second whether the file is still in its place, and whether somebody else has written into it.
    pub(super) fn look(&mut self) {
        if self.looked_at.elapsed() < LOOK_PAUSE {
            return;
        }
        self.looked_at = Instant::now();
        if self.is_spent || self.core.is_none() {
            return;
        }
        if let Err(error) = self.in_place(()).and_then(|()| self.write(Core::recount_if_changed)) {
            tracing::warn!(%error, "the store's file is not what it was");
        }
        self.show_load();
    }

    /// An error while reading: the connection may be in no state to say anything. What looks like damage is believed when
    /// another connection sees it too, for a disk that cannot be read looks so at times.
    fn let_go(&mut self, error: &Error) {
        tracing::warn!(%error, "the store's file is opened again");
        self.core = None;
    }

    /// Lets the connection go, because its file was set aside.
    pub(super) fn abandon(&mut self) {
        (self.core, self.is_spent, self.failed_at) = (None, false, None);
    }

    /// Writes the log back into the file, so that what is left behind is one file.
    pub(super) fn close(&mut self) {
        if let Some(core) = self.core.take().filter(|_| !self.is_spent) {
            let _ = core.mend();
        }
    }

    /// A connection to the file that is at the path now. The old one stays until there is a new one.
    fn renew(&mut self, opening: Opening) -> Result<&mut Core> {
        if self.failed_at.is_some_and(|at| at.elapsed() < REOPEN_PAUSE) {
            return Err(Error::Away(self.why.clone()));
        }
        let moved = self.core.as_ref().is_some_and(|core| !core.is_in_place());
        if moved {
            self.take_over()?;
        } else {
            self.core = Some(Core::open(&self.config, opening)?);
        }
        // One that was opened to be read is mended before it is written.
        self.is_spent = opening == Opening::ToRead;
        self.core.as_mut().ok_or(Error::Away(String::new()))
    }

    /// What was written counts when it is in the file at the path.
    fn in_place<T>(&mut self, done: T) -> Result<T> {
        let outcome = match &self.core {
            Some(core) if !core.is_in_place() => self.take_over().map(|()| done),
            Some(_) | None => Ok(done),
        };
        if outcome.is_err() {
            self.is_spent = true;
        }
        self.noted(outcome)
    }

    /// Goes over to the file at the path, with everything that the one in use has.
    fn take_over(&mut self) -> Result<()> {
        let Some(old) = &self.core else { return Ok(()) };
        tracing::error!(path = %self.config.path.display(), "the store's file was deleted or replaced: taking it over");
        if !old.is_same_file() {
            old.remove_its_logs();
        }
        if old.is_same_file() {
            // Only its log is gone from its place. It is written into the database before anybody looks for it there.
            old.mend()?;
            self.core = None;
            self.core = Some(Core::open(&self.config, Opening::ToWrite)?);
        } else {
            let mut new = Core::open(&self.config, Opening::ToWrite)?;
            let taken = new.take_over(old)?;
            tracing::warn!(entries = taken, "the store's file is made again");
            self.core = Some(new);
        }
        Ok(())
    }

    fn noted<T>(&mut self, outcome: Result<T>) -> Result<T> {
        match &outcome {
            Ok(_) if self.is_spent => {}
            Ok(_) => {
                self.failed_at = None;
                self.show_load();
            }
            Err(Error::Away(_)) => {}
            Err(error) => {
                self.failed_at = Some(Instant::now());
                self.why = error.to_string();
                if error.is_damage() {
                    self.core = None;
                }
            }
        }
        outcome
    }

    fn show_load(&self) {
        if let Some(core) = &self.core {
            *self.load.lock().unwrap_or_else(PoisonError::into_inner) = core.load();
        }
    }
}

/// A store that failed is left alone for this long.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// How often the file is looked for at its path while nothing is written.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
