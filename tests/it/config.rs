//! Configuration: every bad value by its name, every problem at once, never a secret; and the documents, held
//! to the code.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use alipay_notify_gateway::admission::policy::{Buyer, SignType};
use alipay_notify_gateway::config::{self, Config, KEYS, Loaded};
use alipay_notify_gateway::event::{Environment, EventType};
use alipay_notify_gateway::store::{engine, sqlite};
use alipay_notify_gateway::telemetry::{Format, Level};

use crate::support::alipay;
use crate::support::certificate::certificate;
use crate::support::program::Folder;
use crate::support::signer::{private_pem, stranger};

const APP: &str = "[[apps]]\napp_id = \"2021000000000001\"\nalipay_public_keys = [\"alipay.pem\"]\n";

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("alipay.pem", alipay::public_pem());
    folder
}

fn variables(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Loads a file of this text, with these variables.
fn load_with(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
    let folder = folder();
    let file = folder.write("gateway.toml", text);
    config::load_from(Some(&file), variables(environment)).map_err(|problems| problems.0)
}

fn load(text: &str) -> Result<Loaded, Vec<String>> {
    load_with(text, &[])
}

/// What is configured of the embedded store.
fn file_of(config: &Config) -> &sqlite::Config {
    match &config.store {
        engine::Config::Sqlite(config) => config,
        engine::Config::Redis(config) => panic!("{config:?}"),
    }
}

/// Sections and the smallest app.
fn with_app(sections: &str) -> Result<Loaded, Vec<String>> {
    load(&format!("{sections}\n{APP}"))
}

/// Asserts that the one problem is this key's, and that it says this.
#[track_caller]
fn refused(outcome: Result<Loaded, Vec<String>>, key: &str, says: &str) {
    let problems = outcome.unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with(key) && problems[0].contains(says), "{problems:?}");
}

fn level(text: &str) -> Level {
    text.parse().unwrap()
}

#[track_caller]
fn remarked(outcome: Result<Loaded, Vec<String>>, says: &str) {
    let remarks = outcome.unwrap().remarks;
    assert!(remarks.iter().any(|remark| remark.contains(says)), "{remarks:?}");
}

mod defaults {
    use super::*;

    #[test]
    fn the_smallest_file_has_the_defaults_of_the_contract() {
        let config = load(APP).unwrap().config;
        assert_eq!(config.http.listen.to_string(), "0.0.0.0:8080");
        assert_eq!(config.http.path, "/alipay/notify");
        assert_eq!((config.http.max_body, config.http.max_header), (64 * 1024, 8 * 1024));
        assert_eq!((config.http.max_connections, config.http.max_buffered_connections), (10_000, 2048));
        assert_eq!(config.http.header_timeout, Duration::from_secs(10));
        assert_eq!(config.http.body_timeout, Duration::from_secs(10));
        assert_eq!(config.http.write_timeout, Duration::from_secs(10));
        assert_eq!(config.http.handshake_timeout, Duration::from_secs(5));
        assert_eq!((config.http.max_connections_per_address, config.http.max_bodies), (0, 16 << 20));
        assert_eq!(config.http.max_requests_per_connection, 10_000);
        assert_eq!(config.http.max_connection_age, Duration::from_secs(3600));
        assert!(!config.http.proxy_protocol && config.http.tls.is_none());
        assert_eq!(config.failure_budget, 60);
        assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9090");
        assert_eq!(config.admin.token, None);
        assert_eq!(config.amqp.uri.read().unwrap().expose(), "amqp://guest:guest@127.0.0.1:5672/%2f");
        assert_eq!(config.amqp.exchange, "payments");
        assert!(config.amqp.queues.is_empty() && config.amqp.required_queues.is_empty());
        assert_eq!(config.publication.answer_timeout, Duration::from_secs(5));
        assert_eq!(config.publication.confirm_timeout, Duration::from_secs(3));
        assert!(config.publication.ignore.is_empty());
        let bounds =
            (config.publication.lanes, config.publication.max_batch, config.publication.max_in_flight);
        assert_eq!(bounds, (4, 64, 4096));
        assert_eq!((file_of(&config).max_deferred, file_of(&config).max_held), (100_000, 10_000));
        assert_eq!(file_of(&config).max_returned, 20_000);
        assert_eq!(
            (file_of(&config).max_deferred_bytes, file_of(&config).max_held_bytes),
            (1 << 30, 256 << 20)
        );
        assert_eq!(config.policy.max_age, Duration::from_secs(24 * 3600));
        assert_eq!(config.policy.retention, Duration::from_secs(35 * 86_400));
        assert_eq!(config.publication.retention, config.policy.retention);
        assert_eq!((config.policy.buyer, config.policy.notification), (Buyer::Omit, true));
        assert_eq!(config.threads, 0);
        assert_eq!((config.shutdown.delay, config.shutdown.grace), (Duration::ZERO, Duration::from_secs(25)));
        assert_eq!((config.log.format, config.log.level), (Format::Json, level("info")));
        let app = &config.policy.apps["2021000000000001"];
        assert_eq!((app.environment, app.sign_type), (Environment::Production, SignType::Rsa2));
        assert_eq!((app.seller_ids.len(), app.keys.len()), (0, 1));
    }

    #[test]
    fn sellers_that_are_not_checked_are_remarked() {
        remarked(load(APP), "the seller of a trade is not checked");
    }

    #[test]
    fn relative_paths_are_relative_to_the_file() {
        let folder = folder();
        let file = folder.write("gateway.toml", APP);
        let config = config::load_from(Some(&file), Vec::new()).unwrap().config;
        assert_eq!(file_of(&config).path, folder.path().join("data/gateway.db"));
    }
}

mod file {
    use super::*;

    #[test]
    fn every_problem_comes_at_once() {
        let problems = load(
            r#"
[http]
listen = "somewhere"
path = "alipay"
max_body = "5"
[admin]
listen = "there"
tokn = "x"
[amqp]
lanes = 65
confirm_timeout = "3x"
[store]
engine = "files"
[log]
format = "xml"
level = "loud=x=y"
[[apps]]
app_id = "2021000000000001"
alipay_public_keys = ["missing.pem"]
"#,
        )
        .unwrap_err();
        let keys: Vec<&str> =
            problems.iter().map(|problem| problem.split([':', ' ']).next().unwrap()).collect();
        for key in [
            "http.listen",
            "http.path",
            "http.max_body",
            "admin.listen",
            "admin.tokn",
            "amqp.lanes",
            "amqp.confirm_timeout",
            "store.engine",
            "log.format",
            "log.level",
            "apps[0].alipay_public_keys[0]",
        ] {
            assert!(keys.contains(&key), "{key} is not in {problems:#?}");
        }
        assert_eq!(problems.len(), 11, "{problems:#?}");
    }

    #[test]
    fn an_unknown_key_is_a_problem_in_every_table() {
        for (text, key) in [
            ("[amqp]\nurl = \"amqp://h\"", "amqp.url:"),
            ("[amqpp]\nuri = \"amqp://h\"", "amqpp.uri:"),
            ("[amqpp]", "amqpp:"),
            ("http = 3", "http:"),
            ("[[amqp.queues]]\nname = \"q\"\nbind = [\"#\"]\ndurable = true", "amqp.queues[0].durable:"),
        ] {
            refused(with_app(text), key, "no such key");
        }
        refused(load(&format!("{APP}seller_id = \"2088101117955611\"")), "apps[0].seller_id:", "no such key");
    }

    #[test]
    fn all_unknown_keys_are_told() {
        let problems = with_app("a = 1\nb = 2\n[http]\nc = 3").unwrap_err();
        assert_eq!(problems.len(), 3, "{problems:?}");
    }

    #[test]
    fn a_file_that_is_not_toml_is_told_with_its_line_and_without_its_text() {
        let problems = load("[amqp]\nuri = \"amqp://u:hunter2@h\" x\n").unwrap_err();
        assert!(problems[0].contains("line 2") && !problems[0].contains("hunter2"), "{problems:?}");
        assert_eq!(problems.len(), 1, "what else is in it nobody knows: {problems:?}");
    }

