//! A request for the cashier page, judged as Alipay judges it; and what Alipay does not say: which mistake it was.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;

use crate::event::Money;
use crate::signer::merchant_key::MerchantKey;
use crate::signer::page_pay::{Product, request_content};

/// A request that is as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PayRequest {
    pub(super) product: Product,
    pub(super) out_trade_no: String,
    pub(super) total_amount: Money,
    pub(super) subject: String,
    pub(super) body: String,
    pub(super) passback_params: String,
    pub(super) timeout_express: String,
    pub(super) notify_url: String,
    pub(super) return_url: String,
}

/// In both languages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Words {
    pub(super) en: String,
    pub(super) zh: String,
}

impl Words {
    pub(super) fn new(en: impl Into<String>, zh: impl Into<String>) -> Self {
        Self { en: en.into(), zh: zh.into() }
    }
}

/// Why there is no cashier page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Refusal {
    /// Alipay's own word for it.
    pub(super) code: &'static str,
    pub(super) problem: Words,
    pub(super) hints: Vec<Words>,
    /// What Alipay would have verified.
    pub(super) string_to_sign: Option<String>,
}

impl Refusal {
    pub(super) fn new(code: &'static str, en: impl Into<String>, zh: impl Into<String>) -> Self {
        Self { code, problem: Words::new(en, zh), hints: Vec::new(), string_to_sign: None }
    }
}

/// Whom requests are of.
#[derive(Debug, Clone)]
pub(super) struct Signatory {
    pub(super) app_id: String,
    pub(super) key: MerchantKey,
    /// The simulated Alipay's own key: to know it where somebody signs with the wrong one.
    pub(super) alipay: Option<MerchantKey>,
}

/// The parameters of a request, and the query or body that they came in.
struct Parameters<'a> {
    received: &'a [(String, String)],
    by_name: BTreeMap<&'a str, &'a str>,
}

impl<'a> Parameters<'a> {
    fn of(received: &'a [(String, String)]) -> Result<Self, Refusal> {
        let mut by_name = BTreeMap::new();
        for (name, value) in received {
            if let Some(name) = name.strip_prefix("amp;") {
                return Err(Refusal::new(
                    MISSING,
                    format!(
                        "a parameter is called \"amp;{name}\": the link was copied out of HTML, where & is written &amp;"
                    ),
                    format!("参数名是 “amp;{name}”：链接是从 HTML 源码里复制的，其中 & 写成了 &amp;"),
                ));
            }
            if by_name.insert(name.as_str(), value.as_str()).is_some() {
                return Err(Refusal::new(
                    "isv.invalid-parameter",
                    format!("the parameter {name} is given twice"),
                    format!("参数 {name} 出现了两次"),
                ));
            }
        }
        Ok(Self { received, by_name })
    }

    fn value(&self, name: &str) -> &'a str {
        self.by_name.get(name).copied().unwrap_or_default()
    }
}

/// Judges what came in the query or the form, decoded once.
pub(super) fn judge(received: &[(String, String)], signatory: &Signatory) -> Result<PayRequest, Refusal> {
    let parameters = Parameters::of(received)?;
    let product = judge_frame(&parameters, signatory)?;
    judge_signature(&parameters, signatory)?;
    judge_order(&parameters, product)
}

/// Everything but signature and content.
fn judge_frame(parameters: &Parameters<'_>, signatory: &Signatory) -> Result<Product, Refusal> {
    for (name, code) in REQUIRED {
        if parameters.value(name).is_empty() {
            let mut refusal =
                Refusal::new(code, format!("the parameter {name} is missing"), format!("缺少参数 {name}"));
            if parameters.received.is_empty() {
                refusal.hints.push(Words::new(
                    "there is no parameter at all: in a shell a link stands between quotes, because of its &",
                    "一个参数也没有：在 shell 里链接要加引号，因为其中有 &",
                ));
            }
            return Err(refusal);
        }
    }
    let app_id = parameters.value("app_id");
    if app_id != signatory.app_id {
        let known = &signatory.app_id;
        return Err(Refusal::new(
            "isv.invalid-app-id",
            format!("app_id {app_id} is not known here: this simulator knows {known} (--app-id)"),
            format!("app_id {app_id} 不存在：本模拟器只认识 {known}（--app-id）"),
        ));
    }
    for (name, known, code) in FIXED {
        let value = parameters.value(name);
        if !value.eq_ignore_ascii_case(known) {
            return Err(Refusal::new(
                code,
                format!("{name} is {value:?}; here it must be {known}"),
                format!("{name} 是 “{value}”，这里必须是 {known}"),
            ));
        }
    }
    let method = parameters.value("method");
    Product::ALL.into_iter().find(|product| product.method() == method).ok_or_else(|| {
        let known = Product::ALL.map(Product::method).join(", ");
        Refusal::new(
            "isv.invalid-method",
            format!("the method {method:?} is not played here; these are: {known}"),
            format!("不支持的接口 “{method}”；这里支持：{known}"),
        )
    })
}

