//! The metrics and their reference, `docs/metrics.md`, say the same.

use std::collections::{BTreeMap, BTreeSet};

use alipay_notify_gateway::event::EventType;
use alipay_notify_gateway::metrics::{Metrics, NOT_A_FORM, PublishResult};

use crate::support::doors::{PublicDoor, generous, metrics};

const REFERENCE: &str = include_str!("../../docs/metrics.md");

/// One metric of the reference or of the program.
#[derive(Debug, Default, PartialEq, Eq)]
struct Family {
    kind: String,
    /// By label: its values.
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// Labels whose values come from the configuration or the build.
const OPEN_LABELS: [&str; 5] = ["app_id", "key", "version", "engine", "queue"];

/// Reads the reference: a heading `### name` (with a type after it in the next line, as `**counter**`), and
/// for each label a line "- `label`: `value`, `value` …" or a list of values below it.
fn documented() -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let (mut name, mut label) = (None, None);
    for line in REFERENCE.lines() {
        if line.starts_with('#') {
            (name, label) = (line.strip_prefix("### ").map(ticked_first), None);
            continue;
        }
        let Some(name) = &name else { continue };
        let family = families.entry(name.clone()).or_default();
        if family.kind.is_empty()
            && let Some(kind) = line.strip_prefix("**")
        {
            kind.split_once("**").unwrap().0.clone_into(&mut family.kind);
        } else if line.starts_with("- label `") {
            label = Some(ticked_first(line));
            family.labels.entry(ticked_first(line)).or_default();
        } else if line.starts_with("  - `")
            && let Some(label) = &label
        {
            family.labels.get_mut(label).unwrap().insert(ticked_first(line));
        }
    }
    families
}

/// What the line puts into back-ticks first.
fn ticked_first(line: &str) -> String {
    line.split('`').nth(1).unwrap_or(line).to_owned()
}

/// Reads what `/metrics` gives.
fn rendered(metrics: &Metrics) -> BTreeMap<String, Family> {
    let text = metrics.render();
    let mut families = BTreeMap::<String, Family>::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        families.entry(name.to_owned()).or_default().kind = kind.to_owned();
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let series = line.rsplit_once(' ').unwrap().0;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let family = family_of(&mut families, name);
        for pair in labels.trim_end_matches('}').split(',').filter(|pair| !pair.is_empty()) {
            let (label, value) = pair.split_once('=').unwrap();
            if label != "le" {
                let values = family.labels.entry(label.to_owned()).or_default();
                values.insert(value.trim_matches('"').to_owned());
            }
        }
    }
    families
}

fn family_of<'a>(families: &'a mut BTreeMap<String, Family>, series: &str) -> &'a mut Family {
    let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| series.strip_suffix(suffix));
    let name = base.filter(|base| families.contains_key(*base)).unwrap_or(series);
    families.get_mut(name).unwrap_or_else(|| panic!("{series} has no TYPE"))
}

/// All series, without their values.
fn series(metrics: &Metrics) -> BTreeSet<String> {
    let text = metrics.render();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
        .collect()
}

#[test]
fn every_metric_is_documented_and_none_other() {
    let metrics = metrics();
    // The three families without a series until there is a configuration.
    metrics.queues_made_again.with_label_values(&["payments.orders"]).inc();
    metrics.key_expires.with_label_values(&["2021000000000001", "0123456789ab"]).set(1);
    metrics.key_verifications.with_label_values(&["2021000000000001", "0123456789ab"]).inc();
    let (rendered, documented) = (rendered(&metrics), documented());
    let names = |families: &BTreeMap<String, Family>| families.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&rendered), names(&documented));
    for (name, is) in &rendered {
        let says = &documented[name];
        assert_eq!(is.kind, says.kind, "{name}");
        let labels = |family: &Family| family.labels.keys().cloned().collect::<Vec<_>>();
        assert_eq!(labels(is), labels(says), "{name}");
        for (label, values) in is.labels.iter().filter(|(label, _)| !OPEN_LABELS.contains(&label.as_str())) {
            assert_eq!(values, &says.labels[label], "{name}{{{label}}}");
        }
    }
}

#[test]
fn every_counter_starts_at_zero() {
    let text = metrics().render();
    for line in text.lines().filter(|line| line.starts_with("alipay_gateway_")) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let expected = match series {
            series if series.starts_with("alipay_gateway_build_info{") => "1",
            // Nothing waits, so there is no last retry to come.
            "alipay_gateway_unannounced_last_retry_seconds" => "+Inf",
            // Nobody has looked yet.
            "alipay_gateway_store_free_bytes" | "alipay_gateway_store_size_bytes" => "+Inf",
            _ => "0",
        };
        assert_eq!(value, expected, "{series}");
    }
}

#[test]
fn each_publish_is_counted_under_its_own_type_and_result() {
    for event_type in EventType::ALL {
        for result in PublishResult::ALL {
            let metrics = metrics();
            metrics.event(event_type, result);
            let (of_type, as_result) = (event_type.as_str(), result.as_str());
            let sample =
                format!("alipay_gateway_events_total{{result=\"{as_result}\",type=\"{of_type}\"}} 1\n");
            assert!(metrics.render().contains(&sample), "{sample}");
        }
    }
}

#[test]
fn reasons_are_there_from_the_start() {
    let series = series(&Metrics::new(&["malformed"], &["stale"]).unwrap());
    for reason in ["rejections_total{reason=\"malformed\"}", "held_total{reason=\"stale\"}"] {
        assert!(series.contains(&format!("alipay_gateway_{reason}")), "{reason}");
    }
    assert!(series.contains(&format!("alipay_gateway_rejections_total{{reason=\"{NOT_A_FORM}\"}}")));
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_is_shown_under_its_usual_names() {
    let text = metrics().render();
    let resident = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    assert!(resident.unwrap().parse::<f64>().unwrap() > 0.0);
}

#[tokio::test]
async fn odd_requests_add_no_series() {
    let door = PublicDoor::open(generous()).await;
    let before = series(&door.metrics);
    let oddities = [
        "BREW /alipay/notify?trade_no=2026 HTTP/1.1\r\n\r\n",
        "POST /2026112322001427340000000000 HTTP/1.1\r\nuser-agent: \"}\\n\r\n\r\n",
        "POST /alipay/notify HTTP/1.1\r\ncontent-type: application/json\r\n\r\n",
        "POST /alipay/notify HTTP/1.1\r\ncontent-encoding: x-2026\r\n\r\n",
        "POST /alipay/notify HTTP/1.1\r\nx-forwarded-for: 1.2.3.4\r\ncontent-length: 12\r\n\r\napp_id=\"}\n{x",
        "POST /alipay/notify HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n",
        "not http at all\r\n\r\n",
    ];
    for oddity in oddities {
        let mut client = door.connect().await;
        client.send(oddity).await;
        client.answer().await;
    }
    assert_eq!(series(&door.metrics), before);
}
