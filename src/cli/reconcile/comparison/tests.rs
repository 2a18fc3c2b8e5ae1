//! Bills and what is kept, beside each other: which event answers for which line, and what cannot be said.

use super::*;
use crate::event::EventId;

const APP: &str = "2021000000000001";
const SELLER: &str = "2088101117955611";
const TRADE: &str = "2026112322001427340000000001";
const ORDER: &str = "R-1";

fn at(day: u8, hour: u8) -> Timestamp {
    Timestamp::from_beijing((2026, 11, day), (hour, 0, 0, 0)).unwrap()
}

fn row(kind: Kind, amount: u64, completed_at: Timestamp, request_no: &str) -> Row {
    Row {
        completed_at,
        kind,
        trade_no: TRADE.to_owned(),
        out_trade_no: ORDER.to_owned(),
        amount: Money::from_minor(amount),
        request_no: request_no.to_owned(),
        earlier: 0,
    }
}

/// 100.00, paid at noon of the 23rd.
fn paid() -> Row {
    row(Kind::Payment, 10_000, at(23, 12), "")
}

fn refund(amount: u64, hour: u8, request_no: &str) -> Row {
    row(Kind::Refund, amount, at(23, hour), request_no)
}

/// A bill of the days from the 23rd on.
fn bill(days: u8, rows: &[Row]) -> Bill {
    let periods = vec![(at(23, 0), at(23 + days, 0))];
    Bill { account: Some(format!("{SELLER}0156")), periods, rows: rows.to_vec(), ..Bill::default() }
}

fn entry(id: &EventId, event_type: EventType, fee: u64) -> Entry {
    let digest = Digest::of(
        ORDER.as_bytes(),
        Some(Money::from_minor(10_000)),
        SELLER.as_bytes(),
        Some(Money::from_minor(fee)),
    );
    Entry {
        key: id.key().clone(),
        state: State::Recorded,
        event_type: Some(event_type.as_str().to_owned()),
        digest: Some(digest),
        notify_id: "n".to_owned(),
        first_at: at(23, 13),
        at: at(23, 13),
        attempts: 1,
        expires_at: None,
        reason: None,
        payment_time: None,
        content: None,
    }
}

fn payment_event() -> Entry {
    entry(&EventId::of_trade(APP, TRADE, EventType::PaymentSucceeded), EventType::PaymentSucceeded, 0)
}

/// Of a refund with a number, with Alipay's figure.
fn named(request_no: &str, fee: u64) -> Entry {
    entry(&EventId::of_refund(APP, TRADE, request_no.as_bytes()), EventType::PaymentRefunded, fee)
}

/// Of a refund without one.
fn unnamed(fee: u64) -> Entry {
    unnamed_at(13, fee)
}

fn unnamed_at(hour: u8, fee: u64) -> Entry {
    let id = EventId::of_refund_at(APP, TRADE, format!("2026-11-23 {hour}:00:00.100").as_bytes(), fee);
    entry(&id, EventType::PaymentRefunded, fee)
}

fn compare(bill: &Bill, kept: &[Entry]) -> Report {
    compare_with(bill, kept, &[SELLER])
}

fn compare_with(bill: &Bill, kept: &[Entry], sellers: &[&str]) -> Report {
    let grounds = Grounds {
        as_of: at(29, 12),
        retention: Duration::from_secs(35 * 86_400),
        sellers: vec![(APP.to_owned(), sellers.iter().map(|seller| (*seller).to_owned()).collect())],
    };
    let mut comparison = Comparison::new(bill, grounds);
    kept.iter().for_each(|entry| comparison.take(entry));
    comparison.report()
}

/// What was found, as `what number`.
fn found(report: &Report) -> Vec<(What, &str)> {
    report.findings.iter().map(|finding| (finding.what, finding.amount.as_str())).collect()
}

#[test]
fn a_refund_agrees_with_the_total_so_far_and_with_its_own_amount_and_with_no_other_figure() {
    let bill = bill(1, &[paid(), refund(3000, 13, "R1"), refund(2000, 14, "R2"), refund(1000, 15, "R3")]);
    let figures = |second: u64| {
        compare(&bill, &[payment_event(), named("R1", 3000), named("R2", second), named("R3", 6000)])
    };
    for right in [5000, 2000] {
        let report = figures(right);
        assert!(report.is_clean(), "{right}: {report:?}");
        assert_eq!((report.compared, report.amount_unknown), (4, 0));
    }
    // The totals after the other refunds are not this one's, and neither is anything else.
    for wrong in [3000, 6000, 0, 2001, 10_000] {
        assert_eq!(found(&figures(wrong)), [(What::Differs, "20.00")], "{wrong}");
    }
}

