//! The gateway as a process of its own: killed with SIGKILL, and started again at once on the same store and port.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::moment::Moment;

pub const APP_ID: &str = "2021000000000001";

/// A folder with its configuration, keys, store and logs, and the process that runs on them.
pub struct Gateway {
    program: PathBuf,
    folder: PathBuf,
    http: SocketAddr,
    admin: SocketAddr,
    child: Option<Child>,
    lives: Vec<Life>,
}

/// One process, from its start to its end.
#[derive(Debug, Clone)]
pub struct Life {
    pub ended: Option<Moment>,
    log: PathBuf,
}

impl Life {
    /// When it could begin to publish: its first connection to the broker.
    pub fn connected(&self) -> Option<Moment> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let line = text.lines().find(|line| line.contains("connected to the broker"))?;
        let json: serde_json::Value = serde_json::from_str(line).ok()?;
        Moment::parse(json["timestamp"].as_str()?)
    }
}

impl Gateway {
    /// Writes the configuration, with a queue of the exchange's name that takes every type. Nothing runs yet.
    pub fn new(
        program: PathBuf,
        folder: &Path,
        (amqp, exchange): (&str, &str),
        random: &mut SmallRng,
    ) -> Self {
        let made = Command::new(&program).args(["simulate", "keys"]).arg(folder).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let (http, admin) = (port(random), port(random));
        let text = format!(
            "[http]\nlisten = \"{http}\"\n[admin]\nlisten = \"{admin}\"\n\
             [amqp]\nuri = \"{amqp}\"\nexchange = \"{exchange}\"\n\
             [[amqp.queues]]\nname = \"{exchange}\"\nbind = [\"#\"]\n[store]\npath = \"gateway.db\"\n\
             [[apps]]\napp_id = \"{APP_ID}\"\nseller_ids = [\"2088101117955611\"]\n\
             alipay_public_keys = [\"alipay-public.pem\"]\n"
        );
        std::fs::write(folder.join("gateway.toml"), text).unwrap();
        Self { program, folder: folder.to_owned(), http, admin, child: None, lives: Vec::new() }
    }

    /// Starts it, and waits for nothing.
    pub fn start(&mut self, environment: &[(&str, String)]) {
        let log = self.folder.join(format!("log.{}", self.lives.len()));
        let file = File::create(&log).unwrap();
        let mut command = Command::new(&self.program);
        for name in ["AMQP_URL", "ALIPAY_APP_ID", "ALIPAY_PUBLIC_KEY", "RUST_LOG", "LOG_FORMAT"] {
            command.env_remove(name);
        }
        command.arg("serve").arg("--config").arg(self.folder.join("gateway.toml"));
        command.envs(environment.iter().map(|(name, value)| (*name, value.as_str())));
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        self.child = Some(command.spawn().unwrap());
        self.lives.push(Life { ended: None, log });
    }

    /// SIGKILL, as `kill -9` does it, and gone when this returns.
    pub fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().unwrap();
        }
        self.bury();
    }

    /// SIGTERM: it ends in order, and with what.
    pub fn stop(&mut self) -> ExitStatus {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.bury().unwrap()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Waits for its end, and tells how it was.
    pub fn bury(&mut self) -> Option<ExitStatus> {
        let status = self.child.take().map(|mut child| child.wait().unwrap());
        if let Some(life) = self.lives.last_mut() {
            life.ended = Some(Moment::now());
        }
        status
    }

    /// Waits until it is connected to the broker.
    pub fn wait_until_up(&mut self) {
        self.wait_until(PATIENCE, "it is connected to the broker", |gateway| {
            gateway.metric("broker_up") > Some(0.5)
        });
    }

    /// Waits until nothing is kept for the broker any more.
    pub fn wait_until_drained(&mut self, patience: Duration) {
        self.wait_until(patience, "the backlog is empty", |gateway| gateway.backlog() == Some(0));
    }

    /// What is deferred or in doubt. `None` if it does not answer.
    pub fn backlog(&self) -> Option<u64> {
        let of = |state| self.metric(&format!("backlog_events{{state=\"{state}\"}}"));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        Some((of("deferred")? + of("in_doubt")?) as u64)
    }

    /// How many payments the broker has confirmed to the present process.
    pub fn confirmed(&self) -> Option<f64> {
        self.metric("events_total{result=\"confirmed\",type=\"payment.succeeded\"}")
    }

    pub fn wait_until(&mut self, patience: Duration, what: &str, condition: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !condition(self) {
            assert!(!self.has_ended(), "it ended by itself: {}", self.last_words());
            assert!(began.elapsed() < patience, "waited in vain until {what}: {}", self.last_words());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A sample of its metrics, without the prefix.
    pub fn metric(&self, sample: &str) -> Option<f64> {
        let text = self.get("/metrics").ok()?;
        let wanted = format!("alipay_gateway_{sample} ");
        let line = text.lines().find(|line| line.starts_with(&wanted))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.admin, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// The most memory that the present process ever had, in MiB.
    pub fn peak_memory(&self) -> Option<u64> {
        let pid = self.child.as_ref()?.id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()?.div_ceil(1024))
    }

    pub fn last_words(&self) -> String {
        let log = self.lives.last().map(|life| std::fs::read_to_string(&life.log).unwrap_or_default());
        let log = log.unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains("\"target\":\"audit\"")).collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn http(&self) -> SocketAddr {
        self.http
    }

    pub fn lives(&self) -> &[Life] {
        &self.lives
    }

    /// What its store says was announced. Read beside the running process, as an operator would.
    pub fn recorded(&self) -> Vec<String> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let store = rusqlite::Connection::open_with_flags(self.folder.join("gateway.db"), flags).unwrap();
        store.busy_timeout(PATIENCE).unwrap();
        let mut select = store.prepare("SELECT id FROM event WHERE state = 0").unwrap();
        let ids = select.query_map([], |row| row.get(0)).unwrap();
        ids.map(Result::unwrap).collect()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port below those that the kernel hands out by itself, so that nobody takes it while the gateway is dead.
fn port(random: &mut SmallRng) -> SocketAddr {
    loop {
        let at = SocketAddr::from(([127, 0, 0, 1], random.random_range(20_000..32_000)));
        if TcpListener::bind(at).is_ok() {
            return at;
        }
    }
}

/// A bound for what is broken, not a wait.
const PATIENCE: Duration = Duration::from_secs(60);
