//! `pay-link`: a signed link to the cashier page, for production, a sandbox, or `simulate serve`.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;

use hyper::Uri;
use rand::RngExt as _;

use super::{DONE, Failure, key_files};
use crate::admission::notification;
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::event::Money;
use crate::signer::page_pay::{Order, Product, SignedRequest};

/// Make a signed link that opens Alipay's cashier page.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  alipay-notify-gateway pay-link --app-id 2021000000000001 --key keys/app-private-pkcs1.pem --amount 88.88 \\
    --subject 'A cup of coffee' --notify-url http://127.0.0.1:8080/alipay/notify
  alipay-notify-gateway pay-link --to sandbox --app-id 9021000000000001 --key keys/app-private-pkcs1.pem --amount 0.01 \\
    --subject 'Sandbox test' --notify-url https://pay.example.com/alipay/notify

Prints the link alone on standard output, and what is to be known about it on standard error.")]
pub(super) struct Args {
    /// Whose cashier: simulator (`simulate serve`), sandbox, sandbox-old, production.
    #[arg(long, value_enum, default_value_t = Cashier::Simulator)]
    to: Cashier,
    /// Where `simulate serve` listens.
    #[arg(long, value_name = "URL", value_parser = simulator, default_value = "http://127.0.0.1:8600")]
    simulator: String,
    /// Your app.
    #[arg(long, value_name = "ID", value_parser = app_id)]
    app_id: String,
    /// Your app's private key (PKCS#1 or PKCS#8, PEM or bare base64).
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// How much, in yuan with at most two decimals.
    #[arg(long, value_name = "YUAN", alias = "total-amount", value_parser = amount)]
    amount: Money,
    /// What for: at most 256 characters.
    #[arg(long, value_name = "TEXT", value_parser = subject)]
    subject: String,
    /// Your number of the order: letters, digits, _ and -, at most 64. One that was never used is made if none is given.
    #[arg(long, value_name = "NUMBER", value_parser = out_trade_no)]
    out_trade_no: Option<String>,
    /// Where Alipay sends the notification. Without one there is none.
    #[arg(long, value_name = "URL", value_parser = address, default_value = "", hide_default_value = true)]
    notify_url: String,
    /// Where the buyer's browser goes afterwards. It proves nothing: only the notification does.
    #[arg(long, value_name = "URL", value_parser = address, default_value = "", hide_default_value = true)]
    return_url: String,
    /// Comes back in the notification as it is: at most 512 bytes. Alipay wants it percent-encoded.
    #[arg(long, value_name = "TEXT", value_parser = passback, default_value = "", hide_default_value = true)]
    passback_params: String,
    /// More about the order: at most 128 characters.
    #[arg(long, value_name = "TEXT", value_parser = body, default_value = "", hide_default_value = true)]
    body: String,
    /// How long it may be paid, from 1m to 15d: 15m, 2h, 1d.
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = "", hide_default_value = true)]
    timeout_express: String,
    /// The cashier of a phone's browser (alipay.trade.wap.pay).
    #[arg(long)]
    wap: bool,
    /// With --wap: where a buyer goes who gives up.
    #[arg(long, value_name = "URL", requires = "wap", value_parser = address, default_value = "", hide_default_value = true)]
    quit_url: String,
    /// The request's time, yyyy-MM-dd HH:mm:ss in UTC+8. Default: now.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    timestamp: Option<Timestamp>,
    /// text: the link; json: with the order's number, the string that was signed and its signature.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Cashier {
    Simulator,
    Sandbox,
    /// The sandbox's address before 2022, which some documents and SDKs still name.
    SandboxOld,
    Production,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let gateway = gateway(args);
    let signer = key_files::private_key("--key", &args.key)?;
    let order = order(args);
    let signed = order.sign(&signer);
    match args.format {
        Format::Text => writeln!(out, "{}", signed.url(&gateway))?,
        Format::Json => writeln!(out, "{}", json(&order, &signed, &gateway))?,
    }
    let mut aside = std::io::stderr();
    writeln!(aside, "out_trade_no {}, {} yuan, to {gateway}", order.out_trade_no, order.total_amount)?;
    for remark in remarks(args) {
        writeln!(aside, "note: {remark}")?;
    }
    let bits = signer.bits();
    if bits < RSA2_BITS {
        writeln!(
            aside,
            "note: --key has {bits} bits: RSA2 wants {RSA2_BITS}, and Alipay's console may not take it"
        )?;
    }
    Ok(DONE)
}

fn gateway(args: &Args) -> String {
    match args.to {
        Cashier::Simulator => {
            let url = args.simulator.trim_end_matches('/').trim_end_matches("/gateway.do");
            format!("{url}/gateway.do")
        }
        Cashier::Sandbox => "https://openapi-sandbox.dl.alipaydev.com/gateway.do".to_owned(),
        Cashier::SandboxOld => "https://openapi.alipaydev.com/gateway.do".to_owned(),
        Cashier::Production => "https://openapi.alipay.com/gateway.do".to_owned(),
    }
}

