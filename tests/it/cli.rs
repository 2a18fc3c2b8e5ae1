//! The commands of the real binary: helps, exit codes, and what is said where.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::thread::JoinHandle;

use crate::support::alipay;
use crate::support::program::{Folder, Program, amqp_url, free_port};

fn gateway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alipay-notify-gateway"));
    // What the test run itself was started with is no part of these.
    for name in ["AMQP_URL", "ALIPAY_APP_ID", "ALIPAY_PUBLIC_KEY", "RUST_LOG", "LOG_FORMAT"] {
        command.env_remove(name);
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    gateway().args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// An admin listener that gives one answer, and then tells what it was asked.
fn admin(status: &str, body: &str) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).unwrap(), 1, "hung up in the head");
            request.push(byte[0]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (url, asked)
}

fn check(text: &str, more: &[&str]) -> Output {
    let folder = Folder::new();
    folder.write("alipay.pem", alipay::public_pem());
    let file = folder.write("gateway.toml", text);
    gateway().arg("check").arg("--config").arg(file).args(more).output().unwrap()
}

const APP: &str = "[[apps]]\napp_id = \"2021000000000001\"\nalipay_public_keys = [\"alipay.pem\"]\n";
const COMMANDS: [&str; 11] = [
    "serve",
    "check",
    "explain",
    "simulate",
    "keygen",
    "pay-link",
    "events",
    "trade",
    "replay",
    "reconcile",
    "healthcheck",
];

#[test]
fn the_help_of_every_command_shows_an_example_that_names_it() {
    let below = [
        "simulate keys",
        "simulate send",
        "simulate story",
        "simulate serve",
        "simulate scenario",
        "events tap",
        "trade release",
        "trade drop",
        "trade export",
        "store export",
        "store import",
        "store salvage",
        "consumer-check",
    ];
    for command in COMMANDS.into_iter().chain(below) {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let output = run(&words);
        let help = out(&output);
        assert_eq!(output.status.code(), Some(0), "{command}");
        assert!(help.contains("Example"), "{command}\n{help}");
        assert!(help.contains(&format!("  alipay-notify-gateway {command}")), "{command}\n{help}");
    }
}

