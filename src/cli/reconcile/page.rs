//! What `reconcile` prints: a screen for people, with what to do about each kind of finding; or one JSON object.

use std::io::{self, Write};

use serde::Serialize;

use super::bill::{Bill, Kind};
use super::comparison::{Finding, Report, What, counts};

pub(super) fn text(bill: &Bill, report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let (payments, refunds) = (bill.count(Kind::Payment), bill.count(Kind::Refund));
    writeln!(out, "bill     {}", bill.names.join(", "))?;
    writeln!(out, "         {payments} payments, {refunds} refunds, {} lines of other kinds", bill.others)?;
    writeln!(out, "compared {}", report.compared)?;
    for (count, why) in [
        (report.too_old, "older than the store's memory (store.retention): not compared"),
        (report.too_new, "so new that their notification may still come: not compared"),
        (
            report.amount_unknown,
            "announced payments or refunds whose amount cannot be compared: give the bills from the payment's day on, too",
        ),
        (report.repeated, "lines given more than once: counted once"),
        (
            report.not_looked_for,
            "announced payments or refunds that were not found in a bill that is not whole: nothing is said of them",
        ),
    ] {
        if count > 0 {
            writeln!(out, "         {count} {why}")?;
        }
    }
    if let Some(why) = report.why_none_was_looked_for {
        writeln!(
            out,
            "         announced payments or refunds that are not in the bill: not looked for, because {why}"
        )?;
    }
    for fault in &bill.faults {
        writeln!(out, "UNREADABLE  {}", plain(fault))?;
    }
    for (what, count) in counts(report) {
        if count > 0 {
            writeln!(out, "\n{} ({count})", title(what))?;
            report.of(what).try_for_each(|finding| line(finding, out))?;
            if what == What::NotInTheBill && report.unlisted > 0 {
                writeln!(out, "  … and {} more, which are not listed", report.unlisted)?;
            }
            writeln!(out, "  What to do: {}", advice(what))?;
        }
    }
    if report.is_clean() && bill.is_whole() && report.compared > 0 {
        writeln!(out, "\nEverything that was compared agrees.")?;
    }
    if report.is_clean() && report.amount_unknown > 0 {
        let count = report.amount_unknown;
        writeln!(
            out,
            "\nOf {count} payments or refunds it is known that they were announced, and not with which amount."
        )?;
    }
    Ok(())
}

fn line(finding: &Finding, out: &mut dyn Write) -> io::Result<()> {
    let Finding { event_type, trade_no, out_trade_no, amount, completed_at, detail, .. } = finding;
    writeln!(out, "  {trade_no}  {event_type:<17}  {amount:>10}  {completed_at}  {}", plain(out_trade_no))?;
    writeln!(out, "    {}", plain(detail))
}

/// Without what a terminal would obey: the bill is not trusted.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn title(what: What) -> &'static str {
    match what {
        What::NeverNotified => "IN THE BILL, AND NEVER NOTIFIED",
        What::Unannounced => "NOTIFIED, AND NOT ANNOUNCED",
        What::Differs => "AMOUNTS (OR ORDERS) THAT DIFFER",
        What::NotInTheBill => "ANNOUNCED, AND NOT IN THE BILL",
        What::Decided => "Not announced, as the operator decided",
    }
}

fn advice(what: What) -> &'static str {
    match what {
        What::NeverNotified => {
            "ask Alipay for each of them (alipay.trade.query, by out_trade_no) and settle the order by the \
             answer; its notification is not to be made up. Then why none came: the notify_url of the order, \
             the app (a bill has all apps of the account), and `rejections_total` of that day."
        }
        What::Unannounced => {
            "deferred and in_doubt go out by themselves when the broker takes them: see /readyz. What is held \
             waits for you: `trade TRADE_NO`, then `trade release` or `trade drop`. If an order cannot wait, \
             settle it by alipay.trade.query; the event is still to come, and is dropped by its message_id \
             or by the order's state."
        }
        What::Differs => {
            "stop the order if it is not delivered yet, and ask Alipay (alipay.trade.query): the bill and that \
             answer are the money. Then `trade TRADE_NO`, and the event in the consumer's own records."
        }
        What::NotInTheBill => {
            "ask Alipay at once (alipay.trade.query; of a refund alipay.trade.fastpay.refund.query). If it does \
             not know the trade or the refund, somebody has signed with a key that you believe: take the key \
             out of apps[].alipay_public_keys, and see SECURITY.md."
        }
        What::Decided => "nothing, if it was right.",
    }
}

#[derive(Serialize)]
struct Page<'a> {
    bills: &'a [String],
    account: Option<&'a str>,
    payments: u64,
    refunds: u64,
    other_lines: u64,
    faults: &'a [String],
    #[serde(flatten)]
    report: &'a Report,
    clean: bool,
}

pub(super) fn json(bill: &Bill, report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let page = Page {
        bills: &bill.names,
        account: bill.account.as_deref(),
        payments: bill.count(Kind::Payment),
        refunds: bill.count(Kind::Refund),
        other_lines: bill.others,
        faults: &bill.faults,
        report,
        clean: report.is_clean() && bill.is_whole(),
    };
    serde_json::to_writer(&mut *out, &page)?;
    writeln!(out)
}