    #[test]
    fn a_file_that_is_not_there_is_told() {
        let problems = config::load_from(Some(Path::new("nowhere/gateway.toml")), Vec::new()).unwrap_err();
        assert!(problems.0[0].starts_with("nowhere/gateway.toml:"), "{problems}");
        assert_eq!(problems.0.len(), 1, "{problems}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_told() {
        refused(with_app("[http]\nlisten = 8080"), "http.listen", "is to be a text");
        refused(with_app("[http]\nmax_body = 65536"), "http.max_body", "is to be a text");
        refused(with_app("[amqp]\nlanes = \"many\""), "amqp.lanes", "a number from 1 to 64");
        refused(with_app("[amqp]\nignore = [1]"), "amqp.ignore", "a list of texts");
        refused(with_app("[event]\nnotification = \"yes\""), "event.notification", "true or false");
        let problems = load("[[apps]]\napp_id = 2021000000000001\nalipay_public_keys = [\"alipay.pem\"]");
        let problems = problems.unwrap_err();
        assert!(problems[0].starts_with("apps[0].app_id: is to be a text"), "{problems:?}");
    }
}

mod values {
    use super::*;

    #[test]
    fn a_duration_without_a_unit_is_refused() {
        refused(with_app("[amqp]\nconfirm_timeout = \"3\""), "amqp.confirm_timeout", "not a duration");
    }

    #[test]
    fn a_size_without_a_unit_is_refused() {
        refused(with_app("[http]\nmax_body = \"65536\""), "http.max_body", "not a size");
    }

    #[test]
    fn a_kib_has_1024_bytes() {
        assert_eq!(with_app("[http]\nmax_body = \"2KiB\"").unwrap().config.http.max_body, 2048);
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        refused(with_app("[http]\nlisten = \":8080\""), "http.listen", "not an address");
        refused(with_app("[admin]\nlisten = \"localhost\""), "admin.listen", "not an address");
    }

    #[test]
    fn one_address_for_both_listeners_is_refused() {
        let both = "[http]\nlisten = \"127.0.0.1:9090\"";
        refused(with_app(both), "admin.listen", "http.listen");
    }

    #[test]
    fn a_path_that_is_none_is_refused() {
        for path in ["", "notify", "/notify?x=1", "/notify#x", "/no tify"] {
            refused(with_app(&format!("[http]\npath = \"{path}\"")), "http.path", "not a path");
        }
    }

    #[test]
    fn a_confirm_timeout_that_is_not_below_the_answer_timeout_is_remarked() {
        remarked(with_app("[amqp]\nconfirm_timeout = \"5s\""), "amqp.confirm_timeout is not below");
    }

    #[test]
    fn a_confirm_timeout_for_which_a_claim_is_not_good_enough_is_remarked_where_the_store_is_shared() {
        let shared = |timeout| {
            let store = "[store]\nengine = \"redis\"\nuri = \"redis://h\"";
            with_app(&format!("{store}\n[amqp]\nconfirm_timeout = \"{timeout}\""))
        };
        let told = "a confirm is given up 12s after its claim";
        remarked(shared("13s"), told);
        let own = with_app("[amqp]\nconfirm_timeout = \"13s\"");
        for fine in [shared("12s"), own] {
            let remarks = fine.unwrap().remarks;
            assert!(!remarks.iter().any(|remark| remark.contains(told)), "{remarks:?}");
        }
    }

    #[test]
    fn a_duration_that_is_out_of_bounds_is_one_problem_and_not_two() {
        refused(with_app("[store]\nretention = \"1h\""), "store.retention", "is not between");
    }

    #[test]
    fn a_retention_that_forgets_before_the_last_delivery_is_refused() {
        let text =
            |retention| format!("[freshness]\nmax_age = \"24h\"\n[store]\nretention = \"{retention}\"");
        refused(with_app(&text("71h")), "store.retention", "48 h");
        assert!(with_app(&text("72h")).is_ok());
    }

    #[test]
    fn a_bound_is_told_as_one_would_write_it() {
        refused(with_app("[freshness]\nmax_age = \"1s\""), "freshness.max_age", "between 1m and 3600d");
        refused(with_app("[http]\nbody_timeout = \"1d\""), "http.body_timeout", "between 100ms and 10m");
        refused(with_app("[http]\nanswer_timeout = \"1d\""), "http.answer_timeout", "between 1s and 1m");
        refused(with_app("[shutdown]\ndelay = \"1d\""), "shutdown.delay", "between 0ms and 10m");
    }

    #[test]
    fn a_redis_that_cannot_be_meant_is_refused() {
        let redis = |more: &str| with_app(&format!("[store]\nengine = \"redis\"\n{more}"));
        refused(redis(""), "store.uri", "is required");
        for uri in ["http://h", "redis://", "redis-sentinel://h", "rediss://h#insecure"] {
            refused(redis(&format!("uri = \"{uri}\"")), "store.uri", "");
        }
        refused(redis("uri = \"redis://h\"\nprefix = \"a b\""), "store.prefix", "letters");
        refused(redis("uri = \"redis://h\"\nunavailable = \"perhaps\""), "store.unavailable", "not one of");
        refused(redis("uri = \"redis://h\"\nca_file = \"alipay.pem\""), "store.ca_file", "encrypted");
        refused(redis("uri = \"rediss://h\"\nca_file = \"alipay.pem\""), "store.ca_file", "certificate");
        refused(with_app("[store]\nuri = \"redis://h\""), "store.engine", "is sqlite");
        refused(with_app("[store]\nengine = \"files\""), "store.engine", "not one of");
    }

    #[test]
    fn a_store_that_is_a_folder_is_refused() {
        refused(with_app("[store]\npath = \"\""), "store.path", "a file");
        refused(with_app("[store]\npath = \"data/\""), "store.path", "a file");
    }

    #[test]
    fn a_buyer_policy_is_one_of_three() {
        refused(with_app("[event]\nbuyer = \"hash\""), "event.buyer", "omit, mask, forward");
    }

    #[test]
    fn a_log_format_or_level_that_is_none_is_refused() {
        refused(with_app("[log]\nformat = \"xml\""), "log.format", "json, text");
        refused(with_app("[log]\nlevel = \"\""), "log.level", "not a level");
        refused(with_app("[log]\nlevel = \"info,lapin=loud\""), "log.level", "\"loud\" is not a level");
    }

    #[test]
    fn a_log_level_may_be_a_filter() {
        for filter in ["off", "info", "info,lapin=warn", "alipay_notify_gateway::broker=debug"] {
            let config = with_app(&format!("[log]\nlevel = \"{filter}\"")).unwrap().config;
            assert_eq!(config.log.level, level(filter));
        }
    }
}

mod broker {
    use super::*;

    #[test]
    fn a_uri_that_is_none_is_refused_and_never_shown() {
        for uri in
            ["http://u:hunter2@h", "u:hunter2@h:5672", "amqp://u:hunter2@h:port", "amqp:/u:hunter2@h", ""]
        {
            let outcome = with_app(&format!("[amqp]\nuri = \"{uri}\""));
            assert!(!format!("{outcome:?}").contains("hunter2"), "{outcome:?}");
            refused(outcome, "amqp.uri", "is not a URI");
        }
    }

    #[test]
    fn a_secret_is_not_in_the_debug_output() {
        let text = "[admin]\ntoken = \"hunter2-hunter2-hunter2\"\n[amqp]\nuri = \"amqp://u:hunter2@h/\"";
        let loaded = with_app(text).unwrap();
        assert_eq!(loaded.config.amqp.uri.read().unwrap().expose(), "amqp://u:hunter2@h/");
        assert!(!format!("{loaded:?}").contains("hunter2"));
    }

