//! From values to each module's own `Config`. What depends on two sections is checked here, once.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::reader::{DAY, MILLISECOND, MINUTE, Reader, SECOND};
use super::{Config, apps};
use crate::admission::policy::Policy;
use crate::broker::{amqp, topology};
use crate::clock::{Clock as _, SystemClock};
use crate::event::EventType;
use crate::http::client_address::TrustedProxies;
use crate::http::tls::{Fault, Identity};
use crate::lifecycle::Shutdown;
use crate::secret::{Secret, Source};
use crate::store::WhenAway;
use crate::telemetry::traces;
use crate::{admin, http, publication, store, telemetry};

/// Everything. `None` if something that has no default is missing; the reader knows what.
pub(super) fn config(reader: &mut Reader) -> Option<Config> {
    let policy = apps::policy(reader);
    let amqp = amqp(reader);
    let publication = publication(reader, policy.as_ref());
    let http = http(reader);
    let failure_budget = reader.number("http.failure_budget", 60, 1..=1_000_000);
    let admin = admin(reader);
    let store = store(reader);
    let shutdown = Shutdown {
        delay: reader.duration("shutdown.delay", "0s", Duration::ZERO..=MINUTE * 10),
        grace: reader.duration("shutdown.grace", "25s", SECOND..=MINUTE * 10),
    };
    let threads = reader.number("runtime.threads", 0, 0..=64);
    let log = log(reader);
    let traces = traces(reader);
    match &policy {
        Some(policy) => apps::check_apps(reader, policy),
        None => {
            let _ = reader.flag("amqp.mix_environments", false);
        }
    }
    if let (Some(http), Some(admin)) = (&http, &admin)
        && http.listen == admin.listen
        && http.listen.port() != 0
    {
        reader.problem("admin.listen", "is http.listen: the admin listener is apart from the public one");
    }
    if let Some(amqp) = &amqp {
        remark_unbound(reader, amqp, &publication);
    }
    let lease = store::LEASE - publication::LEASE_MARGIN;
    if matches!(store, Some(store::engine::Config::Redis(_))) && publication.confirm_timeout > lease {
        let given_up =
            format!("with store.engine = \"redis\" a confirm is given up {lease:?} after its claim");
        reader.remark(format!("amqp.confirm_timeout is longer than claims are good for: {given_up}"));
    }
    Some(Config {
        http: http?,
        failure_budget: u32::try_from(failure_budget).unwrap_or(u32::MAX),
        admin: admin?,
        amqp: amqp?,
        publication,
        store: store?,
        policy: policy?,
        threads,
        shutdown,
        log: log?,
        traces,
    })
}

fn amqp(reader: &mut Reader) -> Option<amqp::Config> {
    let uri = reader.secret_source("amqp.uri");
    let uri = uri.unwrap_or_else(|| Source::Here(Secret::new("amqp://guest:guest@127.0.0.1:5672/%2f")));
    let nodes = reader.list("amqp.nodes");
    let tls = amqp::Tls {
        ca_file: reader.file("amqp.ca_file"),
        client_certificate_file: reader.file("amqp.client_certificate_file"),
        client_key_file: reader.file("amqp.client_key_file"),
    };
    let exchange = reader.text_or("amqp.exchange", "payments");
    if exchange.is_empty() || exchange.len() > 127 || exchange.starts_with("amq.") {
        reader.problem("amqp.exchange", "is to be a name of 1 to 127 bytes that does not begin with amq.");
    }
    let queues = queues(reader);
    let mut required_queues = reader.list("amqp.required_queues");
    if required_queues.iter().any(|name| name.is_empty() || name.len() > 255) {
        reader.problem("amqp.required_queues", "a queue's name has 1 to 255 bytes");
    }
    for queue in &queues {
        if !required_queues.contains(&queue.name) {
            required_queues.push(queue.name.clone());
        }
    }
    let look_every = amqp::LOOK_EVERY;
    let config = amqp::Config { uri, nodes, tls, exchange, queues, required_queues, look_every };
    let (problems, remarks) = amqp::judge(&config, SystemClock.now());
    for (key, problem) in problems {
        reader.problem(key, problem);
    }
    for remark in remarks {
        reader.remark(remark);
    }
    Some(config)
}

