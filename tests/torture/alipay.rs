//! `simulate` as Alipay, a process of its own beside the gateway, and its journal.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Deserialize;

use crate::moment::Moment;

/// A simulated Alipay at work.
pub struct Alipay {
    child: Child,
    journal: PathBuf,
}

/// What it is to do.
pub struct Task {
    pub count: u32,
    pub rate: u32,
    pub seed: u64,
    /// By what its 24 hours are divided.
    pub scale: u32,
}

/// One delivery, as the journal has it.
#[derive(Debug, Clone, Deserialize)]
pub struct Delivery {
    pub kind: Kind,
    pub trade_no: String,
    pub out_trade_no: String,
    pub notify_id: String,
    pub traceparent: String,
    pub began: Moment,
    pub ended: Moment,
    pub answer: Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Payment,
    Redelivery,
    Refund,
    Finish,
    Forged,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Success,
    Fail,
    None,
}

impl Alipay {
    /// Begins. `folder` has the keys; the journal of each task is a file of its own in it.
    pub fn start(program: &Path, folder: &Path, to: SocketAddr, task: &Task) -> Self {
        let journal = folder.join(format!("journal.{:016x}", task.seed));
        let mut command = Command::new(program);
        command.args(["simulate", "send", "--format", "json", "--concurrency", "48"]);
        command.args(["--shares", "payment=68,redelivery=12,refund=9,finish=7,forged=4"]);
        command.arg("--url").arg(format!("http://{to}/alipay/notify"));
        command.arg("--key").arg(folder.join("alipay-private.pem"));
        command.arg("--journal").arg(&journal);
        for (name, value) in [("count", task.count), ("rate", task.rate), ("time-scale", task.scale)] {
            command.arg(format!("--{name}")).arg(value.to_string());
        }
        command.arg("--seed").arg(task.seed.to_string());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self { child: child.unwrap(), journal }
    }

    /// Waits until every notification was answered `success`, or delivered eight times, and reads the journal.
    pub fn finish(mut self) -> Vec<Delivery> {
        self.child.wait().unwrap();
        let text = std::fs::read_to_string(&self.journal).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Alipay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
