//! The fields of a notification: which are known, what their grammar is, and how their bytes become text for
//! people. Nothing here is asked before the signature has been verified, except which app it claims.

use std::borrow::Cow;

use encoding_rs::{Encoding, GB18030, UTF_8};

use super::form::Form;
use crate::clock::Timestamp;

/// Decodes values into text, in the charset that the notification names (protocol.md §1).
#[derive(Debug, Clone, Copy)]
pub struct Charset(&'static Encoding);

impl Charset {
    /// The notification's charset. Absent or unknown: UTF-8 where every value is that, else GB18030, which
    /// holds GBK and is the only other one that was ever seen.
    pub fn of(form: &Form) -> Self {
        // A charset in which ASCII bytes mean something else cannot be that of a form.
        let named =
            form.value("charset").and_then(Encoding::for_label).filter(|named| named.is_ascii_compatible());
        Self(named.unwrap_or_else(|| {
            // Whoever sends a body on may have added one that is not signed (attacks.md, 22).
            let mut texts = form.parameters().filter(|(name, _)| *name != b"alipay_cert_sn");
            let all_utf8 = texts.all(|(_, value)| std::str::from_utf8(value).is_ok());
            if all_utf8 { UTF_8 } else { GB18030 }
        }))
    }

    /// Whether it is UTF-8.
    pub fn is_utf8(&self) -> bool {
        self.0 == UTF_8
    }

    /// The text of a value. `None` if the bytes are not of this charset.
    pub fn exact<'a>(&self, value: &'a [u8]) -> Option<Cow<'a, str>> {
        self.0.decode_without_bom_handling_and_without_replacement(value)
    }

    /// The text of a value, and whether something was lost.
    pub fn text<'a>(&self, value: &'a [u8]) -> (Cow<'a, str>, bool) {
        // The usual case, and the standard library is quicker at it.
        if self.0 == UTF_8
            && let Ok(text) = std::str::from_utf8(value)
        {
            return (Cow::Borrowed(text), false);
        }
        self.0.decode_without_bom_handling(value)
    }
}

/// `trade_no`: digits, beginning with a date (28 in every capture but one of 2014, which has 16).
pub fn trade_no(value: &[u8]) -> Option<&str> {
    let digits = (16..=64).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(value).ok() } else { None }
}

/// `seller_id`: digits (2088…).
pub fn seller_id(value: &[u8]) -> Option<&str> {
    let digits = value.len() <= 28 && value.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(value).ok() } else { None }
}

/// `notify_id`: up to 128 visible ASCII characters, none of which could hide a border between fields.
pub fn notify_id(value: &[u8]) -> Option<&str> {
    let plain = value.len() <= 128 && value.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'&');
    if plain { std::str::from_utf8(value).ok() } else { None }
}

/// `out_trade_no`, `out_biz_no`: the merchant's own numbers, up to 64 characters of the notification's
/// charset. No `&` (a border between fields could hide in it) and no control character or line separator.
pub fn merchant_number(charset: Charset, value: &[u8]) -> Option<()> {
    let text = charset.exact(value)?;
    let plain = text.chars().all(|character| {
        !character.is_control()
            && !matches!(character, '&' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffd}')
    });
    (plain && text.chars().count() <= 64).then_some(())
}

/// `yyyy-MM-dd HH:mm:ss`, with a fraction in some (`gmt_refund` has milliseconds), in UTC+8.
pub fn time(value: &[u8]) -> Option<Timestamp> {
    let (moment, fraction) = value.split_at_checked(19)?;
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b' ', h1, h2, b':', n1, n2, b':', s1, s2] = moment
    else {
        return None;
    };
    let pair = |tens: &u8, ones: &u8| Some(digit(*tens)? * 10 + digit(*ones)?);
    let year = i32::from(pair(y1, y2)?) * 100 + i32::from(pair(y3, y4)?);
    let date = (year, pair(m1, m2)?, pair(d1, d2)?);
    Timestamp::from_beijing(date, (pair(h1, h2)?, pair(n1, n2)?, pair(s1, s2)?, milliseconds(fraction)?))
}

