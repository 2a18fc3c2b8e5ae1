//! `explain`, as it is run: what it prints, what it exits with, and that it names the mistake that was made.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rsa::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use serde_json::Value;

use super::support::certificate::authority;
use super::support::program::Folder;
use super::support::signer::{
    self, APP, Draft, Hash, OTHER_APP, SELLER, TRADE, Version, alipay, shared, stranger,
};

/// What came of a run.
pub struct Run {
    pub code: i32,
    pub out: String,
    err: String,
}

impl Run {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{error}: {:?} {:?}", self.out, self.err))
    }

    /// All hints in one text.
    pub fn hints(&self) -> String {
        let json = self.json();
        let hints = json["hints"].as_array().unwrap();
        hints.iter().map(|hint| hint.as_str().unwrap()).collect::<Vec<_>>().join("\n")
    }
}

fn explain<S: AsRef<std::ffi::OsStr>>(args: &[S], stdin: &[u8]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alipay-notify-gateway"));
    command.arg("explain").args(args).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may end without reading, when its arguments are wrong.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A folder with Alipay's key of the app.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("alipay.pem", signer::pem(alipay()));
    folder
}

fn key_of(folder: &Folder) -> PathBuf {
    folder.path().join("alipay.pem")
}

/// With Alipay's key alone, as JSON.
pub fn judged(body: &[u8]) -> Run {
    judged_with(body, &[])
}

fn judged_with(body: &[u8], more: &[&str]) -> Run {
    let folder = folder();
    let key = key_of(&folder);
    let mut args = vec!["--key", key.to_str().unwrap(), "--format", "json"];
    args.extend_from_slice(more);
    explain(&args, body)
}

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

// The contract.

#[test]
fn a_genuine_payment_is_told_in_the_json_of_the_contract() {
    let run = judged(&Draft::payment().signed().body());
    assert_eq!(run.code, 0);
    let json = run.json();
    let mut names: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    let expected = ["event", "event_id", "event_type", "hints", "reason", "signing_content", "verified"];
    assert_eq!(names, expected);
    assert_eq!(json["verified"], true);
    assert_eq!(json["event_type"], "payment.succeeded");
    assert_eq!(json["event_id"], format!("{APP}.{TRADE}.payment.succeeded"));
    assert_eq!(json["reason"], Value::Null);
    assert_eq!(json["hints"], Value::Array(Vec::new()));
    let content = String::from_utf8(Draft::payment().content(Version::V1)).unwrap();
    assert_eq!(json["signing_content"], content);
    assert_eq!(json["event"]["event_id"], json["event_id"]);
    assert_eq!(json["event"]["total_amount_minor"], 8888);
    assert!(json["event"].get("buyer_id").is_none());
}

#[test]
fn a_file_a_dash_and_nothing_are_read_alike_and_one_final_newline_is_not_the_bodys() {
    let folder = folder();
    let body = Draft::payment().signed().body();
    let key = key_of(&folder);
    for end in ["", "\n", "\r\n"] {
        let captured = [&body[..], end.as_bytes()].concat();
        let file = folder.write("captured", &captured);
        for args in [
            vec![key.as_os_str(), file.as_os_str()],
            vec![key.as_os_str(), "-".as_ref()],
            vec![key.as_os_str()],
        ] {
            let args = [&["--key".as_ref()], &args[..]].concat();
            assert_eq!(explain(&args, &captured).code, 0, "{args:?} {end:?}");
        }
    }
    let twice = [&body[..], b"\n\n"].concat();
    assert_eq!(judged(&twice).code, 65);
}

#[test]
fn a_forgery_exits_65_and_never_without_a_hint() {
    let genuine = Draft::payment().signed();
    for body in [
        genuine.clone().set("total_amount", "0.01").body(),
        genuine.clone().without("sign").body(),
        genuine.clone().set("sign", "").body(),
        genuine.clone().set("sign", "x").body(),
        genuine.clone().set("sign", "QUJD").body(),
        genuine.clone().without("subject").body(),
        Draft::payment().signed_by(stranger(), Hash::Sha256, Version::V1).body(),
        Draft::payment().signed_by(alipay(), Hash::Sha1, Version::V1).body(),
        b"".to_vec(),
        b"\n".to_vec(),
        b"hello".to_vec(),
        b"&&&===%%%".to_vec(),
        b"\xff\xfe\0".to_vec(),
        br#"{"a":"#.to_vec(),
    ] {
        let run = judged(&body);
        let json = run.json();
        assert_eq!(run.code, 65, "{}", body.escape_ascii());
        assert_eq!((&json["verified"], &json["event"]), (&Value::Bool(false), &Value::Null));
        assert!(json["reason"].is_string() && json["event_type"].is_null() && json["event_id"].is_null());
        assert!(!json["hints"].as_array().unwrap().is_empty(), "{}", body.escape_ascii());
        assert!(json["signing_content"].is_string());
    }
}

