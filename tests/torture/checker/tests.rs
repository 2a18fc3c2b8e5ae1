//! The checker finds what it is there for.

use super::*;

fn delivery(kind: Kind, trade: &str, began: i64, answer: Answer) -> Delivery {
    let suffix = match kind {
        Kind::Payment | Kind::Redelivery | Kind::Forged => "",
        Kind::Refund => "r",
        Kind::Finish => "f",
    };
    Delivery {
        kind,
        trade_no: trade.to_owned(),
        out_trade_no: format!("R{trade}"),
        notify_id: format!("n{trade}{suffix}"),
        traceparent: format!("{trade}-{began}"),
        began: Moment(began),
        ended: Moment(began + 10),
        answer,
    }
}

fn copy(id: &str, began: i64, arrived: i64) -> Copy {
    let trade = id.split('.').next().unwrap();
    Copy {
        message_id: format!("{APP_ID}.{id}"),
        arrived: Moment(arrived),
        published: Moment(0),
        traceparent: Some(format!("{trade}-{began}")),
        notify_id: format!("n{trade}"),
        redelivered: false,
        unchecked: false,
    }
}

fn recorded(copies: &[Copy]) -> Vec<String> {
    copies.iter().map(|copy| copy.message_id.clone()).collect()
}

/// A payment that was announced, killed at 105 and up again at 300.
fn chronicle(deliveries: Vec<Delivery>, copies: Vec<Copy>) -> Chronicle {
    let kill = Interruption::Kill { what: "kill".to_owned(), at: Moment(110), until: Moment(300) };
    Chronicle { recorded: recorded(&copies), deliveries, copies, interruptions: vec![kill] }
}

#[test]
fn an_undisturbed_payment_is_clean() {
    let report = chronicle(
        vec![delivery(Kind::Payment, "1", 100, Answer::Success)],
        vec![copy("1.payment.succeeded", 100, 105)],
    )
    .check();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.attempted, report.acknowledged, report.copies), (1, 1, 1));
}

#[test]
fn what_was_acknowledged_and_is_not_in_the_queue_is_lost() {
    let mut chronicle = chronicle(vec![delivery(Kind::Refund, "1", 100, Answer::Success)], vec![]);
    assert_eq!(chronicle.check().lost, ["n1r"]);
    chronicle.copies = vec![copy("1.payment.succeeded", 100, 105)];
    let report = chronicle.check();
    assert_eq!((report.lost.len(), report.unexpected.len()), (1, 1));
}

#[test]
fn a_copy_on_each_side_of_a_kill_is_inside_the_windows() {
    let report = chronicle(
        vec![
            delivery(Kind::Payment, "1", 100, Answer::None),
            delivery(Kind::Payment, "1", 400, Answer::Success),
        ],
        vec![copy("1.payment.succeeded", 100, 105), copy("1.payment.succeeded", 400, 405)],
    )
    .check();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.inside["kill"], report.inside()), (1, 1));
}

#[test]
fn two_copies_of_one_life_are_outside() {
    for (first, second) in [(100, 200), (400, 500)] {
        let report = chronicle(
            vec![
                delivery(Kind::Payment, "1", first, Answer::None),
                delivery(Kind::Payment, "1", second, Answer::Success),
            ],
            vec![
                copy("1.payment.succeeded", first, first + 5),
                copy("1.payment.succeeded", second, second + 5),
            ],
        )
        .check();
        assert_eq!(report.outside.len(), 1, "{report:?}");
    }
}

#[test]
fn a_copy_of_a_delivery_after_success_is_outside_whatever_died_between() {
    let report = chronicle(
        vec![
            delivery(Kind::Payment, "1", 100, Answer::Success),
            delivery(Kind::Redelivery, "1", 400, Answer::Success),
        ],
        vec![copy("1.payment.succeeded", 100, 105), copy("1.payment.succeeded", 400, 405)],
    )
    .check();
    assert_eq!(report.outside.len(), 1, "{report:?}");
}