fn queues(reader: &mut Reader) -> Vec<topology::Queue> {
    let mut queues: Vec<topology::Queue> = Vec::new();
    for index in 0..reader.tables("amqp.queues") {
        let (name_key, bind_key) =
            (format!("amqp.queues[{index}].name"), format!("amqp.queues[{index}].bind"));
        let name = reader.text(&name_key).unwrap_or_default();
        if name.is_empty() || name.len() > 255 || name.starts_with("amq.") {
            reader.problem(&name_key, "is required: a name of 1 to 255 bytes that does not begin with amq.");
        } else if queues.iter().any(|queue| queue.name == name) {
            reader.problem(&name_key, format!("{name:?} is there twice"));
        }
        let bind = reader.list(&bind_key);
        if bind.is_empty() {
            reader.problem(&bind_key, "is required: event types, or patterns such as trade.#");
        }
        for pattern in &bind {
            let takes_one = EventType::ALL.iter().any(|kind| topology::matches(pattern, kind.as_str()));
            if !takes_one || pattern.len() > 255 {
                reader.problem(&bind_key, format!("{pattern:?} takes none of the event types"));
            }
        }
        queues.push(topology::Queue { name, bind });
    }
    queues
}

fn publication(reader: &mut Reader, policy: Option<&Policy>) -> publication::Config {
    let answer_timeout = reader.duration("http.answer_timeout", "5s", SECOND..=MINUTE);
    let confirm_timeout = reader.duration("amqp.confirm_timeout", "3s", MILLISECOND * 100..=MINUTE);
    if confirm_timeout >= answer_timeout {
        reader.remark(
            "amqp.confirm_timeout is not below http.answer_timeout: a slow confirm is always told fail",
        );
    }
    let mut ignore = BTreeSet::new();
    for name in reader.list("amqp.ignore") {
        match EventType::from_name(&name) {
            Some(EventType::PaymentSucceeded) => {
                reader.remark("amqp.ignore names payment.succeeded: payments may be answered and never seen");
                ignore.insert(EventType::PaymentSucceeded);
            }
            Some(kind) => {
                ignore.insert(kind);
            }
            None => reader.problem("amqp.ignore", format!("{name:?} is not an event type")),
        }
    }
    let lanes = reader.number("amqp.lanes", 4, 1..=64);
    let max_batch = reader.number("publication.max_batch", 64, 1..=1024);
    let max_in_flight = reader.number("publication.max_in_flight", 4096, 1..=1_000_000);
    if lanes * max_batch >= max_in_flight {
        reader.remark(
            "publication.max_in_flight is no more than amqp.lanes times publication.max_batch: while the broker blocks, all of it \
             can be in doubt, and what comes then is neither announced nor kept",
        );
    }
    publication::Config {
        lanes,
        max_batch,
        max_in_flight,
        confirm_timeout,
        answer_timeout,
        ignore,
        retention: policy.map_or(DAY * 35, |policy| policy.retention),
    }
}

fn http(reader: &mut Reader) -> Option<http::Config> {
    let listen = reader.parsed("http.listen", "0.0.0.0:8080", "an address such as 0.0.0.0:8080");
    let path = reader.text_or("http.path", "/alipay/notify");
    if !path.starts_with('/')
        || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#')
    {
        reader.problem("http.path", format!("{path:?} is not a path such as /alipay/notify"));
    }
    let max_body = reader.size("http.max_body", "64KiB", 1024..=16 << 20);
    let max_bodies = reader.size("http.max_bodies", "16MiB", 1 << 20..=1 << 40);
    if max_bodies < max_body {
        reader.problem("http.max_bodies", "must be at least http.max_body");
    }
    let timeout = MILLISECOND * 100..=MINUTE * 10;
    let (trusted_proxies, proxy_protocol) = proxies(reader);
    let tls = tls(reader);
    let mut config = http::Config {
        listen: ([0, 0, 0, 0], 0).into(),
        path,
        max_body,
        max_bodies,
        max_connections: reader.number("http.max_connections", 10_000, 1..=1_000_000),
        max_buffered_connections: reader.number("http.max_buffered_connections", 2048, 1..=1_000_000),
        max_connections_per_address: reader.number("http.max_connections_per_address", 0, 0..=1_000_000),
        max_requests_per_connection: reader.number(
            "http.max_requests_per_connection",
            10_000,
            1..=1_000_000_000,
        ),
        max_connection_age: reader.duration("http.max_connection_age", "1h", SECOND..=DAY * 365),
        max_header: reader.size("http.max_header", "8KiB", 1024..=1 << 20),
        header_timeout: reader.duration("http.header_timeout", "10s", timeout.clone()),
        body_timeout: reader.duration("http.body_timeout", "10s", timeout.clone()),
        write_timeout: reader.duration("http.write_timeout", "10s", timeout.clone()),
        handshake_timeout: reader.duration("http.handshake_timeout", "5s", timeout),
        trusted_proxies,
        proxy_protocol,
        tls,
    };
    // Only now: every key is read, whatever is wrong with another.
    config.listen = listen?;
    Some(config)
}