    #[test]
    fn a_secret_comes_from_a_file_without_its_last_newline() {
        let folder = folder();
        folder.write("uri", "amqp://u:p@h/\n");
        let file = folder.write("gateway.toml", format!("[amqp]\nuri_file = \"uri\"\n{APP}"));
        let config = config::load_from(Some(&file), Vec::new()).unwrap().config;
        assert_eq!(config.amqp.uri.read().unwrap().expose(), "amqp://u:p@h/");
    }

    #[test]
    fn a_secret_file_that_is_missing_or_empty_is_told() {
        refused(with_app("[admin]\ntoken_file = \"nowhere\""), "admin.token_file", "No such file");
        let folder = folder();
        folder.write("token", "\n");
        let file = folder.write("gateway.toml", format!("[admin]\ntoken_file = \"token\"\n{APP}"));
        let problems = config::load_from(Some(&file), Vec::new()).unwrap_err();
        assert_eq!(problems.0, ["admin.token_file: the file that it names: is empty"]);
    }

    #[test]
    fn a_key_or_a_token_in_the_place_of_its_file_is_refused_and_not_shown() {
        let pem = private_pem(stranger());
        let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let mark = &base64[200..260];
        let quoted = format!("'{base64}'");
        for key in [pem.as_str(), base64.as_str(), quoted.as_str()] {
            for (text, named, says) in [
                (APP.replace("alipay.pem", "KEY"), "apps[0].alipay_public_keys[0]", "private key"),
                (
                    format!("{APP}shadow_public_keys = [\"KEY\"]"),
                    "apps[0].shadow_public_keys[0]",
                    "private key",
                ),
                (format!("{APP}seller_ids_file = \"KEY\""), "apps[0].seller_ids_file", "a key itself"),
                (
                    format!("[amqp]\nuri = \"amqps://h/\"\nca_file = \"KEY\"\n{APP}"),
                    "amqp.ca_file",
                    "a key itself",
                ),
                (
                    format!("[http]\ntls_certificate_file = \"c\"\ntls_key_file = \"KEY\"\n{APP}"),
                    "http.tls_key_file",
                    "a key itself",
                ),
            ] {
                let problems = load(&text.replace("\"KEY\"", &format!("\"\"\"{key}\"\"\""))).unwrap_err();
                let told = problems.join("\n");
                // What a key in quotation marks is, is not known.
                let says = if key == quoted { "a key itself" } else { says };
                assert!(problems[0].starts_with(named) && problems[0].contains(says), "{told}");
                assert!(!told.replace('\n', "").contains(mark), "{told}");
            }
        }
        let token = "hunter2-hunter2-hunter2";
        let outcome = with_app(&format!("[admin]\ntoken_file = \"{token}\""));
        assert!(!format!("{outcome:?}").contains(token), "{outcome:?}");
        let outcome = with_app("[amqp]\nnodes = [\"amqp://u:hunter2@h:1\"]");
        assert!(!format!("{outcome:?}").contains("hunter2"), "{outcome:?}");
        refused(outcome, "amqp.nodes", "is not HOST or HOST:PORT");
    }

    #[test]
    fn a_line_of_a_key_that_is_named_as_the_list_of_sellers_is_not_shown() {
        let folder = folder();
        let pem = private_pem(stranger());
        folder.write("sellers.txt", &pem);
        let file = folder.write("gateway.toml", format!("{APP}seller_ids_file = \"sellers.txt\""));
        let told = config::load_from(Some(&file), Vec::new()).unwrap_err().to_string();
        let line = pem.lines().nth(3).unwrap();
        assert!(told.contains("apps[0].seller_ids") && !told.contains(line), "{told}");
    }

    #[test]
    fn the_path_of_the_store_is_that_of_its_file_whatever_links_lead_there() {
        let folder = folder();
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, folder.path().join(name)).unwrap();
        link("shared/gateway.db", "first.db");
        link("first.db", "second.db");
        let path = |name: &str| {
            let file = folder.write("gateway.toml", format!("[store]\npath = \"{name}\"\n{APP}"));
            file_of(&config::load_from(Some(&file), Vec::new()).unwrap().config).path.clone()
        };
        assert_eq!(path("second.db"), folder.path().join("shared/gateway.db"));
        assert_eq!(path("gateway.db"), folder.path().join("gateway.db"));
        link("round.db", "round.db");
        assert!(path("round.db").ends_with("round.db"));
        for none in [":memory:", "file:gateway.db?mode=memory", "redis://:secret@h:1"] {
            refused(with_app(&format!("[store]\npath = \"{none}\"")), "store.path", "is to name a file");
        }
    }

    #[test]
    fn a_token_that_no_header_can_bring_is_refused() {
        for token in ["密码密码密码密码密码", " 0123456789abcdef "] {
            let outcome = with_app(&format!("[admin]\ntoken = \"{token}\""));
            assert!(!format!("{outcome:?}").contains(token), "{outcome:?}");
            refused(outcome, "admin.token", "visible ASCII");
        }
        remarked(with_app("[admin]\ntoken = \"\""), "opens nothing");
    }

    #[test]
    fn a_uri_in_the_place_of_its_file_is_refused_and_not_shown() {
        let outcome = with_app("[amqp]\nuri_file = \"amqp://u:hunter2@h/\"");
        assert!(!format!("{outcome:?}").contains("hunter2"), "{outcome:?}");
        refused(outcome, "amqp.uri_file", "belongs in amqp.uri");
    }

    #[test]
    fn a_secret_in_both_forms_is_refused() {
        let folder = folder();
        folder.write("uri", "amqp://h/");
        let both = format!("[amqp]\nuri = \"amqp://h/\"\nuri_file = \"uri\"\n{APP}");
        let file = folder.write("gateway.toml", both);
        let problems = config::load_from(Some(&file), Vec::new()).unwrap_err();
        assert_eq!(problems.0, ["amqp.uri: amqp.uri_file is given too; one of them must go"]);
    }

    #[test]
    fn a_short_token_is_remarked() {
        remarked(with_app("[admin]\ntoken = \"short\""), "can be guessed");
    }

    #[test]
    fn an_ignored_type_is_a_known_one() {
        refused(with_app("[amqp]\nignore = [\"trade.open\"]"), "amqp.ignore", "not an event type");
        remarked(with_app("[amqp]\nignore = [\"payment.succeeded\"]"), "payment.succeeded");
    }

    #[test]
    fn a_binding_that_takes_nothing_is_refused() {
        for bind in ["payment.success", "", "payment"] {
            let queue = format!("[[amqp.queues]]\nname = \"q\"\nbind = [\"#\", \"{bind}\"]");
            refused(with_app(&queue), "amqp.queues[0].bind", "takes none of the event types");
        }
        refused(with_app("[[amqp.queues]]\nname = \"q\"\nbind = []"), "amqp.queues[0].bind", "is required");
    }

    #[test]
    fn a_queue_has_a_name_of_its_own() {
        let queue = |name: &str| format!("[[amqp.queues]]\nname = \"{name}\"\nbind = [\"#\"]\n");
        refused(with_app(&queue("")), "amqp.queues[0].name", "is required");
        refused(with_app(&queue("amq.q")), "amqp.queues[0].name", "amq.");
        refused(with_app(&(queue("q") + &queue("q"))), "amqp.queues[1].name", "twice");
    }

    #[test]
    fn an_exchange_has_a_name_of_its_own() {
        for name in ["", "amq.topic"] {
            refused(with_app(&format!("[amqp]\nexchange = \"{name}\"")), "amqp.exchange", "name");
        }
    }

    #[test]
    fn an_event_type_that_nothing_covers_is_remarked_where_queues_are_declared() {
        let queue = "[[amqp.queues]]\nname = \"q\"\nbind = [\"payment.*\", \"trade.#\"]\n";
        remarked(with_app(queue), "notification.other: no declared queue binds it");
        let covered = with_app(&format!("[amqp]\nignore = [\"notification.other\"]\n{queue}")).unwrap();
        assert!(!covered.remarks.iter().any(|remark| remark.contains("binds it")), "{:?}", covered.remarks);
        let undeclared = load(APP).unwrap();
        assert!(!undeclared.remarks.iter().any(|remark| remark.contains("binds it")));
    }