#[test]
fn refunds_of_one_second_may_have_been_in_either_order() {
    let both = [paid(), refund(3000, 13, "R1"), refund(2000, 13, "R2"), refund(100, 14, "R3")];
    let bill = bill(1, &both);
    for (first, second) in [(3000, 5000), (5000, 2000)] {
        let kept = [payment_event(), named("R1", first), named("R2", second), named("R3", 5100)];
        assert!(compare(&bill, &kept).is_clean(), "{first} {second}");
    }
    let kept = [payment_event(), named("R1", 5100), named("R2", 5000), named("R3", 5100)];
    assert_eq!(found(&compare(&bill, &kept)), [(What::Differs, "30.00")]);
}

#[test]
fn a_notification_without_a_number_answers_for_the_one_refund_that_its_figure_fits() {
    let bill = bill(1, &[paid(), refund(300, 13, "X"), refund(4000, 14, "Y")]);
    let never = |kept: &[Entry]| {
        found(&compare(&bill, kept))
            .iter()
            .map(|(what, amount)| {
                assert_eq!(*what, What::NeverNotified);
                (*amount).to_owned()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(never(&[payment_event(), unnamed(300)]), ["40.00"], "it is the first one's");
    assert_eq!(never(&[payment_event(), unnamed(4300)]), ["3.00"], "the total is the second one's");
    assert_eq!(never(&[payment_event(), unnamed(4000)]), ["3.00"], "the amount is the second one's");
    assert_eq!(never(&[payment_event(), unnamed(9900)]), ["3.00", "40.00"], "it is nobody's");
    assert!(never(&[payment_event(), unnamed(300), unnamed(4300)]).is_empty());
    assert!(never(&[payment_event(), unnamed(300), named("Y", 4300)]).is_empty());
    // It fits both, and is one's.
    let alike = self::bill(1, &[paid(), refund(300, 13, "X"), refund(300, 14, "Y")]);
    assert_eq!(found(&compare(&alike, &[payment_event(), unnamed(300)])), [(What::NeverNotified, "3.00")]);
}

#[test]
fn a_notification_without_a_number_is_of_the_refund_of_its_second_before_any_other_that_its_figure_fits() {
    let missed = |rows: &[Row], kept: &[Entry]| {
        let report = compare(&bill(1, rows), kept);
        report.findings.iter().map(|finding| finding.detail.clone()).collect::<Vec<_>>()
    };
    let alike = [paid(), refund(300, 13, "X"), refund(300, 14, "Y")];
    for (hour, other) in [(13, "Y"), (14, "X")] {
        let details = missed(&alike, &[payment_event(), unnamed_at(hour, 300)]);
        assert_eq!(details, [format!("no notification of the refund {other} was seen")]);
    }
    // 800 fits the second as the total, and is the third's own.
    let rows = [paid(), refund(500, 13, "X"), refund(300, 14, "Y"), refund(800, 15, "Z")];
    let own = [payment_event(), unnamed_at(15, 800), unnamed_at(14, 300), unnamed_at(13, 500)];
    assert_eq!(missed(&rows, &own), Vec::<String>::new());
}

#[test]
fn a_refund_whose_notification_names_no_fee_was_notified_and_is_told_as_that() {
    let bill = bill(1, &[paid(), refund(300, 13, "X"), refund(4000, 14, "Y")]);
    for kept in [[named("X", 0), named("Y", 4300)], [unnamed_at(13, 0), named("Y", 4300)]] {
        let report = compare(&bill, &[&[payment_event()][..], &kept].concat());
        assert_eq!(found(&report), [(What::Differs, "3.00")]);
        assert!(report.findings[0].detail.starts_with("the event names no refund_fee"));
    }
}

#[test]
fn refunds_without_a_number_that_look_alike_do_not_hide_one_another() {
    let twin = |earlier| Row { earlier, ..refund(300, 13, "") };
    let twice = bill(2, &[paid(), twin(0), twin(1), twin(0), twin(1)]);
    let one = [payment_event(), named("A", 300)];
    let report = compare(&twice, &one);
    assert_eq!((found(&report), report.repeated), (vec![(What::NeverNotified, "3.00")], 2));
    let both = [&one[..], &[named("B", 600)]].concat();
    assert!(compare(&twice, &both).is_clean());
}

#[test]
fn a_payment_first_heard_of_as_finished_is_not_called_another_for_what_was_given_back_on_a_day_without_a_bill()
 {
    let id = EventId::of_trade(APP, TRADE, EventType::PaymentSucceeded);
    let heard = |day, fee| [Entry { first_at: at(day, 13), ..entry(&id, EventType::PaymentSucceeded, fee) }];
    let outcome = |bill: &Bill, kept: &[Entry]| {
        let report = compare(bill, kept);
        (report.findings.len(), report.amount_unknown)
    };
    let one_day = bill(1, &[paid()]);
    assert_eq!(outcome(&one_day, &heard(27, 2000)), (0, 1));
    assert_eq!(outcome(&one_day, &heard(27, 0)), (0, 0), "nothing was given back");
    // While Alipay still tells of the payment it is the payment; and with all bills there is no such refund.
    assert_eq!(outcome(&one_day, &heard(24, 2000)), (1, 0));
    assert_eq!(outcome(&bill(5, &[paid()]), &heard(27, 2000)), (1, 0));
    let late = row(Kind::Refund, 2000, at(25, 9), "");
    assert_eq!(
        found(&compare(&bill(5, &[paid(), late]), &heard(27, 2000))),
        [(What::NeverNotified, "20.00")]
    );
}

#[test]
fn why_no_announced_payment_was_looked_for_in_the_bill_is_told() {
    let why = |bill: &Bill, sellers: &[&str]| {
        compare_with(bill, &[payment_event()], sellers).why_none_was_looked_for.unwrap_or_default()
    };
    let whole = bill(1, &[paid()]);
    assert_eq!(why(&whole, &[SELLER]), "");
    assert!(why(&whole, &[]).contains("apps[].seller_ids"));
    let nameless = Bill { account: None, ..bill(1, &[paid()]) };
    assert!(why(&nameless, &[SELLER]).contains("账号"));
    let names = vec!["one".to_owned(), "two".to_owned()];
    for timeless in [Bill { periods: vec![], ..bill(1, &[paid()]) }, Bill { names, ..bill(1, &[paid()]) }] {
        assert!(why(&timeless, &[SELLER]).contains("起始日期"));
    }
}

#[test]
fn a_line_without_a_number_is_answered_by_an_event_whose_figures_fit() {
    let bill = bill(1, &[paid(), refund(300, 13, ""), refund(4000, 14, "Y")]);
    assert!(compare(&bill, &[payment_event(), named("X", 300), named("Y", 4300)]).is_clean());
    let report = compare(&bill, &[payment_event(), named("X", 301), named("Y", 4300)]);
    assert_eq!(found(&report), [(What::NeverNotified, "3.00")]);
}

#[test]
fn a_bill_that_is_given_twice_counts_once() {
    let lines = [paid(), refund(3000, 13, "R1"), refund(2000, 14, "R2")];
    let twice = bill(1, &[&lines[..], &lines[..]].concat());
    let report = compare(&twice, &[payment_event(), named("R1", 3000), named("R2", 5000)]);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.compared, report.repeated), (3, 3));
}

#[test]
fn what_a_total_should_be_is_not_said_where_a_refund_before_it_is_in_no_bill() {
    // The bills of the 23rd and the 25th: what was given back on the 24th is not there.
    let late = row(Kind::Refund, 2000, at(25, 9), "R2");
    let mut gap = bill(1, &[paid(), late.clone()]);
    gap.periods.push((at(25, 0), at(26, 0)));
    let between = Entry { first_at: at(24, 13), ..named("R1", 3000) };
    let kept = [payment_event(), between.clone(), named("R2", 5000)];
    let report = compare(&gap, &kept);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.compared, report.amount_unknown), (1, 1));
    // Its own amount can be right without that.
    let own = [payment_event(), between, named("R2", 2000)];
    assert_eq!(compare(&gap, &own).amount_unknown, 0);
    // With the day between, it is all there; and the other refund is in none of them.
    gap.periods.push((at(24, 0), at(25, 0)));
    assert_eq!(found(&compare(&gap, &kept)), [(What::Differs, "20.00"), (What::NotInTheBill, "")]);
    // Bills that do not say of when they are: an event of which there is no line.
    gap.periods.clear();
    assert_eq!(compare(&gap, &kept).amount_unknown, 1);
    let alone = [payment_event(), named("R2", 5000)];
    assert_eq!(found(&compare(&gap, &alone)), [(What::Differs, "20.00")]);
    // A line of the trade that could not be read may be the refund.
    let mut unread = bill(3, &[paid(), late]);
    unread.unread.insert(TRADE.to_owned());
    assert_eq!(compare(&unread, &kept).amount_unknown, 1);
}

