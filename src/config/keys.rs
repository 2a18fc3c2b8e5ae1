//! Every key there is. `docs/configuration.md` is held to this list by a test.

/// All keys; `[]` stands for any table of an array.
pub const KEYS: [&str; 71] = [
    "http.listen",
    "http.path",
    "http.answer_timeout",
    "http.max_body",
    "http.max_bodies",
    "http.max_connections",
    "http.max_buffered_connections",
    "http.max_connections_per_address",
    "http.max_requests_per_connection",
    "http.max_connection_age",
    "http.max_header",
    "http.header_timeout",
    "http.body_timeout",
    "http.write_timeout",
    "http.handshake_timeout",
    "http.trusted_proxies",
    "http.proxy_protocol",
    "http.failure_budget",
    "http.tls_certificate_file",
    "http.tls_key_file",
    "admin.listen",
    "admin.token",
    "admin.token_file",
    "amqp.uri",
    "amqp.uri_file",
    "amqp.nodes",
    "amqp.ca_file",
    "amqp.client_certificate_file",
    "amqp.client_key_file",
    "amqp.exchange",
    "amqp.ignore",
    "amqp.required_queues",
    "amqp.confirm_timeout",
    "amqp.lanes",
    "amqp.mix_environments",
    "amqp.queues[].name",
    "amqp.queues[].bind",
    "publication.max_batch",
    "publication.max_in_flight",
    "store.engine",
    "store.path",
    "store.uri",
    "store.uri_file",
    "store.ca_file",
    "store.prefix",
    "store.unavailable",
    "store.retention",
    "store.max_deferred",
    "store.max_returned",
    "store.max_deferred_bytes",
    "store.max_held",
    "store.max_held_bytes",
    "freshness.max_age",
    "event.buyer",
    "event.notification",
    "runtime.threads",
    "shutdown.delay",
    "shutdown.grace",
    "log.format",
    "log.level",
    "traces.otlp_endpoint",
    "traces.ratio",
    "traces.service_name",
    "traces.resource",
    "apps[].app_id",
    "apps[].environment",
    "apps[].seller_ids",
    "apps[].seller_ids_file",
    "apps[].alipay_public_keys",
    "apps[].shadow_public_keys",
    "apps[].sign_type",
];

/// The key with its indices taken out: `apps[3].app_id` is `apps[].app_id`.
pub(super) fn general(key: &str) -> String {
    let mut general = String::with_capacity(key.len());
    let mut inside = false;
    for character in key.chars() {
        match character {
            '[' => {
                inside = true;
                general.push_str("[]");
            }
            ']' => inside = false,
            _ if inside => {}
            other => general.push(other),
        }
    }
    general
}
