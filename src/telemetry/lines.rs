//! Log lines on their way out. A reader that stops reading (a full pipe to a log shipper that hangs) must not stop
//! payments, so a line is never written by whoever says it: a thread writes what has gathered, and what does not fit
//! is dropped and counted.
//!
//! Ours, because the usual crate for it reports a stuck reader on the very pipe that is stuck, and then never ends.
//!
//! What survives a crash is what was written: lines of the last [`GATHER`] may be missing after a kill.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Where lines are handed over. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    written: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Bound: [`MAX_WAITING_BYTES`].
    bytes: Vec<u8>,
    is_writing: bool,
}

impl Lines {
    /// Starts the thread that writes to `out`. Should there be no thread, every line that does not fit is dropped.
    pub fn to(out: impl Write + Send + 'static) -> Self {
        let lines = Self::default();
        let shared = Arc::clone(&lines.0);
        let _ = std::thread::Builder::new().name("log".to_owned()).spawn(move || shared.write_to(out));
        lines
    }

    /// Waits until what was said is written, but not for a reader that does not read.
    ///
    /// Bound: [`LAST_WORDS`].
    pub fn flush(&self) {
        let waiting = self.0.lock();
        let unwritten = |waiting: &mut Waiting| waiting.is_writing || !waiting.bytes.is_empty();
        let _ = self.0.written.wait_timeout_while(waiting, LAST_WORDS, unwritten);
    }

    /// How many lines found no room, or could not be written.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn write_to(&self, mut out: impl Write) {
        let mut bytes = Vec::new();
        let mut is_torn = false;
        loop {
            drop(self.arrived.wait_while(self.lock(), |waiting| waiting.bytes.is_empty()));
            // One wake-up and one write for what a burst has to say.
            std::thread::sleep(GATHER);
            {
                let mut waiting = self.lock();
                std::mem::swap(&mut bytes, &mut waiting.bytes);
                waiting.is_writing = true;
            }
            if is_torn {
                // What was cut off stays a line of its own.
                bytes.insert(0, b'\n');
            }
            let left = unwritten(&mut out, &bytes);
            let has_ended_none = is_torn && left.len() == bytes.len();
            let lines = left.iter().filter(|byte| **byte == b'\n').count() - usize::from(has_ended_none);
            self.dropped.fetch_add(u64::try_from(lines).unwrap_or(u64::MAX), Ordering::Relaxed);
            is_torn = match bytes.len() - left.len() {
                _ if left.is_empty() => false,
                0 => is_torn,
                written => bytes.get(written - 1) != Some(&b'\n'),
            };
            bytes.clear();
            self.lock().is_writing = false;
            self.written.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What could not be written: the disk is full, or the reader has gone. One that is only slow is waited for, whatever the
/// pipe says to that.
fn unwritten<'a>(out: &mut impl Write, mut bytes: &'a [u8]) -> &'a [u8] {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => break,
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Bound: none, as for a pipe that blocks. What comes meanwhile gathers, and is dropped and counted.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(GATHER),
            Err(_) => break,
        }
    }
    let _ = out.flush();
    bytes
}

/// One line, handed over as a whole.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.0.lock();
        if waiting.bytes.len() + line.len() > MAX_WAITING_BYTES {
            drop(waiting);
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            let is_first = waiting.bytes.is_empty();
            waiting.bytes.extend_from_slice(line);
            drop(waiting);
            if is_first {
                self.0.arrived.notify_one();
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Lines {
    type Writer = &'w Self;

    fn make_writer(&'w self) -> Self::Writer {
        self
    }
}

/// How long lines gather before they are written.
const GATHER: Duration = Duration::from_millis(5);
/// How long the end of the program waits for a reader.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Some ten thousand lines.
const MAX_WAITING_BYTES: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Passes on what is written, and writes only when it is told to.
    struct Reader(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Takes so many bytes, then says each of these in turn, and then takes everything.
    struct Disk(usize, Vec<io::ErrorKind>, Sender<Vec<u8>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let fits = bytes.len().min(self.0);
            if fits == 0 && !self.1.is_empty() {
                return Err(self.1.remove(0).into());
            }
            let taken = if fits == 0 { bytes } else { &bytes[..fits] };
            self.0 -= fits;
            self.2.send(taken.to_vec()).map_err(io::Error::other)?;
            Ok(taken.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written of two lines and then of a third.
    fn written(fits: usize, errors: &[io::ErrorKind]) -> (String, u64) {
        let (writes, written) = channel();
        let lines = Lines::to(Disk(fits, errors.to_vec(), writes));
        (&lines).write_all(b"first\nsecond\n").unwrap();
        lines.flush();
        (&lines).write_all(b"third\n").unwrap();
        lines.flush();
        let all: Vec<u8> = written.try_iter().flatten().collect();
        (String::from_utf8(all).unwrap(), lines.dropped())
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_counted_and_what_it_cuts_off_stays_a_line_of_its_own() {
        use io::ErrorKind::{BrokenPipe, StorageFull};

        assert_eq!(written(6, &[StorageFull]), ("first\nthird\n".to_owned(), 1));
        assert_eq!(written(9, &[StorageFull]), ("first\nsec\nthird\n".to_owned(), 1));
        assert_eq!(written(3, &[StorageFull]), ("fir\nthird\n".to_owned(), 2));
        assert_eq!(written(0, &[BrokenPipe; 2]), (String::new(), 3));
        assert_eq!(written(9, &[StorageFull; 2]), ("first\nsec".to_owned(), 2));
    }

    #[test]
    fn a_pipe_that_would_block_is_waited_for() {
        use io::ErrorKind::{Interrupted, WouldBlock};

        let all = ("first\nsecond\nthird\n".to_owned(), 0);
        assert_eq!(written(9, &[WouldBlock, Interrupted, WouldBlock]), all);
    }

    #[test]
    fn a_reader_that_does_not_read_stops_nobody_and_what_does_not_fit_is_counted() {
        let (read, may_read) = channel();
        let (writes, written) = channel();
        let lines = Lines::to(Reader(may_read, writes));
        let line = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            (&lines).write_all(&line).unwrap();
        }
        // What the thread has taken out may be a batch of its own.
        assert!((12..=16).contains(&lines.dropped()), "{}", lines.dropped());
        lines.flush();
        // It reads again: everything that was not dropped comes.
        let kept = usize::try_from(20 - lines.dropped()).unwrap() << 20;
        let mut seen = 0;
        while seen < kept {
            read.send(()).unwrap();
            seen += written.recv().unwrap().len();
        }
        lines.flush();
        (&lines).write_all(b"again").unwrap();
        read.send(()).unwrap();
        assert_eq!(written.recv().unwrap(), b"again");
    }
}
