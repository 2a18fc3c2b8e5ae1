//! How the real binary ends, as any process and as PID 1.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::rabbitmq;
use crate::support::alipay::{self, Notification};
use crate::support::program::{
    Folder, PATIENCE, Program, amqp_url, configuration, free_port, request, unique,
};

#[test]
fn sigterm_and_sigint_end_it_with_0() {
    for signal in ["TERM", "INT"] {
        let mut program = Program::start("stop");
        program.signal(signal);
        assert_eq!(program.end().code(), Some(0), "{signal}\n{}", program.log());
        let log = program.folder().path().join("gateway.db-wal");
        assert!(!log.exists(), "the store was closed: what is left behind is one file");
    }
}

#[test]
fn what_is_in_flight_is_answered_before_it_ends() {
    let mut program = Program::start("inflight");
    // A request whose body is not complete yet.
    let whole = request("/alipay/notify", &Notification::payment().body());
    let (first, rest) = whole.split_at(whole.len() - 10);
    let mut stream = TcpStream::connect(program.http).unwrap();
    stream.write_all(first).unwrap();
    program.wait_until("the connection is open", || program.metric("connections") >= 1.0);
    program.signal("TERM");
    program.wait_until("it is unready", || program.get("/readyz").is_none_or(|answer| answer.status == 503));
    stream.write_all(rest).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer:?}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    assert_eq!(program.end().code(), Some(0), "{}", program.log());
}

#[test]
fn what_a_client_that_hung_up_has_begun_is_confirmed_and_recorded_before_it_ends() {
    let broker = HeldBack::before_the_broker();
    // Nobody listens to it, and nobody wants it: unrouted is what a confirm makes of it.
    let ignore =
        |text: String| text.replacen("[amqp]", "[amqp]\nlanes = 1\nignore = [\"payment.succeeded\"]", 1);
    let mut program = Program::launch_configured("begun", &broker.url(), ignore, |command| command);
    program.wait_until("it is connected", || program.metric("broker_up") == 1.0);
    let (first, second) = (Notification::payment_now(1), Notification::payment_now(2));
    assert!(program.post(&first.body()).is_success(), "{}", program.log());
    broker.hold_back(true);
    {
        // A reset and no FIN: whoever sends that waits for no answer.
        let stream = TcpStream::connect(program.http).unwrap();
        (&stream).write_all(&request("/alipay/notify", &second.body())).unwrap();
        program.wait_until("it is in flight", || program.metric("in_flight") == 1.0);
        reset(stream);
    }
    program.wait_until("the connection is gone", || program.metric("connections") == 0.0);
    program.signal("TERM");
    program.wait_until("it is unready", || program.get("/readyz").is_some_and(|answer| answer.status == 503));
    broker.hold_back(false);
    assert_eq!(program.end().code(), Some(0), "{}", program.log());
    program.restart();
    assert_eq!(program.states(second.trade_no()), ["unrouted"], "{}", program.log());
}

#[test]
fn half_a_head_of_a_strangers_holds_nothing_back() {
    let mut program = Program::launch("half", "[shutdown]\ngrace = \"10m\"", &amqp_url(), |mut command| {
        command.env("GATEWAY_HTTP__HEADER_TIMEOUT", "10m");
        command
    });
    let mut stream = TcpStream::connect(program.http).unwrap();
    stream.write_all(b"POST /alipay/notify HT").unwrap();
    program.wait_until("the connection is open", || program.metric("connections") >= 1.0);
    program.signal("TERM");
    assert_eq!(program.end().code(), Some(0), "{}", program.log());
}

#[test]
fn half_a_body_of_a_strangers_holds_nothing_back() {
    let mut program =
        Program::launch("half-body", "[shutdown]\ngrace = \"10m\"", &amqp_url(), |mut command| {
            command.env("GATEWAY_HTTP__BODY_TIMEOUT", "10m");
            command
        });
    let mut stream = TcpStream::connect(program.http).unwrap();
    let head =
        "POST /alipay/notify HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut go_on = [0; 12];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100", "its body is waited for");
    program.signal("TERM");
    assert_eq!(program.end().code(), Some(0), "{}", program.log());
}

