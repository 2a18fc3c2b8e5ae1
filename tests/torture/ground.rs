//! Where a run takes place: its folder, its broker, its seed, and how long it is.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use crate::alipay::Delivery;
use crate::checker::{Chronicle, Interruption};
use crate::consumer::Consumer;
use crate::gateway::Gateway;

/// A run.
pub struct Ground {
    pub name: String,
    pub seed: u64,
    pub random: SmallRng,
    pub amqp: String,
    pub gateway: Gateway,
    pub deliveries: Vec<Delivery>,
    folder: PathBuf,
}

impl Ground {
    /// A gateway with a queue of its own at the broker of the test run; it reaches the broker through `amqp`.
    pub fn new(name: &str, through: impl FnOnce(&str) -> String) -> Self {
        let seed = number("TORTURE_SEED").unwrap_or_else(rand::random);
        let mut random = SmallRng::seed_from_u64(seed);
        let name = format!("torture.{name}.{:08x}", rand::random::<u32>());
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&folder).unwrap();
        println!("{name}: seed {seed}, in {}", folder.display());
        let amqp = amqp_url();
        let gateway = Gateway::new(&folder, &through(&amqp), &name, &mut random);
        Self { name, seed, random, amqp, gateway, deliveries: Vec::new(), folder }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A consumer of its queue, which must be there.
    pub async fn consumer(&self) -> Consumer {
        Consumer::of(&self.amqp, &self.name).await
    }

    /// All that happened so far.
    pub fn chronicle(&self, consumer: &Consumer, interruptions: Vec<Interruption>) -> Chronicle {
        Chronicle {
            deliveries: self.deliveries.clone(),
            copies: consumer.copies(),
            interruptions,
            recorded: self.gateway.recorded(),
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // After a failure everything stays, to be looked at.
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// A length or a seed out of the environment, which is how `tests/torture.sh` asks for more.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// The broker of the test run.
pub fn amqp_url() -> String {
    std::env::var("AMQP_URL").unwrap_or_else(|_| {
        panic!("AMQP_URL is not set: run ./tests/run.sh, which makes sure that a RabbitMQ is there")
    })
}

/// Tells a figure, and writes it down where `tests/torture.sh` finds it.
pub fn figure(run: &str, what: &str, value: impl std::fmt::Display) {
    println!("{run}: {what}: {value}");
    let Ok(file) = std::env::var("TORTURE_FIGURES") else { return };
    let mut line = String::new();
    writeln!(line, "{run}\t{what}\t{value}").unwrap();
    let mut file = std::fs::File::options().create(true).append(true).open(file).unwrap();
    std::io::Write::write_all(&mut file, line.as_bytes()).unwrap();
}
