//! The real binary, on ports of its own, with an exchange of its own at the real broker.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::alipay;

/// How long anything here may take. A bound for broken tests, not a wait.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running gateway. Killed when it is dropped.
pub struct Program {
    child: Child,
    pub http: SocketAddr,
    pub admin: SocketAddr,
    pub exchange: String,
    dir: Folder,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn is_success(&self) -> bool {
        self.status == 200 && self.body == "success"
    }

    pub fn is_fail(&self, status: u16) -> bool {
        self.status == status && self.body == "fail"
    }
}

/// The broker of the test run.
pub fn amqp_url() -> String {
    std::env::var("AMQP_URL").unwrap_or_else(|_| {
        panic!("AMQP_URL is not set: run ./tests/run.sh, which makes sure that a RabbitMQ is there")
    })
}

/// The one that was built with the tests, or, at length, the release (`tests/torture.sh`).
fn program() -> std::ffi::OsString {
    std::env::var_os("TORTURE_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_alipay-notify-gateway").into())
}

/// A name that no other test has.
pub fn unique(name: &str) -> String {
    format!("test.{name}.{:08x}", rand::random::<u32>())
}

/// A folder that goes with its owner.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(unique("gateway"));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Program {
    /// Starts it with the test app, and waits until it is ready and connected.
    pub fn start(name: &str) -> Self {
        Self::with(name, "")
    }

    /// With more sections of configuration.
    pub fn with(name: &str, more: &str) -> Self {
        let program = Self::launch(name, more, &amqp_url(), |command| command);
        program.is_connected();
        program
    }

    /// Waits for its connection: what comes before it is deferred.
    pub fn is_connected(&self) {
        self.wait_until("it is connected", || self.metric("broker_up") > 0.5);
    }

    /// With more keys of `[http]`.
    pub fn with_http(name: &str, more: &str) -> Self {
        let insert = |text: String| text.replacen("[admin]", &format!("{more}\n[admin]"), 1);
        let program = Self::launch_configured(name, &amqp_url(), insert, |command| command);
        program.is_connected();
        program
    }

    /// With more keys of `[admin]`.
    pub fn launch_with_admin(name: &str, more: &str) -> Self {
        let insert = |text: String| text.replacen("[amqp]", &format!("{more}\n[amqp]"), 1);
        Self::launch_configured(name, &amqp_url(), insert, |command| command)
    }

    /// With a broker of the test's choice, and the command in the test's hands.
    pub fn launch(name: &str, more: &str, amqp: &str, wrap: impl FnOnce(Command) -> Command) -> Self {
        Self::launch_configured(name, amqp, |text| format!("{more}\n{text}"), wrap)
    }

    /// With more files beside its configuration, and that in the test's hands.
    pub fn launch_with_files(
        name: &str,
        amqp: &str,
        files: &[(&str, &str)],
        change: impl FnOnce(String) -> String,
    ) -> Self {
        let dir = Folder::new();
        for (name, content) in files {
            dir.write(name, content);
        }
        Self::launch_in(dir, name, amqp, change, |command| command)
    }

    /// With the configuration in the test's hands, too.
    pub fn launch_configured(
        name: &str,
        amqp: &str,
        change: impl FnOnce(String) -> String,
        wrap: impl FnOnce(Command) -> Command,
    ) -> Self {
        Self::launch_in(Folder::new(), name, amqp, change, wrap)
    }

    fn launch_in(
        dir: Folder,
        name: &str,
        amqp: &str,
        change: impl FnOnce(String) -> String,
        wrap: impl FnOnce(Command) -> Command,
    ) -> Self {
        let (http, admin) = (free_port(), free_port());
        let exchange = unique(name);
        dir.write("alipay.pem", alipay::public_pem());
        let config = configuration(http, admin, amqp, &exchange, "");
        let path = dir.write("gateway.toml", change(config));
        let mut command = Command::new(program());
        command.arg("serve").arg("--config").arg(&path);
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = wrap(command).spawn().unwrap();
        let program = Self { child, http, admin, exchange, dir };
        program
            .wait_until("it is ready", || program.get("/readyz").is_some_and(|answer| answer.status == 200));
        program
    }

    /// Starts it again on the same files.
    pub fn restart(&mut self) {
        self.restart_as(|command| command);
    }

    /// With the command in the test's hands.
    pub fn restart_as(&mut self, wrap: impl FnOnce(Command) -> Command) {
        let path = self.dir.path().join("gateway.toml");
        let mut command = Command::new(program());
        let log = std::fs::File::options().append(true).open(self.dir.path().join("log")).unwrap();
        command.arg("serve").arg("--config").arg(&path).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = wrap(command).spawn().unwrap();
        self.wait_until("it is ready", || self.get("/readyz").is_some_and(|answer| answer.status == 200));
    }

    /// Posts a body to the notify URL.
    pub fn post(&self, body: &[u8]) -> Answer {
        post(self.http, "/alipay/notify", body).unwrap()
    }

    /// Asks the admin listener. `None` if nobody answers.
    pub fn get(&self, path: &str) -> Option<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        exchange(self.admin, request.as_bytes()).ok()
    }

    /// A sample of the metrics, without its prefix.
    pub fn metric(&self, sample: &str) -> f64 {
        let text = self.get("/metrics").unwrap().body;
        let wanted = format!("alipay_gateway_{sample} ");
        let line = text.lines().find(|line| line.starts_with(&wanted));
        line.unwrap_or_else(|| panic!("no {sample} in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// The most that it has had of memory.
    pub fn peak_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// What it has of memory.
    pub fn resident_mib(&self) -> f64 {
        let text = self.get("/metrics").unwrap().body;
        let line = text.lines().find(|line| line.starts_with("process_resident_memory_bytes ")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() / 1_048_576.0
    }

    pub fn outcome(&self, outcome: &str) -> f64 {
        self.metric(&format!("notifications_total{{outcome=\"{outcome}\"}}"))
    }

    /// What is kept of a trade.
    pub fn rows(&self, trade_no: &str) -> Vec<serde_json::Value> {
        let answer = self.get(&format!("/trades/{trade_no}")).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        json["rows"].as_array().unwrap().clone()
    }

    pub fn states(&self, trade_no: &str) -> Vec<String> {
        self.rows(trade_no).iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect()
    }

    /// The folder of its configuration.
    pub fn folder(&self) -> &Folder {
        &self.dir
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()).status();
        assert!(sent.unwrap().success());
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE * 2, "it does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < PATIENCE, "waited in vain until {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn configuration(http: SocketAddr, admin: SocketAddr, amqp: &str, exchange: &str, more: &str) -> String {
    let (app_id, seller_id) = (alipay::APP_ID, alipay::SELLER_ID);
    // The notifications of the tests are of one fixed day; how old they are is tested where it matters.
    let base = format!(
        r#"
[http]
listen = "{http}"
[admin]
listen = "{admin}"
[amqp]
uri = "{amqp}"
exchange = "{exchange}"
[store]
path = "gateway.db"
[[apps]]
app_id = "{app_id}"
seller_ids = ["{seller_id}"]
alipay_public_keys = ["alipay.pem"]
"#
    );
    format!("{more}\n{base}")
}

/// A port that was free a moment ago, and that nobody else of this process was given: once in some twenty runs of all tests
/// two listeners of one program had the same.
pub fn free_port() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    // Below those that the kernel hands out to connections, one of which could take it before its owner listens.
    loop {
        let port = rand::random_range(20_000..32_000);
        if !GIVEN.lock().unwrap().insert(port) {
            continue;
        }
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap();
        }
    }
}

pub fn post(to: SocketAddr, path: &str, body: &[u8]) -> std::io::Result<Answer> {
    exchange(to, &request(path, body))
}

pub fn request(path: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/x-www-form-urlencoded; charset=utf-8\r\n\
         User-Agent: Mozilla/4.0\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// One request, one answer, one connection.
pub fn exchange(to: SocketAddr, request: &[u8]) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    let text = String::from_utf8(text).map_err(std::io::Error::other)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other(text.clone()))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other("no status"))?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