#[test]
fn a_refund_whose_payment_is_in_no_bill_is_known_to_be_announced_and_its_amount_is_not_compared() {
    let bill = bill(1, &[refund(2000, 14, "R2"), refund(100, 15, "R3")]);
    let report = compare(&bill, &[named("R2", 2000)]);
    assert_eq!(found(&report), [(What::NeverNotified, "1.00")]);
    assert_eq!((report.compared, report.amount_unknown), (1, 1));
    // One without a number is one's, and not both's.
    let report = compare(&bill, &[unnamed(7000)]);
    assert_eq!((found(&report).len(), report.amount_unknown), (1, 1));
    // A total is no less than what it is the total of.
    assert_eq!(found(&compare(&bill, &[unnamed(99)])).len(), 2);
}

#[test]
fn what_the_operator_dropped_is_decided_and_nothing_is_to_be_done() {
    let bill = bill(1, &[paid(), refund(2000, 14, "R2")]);
    let dropped =
        |entry: Entry| Entry { state: State::Dropped, reason: Some("a test's".to_owned()), ..entry };
    let report = compare(&bill, &[dropped(payment_event()), dropped(named("R2", 2000))]);
    assert_eq!(found(&report), [(What::Decided, "100.00"), (What::Decided, "20.00")]);
    assert!(report.is_clean() && report.findings[0].detail.contains("a test's"));
}