/// Who may say for whom he speaks, and whether he must.
fn proxies(reader: &mut Reader) -> (TrustedProxies, bool) {
    let list = reader.list("http.trusted_proxies");
    let must_say = reader.flag("http.proxy_protocol", false);
    if must_say && list.is_empty() {
        reader.problem("http.proxy_protocol", "needs http.trusted_proxies: nobody else's word is taken");
    }
    let proxies = TrustedProxies::read(&list).unwrap_or_else(|odd| {
        reader.problem("http.trusted_proxies", format!("{odd:?} is not a network such as 10.0.0.0/8"));
        TrustedProxies::default()
    });
    if proxies.is_everybody() {
        reader.remark(
            "http.trusted_proxies names everybody: whoever connects may say that he is somebody else",
        );
    }
    (proxies, must_say)
}

/// The listener's certificate, which a reload looks at again.
fn tls(reader: &mut Reader) -> Option<Identity> {
    const CERTIFICATE: &str = "http.tls_certificate_file";
    const KEY: &str = "http.tls_key_file";
    let (certificate, key) = match (reader.file_name(CERTIFICATE), reader.file_name(KEY)) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return None,
        (Some(_), None) => {
            reader.problem(KEY, format!("is missing beside {CERTIFICATE}"));
            return None;
        }
        (None, Some(_)) => {
            reader.problem(CERTIFICATE, format!("is missing beside {KEY}"));
            return None;
        }
    };
    let mut read = |name: &str, file: &str| {
        let content = reader.watched_file(file, MAX_TLS_FILE);
        content.map_err(|error| reader.problem(name, format!("{file}: {error}"))).ok()
    };
    let (certificate_pem, key_pem) = (read(CERTIFICATE, &certificate), read(KEY, &key));
    match Identity::read(&certificate_pem?, &key_pem?) {
        Ok(identity) => {
            let left = Duration::from_secs(u64::try_from(identity.ends_at()).unwrap_or(0))
                .checked_sub(Duration::from_secs(SystemClock.now().unix_seconds()));
            match left {
                None => reader.remark(format!("{CERTIFICATE}: the certificate has ended")),
                Some(left) if left < DAY * 30 => {
                    let days = left.as_secs() / DAY.as_secs();
                    reader.remark(format!("{CERTIFICATE}: the certificate ends in {days} days"));
                }
                Some(_) => {}
            }
            Some(identity)
        }
        Err(Fault::Certificate(what)) => {
            reader.problem(CERTIFICATE, format!("{certificate}: {what}"));
            None
        }
        Err(Fault::Key(what)) => {
            reader.problem(KEY, format!("{key}: {what}"));
            None
        }
    }
}

fn admin(reader: &mut Reader) -> Option<admin::Config> {
    let listen = reader.parsed("admin.listen", "127.0.0.1:9090", "an address such as 127.0.0.1:9090");
    let token = reader.secret("admin.token");
    if token.as_ref().is_some_and(|token| !admin::can_be_brought(token)) {
        reader
            .problem("admin.token", "is to have visible ASCII characters alone: no header can bring another");
    }
    match token.as_ref().map_or(usize::MAX, |token| token.expose().len()) {
        0 => reader.remark("admin.token is empty: it opens nothing"),
        1..16 => reader.remark("admin.token has fewer than 16 characters: it can be guessed"),
        _ => {}
    }
    Some(admin::Config { listen: listen?, token })
}

fn store(reader: &mut Reader) -> Option<store::engine::Config> {
    let engines = [("sqlite", EngineName::Sqlite), ("redis", EngineName::Redis)];
    let engine = reader.choice("store.engine", "sqlite", &engines);
    let large = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let max_deferred = large(reader.number("store.max_deferred", 100_000, 1..=100_000_000));
    let max_returned = large(reader.number("store.max_returned", 20_000, 1..=100_000_000));
    let max_deferred_bytes = large(reader.size("store.max_deferred_bytes", "1GiB", 1 << 20..=1 << 40));
    let max_held = large(reader.number("store.max_held", 10_000, 1..=10_000_000));
    let max_held_bytes = large(reader.size("store.max_held_bytes", "256MiB", 1 << 20..=1 << 40));
    let path = reader.text("store.path");
    let redis = redis(reader);
    if engine? == EngineName::Redis {
        if path.is_some() {
            reader.remark("store.path is for the engine sqlite: it is not used");
        }
        let Redis { uri, ca_file, prefix, when_away } = redis;
        let Some(uri) = uri else {
            reader.missing("store.uri", "is required with store.engine = \"redis\", or store.uri_file");
            return None;
        };
        let config = store::redis::Config {
            uri,
            ca_file,
            prefix,
            when_away: when_away?,
            max_deferred,
            max_returned,
            max_deferred_bytes,
            max_held,
            max_held_bytes,
        };
        if let Err(what) = store::redis::judge(&config) {
            let (key, what) = what.split_once(' ').unwrap_or(("store.uri", &what));
            reader.problem(key.trim_end_matches(':'), what);
        }
        return Some(store::engine::Config::Redis(config));
    }
    if redis.uri.is_some() || redis.ca_file.is_some() {
        reader.problem(
            "store.engine",
            "is sqlite, and store.uri is of a Redis: set \"redis\", or leave store.uri out",
        );
    }
    let path = path.unwrap_or_else(|| "data/gateway.db".to_owned());
    // SQLite reads two of these as something else than a file, and a URI has a password in it.
    let is_none = path.starts_with(':') || path.starts_with("file:") || path.contains("://");
    if path.is_empty() || path.ends_with('/') || is_none {
        reader.problem("store.path", "is to name a file");
    }
    Some(store::engine::Config::Sqlite(store::sqlite::Config {
        path: store::sqlite::behind_links(&reader.path(&path)),
        max_deferred,
        max_returned,
        max_deferred_bytes,
        max_held,
        max_held_bytes,
    }))
}