#[test]
fn a_copy_that_says_that_the_store_was_not_asked_is_inside() {
    let mut unchecked = copy("1.payment.succeeded", 500, 505);
    unchecked.unchecked = true;
    let report = chronicle(
        vec![
            delivery(Kind::Payment, "1", 400, Answer::Success),
            delivery(Kind::Redelivery, "1", 500, Answer::Success),
        ],
        vec![copy("1.payment.succeeded", 400, 405), unchecked],
    )
    .check();
    assert_eq!((report.inside(), report.is_clean()), (1, true), "{report:?}");
}

#[test]
fn three_copies_need_two_interruptions() {
    let copies = vec![
        copy("1.payment.succeeded", 100, 105),
        copy("1.payment.succeeded", 400, 405),
        copy("1.payment.succeeded", 500, 505),
    ];
    let deliveries = vec![
        delivery(Kind::Payment, "1", 100, Answer::None),
        delivery(Kind::Payment, "1", 400, Answer::None),
        delivery(Kind::Payment, "1", 500, Answer::Success),
    ];
    let mut chronicle = chronicle(deliveries, copies);
    let report = chronicle.check();
    assert_eq!((report.inside(), report.outside.len()), (1, 1), "{report:?}");
    chronicle.interruptions.push(Interruption::Fault {
        what: "cut".to_owned(),
        from: Moment(404),
        until: Moment(450),
    });
    let report = chronicle.check();
    assert_eq!((report.inside(), report.is_clean()), (2, true), "{report:?}");
}

#[test]
fn what_nobody_attempted_is_unexpected() {
    let report = chronicle(
        vec![
            delivery(Kind::Payment, "1", 100, Answer::Success),
            delivery(Kind::Forged, "2", 100, Answer::Fail),
        ],
        vec![
            copy("1.payment.succeeded", 100, 105),
            copy("1.payment.conflict", 100, 105),
            copy("2.payment.succeeded", 100, 105),
        ],
    )
    .check();
    assert_eq!(report.unexpected.len(), 2, "{report:?}");
}

#[test]
fn a_finish_is_there_as_itself_or_as_the_payment_that_it_announced() {
    let finish = || vec![delivery(Kind::Finish, "1", 100, Answer::Success)];
    assert!(chronicle(finish(), vec![copy("1.trade.finished", 100, 105)]).check().is_clean());
    let refused = chronicle(vec![delivery(Kind::Finish, "1", 100, Answer::Fail)], vec![]);
    assert_eq!(refused.check().unannounced, ["n1f"]);
    let mut payment = copy("1.payment.succeeded", 100, 105);
    let refused = vec![delivery(Kind::Finish, "1", 100, Answer::Fail)];
    assert_eq!(chronicle(refused, vec![payment.clone()]).check().merged, 1);
    assert_eq!(chronicle(finish(), vec![payment.clone()]).check().lost, ["n1f"]);
    payment.notify_id = "n1f".to_owned();
    assert!(chronicle(finish(), vec![payment]).check().is_clean());
}

#[test]
fn what_was_never_acknowledged_is_recovered_or_unannounced() {
    let deliveries = || {
        vec![delivery(Kind::Payment, "1", 100, Answer::None), delivery(Kind::Payment, "1", 400, Answer::Fail)]
    };
    let report = chronicle(deliveries(), vec![copy("1.payment.succeeded", 400, 5000)]).check();
    assert_eq!((report.recovered, report.is_clean()), (1, true));
    assert_eq!(chronicle(deliveries(), vec![]).check().unannounced, ["n1"]);
    let report = chronicle(deliveries()[..1].to_vec(), vec![]).check();
    assert_eq!((report.unheard, report.is_clean()), (1, true));
}

#[test]
fn the_store_may_neither_claim_too_much_nor_forget() {
    let mut chronicle = chronicle(
        vec![delivery(Kind::Payment, "1", 100, Answer::Success)],
        vec![copy("1.payment.succeeded", 100, 105)],
    );
    chronicle.recorded.push(format!("{APP_ID}.2.payment.succeeded"));
    assert_eq!(chronicle.check().false_records.len(), 1);
    chronicle.recorded.clear();
    assert_eq!(chronicle.check().forgotten, ["n1"]);
}