/// The date at the head of a trade number, at its first moment.
pub fn trade_date(trade_no: &str) -> Option<Timestamp> {
    let [y1, y2, y3, y4, m1, m2, d1, d2] = *trade_no.as_bytes().first_chunk::<8>()?;
    let pair = |tens: u8, ones: u8| Some(digit(tens)? * 10 + digit(ones)?);
    let year = i32::from(pair(y1, y2)?) * 100 + i32::from(pair(y3, y4)?);
    Timestamp::from_beijing((year, pair(m1, m2)?, pair(d1, d2)?), (0, 0, 0, 0))
}

/// Whether a parameter tells who the buyer or user is: `event.buyer` decides what becomes of it.
pub fn is_personal(name: &[u8]) -> bool {
    name.starts_with(b"buyer_")
        || name.starts_with(b"payer_")
        || name.starts_with(b"alipay_user_")
        || name.starts_with(b"alipay_logon_")
        || name.starts_with(b"alipay_open_")
        || is_of_a_user(name)
}

/// Ids, log-ins and contacts of users in the kinds that are not about a trade (protocol.md §5). A pattern, because it is asked of
/// each parameter, twice.
const fn is_of_a_user(name: &[u8]) -> bool {
    matches!(
        name,
        b"external_logon_id"
            | b"external_user_id"
            | b"login_token"
            | b"real_name"
            | b"user_id"
            | b"open_id"
            | b"logon_id"
            | b"unique_id"
            | b"union_id"
            | b"phone"
            | b"mobile"
            | b"contactor"
            | b"cert_no"
            | b"user_name"
            | b"zm_open_id"
    )
}

fn milliseconds(fraction: &[u8]) -> Option<u16> {
    match fraction {
        [] => Some(0),
        [b'.', digits @ ..] if (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) => {
            let three = digits.iter().copied().chain(std::iter::repeat(b'0')).take(3);
            Some(three.fold(0, |sum, byte| sum * 10 + u16::from(byte - b'0')))
        }
        _ => None,
    }
}

fn digit(byte: u8) -> Option<u8> {
    byte.is_ascii_digit().then(|| byte - b'0')
}

