//! `simulate scenario`: every story against the real gateway and the real broker; stories that must fail; and gateways that
//! only pretend, whose faults must be told. And `simulate story`, which is for a demonstration's exchange alone.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};

use crate::support::alipay::{self, Notification};
use crate::support::program::{Folder, PATIENCE, Program, amqp_url};
use crate::support::proxy::Proxy;
use crate::support::queue::Queue;
use crate::support::run;

const GATEWAY: &str = env!("CARGO_BIN_EXE_alipay-notify-gateway");
const TOKEN: &str = "a-token-that-nobody-guesses";

fn with_token(config: String) -> String {
    config.replacen("[amqp]", &format!("token = \"{TOKEN}\"\n[amqp]"), 1)
}

/// A gateway with an admin token.
fn start(name: &str) -> Program {
    let program = Program::launch_configured(name, &amqp_url(), with_token, |command| command);
    program.is_connected();
    program
}

fn play(name: &str, program: &Program, more: &[&str]) -> Output {
    play_at(name, program.http, program.admin, more)
}

fn play_at(name: &str, http: SocketAddr, admin: SocketAddr, more: &[&str]) -> Output {
    let folder = Folder::new();
    let pem = alipay::private_key().to_pkcs8_pem(LineEnding::LF).unwrap();
    let (key, token) = (folder.write("alipay.pem", pem.as_bytes()), folder.write("token", TOKEN));
    let mut command = Command::new(GATEWAY);
    let (url, admin) = (format!("http://{http}/alipay/notify"), format!("http://{admin}"));
    command.args(["simulate", "scenario", name, "--url", &url, "--admin", &admin]);
    command.args(["--app-id", alipay::APP_ID, "--seller-id", alipay::SELLER_ID]);
    command.arg("--key").arg(key).arg("--token-file").arg(token).args(more).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a story said, without the numbers of its trades.
fn told(output: &Output) -> String {
    let said = text(&output.stdout);
    said.lines().filter(|line| !line.starts_with("   trade ")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn every_story_that_needs_nothing_more_is_as_promised() {
    run(async {
        let program = start("scenarios");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let output = play("all", &program, &[]);
        assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(told(&output), ALL_STORIES);
    });
}

#[test]
fn a_gateway_whose_queue_does_not_take_everything_is_found_and_what_waits_there_is_left_waiting() {
    run(async {
        let program = start("scenario-unbound");
        let _queue = Queue::bound(&program.exchange, &["payment.succeeded"]).await;
        let refund = Notification::payment_now(1).set("refund_fee", "10.00").set("out_biz_no", "RF-1");
        assert!(program.post(&refund.body()).is_fail(503));
        let output = play("refund-first", &program, &[]);
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{said}{}", text(&output.stderr));
        assert!(
            said.contains("NOT AS PROMISED: expected payment.refunded, and there was no event"),
            "{said}"
        );
        assert!(said.contains("the gateway keeps: deferred") && said.contains("reason returned"), "{said}");
        // It is tried again and again, and nobody has bound a queue that would take it.
        let attempts = || program.metric("events_total{result=\"returned\",type=\"payment.refunded\"}");
        let before = attempts();
        program.wait_until("it was tried again", || attempts() > before);
        assert_eq!(program.states(refund.trade_no()), ["deferred"]);
    });
}

#[test]
fn a_story_with_a_queue_of_its_own_is_for_a_demonstrations_exchange_alone() {
    let program = start("story");
    let folder = Folder::new();
    let pem = alipay::private_key().to_pkcs8_pem(LineEnding::LF).unwrap();
    let (key, uri) = (folder.write("alipay.pem", pem.as_bytes()), folder.write("uri", amqp_url()));
    let story = |exchange: &str| {
        let url = format!("http://{}/alipay/notify", program.http);
        let mut command = Command::new(GATEWAY);
        command.args(["simulate", "story", "--url", &url, "--exchange", exchange, "--delete-exchange"]);
        command.arg("--key").arg(&key).arg("--amqp-file").arg(&uri).output().unwrap()
    };
    for exchange in [program.exchange.as_str(), "payments"] {
        let output = story(exchange);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(text(&output.stderr).contains("simulate scenario"), "{}", text(&output.stderr));
    }
    assert!(program.outcome("announced").abs() < f64::EPSILON, "nothing was sent");
}

/// A gateway that only pretends: answers notifications as a test wants it, and says that it announced what the test says.
struct Pretender {
    at: SocketAddr,
    state: Arc<(Mutex<Pretended>, Condvar)>,
}

#[derive(Default)]
struct Pretended {
    events: Vec<String>,
    under_way: usize,
    most_under_way: usize,
}

/// What it does with a notification.
struct Act {
    answer: &'static str,
    announces: &'static [&'static str],
    /// How long after the answer.
    late: Duration,
    /// It answers when that many are under way.
    waits_for: usize,
}

impl Pretender {
    /// Decides by the number of the notification, from 1.
    fn start(act: fn(usize) -> Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let state = Arc::<(Mutex<Pretended>, Condvar)>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            let mut number = 0;
            for stream in listener.incoming().map_while(Result::ok) {
                let (mut reader, shared) = (BufReader::new(stream), Arc::clone(&shared));
                let (head, body) = request(&mut reader);
                if head.starts_with("POST") {
                    number += 1;
                    let act = act(number);
                    std::thread::spawn(move || notified(reader.into_inner(), &shared, &act, &body));
                } else {
                    let events = &shared.0.lock().unwrap().events;
                    let after = head.split_once("after=").and_then(|(_, rest)| rest.split(' ').next());
                    let after = after.map_or(events.len(), |after| after.parse().unwrap());
                    let (last, news) = (events.len(), events[after..].join(","));
                    respond(reader.into_inner(), 200, &format!("{{\"last\":{last},\"events\":[{news}]}}"));
                }
            }
        });
        Self { at, state }
    }

    fn play(&self, name: &str) -> Output {
        play_at(name, self.at, self.at, &[])
    }
}

