//! The house rules that a compiler does not check: which module may import which, where each crate lives, what
//! a file may be called, and that the documents name what the code has.

#![expect(clippy::unwrap_used, reason = "a test of the tree: it may fail loudly")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each module of `src/` and what it may import of the crate (ARCHITECTURE.md, "Bird's eye").
const LADDER: [(&str, &[&str]); 19] = [
    ("clock", &[]),
    ("failpoint", &[]),
    ("json", &[]),
    ("secret", &[]),
    ("lifecycle", &[]),
    ("event", &["clock"]),
    ("metrics", &["event"]),
    ("telemetry", &["clock", "json", "lifecycle", "metrics"]),
    ("admission", &["clock", "event", "json"]),
    ("broker", &["clock", "event", "lifecycle", "metrics", "secret"]),
    ("store", &["clock", "event", "failpoint", "lifecycle", "secret"]),
    (
        "publication",
        &["admission", "broker", "clock", "event", "failpoint", "lifecycle", "metrics", "store", "telemetry"],
    ),
    (
        "gateway",
        &["admission", "clock", "event", "lifecycle", "metrics", "publication", "store", "telemetry"],
    ),
    ("http", &["admission", "failpoint", "gateway", "lifecycle", "metrics", "publication"]),
    ("admin", &["clock", "event", "gateway", "http", "lifecycle", "metrics", "secret", "store"]),
    ("signer", &["clock", "event"]),
    ("simulator", &["clock", "event", "http", "lifecycle", "signer"]),
    (
        "config",
        &[
            "admin",
            "admission",
            "broker",
            "clock",
            "event",
            "failpoint",
            "http",
            "lifecycle",
            "publication",
            "secret",
            "store",
            "telemetry",
        ],
    ),
    (
        "app",
        &[
            "admin",
            "admission",
            "broker",
            "clock",
            "config",
            "gateway",
            "http",
            "lifecycle",
            "metrics",
            "publication",
            "store",
            "telemetry",
        ],
    ),
];

