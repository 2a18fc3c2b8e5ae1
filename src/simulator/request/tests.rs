//! Every mistake that is named is made here, by somebody who signs by hand.

use super::*;
use crate::signer::{Signer, page_pay};

const APP_ID: &str = "2021000000000001";

struct Merchant {
    signer: Signer,
    alipay: Signer,
    signatory: Signatory,
}

impl Merchant {
    fn new() -> Self {
        let (signer, alipay) = (Signer::generate().unwrap(), Signer::generate().unwrap());
        let key = |signer: &Signer| MerchantKey::read(&signer.public_line().unwrap()).unwrap();
        let signatory =
            Signatory { app_id: APP_ID.to_owned(), key: key(&signer), alipay: Some(key(&alipay)) };
        Self { signer, alipay, signatory }
    }

    fn judge(&self, parameters: &[(String, String)]) -> Result<PayRequest, Refusal> {
        judge(parameters, &self.signatory)
    }

    /// Signs what `content` makes of the parameters.
    fn signed(&self, content: impl Fn(&[(String, String)]) -> String) -> Vec<(String, String)> {
        let mut parameters = parameters();
        let sign = self.signer.sign(content(&parameters).as_bytes());
        parameters.push(("sign".to_owned(), sign));
        parameters
    }

    fn with(&self, name: &str, value: &str) -> Vec<(String, String)> {
        let mut parameters = parameters();
        parameters.retain(|(known, _)| known != name);
        parameters.push((name.to_owned(), value.to_owned()));
        let sign = self.signer.sign(request_content(&parameters).as_bytes());
        parameters.push(("sign".to_owned(), sign));
        parameters
    }
}

fn biz_content() -> Value {
    serde_json::json!({
        "out_trade_no": "R1-1",
        "total_amount": "88.88",
        "subject": "一杯咖啡 + 蛋糕",
        "product_code": "FAST_INSTANT_TRADE_PAY",
    })
}