#[test]
fn a_log_that_nobody_reads_stops_neither_payments_nor_the_end() {
    let (_nobody_reads, log) = std::io::pipe().unwrap();
    let mut program = Program::launch("unread", "[log]\nlevel = \"trace\"", &amqp_url(), |mut command| {
        command.stdout(log.try_clone().unwrap()).stderr(log.try_clone().unwrap());
        command
    });
    drop(log);
    program.wait_until("it is connected", || program.metric("broker_up") == 1.0);
    // A pipe holds 64 KiB, which is some 160 lines of the audit's.
    for trade in 1..=400 {
        assert!(program.post(&Notification::payment_now(trade).body()).is_fail(503), "{trade}");
    }
    assert_eq!(program.metric("log_lines_dropped_total"), 0.0);
    program.signal("TERM");
    assert_eq!(program.end().code(), Some(0));
}

#[test]
fn it_goes_on_accepting_for_the_delay() {
    let mut program = Program::with("delay", "[shutdown]\ndelay = \"1s\"");
    program.signal("TERM");
    program.wait_until("it is unready", || program.get("/readyz").is_some_and(|answer| answer.status == 503));
    assert!(program.post(b"x").is_fail(400), "still accepting");
    assert_eq!(program.end().code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once_with_1() {
    let mut program = Program::with("twice", "[shutdown]\ndelay = \"30s\"");
    program.signal("TERM");
    program.wait_until("it is unready", || program.get("/readyz").is_some_and(|answer| answer.status == 503));
    program.signal("TERM");
    assert_eq!(program.end().code(), Some(1), "{}", program.log());
}

#[test]
fn when_the_grace_runs_out_it_ends_with_1() {
    let mut program = Program::with("grace", "[shutdown]\ngrace = \"1s\"");
    let mut stream = TcpStream::connect(program.http).unwrap();
    let whole = request("/alipay/notify", &Notification::payment().body());
    stream.write_all(whole.split_at(whole.len() - 10).0).unwrap();
    program.wait_until("its body is being read", || program.metric("body_bytes") >= 1.0);
    program.signal("TERM");
    assert_eq!(program.end().code(), Some(1), "{}", program.log());
}

#[test]
fn as_pid_1_it_ends_on_sigterm() {
    let unshare = Command::new("unshare").args(["--fork", "--pid", "--kill-child", "true"]).status();
    if !unshare.is_ok_and(|status| status.success()) {
        // Said, not silent: a namespace needs a privilege that not every machine gives.
        eprintln!("skipped: this machine does not let us make a PID namespace");
        return;
    }
    let program = Program::launch("pid1", "", &amqp_url(), |command| {
        let mut outer = Command::new("unshare");
        outer.args(["--fork", "--pid", "--kill-child", "--mount-proc"]).arg(command.get_program());
        outer.args(command.get_args());
        outer.stdin(Stdio::null());
        outer
    });
    let children = Command::new("pgrep").args(["-P", &program.pid().to_string()]).output().unwrap();
    let inner: String = String::from_utf8(children.stdout).unwrap().trim().to_owned();
    assert!(Command::new("kill").args(["-TERM", &inner]).status().unwrap().success());
    let mut program = program;
    assert_eq!(program.end().code(), Some(0), "{}", program.log());
}

/// As PID 1 it would not even get a signal that nobody listens to, and run on until it is killed.
#[test]
fn a_signal_that_comes_while_it_starts_is_not_lost() {
    let folder = Folder::new();
    // Reading this key waits until somebody writes it: so long it is starting.
    let key = folder.path().join("alipay.pem");
    assert!(Command::new("mkfifo").arg(&key).status().unwrap().success());
    let config = configuration(free_port(), free_port(), &amqp_url(), &unique("early"), "");
    let config = folder.write("gateway.toml", config);
    let mut command = Command::new(env!("CARGO_BIN_EXE_alipay-notify-gateway"));
    let mut child = command.arg("serve").arg("--config").arg(config).stdout(Stdio::null()).spawn().unwrap();
    let mut key = std::fs::File::options().write(true).open(key).unwrap();
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    key.write_all(alipay::public_pem().as_bytes()).unwrap();
    drop(key);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn it_starts_with_the_broker_absent_and_is_degraded() {
    let nobody = free_port();
    let program =
        Program::launch("absent", "", &format!("amqp://guest:guest@{nobody}/%2f"), |command| command);
    let ready = program.get("/readyz").unwrap();
    assert_eq!(ready.status, 200);
    assert!(ready.body.contains("degraded") && ready.body.contains("broker"), "{}", ready.body);
    assert_eq!((program.metric("broker_up"), program.metric("ready")), (0.0, 1.0));
    assert!(program.post(&Notification::payment_now(1).body()).is_fail(503));
    let deferred = || program.metric("backlog_events{state=\"deferred\"}");
    program.wait_until("what waits is shown", || deferred() == 1.0 && program.metric("store_up") == 1.0);
    let left = program.metric("unannounced_last_retry_seconds");
    assert!((86_400.0..=87_840.0).contains(&left), "Alipay delivers for 24 h 24 min: {left}");
    program.wait_until("it ages", || program.metric("backlog_oldest_seconds") > 0.0);
}

/// The broker behind something that can keep its words back.
struct HeldBack {
    port: u16,
    holds: Arc<AtomicBool>,
}

impl HeldBack {
    fn before_the_broker() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, holds) = (listener.local_addr().unwrap().port(), Arc::<AtomicBool>::default());
        let of_thread = Arc::clone(&holds);
        std::thread::spawn(move || {
            while let Ok((inside, _)) = listener.accept() {
                let outside = TcpStream::connect(rabbitmq::place()).unwrap();
                let (mut from, mut to) = (inside.try_clone().unwrap(), outside.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                let holds = Arc::clone(&of_thread);
                std::thread::spawn(move || pass_on(outside, inside, &holds));
            }
        });
        Self { port, holds }
    }

    fn url(&self) -> String {
        amqp_url().replace(&rabbitmq::place(), &format!("127.0.0.1:{}", self.port))
    }

    fn hold_back(&self, holds: bool) {
        self.holds.store(holds, Ordering::SeqCst);
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, holds: &AtomicBool) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        while holds.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn reset(stream: TcpStream) {
    stream.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    tokio::net::TcpStream::from_std(stream).unwrap().set_zero_linger().unwrap();
}

#[test]
fn a_supervisor_is_told_that_it_is_ready_alive_and_stopping() {
    let folder = Folder::new();
    let path = folder.path().join("notify");
    let supervisor = UnixDatagram::bind(&path).unwrap();
    supervisor.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut datagram = [0; 64];
        let length = supervisor.recv(&mut datagram).unwrap();
        String::from_utf8(datagram[..length].to_vec()).unwrap()
    };
    let until = |wanted: &str| {
        let mut before = Vec::new();
        loop {
            let state = told();
            if state == wanted {
                return before;
            }
            before.push(state);
        }
    };
    // Long enough for a machine that is busy, short enough to come while the delay lasts.
    let mut program =
        Program::launch("supervised", "[shutdown]\ndelay = \"1s\"", &amqp_url(), |mut command| {
            command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "300000");
            command
        });
    assert!(until("READY=1").iter().all(|state| state == "WATCHDOG=1"));
    assert_eq!(told(), "WATCHDOG=1");
    program.signal("TERM");
    assert!(until("STOPPING=1").iter().all(|state| state == "WATCHDOG=1"));
    assert_eq!(told(), "WATCHDOG=1", "a watchdog does not end when stopping begins");
    assert_eq!(program.end().code(), Some(0), "{}", program.log());
}
