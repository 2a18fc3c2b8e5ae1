//! The Redis of the test run.

/// One node.
pub fn redis_url() -> String {
    of("REDIS_URL")
}

/// Three masters.
pub fn cluster_url() -> String {
    of("REDIS_CLUSTER_URL")
}

fn of(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run ./tests/run.sh, which makes sure that a Redis is there")
    })
}

/// Asks one node, or the cluster, by the shell that every Redis brings.
pub fn cli(url: &str, command: &[&str]) -> String {
    let place = url.split_once("://").unwrap().1.split(['/', ',']).next().unwrap();
    let (host, port) = place.rsplit_once(':').unwrap();
    let mut shell = std::process::Command::new("redis-cli");
    shell.args(["-c", "--raw", "-h", host, "-p", port]).args(command);
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}
