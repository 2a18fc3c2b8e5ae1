//! Private RabbitMQ nodes in a test's hands: to be killed, frozen, starved, joined to a cluster, with and without TLS.
//! They are apart from the broker of `AMQP_URL`, which nobody may hurt.
//!
//! The nodes of a farm end with the test process, however it ends: a keeper waits on a pipe that closes then.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use lapin::{Connection, ConnectionProperties};

use super::authority::Authority;
use super::program::{free_port, unique};

/// Nodes that know each other.
pub struct Farm {
    folder: PathBuf,
    epmd: u16,
    cookie: String,
    nodes: Vec<Node>,
    pub authority: Authority,
    /// Waits for the end of its standard input, which is the end of this process.
    _keeper: Child,
}

/// One node.
pub struct Node {
    pub port: u16,
    pub tls_port: u16,
    name: String,
    process: Option<Child>,
}

/// What its TLS listener wants of a client.
#[derive(Clone, Copy)]
pub enum Clients {
    /// A certificate, or none.
    MayShow,
    /// A certificate.
    MustShow,
}

/// One node for all tests of the process that hurt a single node, one test at a time; healthy when it is handed out.
/// `None`, with the reason printed, where there is no RabbitMQ to start.
pub fn lone_node() -> Option<MutexGuard<'static, Farm>> {
    static LONE: OnceLock<Option<Mutex<Farm>>> = OnceLock::new();
    shared(&LONE, 1, Clients::MayShow)
}

/// A cluster of three, likewise.
pub fn cluster() -> Option<MutexGuard<'static, Farm>> {
    static CLUSTER: OnceLock<Option<Mutex<Farm>>> = OnceLock::new();
    shared(&CLUSTER, 3, Clients::MustShow)
}

fn shared(
    cell: &'static OnceLock<Option<Mutex<Farm>>>,
    count: usize,
    clients: Clients,
) -> Option<MutexGuard<'static, Farm>> {
    let farm = cell.get_or_init(|| match server() {
        Some(server) => Some(Mutex::new(Farm::start(&server, count, clients))),
        None => {
            eprintln!("skipped: no rabbitmq-server is installed here, and these tests hurt one of their own");
            None
        }
    });
    let mut farm = farm.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
    farm.heal();
    Some(farm)
}

/// Debian's package puts a wrapper into the path that must be root or rabbitmq; the server behind it need not.
fn server() -> Option<PathBuf> {
    let candidates = ["/usr/lib/rabbitmq/bin", "/usr/sbin", "/opt/rabbitmq/sbin"];
    candidates.into_iter().map(PathBuf::from).find(|folder| folder.join("rabbitmq-server").exists())
}

impl Farm {
    fn start(server: &Path, count: usize, clients: Clients) -> Self {
        let folder = std::env::temp_dir().join(unique("rabbits"));
        std::fs::create_dir_all(&folder).unwrap();
        let epmd = free_port().port();
        let cookie = unique("cookie").replace('.', "");
        let keeper = keep(&folder, epmd);
        let authority = Authority::new("the tests' authority");
        let nodes = (1..=count).map(|_| Node::new()).collect();
        let mut farm = Self { folder, epmd, cookie, nodes, authority, _keeper: keeper };
        for at in 0..count {
            farm.write_files(at, clients);
        }
        std::fs::write(farm.folder.join("server"), server.to_str().unwrap()).unwrap();
        wait(|| "epmd listens".to_owned(), || listens(epmd));
        // All at once would be as many clusters; and of two that join at once, one was seen not to come up.
        for at in 0..count {
            farm.launch(at);
            farm.wait_for(at);
        }
        let known =
            if count > 1 { farm.eval(0, "length(rabbit_nodes:all_running()).") } else { "1".to_owned() };
        assert_eq!(known.trim(), count.to_string(), "they are one cluster");
        farm
    }