    #[test]
    fn a_configuration_that_names_no_queue_is_remarked() {
        remarked(load(APP), "no queue is declared or required");
        for named in ["required_queues = [\"q\"]", "[[amqp.queues]]\nname = \"q\"\nbind = [\"#\"]"] {
            let remarks = with_app(&format!("[amqp]\n{named}\n")).unwrap().remarks;
            assert!(!remarks.iter().any(|remark| remark.contains("declared or required")), "{remarks:?}");
        }
    }

    #[test]
    fn what_the_lanes_can_have_in_doubt_is_to_leave_room_for_what_comes_then() {
        let told = |more| {
            let remarks = with_app(&format!("[publication]\nmax_in_flight = 1024\n[amqp]\nlanes = {more}\n"));
            remarks.unwrap().remarks.iter().any(|remark| remark.starts_with("publication.max_in_flight"))
        };
        assert_eq!([15, 16].map(told), [false, true]);
    }
}

mod apps {
    use super::*;

    fn app(more: &str) -> String {
        format!("{APP}{more}\n")
    }

    #[test]
    fn there_is_at_least_one() {
        refused(load(""), "apps", "at least one");
    }

    #[test]
    fn an_app_has_an_id_and_keys() {
        let problems = load("[[apps]]\nenvironment = \"production\"").unwrap_err();
        assert!(problems[0].starts_with("apps[0].app_id: is required"), "{problems:?}");
        assert!(problems[1].starts_with("apps[0].alipay_public_keys: is required"), "{problems:?}");
    }

    #[test]
    fn an_app_id_that_is_none_is_told_and_not_quoted() {
        for id in ["a".repeat(33), "2021 0000".to_owned(), "MIIBIjANBgkq/+".to_owned()] {
            let toml = format!("[[apps]]\napp_id = \"{id}\"\nalipay_public_keys = [\"alipay.pem\"]");
            let problems = load(&toml).unwrap_err();
            assert!(problems[0].starts_with("apps[0].app_id: is to have 1 to 32 letters"), "{problems:?}");
            assert!(!problems.concat().contains(&id), "{problems:?}");
        }
    }

    #[test]
    fn the_same_app_twice_is_refused() {
        refused(load(&(app("") + APP)), "apps[1].app_id", "twice");
    }

    #[test]
    fn an_environment_that_is_none_is_refused() {
        refused(load(&app("environment = \"test\"")), "apps[0].environment", "production, sandbox");
    }

    #[test]
    fn two_environments_share_an_exchange_only_by_saying_so() {
        let other = "[[apps]]\napp_id = \"9021000000000001\"\nenvironment = \"sandbox\"\n\
                     alipay_public_keys = [\"alipay.pem\"]\n";
        refused(load(&(app("") + other)), "apps", "amqp.mix_environments");
        assert!(load(&format!("[amqp]\nmix_environments = true\n{APP}{other}")).is_ok());
    }

    #[test]
    fn one_key_in_two_apps_is_remarked() {
        let other = "[[apps]]\napp_id = \"2021000000000002\"\nalipay_public_keys = [\"alipay.pem\"]\n";
        remarked(load(&(app("") + other)), "belong to one app");
    }

    #[test]
    fn a_sign_type_that_is_none_is_refused() {
        for name in ["RSA3", "rsa2", "SM2", "MD5", ""] {
            let problems = load(&app(&format!("sign_type = \"{name}\""))).unwrap_err();
            assert!(problems.iter().any(|problem| problem.starts_with("apps[0].sign_type")), "{problems:?}");
        }
    }

    #[test]
    fn rsa_without_sellers_is_refused() {
        refused(load(&app("sign_type = \"RSA\"")), "apps[0].seller_ids", "RSA");
        remarked(
            load(&app("sign_type = \"RSA\"\nseller_ids = [\"2088101117955611\"]")),
            "all merchants share",
        );
    }

    #[test]
    fn a_seller_that_is_none_is_refused() {
        refused(load(&app("seller_ids = [\"me@example.com\"]")), "apps[0].seller_ids", "not a seller");
    }

    #[test]
    fn sellers_come_from_a_file_one_a_line() {
        let with_file = |content: Option<&str>, more: &str| {
            let folder = folder();
            if let Some(content) = content {
                folder.write("sellers.txt", content);
            }
            let text = app(&format!("seller_ids_file = \"sellers.txt\"\n{more}"));
            let file = folder.write("gateway.toml", text);
            config::load_from(Some(&file), Vec::new()).map_err(|problems| problems.0)
        };
        let loaded =
            with_file(Some("\n2088000000000001\n # a remark\n 2088000000000002 # ours\r\n"), "").unwrap();
        let sellers = &loaded.config.policy.apps["2021000000000001"].seller_ids;
        assert_eq!(sellers.iter().collect::<Vec<_>>(), ["2088000000000001", "2088000000000002"]);
        assert!(loaded.watched.iter().any(|file| file.path.ends_with("sellers.txt")), "{:?}", loaded.watched);
        // As an editor of Windows writes it.
        assert!(with_file(Some("\u{feff}2088000000000001\r\n"), "").is_ok());
        let key = "apps[0].seller_ids";
        refused(with_file(Some("# nobody\n"), ""), key, "names no seller");
        refused(with_file(Some("me@example.com\n"), ""), key, "not a seller");
        refused(with_file(Some("2088"), "seller_ids = [\"2088\"]"), key, "one of them must go");
        let problems = with_file(None, "").unwrap_err();
        assert!(problems[0].starts_with("apps[0].seller_ids_file: sellers.txt: "), "{problems:?}");
    }

    #[test]
    fn a_key_in_shadow_is_judged_like_any_other_and_is_no_key_to_start_with() {
        let shadow = "shadow_public_keys = [\"alipay.pem\"]";
        let only = format!("[[apps]]\napp_id = \"2021000000000001\"\n{shadow}\n");
        refused(load(&only), "apps[0].alipay_public_keys", "is required");
        remarked(load(&app(shadow)), "believed anyway");
        refused(
            load(&app("shadow_public_keys = [\"gone.pem\"]")),
            "apps[0].shadow_public_keys[0] (gone.pem)",
            "",
        );
    }

    #[test]
    fn the_keys_that_alipay_shares_are_known_and_the_sandboxs_is_never_productions() {
        let with_key = |key: &str, more: &str| {
            let folder = Folder::new();
            folder.write("alipay.pem", key);
            let sellers = "seller_ids = [\"2088101117955611\"]\nsign_type = \"RSA\"\n";
            let file = folder.write("gateway.toml", app(&format!("{sellers}{more}")));
            config::load_from(Some(&file), Vec::new()).map_err(|problems| problems.0)
        };
        remarked(with_key(SHARED_OPEN_PLATFORM, ""), "the open platform's RSA key");
        remarked(with_key(SHARED_PARTNER, ""), "the partner gateway's key");
        let name = "apps[0].alipay_public_keys[0] (alipay.pem)";
        refused(with_key(SHARED_SANDBOX, ""), name, "the sandbox's shared key");
        remarked(with_key(SHARED_SANDBOX, "environment = \"sandbox\""), "the sandbox's RSA key");
        remarked(with_key(&alipay::public_pem(), ""), "none of the three keys");
    }

    #[test]
    fn a_private_half_beside_a_public_key_gives_the_wrong_key_away() {
        let folder = folder();
        let file = folder.write("gateway.toml", APP);
        let loaded = || config::load_from(Some(&file), Vec::new()).map_err(|problems| problems.0);
        let tells = |remarks: &[String]| remarks.iter().any(|remark| remark.contains("a key of your own"));
        assert!(!tells(&loaded().unwrap().remarks));
        folder.write("mine", private_pem(stranger()));
        assert!(!tells(&loaded().unwrap().remarks), "the half of another key says nothing");
        folder.write("app_private_key.txt", private_pem(alipay::private_key()));
        assert!(tells(&loaded().unwrap().remarks));
    }