fn request(reader: &mut BufReader<TcpStream>) -> (String, String) {
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let from = head.len();
        assert!(reader.read_line(&mut head).unwrap() > 0, "it hung up: {head}");
        if let Some(value) = head[from..].strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (head, text(&body))
}

fn respond(mut stream: TcpStream, status: u16, body: &str) {
    let length = body.len();
    // Who asked may be gone.
    let _ =
        write!(stream, "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
}

fn notified(stream: TcpStream, state: &(Mutex<Pretended>, Condvar), act: &Act, body: &str) {
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(body).unwrap();
    let trade_no = &pairs.iter().find(|(name, _)| name == "trade_no").unwrap().1;
    let announce = || {
        let mut state = state.0.lock().unwrap();
        for event_type in act.announces {
            let number = state.events.len() + 1;
            let event_id = format!("{}.{trade_no}.{event_type}", alipay::APP_ID);
            let event = serde_json::json!({"number": number, "event_type": event_type, "event_id": event_id});
            state.events.push(event.to_string());
        }
    };
    {
        let mut pretended = state.0.lock().unwrap();
        pretended.under_way += 1;
        pretended.most_under_way = pretended.most_under_way.max(pretended.under_way);
        state.1.notify_all();
        let waits = |pretended: &mut Pretended| pretended.most_under_way < act.waits_for;
        let (mut pretended, _) = state.1.wait_timeout_while(pretended, PATIENCE / 4, waits).unwrap();
        pretended.under_way -= 1;
    }
    let status = if act.answer == "success" { 200 } else { 503 };
    if act.late.is_zero() {
        announce();
        return respond(stream, status, act.answer);
    }
    respond(stream, status, act.answer);
    std::thread::sleep(act.late);
    announce();
}

const SUCCESS: Act = Act { answer: "success", announces: &[], late: Duration::ZERO, waits_for: 0 };

#[test]
fn a_gateway_that_believes_forgeries_is_told() {
    let believes = Pretender::start(|number| match number {
        4 => Act { announces: &["payment.succeeded"], ..SUCCESS },
        _ => SUCCESS,
    });
    let output = believes.play("forgeries");
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}{}", text(&output.stderr));
    assert_eq!(
        said.matches("NOT AS PROMISED: the answer had to be anything but success").count(),
        3,
        "{said}"
    );
    assert!(said.contains("1 played: 3 step(s) were NOT as promised"), "{said}");
}