    fn write_files(&self, at: usize, clients: Clients) {
        let node = &self.nodes[at];
        let folder = self.folder_of(at);
        std::fs::create_dir_all(&folder).unwrap();
        let (certificate, key) = self.authority.issue("localhost");
        for (name, content) in
            [("ca.pem", self.authority.pem()), ("server.pem", certificate), ("server.key", key)]
        {
            std::fs::write(folder.join(name), content).unwrap();
        }
        let plugins = "[rabbitmq_auth_mechanism_ssl].";
        std::fs::write(folder.join("enabled_plugins"), plugins).unwrap();
        let must = matches!(clients, Clients::MustShow);
        let place = folder.display();
        let mut config = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nlisteners.ssl.1 = 127.0.0.1:{}\n\
             ssl_options.cacertfile = {place}/ca.pem\nssl_options.certfile = {place}/server.pem\n\
             ssl_options.keyfile = {place}/server.key\nssl_options.verify = verify_peer\n\
             ssl_options.fail_if_no_peer_cert = {must}\nssl_cert_login_from = common_name\n\
             auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = EXTERNAL\n\
             disk_free_limit.absolute = 50MB\n",
            node.port, node.tls_port
        );
        if self.nodes.len() > 1 {
            config += "cluster_formation.peer_discovery_backend = classic_config\n";
            config += "cluster_partition_handling = ignore\n";
            for (number, node) in self.nodes.iter().enumerate() {
                config += &format!("cluster_formation.classic_config.nodes.{} = {}\n", number + 1, node.name);
            }
        }
        std::fs::write(folder.join("rabbitmq.conf"), config).unwrap();
    }

    /// Starts the process; its files and its ports are as before.
    pub fn launch(&mut self, at: usize) {
        let folder = self.folder_of(at);
        let server = PathBuf::from(std::fs::read_to_string(self.folder.join("server")).unwrap());
        let mut command = self.command(at, &server.join("rabbitmq-server"));
        let output = std::fs::File::create(folder.join("output")).unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let child = command.spawn().unwrap();
        // For the keeper.
        std::fs::write(self.folder.join(format!("{at}.pid")), format!("{}\n", child.id())).unwrap();
        self.nodes[at].process = Some(child);
    }

    /// Nothing of the caller's: no `RABBITMQ_` or `ERL_` variable, and a home, so a cookie, of its own.
    fn command(&self, at: usize, program: &Path) -> Command {
        let (node, folder) = (&self.nodes[at], self.folder_of(at));
        let cookie = self.folder.join(".erlang.cookie");
        if !cookie.exists() {
            std::fs::write(&cookie, &self.cookie).unwrap();
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o400);
            std::fs::set_permissions(&cookie, private).unwrap();
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command
            .current_dir(&folder)
            .env_clear()
            .env("PATH", format!("{path}:/usr/lib/erlang/bin"))
            .env("HOME", &self.folder)
            .env("LANG", "C.UTF-8")
            .env("ERL_EPMD_PORT", self.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            // Do not fork, so that the pid is the node's own.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", folder.join("generated"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
            .env("RABBITMQ_PID_FILE", folder.join("rabbit.pid"))
            .env("RABBITMQ_NODENAME", &node.name)
            .env("RABBITMQ_DIST_PORT", (node.port + 1).to_string())
            .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+S 2:2 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
            );
        command
    }

    /// Waits until the node takes clients.
    pub fn wait_for(&self, at: usize) {
        let url = self.url(at);
        wait(|| format!("node {at} takes clients\n{}", self.output(at)), || takes_clients(&url));
    }

    /// A node as a URI.
    pub fn url(&self, at: usize) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.nodes[at].port)
    }

    /// `host:port` of a node.
    pub fn place(&self, at: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[at].port)
    }

    pub fn node(&self, at: usize) -> &Node {
        &self.nodes[at]
    }

    /// Expressions in Erlang, evaluated in the node: what `rabbitmqctl` does, without a start of its own for each.
    pub fn eval(&self, at: usize, expressions: &str) -> String {
        self.ctl(at, &["eval", expressions])
    }

    /// `rabbitmqctl`.
    pub fn ctl(&self, at: usize, arguments: &[&str]) -> String {
        let server = PathBuf::from(std::fs::read_to_string(self.folder.join("server")).unwrap());
        let mut command = self.command(at, &server.join("rabbitmqctl"));
        let done = command.arg("--quiet").args(arguments).stdin(Stdio::null()).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "rabbitmqctl {arguments:?}: {out}{err}");
        out.into_owned()
    }

    /// kill -9.
    pub fn kill(&mut self, at: usize) {
        let mut process = self.nodes[at].process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// STOP or CONT.
    pub fn signal(&self, at: usize, signal: &str) {
        let pid = self.nodes[at].process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").arg(format!("-{signal}")).arg(pid).status().unwrap().success());
    }

    /// Undoes what a test that failed may have left.
    fn heal(&mut self) {
        for at in 0..self.nodes.len() {
            if self.nodes[at].process.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                self.launch(at);
            } else {
                self.signal(at, "CONT");
            }
        }
        (0..self.nodes.len()).for_each(|at| self.wait_for(at));
    }

    fn folder_of(&self, at: usize) -> PathBuf {
        self.folder.join(format!("node{at}"))
    }

    fn output(&self, at: usize) -> String {
        std::fs::read_to_string(self.folder_of(at).join("output")).unwrap_or_default()
    }
}

impl Node {
    fn new() -> Self {
        let (port, tls_port) = (low_port(), low_port());
        Self { port, tls_port, name: format!("rabbit-{port}@localhost"), process: None }
    }
}

/// epmd, and an end for everything that the farm started.
fn keep(folder: &Path, epmd: u16) -> Child {
    let script = r#"
        epmd -port "$2" >/dev/null 2>&1 </dev/null &
        epmd=$!
        cat >/dev/null
        cat "$1"/*.pid 2>/dev/null | while read -r pid; do
          if grep -qzF "HOME=$1" "/proc/$pid/environ" 2>/dev/null; then kill -KILL "$pid"; fi
        done
        kill "$epmd"
        for _ in 1 2 3 4 5 6 7 8 9 10; do
          rm -rf "$1" && sleep 0.2 && [ ! -e "$1" ] && break
        done
    "#;
    let mut command = Command::new("bash");
    command.arg("-c").arg(script).arg("keeper").arg(folder).arg(epmd.to_string());
    command.env("ERL_EPMD_ADDRESS", "127.0.0.1").env("HOME", folder);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/lib/erlang/bin"));
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Below the ports that the kernel hands out by itself, with room for the one above it.
fn low_port() -> u16 {
    loop {
        let port = 21_000 + rand::random::<u16>() % 1_000 * 10;
        if !listens(port) && !listens(port + 1) {
            return port;
        }
    }
}

fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// The whole handshake, on a runtime of its own, whoever asks.
fn takes_clients(url: &str) -> bool {
    let url = url.to_owned();
    let asking = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let connecting = Connection::connect(&url, ConnectionProperties::default());
            match tokio::time::timeout(Duration::from_secs(5), connecting).await {
                Ok(Ok(connection)) => {
                    let _ = connection.close(200, "done".into()).await;
                    true
                }
                Ok(Err(_)) | Err(_) => false,
            }
        })
    });
    asking.join().unwrap_or(false)
}

fn wait(what: impl Fn() -> String, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < START, "waited in vain until {}", what());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Bound: a node needs 3 to 10 s, three on a busy machine many more.
const START: Duration = Duration::from_secs(120);