    #[test]
    fn the_account_in_a_certificates_name_is_compared_with_the_sellers() {
        let remarks = |sellers: &str| {
            let folder = Folder::new();
            let name = "支付宝(中国)网络技术有限公司-2088101117955611";
            folder.write("alipay.pem", certificate(alipay::private_key(), name, "Ant"));
            let file = folder.write("gateway.toml", app(&format!("seller_ids = [{sellers}]")));
            config::load_from(Some(&file), Vec::new()).unwrap().remarks.join("\n").replace("alipay.pem", "")
        };
        // The file is there, and named as the smallest app names it.
        assert!(remarks("\"2088000000000001\"").contains("is for the account 2088101117955611"));
        assert!(!remarks("\"2088101117955611\"").contains("for the account"));
        assert!(!remarks("").contains("for the account"));
    }

    #[test]
    fn each_key_file_is_judged_and_named() {
        let folder = folder();
        folder.write("garbage.pem", "no key");
        folder.write("private.pem", "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n");
        let keys = "[[apps]]\napp_id = \"2021000000000001\"\n\
                    alipay_public_keys = [\"alipay.pem\", \"garbage.pem\", \"private.pem\", \"gone.pem\"]\n";
        let file = folder.write("gateway.toml", keys);
        let problems = config::load_from(Some(&file), Vec::new()).unwrap_err().0;
        assert_eq!(problems.len(), 3, "{problems:#?}");
        assert!(problems[0].starts_with("apps[0].alipay_public_keys[1] (garbage.pem): not a public key"));
        assert!(
            problems[1].starts_with("apps[0].alipay_public_keys[2] (private.pem): this is a PRIVATE key")
        );
        assert!(problems[2].starts_with("apps[0].alipay_public_keys[3] (gone.pem): "), "{}", problems[2]);
    }
}

/// Public keys that Alipay shares among all merchants of sign_type RSA: they are in its own documents and examples.
const SHARED_PARTNER: &str = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCnxj/9qwVfgoUh/y2W89L6BkRAFljhNhgPdyPuBV64bfQNN1Pj\
    bCzkIM6qRdKBoLPXmKKMiFYnkd6rAoprih3/PrQEB/VsW8OoM8fxn67UDYuyBTqA23MML9q1+ilIZwBC2AQ2UBVOrFXfFl75p6/B5KsiNG9zpgmL\
    CUYuLkxpLQIDAQAB";
const SHARED_OPEN_PLATFORM: &str = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDDI6d306Q8fIfCOaTXyiUeJHkrIvYISRcc73s3vF1Z\
    T7XN8RNPwJxo8pWaJMmvyTn9N4HQ632qJBVHf8sxHi/fEsraprwCtzvzQETrNRwVxLO5jVmRGi60j8Ue1efIlzPXV9je9mkjzOmdssymZkh2QhUr\
    CmZYI/FCEa3/cNMW0QIDAQAB";
const SHARED_SANDBOX: &str = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDIgHnOn7LLILlKETd6BFRJ0GqgS2Y3mn1wMQmyh9zEyWlz5p1z\
    rahRahbXAfCfSqshSNfqOmAQzSHRVjCqjsAw1jyqrXaPdKBmr90DIpIxmIyKXv4GGAkPyJ/6FTFY99uhpiq0qadD/uSzQsefWo0aTvP/65zi3eof\
    7TcZ32oWpwIDAQAB";

mod environment {
    use super::*;

    #[test]
    fn the_environment_beats_the_file() {
        let text = format!("[amqp]\nlanes = 2\nignore = [\"trade.closed\"]\n{APP}");
        let config = load_with(
            &text,
            &[
                ("GATEWAY_AMQP__LANES", "8"),
                ("GATEWAY_AMQP__IGNORE", "trade.pending, payment.late"),
                ("GATEWAY_EVENT__NOTIFICATION", "false"),
                ("GATEWAY_HTTP__MAX_BODY", "1MiB"),
            ],
        )
        .unwrap()
        .config;
        assert_eq!((config.publication.lanes, config.http.max_body), (8, 1 << 20));
        assert!(!config.policy.notification);
        let ignored: Vec<EventType> = config.publication.ignore.into_iter().collect();
        assert_eq!(ignored, [EventType::PaymentLate, EventType::TradePending]);
    }

    #[test]
    fn an_empty_variable_is_an_empty_list() {
        let text = format!("[amqp]\nignore = [\"trade.closed\"]\n{APP}");
        let config = load_with(&text, &[("GATEWAY_AMQP__IGNORE", "")]).unwrap().config;
        assert!(config.publication.ignore.is_empty());
    }

    #[test]
    fn one_form_of_a_secret_in_the_environment_unsets_the_other_in_the_file() {
        let folder = folder();
        folder.write("uri", "amqp://from:file@h/");
        let in_place = folder.write("a.toml", format!("[amqp]\nuri = \"amqp://in:place@h/\"\n{APP}"));
        let in_file = folder.write("b.toml", format!("[amqp]\nuri_file = \"gone\"\n{APP}"));
        let uri = |file: &Path, name: &str, value: &str| {
            let loaded = config::load_from(Some(file), variables(&[(name, value)])).unwrap();
            loaded.config.amqp.uri.read().unwrap().expose().to_owned()
        };
        assert_eq!(uri(&in_place, "GATEWAY_AMQP__URI_FILE", "uri"), "amqp://from:file@h/");
        assert_eq!(uri(&in_file, "GATEWAY_AMQP__URI", "amqp://from:env@h/"), "amqp://from:env@h/");
    }

    #[test]
    fn both_forms_of_a_secret_in_the_environment_are_refused() {
        let both = [("GATEWAY_AMQP__URI", "amqp://h/"), ("GATEWAY_AMQP__URI_FILE", "alipay.pem")];
        let problems = load_with(APP, &both).unwrap_err();
        assert!(problems[0].contains("one of them must go"), "{problems:?}");
    }

    #[test]
    fn a_variable_without_two_underscores_says_nothing() {
        assert!(load_with(APP, &[("GATEWAY_PORT", "tcp://10.0.0.1:80"), ("GATEWAY_AMQP", "x")]).is_ok());
    }

    #[test]
    fn a_variable_without_a_key_is_refused_and_its_value_not_shown() {
        for name in
            ["GATEWAY_AMQP__URL", "GATEWAY_APPS__0__APP_ID", "GATEWAY_AMQP__QUEUES", "GATEWAY_APPS[]__APP_ID"]
        {
            let problems = load_with(APP, &[(name, "hunter2")]).unwrap_err();
            assert!(problems[0].contains(name) && !problems[0].contains("hunter2"), "{problems:?}");
        }
    }

    #[test]
    fn a_bad_value_from_the_environment_names_its_key() {
        refused(load_with(APP, &[("GATEWAY_AMQP__LANES", "x")]), "amqp.lanes", "a number");
        refused(
            load_with(APP, &[("GATEWAY_EVENT__NOTIFICATION", "1")]),
            "event.notification",
            "true or false",
        );
    }

    #[test]
    fn rust_log_and_log_format_come_last() {
        let habits = [("RUST_LOG", "debug"), ("LOG_FORMAT", "text")];
        let log = load_with(APP, &habits).unwrap().config.log;
        assert_eq!((log.format, log.level), (Format::Text, level("debug")));
        let text = format!("[log]\nformat = \"json\"\nlevel = \"warn\"\n{APP}");
        let log = load_with(&text, &habits).unwrap().config.log;
        assert_eq!((log.format, log.level), (Format::Json, level("warn")));
        let all = [habits[0], habits[1], ("GATEWAY_LOG__LEVEL", "error"), ("GATEWAY_LOG__FORMAT", "json")];
        let log = load_with(APP, &all).unwrap().config.log;
        assert_eq!((log.format, log.level), (Format::Json, level("error")));
    }
}