/// In no order, as a careless merchant has them.
fn parameters() -> Vec<(String, String)> {
    [
        ("method", "alipay.trade.page.pay"),
        ("app_id", APP_ID),
        ("version", "1.0"),
        ("charset", "utf-8"),
        ("sign_type", "RSA2"),
        ("timestamp", "2026-11-23 10:15:31"),
        ("notify_url", "http://127.0.0.1:8080/alipay/notify?a=1&b=2"),
        ("biz_content", &biz_content().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

#[test]
fn a_request_that_is_as_it_should_be_is_taken() {
    let merchant = Merchant::new();
    let request = merchant.judge(&merchant.signed(request_content)).unwrap();
    assert_eq!((request.out_trade_no.as_str(), request.total_amount.minor()), ("R1-1", 8888));
    assert_eq!(request.notify_url, "http://127.0.0.1:8080/alipay/notify?a=1&b=2");
}

#[test]
fn what_pay_link_makes_is_taken_for_both_products() {
    let merchant = Merchant::new();
    for product in Product::ALL {
        let order = page_pay::Order {
            product,
            app_id: APP_ID.to_owned(),
            out_trade_no: "R1-1".to_owned(),
            total_amount: Money::from_minor(1),
            subject: "x".to_owned(),
            body: String::new(),
            timeout_express: "15m".to_owned(),
            passback_params: "a%3D1".to_owned(),
            quit_url: String::new(),
            notify_url: String::new(),
            return_url: String::new(),
            timestamp: "2026-11-23 10:15:31".to_owned(),
        };
        let url = order.sign(&merchant.signer).url("");
        let received: Vec<(String, String)> = serde_urlencoded::from_str(&url[1..]).unwrap();
        let request = merchant.judge(&received).unwrap();
        assert_eq!((request.product, request.passback_params.as_str()), (product, "a%3D1"));
    }
}

#[test]
fn each_way_of_signing_wrongly_is_named_alone() {
    let merchant = Merchant::new();
    let in_order = |parameters: &[(String, String)]| joined(parameters);
    let without_type = |parameters: &[(String, String)]| joined(&sorted(without(parameters, "sign_type")));
    let encoded = |parameters: &[(String, String)]| joined(&mapped(parameters, form_encoded));
    let as_space = |mut parameters: Vec<(String, String)>| {
        let sign = parameters.last_mut().unwrap();
        assert!(sign.1.contains('+'), "this signature has no +");
        sign.1 = sign.1.replace('+', " ");
        parameters
    };
    let by_alipay = {
        let mut parameters = parameters();
        let sign = merchant.alipay.sign(request_content(&parameters).as_bytes());
        parameters.push(("sign".to_owned(), sign));
        parameters
    };
    let twice: Vec<(String, String)> = merchant
        .signed(request_content)
        .into_iter()
        .map(|(name, value)| {
            let value = if name == "sign" { value } else { form_encoded(&value) };
            (name, value)
        })
        .collect();
    // Names the charset and the rest as they are: only what has something to encode is another.
    for (parameters, says) in [
        (merchant.signed(in_order), "sort them by name"),
        (merchant.signed(without_type), "sign_type was left out"),
        (merchant.signed(encoded), "before they were signed"),
        (as_space(with_a_plus(&merchant)), "arrived as a space"),
        (by_alipay, "ALIPAY's private key"),
        (twice, "percent-encoded twice"),
    ] {
        let refusal = merchant.judge(&parameters).unwrap_err();
        assert_eq!(refusal.code, "isv.invalid-signature", "{says}");
        assert_eq!(refusal.hints.len(), 1, "{says}: {:?}", refusal.hints);
        assert!(refusal.hints[0].en.contains(says), "{says}: {:?}", refusal.hints);
        assert!(refusal.string_to_sign.is_some());
    }
}

/// A signature with a plus in it, as most have.
fn with_a_plus(merchant: &Merchant) -> Vec<(String, String)> {
    (0..100)
        .map(|number| merchant.with("timestamp", &format!("2026-11-23 10:15:{number:02}")))
        .find(|parameters| parameters.last().unwrap().1.contains('+'))
        .unwrap()
}

#[test]
fn a_stranger_and_a_changed_link_are_refused_with_what_it_mostly_is() {
    let (merchant, stranger) = (Merchant::new(), Merchant::new());
    let mut changed = merchant.signed(request_content);
    changed[5].1 = "2026-11-23 10:15:32".to_owned();
    for parameters in [stranger.signed(request_content), changed] {
        let refusal = merchant.judge(&parameters).unwrap_err();
        assert_eq!(refusal.code, "isv.invalid-signature");
        assert!(refusal.hints[0].en.contains("not the other half"), "{:?}", refusal.hints);
    }
    let mut cut = merchant.signed(request_content);
    cut.last_mut().unwrap().1.truncate(172);
    assert!(merchant.judge(&cut).unwrap_err().hints[0].en.contains("of another key, or cut"));
    cut.last_mut().unwrap().1 = "%".to_owned();
    assert!(merchant.judge(&cut).unwrap_err().hints[0].en.contains("not base64"));
}

#[test]
fn what_is_missing_or_not_known_has_alipays_own_word() {
    let merchant = Merchant::new();
    for (name, code) in REQUIRED {
        let mut parameters = merchant.signed(request_content);
        parameters.retain(|(known, _)| known != name);
        assert_eq!(merchant.judge(&parameters).unwrap_err().code, code, "{name}");
    }
    for (name, value, code) in [
        ("app_id", "2021000000000002", "isv.invalid-app-id"),
        ("method", "alipay.trade.app.pay", "isv.invalid-method"),
        ("sign_type", "RSA", "isv.invalid-signature-type"),
        ("charset", "GBK", "isv.invalid-charset"),
    ] {
        assert_eq!(merchant.judge(&merchant.with(name, value)).unwrap_err().code, code, "{name}");
    }
    let empty = merchant.judge(&[]).unwrap_err();
    assert!(empty.hints[0].en.contains("between quotes"), "{empty:?}");
}

#[test]
fn a_parameter_given_twice_and_a_link_out_of_html_are_told() {
    let merchant = Merchant::new();
    let mut twice = merchant.signed(request_content);
    twice.push(("app_id".to_owned(), APP_ID.to_owned()));
    assert!(merchant.judge(&twice).unwrap_err().problem.en.contains("given twice"));
    let html = [("app_id".to_owned(), APP_ID.to_owned()), ("amp;method".to_owned(), "x".to_owned())];
    assert!(merchant.judge(&html).unwrap_err().problem.en.contains("copied out of HTML"));
}

#[test]
fn an_order_that_alipay_would_not_take_is_told_with_its_member() {
    let merchant = Merchant::new();
    let changed = |name: &str, value: Value| {
        let mut content = biz_content();
        content[name] = value;
        content.to_string()
    };
    for (content, says) in [
        ("{".to_owned(), "not JSON"),
        (changed("total_amount", "0.001".into()), "total_amount"),
        (changed("total_amount", "0".into()), "total_amount"),
        (changed("total_amount", "100000000.01".into()), "total_amount"),
        (changed("subject", "".into()), "no subject"),
        (changed("product_code", "QUICK_WAP_WAY".into()), "FAST_INSTANT_TRADE_PAY"),
        (changed("notify_url", "http://x/".into()), "stands in biz_content"),
        (changed("out_trade_no", "x".repeat(65).into()), "64"),
    ] {
        let refusal = merchant.judge(&merchant.with("biz_content", &content)).unwrap_err();
        assert!(refusal.problem.en.contains(says), "{says}: {refusal:?}");
    }
    let refusal = merchant.judge(&merchant.with("biz_content", "{\"subject\": x}")).unwrap_err();
    assert_eq!(refusal.problem.zh, "biz_content 不是 JSON：第 1 行第 13 列有误");
    let number = changed("total_amount", serde_json::json!(88.8));
    assert_eq!(merchant.judge(&merchant.with("biz_content", &number)).unwrap().total_amount.minor(), 8880);
}