#[test]
fn what_was_held_and_dropped_is_taken_for_nothing_that_the_bill_has() {
    let bill = bill(1, &[paid(), refund(2000, 14, "R2")]);
    let dropped = Entry { state: State::Dropped, event_type: None, digest: None, ..payment_event() };
    let report = compare(&bill, &[dropped.clone(), named("R2", 2000)]);
    assert_eq!(found(&report), [(What::Unannounced, "100.00")]);
    assert!(!report.is_clean() && report.findings[0].detail.contains("alipay.trade.query"));
    let of_the_refund =
        Entry { key: crate::event::Key { id: "held".to_owned(), ..dropped.key.clone() }, ..dropped };
    let report = compare(&bill, &[payment_event(), of_the_refund]);
    assert_eq!(found(&report), [(What::Unannounced, "20.00")]);
}

/// A payment of another trade, which no bill has.
fn elsewhere(trade_no: &str, first_at: Timestamp) -> Entry {
    let id = EventId::of_trade(APP, trade_no, EventType::PaymentSucceeded);
    Entry { first_at, ..entry(&id, EventType::PaymentSucceeded, 0) }
}

#[test]
fn a_payment_is_missed_in_a_bill_only_where_it_must_have_been_in_it() {
    const OTHER: &str = "2026112322001427340000000002";
    let one_day = bill(1, &[paid()]);
    let missed = |bill: &Bill, entry: Entry, sellers: &[&str]| {
        let report = compare_with(bill, &[payment_event(), entry], sellers);
        found(&report).iter().any(|(what, _)| *what == What::NotInTheBill)
    };
    let midnight =
        |before: u64| Timestamp::from_unix_millis(at(24, 0).unix_millis() - before as i64 * 60_000);
    assert!(missed(&one_day, elsewhere(OTHER, midnight(6)), &[SELLER]));
    // Two clocks: Alipay may have counted it to the next day.
    assert!(!missed(&one_day, elsewhere(OTHER, midnight(4)), &[SELLER]));
    // A trade of the day before may have been paid then.
    assert!(!missed(&one_day, elsewhere("2026112222001427340000000002", midnight(6)), &[SELLER]));
    assert!(!missed(&one_day, elsewhere("29991399", midnight(6)), &[SELLER]), "no date is in its number");
    // The app sells for another account, too; or for another alone.
    for another in ["2088000000000042", "2088999999999999"] {
        assert!(!missed(&one_day, elsewhere(OTHER, midnight(6)), &[SELLER, another]));
    }
    assert!(!missed(&one_day, elsewhere(OTHER, midnight(6)), &["2088000000000042"]));
    let waits = Entry { state: State::Deferred, ..elsewhere(OTHER, midnight(6)) };
    assert!(!missed(&one_day, waits, &[SELLER]), "it is not announced");
}