/// What `store.engine` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EngineName {
    Sqlite,
    Redis,
}

/// The keys of the engine redis.
struct Redis {
    uri: Option<Source>,
    ca_file: Option<PathBuf>,
    prefix: String,
    when_away: Option<WhenAway>,
}

fn redis(reader: &mut Reader) -> Redis {
    let prefix = reader.text_or("store.prefix", "alipay");
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(is_plain) {
        reader.problem("store.prefix", "is to have 1 to 64 letters, digits, '-', '_', '.' or ':'");
    }
    let choices = [("unchecked", WhenAway::Unchecked), ("refuse", WhenAway::Refuse)];
    Redis {
        // An empty one is none: deploy/compose.yaml sets the variable for both engines.
        uri: reader
            .secret_source("store.uri")
            .filter(|uri| !matches!(uri, Source::Here(secret) if secret.expose().is_empty())),
        ca_file: reader.file("store.ca_file"),
        prefix,
        when_away: reader.choice("store.unavailable", "unchecked", &choices),
    }
}

fn log(reader: &mut Reader) -> Option<telemetry::Config> {
    let formats = [("json", telemetry::Format::Json), ("text", telemetry::Format::Text)];
    let format = reader.choice("log.format", "json", &formats);
    let level = reader.text_or("log.level", "info").parse();
    let level = level.map_err(|problem: String| reader.problem("log.level", problem)).ok();
    Some(telemetry::Config { format: format?, level: level? })
}

fn traces(reader: &mut Reader) -> traces::Config {
    let endpoint = reader.text("traces.otlp_endpoint").filter(|text| !text.is_empty());
    let endpoint = endpoint.and_then(|text| match text.parse() {
        // A user and password may be in it, so what is wrong is said without it.
        Err(problem) => {
            reader.problem("traces.otlp_endpoint", problem);
            None
        }
        Ok(_) if !traces::AVAILABLE => {
            reader.problem("traces.otlp_endpoint", "this build has no traces (feature otlp)");
            None
        }
        Ok(endpoint) => Some(endpoint),
    });
    let mut resource = Vec::new();
    for pair in reader.list("traces.resource") {
        match pair.split_once('=') {
            Some((name, value)) if !name.is_empty() => resource.push((name.to_owned(), value.to_owned())),
            _ => reader.problem("traces.resource", format!("{pair:?} is not name=value")),
        }
    }
    let service_name = reader.text_or("traces.service_name", env!("CARGO_PKG_NAME"));
    traces::Config { endpoint, ratio: reader.ratio("traces.ratio"), service_name, resource }
}

/// Says which event types nobody takes, as far as the configuration tells.
fn remark_unbound(reader: &mut Reader, amqp: &amqp::Config, publication: &publication::Config) {
    if amqp.required_queues.is_empty() {
        reader.remark(
            "no queue is declared or required (amqp.queues, amqp.required_queues): what no queue takes is answered fail, \
             and one that is missing is not told before that",
        );
    }
    if amqp.queues.is_empty() {
        return;
    }
    for kind in topology::unbound(&amqp.queues) {
        if !publication.ignore.contains(&kind) {
            reader.remark(format!(
                "{kind}: no declared queue binds it and amqp.ignore does not name it, so it is answered fail unless \
                 a queue that is declared elsewhere takes it"
            ));
        }
    }
}

/// Bound: no chain of certificates is larger.
const MAX_TLS_FILE: u64 = 1 << 20;