#[test]
fn verified_is_about_the_signature_alone() {
    let v1 = |draft: Draft| draft.signed().body();
    let trap = Draft::of([
        ("seller_id", SELLER),
        ("service", "alipay.eco.something.notify"),
        ("sign_type", "RSA2"),
        ("total_amount", "88.88"),
        ("trade_no", TRADE),
        ("trade_status", "TRADE_SUCCESS"),
    ]);
    let v2 = |draft: Draft| draft.signed_by(alipay(), Hash::Sha256, Version::V2).body();
    for (body, reason) in [
        (v1(Draft::payment().without("app_id")), "partner"),
        (v1(Draft::payment().without("app_id").without("notify_id")), "no_app_id"),
        (v1(Draft::payment().set("app_id", "not an app's number")), "unknown_app"),
        (v1(Draft::payment().without("trade_no")), "missing_field"),
        (v1(Draft::payment().set("total_amount", "a lot")), "grammar"),
        (v1(Draft::payment().set("subject", "x&refund_fee=1")), "ambiguous"),
        (v1(Draft::payment().without("notify_id")), "return_url"),
        (v1(Draft::payment().set("sign_type", "rsa2")), "sign_type"),
        (v1(Draft::payment().without("sign_type")), "sign_type"),
        (v2(trap.clone()), "no_app_id"),
        (v2(trap.set("app_id", APP)), "signature"),
    ] {
        let run = judged(&body);
        let json = run.json();
        assert_eq!((run.code, &json["verified"]), (0, &Value::Bool(true)), "{reason}: {json}");
        assert_eq!(json["reason"], reason);
        assert!(json["event_type"].is_null() && json["event_id"].is_null() && json["event"].is_null());
    }
}

#[test]
fn another_app_than_the_one_that_was_asked_for_is_unknown() {
    let body = Draft::payment().signed().body();
    let json = judged_with(&body, &["--app-id", OTHER_APP]).json();
    assert_eq!((&json["verified"], &json["reason"]), (&Value::Bool(true), &"unknown_app".into()));
    assert_eq!(judged_with(&body, &["--app-id", APP]).json()["event_type"], "payment.succeeded");
}

#[test]
fn sha1_is_the_bodys_to_choose_where_there_is_no_configuration() {
    let folder = Folder::new();
    for (key, name) in [(shared(), "shared.pem"), (alipay(), "long.pem")] {
        let file = folder.write(name, signer::pem(key));
        let body = Draft::payment().set("sign_type", "RSA").signed_by(key, Hash::Sha1, Version::V1).body();
        let run = explain(&["--key", file.to_str().unwrap(), "--format", "json"], &body);
        assert_eq!((run.code, &run.json()["event_type"]), (0, &"payment.succeeded".into()), "{name}");
    }
}

#[test]
fn the_clock_is_the_notifications_own_unless_it_is_set() {
    // Years ago by any clock of ours, and fresh by its own.
    let old = Draft::payment()
        .set("gmt_create", "2016-11-23 10:15:30")
        .set("gmt_payment", "2016-11-23 10:15:31")
        .set("notify_time", "2016-11-23 10:15:32")
        .signed()
        .body();
    assert_eq!(judged(&old).json()["event_type"], "payment.succeeded");
    let body = Draft::payment().signed().body();
    let stale = judged_with(&body, &["--at", "2026-11-25 10:15:32"]);
    let json = stale.json();
    assert_eq!(stale.code, 0);
    assert_eq!((&json["verified"], &json["event"]), (&Value::Bool(true), &Value::Null));
    assert_eq!(json["reason"], "stale");
    for fresh in ["2026-11-24T10:15:32+08:00", "2026-11-24T02:15:32Z", "2026-11-24 10:15:32"] {
        assert_eq!(judged_with(&body, &["--at", fresh]).json()["event_type"], "payment.succeeded", "{fresh}");
    }
    assert_eq!(judged_with(&body, &["--at", "2026-11-24T02:15:33Z"]).json()["reason"], "stale");
    assert_eq!(judged_with(&body, &["--at", "soon"]).code, 2);
    // A message has another field for it, and is not judged years late either.
    let message = Draft::of([
        ("app_id", APP),
        ("msg_method", "alipay.open.app.something"),
        ("notify_id", "n-3"),
        ("sign_type", "RSA2"),
        ("utc_timestamp", "1577836800000"),
    ]);
    assert_eq!(judged(&message.signed().body()).json()["event_type"], "notification.other");
}

