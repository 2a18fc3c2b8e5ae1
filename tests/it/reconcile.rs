//! `reconcile`: a bill beside a running gateway, and beside an export of it.

use std::io::{Cursor, Write as _};
use std::process::{Command, Output};

use alipay_notify_gateway::clock::{Clock as _, SystemClock, Timestamp};
use serde_json::Value;

use crate::support::alipay::{Notification, SELLER_ID};
use crate::support::program::Program;
use crate::support::queue::Queue;
use crate::support::run;

const HEADER: &str = "支付宝交易号,商户订单号,业务类型,商品名称,创建时间,完成时间,门店编号,门店名称,操作员,终端号,对方账户,\
    订单金额（元）,商家实收（元）,支付宝红包（元）,集分宝（元）,支付宝优惠（元）,商家优惠（元）,券核销金额（元）,券名称,\
    商家红包消费金额（元）,卡消费金额（元）,退款批次号/请求号,服务费（元）,分润（元）,备注";

/// A line of a bill.
struct Billed<'a> {
    trade_no: &'a str,
    order: &'a str,
    kind: &'a str,
    amount: &'a str,
    request_no: &'a str,
    at: Timestamp,
}

impl<'a> Billed<'a> {
    /// As the notification says it, an hour ago.
    fn payment(notification: &'a Notification) -> Self {
        Self {
            trade_no: notification.trade_no(),
            order: notification.text("out_trade_no"),
            kind: "交易",
            amount: notification.text("total_amount"),
            request_no: "",
            at: hours_ago(1),
        }
    }

    fn refund(notification: &'a Notification, amount: &'a str, request_no: &'a str) -> Self {
        Self { kind: "退款", amount, request_no, ..Self::payment(notification) }
    }

    fn line(&self) -> String {
        let Self { trade_no, order, kind, amount, request_no, at } = self;
        let at = at.alipay();
        format!(
            "{trade_no}\t,{order}\t,{kind}\t,杯子,{at},{at},\t,\t,\t,\t,*某(186****00),{amount},{amount},0.00,0.00,0.00,\
             0.00,0.00,,0.00\t,0.00,{request_no}\t,-0.01,0.00,"
        )
    }
}

fn hours_ago(hours: i64) -> Timestamp {
    Timestamp::from_unix_millis(SystemClock.now().unix_millis() - hours * 3_600_000)
}