mod traces {
    use super::*;
    use alipay_notify_gateway::telemetry::traces::AVAILABLE;

    const COLLECTOR: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4318");
    const FILE: &str = "[traces]\notlp_endpoint = \"http://file:4318\"\nservice_name = \"pay\"\n";

    #[test]
    fn an_endpoint_is_one_or_a_problem_that_does_not_repeat_it() {
        for (endpoint, says) in [
            ("otel:4318", "http://HOST:PORT"),
            ("http://u:hunter2@otel", "http://HOST:PORT"),
            ("https://otel", "TLS"),
        ] {
            let given = [("GATEWAY_TRACES__OTLP_ENDPOINT", endpoint)];
            let problems = load_with(APP, &given).unwrap_err();
            assert!(!problems[0].contains("hunter2"), "{problems:?}");
            refused(Err(problems), "traces.otlp_endpoint", says);
        }
        let resource = [("GATEWAY_TRACES__RESOURCE", "a=b,c")];
        refused(load_with(APP, &resource), "traces.resource", "\"c\" is not name=value");
    }

    #[test]
    fn a_build_without_traces_says_so() {
        let given = load_with(&format!("{FILE}{APP}"), &[]);
        if AVAILABLE {
            assert!(given.unwrap().config.traces.endpoint.is_some());
        } else {
            refused(given, "traces.otlp_endpoint", "this build has no traces");
        }
    }

    #[test]
    fn what_opentelemetrys_variables_say_comes_last_and_is_never_a_reason_not_to_start() {
        let loaded = load_with(APP, &[COLLECTOR]).unwrap();
        assert_eq!(loaded.config.traces.endpoint.is_some(), AVAILABLE);
        assert_eq!(loaded.remarks.iter().any(|remark| remark.contains(COLLECTOR.0)), !AVAILABLE);
        for (variable, value) in
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otel:4317"), ("OTEL_RESOURCE_ATTRIBUTES", "nonsense")]
        {
            let traces = load_with(APP, &[(variable, value)]).unwrap().config.traces;
            assert!(traces.endpoint.is_none() && traces.resource.is_empty());
            remarked(load_with(APP, &[(variable, value)]), variable);
        }
        let named = [("OTEL_SERVICE_NAME", "habit"), ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c=d")];
        let traces = load_with(APP, &named).unwrap().config.traces;
        assert_eq!((traces.service_name.as_str(), traces.resource.len()), ("habit", 2));
        if AVAILABLE {
            let traces = load_with(&format!("{FILE}{APP}"), &[COLLECTOR, named[0]]).unwrap().config.traces;
            assert_eq!(
                (traces.endpoint, traces.service_name.as_str()),
                ("http://file:4318".parse().ok(), "pay")
            );
        }
    }

    #[test]
    fn opentelemetry_disabled_is_no_traces_whatever_the_file_says() {
        let loaded = load_with(&format!("{FILE}{APP}"), &[("OTEL_SDK_DISABLED", "true")]).unwrap();
        assert!(loaded.config.traces.endpoint.is_none());
    }
}

mod three_variables {
    use super::*;

    // The tests run in the crate's folder, where there is no gateway.toml.
    fn start(environment: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
        config::load_from(None, variables(environment)).map_err(|problems| problems.0)
    }

    #[test]
    fn three_variables_are_enough() {
        let pem = alipay::public_pem();
        let loaded = start(&[
            ("ALIPAY_APP_ID", "2021000000000001"),
            ("ALIPAY_PUBLIC_KEY", &pem),
            ("AMQP_URL", "amqp://u:p@h/"),
        ])
        .unwrap();
        assert_eq!(loaded.config.amqp.uri.read().unwrap().expose(), "amqp://u:p@h/");
        assert_eq!(file_of(&loaded.config).path, Path::new("data/gateway.db"));
        assert!(loaded.config.amqp.queues.is_empty());
        assert_eq!(loaded.config.policy.apps["2021000000000001"].keys.len(), 1);
    }

    #[test]
    fn the_key_may_be_bare_base64_or_a_file() {
        let pem = alipay::public_pem();
        let bare: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
        let folder = folder();
        let at_file = format!("@{}", folder.path().join("alipay.pem").display());
        for key in [&bare, &at_file] {
            let loaded = start(&[("ALIPAY_APP_ID", "2021000000000001"), ("ALIPAY_PUBLIC_KEY", key)]);
            assert_eq!(loaded.unwrap().config.policy.apps["2021000000000001"].keys.len(), 1);
        }
    }

    #[test]
    fn a_key_that_is_none_is_told_by_the_variables_name() {
        let outcome = start(&[("ALIPAY_APP_ID", "2021000000000001"), ("ALIPAY_PUBLIC_KEY", "hunter2")]);
        assert!(!format!("{outcome:?}").contains("hunter2"));
        refused(outcome, "ALIPAY_PUBLIC_KEY", "not a public key");
    }

    #[test]
    fn who_names_the_keys_file_without_its_mark_is_told_of_the_mark() {
        let file = folder().path().join("alipay.pem").display().to_string();
        let outcome = start(&[("ALIPAY_APP_ID", "2021000000000001"), ("ALIPAY_PUBLIC_KEY", &file)]);
        refused(outcome, "ALIPAY_PUBLIC_KEY", "@FILE");
    }

    #[test]
    fn other_keys_come_from_the_environment_as_always() {
        let pem = alipay::public_pem();
        let loaded = start(&[
            ("ALIPAY_APP_ID", "2021000000000001"),
            ("ALIPAY_PUBLIC_KEY", &pem),
            ("AMQP_URL", "amqp://u:p@h/"),
            ("GATEWAY_HTTP__LISTEN", "127.0.0.1:1"),
            ("GATEWAY_AMQP__URI", "amqp://other/"),
        ]);
        let config = loaded.unwrap().config;
        assert_eq!(config.http.listen.to_string(), "127.0.0.1:1");
        assert_eq!(config.amqp.uri.read().unwrap().expose(), "amqp://other/", "an override overrides");
    }

    #[test]
    fn nothing_at_all_is_told_with_the_ways_there_are() {
        let problems = start(&[]).unwrap_err();
        assert!(
            problems[0].contains("gateway.toml") && problems[0].contains("ALIPAY_APP_ID"),
            "{problems:?}"
        );
    }

    #[test]
    fn beside_a_file_they_are_refused() {
        refused(load_with(APP, &[("ALIPAY_APP_ID", "x")]), "ALIPAY_APP_ID", "configuration file");
        refused(load_with(APP, &[("ALIPAY_PUBLIC_KEY", "x")]), "ALIPAY_PUBLIC_KEY", "configuration file");
    }

    #[test]
    fn a_broker_for_other_programs_is_remarked_beside_a_file() {
        remarked(load_with(APP, &[("AMQP_URL", "amqp://u:p@h/")]), "AMQP_URL is set and not used");
    }
}

mod policy_alone {
    use super::*;

    fn policy(text: &str) -> Result<usize, Vec<String>> {
        let folder = folder();
        let file = folder.write("gateway.toml", text);
        let policy = config::load_policy_from(Some(&file), Vec::new()).map_err(|problems| problems.0)?;
        Ok(policy.apps.len())
    }

    #[test]
    fn explain_needs_nothing_but_apps() {
        assert_eq!(policy(APP), Ok(1));
        let elsewhere = "[amqp]\nuri_file = \"not/readable/here\"\n[store]\nengine = \"redis\"\n";
        assert_eq!(policy(&format!("{elsewhere}{APP}")), Ok(1));
    }

    #[test]
    fn explain_still_refuses_a_bad_key() {
        let problems = policy("[[apps]]\napp_id = \"1\"\nalipay_public_keys = [\"gone\"]").unwrap_err();
        assert!(problems[0].starts_with("apps[0].alipay_public_keys[0] (gone)"), "{problems:?}");
    }
}

mod documents {
    use super::*;