#[test]
fn a_payment_older_than_the_retention_is_late() {
    let late = Draft::payment().set("notify_time", "2027-03-01 10:15:32").signed().body();
    let json = judged(&late).json();
    assert_eq!(json["event_type"], "payment.late");
    assert_eq!(json["event_id"], format!("{APP}.{TRADE}.payment.late"));
    assert_eq!(json["event"]["event_type"], "payment.late");
    assert_eq!(json["reason"], Value::Null);
    let finished =
        Draft::payment().set("notify_time", "2027-03-01 10:15:32").set("trade_status", "TRADE_FINISHED");
    assert_eq!(judged(&finished.signed().body()).json()["event_type"], "trade.finished");
}

#[test]
fn a_key_that_cannot_be_used_exits_78_and_names_the_file() {
    let folder = Folder::new();
    let body = Draft::payment().signed().body();
    let private = alipay().to_pkcs8_pem(LineEnding::LF).unwrap();
    for (name, content, why) in [
        ("garbage.pem", "garbage".to_owned(), "not a public key"),
        ("private.pem", private.to_string(), "PRIVATE"),
        ("empty.pem", String::new(), "not a public key"),
    ] {
        let file = folder.write(name, content);
        let run = explain(&["--key", file.to_str().unwrap()], &body);
        assert_eq!(run.code, 78, "{name}");
        assert!(run.err.contains(name) && run.err.contains(why), "{}", run.err);
        assert!(run.out.is_empty());
    }
    let spki = alipay().to_public_key().to_public_key_der().unwrap();
    let root = folder.write("alipayRootCert.crt", authority(spki.as_bytes(), "ROOTCA", "ROOTCA"));
    let run = explain(&["--key", root.to_str().unwrap()], &body);
    assert!(run.code == 78 && run.err.contains("authority's certificate (CN ROOTCA)"), "{}", run.err);
    let absent = folder.path().join("absent.pem");
    let run = explain(&["--key", absent.to_str().unwrap()], &body);
    assert_eq!(run.code, 78);
    assert!(run.err.contains("absent.pem"), "{}", run.err);
}

#[test]
fn a_sign_type_that_the_key_cannot_be_of_is_a_forgers_and_no_fault_of_the_key() {
    let folder = Folder::new();
    let key = folder.write("small.pem", signer::pem(shared()));
    let genuine = Draft::payment().set("sign_type", "RSA").signed_by(shared(), Hash::Sha1, Version::V1);
    let args = ["--key", key.to_str().unwrap(), "--format", "json"];
    assert_eq!(explain(&args, &genuine.body()).code, 0);
    let run = explain(&args, &genuine.clone().set("sign_type", "RSA2").body());
    let json = run.json();
    assert_eq!((run.code, &json["verified"], &json["event"]), (65, &Value::Bool(false), &Value::Null));
    assert_eq!(json["reason"], "sign_type");
    for told in ["made with sign_type RSA", "the key has 1024 bits; RSA2 keys have 2048"] {
        assert!(run.hints().contains(told), "{}", run.hints());
    }
    // Beside a key that fits, it is in nobody's way.
    let fits = folder.write("fits.pem", signer::pem(alipay()));
    let both = [&args[..2], &["--key", fits.to_str().unwrap()], &args[2..]].concat();
    assert_eq!(explain(&both, &Draft::payment().signed().body()).json()["event_type"], "payment.succeeded");
    assert_eq!(explain(&both, &genuine.set("sign_type", "RSA2").body()).code, 65);
    // SHA-256 with a key of 1024 bits is not RSA2 either.
    let short = Draft::payment().signed_by(shared(), Hash::Sha256, Version::V1);
    assert_eq!(explain(&args, &short.body()).code, 65);
}

#[test]
fn keys_may_be_several_and_in_any_format() {
    let folder = folder();
    let other = folder.write("other.pem", signer::pem(stranger()));
    let bare: String = signer::pem(alipay()).lines().filter(|line| !line.starts_with("---")).collect();
    let bare = folder.write("bare.txt", bare);
    let args = ["--key", other.to_str().unwrap(), "--key", bare.to_str().unwrap()];
    assert_eq!(explain(&args, &Draft::payment().signed().body()).code, 0);
}

