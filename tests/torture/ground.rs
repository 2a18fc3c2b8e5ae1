//! Where a run takes place: its folder, its broker, its seed, and how long it is.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::alipay::{Alipay, Delivery, Task};
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
    /// By what Alipay's 24 hours are divided.
    pub scale: u32,
    deliveries: Vec<Delivery>,
    at_work: Vec<Alipay>,
    next_task: Instant,
    folder: PathBuf,
}

impl Ground {
    /// A gateway with a queue of its own at the broker of the test run; it reaches the broker through `amqp`.
    pub fn new(name: &str, through: impl FnOnce(&str) -> String) -> Self {
        // The release build, where the harness itself is not one.
        let program = std::env::var_os("TORTURE_PROGRAM").map(PathBuf::from);
        Self::of(program.unwrap_or_else(|| PROGRAM.into()), name, through)
    }

    /// With a program of the test's choice.
    pub fn of(program: PathBuf, name: &str, through: impl FnOnce(&str) -> String) -> Self {
        let seed = number("TORTURE_SEED").unwrap_or_else(rand::random);
        let mut random = SmallRng::seed_from_u64(seed);
        let name = format!("torture.{name}.{:08x}", rand::random::<u32>());
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&folder).unwrap();
        println!("{name}: seed {seed}, in {}", folder.display());
        let amqp = amqp_url();
        let gateway = Gateway::new(program, &folder, (&through(&amqp), &name), &mut random);
        let (deliveries, at_work) = (Vec::new(), Vec::new());
        Self {
            name,
            seed,
            random,
            amqp,
            gateway,
            scale: 3600,
            deliveries,
            at_work,
            next_task: Instant::now(),
            folder,
        }
    }

    /// Lets new notifications come at that rate for the next seconds; called again and again, without a gap.
    pub fn keep_busy(&mut self, rate: u32) {
        while Instant::now() >= self.next_task {
            let task =
                Task { count: rate * SECONDS_A_TASK, rate, seed: self.random.random(), scale: self.scale };
            self.at_work.push(Alipay::start(
                self.gateway.program(),
                &self.folder,
                self.gateway.http(),
                &task,
            ));
            let over = self.next_task + Duration::from_secs(SECONDS_A_TASK.into());
            self.next_task = over.max(Instant::now());
        }
    }

    /// Sleeps, and keeps it busy meanwhile.
    pub fn go_on(&mut self, pause: Duration, rate: u32) {
        let until = Instant::now() + pause;
        loop {
            self.keep_busy(rate);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// Waits until Alipay has nothing more to say.
    pub fn alipay_is_done(&mut self) {
        for alipay in self.at_work.drain(..) {
            self.deliveries.extend(alipay.finish());
        }
    }

    /// Waits until then, and until everything that was kept is announced.
    pub fn come_to_rest(&mut self) {
        self.alipay_is_done();
        self.gateway.wait_until_up();
        self.gateway.wait_until_drained(PATIENCE);
        self.next_task = Instant::now();
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

/// The program under test, which is the simulated Alipay too.
const PROGRAM: &str = env!("CARGO_BIN_EXE_alipay-notify-gateway");
/// What is in doubt after a kill waits for a minute, and what the broker refused steps aside for as long.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long one simulated Alipay has new notifications.
const SECONDS_A_TASK: u32 = 15;

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
