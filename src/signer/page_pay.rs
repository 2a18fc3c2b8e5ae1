//! A request for the cashier page, as a merchant signs it: `alipay.trade.page.pay` for browsers, `alipay.trade.wap.pay`
//! for phones. Unlike a notification, a request signs its `sign_type` too.

use serde_json::{Map, Value};

use super::Signer;
use crate::event::Money;

/// Which cashier page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// A desktop browser's.
    Page,
    /// A phone browser's.
    Wap,
}

impl Product {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Page, Self::Wap];

    /// The parameter `method`.
    pub const fn method(self) -> &'static str {
        match self {
            Self::Page => "alipay.trade.page.pay",
            Self::Wap => "alipay.trade.wap.pay",
        }
    }

    /// `product_code`: what the merchant has signed a contract for.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Page => "FAST_INSTANT_TRADE_PAY",
            Self::Wap => "QUICK_WAP_WAY",
        }
    }
}

/// What is to be paid. Everything that is optional is left out where it is empty.
#[derive(Debug, Clone)]
pub struct Order {
    /// Which cashier page.
    pub product: Product,
    /// The merchant's app.
    pub app_id: String,
    /// The merchant's number of the order.
    pub out_trade_no: String,
    /// How much.
    pub total_amount: Money,
    /// For what.
    pub subject: String,
    /// More of it.
    pub body: String,
    /// How long it may be paid, such as `15m`.
    pub timeout_express: String,
    /// Comes back in the notification.
    pub passback_params: String,
    /// Where a phone's buyer goes who gives up.
    pub quit_url: String,
    /// Where the notification goes.
    pub notify_url: String,
    /// Where the buyer's browser goes.
    pub return_url: String,
    /// `yyyy-MM-dd HH:mm:ss` in UTC+8.
    pub timestamp: String,
}

/// A signed request.
#[derive(Debug, Clone)]
pub struct SignedRequest {
    parameters: Vec<(String, String)>,
    content: String,
    sign: String,
}

impl Order {
    /// Signs it.
    pub fn sign(&self, signer: &Signer) -> SignedRequest {
        let parameters = self.parameters();
        let content = request_content(&parameters);
        let sign = signer.sign(content.as_bytes());
        SignedRequest { parameters, content, sign }
    }

    fn parameters(&self) -> Vec<(String, String)> {
        let parameters = [
            ("app_id", self.app_id.as_str()),
            ("biz_content", &self.biz_content()),
            ("charset", "utf-8"),
            // In small letters, as the official Python SDK writes it.
            ("format", "json"),
            ("method", self.product.method()),
            ("notify_url", &self.notify_url),
            ("return_url", &self.return_url),
            ("sign_type", "RSA2"),
            ("timestamp", &self.timestamp),
            ("version", "1.0"),
        ];
        let given = parameters.into_iter().filter(|(_, value)| !value.is_empty());
        given.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Compact JSON, its members by name.
    fn biz_content(&self) -> String {
        let members = [
            ("body", self.body.clone()),
            ("out_trade_no", self.out_trade_no.clone()),
            ("passback_params", self.passback_params.clone()),
            ("product_code", self.product.code().to_owned()),
            ("quit_url", self.quit_url.clone()),
            ("subject", self.subject.clone()),
            ("timeout_express", self.timeout_express.clone()),
            ("total_amount", self.total_amount.to_string()),
        ];
        let given = members.into_iter().filter(|(_, value)| !value.is_empty());
        let members: Map<String, Value> =
            given.map(|(name, value)| (name.to_owned(), Value::String(value))).collect();
        Value::Object(members).to_string()
    }
}

impl SignedRequest {
    /// The link that opens the cashier page.
    pub fn url(&self, gateway: &str) -> String {
        let sign = ("sign".to_owned(), self.sign.clone());
        let parameters: Vec<&(String, String)> = self.parameters.iter().chain([&sign]).collect();
        // A list of pairs of text cannot fail to be written as a form.
        format!("{gateway}?{}", serde_urlencoded::to_string(parameters).unwrap_or_default())
    }

    /// What was signed.
    pub fn content(&self) -> &str {
        &self.content
    }

    /// The signature, in base64.
    pub fn signature(&self) -> &str {
        &self.sign
    }
}

/// The text that a merchant signs: everything but `sign`, by name, empty values left out.
pub fn request_content(parameters: &[(String, String)]) -> String {
    let mut signed: Vec<&(String, String)> =
        parameters.iter().filter(|(name, value)| name != "sign" && !value.is_empty()).collect();
    signed.sort();
    signed.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::merchant_key::MerchantKey;

    fn order(product: Product) -> Order {
        Order {
            product,
            app_id: "2021000000000001".to_owned(),
            out_trade_no: "R1-1".to_owned(),
            total_amount: Money::from_minor(8880),
            subject: "一杯咖啡 + \"蛋糕\"".to_owned(),
            body: String::new(),
            timeout_express: "15m".to_owned(),
            passback_params: "a%3D1%26b%3D2".to_owned(),
            quit_url: String::new(),
            notify_url: "http://127.0.0.1:8080/alipay/notify".to_owned(),
            return_url: String::new(),
            timestamp: "2026-11-23 10:15:31".to_owned(),
        }
    }

    #[test]
    fn a_request_is_signed_over_everything_but_sign_by_name_and_without_what_is_empty() {
        let signer = Signer::generate().unwrap();
        let signed = order(Product::Page).sign(&signer);
        assert_eq!(
            signed.content(),
            "app_id=2021000000000001&biz_content={\"out_trade_no\":\"R1-1\",\
             \"passback_params\":\"a%3D1%26b%3D2\",\"product_code\":\"FAST_INSTANT_TRADE_PAY\",\
             \"subject\":\"一杯咖啡 + \\\"蛋糕\\\"\",\"timeout_express\":\"15m\",\"total_amount\":\"88.80\"}\
             &charset=utf-8&format=json&method=alipay.trade.page.pay\
             &notify_url=http://127.0.0.1:8080/alipay/notify&sign_type=RSA2\
             &timestamp=2026-11-23 10:15:31&version=1.0"
        );
        let key = MerchantKey::read(&signer.public_line().unwrap()).unwrap();
        assert!(key.verifies(signed.content().as_bytes(), signed.signature()));
    }

    #[test]
    fn the_link_holds_what_was_signed_and_the_signature_encoded_once() {
        let signer = Signer::generate().unwrap();
        let signed = order(Product::Wap).sign(&signer);
        let url = signed.url("https://openapi.alipay.com/gateway.do");
        let query = url.strip_prefix("https://openapi.alipay.com/gateway.do?").unwrap();
        let mut parameters: Vec<(String, String)> = serde_urlencoded::from_str(query).unwrap();
        assert_eq!(request_content(&parameters), signed.content());
        assert_eq!(parameters.pop(), Some(("sign".to_owned(), signed.signature().to_owned())));
        assert!(signed.content().contains("QUICK_WAP_WAY") && signed.content().contains("wap.pay"));
    }
}