fn judge_signature(parameters: &Parameters<'_>, signatory: &Signatory) -> Result<(), Refusal> {
    let (content, sign) = (request_content(parameters.received), parameters.value("sign"));
    if signatory.key.verifies(content.as_bytes(), sign) {
        return Ok(());
    }
    let mut refusal = Refusal::new(
        "isv.invalid-signature",
        "the signature does not verify with the app's public key (--merchant-key)",
        "用应用公钥（--merchant-key）验签失败",
    );
    refusal.hints = mistakes(parameters.received, &content, sign, signatory);
    refusal.string_to_sign = Some(content);
    Err(refusal)
}

/// The mistakes that can be proven are named alone; where none can, what it mostly is.
fn mistakes(received: &[(String, String)], content: &str, sign: &str, signatory: &Signatory) -> Vec<Words> {
    let verifies = |content: &str| signatory.key.verifies(content.as_bytes(), sign);
    let mended = sign.replace(' ', "+");
    let proven = [
        (
            mended != sign && signatory.key.verifies(content.as_bytes(), &mended),
            "the + of sign arrived as a space: percent-encode the parameters' values (+ is %2B)",
            "sign 里的 + 到达时变成了空格：参数值要做 URL 编码（+ 写成 %2B）",
        ),
        (
            signatory.alipay.as_ref().is_some_and(|key| key.verifies(content.as_bytes(), sign)),
            "it is signed with ALIPAY's private key: sign with your app's (app-private-pkcs1.pem of keygen)",
            "签名用的是支付宝的私钥：应当用你的应用私钥（keygen 生成的 app-private-pkcs1.pem）",
        ),
        (
            signatory.key.verifies_sha1(content.as_bytes(), sign),
            "it is signed with SHA-1, which sign_type=RSA means: RSA2 is SHA-256",
            "签名用的是 SHA-1（即 sign_type=RSA）：RSA2 要用 SHA-256",
        ),
        (
            verifies(&joined(&sorted(without(received, "sign_type")))),
            "sign_type was left out of what was signed: a request signs it, unlike a notification",
            "待签名字符串漏掉了 sign_type：请求要对它签名（异步通知才不包含它）",
        ),
        (
            verifies(&joined(received.iter().filter(|(name, _)| name != "sign"))),
            "the parameters were signed in the order of the link: sort them by name",
            "签名时没有按参数名排序，而是用了链接里的顺序",
        ),
        (
            ENCODINGS.iter().any(|encoded| verifies(&joined(&mapped(received, *encoded)))),
            "the values were percent-encoded before they were signed: sign them as they are, and encode them afterwards",
            "签名前就对参数值做了 URL 编码：应当先签名，后编码",
        ),
        (
            verifies(&joined(&mapped(received, decoded_again))),
            "the link is percent-encoded twice",
            "链接被 URL 编码了两次",
        ),
    ];
    let found: Vec<Words> =
        proven.into_iter().filter(|(is_so, _, _)| *is_so).map(|(_, en, zh)| Words::new(en, zh)).collect();
    if found.is_empty() { likely(sign, signatory) } else { found }
}

fn likely(sign: &str, signatory: &Signatory) -> Vec<Words> {
    let expected = signatory.key.signature_bytes();
    match STANDARD.decode(sign).map(|bytes| bytes.len()) {
        Err(_) => vec![Words::new("sign is not base64", "sign 不是 base64")],
        Ok(bytes) if bytes != expected => vec![Words::new(
            format!(
                "sign has {bytes} bytes, a signature of this app's key {expected}: it is of another key, or cut"
            ),
            format!(
                "sign 有 {bytes} 字节，而这个应用的密钥签名是 {expected} 字节：密钥不是这一对，或者被截断"
            ),
        )],
        Ok(_) => vec![
            Words::new(
                "mostly the private key is not the other half of the public key that was uploaded (here --merchant-key): \
                 make both with one keygen",
                "最常见的原因：私钥与上传的应用公钥（这里是 --merchant-key）不是一对；请用同一次 keygen 生成的两个文件",
            ),
            Words::new(
                "or the link was changed after it was signed: compare the string below with the one that you signed",
                "或者链接在签名之后被改动过：把下面的待验签字符串与你签名的字符串逐字比较",
            ),
        ],
    }
}

fn without<'a>(
    received: &'a [(String, String)],
    left_out: &'a str,
) -> impl Iterator<Item = &'a (String, String)> {
    received.iter().filter(move |(name, _)| name != "sign" && name != left_out)
}

