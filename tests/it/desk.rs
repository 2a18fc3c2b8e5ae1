//! `simulate serve`, as a browser and a merchant meet it: the real binary, before the real gateway and the real broker.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use alipay_notify_gateway::signer::merchant_key::MerchantKey;
use alipay_notify_gateway::signer::signing_content;
use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};
use serde_json::Value;

use crate::support::program::{Answer, Folder, PATIENCE, Program, exchange, free_port};
use crate::support::queue::Queue;
use crate::support::{self, alipay};

const GATEWAY: &str = env!("CARGO_BIN_EXE_alipay-notify-gateway");

/// A running simulator and a merchant's keys. Killed when it is dropped.
struct Desk {
    child: Child,
    at: SocketAddr,
    folder: Folder,
}

impl Desk {
    fn start(more: &[&str]) -> Self {
        let (folder, at) = (Folder::new(), free_port());
        let pem = alipay::private_key().to_pkcs8_pem(LineEnding::LF).unwrap();
        let key = folder.write("alipay-private.pem", pem.as_bytes());
        let made = Command::new(GATEWAY).arg("keygen").arg(folder.path()).output().unwrap();
        assert!(made.status.success());
        let mut command = Command::new(GATEWAY);
        command.args(["simulate", "serve", "--listen", &at.to_string(), "--app-id", alipay::APP_ID]);
        command.args(["--seller-id", alipay::SELLER_ID]).arg("--key").arg(key);
        command.arg("--merchant-key").arg(folder.path().join("app-public-to-paste.txt")).args(more);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let desk = Self { child, at, folder };
        let began = Instant::now();
        while std::net::TcpStream::connect(at).is_err() {
            assert!(began.elapsed() < PATIENCE, "it does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        desk
    }

    /// A link of `pay-link`.
    fn link(&self, more: &[&str]) -> String {
        let mut command = Command::new(GATEWAY);
        command.args(["pay-link", "--simulator", &format!("http://{}", self.at), "--app-id", alipay::APP_ID]);
        command.arg("--key").arg(self.key("app-private-pkcs8.pem"));
        if !more.contains(&"--subject") {
            command.args(["--subject", "一杯咖啡"]);
        }
        let output = command.args(more).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn key(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let (at, length) = (self.at, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        exchange(at, request.as_bytes()).unwrap()
    }

    fn open(&self, link: &str) -> Answer {
        let path = link.strip_prefix(&format!("http://{}", self.at)).unwrap();
        self.ask("GET", path, "", "")
    }

    /// Opens a link and gives the number of its trade.
    fn trade_of(&self, link: &str) -> String {
        let answer = self.open(link);
        assert_eq!(answer.status, 303, "{answer:?}");
        let location = answer.head.lines().find_map(|line| line.strip_prefix("location: /cashier/"));
        location.unwrap().to_owned()
    }

    fn press(&self, path: &str, order: &str) -> Answer {
        self.ask("POST", &format!("/api/trades/{path}"), "Content-Type: application/json\r\n", order)
    }

    fn done(&self, path: &str, order: &str) {
        let answer = self.press(path, order);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }

    fn trade(&self, trade_no: &str) -> Value {
        let answer = self.ask("GET", &format!("/api/trades/{trade_no}"), "", "");
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str(&answer.body).unwrap()
    }

    /// Waits until what the page sees of a trade is so.
    fn until(&self, trade_no: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let trade = self.trade(trade_no);
            if is_so(&trade) {
                return trade;
            }
            assert!(began.elapsed() < PATIENCE * 2, "waited in vain until {what}: {trade:#}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn until_answered(&self, trade_no: &str, notice: usize) -> Value {
        self.until(trade_no, "it is answered", |trade| trade["notices"][notice]["state"]["is"] == "answered")
    }

    fn until_delivered(&self, trade_no: &str, notice: usize, times: usize) -> Value {
        self.until(trade_no, "it is delivered", |trade| {
            trade["notices"][notice]["deliveries"].as_array().unwrap().len() >= times
        })
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn notify_url(program: &Program) -> String {
    format!("http://{}/alipay/notify", program.http)
}

/// Answers one connection after the other, and then no more.
fn merchant(answers: &'static [&'static str]) -> SocketAddr {
    noting_merchant(answers).0
}

/// And notes what was delivered.
fn noting_merchant(answers: &'static [&'static str]) -> (SocketAddr, Arc<Mutex<Vec<Fields>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let noted = Arc::<Mutex<Vec<Fields>>>::default();
    let notes = Arc::clone(&noted);
    std::thread::spawn(move || {
        for answer in answers {
            let mut reader = BufReader::new(listener.accept().unwrap().0);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(reader.read_line(&mut head).unwrap(), 0);
            }
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            let fields: Vec<(String, String)> = serde_urlencoded::from_bytes(&body).unwrap();
            notes.lock().unwrap().push(fields.into_iter().collect());
            let length = answer.len();
            write!(reader.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{answer}").unwrap();
        }
    });
    (at, noted)
}

/// What a notification says.
type Fields = BTreeMap<String, String>;

#[test]
fn a_link_that_is_paid_becomes_an_event_and_is_answered_success() {
    support::run(async {
        let program = Program::start("desk-paid");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let desk = Desk::start(&[]);
        let link = desk.link(&[
            "--amount",
            "88.8",
            "--out-trade-no",
            "R1-1",
            "--notify-url",
            &notify_url(&program),
            "--return-url",
            "https://shop.example.com/thanks?from=alipay",
            "--passback-params",
            "channel%3Dweb",
        ]);
        let trade_no = desk.trade_of(&link);
        let waits = desk.trade(&trade_no);
        assert_eq!(
            (waits["status"].as_str(), waits["total_amount"].as_str()),
            (Some("WAIT_BUYER_PAY"), Some("88.80"))
        );
        assert_eq!(waits["notices"], serde_json::json!([]), "nobody is told of what nobody paid");
        assert_eq!(waits["way_back"], Value::Null);
        assert_eq!(desk.trade_of(&link), trade_no, "the same link is the same trade");
        desk.done(&format!("{trade_no}/pay"), "");
        let paid = desk.until_answered(&trade_no, 0);
        let delivery = &paid["notices"][0]["deliveries"][0];
        assert_eq!((delivery["status"].as_u64(), delivery["answer"].as_str()), (Some(200), Some("success")));
        let event = queue.next().await;
        assert_eq!((event.event_type(), event.trade_no()), ("payment.succeeded", trade_no.as_str()));
        for (name, value) in [
            ("out_trade_no", "R1-1"),
            ("total_amount", "88.80"),
            ("subject", "一杯咖啡"),
            ("passback_params", "channel%3Dweb"),
        ] {
            assert_eq!(event.body[name], value, "{name}");
        }
        let back = paid["way_back"].as_str().unwrap();
        assert!(back.starts_with("https://shop.example.com/thanks?from=alipay&app_id="), "{back}");
        assert_eq!(desk.press(&format!("{trade_no}/pay"), "").status, 409, "nobody pays twice");
        let answer = desk.open(&link);
        assert!(answer.status == 400 && answer.body.contains("ACQ.TRADE_HAS_SUCCESS"), "{answer:?}");
    });
}

#[test]
fn refunds_a_finish_and_a_close_are_announced_as_what_they_are() {
    support::run(async {
        let program = Program::start("desk-refunds");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let desk = Desk::start(&[]);
        let notify_url = notify_url(&program);
        let open = || desk.trade_of(&desk.link(&["--amount", "10", "--notify-url", &notify_url]));

        let given_back = open();
        desk.done(&format!("{given_back}/pay"), "");
        desk.until_answered(&given_back, 0);
        assert_eq!(queue.next().await.event_type(), "payment.succeeded");
        assert_eq!(desk.press(&format!("{given_back}/refund"), r#"{"amount":"10.01"}"#).status, 409);
        desk.done(&format!("{given_back}/refund"), r#"{"amount":"1.50"}"#);
        let event = queue.next().await;
        assert_eq!(
            (event.event_type(), event.body["trade_status"].as_str()),
            ("payment.refunded", Some("TRADE_SUCCESS"))
        );
        assert_eq!(event.body["refund"]["refund_fee"], "1.50");
        desk.done(&format!("{given_back}/refund"), "{}");
        let event = queue.next().await;
        assert_eq!(
            (event.event_type(), event.body["trade_status"].as_str()),
            ("payment.refunded", Some("TRADE_CLOSED"))
        );
        assert_eq!(event.body["refund"]["refund_fee"], "10.00", "what was given back so far");
        assert_eq!(desk.press(&format!("{given_back}/refund"), "{}").status, 409, "nothing is left");

        let finished = open();
        desk.done(&format!("{finished}/pay"), "");
        desk.until_answered(&finished, 0);
        assert_eq!(queue.next().await.event_type(), "payment.succeeded");
        desk.done(&format!("{finished}/finish"), "");
        assert_eq!(queue.next().await.event_type(), "trade.finished");

        let closed = open();
        desk.done(&format!("{closed}/close"), "");
        desk.until_answered(&closed, 0);
        assert_eq!(queue.next().await.event_type(), "trade.closed");
        assert_eq!(desk.press(&format!("{closed}/pay"), "").status, 409, "too late");
    });
}

#[test]
fn a_duplicate_a_gbk_and_an_expired_one_announce_nothing_and_a_forged_one_is_refused() {
    support::run(async {
        let program = Program::start("desk-tricks");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let desk = Desk::start(&[]);
        let trade_no = desk.trade_of(&desk.link(&["--amount", "1", "--notify-url", &notify_url(&program)]));
        desk.done(&format!("{trade_no}/pay"), "");
        desk.until_answered(&trade_no, 0);
        assert_eq!(queue.next().await.event_type(), "payment.succeeded");
        for (number, (way, status)) in
            [("again", 200), ("gbk", 200), ("expired", 200), ("forged", 400)].into_iter().enumerate()
        {
            desk.done(&format!("{trade_no}/notices/0/{way}"), "");
            let trade = desk.until_delivered(&trade_no, 0, number + 2);
            let delivery = &trade["notices"][0]["deliveries"][number + 1];
            assert_eq!((delivery["way"].as_str(), delivery["status"].as_u64()), (Some(way), Some(status)));
        }
        desk.done(&format!("{trade_no}/reverse"), "");
        desk.until_delivered(&trade_no, 0, 6);
        assert!(queue.published(&program, 990_001).await.is_empty());
        assert!(program.outcome("duplicate") > 3.5, "{}", program.log());
    });
}

#[test]
fn a_payment_that_is_held_back_arrives_after_its_refund() {
    support::run(async {
        let program = Program::start("desk-order");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let desk = Desk::start(&[]);
        let trade_no = desk.trade_of(&desk.link(&["--amount", "1", "--notify-url", &notify_url(&program)]));
        desk.done(&format!("{trade_no}/pay"), r#"{"hold":true}"#);
        desk.done(&format!("{trade_no}/refund"), r#"{"amount":"0.40"}"#);
        desk.until_answered(&trade_no, 1);
        assert_eq!(desk.trade(&trade_no)["notices"][0]["state"]["is"], "held_back");
        desk.done(&format!("{trade_no}/notices/0/send"), "");
        desk.until_answered(&trade_no, 0);
        let (first, second) = (queue.next().await, queue.next().await);
        assert_eq!((first.event_type(), second.event_type()), ("payment.refunded", "payment.succeeded"));
        assert_eq!(desk.press(&format!("{trade_no}/notices/0/send"), "").status, 409, "it has gone already");
    });
}

#[test]
fn it_is_as_stubborn_as_alipay_until_the_answer_is_exactly_success() {
    let at = merchant(&["fail", "success\n", "success"]);
    let desk = Desk::start(&["--time-scale", "86400"]);
    let url = format!("http://{at}/");
    let trade_no = desk.trade_of(&desk.link(&["--amount", "1", "--notify-url", &url]));
    desk.done(&format!("{trade_no}/pay"), "");
    let trade = desk.until_answered(&trade_no, 0);
    let deliveries = trade["notices"][0]["deliveries"].as_array().unwrap();
    let answers: Vec<_> =
        deliveries.iter().map(|one| (&one["attempt"], &one["answer"], &one["success"])).collect();
    assert_eq!(
        serde_json::to_value(answers).unwrap(),
        serde_json::json!([[1, "fail", false], [2, "success·", false], [3, "success", true]])
    );
}

#[test]
fn after_eight_deliveries_it_gives_up_and_can_be_delivered_by_hand() {
    let at = merchant(&["no", "no", "no", "no", "no", "no", "no", "no", "success"]);
    let desk = Desk::start(&["--time-scale", "86400", "--deliver-to", &format!("http://{at}/")]);
    let link = desk.link(&["--amount", "1", "--notify-url", "https://pay.example.com/alipay/notify"]);
    let trade_no = desk.trade_of(&link);
    desk.done(&format!("{trade_no}/pay"), "");
    let trade =
        desk.until(&trade_no, "it gives up", |trade| trade["notices"][0]["state"]["is"] == "given_up");
    assert_eq!(trade["notices"][0]["deliveries"].as_array().unwrap().len(), 8);
    desk.done(&format!("{trade_no}/notices/0/again"), "");
    desk.until_answered(&trade_no, 0);
}

#[test]
fn an_expired_one_is_two_days_old_and_neither_it_nor_a_forgery_ends_the_schedule() {
    let (at, noted) = noting_merchant(&["fail", "success", "success", "success"]);
    let desk = Desk::start(&[]);
    let trade_no = desk.trade_of(&desk.link(&["--amount", "1", "--notify-url", &format!("http://{at}/")]));
    desk.done(&format!("{trade_no}/pay"), "");
    desk.until(&trade_no, "it waits", |trade| trade["notices"][0]["state"]["is"] == "waiting");
    for (number, (way, verdict)) in [("forged", "believed"), ("expired", "success")].into_iter().enumerate() {
        desk.done(&format!("{trade_no}/notices/0/{way}"), "");
        let trade = desk.until_delivered(&trade_no, 0, number + 2);
        assert_eq!(trade["notices"][0]["deliveries"][number + 1]["verdict"], verdict);
        assert_eq!(trade["notices"][0]["state"]["is"], "waiting", "{way} is none of Alipay's own");
    }
    desk.done(&format!("{trade_no}/notices/0/again"), "");
    desk.until_answered(&trade_no, 0);
    let noted = noted.lock().unwrap();
    let time = |fields: &Fields| {
        let time = alipay_notify_gateway::admission::notification::time(fields["notify_time"].as_bytes());
        time.unwrap().unix_millis()
    };
    let hours = (time(&noted[0]) - time(&noted[2])) / 3_600_000;
    assert!((47..=48).contains(&hours), "two days before a now that is some moments later: {hours} h");
    assert_eq!(noted[1]["total_amount"], "2.00", "the forged one");
    let key = MerchantKey::read(&alipay::public_pem()).unwrap();
    for (fields, is_authentic) in noted.iter().zip([true, false, true, true]) {
        let signed: Vec<(String, String)> = fields.clone().into_iter().collect();
        let content = signing_content(&signed);
        assert_eq!(key.verifies(content.as_bytes(), &fields["sign"]), is_authentic, "{fields:?}");
    }
}

#[test]
fn in_reverse_is_the_last_first() {
    let (at, noted) = noting_merchant(&["success"; 4]);
    let desk = Desk::start(&[]);
    let trade_no = desk.trade_of(&desk.link(&["--amount", "1", "--notify-url", &format!("http://{at}/")]));
    desk.done(&format!("{trade_no}/pay"), "");
    desk.until_answered(&trade_no, 0);
    desk.done(&format!("{trade_no}/refund"), "{}");
    desk.until_answered(&trade_no, 1);
    desk.done(&format!("{trade_no}/reverse"), "");
    desk.until_delivered(&trade_no, 0, 2);
    let noted = noted.lock().unwrap();
    let refunds: Vec<bool> = noted.iter().map(|fields| fields.contains_key("gmt_refund")).collect();
    assert_eq!(refunds, [false, true, true, false]);
}

#[test]
fn what_alipay_would_not_do_is_refused_in_its_own_words() {
    let desk = Desk::start(&[]);
    let order = |amount: &str, subject: &str| {
        desk.link(&["--out-trade-no", "R-7", "--amount", amount, "--subject", subject])
    };
    let trade_no = desk.trade_of(&order("1", "coffee"));
    for link in [order("1.01", "coffee"), order("1", "tea")] {
        let answer = desk.open(&link);
        assert!(answer.status == 400 && answer.body.contains("ACQ.CONTEXT_INCONSISTENT"), "{answer:?}");
    }
    assert_eq!(desk.trade_of(&order("1.00", "coffee")), trade_no);
    let refused = |path: &str, order: &str, en: &str, zh: &str| {
        let answer = desk.press(&format!("{trade_no}/{path}"), order);
        let why: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((answer.status, &why["why"]["en"], &why["why"]["zh"]), (409, &en.into(), &zh.into()));
    };
    let waits = ("the trade waits for the buyer (WAIT_BUYER_PAY)", "这笔交易正在等待付款（WAIT_BUYER_PAY）");
    refused("finish", "", waits.0, waits.1);
    refused("refund", "{}", waits.0, waits.1);
    desk.done(&format!("{trade_no}/pay"), "");
    desk.done(&format!("{trade_no}/refund"), r#"{"amount":"0.10","out_biz_no":"B-1"}"#);
    for (order, en) in [
        (r#"{"amount":"0.10","out_biz_no":"B-1"}"#, "out_biz_no B-1 is a refund already"),
        (r#"{"amount":"0.10","out_biz_no":""}"#, "out_biz_no has 1 to 64 characters"),
        (&format!(r#"{{"amount":"0.10","out_biz_no":"{}"}}"#, "x".repeat(65)), "1 to 64"),
        (r#"{"amount":"0.91"}"#, "from 0.01 to 0.90"),
    ] {
        let answer = desk.press(&format!("{trade_no}/refund"), order);
        assert!(answer.status == 409 && answer.body.contains(en), "{order}: {answer:?}");
    }
    assert_eq!(desk.trade(&trade_no)["refunded"], "0.10");
    desk.done(&format!("{trade_no}/refund"), "{}");
    refused("pay", "", "the trade is closed (TRADE_CLOSED)", "这笔交易已关闭（TRADE_CLOSED）");
}

#[test]
fn deliveries_by_hand_have_an_end_whichever_way_they_are_asked_for() {
    // Nobody listens: each is over at once.
    let desk = Desk::start(&[]);
    let url = format!("http://{}/", free_port());
    let trade_no = desk.trade_of(&desk.link(&["--amount", "1", "--notify-url", &url]));
    desk.done(&format!("{trade_no}/pay"), "");
    desk.until_delivered(&trade_no, 0, 1);
    for number in 0..128 {
        let path = if number % 2 == 0 { "reverse" } else { "notices/0/again" };
        desk.done(&format!("{trade_no}/{path}"), "");
    }
    for path in ["reverse", "notices/0/again"] {
        let answer = desk.press(&format!("{trade_no}/{path}"), "");
        assert!(answer.status == 409 && answer.body.contains("by hand often enough"), "{path}: {answer:?}");
    }
    let trade = desk.until_delivered(&trade_no, 0, 129);
    assert_eq!(trade["notices"][0]["deliveries"].as_array().unwrap().len(), 129);
}

#[test]
fn the_way_back_is_signed_by_alipay_and_stands_before_a_fragment() {
    let desk = Desk::start(&[]);
    let return_url = "https://shop.example.com/thanks?from=alipay#paid";
    let trade_no = desk.trade_of(&desk.link(&["--amount", "1", "--return-url", return_url]));
    desk.done(&format!("{trade_no}/pay"), "");
    let trade = desk.trade(&trade_no);
    let back = trade["way_back"].as_str().unwrap();
    let query = back.strip_prefix("https://shop.example.com/thanks?from=alipay&").unwrap();
    let query = query.strip_suffix("#paid").unwrap();
    let fields: Vec<(String, String)> = serde_urlencoded::from_str(query).unwrap();
    let sign = fields.iter().find(|(name, _)| name == "sign").unwrap();
    let key = MerchantKey::read(&alipay::public_pem()).unwrap();
    assert!(key.verifies(signing_content(&fields).as_bytes(), &sign.1), "{back}");
    assert!(fields.contains(&("trade_no".to_owned(), trade_no)), "{back}");
}

#[test]
fn notifications_go_to_this_machine_and_to_hosts_that_were_allowed() {
    let desk = Desk::start(&["--allow-host", "gateway"]);
    for (url, problem) in [
        ("http://192.0.2.1/alipay/notify", "--allow-host 192.0.2.1"),
        ("http://169.254.169.254/latest/meta-data", "--allow-host"),
        ("http://127.0.0.1.example.com/", "--allow-host"),
        ("https://127.0.0.1/", "plain http"),
    ] {
        let trade_no = desk.trade_of(&desk.link(&["--amount", "1", "--notify-url", url]));
        desk.done(&format!("{trade_no}/pay"), "");
        let trade = desk.trade(&trade_no);
        assert_eq!(trade["notices"][0]["state"]["is"], "undeliverable", "{url}");
        assert!(trade["notify_problem"]["en"].as_str().unwrap().contains(problem), "{url}: {trade}");
        assert_eq!(trade["notices"][0]["deliveries"], serde_json::json!([]), "{url}");
    }
    for url in ["http://gateway:8080/x", "http://[::1]:1/", "http://localhost:1/"] {
        let trade_no = desk.trade_of(&desk.link(&["--amount", "1", "--notify-url", url]));
        assert_eq!(desk.trade(&trade_no)["notify_problem"], Value::Null, "{url}");
    }
}

#[test]
fn a_link_that_is_wrong_is_explained_and_nothing_of_it_becomes_html() {
    let desk = Desk::start(&[]);
    let subject = "</script><script>alert(1)</script>";
    let link = desk.link(&["--amount", "1", "--subject", subject]).replace("charset=utf-8", "charset=UTF-8");
    let answer = desk.open(&link);
    assert_eq!(answer.status, 400);
    for said in ["isv.invalid-signature", "changed after it was signed", "the string to verify is:\napp_id="]
    {
        assert!(answer.body.contains(said), "{said}: {}", answer.body);
    }
    let path = link.strip_prefix(&format!("http://{}", desk.at)).unwrap();
    let page = desk.ask("GET", path, "Accept: text/html\r\n", "");
    assert_eq!(page.status, 400);
    assert!(page.head.contains("text/html") && page.body.contains("isv.invalid-signature"), "{page:?}");
    assert_eq!(page.body.matches("<script").count(), 2, "no more than the page has itself: {}", page.body);
    assert!(page.body.contains("\\u003cscript>alert(1)"), "{}", page.body);
    assert!(desk.ask("GET", "/api/trades", "", "").body.contains("[]"), "there is no trade");
}

#[test]
fn a_form_may_be_posted_as_the_sdks_do() {
    let desk = Desk::start(&[]);
    let link = desk.link(&["--amount", "1"]);
    let (query, form) = link.split_once('?').unwrap().1.split_once('&').unwrap();
    let headers = "Content-Type: application/x-www-form-urlencoded\r\n";
    let answer = desk.ask("POST", &format!("/gateway.do?{query}"), headers, form);
    assert_eq!(answer.status, 303, "{answer:?}");
}

#[test]
fn a_page_of_somebody_elses_can_press_nothing() {
    let desk = Desk::start(&["--called", "pay.test"]);
    let trade_no = desk.trade_of(&desk.link(&["--amount", "1"]));
    let pay = format!("/api/trades/{trade_no}/pay");
    // What a form of another origin can send.
    for content_type in
        ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"]
    {
        assert_eq!(desk.ask("POST", &pay, content_type, "{}").status, 415, "{content_type}");
    }
    // A browser asks first whether it may send JSON, and is not told so.
    assert_eq!(desk.ask("OPTIONS", &pay, "Origin: http://evil.example\r\n", "").status, 405);
    // A name of a stranger's that was pointed at this machine.
    for (host, status) in
        [("evil.example", 421), ("evil.example:80", 421), ("pay.test", 200), ("localhost", 200)]
    {
        let request = format!("GET /api/trades HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(exchange(desk.at, request.as_bytes()).unwrap().status, status, "{host}");
    }
    assert_eq!(desk.trade(&trade_no)["status"], "WAIT_BUYER_PAY");
    let page = desk.ask("GET", &format!("/cashier/{trade_no}"), "", "");
    assert!(page.head.contains("content-security-policy: default-src 'none'"), "{}", page.head);
}

#[test]
fn what_it_gives_as_alipays_key_is_the_one_that_it_signs_with() {
    let desk = Desk::start(&[]);
    let answer = desk.ask("GET", "/alipay-public.pem", "", "");
    assert_eq!(answer.body, alipay::public_pem());
}

#[test]
fn a_key_that_is_no_merchants_is_refused_by_name_at_the_start() {
    let desk = Desk::start(&[]);
    for (name, says) in [("app-private-pkcs1.pem", "PRIVATE"), ("nothing.pem", "nothing.pem")] {
        let mut command = Command::new(GATEWAY);
        command
            .args(["simulate", "serve", "--listen", "127.0.0.1:0", "--key"])
            .arg(desk.key("alipay-private.pem"));
        let output = command.arg("--merchant-key").arg(desk.key(name)).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(String::from_utf8(output.stderr).unwrap().contains(says), "{name}");
    }
}

#[test]
fn it_ends_with_0_when_it_is_told_to() {
    let mut desk = Desk::start(&[]);
    let sent = Command::new("kill").arg(desk.child.id().to_string()).status().unwrap();
    assert!(sent.success());
    assert_eq!(desk.child.wait().unwrap().code(), Some(0));
}