#[test]
fn a_capture_that_cannot_be_read_is_said_and_wrong_usage_exits_2() {
    let folder = folder();
    let key = key_of(&folder);
    let key = key.to_str().unwrap();
    let run = explain(&["--key", key, "/nowhere/at/all"], b"");
    assert_eq!(run.code, 1);
    assert!(run.err.contains("/nowhere/at/all"), "{}", run.err);
    for wrong in [vec!["--format", "xml"], vec!["--key", key, "--config", "x.toml"], vec!["--what"]] {
        assert_eq!(explain(&wrong, b"").code, 2, "{wrong:?}");
    }
    let huge = vec![b'a'; 2 << 20];
    assert_eq!(explain(&["--key", key], &huge).code, 1);
}

// With a configuration.

/// Two apps: the first of production, the second of the sandbox with the stranger's key.
fn configured(body: &[u8], more: &[&str]) -> Run {
    let folder = folder();
    folder.write("sandbox.pem", signer::pem(stranger()));
    let config = folder.write(
        "gateway.toml",
        format!(
            "[[apps]]\napp_id = \"{APP}\"\nseller_ids = [\"{SELLER}\"]\nalipay_public_keys = [\"alipay.pem\"]\n\
             [[apps]]\napp_id = \"{OTHER_APP}\"\nenvironment = \"sandbox\"\nalipay_public_keys = [\"sandbox.pem\"]\n\
             [amqp]\nmix_environments = true\n"
        ),
    );
    let mut args = vec!["--config", config.to_str().unwrap(), "--format", "json"];
    args.extend_from_slice(more);
    explain(&args, body)
}

#[test]
fn a_configuration_needs_nothing_but_its_apps_and_judges_as_serve_would() {
    let run = configured(&Draft::payment().signed().body(), &[]);
    assert_eq!((run.code, &run.json()["event_type"]), (0, &"payment.succeeded".into()), "{}", run.err);
    let foreign = configured(&Draft::payment().set("seller_id", "2088000000000000").signed().body(), &[]);
    assert_eq!((foreign.code, &foreign.json()["reason"]), (0, &"seller".into()));
    let sandbox = Draft::payment().set("app_id", OTHER_APP).signed_by(stranger(), Hash::Sha256, Version::V1);
    let run = configured(&sandbox.body(), &[]);
    assert_eq!(run.json()["event"]["environment"], "sandbox");
}

#[test]
fn with_a_configuration_the_hash_is_the_apps_and_the_keys_are_too() {
    let sha1 = Draft::payment().set("sign_type", "RSA").signed_by(alipay(), Hash::Sha1, Version::V1);
    let run = configured(&sha1.body(), &[]);
    assert_eq!((run.code, &run.json()["reason"]), (65, &"sign_type".into()));
    assert!(run.hints().contains("sign_type RSA"), "{}", run.hints());
    let crossed = Draft::payment().signed_by(stranger(), Hash::Sha256, Version::V1).body();
    let run = configured(&crossed, &[]);
    assert_eq!((run.code, &run.json()["reason"]), (65, &"signature".into()));
    assert!(run.hints().contains(OTHER_APP) && run.hints().contains("sandbox"), "{}", run.hints());
    // For the other app's eyes it is authentic, and still not of that app.
    let run = configured(&crossed, &["--app-id", OTHER_APP]);
    assert_eq!((run.code, &run.json()["verified"]), (0, &Value::Bool(true)));
    assert_eq!(run.json()["event_type"], Value::Null);
}

#[test]
fn of_an_app_that_is_not_configured_the_signature_is_still_judged() {
    let body = Draft::payment().set("app_id", "2021000000000009").signed().body();
    let run = configured(&body, &[]);
    assert_eq!((run.code, &run.json()["reason"]), (0, &"unknown_app".into()));
    assert!(!run.hints().is_empty());
    let run = configured(&body, &["--app-id", "2021000000000009"]);
    assert_eq!(run.code, 78);
    assert!(run.err.contains("2021000000000009"), "{}", run.err);
}

// The screen.