fn sorted<'a>(pairs: impl Iterator<Item = &'a (String, String)>) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = pairs.filter(|(_, value)| !value.is_empty()).cloned().collect();
    pairs.sort();
    pairs
}

fn mapped(received: &[(String, String)], change: fn(&str) -> String) -> Vec<(String, String)> {
    let pairs = sorted(without(received, ""));
    pairs.into_iter().map(|(name, value)| (name, change(&value))).collect()
}

fn joined<'a>(pairs: impl IntoIterator<Item = &'a (String, String)>) -> String {
    pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// How a value is percent-encoded: a space as `+`, and as `%20`.
const ENCODINGS: [fn(&str) -> String; 2] = [form_encoded, |value| form_encoded(value).replace('+', "%20")];

fn form_encoded(value: &str) -> String {
    let pair = serde_urlencoded::to_string([("", value)]).unwrap_or_default();
    pair.trim_start_matches('=').to_owned()
}

fn decoded_again(value: &str) -> String {
    let pairs: Vec<(String, String)> =
        serde_urlencoded::from_str(&format!("x={}", value.replace('&', "%26"))).unwrap_or_default();
    pairs.into_iter().next().map(|(_, value)| value).unwrap_or_default()
}

fn judge_order(parameters: &Parameters<'_>, product: Product) -> Result<PayRequest, Refusal> {
    let wrong = |en: String, zh: String| Refusal::new("isv.invalid-parameter", en, zh);
    let content: Value = serde_json::from_str(parameters.value("biz_content")).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        wrong(
            format!("biz_content is not JSON: {error}"),
            format!("biz_content 不是 JSON：第 {line} 行第 {column} 列有误"),
        )
    })?;
    let member = |name: &str| match content.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    for name in ["out_trade_no", "total_amount", "subject", "product_code"] {
        if member(name).is_empty() {
            return Err(wrong(format!("biz_content has no {name}"), format!("biz_content 缺少 {name}")));
        }
    }
    for name in ["notify_url", "return_url"] {
        if content.get(name).is_some() {
            return Err(wrong(
                format!("{name} stands in biz_content, where nobody reads it: it is a parameter of its own"),
                format!("{name} 写在了 biz_content 里，不会生效：它是与 biz_content 并列的公共参数"),
            ));
        }
    }
    let (amount, code) = (member("total_amount"), member("product_code"));
    let total_amount = Money::parse(amount.as_bytes())
        .filter(|amount| (1..=MAX_AMOUNT_MINOR).contains(&amount.minor()))
        .ok_or_else(|| {
            wrong(
                format!("total_amount {amount:?} is not an amount from 0.01 to 100000000.00 with at most two decimals"),
                format!("total_amount “{amount}” 不合法：0.01 到 100000000.00 元，最多两位小数"),
            )
        })?;
    if code != product.code() {
        let (expected, method) = (product.code(), product.method());
        return Err(wrong(
            format!("product_code is {code:?}; that of {method} is {expected}"),
            format!("product_code 是 “{code}”；{method} 的是 {expected}"),
        ));
    }
    let out_trade_no = member("out_trade_no");
    if out_trade_no.chars().count() > 64 || member("subject").chars().count() > 256 {
        return Err(wrong(
            "out_trade_no has at most 64 characters, subject at most 256".to_owned(),
            "out_trade_no 最多 64 个字符，subject 最多 256 个字符".to_owned(),
        ));
    }
    Ok(PayRequest {
        product,
        out_trade_no,
        total_amount,
        subject: member("subject"),
        body: member("body"),
        passback_params: member("passback_params"),
        timeout_express: member("timeout_express"),
        notify_url: parameters.value("notify_url").to_owned(),
        return_url: parameters.value("return_url").to_owned(),
    })
}

const MISSING: &str = "isv.missing-parameter";
/// What a request must have, and what Alipay says where it has not.
const REQUIRED: [(&str, &str); 8] = [
    ("app_id", "isv.missing-app-id"),
    ("method", "isv.missing-method"),
    ("sign_type", "isv.missing-signature-type"),
    ("sign", "isv.missing-signature"),
    ("timestamp", "isv.missing-timestamp"),
    ("version", "isv.missing-version"),
    ("charset", "isv.invalid-charset"),
    ("biz_content", MISSING),
];
const FIXED: [(&str, &str, &str); 3] = [
    ("sign_type", "RSA2", "isv.invalid-signature-type"),
    ("charset", "utf-8", "isv.invalid-charset"),
    ("version", "1.0", "isv.invalid-parameter"),
];
/// Alipay's largest amount.
const MAX_AMOUNT_MINOR: u64 = 10_000_000_000;

#[cfg(test)]
mod tests;
