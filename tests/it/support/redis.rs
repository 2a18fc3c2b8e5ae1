//! The Redis of the test run, which nobody may hurt; and private ones in a test's hands.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::program::{Folder, PATIENCE, free_port};

/// One node.
pub fn redis_url() -> String {
    of("REDIS_URL")
}

/// Three masters.
pub fn cluster_url() -> String {
    of("REDIS_CLUSTER_URL")
}

fn of(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run ./tests/run.sh, which makes sure that a Redis is there")
    })
}

/// Asks one node, or the cluster, by the shell that every Redis brings.
pub fn cli(url: &str, command: &[&str]) -> String {
    let place = url.split_once("://").unwrap().1.split(['/', ',']).next().unwrap();
    let (host, port) = place.rsplit_once(':').unwrap();
    let mut shell = Command::new("redis-cli");
    if url.starts_with("rediss") {
        shell.args(["--tls", "--insecure"]);
    }
    shell.args(["-c", "--raw", "-h", host, "-p", port]).args(command);
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A node of a test's own. It ends with its owner, and with the test's process, however that ends.
pub struct Node {
    port: u16,
    folder: Folder,
    options: Vec<String>,
    running: Option<Child>,
}

impl Node {
    pub fn start(options: &[&str]) -> Self {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let mut node = Self { port: free_port().port(), folder: Folder::new(), options, running: None };
        node.run();
        node
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it again, on the files that it left.
    pub fn run(&mut self) {
        // The shell waits for the end of its input, which is the end of this process, and takes the node with it.
        let keep = r#"redis-server "$@" & echo $! >pid; read -r _; kill -9 "$(cat pid)" 2>/dev/null; wait"#;
        let mut shell = Command::new("sh");
        shell.args(["-c", keep, "keeper", "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]);
        shell.args(["--port", &self.port.to_string()]).args(&self.options).current_dir(self.folder.path());
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log"));
        shell.stdin(Stdio::piped()).stdout(log.unwrap()).stderr(Stdio::null());
        self.running = Some(shell.spawn().unwrap());
        let began = Instant::now();
        while !self.answers() {
            assert!(began.elapsed() < PATIENCE, "it does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn answers(&self) -> bool {
        let mut shell = Command::new("redis-cli");
        let output = shell.args(["-p", &self.port.to_string(), "ping"]).output().unwrap();
        output.stdout.starts_with(b"PONG") || output.stdout.starts_with(b"NOAUTH")
    }

    /// As by `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut shell) = self.running.take() {
            let _ = shell.stdin.take().unwrap().write_all(b"\n");
            shell.wait().unwrap();
        }
    }

    pub fn signal(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.folder.path().join("pid")).unwrap();
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(pid.trim()).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Several nodes, started by the project's script.
pub struct Nodes {
    folder: Folder,
    pub url: String,
}

impl Nodes {
    pub fn start(kind: &[&str], files: &[(&str, String)]) -> Self {
        let folder = Folder::new();
        for (name, content) in files {
            folder.write(name, content);
        }
        let output = script(&[&["start", folder.path().to_str().unwrap()], kind].concat());
        let url = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        assert!(!url.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { folder, url }
    }

    /// The ports that its URI names.
    pub fn ports(&self) -> Vec<String> {
        let places = self.url.split_once("://").unwrap().1;
        places.split(',').map(|place| place.rsplit_once(':').unwrap().1.to_owned()).collect()
    }

    /// Signals the node on this port.
    pub fn signal(&self, port: &str, signal: &str) {
        let pid = std::fs::read_to_string(self.folder.path().join(format!("node-{port}/pid"))).unwrap();
        assert!(Command::new("kill").args([&format!("-{signal}"), pid.trim()]).status().unwrap().success());
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        script(&["stop", self.folder.path().to_str().unwrap()]);
    }
}

fn script(arguments: &[&str]) -> Output {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/redis.sh");
    Command::new(script).args(arguments).stdin(Stdio::null()).output().unwrap()
}
