//! What is written to the log: every path is driven with marked values, at the most talkative level, and no mark is in
//! anything that the program prints. The marks stand for buyers, what they bought, signatures, bodies and secrets.

use crate::support::alipay::Notification;
use crate::support::authority::Authority;
use crate::support::program::{Program, amqp_url, exchange, request};
use crate::support::queue::Queue;
use crate::support::run;
use crate::support::signer::{pem, stranger};
use crate::support::tls_client::{Version, believing, connect, deliver};

const TOKEN: &str = "MARKtoken0a1b2c3d4e5f";

/// With a mark in everything that is nobody's business.
fn marked(trade: u64) -> Notification {
    Notification::payment_now(trade)
        .set("buyer_id", "2088MARKbuyerid")
        .set("buyer_logon_id", "MARKlogon@example.com")
        .set("buyer_open_id", "MARKopenid")
        .set("buyer_pay_amount", "88.88")
        .set("subject", "MARKsubject & MARKsubject=2")
        .set("body", "MARKbody")
        .set("passback_params", "MARKpassback")
        .set("fund_bill_list", "[{\"MARKfunds\":\"1\"}]")
        .set("receipt_name", "MARKname")
}

/// The marks that a body carries beside its text: its own signature, as it is and as it is encoded.
fn signature_of(body: &[u8]) -> [String; 2] {
    let text = std::str::from_utf8(body).unwrap();
    let encoded = text.rsplit("sign=").next().unwrap().split('&').next().unwrap();
    let plain = encoded.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=");
    [plain[..40].to_owned(), encoded[..40].to_owned()]
}

/// What is posted: each kind of thing that a notification can be, once.
fn deliveries() -> Vec<Vec<u8>> {
    let paid = marked(1);
    let refund = paid.clone().set("refund_fee", "1.00").set("gmt_refund", paid.text("gmt_payment"));
    vec![
        paid.body(),
        paid.body(),
        refund.set("notify_id", "r1").body(),
        paid.clone().set("total_amount", "99.99").body(),
        paid.clone().set("notify_id", "f1").set("trade_status", "TRADE_FINISHED").body(),
        marked(2).set("trade_status", "WAIT_BUYER_PAY").body(),
        marked(3).set("trade_status", "TRADE_CLOSED").body(),
        marked(4).set("notify_type", "something_else").body(),
        marked(5).set("trade_status", "UNHEARD_OF").body(),
        marked(6).set("seller_id", "2088000000000042").body(),
        marked(7).set("total_amount", "a lot").body(),
        marked(8).set("subject", "MARKsubject&refund_fee=1.00").body(),
        marked(9).set("notify_time", "2020-01-01 00:00:00").body(),
        marked(10).without("notify_id").set("method", "alipay.trade.page.pay.return").body(),
        marked(11).body_by(stranger()),
        marked(12).body_by(shadow()),
        marked(13).set("app_id", "MARKunknownapp").body(),
        marked(14).set("sign_type", "MARKsigntype").body(),
        marked(15).without("out_trade_no").body(),
        [&marked(16).body()[..], b"&subject=MARKtwice"].concat(),
        [&marked(17).body()[..], b"&MARKbroken=%zz"].concat(),
        marked(18).set("subject", b"MARKgbk\xb2\xe2\xca\xd4").set("charset", "GBK").body(),
        b"MARKnotaform".to_vec(),
        marked(19).body(),
    ]
}

/// A key that is in shadow mode.
fn shadow() -> &'static rsa::PrivateKey {
    crate::support::signer::alipay()
}

/// Posts everything in every way, with marks in the head and the query, too.
fn post_all(program: &Program) -> Vec<String> {
    let mut secrets = Vec::new();
    for body in deliveries() {
        if body.windows(5).any(|five| five == b"sign=") {
            secrets.extend(signature_of(&body));
        }
        let request = String::from_utf8(request("/alipay/notify?MARKquery=1", &body)).unwrap();
        let request = request
            .replace("User-Agent: ", "X-Forwarded-For: MARKhop\r\nCookie: MARKcookie\r\nUser-Agent: MARK");
        let _ = exchange(program.http, request.as_bytes());
    }
    for odd in [
        "GET /MARKpath HTTP/1.1\r\n\r\n",
        "MARKmethod\r\n\r\n",
        "POST /alipay/notify HTTP/1.1\r\nMARK: \0\r\n\r\n",
    ] {
        let _ = exchange(program.http, odd.as_bytes());
    }
    secrets
}

fn orders(program: &Program) {
    for (trade, order) in [(6, "release"), (7, "drop"), (9, "release"), (19, "drop")] {
        let trade_no = Notification::payment_now(trade).trade_no().to_owned();
        let path = format!("/trades/{trade_no}/{order}?reason=seen&who=anna");
        for token in [TOKEN, "MARKwrongtoken"] {
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: admin\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
            );
            exchange(program.admin, request.as_bytes()).unwrap();
        }
        let path = format!("/trades/{trade_no}/export?token={TOKEN}");
        let _ = program.get(&path);
    }
}

