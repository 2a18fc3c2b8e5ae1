//! What a supervisor such as systemd is told, by the protocol of `sd_notify`: ready, stopping, still alive. Datagrams to
//! a socket that it names; without one, nothing. A supervisor that does not listen never holds up the gateway.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Who started this process and wants to know how it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Supervisor {
    /// `$NOTIFY_SOCKET`: a path, or `@` and an abstract name.
    socket: Option<String>,
    /// `$WATCHDOG_USEC`, if it is meant for this process: without a sign of life for so long, it is ended.
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that the environment of process `pid` names, if any.
    pub fn of(environment: &[(String, String)], pid: u32) -> Self {
        let value = |wanted: &str| {
            environment.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
        };
        let socket = value("NOTIFY_SOCKET").filter(|socket| socket.starts_with(['/', '@']));
        let is_meant = value("WATCHDOG_PID").is_none_or(|meant| meant.parse() == Ok(pid));
        let watchdog = value("WATCHDOG_USEC").and_then(|text| text.parse().ok()).filter(|usec| *usec > 0);
        Self {
            socket: socket.map(str::to_owned),
            watchdog: watchdog.filter(|_| is_meant).map(Duration::from_micros),
        }
    }

    /// It listens, and may be sent payments.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// It finishes what is in flight, and ends.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Says that it is alive, for as long as the runtime has time for it. For ever, through the stopping too: a watchdog
    /// does not end when stopping begins.
    pub async fn stay_alive(self) {
        let Some(watchdog) = self.watchdog else { return };
        loop {
            self.tell("WATCHDOG=1");
            tokio::time::sleep(watchdog / SIGNS_OF_LIFE).await;
        }
    }

    fn tell(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, state) {
            tracing::warn!(state, %error, "the supervisor could not be told");
        }
    }
}

fn send(socket: &str, state: &str) -> io::Result<()> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// In the time of one watchdog.
const SIGNS_OF_LIFE: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(environment: &[(&str, &str)]) -> Supervisor {
        let owned = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Supervisor::of(&owned.collect::<Vec<_>>(), 42)
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_answered() {
        let minute = Some(Duration::from_secs(60));
        assert_eq!(of(&[("WATCHDOG_USEC", "60000000")]).watchdog, minute);
        assert_eq!(of(&[("WATCHDOG_USEC", "60000000"), ("WATCHDOG_PID", "42")]).watchdog, minute);
        for nobody in [
            &[("WATCHDOG_USEC", "60000000"), ("WATCHDOG_PID", "41")][..],
            &[("WATCHDOG_USEC", "60000000"), ("WATCHDOG_PID", "")],
            &[("WATCHDOG_USEC", "0")],
            &[("WATCHDOG_USEC", "soon")],
            &[],
        ] {
            assert_eq!(of(nobody).watchdog, None, "{nobody:?}");
        }
    }

    #[test]
    fn a_socket_with_an_abstract_name_is_told_too() {
        let name = format!("gateway-test-{:016x}", rand::random::<u64>());
        let listening = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        of(&[("NOTIFY_SOCKET", &format!("@{name}"))]).ready();
        let mut told = [0; 64];
        let length = listening.recv(&mut told).unwrap();
        assert_eq!(&told[..length], b"READY=1");
    }

    #[test]
    fn a_supervisor_that_is_not_there_or_names_no_socket_is_no_trouble() {
        of(&[("NOTIFY_SOCKET", "/nowhere/notify")]).ready();
        assert_eq!(of(&[("NOTIFY_SOCKET", "vsock:2:1234")]), Supervisor::default());
        assert_eq!(of(&[]), Supervisor::default());
    }
}