fn order(args: &Args) -> Order {
    let now = SystemClock.now();
    Order {
        product: if args.wap { Product::Wap } else { Product::Page },
        app_id: args.app_id.clone(),
        out_trade_no: args.out_trade_no.clone().unwrap_or_else(|| new_out_trade_no(now)),
        total_amount: args.amount,
        subject: args.subject.clone(),
        body: args.body.clone(),
        timeout_express: args.timeout_express.clone(),
        passback_params: args.passback_params.clone(),
        quit_url: args.quit_url.clone(),
        notify_url: args.notify_url.clone(),
        return_url: args.return_url.clone(),
        timestamp: args.timestamp.unwrap_or(now).alipay(),
    }
}

/// The time, so that people can sort it, and enough chance that no two agree.
fn new_out_trade_no(now: Timestamp) -> String {
    let time: String = now.alipay().chars().filter(char::is_ascii_digit).collect();
    format!("{time}-{:016x}", rand::rng().random::<u64>())
}

fn json(order: &Order, signed: &SignedRequest, gateway: &str) -> serde_json::Value {
    serde_json::json!({
        "url": signed.url(gateway),
        "gateway": gateway,
        "out_trade_no": order.out_trade_no,
        "total_amount": order.total_amount.to_string(),
        "string_to_sign": signed.content(),
        "sign": signed.signature(),
    })
}

/// What people trip over, and Alipay does not say.
fn remarks(args: &Args) -> Vec<&'static str> {
    let mut remarks = Vec::new();
    if args.notify_url.is_empty() {
        remarks.push("no --notify-url: a payment is announced to nobody");
    } else if args.to != Cashier::Simulator && is_local(&args.notify_url) {
        remarks.push("Alipay's servers cannot reach this --notify-url: it must be public");
    }
    if args.subject.contains(['/', '=', '&']) {
        remarks.push("Alipay's documents forbid / = & in a subject");
    }
    if args.passback_params.contains(['&', '=', ' ']) {
        remarks.push("Alipay's documents want --passback-params percent-encoded");
    }
    if args.to == Cashier::Production {
        remarks.push("this link asks for real money");
    }
    remarks
}

/// Whether an address is one that nobody reaches over the internet.
fn is_local(url: &str) -> bool {
    let host = url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V4(at)) => {
            at.is_loopback() || at.is_private() || at.is_link_local() || at.is_unspecified()
        }
        Ok(IpAddr::V6(at)) => {
            at.is_loopback() || at.is_unique_local() || at.is_unicast_link_local() || at.is_unspecified()
        }
        Err(_) => !host.contains('.') || host.ends_with(".local") || host.ends_with(".localhost"),
    }
}

fn app_id(text: &str) -> Result<String, String> {
    let plain = (1..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.to_owned()).ok_or_else(|| "an app_id has digits only, as 2021000000000001".to_owned())
}

fn amount(text: &str) -> Result<Money, String> {
    let amount = Money::parse(text.as_bytes())
        .ok_or_else(|| "not an amount in yuan with at most two decimals, such as 88.88".to_owned())?;
    let within = (1..=MAX_AMOUNT_MINOR).contains(&amount.minor());
    within.then_some(amount).ok_or_else(|| "an amount is from 0.01 to 100000000.00 yuan".to_owned())
}

fn subject(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("a subject says something".to_owned());
    }
    bounded(text, 256)
}

fn body(text: &str) -> Result<String, String> {
    bounded(text, 128)
}

fn bounded(text: &str, characters: usize) -> Result<String, String> {
    if text.chars().count() > characters || text.chars().any(char::is_control) {
        return Err(format!("at most {characters} characters, none of them a control character"));
    }
    Ok(text.to_owned())
}

fn out_trade_no(text: &str) -> Result<String, String> {
    let plain = (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    plain.then(|| text.to_owned()).ok_or_else(|| "1 to 64 letters, digits, _ and -".to_owned())
}

fn passback(text: &str) -> Result<String, String> {
    let short = text.len() <= 512 && !text.chars().any(char::is_control);
    short
        .then(|| text.to_owned())
        .ok_or_else(|| "at most 512 bytes, none of them a control character".to_owned())
}

fn address(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let known = text.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    (known && text.len() <= 256)
        .then(|| text.to_owned())
        .ok_or_else(|| "not a URL with http or https, a host and at most 256 characters".to_owned())
}

fn simulator(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("where does it listen? Such as http://127.0.0.1:8600".to_owned());
    }
    address(text)
}

fn timeout(text: &str) -> Result<String, String> {
    let minutes = |text: &str| {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let unit = match unit {
            "m" => 1,
            "h" => 60,
            "d" => 24 * 60,
            _ => return None,
        };
        number.parse::<u32>().ok()?.checked_mul(unit)
    };
    let within =
        text.is_empty() || minutes(text).is_some_and(|minutes| (1..=15 * 24 * 60).contains(&minutes));
    within.then(|| text.to_owned()).ok_or_else(|| "from 1m to 15d: 15m, 2h, 1d".to_owned())
}

fn moment(text: &str) -> Result<Timestamp, String> {
    let time = notification::time(text.as_bytes()).filter(|_| text.len() == 19);
    time.ok_or_else(|| "not a time such as 2026-11-23 10:15:31".to_owned())
}

/// What Alipay's documents want of a key that signs with RSA2.
const RSA2_BITS: usize = 2048;
/// Alipay's largest amount.
const MAX_AMOUNT_MINOR: u64 = 10_000_000_000;