    const REFERENCE: &str = include_str!("../../docs/configuration.md");
    const EXAMPLE: &str = include_str!("../../gateway.example.toml");
    const COMPOSE: &str = include_str!("../../deploy/compose.yaml");

    /// A row of the reference.
    struct Row {
        kind: String,
        default: String,
        bounds: Option<(String, String)>,
        variable: String,
    }

    fn rows() -> BTreeMap<String, Row> {
        let bare = |cell: &str| cell.trim().trim_matches('`').to_owned();
        let mut rows = BTreeMap::new();
        for line in REFERENCE.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
            assert_eq!(cells.len(), 6, "{line}");
            let bounds = cells[3].split_once(" to ").map(|(from, to)| (bare(from), bare(to)));
            let row = Row { kind: bare(cells[1]), default: bare(cells[2]), bounds, variable: bare(cells[4]) };
            assert!(rows.insert(bare(cells[0]), row).is_none(), "twice: {line}");
        }
        rows
    }

    #[test]
    fn every_key_is_in_the_reference_and_none_other() {
        let documented: Vec<String> = rows().into_keys().collect();
        let mut known = KEYS.map(str::to_owned).to_vec();
        known.sort();
        assert_eq!(documented, known);
    }

    #[test]
    fn every_key_names_its_variable() {
        for (key, row) in rows() {
            let expected = if key.contains('[') {
                "file only".to_owned()
            } else {
                format!("GATEWAY_{}", key.to_uppercase().replace('.', "__"))
            };
            assert_eq!(row.variable, expected, "{key}");
        }
    }

    #[test]
    fn every_default_is_the_one_in_the_reference() {
        let folder = folder();
        let file = folder.write("gateway.toml", APP);
        let shown = |environment: &[(&str, &str)]| {
            let config = config::load_from(Some(&file), variables(environment)).unwrap().config;
            format!("{:?} {:?}", config, config.amqp.uri.read().unwrap().expose())
        };
        let plain = shown(&[]);
        for (key, row) in rows() {
            if row.variable != "file only" && !row.default.is_empty() {
                assert_eq!(shown(&[(&row.variable, &row.default)]), plain, "{key}");
            }
        }
        let app = |more: &str| format!("{:?}", load(&format!("{APP}{more}")).unwrap().config.policy);
        for (key, row) in rows() {
            let given = !row.default.is_empty() && row.default != "required";
            if let Some(name) = key.strip_prefix("apps[].").filter(|_| given) {
                assert_eq!(app(&format!("{name} = \"{}\"", row.default)), app(""), "{key}");
            }
        }
    }

    /// The value at a bound, and the one just beyond it.
    fn beyond(kind: &str, bound: &str, up: bool) -> Option<String> {
        match kind {
            "duration" => {
                let (bound, step) = (humantime::parse_duration(bound).unwrap(), Duration::from_millis(1));
                let beyond = if up { bound + step } else { bound.checked_sub(step)? };
                Some(humantime::format_duration(beyond).to_string())
            }
            "size" => {
                let bound = bound.parse::<bytesize::ByteSize>().unwrap().as_u64();
                Some(format!("{}B", if up { bound + 1 } else { bound - 1 }))
            }
            "number" => {
                let bound: u64 = bound.parse().unwrap();
                Some(if up { bound + 1 } else { bound.checked_sub(1)? }.to_string())
            }
            "ratio" => Some(if up { "1.001" } else { "-0.001" }.to_owned()),
            other => panic!("no bounds for {other}"),
        }
    }

    #[test]
    fn every_bound_is_the_one_in_the_reference() {
        let out_of_bounds = |variable: &str, key: &str, value: &str| {
            let problems = load_with(APP, &[(variable, value)]).err().unwrap_or_default();
            let told = |problem: &String| problem.contains("between") || problem.contains("number from");
            problems.iter().any(|problem| problem.starts_with(key) && told(problem))
        };
        let mut bounded = 0;
        for (key, row) in rows() {
            let Some((from, to)) = &row.bounds else {
                assert!(!["duration", "size", "number"].contains(&row.kind.as_str()), "{key} has no bounds");
                continue;
            };
            bounded += 1;
            for (bound, up) in [(from, false), (to, true)] {
                assert!(!out_of_bounds(&row.variable, &key, bound), "{key} {bound}");
                if let Some(beyond) = beyond(&row.kind, bound, up) {
                    assert!(out_of_bounds(&row.variable, &key, &beyond), "{key} {beyond}");
                }
            }
        }
        assert_eq!(bounded, 29);
    }

    #[test]
    fn the_example_loads_and_has_every_key() {
        let folder = Folder::new();
        std::fs::create_dir(folder.path().join("keys")).unwrap();
        folder.write("keys/alipay.pem", alipay::public_pem());
        let file = folder.write("gateway.toml", EXAMPLE);
        let loaded = config::load_from(Some(&file), Vec::new()).unwrap();
        assert_eq!(loaded.remarks, Vec::<String>::new());
        let mut config = loaded.config;
        assert_eq!(config.amqp.queues.len(), 2);
        for key in KEYS.iter().filter(|key| **key != "admin.token") {
            let name = key.rsplit('.').next().unwrap();
            let named = EXAMPLE.lines().any(|line| {
                line.trim_start_matches("# ").strip_prefix(name).is_some_and(|rest| rest.starts_with(" = "))
            });
            assert!(named, "{key}");
        }
        // But for the queues and the seller, its values are the defaults.
        let file = folder.write("plain.toml", APP.replace("alipay.pem", "keys/alipay.pem"));
        let plain = config::load_from(Some(&file), Vec::new()).unwrap().config;
        config.amqp.queues.clear();
        config.amqp.required_queues.clear();
        config.policy.apps.values_mut().for_each(|app| app.seller_ids.clear());
        assert_eq!(format!("{config:?}"), format!("{plain:?}"));
    }

    /// What the gateway's environment in deploy/compose.yaml is, where Compose is given STORE_ENGINE.
    fn environment_of_compose(store_engine: Option<&str>, secrets: &Path) -> Vec<(String, String)> {
        let gateway = COMPOSE.split("\n  gateway:\n").nth(1).unwrap();
        let block = gateway.split("    environment:\n").nth(1).unwrap();
        let lines = block.lines().map_while(|line| line.strip_prefix("      "));
        let set = |value: &str| {
            let Some(asked) = value.strip_prefix("${") else { return value.to_owned() };
            let (name, rest) = asked.strip_suffix('}').unwrap().split_once(':').unwrap();
            let given = store_engine.filter(|given| name == "STORE_ENGINE" && !given.is_empty());
            match (rest.split_at(1), given) {
                (("-", default), None) => default.to_owned(),
                (("-", _), Some(given)) => given.to_owned(),
                (("+", _), None) => String::new(),
                (("+", instead), Some(_)) => instead.to_owned(),
                (other, _) => panic!("{other:?}"),
            }
        };
        lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| {
                (name.to_owned(), set(value).replace("/run/gateway", &secrets.display().to_string()))
            })
            .collect()
    }

    #[test]
    fn compose_starts_with_either_store_as_its_comment_says() {
        let folder = Folder::new();
        std::fs::create_dir(folder.path().join("keys")).unwrap();
        folder.write("keys/alipay-public.pem", alipay::public_pem());
        folder.write("admin-token", "a-token-that-nobody-guesses");
        folder.write("amqp-uri", "amqp://gateway:secret@rabbitmq/%2f");
        let file = folder.write("gateway.toml", include_str!("../../deploy/compose/gateway/gateway.toml"));
        let store = |engine: Option<&str>| {
            let environment = environment_of_compose(engine, folder.path());
            assert!(environment.len() > 5, "{environment:?}");
            config::load_from(Some(&file), environment).unwrap().config.store
        };
        assert!(COMPOSE.contains("STORE_ENGINE=redis docker compose --profile redis"));
        let engine::Config::Redis(redis) = store(Some("redis")) else { panic!("it is not Redis") };
        assert_eq!(redis.uri.read().unwrap().expose(), "redis://redis:6379");
        for none in [None, Some("")] {
            assert!(matches!(store(none), engine::Config::Sqlite(_)));
        }
    }
}