/// A bill of yesterday and today, in the ZIP that Alipay hands out.
fn bill(lines: &[Billed<'_>]) -> Vec<u8> {
    let chinese = |at: Timestamp| at.alipay()[..10].replacen('-', "年", 1).replacen('-', "月", 1);
    let (from, until) = (chinese(hours_ago(24)), chinese(hours_ago(-48)));
    let (table, count): (Vec<String>, _) =
        (lines.iter().map(Billed::line).collect(), lines.iter().filter(|line| line.kind == "交易").count());
    let text = format!(
        "#支付宝业务明细查询\r\n#账号：[{SELLER_ID}0156]\r\n\
         #起始日期：[{from}日 00:00:00]   终止日期：[{until}日 00:00:00]\r\n#-----业务明细列表-----\r\n{HEADER}\r\n{}\r\n\
         #-----业务明细列表结束-----\r\n#交易合计：{count}笔，商家实收共0.00元\r\n",
        table.join("\r\n")
    );
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let deflated =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    zip.start_file("detail.csv", deflated).unwrap();
    zip.write_all(&encoding_rs::GBK.encode(&text).0).unwrap();
    zip.finish().unwrap().into_inner()
}

fn gateway(program: &Program, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alipay-notify-gateway"));
    for name in ["AMQP_URL", "ALIPAY_APP_ID", "ALIPAY_PUBLIC_KEY"] {
        command.env_remove(name);
    }
    command.current_dir(program.folder().path()).args(arguments).output().unwrap()
}

/// The findings, each as `what trade_no event_type`.
fn findings(output: &Output) -> Vec<String> {
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let findings = json["findings"].as_array().unwrap().iter();
    findings
        .map(|f| format!("{} {} {}", text(f, "what"), text(f, "trade_no"), text(f, "event_type")))
        .collect()
}

#[test]
fn a_bill_that_agrees_exits_0_beside_the_running_gateway_and_beside_its_export() {
    run(async {
        let program = Program::start("reconcile-agrees");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let paid = Notification::payment_now(1);
        assert!(program.post(&paid.body()).is_success());
        // Two refunds; Alipay's figure is the total so far.
        for (request_no, fee) in [("RF/1", "10.00"), ("退-2", "15.50")] {
            let refund = paid
                .clone()
                .set("out_biz_no", request_no)
                .set("refund_fee", fee)
                .set("gmt_refund", format!("{}.250", paid.text("gmt_payment")))
                .set("notify_id", format!("n-{fee}"));
            assert!(program.post(&refund.body()).is_success());
        }
        let lines = [
            Billed::payment(&paid),
            Billed::refund(&paid, "-10.00", "RF/1"),
            Billed { at: hours_ago(0), ..Billed::refund(&paid, "-5.50", "退-2") },
        ];
        program.folder().write("bill.zip", bill(&lines));
        let output = gateway(&program, &["reconcile", "bill.zip"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(String::from_utf8(output.stdout).unwrap().contains("Everything that was compared agrees."));
        // The same twice, and a day that has the refunds alone.
        program.folder().write("again.zip", bill(&lines));
        let output = gateway(&program, &["reconcile", "bill.zip", "again.zip"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(String::from_utf8(output.stdout).unwrap().contains("3 lines given more than once"));
        program.folder().write("refunds.zip", bill(&lines[1..]));
        let output = gateway(&program, &["reconcile", "refunds.zip"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("2 announced payments or refunds whose amount cannot be compared"), "{text}");
        assert!(text.contains("compared 0\n") && !text.contains("agrees"), "{text}");
        assert!(gateway(&program, &["store", "export", "--out", "export.jsonl"]).status.success());
        let output = gateway(&program, &["reconcile", "--export", "export.jsonl", "bill.zip"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        // Without a configuration nobody knows which app sells for this account.
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("not looked for, because no app of the configuration"), "{text}");
    });
}

#[test]
fn what_was_never_notified_is_not_announced_or_differs_is_told_with_what_to_do_and_exits_65() {
    run(async {
        let program = Program::start("reconcile-differs");
        let mut queue = Queue::bound(&program.exchange, &["payment.succeeded"]).await;
        let (fine, missing, held) =
            (Notification::payment_now(1), Notification::payment_now(2), Notification::payment_now(3));
        let (dear, unrefunded) = (Notification::payment_now(4), Notification::payment_now(5));
        for paid in [&fine, &dear, &unrefunded] {
            assert!(program.post(&paid.body()).is_success());
        }
        // Of another seller: held. And a refund that no queue takes: deferred.
        let foreign = held.clone().set("seller_id", "2088000000000042");
        assert!(program.post(&foreign.body()).is_fail(400));
        let refund = fine.clone().set("out_biz_no", "RF1").set("refund_fee", "1.00").set("notify_id", "n-r");
        assert!(program.post(&refund.body()).is_fail(503));
        let lines = [
            Billed::payment(&fine),
            Billed::refund(&fine, "-1.00", "RF1"),
            Billed::payment(&missing),
            Billed::payment(&held),
            Billed { amount: "88.89", ..Billed::payment(&dear) },
            Billed::payment(&unrefunded),
            Billed::refund(&unrefunded, "-88.88", "RF2"),
        ];
        program.folder().write("bill.zip", bill(&lines));
        let output = gateway(&program, &["reconcile", "--format", "json", "bill.zip"]);
        assert_eq!(output.status.code(), Some(65), "{output:?}");
        let expected = [
            ("unannounced", &fine, "payment.refunded"),
            ("never_notified", &missing, "payment.succeeded"),
            ("unannounced", &held, "payment.succeeded"),
            ("differs", &dear, "payment.succeeded"),
            ("never_notified", &unrefunded, "payment.refunded"),
        ];
        let expected = expected.map(|(what, paid, event)| format!("{what} {} {event}", paid.trade_no()));
        assert_eq!(findings(&output), expected);
        let text = gateway(&program, &["reconcile", "bill.zip"]);
        let text = String::from_utf8(text.stdout).unwrap();
        for said in ["NEVER NOTIFIED (2)", "NOT ANNOUNCED (2)", "DIFFER (1)", "alipay.trade.query", "seller"]
        {
            assert!(text.contains(said), "{said}\n{text}");
        }
        // It only reads: nothing has changed, and nothing was published.
        assert_eq!(program.states(missing.trade_no()), Vec::<String>::new());
        assert_eq!(program.states(held.trade_no()), ["held"]);
        let published = queue.published(&program, 6).await;
        assert_eq!(published.len(), 3);
    });
}

#[test]
fn a_payment_that_was_announced_and_is_in_no_bill_is_told() {
    run(async {
        let program = Program::start("reconcile-unbilled");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let (billed, forged) = (Notification::payment_now(1), Notification::payment_now(2));
        for paid in [&billed, &forged] {
            assert!(program.post(&paid.body()).is_success());
        }
        program.folder().write("bill.zip", bill(&[Billed::payment(&billed)]));
        let output = gateway(&program, &["reconcile", "--format", "json", "bill.zip"]);
        assert_eq!(output.status.code(), Some(65), "{output:?}");
        assert_eq!(findings(&output), [format!("not_in_the_bill {} payment.succeeded", forged.trade_no())]);
    });
}

#[test]
fn what_the_store_no_longer_remembers_is_not_called_missing() {
    run(async {
        let program = Program::start("reconcile-old");
        let old = Notification::payment_now(1);
        let lines = [Billed { at: hours_ago(36 * 24), ..Billed::payment(&old) }];
        program.folder().write("bill.zip", bill(&lines));
        let output = gateway(&program, &["reconcile", "bill.zip"]);
        assert_eq!(output.status.code(), Some(1), "nothing was compared: {output:?}");
        assert!(String::from_utf8(output.stdout).unwrap().contains("1 older than the store's memory"));
        // Nor is anything said of lines of other kinds.
        program.folder().write("bill.zip", bill(&[Billed { kind: "花呗", ..Billed::payment(&old) }]));
        assert_eq!(gateway(&program, &["reconcile", "bill.zip"]).status.code(), Some(1));
        // And what is minutes old may still be notified.
        let lines = [Billed { at: hours_ago(0), ..Billed::payment(&old) }];
        program.folder().write("bill.zip", bill(&lines));
        let output = gateway(&program, &["reconcile", "bill.zip"]);
        assert!(String::from_utf8(output.stdout).unwrap().contains("1 so new"));
    });
}

#[test]
fn a_bill_that_cannot_be_read_exits_65_and_a_store_that_is_not_there_1() {
    run(async {
        let program = Program::start("reconcile-unreadable");
        program.folder().write("bill.zip", b"PK\x03\x04 and no more");
        let output = gateway(&program, &["reconcile", "bill.zip"]);
        assert_eq!(output.status.code(), Some(65), "{output:?}");
        assert!(output.stdout.is_empty());
        for no_file in ["nowhere.csv", "."] {
            assert_eq!(gateway(&program, &["reconcile", no_file]).status.code(), Some(1), "{no_file}");
        }
        program.folder().write("bill.zip", bill(&[]));
        let output = gateway(&program, &["reconcile", "--export", "nowhere", "bill.zip"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let output = gateway(&program, &["reconcile", "--config", "nowhere.toml", "bill.zip"]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert_eq!(
            gateway(&program, &["reconcile", "bill.zip"]).status.code(),
            Some(0),
            "a day without sales"
        );
    });
}