#[test]
fn an_event_too_many_is_told_though_it_comes_after_the_answer() {
    let twice = Pretender::start(|number| match number {
        1 => Act { announces: &["trade.closed"], ..SUCCESS },
        _ => Act { announces: &["trade.closed"], late: Duration::from_millis(150), ..SUCCESS },
    });
    let output = twice.play("unpaid");
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}{}", text(&output.stderr));
    assert!(said.contains("NOT AS PROMISED: expected no event, and there was trade.closed"), "{said}");
}

#[test]
fn what_races_is_under_way_at_once() {
    let waits = Pretender::start(|number| match number {
        1 => Act { announces: &["payment.succeeded"], waits_for: 8, ..SUCCESS },
        2..=8 => Act { waits_for: 8, ..SUCCESS },
        _ => SUCCESS,
    });
    let output = waits.play("racing");
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(waits.state.0.lock().unwrap().most_under_way, 8);
}

#[test]
fn a_rotation_is_as_promised_with_both_keys_and_told_where_the_new_one_is_missing() {
    let folder = Folder::new();
    let keys = Command::new(GATEWAY).args(["simulate", "keys"]).arg(folder.path()).output().unwrap();
    assert!(keys.status.success());
    let next = folder.path().join("alipay-private.pem");
    let next = next.to_str().unwrap();
    let public = std::fs::read_to_string(folder.path().join("alipay-public.pem")).unwrap();
    let both = |text: String| text.replace("[\"alipay.pem\"]", "[\"alipay.pem\", \"next.pem\"]");
    run(async {
        let files = [("next.pem", public.as_str())];
        let program =
            Program::launch_with_files("rotation", &amqp_url(), &files, |text| with_token(both(text)));
        program.is_connected();
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let output = play("key-rotation", &program, &["--next-key", next]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
        assert_eq!(told(&output), KEY_ROTATION);

        let program = start("rotation-forgotten");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let output = play("key-rotation", &program, &["--next-key", next]);
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("NOT AS PROMISED: the answer had to be success"), "{said}");
        assert!(
            said.contains("NOT AS PROMISED: expected payment.refunded, and there was no event"),
            "{said}"
        );
    });
}

/// Makes a shell wait until `done` says so: the commands of `--break` and `--mend` ask the test by a file.
fn asking(folder: &Folder, word: &str) -> String {
    let (asked, done) = (folder.path().join(word), folder.path().join(format!("{word}.done")));
    format!("touch {}; while [ ! -e {} ]; do sleep 0.02; done", asked.display(), done.display())
}