#[test]
fn judged_as_of_one_app_a_notification_of_another_is_announced_by_neither() {
    let other = Draft::payment().set("app_id", OTHER_APP).signed_by(stranger(), Hash::Sha256, Version::V1);
    let run = configured(&other.body(), &["--app-id", APP]);
    let json = run.json();
    assert_eq!((run.code, &json["verified"], &json["event"]), (65, &Value::Bool(false), &Value::Null));
    assert_eq!(json["reason"], "unknown_app");
    assert!(run.hints().contains(&format!("{OTHER_APP} (sandbox) made this signature")), "{}", run.hints());
    let crossed = Draft::payment().signed_by(stranger(), Hash::Sha256, Version::V1).body();
    let run = configured(&crossed, &["--app-id", OTHER_APP]);
    let json = run.json();
    assert_eq!(
        (run.code, &json["verified"], &json["reason"]),
        (0, &Value::Bool(true), &"unknown_app".into())
    );
}

#[test]
fn what_is_signed_in_another_way_altogether_is_named() {
    let sm2 = Draft::payment().set("sign_type", "SM2").with_signature(&[0x30; 70]).body();
    assert!(judged(&sm2).hints().contains("sign_type SM2"), "{}", judged(&sm2).hints());
    let md5 = Draft::payment().set("sign_type", "MD5").set("sign", "0123456789abcdef0123456789ABCDEF");
    let told = judged(&md5.body()).hints();
    assert!(told.contains("MD5 digest") && !told.contains("it is cut"), "{told}");
}

#[test]
fn a_byte_order_mark_before_the_body_is_named() {
    let marked = ["\u{feff}".as_bytes(), &Draft::payment().signed().body()].concat();
    let run = judged(&marked);
    assert_eq!(run.code, 65);
    assert!(run.hints().contains("byte-order mark"), "{}", run.hints());
}

#[test]
fn the_screen_fits_and_shows_nothing_of_the_buyer() {
    let folder = folder();
    let key = key_of(&folder);
    let body = Draft::payment().set("subject", "a\x1b[2J\r\n b ").signed().body();
    let run = explain(&["--key".as_ref(), key.as_os_str()], &body);
    assert_eq!(run.code, 0);
    for told in ["authentic", "payment.succeeded", TRADE, "total_amount=88.88", r"a\u{1b}[2J\r\n b"] {
        assert!(run.out.contains(told), "{told} in {}", run.out);
    }
    for secret in ["2088000000000016", "abc***@example.com", "\x1b", "sign="] {
        assert!(!run.out.contains(secret), "{secret} in {}", run.out);
    }
    assert!(run.out.lines().count() <= 45, "{}", run.out.lines().count());
    let forged = Draft::payment().signed().set("total_amount", "0.01").body();
    let run = explain(&["--key".as_ref(), key.as_os_str()], &forged);
    assert_eq!(run.code, 65);
    assert!(run.out.contains("does NOT verify") && run.out.contains("signature: "), "{}", run.out);
    assert!(!run.out.contains("2088000000000016"));
}

#[test]
fn a_screen_says_how_many_parameters_it_leaves_out() {
    let body = (0..60).fold(Draft::payment(), |draft, number| draft.set(&format!("x{number}"), "1"));
    let body = body.signed().body();
    let parameters = text(&body).split('&').filter(|pair| !pair.starts_with("sign")).count();
    for (lang, told) in
        [("en", format!("… ({} more", parameters - 64)), ("zh", format!("还有 {} 个", parameters - 64))]
    {
        let run = screen(&body, &["--lang", lang]);
        assert!(run.code == 0 && run.out.contains(&told), "{told}: {}", run.out);
    }
    assert!(!screen(&Draft::payment().signed().body(), &[]).out.contains('…'));
}

/// As a screen.
fn screen(body: &[u8], more: &[&str]) -> Run {
    let folder = folder();
    let key = key_of(&folder);
    explain(&[&["--key", key.to_str().unwrap()], more].concat(), body)
}

#[test]
fn it_speaks_chinese_where_it_is_asked_to_and_says_the_same() {
    let altered = Draft::payment().signed().set("total_amount", "1.00").body();
    let run = screen(&altered, &["--lang", "zh"]);
    assert_eq!(run.code, 65);
    assert!(run.out.contains("验签失败") && run.out.contains("signature: "), "{}", run.out);
    assert!(run.out.contains("内容不是支付宝所签的"), "{}", run.out);
    let in_json = judged_with(&altered, &["--lang", "zh"]);
    assert!(in_json.hints().contains("内容不是支付宝所签的"), "{}", in_json.out);
    assert!(!in_json.hints().contains("  "), "{}", in_json.out);
    assert_eq!(in_json.json()["reason"], "signature");
    let genuine = screen(&Draft::payment().signed().body(), &["--lang", "zh"]);
    assert!(genuine.out.contains("真实") && !genuine.out.contains("验签失败"), "{}", genuine.out);
    let ambiguous = Draft::payment().set("subject", "x&refund_fee=1").signed().body();
    let ambiguous = screen(&ambiguous, &["--lang", "zh"]);
    assert!(ambiguous.out.contains("ambiguous: "), "{}", ambiguous.out);
    // The field may well be there.
    let said = "或该字段本身就是某段文本的一部分";
    assert!(ambiguous.out.contains(said) && !ambiguous.out.contains("缺少该字段"), "{}", ambiguous.out);
    for english in ["verify", "signing content", "nothing", "the ", "is "] {
        assert!(!run.out.contains(english) && !genuine.out.contains(english), "{english}: {}", run.out);
    }
}