/// Crates that have one home, or few.
const HOMES: [(&str, &[&str]); 32] = [
    ("async_rs", &["src/broker/amqp/cork.rs"]),
    ("lapin", &["src/broker/amqp", "src/broker/feed", "src/broker/tap", "src/broker/topology"]),
    ("rusqlite", &["src/store/sqlite"]),
    ("redis", &["src/store/redis"]),
    (
        "rustix",
        &["src/app/process.rs", "src/failpoint.rs", "src/gateway/low_priority.rs", "src/store/sqlite"],
    ),
    ("tokio_rustls", &["src/http/tls.rs"]),
    ("ipnet", &["src/http/client_address.rs"]),
    ("ppp", &["src/http/proxy_protocol.rs"]),
    ("prometheus", &["src/metrics.rs", "src/publication"]),
    ("clap", &["src/cli"]),
    ("indicatif", &["src/cli/simulate"]),
    ("toml", &["src/config"]),
    ("humantime", &["src/config", "src/cli"]),
    ("bytesize", &["src/config"]),
    ("hyper", &["src/http", "src/admin", "src/cli", "src/simulator", "src/telemetry/traces"]),
    ("hyper_util", &["src/http", "src/admin", "src/cli", "src/simulator", "src/telemetry/traces"]),
    ("http_body_util", &["src/http", "src/admin", "src/cli", "src/simulator", "src/telemetry/traces"]),
    ("aws_lc_rs", &["src/admission/signature.rs"]),
    ("rsa", &["src/admission", "src/signer"]),
    ("sha1", &["src/admission/signature.rs", "src/signer"]),
    ("x509_cert", &["src/admission/key_ring.rs", "src/broker/amqp/tls.rs", "src/http/tls.rs"]),
    ("rustls_pki_types", &["src/broker/amqp/tls.rs", "src/http/tls.rs"]),
    ("memchr", &["src/admission/form.rs"]),
    ("encoding_rs", &["src/admission/notification.rs", "src/signer", "src/cli/explain", "src/cli/reconcile"]),
    (
        "serde_urlencoded",
        &["src/signer", "src/simulator", "src/cli/trade.rs", "src/cli/replay.rs", "src/admin"],
    ),
    ("time", &["src/clock.rs"]),
    ("tracing_subscriber", &["src/telemetry"]),
    ("opentelemetry", &["src/telemetry/traces"]),
    ("opentelemetry_proto", &["src/telemetry/traces"]),
    ("opentelemetry_sdk", &["src/telemetry/traces"]),
    ("prost", &["src/telemetry/traces"]),
    ("zip", &["src/cli/reconcile/bill"]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder, with its path from the root and its text.
fn sources(folder: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    found.sort();
    let name = |path: &Path| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    found.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// The code of a file, without comments and without the tests at its end.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The modules of this crate that a text names, as `crate::module` or in a list after `use crate::{`.
fn imports(code: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    code.match_indices("crate::")
        .map(|(at, found)| word(&code[at + found.len()..]))
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn imports_run_one_way() {
    let mut broken = Vec::new();
    for (path, text) in sources("src") {
        let module = path.trim_start_matches("src/").split(['/', '.']).next().unwrap().to_owned();
        if ["main", "lib", "cli"].contains(&module.as_str()) {
            continue;
        }
        let Some((_, allowed)) = LADDER.iter().find(|(name, _)| *name == module) else {
            broken.push(format!("{path}: {module} has no rung in the ladder"));
            continue;
        };
        for import in imports(&code(&text)) {
            if import != module && !allowed.contains(&import.as_str()) {
                broken.push(format!("{path}: {module} may not import {import}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_ladder_has_no_circle() {
    // What a module may import must stand before it: then no circle is possible.
    for (at, (module, allowed)) in LADDER.iter().enumerate() {
        for import in *allowed {
            let stands = LADDER.iter().position(|(name, _)| name == import);
            assert!(
                stands.is_some_and(|stands| stands < at),
                "{module} imports {import}, which stands above it"
            );
        }
    }
}

#[test]
fn each_crate_lives_in_its_home() {
    let mut broken = Vec::new();
    for (path, text) in sources("src") {
        let code = code(&text);
        for (name, homes) in HOMES {
            let used = [
                format!("use {name}::"),
                format!("use {name} "),
                format!(" {name}::"),
                format!("({name}::"),
                format!("<{name}::"),
            ];
            let at_home = homes.iter().any(|home| path.starts_with(home));
            if !at_home && used.iter().any(|used| code.contains(used.as_str())) {
                broken.push(format!("{path} uses {name}, whose home is {}", homes.join(", ")));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn no_file_is_a_drawer() {
    for (path, _) in sources("src") {
        let name = Path::new(&path).file_stem().unwrap().to_str().unwrap();
        let drawers = ["util", "utils", "common", "helper", "helpers", "types", "misc", "prelude", "mod"];
        assert!(!drawers.contains(&name), "{path}");
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (path, text) in sources("src") {
        assert!(text.starts_with("//!") || path.ends_with("/tests.rs"), "{path} has no header");
    }
}

#[test]
fn nothing_is_left_to_do_without_a_number() {
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        for (number, line) in text.lines().enumerate() {
            let left = line.contains(concat!("TO", "DO")) && !line.contains(concat!("TO", "DO(#"));
            assert!(!left, "{path}:{}: {line}", number + 1);
        }
    }
}

/// What stands before ` = ` in a section of a manifest.
fn keys(manifest: &str, section: &str) -> BTreeSet<String> {
    let section = manifest.split(&format!("\n[{section}]\n")).nth(1).unwrap_or_default();
    let lines = section.split("\n[").next().unwrap().lines();
    lines.filter_map(|line| line.split_once(" = ")).map(|(key, _)| key.to_owned()).collect()
}

#[test]
fn the_architecture_gives_each_dependency_a_reason_and_names_none_that_is_gone() {
    let (manifest, architecture) = (read("Cargo.toml"), read("ARCHITECTURE.md"));
    let rows = architecture.split("\n## Dependencies\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut named = BTreeSet::new();
    for row in rows.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert!(cells.len() == 3 && cells.iter().all(|cell| !cell.is_empty()), "{row}");
        // What is in brackets is a feature.
        let crates = cells[0].split('(').next().unwrap();
        named.extend(crates.split('`').skip(1).step_by(2).map(str::to_owned));
    }
    let mut needed = keys(&manifest, "dependencies");
    needed.extend(keys(&manifest, "dev-dependencies"));
    assert_eq!(named, needed);
}

/// The first line that begins so, without it and its quotes.
fn value(text: &str, key: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.unwrap_or_else(|| panic!("no {key}")).trim().trim_matches('"').to_owned()
}

#[test]
fn the_version_is_the_same_wherever_it_stands() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = read("helm/Chart.yaml");
    assert_eq!(value(&chart, "appVersion:"), version, "helm/Chart.yaml, appVersion");
    let changes = read("helm/CHANGELOG.md");
    assert_eq!(
        value(&changes, "## "),
        value(&chart, "version:"),
        "helm/CHANGELOG.md begins with the chart's version"
    );
    let lock = read("Cargo.lock");
    let locked = format!("name = \"alipay-notify-gateway\"\nversion = \"{version}\"\n");
    assert!(lock.contains(&locked), "Cargo.lock");
    for path in ["docs/deployment.md", "helm/README.md", "README.md", "README.zh-CN.md"] {
        for word in read(path).split([' ', '\n', '`', '"']).filter(|word| word.starts_with("VERSION=")) {
            assert_eq!(word, format!("VERSION={version}"), "{path}");
        }
    }
}

#[test]
fn the_changelog_is_kept_as_it_says() {
    let changelog = read("CHANGELOG.md");
    let sections: Vec<&str> = changelog.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(sections[0], "[Unreleased]", "what is not released yet comes first");
    let mut last = (u64::MAX, 0, 0);
    for section in &sections[1..] {
        let (version, date) = section.strip_prefix('[').and_then(|rest| rest.split_once(']')).unwrap();
        let parts: Vec<u64> = version.split('.').map(|part| part.parse().unwrap()).collect();
        let version = (parts[0], parts[1], parts[2]);
        assert!(version < last, "{section} is not below the one before it");
        last = version;
        let is_date =
            |date: &str| date.len() == 10 && date.split('-').all(|part| part.parse::<u16>().is_ok());
        assert!(date.is_empty() || date.strip_prefix(" - ").is_some_and(is_date), "{section}");
    }
    for kind in changelog.lines().filter_map(|line| line.strip_prefix("### ")) {
        let kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Known gaps"];
        assert!(kinds.contains(&kind), "{kind}");
    }
    // The manifest's version is a release that was, or the one that is being prepared.
    assert!(changelog.contains(&format!("\n## [{}]", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn workflows_prepare_and_call_the_scripts_and_pin_what_they_use() {
    for path in [".github/workflows/ci.yml", ".github/workflows/release.yml"] {
        let workflow = read(path);
        assert!(workflow.contains("\npermissions:\n  contents: read\n"), "{path}");
        assert!(!workflow.contains("secrets."), "{path}");
        for line in workflow.lines().map(|line| line.trim().trim_start_matches("- ")) {
            if let Some(action) = line.strip_prefix("uses: ") {
                let (commit, tag) = action.split_once('@').unwrap().1.split_once(" # v").unwrap_or_default();
                assert!(commit.len() == 40 && !tag.is_empty(), "{path}: {action} is not pinned by commit");
            }
            if let Some(command) = line.strip_prefix("run: ") {
                let prepares =
                    ["rustup ", "sudo apt-get ", "apt-get ", "cargo install ", "cargo fetch ", "git config "];
                let hands_on = ["gh ", "cd dist && sha256sum "];
                let calls = command
                    .split(' ')
                    .next()
                    .is_some_and(|script| script.starts_with(".ci/") && root().join(script).exists());
                let known = prepares.iter().chain(&hands_on).any(|known| command.starts_with(known));
                assert!(calls || known, "{path}: {command} belongs in a script that anybody can run");
            }
        }
    }
}

#[test]
fn every_test_that_the_pages_on_reliability_and_security_name_exists() {
    let code: String = sources("tests").into_iter().chain(sources("src")).map(|(_, text)| text).collect();
    let is_sentence = |word: &str| {
        word.matches('_').count() >= 4
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    for (page, at_least) in [("docs/reliability.md", 20), ("SECURITY.md", 5)] {
        let text = read(page);
        let named: Vec<&str> = text.split('`').skip(1).step_by(2).filter(|word| is_sentence(word)).collect();
        assert!(named.len() >= at_least, "{page} names its tests");
        for name in named {
            assert!(code.contains(&format!("fn {name}(")), "{page} names {name}, which is no test");
        }
    }
}

#[test]
fn the_readme_exists_in_both_languages_with_both_commands() {
    for name in ["README.md", "README.zh-CN.md"] {
        let readme = std::fs::read_to_string(root().join(name)).unwrap();
        assert!(readme.contains("./deploy/demo.sh") && readme.contains("./tests/run.sh"), "{name}");
    }
}

const RULES: &str = "deploy/prometheus/alipay-notify-gateway.rules.yml";

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Each alert of the rules with the lines of it.
fn alerts() -> Vec<(String, String)> {
    let rules = read(RULES);
    let rules = rules.split("\n      - ");
    rules
        .filter_map(|rule| {
            let (name, rest) = rule.strip_prefix("alert: ")?.split_once('\n')?;
            Some((name.to_owned(), rest.to_owned()))
        })
        .collect()
}

/// The words of a text that metrics and recorded series are made of.
fn series_names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let is_ours = |word: &&str| {
        word.starts_with("alipay_gateway_")
            || word.starts_with("process_")
            || word.contains(":alipay_gateway_")
    };
    words.filter(is_ours).collect()
}

#[test]
fn every_alert_has_a_delay_a_severity_and_its_section_of_the_runbook() {
    let runbook = read("docs/runbook.md");
    let sections: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let alerts = alerts();
    let names: BTreeSet<&str> = alerts.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.len() > 30, "the rules are read as they are written");
    assert_eq!(names, sections);
    for (name, rule) in &alerts {
        let url = format!("runbook_url: docs/runbook.md#{}\n", name.to_lowercase());
        for part in [&url, "dashboard_url: /d/alipay-notify-gateway", "for: ", "summary: ", "description: "] {
            assert!(format!("{rule}\n").contains(part), "{name}: {part}");
        }
        assert!(
            ["critical", "warning"].iter().any(|severity| rule.contains(&format!("severity: {severity}")))
        );
        let section = runbook.split(&format!("\n## {name}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
        for part in ["**Symptom.**", "**Checks", "ctions.**", "\n$ "] {
            assert!(section.contains(part), "docs/runbook.md, {name}: {part}");
        }
    }
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() {
    let folder = std::fs::read_dir(root().join("deploy/prometheus/tests")).unwrap();
    let tests: String = folder.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    for (name, _) in alerts() {
        let fires = format!("alertname: {name}\n        exp_alerts:\n");
        let is_silent = format!("alertname: {name}\n        exp_alerts: []\n");
        assert!(tests.contains(&fires) && tests.contains(&is_silent), "{name}");
    }
}

#[test]
fn the_rules_and_the_dashboard_ask_for_what_there_is() {
    let reference = read("docs/metrics.md");
    let metrics: BTreeSet<&str> = reference
        .lines()
        .filter_map(|line| line.strip_prefix("### `").and_then(|rest| rest.split('`').next()))
        .collect();
    let rules = read(RULES);
    let recorded: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    for path in [RULES, "deploy/grafana/alipay-notify-gateway.json"] {
        let text = read(path);
        for name in series_names(&text) {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let is_there = recorded.contains(name) || metrics.contains(family.unwrap_or(name));
            assert!(is_there, "{path} asks for {name}");
        }
    }
}
