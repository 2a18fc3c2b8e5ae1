//! `keygen` and `pay-link`: what a merchant's application would do.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};
use serde_json::Value;

use crate::support::program::Folder;

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_alipay-notify-gateway")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The worthless key of the vectors, so that a signature can stand here.
fn test_key() -> String {
    format!("{}/tests/vectors/test-signing-key.pem", env!("CARGO_MANIFEST_DIR"))
}

fn pay_link(more: &[&str]) -> Output {
    let key = test_key();
    let mut arguments = vec!["pay-link", "--app-id", "2021000000000001", "--key", &key];
    arguments.extend(["--amount", "88.8", "--subject", "一杯咖啡 + 蛋糕"]);
    arguments.extend(more);
    run(&arguments)
}

fn parameters(url: &str) -> BTreeMap<String, String> {
    let (_, query) = url.split_once('?').unwrap();
    serde_urlencoded::from_str::<Vec<(String, String)>>(query).unwrap().into_iter().collect()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

const FILES: [(&str, u32, &str); 4] = [
    ("app-private-pkcs1.pem", 0o600, "-----BEGIN RSA PRIVATE KEY-----"),
    ("app-private-pkcs8.pem", 0o600, "-----BEGIN PRIVATE KEY-----"),
    ("app-public.pem", 0o644, "-----BEGIN PUBLIC KEY-----"),
    ("app-public-to-paste.txt", 0o644, "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"),
];

#[test]
fn keygen_writes_each_format_and_nobody_else_reads_the_private_ones() {
    let folder = Folder::new();
    let keys = folder.path().join("keys");
    let output = run(&["keygen", keys.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for (name, expected, begins) in FILES {
        assert_eq!(mode(&keys.join(name)), expected, "{name}");
        assert!(std::fs::read_to_string(keys.join(name)).unwrap().starts_with(begins), "{name}");
    }
    assert_eq!(std::fs::read_dir(&keys).unwrap().count(), FILES.len());
    let said = text(&output.stdout);
    let line = std::fs::read_to_string(keys.join("app-public-to-paste.txt")).unwrap();
    assert_eq!(line.lines().count(), 1);
    assert_eq!(line.trim_end().len(), 392, "a key of 2048 bits on one line");
    assert!(said.contains(line.trim_end()) && said.contains("alipay_public_keys"), "{said}");
    assert!(!said.contains("BEGIN"), "no private key is shown\n{said}");
}

#[test]
fn keygen_never_overwrites_and_writes_nothing_where_one_file_is_there() {
    for (there, _, _) in FILES {
        let folder = Folder::new();
        let file = folder.write(there, "mine");
        let output = run(&["keygen", folder.path().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{there}");
        assert!(text(&output.stderr).contains(there), "{}", text(&output.stderr));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{there}");
    }
}

#[test]
fn the_private_key_is_the_same_in_both_formats_and_fits_the_public_one() {
    let folder = Folder::new();
    assert_eq!(run(&["keygen", folder.path().to_str().unwrap()]).status.code(), Some(0));
    let link = |key: &str| {
        let key = folder.path().join(key);
        let more = ["--out-trade-no", "1", "--timestamp", "2026-11-23 10:15:31", "--format", "json"];
        let fixed = ["pay-link", "--app-id", "2021000000000001", "--amount", "1", "--subject", "x", "--key"];
        let arguments: Vec<&str> = fixed.into_iter().chain([key.to_str().unwrap()]).chain(more).collect();
        text(&run(&arguments).stdout)
    };
    let signed = link("app-private-pkcs1.pem");
    assert!(signed.contains("\"sign\":") && signed == link("app-private-pkcs8.pem"));
    let signed: Value = serde_json::from_str(&signed).unwrap();
    let (sign, content) = (signed["sign"].as_str().unwrap(), signed["string_to_sign"].as_str().unwrap());
    for public in ["app-public.pem", "app-public-to-paste.txt"] {
        let key = std::fs::read_to_string(folder.path().join(public)).unwrap();
        let key = alipay_notify_gateway::signer::merchant_key::MerchantKey::read(&key).unwrap();
        assert!(key.verifies(content.as_bytes(), sign), "{public}");
    }
    assert!(signed["url"].as_str().unwrap().starts_with("http://127.0.0.1:8600/gateway.do?"));
}

#[test]
fn a_link_at_a_fixed_moment_is_signed_as_openssl_signs_it() {
    let output = pay_link(&[
        "--out-trade-no",
        "R1-1",
        "--timestamp",
        "2026-11-23 10:15:31",
        "--notify-url",
        "https://pay.example.com/alipay/notify",
        "--to",
        "sandbox",
        "--format",
        "json",
    ]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["string_to_sign"], STRING_TO_SIGN);
    // printf %s "$STRING_TO_SIGN" | openssl dgst -sha256 -sign tests/vectors/test-signing-key.pem | base64 -w0
    assert_eq!(json["sign"], SIGN);
    let url = json["url"].as_str().unwrap();
    assert!(url.starts_with("https://openapi-sandbox.dl.alipaydev.com/gateway.do?"), "{url}");
    assert_eq!(parameters(url)["sign"], SIGN);
    assert_eq!(parameters(url)["biz_content"], BIZ_CONTENT);
}

#[test]
fn each_cashier_has_its_address_and_standard_output_is_the_link_alone() {
    for (to, address) in [
        ("simulator", "http://127.0.0.1:8600/gateway.do?"),
        ("sandbox", "https://openapi-sandbox.dl.alipaydev.com/gateway.do?"),
        ("sandbox-old", "https://openapi.alipaydev.com/gateway.do?"),
        ("production", "https://openapi.alipay.com/gateway.do?"),
    ] {
        let said = text(&pay_link(&["--to", to]).stdout);
        assert!(said.starts_with(address) && said.lines().count() == 1, "{to}: {said}");
    }
    let simulator = text(&pay_link(&["--simulator", "http://[::1]:9/"]).stdout);
    assert!(simulator.starts_with("http://[::1]:9/gateway.do?"), "{simulator}");
}

#[test]
fn a_number_is_made_if_none_is_given_and_never_the_same_twice() {
    let number = || {
        let output = pay_link(&["--format", "json"]);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let number = json["out_trade_no"].as_str().unwrap().to_owned();
        assert!(text(&output.stderr).contains(&number));
        number
    };
    let (first, second) = (number(), number());
    assert!(first != second && first.len() <= 64, "{first}");
}

#[test]
fn what_alipay_would_refuse_is_refused_here_with_2() {
    let long = "x".repeat(513);
    let (subject, body, number) = (&long[..257], "咖".repeat(129), &long[..65]);
    for wrong in [
        &["--amount", "0"][..],
        &["--amount", "0.001"],
        &["--amount", "1e3"],
        &["--amount", "100000000.01"],
        &["--amount=-1"],
        &["--subject", " "],
        &["--subject", subject],
        &["--passback-params", &long],
        &["--body", &body],
        &["--out-trade-no", number],
        &["--simulator", ""],
        &["--simulator", "127.0.0.1:8600"],
        &["--out-trade-no", "a b"],
        &["--out-trade-no", ""],
        &["--app-id", "2021x"],
        &["--notify-url", "pay.example.com/notify"],
        &["--notify-url", "javascript:alert(1)"],
        &["--return-url", "ftp://example.com/"],
        &["--timeout-express", "16d"],
        &["--timeout-express", "0m"],
        &["--timestamp", "2026-11-23"],
        &["--to", "moon"],
        &["--quit-url", "https://example.com/"],
    ] {
        let key = test_key();
        let mut arguments = vec!["pay-link", "--key", &key];
        for (flag, value) in [("--app-id", "2021000000000001"), ("--amount", "1"), ("--subject", "x")] {
            if !wrong[0].starts_with(flag) {
                arguments.extend([flag, value]);
            }
        }
        arguments.extend(wrong);
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{wrong:?}");
    }
}

#[test]
fn what_is_just_short_enough_is_in_the_link() {
    let long = "x".repeat(512);
    let (subject, body, number) = ("咖".repeat(256), "啡".repeat(128), &long[..64]);
    let key = test_key();
    let mut arguments = vec!["pay-link", "--app-id", "2021000000000001", "--key", &key, "--amount", "1"];
    arguments.extend(["--subject", &subject, "--body", &body, "--passback-params", &long]);
    arguments.extend(["--out-trade-no", number, "--wap", "--quit-url", "https://shop.example.com/left"]);
    arguments.extend(["--timeout-express", "15d", "--return-url", "https://shop.example.com/thanks"]);
    let output = run(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let parameters = parameters(text(&output.stdout).trim());
    assert_eq!(parameters["return_url"], "https://shop.example.com/thanks");
    let content: Value = serde_json::from_str(&parameters["biz_content"]).unwrap();
    let expected = serde_json::json!({
        "body": body, "out_trade_no": number, "passback_params": long, "product_code": "QUICK_WAP_WAY",
        "quit_url": "https://shop.example.com/left", "subject": subject, "timeout_express": "15d",
        "total_amount": "1.00",
    });
    assert_eq!(content, expected);
}

#[test]
fn the_simulators_address_may_be_given_as_its_page_or_as_where_links_lead() {
    for simulator in ["http://127.0.0.1:9", "http://127.0.0.1:9/", "http://127.0.0.1:9/gateway.do"] {
        let said = text(&pay_link(&["--simulator", simulator]).stdout);
        assert!(said.starts_with("http://127.0.0.1:9/gateway.do?app_id="), "{simulator}: {said}");
    }
}

#[test]
fn a_notify_url_that_nobody_reaches_from_outside_is_remarked_and_another_is_not() {
    for (host, is_local) in [
        ("localhost", true),
        ("127.0.0.9", true),
        ("10.0.0.1", true),
        ("172.16.0.1", true),
        ("172.31.255.255", true),
        ("192.168.1.1", true),
        ("169.254.1.1", true),
        ("0.0.0.0", true),
        ("[::1]", true),
        ("[fd00::1]", true),
        ("gateway", true),
        ("pay.local", true),
        ("172.15.0.1", false),
        ("172.32.0.1", false),
        ("11.0.0.1", false),
        ("127.0.0.1.example.com", false),
        ("[2001:db8::1]", false),
        ("pay.example.com", false),
    ] {
        let url = format!("https://{host}/alipay/notify");
        let said = text(&pay_link(&["--to", "sandbox", "--notify-url", &url]).stderr);
        assert_eq!(said.contains("must be public"), is_local, "{host}: {said}");
        let said = text(&pay_link(&["--notify-url", &url]).stderr);
        assert!(!said.contains("must be public"), "the simulator is here, too: {said}");
    }
}

#[test]
fn a_key_that_is_short_is_remarked_and_one_that_is_no_text_is_told_how_to_become_it() {
    let folder = Folder::new();
    let with = |key: &Path| {
        let key = key.to_str().unwrap();
        run(&["pay-link", "--app-id", "1", "--key", key, "--amount", "1", "--subject", "x"])
    };
    let short = rsa::PrivateKey::new(&mut rand::rng(), 1024).unwrap();
    let pem = short.to_pkcs8_pem(LineEnding::LF).unwrap();
    let output = with(&folder.write("short.pem", pem.as_bytes()));
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("--key has 1024 bits"), "{}", text(&output.stderr));
    assert!(!text(&pay_link(&[]).stderr).contains("bits"));
    let wide: Vec<u8> = [0xfeff].into_iter().chain(pem.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIF\n-----END ENCRYPTED PRIVATE KEY-----\n";
    for (name, content, says) in [
        ("key.der", short.to_pkcs8_der().unwrap().as_bytes(), "openssl pkey -inform DER -in"),
        ("wide.pem", &wide, "iconv -f UTF-16"),
        ("locked.pem", locked.as_bytes(), "under a password: openssl rsa -in"),
        ("public.pem", crate::support::alipay::public_pem().as_bytes(), "it is a PUBLIC key"),
        ("picture.png", b"\x89PNG\xff", "no text"),
    ] {
        let output = with(&folder.write(name, content));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(said.contains("--key") && said.contains(name) && said.contains(says), "{name}: {said}");
    }
}

#[test]
fn keys_of_others_are_taken_as_they_write_them() {
    let folder = Folder::new();
    let key = std::fs::read_to_string(test_key()).unwrap();
    let bare: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    let link = |key: &Path| {
        let (key, more) =
            (key.to_str().unwrap(), ["--out-trade-no", "1", "--timestamp", "2026-11-23 10:15:31"]);
        let fixed = ["pay-link", "--app-id", "1", "--amount", "1", "--subject", "x", "--key", key];
        let output = run(&fixed.into_iter().chain(more).collect::<Vec<_>>());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let signed = link(Path::new(&test_key()));
    for (name, content) in [
        ("windows.pem", key.replace('\n', "\r\n")),
        ("marked.pem", format!("\u{feff}{key}")),
        ("bare.txt", bare.clone()),
        ("marked.txt", format!("\u{feff}{bare}\r\n")),
    ] {
        assert_eq!(link(&folder.write(name, content)), signed, "{name}");
    }
}

#[test]
fn the_simulated_alipays_private_key_is_for_its_owner_alone() {
    let folder = Folder::new();
    let keys = folder.path().join("sandbox");
    assert_eq!(run(&["simulate", "keys", keys.to_str().unwrap()]).status.code(), Some(0));
    assert_eq!(mode(&keys.join("alipay-private.pem")), 0o600);
    assert_eq!(mode(&keys.join("alipay-public.pem")), 0o644);
    assert_eq!(
        run(&["simulate", "keys", keys.to_str().unwrap()]).status.code(),
        Some(1),
        "never overwritten"
    );
}

#[test]
fn a_key_without_end_is_told_and_not_gathered() {
    let output = run(&["pay-link", "--app-id", "1", "--key", "/dev/zero", "--amount", "1", "--subject", "x"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("larger than 1 MiB"), "{output:?}");
}

#[test]
fn a_key_that_cannot_sign_is_told_with_its_file() {
    let folder = Folder::new();
    let public = folder.write("public.pem", crate::support::alipay::public_pem());
    let public = public.to_str().unwrap();
    let output = run(&["pay-link", "--app-id", "1", "--key", public, "--amount", "1", "--subject", "x"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("--key") && said.contains("public.pem"), "{said}");
}

#[test]
fn what_goes_wrong_in_silence_at_alipay_is_remarked() {
    for (more, remark) in [
        (&["--to", "sandbox", "--notify-url", "http://127.0.0.1:8080/x"][..], "must be public"),
        (&[], "announced to nobody"),
        (&["--passback-params", "a=1&b=2"], "percent-encoded"),
        (&["--to", "production"], "real money"),
    ] {
        let said = text(&pay_link(more).stderr);
        assert!(said.contains(remark), "{more:?}: {said}");
    }
}

const BIZ_CONTENT: &str = "{\"out_trade_no\":\"R1-1\",\"product_code\":\"FAST_INSTANT_TRADE_PAY\",\
    \"subject\":\"一杯咖啡 + 蛋糕\",\"total_amount\":\"88.80\"}";
const STRING_TO_SIGN: &str = "app_id=2021000000000001&biz_content={\"out_trade_no\":\"R1-1\",\
    \"product_code\":\"FAST_INSTANT_TRADE_PAY\",\"subject\":\"一杯咖啡 + 蛋糕\",\"total_amount\":\"88.80\"}\
    &charset=utf-8&format=json&method=alipay.trade.page.pay&notify_url=https://pay.example.com/alipay/notify\
    &sign_type=RSA2&timestamp=2026-11-23 10:15:31&version=1.0";
const SIGN: &str = "T2TZ4gbGwU35ZVuQAUT7SVu2SLMIpTHd188q9ESSLknuKHJ/C6zpbZtFWlwT2Z8e0DhdsWXKDGBcq5/b2TeJtQeGf9VcPo1tC0Eg\
    jxaVyfED4SdS+bz9e2rapZUavgjsw27qM2PIsB5PgWGAaVRb8mQtMxTzwLTjwn2Lbw/B8Z7L+e50K0BCJIgicnDCEIr4i6st1ejg\
    MiueykeTg5Y4NLYoIptcof1qgVhuF2v0oGxrvwxzYt8Acfm7ZbSMD+/cc1FkSFWjDigVnKk0xTEyhUysSptfhvctaabB1jkVq0nl\
    QLrbyS7a4I7SfarbZ0CKr5W+yDixjgX7d2dox21frw==";