#[test]
fn the_buyer_is_shown_only_where_it_is_asked_for() {
    let body = Draft::payment().signed().body();
    for lang in ["en", "zh"] {
        let hidden = screen(&body, &["--lang", lang]);
        assert!(!hidden.out.contains("2088000000000016") && !hidden.out.contains("abc***"), "{}", hidden.out);
        let shown = screen(&body, &["--lang", lang, "--show-buyer"]);
        assert!(shown.out.contains("2088000000000016") && shown.out.contains("abc***"), "{}", shown.out);
    }
    // A message has a map in a value, with whatever is in it.
    let message = [("app_id", APP), ("msg_method", "m"), ("notify_id", "n"), ("sign_type", "RSA2")];
    let message = Draft::of(message).set("biz_content", r#"{"logon_id":"abc***"}"#).signed().body();
    let hidden = screen(&message, &[]);
    assert!(hidden.code == 0 && !hidden.out.contains("abc***"), "{}", hidden.out);
}

#[test]
fn gbk_is_shown_as_text() {
    let body = Draft::payment().set("charset", "GBK").set("subject", b"\xb2\xe2\xca\xd4").signed().body();
    let content = judged(&body).json()["signing_content"].as_str().unwrap().to_owned();
    assert!(content.contains("&subject=测试&"), "{content}");
}

#[test]
fn every_vector_of_the_folder_is_judged_on_its_signature() {
    let key = vector("alipay-public.pem");
    for entry in std::fs::read_dir(vector("")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "form") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let authentic = !["sha1-under-rsa2", "split-subject", "tampered-amount"].contains(&name.as_str());
        let run = explain(&["--key".as_ref(), key.as_os_str(), path.as_os_str()], b"");
        assert_eq!(run.code, if authentic { 0 } else { 65 }, "{name}: {}", run.out);
    }
}