#[test]
fn shares_may_be_as_large_as_they_like() {
    let folder = Folder::new();
    let name = |name: &str| folder.path().join(name).display().to_string();
    assert_eq!(run(&["simulate", "keys", &name("keys")]).status.code(), Some(0));
    let (key, bodies) = (name("keys/alipay-private.pem"), name("bodies"));
    let shares = "payment=2147483648,forged=2147483648";
    let output = run(&[
        "simulate",
        "send",
        "--key",
        &key,
        "--bodies-out",
        &bodies,
        "--shares",
        shares,
        "--count",
        "50",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let bodies = std::fs::read_to_string(name("bodies")).unwrap();
    let kinds = |kind: &str| bodies.lines().filter(|line| line.starts_with(kind)).count();
    assert_eq!(kinds("payment\t") + kinds("forged\t"), 50);
    assert!(kinds("payment\t") > 5 && kinds("forged\t") > 5, "each has its share");
}

#[test]
fn a_variable_of_ours_that_is_not_text_is_a_problem_and_any_other_is_none() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = Folder::new();
    folder.write("alipay.pem", alipay::public_pem());
    let file = folder.write("gateway.toml", APP);
    let check = |name: &str| {
        let value = std::ffi::OsStr::from_bytes(b"\xff\xfe");
        gateway().arg("check").arg("--config").arg(&file).env(name, value).output().unwrap()
    };
    for name in ["GATEWAY_HTTP__LISTEN", "GATEWAY_AMQP__URI", "RUST_LOG", "ALIPAY_APP_ID"] {
        let output = check(name);
        assert_eq!(output.status.code(), Some(78), "{name}");
        assert!(err(&output).contains(name), "{}", err(&output));
    }
    assert_eq!(check("SOMEBODY_ELSES").status.code(), Some(0));
}

#[test]
fn the_help_names_every_command() {
    let help = out(&run(&["--help"]));
    for command in COMMANDS {
        assert!(help.contains(&format!("  {command} ")), "{command}\n{help}");
    }
    assert!(help.contains("Example"), "{help}");
}

#[test]
fn usage_that_is_wrong_exits_with_2() {
    for arguments in [&[][..], &["surf"], &["serve", "--konfig", "x"], &["trade"], &["trade", "a b"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!err(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn serve_logs_what_check_remarks() {
    let sellers = format!("seller_ids = [\"{}\"]", alipay::SELLER_ID);
    let without = |text: String| text.replace(&sellers, "");
    let program = Program::launch_configured("remarks", &amqp_url(), without, |command| command);
    program.wait_until("it is logged", || program.log().contains("the seller of a trade is not checked"));
}

#[test]
fn a_good_configuration_is_checked_with_0_and_its_remarks() {
    let output = check(APP, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let text = out(&output);
    assert!(
        text.contains("2021000000000001") && text.contains("the seller of a trade is not checked"),
        "{text}"
    );
}

#[test]
fn a_bad_configuration_exits_with_78_and_every_problem_on_a_line_of_its_own() {
    let text = format!("[http]\nport = 1\n[amqp]\nlanes = 0\nuri = \"amqp:/u:hunter2@h\"\n{APP}");
    let output = check(&text, &[]);
    let problems = err(&output);
    assert_eq!(output.status.code(), Some(78), "{problems}");
    for key in ["http.port:", "amqp.lanes:", "amqp.uri:"] {
        assert!(problems.lines().any(|line| line.starts_with(key)), "{key}\n{problems}");
    }
    assert!(!problems.contains("hunter2") && out(&output).is_empty(), "{problems}");
}

#[test]
fn serve_refuses_a_bad_configuration_with_78() {
    let output = run(&["serve", "--config", "nowhere.toml"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(err(&output).contains("nowhere.toml"), "{}", err(&output));
}

#[test]
fn a_broker_that_is_away_fails_check_connect_with_1() {
    let nobody = free_port();
    let uri = format!("amqp://guest:hunter2@{nobody}/%2f");
    let output = check(&format!("[amqp]\nuri = \"{uri}\"\n{APP}"), &["--connect"]);
    let said = err(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("amqp.uri") && !said.contains("hunter2"), "{said}");
}

#[test]
fn nobody_at_the_admin_listener_exits_with_1() {
    let url = format!("http://{}", free_port());
    for arguments in [&["healthcheck", "--admin", &url][..], &["trade", "20261123", "--admin", &url]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(err(&output).contains(&url), "{}", err(&output));
    }
}

#[test]
fn an_admin_url_that_is_none_is_told() {
    for url in ["127.0.0.1:9090", "https://127.0.0.1:9090", "http://", "http://h/prefix", "http://h/?a"] {
        for command in
            [&["healthcheck"][..], &["trade", "2026"], &["trade", "export", "2026", "--token-file", "t"]]
        {
            let output = gateway().args(command).args(["--admin", url]).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{url}");
            assert!(err(&output).contains("http://127.0.0.1:9090"), "{url}: {}", err(&output));
        }
    }
}

#[test]
fn check_connect_tells_everything_that_is_wrong_at_once_and_leaves_a_damaged_store_as_it_is() {
    let folder = Folder::new();
    folder.write("alipay.pem", alipay::public_pem());
    let store =
        folder.write("gateway.db", "this is no database, and has been none for a long time\n".repeat(100));
    let content = std::fs::read(&store).unwrap();
    let text = format!("[amqp]\nuri = \"amqp://{}\"\n[store]\npath = \"gateway.db\"\n{APP}", free_port());
    let file = folder.write("gateway.toml", text);
    let output = gateway().arg("check").arg("--config").arg(&file).arg("--connect").output().unwrap();
    let told = err(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("amqp.uri: ") && told.contains("store.path "), "{told}");
    assert!(told.contains("`serve` would set it aside") && told.contains("store salvage"), "{told}");
    assert!(!out(&output).contains("ok"), "{}", out(&output));
    assert!(std::fs::read(&store).unwrap() == content, "it was written");
    let names = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!names.into_iter().any(|name| name.to_string_lossy().contains("damaged")), "it was set aside");
}

#[test]
fn check_connect_makes_no_store_and_says_whether_one_can_be_made() {
    let folder = Folder::new();
    folder.write("alipay.pem", alipay::public_pem());
    let broker = free_port();
    let checked = |path: &str| {
        let text = format!("[amqp]\nuri = \"amqp://{broker}\"\n[store]\npath = \"{path}\"\n{APP}");
        let file = folder.write("gateway.toml", text);
        let output = gateway().arg("check").arg("--config").arg(&file).arg("--connect").output().unwrap();
        format!("{}{}", out(&output), err(&output))
    };
    let told = checked("data/gateway.db");
    assert!(told.contains("data/gateway.db can be made"), "{told}");
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["alipay.pem", "gateway.toml"]);
    let told = checked("alipay.pem/gateway.db");
    assert!(told.contains("cannot be made"), "{told}");
}

#[test]
fn healthcheck_asks_livez() {
    for (status, code) in [("200 OK", 0), ("503 Service Unavailable", 1)] {
        let (url, asked) = admin(status, "ok\n");
        let output = run(&["healthcheck", "--admin", &url]);
        assert_eq!(output.status.code(), Some(code), "{}", err(&output));
        assert!(asked.join().unwrap().starts_with("GET /livez HTTP/1.1\r\n"));
    }
}

#[test]
fn trade_shows_what_is_kept_as_text_and_as_json() {
    let body = r#"{"trade_no":"20261123","rows":[{"event_id":"1.20261123.payment.succeeded","state":"recorded",
        "notify_id":"n1","digest":"d","reason":null,"first_at":"2026-11-23T02:15:31Z",
        "at":"2026-11-23T02:15:32Z","attempts":2}]}"#;
    let (url, asked) = admin("200 OK", body);
    let output = run(&["trade", "20261123", "--admin", &url]);
    let text = out(&output);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(asked.join().unwrap().starts_with("GET /trades/20261123 HTTP/1.1\r\n"));
    for shown in ["recorded", "1.20261123.payment.succeeded", "2026-11-23T02:15:32Z", "n1", "2 time"] {
        assert!(text.contains(shown), "{shown}\n{text}");
    }
    let (url, _) = admin("200 OK", body);
    let json = out(&run(&["trade", "20261123", "--admin", &url, "--format", "json"]));
    assert_eq!(json.trim_end(), body);
}

#[test]
fn a_trade_of_which_nothing_is_kept_is_said() {
    let (url, _) = admin("200 OK", r#"{"trade_no":"1","rows":[]}"#);
    let output = run(&["trade", "1", "--admin", &url]);
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(0), "nothing is kept about 1\n"));
}

#[test]
fn a_number_with_any_visible_character_is_asked_for_and_what_the_gateway_would_refuse_exits_with_2() {
    for (number, asked_for) in
        [("ab+/=:~", "ab%2B%2F%3D%3A%7E"), ("n|x?y#z", "n%7Cx%3Fy%23z"), ("a%2Fb", "a%252Fb"), ("..", "..")]
    {
        let (url, asked) = admin("200 OK", r#"{"rows":[]}"#);
        let output = run(&["trade", number, "--admin", &url]);
        assert_eq!(output.status.code(), Some(0), "{number}: {}", err(&output));
        let request = asked.join().unwrap();
        assert!(request.starts_with(&format!("GET /trades/{asked_for} HTTP/1.1\r\n")), "{request}");
    }
    let long = "1".repeat(129);
    for number in ["", "a b", "支付", "a\u{7}", &long] {
        for action in [&[][..], &["release"], &["drop"], &["export"]] {
            let output = gateway().arg("trade").args(action).arg(number).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{number:?}");
            assert!(err(&output).contains("1 to 128"), "{number:?}: {}", err(&output));
        }
    }
}

#[test]
fn a_reason_or_a_name_that_the_gateway_would_refuse_exits_with_2() {
    let long = "x".repeat(201);
    for bad in ["", " ", "a\nb", &long] {
        for (who, reason) in [(bad, "ours"), ("anna", bad)] {
            let said = ["--token-file", "t", "--who", who, "--reason", reason];
            for command in [&["trade", "release", "1"][..], &["trade", "drop", "1"], &["replay", "body"]] {
                let output = gateway().args(command).args(said).output().unwrap();
                assert_eq!(output.status.code(), Some(2), "{command:?} {bad:?}: {}", err(&output));
            }
        }
    }
}

#[test]
fn a_trade_that_the_gateway_cannot_look_up_exits_with_1() {
    let (url, _) = admin("503 Service Unavailable", "the store is away");
    assert_eq!(run(&["trade", "1", "--admin", &url]).status.code(), Some(1));
}