/// Fields that a swallowed or split border could be about (protocol.md §4): the re-split check knows them.
pub const KNOWN_FIELDS: [&str; 48] = [
    "app_id",
    "auth_app_id",
    "body",
    "buyer_id",
    "buyer_logon_id",
    "buyer_open_id",
    "buyer_pay_amount",
    "charge_amount",
    "charge_flags",
    "charset",
    "fund_bill_list",
    "gmt_close",
    "gmt_create",
    "gmt_payment",
    "gmt_refund",
    "invoice_amount",
    "mdiscount_amount",
    "discount_amount",
    "merchant_app_id",
    "method",
    "msg_method",
    "notify_action_type",
    "notify_id",
    "notify_time",
    "notify_type",
    "out_biz_no",
    "out_trade_no",
    "passback_params",
    "point_amount",
    "receipt_amount",
    "refund_fee",
    "refund_status",
    "seller_email",
    "seller_id",
    "send_back_fee",
    "send_pay_date",
    "service",
    "settlement_id",
    "status",
    "subject",
    "timestamp",
    "total_amount",
    "trade_no",
    "trade_status",
    "trans_currency",
    "utc_timestamp",
    "version",
    "voucher_detail_list",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_strictly() {
        assert_eq!(
            time(b"2026-11-23 10:15:31").map(Timestamp::rfc3339_utc).as_deref(),
            Some("2026-11-23T02:15:31Z")
        );
        assert_eq!(time(b"2026-11-23 10:15:31.25").map(|at| at.unix_millis() % 1000), Some(250));
        assert_eq!(time(b"2026-11-23 10:15:31.250999").map(|at| at.unix_millis() % 1000), Some(250));
        for bad in [
            "",
            "2026-11-23",
            "2026-11-23T10:15:31",
            "2026-11-23 10:15:31.",
            "2026-11-23 10:15:31 ",
            " 2026-11-23 10:15:31",
            "2026-13-01 00:00:00",
            "2026-02-30 00:00:00",
            "2026-11-23 24:00:00",
            "2026-11-23 10:15:3a",
            "2026-11-23 10:15:31Z",
            "+026-11-23 10:15:31",
        ] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn identities_have_a_strict_grammar() {
        assert!(trade_no(b"2026112322001427340000000000").is_some());
        assert!(trade_no(b"2014011500000012").is_some());
        for bad in [
            &b"2026"[..],
            b"2026112322001427 40000000000",
            b"2026112322001427340000000000\0",
            b"a026112322001427340000000000",
        ] {
            assert_eq!(trade_no(bad), None);
        }
        assert!(notify_id(b"27d63b0f7da1e21d932b6ec9176a052ipa").is_some());
        for bad in [&b"a b"[..], b"a&gmt_refund=1", b"a\n", "通".as_bytes(), &[b'a'; 129]] {
            assert_eq!(notify_id(bad), None);
        }
        assert!(seller_id(b"2088101117955611").is_some());
        assert_eq!(seller_id(b"2088101117955611x"), None);
    }

    #[test]
    fn a_merchants_number_is_text_of_its_charset_without_controls() {
        let gbk = Charset::of(&Form::parse(b"charset=GBK").unwrap());
        let utf8 = Charset::of(&Form::parse(b"charset=utf-8").unwrap());
        assert!(merchant_number(gbk, b"R\xcd\xcb-1").is_some());
        assert!(merchant_number(utf8, "退款 1".as_bytes()).is_some());
        assert!(merchant_number(utf8, "退".repeat(64).as_bytes()).is_some());
        for bad in
            [&b"\xcd\xcb"[..], b"a\0", b"a\r\nb", "a\u{2028}b".as_bytes(), b"a&b=1", b"\xc0\x80", &[b'a'; 65]]
        {
            assert_eq!(merchant_number(utf8, bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_unnamed_charset_is_utf8_where_it_can_be_and_gb18030_where_not() {
        let text = |body: &[u8]| {
            let form = Form::parse(body).unwrap();
            let (text, lossy) = Charset::of(&form).text(form.value("s").unwrap());
            (text.into_owned(), lossy)
        };
        assert_eq!(text("s=商品".as_bytes()), ("商品".to_owned(), false));
        assert_eq!(text(b"s=\xc9\xcc\xc6\xb7"), ("商品".to_owned(), false));
        assert_eq!(text(b"charset=no-such&s=\xc9\xcc\xc6\xb7"), ("商品".to_owned(), false));
        assert_eq!(text(b"charset=GBK&s=\xc9\xcc\xc6\xb7"), ("商品".to_owned(), false));
        // Bytes that could be UTF-8 are what the notification says they are.
        assert_eq!(text("charset=GBK&s=测试".as_bytes()), ("娴嬭瘯".to_owned(), false));
        assert_eq!(text(b"charset=utf-8&s=\xc9"), ("\u{fffd}".to_owned(), true));
        assert_eq!(text(b"charset=UTF-16&s=ab"), ("ab".to_owned(), false));
        // A user-defined character of GBK, as one real capture has it.
        assert!(!text(b"charset=GBK&s=\xaf\xe4").1);
        // A byte-order mark is text like any other.
        assert_eq!(text("charset=utf-8&s=\u{feff}a".as_bytes()).0, "\u{feff}a");
    }

    #[test]
    fn the_date_of_a_trade_is_the_head_of_its_number() {
        assert_eq!(
            trade_date("2026112322001427340000000000").map(Timestamp::alipay).as_deref(),
            Some("2026-11-23 00:00:00")
        );
        assert_eq!(trade_date("2026139922001427340000000000"), None);
    }

    #[test]
    fn what_tells_who_the_buyer_is_is_personal() {
        for name in [
            "buyer_id",
            "buyer_open_id",
            "buyer_logon_id",
            "payer_user_id",
            "alipay_user_id",
            "alipay_logon_id",
            "phone",
        ] {
            assert!(is_personal(name.as_bytes()), "{name}");
        }
        for name in ["seller_id", "trade_no", "subject", "total_amount"] {
            assert!(!is_personal(name.as_bytes()), "{name}");
        }
    }
}