// The diagnosis.

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A payment with everything in it that mistakes love.
fn rich() -> Draft {
    Draft::payment()
        .set("subject", "测试+商品 \"a\" & <b> ")
        .set("body", r#"{"k":"v w"}"#)
        .set("passback_params", "a%3D1%26b%3D%E4%B8%AD")
        .signed()
}

/// With one value changed.
pub fn changed(draft: &Draft, name: &str, change: impl Fn(&str) -> String) -> Draft {
    draft.clone().set(name, change(&text(draft.get(name).unwrap())))
}

/// With every value changed but `sign` and `sign_type`.
pub fn all_changed(draft: &Draft, change: impl Fn(&[u8]) -> Vec<u8>) -> Draft {
    Draft(
        draft
            .0
            .iter()
            .map(|(name, value)| match name.as_slice() {
                b"sign" | b"sign_type" => (name.clone(), value.clone()),
                _ => (name.clone(), change(value)),
            })
            .collect(),
    )
}

pub fn decoded(value: &[u8]) -> Vec<u8> {
    let body = [b"x=", value].concat();
    let form = alipay_notify_gateway::admission::form::Form::parse(&body).unwrap();
    form.parameters().next().unwrap().1.to_vec()
}

pub fn html(value: &str) -> String {
    value.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Judges each body and looks for what is expected in the hints.
fn named<const N: usize>(cases: [(&str, Vec<u8>, &str); N]) {
    for (name, body, expected) in cases {
        let run = judged(&body);
        assert_eq!(run.code, 65, "{name} verifies");
        assert!(run.hints().contains(expected), "{name}: {}", run.hints());
    }
}

#[test]
fn each_usual_mistake_with_the_values_is_named() {
    let draft = rich();
    let gbk = Draft::payment().set("charset", "GBK").set("subject", b"\xb2\xe2\xca\xd4").signed();
    let utf8_as_latin1 =
        |value: &[u8]| value.iter().map(|byte| char::from(*byte)).collect::<String>().into_bytes();
    named([
        ("html everywhere", all_changed(&draft, |v| html(&text(v)).into()).body(), "HTML-escaped"),
        (
            "html as Django and OWASP have it",
            changed(&draft.clone().set("subject", "it's 1/2").signed(), "subject", |v| {
                v.replace('\'', "&#x27;").replace('/', "&#x2F;")
            })
            .body(),
            "HTML-escaped",
        ),
        ("html in JSON", changed(&draft, "fund_bill_list", html).body(), "HTML-escaped"),
        ("backslashes", changed(&draft, "fund_bill_list", |v| v.replace('"', "\\\"")).body(), "backslashes"),
        (
            "plus lost",
            changed(&draft, "subject", |v| v.replace('+', " ")).body(),
            "`+` became a space in `subject`",
        ),
        (
            "space to plus",
            changed(&draft, "subject", |v| v.replace(' ', "+")).body(),
            "a space became `+` in `subject`",
        ),
        (
            "all spaces to plus",
            all_changed(&draft, |v| text(v).replace(' ', "+").into()).body(),
            "a space became `+`",
        ),
        ("encoded twice", all_changed(&draft, signer::encode).body(), "percent-encoded once too often"),
        (
            "encoded twice, %20",
            all_changed(&draft, signer::encode_percent).body(),
            "percent-encoded once too often",
        ),
        (
            "one decoded twice",
            {
                let value = decoded(draft.get("passback_params").unwrap());
                draft.clone().set("passback_params", value).body()
            },
            "`passback_params` was percent-decoded twice",
        ),
        ("gbk made UTF-8", gbk.clone().set("subject", "测试").body(), "from GBK to UTF-8"),
        (
            "UTF-8 made gbk",
            Draft::payment().set("subject", "测试").signed().set("subject", b"\xb2\xe2\xca\xd4").body(),
            "from UTF-8 to GBK",
        ),
        ("latin-1", all_changed(&draft, utf8_as_latin1).body(), "Latin-1"),
        ("trimmed", changed(&draft, "subject", |v| v.trim().to_owned()).body(), "trimmed from `subject`"),
        (
            "padded",
            changed(&draft, "notify_id", |v| format!("{v} ")).body(),
            "white space was added to `notify_id`",
        ),
    ]);
}

#[test]
fn each_usual_mistake_with_parameters_keys_and_signatures_is_named() {
    let draft = with_plus_in_sign();
    let empty = Draft::payment().set("body", "");
    let with_empty = signer::signature(alipay(), Hash::Sha256, &empty.content_with(Version::V1, true));
    let v2 = Draft::payment().signed_by(alipay(), Hash::Sha256, Version::V2);
    let merged = [&draft.body()[..], b"&order=7&from=shop"].concat();
    let many: String = (0..11).map(|n| format!("&q{n}=1")).collect();
    named([
        ("framework", [&draft.body()[..], b"&s=%2Findex%2Fnotify"].concat(), "`s` added"),
        ("query merged", merged.clone(), "`order`, `from` added"),
        ("eleven added", [&draft.body()[..], many.as_bytes()].concat(), "`q9`, `q10` added"),
        ("known name added", [&draft.body()[..], b"&refund_fee=1.00"].concat(), "`refund_fee` added"),
        ("empty lost", empty.with_signature(&with_empty).without("body").body(), "`body` was dropped"),
        ("v2", v2.body(), "V2"),
        (
            "decimals",
            changed(&Draft::payment().set("total_amount", "88.80").signed(), "total_amount", |_| {
                "88.8".into()
            })
            .body(),
            "decimals",
        ),
        (
            "JSON anew",
            changed(&draft, "fund_bill_list", |v| v.replace(':', ": ").replace(',', ", ")).body(),
            "JSON in a value",
        ),
        ("sha1", Draft::payment().signed_by(alipay(), Hash::Sha1, Version::V1).body(), "sign_type RSA"),
        (
            "another key",
            Draft::payment().signed_by(stranger(), Hash::Sha256, Version::V1).body(),
            "OWN public key",
        ),
        ("shorter key", Draft::payment().signed_by(shared(), Hash::Sha256, Version::V1).body(), "128 bytes"),
        (
            "sign lost its plus",
            changed(&draft, "sign", |v| v.replace('+', " ")).body(),
            "each `+` in it became a space",
        ),
        (
            "sign wrapped",
            changed(&draft, "sign", |v| format!("{}\n{}", &v[..76], &v[76..])).body(),
            "white space",
        ),
        (
            "sign encoded twice",
            draft.clone().set("sign", signer::encode_percent(draft.get("sign").unwrap())).body(),
            "percent-encoded once too often",
        ),
        ("sign unpadded", changed(&draft, "sign", |v| v.trim_end_matches('=').to_owned()).body(), "padding"),
        ("sign cut", changed(&draft, "sign", |v| v[..300].to_owned()).body(), "225 bytes"),
        ("replaced", draft.clone().set("subject", "\u{fffd}\u{fffd}+").body(), "replacement character"),
        ("altered", draft.clone().set("total_amount", "0.01").body(), "not what Alipay signed"),
        (
            "two: html and plus",
            changed(&changed(&draft, "subject", |v| v.replace('+', " ")), "fund_bill_list", html).body(),
            "HTML-escaped",
        ),
    ]);
}

/// A signature has a `+` in it all but once in 200 times: then another is made.
fn with_plus_in_sign() -> Draft {
    (0..)
        .map(|n: u32| rich().set("notify_id", format!("n-{n}")).signed())
        .find(|draft| draft.get("sign").unwrap().contains(&b'+'))
        .unwrap()
}

#[test]
fn a_body_that_was_decoded_before_it_was_split_is_named() {
    let draft = rich();
    let body: Vec<Vec<u8>> = draft.0.iter().map(|(name, value)| [name, &b"="[..], value].concat()).collect();
    let whole = signer::encode_percent(&draft.body());
    for (body, expected) in [
        (Draft::payment().set("passback_params", "a=1&b=2").signed(), "decoded before it was split"),
        (Draft::payment().set("subject", "T&C").signed(), "decoded before it was split"),
    ]
    .map(|(draft, expected)| {
        let pieces: Vec<Vec<u8>> = draft
            .0
            .iter()
            .map(|(name, value)| match name.as_slice() {
                b"sign" => [name, &b"="[..], &signer::encode(value)].concat(),
                _ => [name, &b"="[..], value].concat(),
            })
            .collect();
        (pieces.join(&b'&'), expected)
    }) {
        let run = judged(&body);
        assert_eq!(run.code, 65);
        assert!(run.hints().contains(expected), "{}", run.hints());
    }
    // The whole of it in the open, and the whole of it encoded once more, as a program writes it into a log.
    let run = judged(&body.join(&b'&'));
    assert_eq!(run.code, 65);
    assert!(!run.hints().is_empty());
    let run = judged(&whole);
    assert_eq!(run.code, 0);
    assert!(run.hints().contains("percent-encoded once more"), "{}", run.hints());
}

#[test]
fn what_is_no_usual_mistake_is_never_explained_as_one() {
    use rand::{RngExt as _, SeedableRng as _};
    let mut random = rand::rngs::StdRng::seed_from_u64(3);
    let draft = rich();
    for name in
        ["subject", "total_amount", "trade_no", "out_trade_no", "buyer_id", "fund_bill_list", "app_id"]
    {
        let mut value = draft.get(name).unwrap().to_vec();
        let at = random.random_range(0..value.len());
        value[at] = if value[at] == b'7' { b'8' } else { b'7' };
        let run = judged(&draft.clone().set(name, &value).body());
        assert_eq!(run.code, 65);
        assert!(run.hints().contains("not what Alipay signed"), "{name}: {}", run.hints());
        assert!(!run.hints().contains("once this is undone"), "{name}: {}", run.hints());
    }
}

#[test]
fn maps_and_dumps_of_a_genuine_notification_are_verified_and_said_to_be_no_body() {
    let draft = Draft::payment().set("passback_params", "a=1&b=2").signed();
    let map: serde_json::Map<String, Value> =
        draft.0.iter().map(|(name, value)| (text(name), text(value).into())).collect();
    let json = serde_json::to_string_pretty(&map).unwrap();
    let java: Vec<String> =
        draft.0.iter().map(|(name, value)| format!("{}={}", text(name), text(value))).collect();
    let php: String =
        draft.0.iter().map(|(name, value)| format!("  '{}' => '{}',\n", text(name), text(value))).collect();
    for dump in [json, format!("{{{}}}", java.join(", ")), format!("array (\n{php})"), java.join("\n")] {
        let run = judged(dump.as_bytes());
        assert_eq!((run.code, &run.json()["event_type"]), (0, &"payment.succeeded".into()), "{dump}");
        assert!(run.hints().contains("not what Alipay sends"), "{}", run.hints());
    }
}
