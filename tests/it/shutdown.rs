//! How the real binary ends, as any process and as PID 1.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::support::alipay::Notification;
use crate::support::program::{Program, amqp_url, free_port, request};

#[test]
fn sigterm_and_sigint_end_it_with_0() {
    for signal in ["TERM", "INT"] {
        let mut program = Program::start("stop");
        program.signal(signal);
        assert_eq!(program.end().code(), Some(0), "{signal}\n{}", program.log());
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
    program.wait_until("the connection is open", || program.metric("connections") >= 1.0);
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
        outer.stdin(std::process::Stdio::null());
        outer
    });
    let children = Command::new("pgrep").args(["-P", &program.pid().to_string()]).output().unwrap();
    let inner: String = String::from_utf8(children.stdout).unwrap().trim().to_owned();
    assert!(Command::new("kill").args(["-TERM", &inner]).status().unwrap().success());
    let mut program = program;
    assert_eq!(program.end().code(), Some(0), "{}", program.log());
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
}