#[track_caller]
fn assert_clean(log: &str, secrets: &[String]) {
    assert!(log.lines().count() > 20, "it was to be talkative: {log}");
    for line in log.lines() {
        // As text; as a list of numbers, which is how Rust shows bytes; in hexadecimal.
        for mark in ["MARK", "77, 65, 82, 75", "4d41524b", "4D41524B"] {
            assert!(!line.contains(mark), "{line}");
        }
        for secret in secrets {
            assert!(!line.contains(secret.as_str()), "{line}");
        }
    }
}

/// The configuration of a talkative gateway.
fn talkative(text: &str, format: &str) -> String {
    let log = format!("[log]\nlevel = \"trace\"\nformat = \"{format}\"");
    text.replacen("[admin]", "failure_budget = 2\ntrusted_proxies = [\"127.0.0.1\"]\n[admin]", 1)
        .replacen("[amqp]", &format!("token = \"{TOKEN}\"\n[amqp]"), 1)
        .replacen("[\"alipay.pem\"]", "[\"alipay.pem\"]\nshadow_public_keys = [\"shadow.pem\"]", 1)
        + &log
}

fn secrets_of(key: &str) -> Vec<String> {
    key.lines()
        .filter(|line| line.len() > 40 && !line.contains("-----"))
        .map(|line| line[..40].to_owned())
        .collect()
}

#[test]
fn nothing_that_is_nobodys_business_is_in_the_log_where_all_is_well() {
    run(async {
        for format in ["json", "text"] {
            let files = [("shadow.pem", pem(shadow()))];
            let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
            let program =
                Program::launch_with_files("hygiene", &amqp_url(), &files, |text| talkative(&text, format));
            program.is_connected();
            // Only payments are wanted: the rest is returned by the broker.
            let mut queue = Queue::bound(&program.exchange, &["payment.succeeded"]).await;
            let secrets = post_all(&program);
            orders(&program);
            let _ = program.post(&Notification::payment_now(50).body());
            let _ = queue.published(&program, 51).await;
            assert!(program.metric("events_total{result=\"returned\",type=\"payment.refunded\"}") >= 1.0);
            for reason in
                ["signature", "unknown_app", "sign_type", "missing_field", "shadow_key", "return_url"]
            {
                let refused = program.metric(&format!("rejections_total{{reason=\"{reason}\"}}"));
                assert!(refused >= 1.0, "{reason} was to be driven");
            }
            assert!(program.outcome("held") >= 3.0 && program.outcome("deferred") >= 1.0);
            assert!(program.outcome("duplicate") >= 1.0);
            assert!(program.metric("events_total{result=\"returned\",type=\"payment.conflict\"}") >= 1.0);
            for reason in ["seller", "grammar", "ambiguous", "stale"] {
                let held = program.metric(&format!("held_total{{reason=\"{reason}\"}}"));
                assert!(held >= 1.0, "{reason} was to be driven");
            }
            program.signal("TERM");
            program.wait_until("it has stopped", || program.log().contains("stopped"));
            assert_clean(&program.log(), &secrets);
        }
    });
}

#[test]
fn nothing_is_in_the_log_where_the_broker_refuses_or_is_away_and_the_door_has_tls_and_a_proxy() {
    let authority = Authority::new("tests");
    let (certificate, key) = authority.issue("gateway");
    let address = amqp_url().rsplit('@').next().unwrap().to_owned();
    for broker in [
        format!("amqp://MARKuser:MARKpassword@{address}"),
        "amqp://MARKuser:MARKpassword@127.0.0.1:1/%2f".to_owned(),
    ] {
        let files =
            [("tls.pem", certificate.as_str()), ("tls.key", key.as_str()), ("shadow.pem", &pem(shadow()))];
        let program = Program::launch_with_files("hygiene-away", &broker, &files, |text| {
            let http = "tls_certificate_file = \"tls.pem\"\ntls_key_file = \"tls.key\"\nproxy_protocol = true\n\
                        handshake_timeout = \"1s\"\nheader_timeout = \"1s\"\nanswer_timeout = \"1s\"\n[admin]";
            talkative(&text.replacen("[admin]", http, 1), "json")
        });
        let mut secrets = post_all(&program);
        for body in deliveries() {
            secrets.extend(secrets_of(&key));
            deliver_encrypted(&program, &authority, &body);
        }
        orders(&program);
        // A reload of what is wrong prints every problem.
        program
            .folder()
            .write("tls.key", "-----BEGIN PRIVATE KEY-----\nMARKkey\n-----END PRIVATE KEY-----\n");
        program.signal("HUP");
        let refused = || program.metric("policy_reloads_total{result=\"refused\"}");
        program.wait_until("it is refused", || refused() >= 1.0);
        assert!(program.outcome("deferred") >= 1.0, "{}", program.log());
        program.signal("TERM");
        program.wait_until("it has stopped", || program.log().contains("stopped"));
        assert_clean(&program.log(), &secrets);
    }
}

/// As a proxy that forwards bytes delivers it.
fn deliver_encrypted(program: &Program, authority: &Authority, body: &[u8]) {
    run(async {
        let header = b"PROXY TCP4 198.51.100.8 127.0.0.1 1 443\r\n";
        let mut stream = connect(program.http, header, believing(authority, Version::Tls13)).await.unwrap();
        assert!(deliver(&mut stream, body).await.starts_with("HTTP/1.1 "));
    });
}