#[test]
fn a_refund_is_missed_in_a_bill_only_where_it_must_have_been_in_it() {
    let refunded = |trade_no: &str, number: &str, first_at| {
        let id = EventId::of_refund(APP, trade_no, number.as_bytes());
        Entry { first_at, ..entry(&id, EventType::PaymentRefunded, 2000) }
    };
    let missed = |bill: &Bill, refund: Entry| {
        let report = compare(bill, &[payment_event(), named("R1", 2000), refund]);
        report
            .of(What::NotInTheBill)
            .map(|finding| (finding.event_type, finding.trade_no.clone()))
            .collect::<Vec<_>>()
    };
    let day = at(23, 20);
    let billed = [paid(), refund(2000, 14, "R1")];
    let one_day = bill(1, &billed);
    // Of a trade that the bill has, and of one that it does not.
    for trade_no in [TRADE, "2026112322001427340000000002"] {
        let told = missed(&one_day, refunded(trade_no, "R2", day));
        assert_eq!(told, [("payment.refunded", trade_no.to_owned())]);
    }
    // It may have been given back on another day, or be of another bill.
    let before = "2026112222001427340000000002";
    assert!(missed(&one_day, refunded(before, "R2", day)).is_empty());
    assert!(missed(&one_day, refunded(TRADE, "R2", at(24, 0))).is_empty());
    assert!(missed(&one_day, Entry { state: State::Deferred, ..refunded(TRADE, "R2", day) }).is_empty());
    let mut two_days = bill(1, &billed);
    two_days.periods.push((at(22, 0), at(23, 0)));
    assert_eq!(missed(&two_days, refunded(before, "R2", day)).len(), 1);
    let mut with_a_hole = bill(1, &billed);
    with_a_hole.periods.push((at(21, 0), at(22, 0)));
    assert!(missed(&with_a_hole, refunded("2026112122001427340000000002", "R2", day)).is_empty());
    // A line of its trade that nobody has answered for may be its own, under another number.
    let unanswered = bill(1, &[paid(), refund(2000, 14, "R1"), refund(1000, 15, "R-2")]);
    let report = compare(&unanswered, &[payment_event(), named("R1", 2000), named("R2", 3000)]);
    assert_eq!(found(&report), [(What::NeverNotified, "10.00")]);
    // Nothing is said where not all was read.
    let mut damaged = bill(1, &billed);
    damaged.unread.insert(TRADE.to_owned());
    assert!(missed(&damaged, refunded(TRADE, "R2", day)).is_empty());
    damaged.names_every_trade = false;
    damaged.unread.clear();
    let report = compare(&damaged, &[payment_event(), named("R1", 2000), refunded(TRADE, "R2", day)]);
    assert!(report.is_clean() && report.not_looked_for == 1, "{report:?}");
}

#[test]
fn how_many_more_are_not_in_the_bill_than_are_listed_is_told() {
    let bill = bill(1, &[paid()]);
    let others = (0..MAX_UNBILLED + 3).map(|at| format!("2026112322001427341{at:09}"));
    let others: Vec<Entry> = others.map(|number| elsewhere(&number, at(23, 13))).collect();
    let report = compare(&bill, &[vec![payment_event()], others].concat());
    assert_eq!((report.of(What::NotInTheBill).count(), report.unlisted), (MAX_UNBILLED, 3));
    assert!(!report.is_clean());
    let (mut text, mut json) = (Vec::new(), Vec::new());
    super::super::page::text(&bill, &report, &mut text).unwrap();
    assert!(String::from_utf8(text).unwrap().contains("and 3 more, which are not listed"));
    super::super::page::json(&bill, &report, &mut json).unwrap();
    assert!(String::from_utf8(json).unwrap().contains("\"unlisted\":3"));
}

#[test]
fn a_line_that_could_not_be_read_does_not_make_its_trade_one_that_nobody_paid() {
    const OTHER: &str = "2026112322001427340000000002";
    let kept = [payment_event(), elsewhere(OTHER, at(23, 13))];
    let mut whole = bill(1, &[paid()]);
    assert_eq!(found(&compare(&whole, &kept)).len(), 1);
    whole.unread.insert(OTHER.to_owned());
    assert!(compare(&whole, &kept).is_clean());
    whole.unread.clear();
    whole.names_every_trade = false;
    let report = compare(&whole, &kept);
    assert!(report.is_clean());
    assert_eq!(report.not_looked_for, 1);
}
