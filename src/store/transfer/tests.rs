use super::*;
use crate::event::Money;

fn recorded() -> Entry {
    Entry {
        key: Key { subject: "T".to_owned(), id: "A.T.payment.succeeded".to_owned() },
        state: State::Recorded,
        event_type: Some("payment.succeeded".to_owned()),
        digest: Some(Digest::of(b"o", Money::parse(b"1.00"), b"s", None)),
        notify_id: "n".to_owned(),
        first_at: Timestamp::from_unix_millis(1001),
        at: Timestamp::from_unix_millis(2002),
        attempts: 3,
        expires_at: Some(Timestamp::from_unix_millis(86_400_000)),
        reason: None,
        payment_time: None,
        content: None,
    }
}

fn held() -> Entry {
    Entry {
        key: Key { subject: "T".to_owned(), id: "A.held.n".to_owned() },
        state: State::Held,
        event_type: None,
        digest: None,
        reason: Some("seller".to_owned()),
        expires_at: None,
        content: Some(b"a=1&b=\xff".to_vec()),
        ..recorded()
    }
}

const SINCE: Timestamp = Timestamp::from_unix_millis(5005);

fn written(entries: &[Entry]) -> String {
    let mut text = Vec::new();
    let mut writer = Writer::begin(&mut text, Timestamp::from_unix_millis(0), SINCE).unwrap();
    for entry in entries {
        writer.add(entry).unwrap();
    }
    writer.end().unwrap();
    String::from_utf8(text).unwrap()
}

fn back(text: &str) -> Result<Vec<Entry>, TransferError> {
    let mut entries = Vec::new();
    read(text.as_bytes(), |entry| {
        entries.push(entry);
        Ok(())
    })?;
    Ok(entries)
}

#[test]
fn what_is_written_is_read_again_to_the_byte() {
    let entries = [recorded(), held(), Entry { state: State::Dropped, ..recorded() }];
    assert_eq!(back(&written(&entries)).unwrap(), entries);
}

#[test]
fn since_when_nothing_is_missing_is_told_where_it_is_known() {
    let since = |text: &str| read(text.as_bytes(), |_| Ok(())).map(|contents| contents.complete_since);
    let text = written(&[]);
    assert_eq!(since(&text).unwrap(), SINCE);
    let told = r#","complete_since":"1970-01-01T00:00:05.005Z""#;
    assert_eq!(since(&text.replace(told, "")).unwrap(), Timestamp::default(), "an earlier version wrote it");
    let wrong = since(&text.replace("05.005Z", "yesterday")).unwrap_err();
    assert!(matches!(wrong, TransferError::Line(1, _)), "{wrong}");
    let mut unknown = Vec::new();
    Writer::begin(&mut unknown, SINCE, Timestamp::default()).unwrap().end().unwrap();
    assert!(!String::from_utf8(unknown).unwrap().contains("complete_since"));
}

#[test]
fn the_form_is_the_documented_one() {
    let text = written(&[recorded(), held()]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        r#"{"format":"alipay-notify-gateway-store","version":1,"at":"1970-01-01T00:00:00Z","complete_since":"1970-01-01T00:00:05.005Z"}"#
    );
    assert!(
        lines[1].starts_with(
            r#"{"subject":"T","id":"A.T.payment.succeeded","state":"recorded","notify_id":"n","#
        )
    );
    assert!(lines[2].ends_with(r#""reason":"seller","body_base64":"YT0xJmI9/w=="}"#), "{}", lines[2]);
    assert_eq!(lines[3], r#"{"entries":2}"#);
}

#[test]
fn a_file_that_was_cut_short_or_is_another_is_not_taken() {
    let whole = written(&[recorded(), held()]);
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    for broken in [
        String::new(),
        lines[..3].concat(),
        lines[..2].concat(),
        whole.trim_end().to_owned(),
        lines[1..].concat(),
        [lines[0], lines[1], lines[3]].concat(),
        format!("{whole}{}", lines[1]),
        whole.replacen("\"version\":1", "\"version\":2", 1),
        whole.replacen("recorded", "believed", 1),
        whole.replacen("attempts", "retries", 1),
    ] {
        assert!(matches!(back(&broken), Err(TransferError::Line(..))), "{broken}");
    }
}

#[test]
fn what_waits_must_be_something_that_can_be_announced() {
    assert_eq!(fault(&recorded()), None);
    assert_eq!(fault(&held()), None);
    assert!(fault(&Entry { state: State::Deferred, ..recorded() }).is_some());
    assert!(fault(&Entry { content: None, ..held() }).is_some());
    assert!(fault(&Entry { expires_at: None, ..recorded() }).is_some());
    let message = r#"{"id":"A.T.payment.succeeded","event_type":"payment.succeeded","app_id":"A","subject":"T",
        "time":"2026-11-23T10:15:31+08:00","digest":"00","environment":"production","unchecked":false,
        "traceparent":null,"body":"{\"event_id\":\"A.T.payment.succeeded\",\"event_type\":\"payment.succeeded\",\"trade_no\":\"T\",\"out_trade_no\":\"o\",\"total_amount\":\"1.00\",\"seller_id\":\"s\"}"}"#;
    let waits = Entry {
        state: State::Deferred,
        expires_at: None,
        content: Some(message.replace("\n        ", "").into_bytes()),
        ..recorded()
    };
    assert_eq!(fault(&waits), None);
    let message: Message = serde_json::from_slice(waits.content.as_ref().unwrap()).unwrap();
    assert!(message.agrees_with(&waits.digest.unwrap()));
    assert!(!message.agrees_with(&Digest::of(b"o", Money::parse(b"1.01"), b"s", None)));
    assert!(back(&written(std::slice::from_ref(&waits))).unwrap().iter().all(|entry| fault(entry).is_none()));
    let other = Key { subject: "T".to_owned(), id: "A.T.trade.closed".to_owned() };
    assert!(fault(&Entry { key: other, ..waits }).is_some());
}