/// Bound: the test's own runtime, which ends with it.
async fn until_exists(file: &Path) {
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn an_outage_is_as_promised() {
    run(async {
        let broker: hyper::Uri = amqp_url().parse().unwrap();
        let target = format!("{}:{}", broker.host().unwrap(), broker.port_u16().unwrap_or(5672));
        let proxy = Proxy::to(&target).await;
        let through = amqp_url().replacen(&target, &format!("127.0.0.1:{}", proxy.port()), 1);
        let program = Program::launch_configured("outage-told", &through, with_token, |command| command);
        program.is_connected();
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let folder = Folder::new();
        let (dark, light) = (asking(&folder, "dark"), asking(&folder, "light"));
        let playing = async {
            tokio::task::block_in_place(|| {
                play("broker-outage", &program, &["--break", &dark, "--mend", &light])
            })
        };
        let switching = tokio::spawn({
            let folder = folder.path().to_owned();
            async move {
                until_exists(&folder.join("dark")).await;
                proxy.go_dark();
                proxy.cut();
                std::fs::write(folder.join("dark.done"), "").unwrap();
                until_exists(&folder.join("light")).await;
                proxy.light();
                proxy.cut();
                std::fs::write(folder.join("light.done"), "").unwrap();
                std::future::pending::<()>().await;
            }
        });
        let output = playing.await;
        switching.abort();
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
        assert_eq!(told(&output), BROKER_OUTAGE);
    });
}

#[test]
fn a_command_that_fails_ends_the_story() {
    let program = start("outage-undone");
    let output = play("broker-outage", &program, &["--break", "exit 3", "--mend", "true"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("`exit 3` ended with"), "{}", text(&output.stderr));
}

#[test]
fn what_a_story_needs_and_was_not_given_is_usage() {
    let program = start("scenario-usage");
    for (name, says) in
        [("key-rotation", "--next-key"), ("broker-outage", "--break"), ("moon", "double-payment")]
    {
        let output = play(name, &program, &[]);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(text(&output.stderr).contains(says), "{name}: {}", text(&output.stderr));
    }
}

/// What each step says, so that none is left out, or plays something else.
const ALL_STORIES: &str = "\
key-rotation: left out, because it needs --next-key
broker-outage: left out, because it needs --break and --mend

== double-payment: one payment, and three things that look like a second one
 1 a buyer pays
   answered  200 success
   announced payment.succeeded
 2 Alipay delivers it again
   answered  200 success
 3 and eight times at once
   answered  200 success (8 times)
 4 half is given back: it is TRADE_SUCCESS, too
   answered  200 success
   announced payment.refunded
 5 months later: TRADE_FINISHED
   answered  200 success
   announced trade.finished

== racing: eight first deliveries of one payment at once
 1 a buyer pays, and eight deliveries race
   answered  200 success (8 times)
   announced payment.succeeded
 2 a ninth comes
   answered  200 success

== refund-first: a refund that arrives before its payment
 1 half is given back of what nobody has heard of
   answered  200 success
   announced payment.refunded
 2 then the payment arrives
   answered  200 success
   announced payment.succeeded
 3 the refund comes again
   answered  200 success
 4 the rest is given back
   answered  200 success
   announced payment.refunded

== unpaid: a trade that nobody paid in time
 1 it is closed
   answered  200 success
   announced trade.closed
 2 and told again
   answered  200 success

== conflict: the same payment with another amount, signed by Alipay
 1 a buyer pays
   answered  200 success
   announced payment.succeeded
 2 Alipay says that it was more
   answered  200 success
   announced payment.conflict
 3 and says so again
   answered  200 success

== forgeries: somebody who would like to have paid
 1 an amount is changed on the way
   answered  400 fail
 2 a stranger signs
   answered  400 fail
 3 a genuine one, two days old, of a trade that is not known
   answered  400 fail
 4 the genuine one is none the worse for it
   answered  200 success
   announced payment.succeeded

== gbk: a merchant whose charset is GBK
 1 a buyer pays, told in GBK
   answered  200 success
   announced payment.succeeded
 2 again, in UTF-8
   answered  200 success

7 played: everything was as promised.
";
const KEY_ROTATION: &str = "
== key-rotation: Alipay changes its key while both are configured (--next-key)
 1 a buyer pays, signed with the old key
   answered  200 success
   announced payment.succeeded
 2 half is given back, signed with the next one
   answered  200 success
   announced payment.refunded
 3 the payment again, signed with the next one
   answered  200 success
 4 a stranger's key is neither
   answered  400 fail

1 played: everything was as promised.
";
const BROKER_OUTAGE: &str = "
== broker-outage: a payment while the broker takes nothing (--break, --mend)
 1 the broker takes nothing more
 2 a buyer pays: Alipay is asked to come again
   answered  503 fail
 3 the broker is back: the gateway announces it by itself
   announced payment.succeeded
 4 Alipay comes again
   answered  200 success

1 played: everything was as promised.
";