mod the_public_door {
    use super::*;
    use crate::support::authority::Authority;

    #[test]
    fn proxies_are_networks_or_addresses_and_only_theirs_is_the_proxy_protocol() {
        let odd = "[http]\ntrusted_proxies = [\"10.0.0.0/8\", \"ingress\"]";
        refused(with_app(odd), "http.trusted_proxies", "\"ingress\" is not a network");
        refused(
            with_app("[http]\nproxy_protocol = true"),
            "http.proxy_protocol",
            "needs http.trusted_proxies",
        );
        remarked(with_app("[http]\ntrusted_proxies = [\"0.0.0.0/0\"]"), "everybody");
        let both =
            [("GATEWAY_HTTP__TRUSTED_PROXIES", "10.0.0.1,::1/128"), ("GATEWAY_HTTP__PROXY_PROTOCOL", "true")];
        assert!(load_with(APP, &both).unwrap().config.http.proxy_protocol);
    }

    #[test]
    fn what_all_bodies_hold_is_at_least_what_one_may() {
        let small = "[http]\nmax_body = \"2MiB\"\nmax_bodies = \"1MiB\"";
        refused(with_app(small), "http.max_bodies", "at least http.max_body");
    }

    /// With these keys of `[http]`.
    fn encrypted(folder: &Folder, http: &str) -> Result<Loaded, Vec<String>> {
        let file = folder.write("gateway.toml", format!("[http]\n{http}\n{APP}"));
        config::load_from(Some(&file), Vec::new()).map_err(|problems| problems.0)
    }

    #[test]
    fn the_listeners_certificate_and_key_are_read_and_must_fit() {
        let (folder, authority) = (folder(), Authority::new("tests"));
        let (certificate, key) = authority.issue("gateway");
        folder.write("gateway.pem", certificate);
        folder.write("gateway.key", key);
        folder.write("other.key", authority.issue("gateway").1);
        folder.write("not.pem", "not a certificate");
        let (shown, fits) = ("tls_certificate_file = \"gateway.pem\"\n", "tls_key_file = \"gateway.key\"\n");
        let good = encrypted(&folder, &format!("{shown}{fits}")).unwrap();
        assert!(good.config.http.tls.is_some());
        for file in ["gateway.pem", "gateway.key"] {
            assert!(
                good.watched.iter().any(|watched| watched.path == folder.path().join(file)),
                "{file} is looked at again"
            );
        }
        assert!(!format!("{:?}", good.config).contains("PRIVATE"));
        for (http, key, words) in [
            (shown.to_owned(), "http.tls_key_file", "is missing"),
            (fits.to_owned(), "http.tls_certificate_file", "is missing"),
            (format!("{shown}tls_key_file = \"other.key\""), "http.tls_key_file", "does not fit"),
            (format!("{shown}tls_key_file = \"gateway.pem\""), "http.tls_key_file", "no private key"),
            (format!("{shown}tls_key_file = \"gone.key\""), "http.tls_key_file", "gone.key"),
            (
                format!("tls_certificate_file = \"not.pem\"\n{fits}"),
                "http.tls_certificate_file",
                "no certificate",
            ),
        ] {
            refused(encrypted(&folder, &http), key, words);
        }
    }

    #[test]
    fn the_listeners_certificate_that_ends_soon_is_remarked_on() {
        let folder = folder();
        for (days, told) in [(-3, Some("has ended")), (12, Some("ends in 12 days")), (40, None)] {
            let (certificate, key) = Authority::self_signed("gateway", days);
            folder.write("gateway.pem", certificate);
            folder.write("gateway.key", key);
            let keys = "tls_certificate_file = \"gateway.pem\"\ntls_key_file = \"gateway.key\"";
            let remarks = encrypted(&folder, keys).unwrap().remarks.join("\n");
            match told {
                Some(words) => assert!(remarks.contains(words), "{remarks}"),
                None => assert!(!remarks.contains("http.tls"), "{remarks}"),
            }
        }
    }
}

mod nodes_and_certificates {
    use super::*;
    use crate::support::authority::Authority;

    /// With a broker that is spoken to over TLS.
    fn encrypted(folder: &Folder, amqp: &str) -> Result<Loaded, Vec<String>> {
        let text = format!("[amqp]\nuri = \"amqps://u:hunter2@h\"\n{amqp}\n{APP}");
        let file = folder.write("gateway.toml", text);
        config::load_from(Some(&file), Vec::new()).map_err(|problems| problems.0)
    }

    #[test]
    fn other_nodes_are_hosts_with_or_without_a_port() {
        refused(with_app("[amqp]\nnodes = [\"amqp://h\"]"), "amqp.nodes", "not HOST or HOST:PORT");
        let several = "[amqp]\nuri = \"amqp://a,amqp://b\"\nnodes = [\"c\"]";
        refused(with_app(several), "amqp.nodes", "one must go");
        let named = load_with(APP, &[("GATEWAY_AMQP__NODES", "rabbit-2,rabbit-3:5673")]).unwrap();
        assert_eq!(named.config.amqp.nodes, ["rabbit-2", "rabbit-3:5673"]);
    }

    #[test]
    fn files_of_tls_are_read_and_must_fit_each_other() {
        let (folder, authority) = (folder(), Authority::new("tests"));
        folder.write("ca.pem", authority.pem());
        folder.write("not.pem", "not a certificate");
        let (certificate, key) = authority.issue("gateway");
        folder.write("client.pem", certificate);
        folder.write("client.key", key);
        folder.write("other.key", authority.issue("gateway").1);
        let (ca, shown) = ("ca_file = \"ca.pem\"\n", "client_certificate_file = \"client.pem\"\n");
        let good = encrypted(&folder, &format!("{ca}{shown}client_key_file = \"client.key\"")).unwrap();
        assert_eq!(good.config.amqp.tls.client_key_file, Some(folder.path().join("client.key")));
        for (amqp, key, words) in [
            ("ca_file = \"gone.pem\"", "amqp.ca_file", "gone.pem"),
            ("ca_file = \"not.pem\"", "amqp.ca_file", "no certificate"),
            ("ca_file = \"client.key\"", "amqp.ca_file", "no certificate"),
            (shown, "amqp.client_key_file", "is missing"),
            ("client_key_file = \"client.key\"", "amqp.client_certificate_file", "is missing"),
            (&format!("{shown}client_key_file = \"other.key\""), "amqp.client_key_file", "does not fit"),
            (&format!("{shown}client_key_file = \"client.pem\""), "amqp.client_key_file", "no private key"),
        ] {
            refused(encrypted(&folder, amqp), key, words);
        }
    }

    #[test]
    fn certificates_for_a_connection_that_is_not_encrypted_are_refused() {
        let (folder, authority) = (folder(), Authority::new("tests"));
        folder.write("ca.pem", authority.pem());
        let text = format!("[amqp]\nuri = \"amqp://h\"\nca_file = \"ca.pem\"\n{APP}");
        let file = folder.write("gateway.toml", text);
        let loaded = config::load_from(Some(&file), Vec::new()).map_err(|problems| problems.0);
        refused(loaded, "amqp.uri", "not amqps");
    }

    #[test]
    fn a_certificate_that_ends_soon_is_remarked_on() {
        let folder = folder();
        for (days, told) in [(-3, Some("has ended")), (12, Some("ends in 12 days")), (40, None)] {
            folder.write("ca.pem", Authority::ending_in("tests", days).pem());
            let remarks = encrypted(&folder, "ca_file = \"ca.pem\"").unwrap().remarks.join("\n");
            match told {
                Some(words) => {
                    assert!(remarks.contains("amqp.ca_file") && remarks.contains(words), "{remarks}")
                }
                None => assert!(!remarks.contains("amqp.ca_file"), "{remarks}"),
            }
        }
    }
}
