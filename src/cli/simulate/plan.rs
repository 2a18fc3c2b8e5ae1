//! What `simulate send` sends: signed as it is asked for, or read from a file that was written before.

use std::io::{BufRead as _, Write};
use std::path::Path;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::send::{Args, progress};
use crate::cli::{DONE, Failure};
use crate::clock::{Clock as _, SystemClock};
use crate::signer::Signer;
use crate::signer::notification::{Kind, Merchant, Notification, Trade};

/// A signed notification and what it is.
pub(super) struct Signed {
    pub(super) kind: Kind,
    pub(super) body: Bytes,
    /// What a further delivery is made of. Not kept where there will be none.
    pub(super) notification: Option<Box<Notification>>,
}

/// What is to be sent, signed as it is asked for.
pub(super) struct Plan {
    signer: Signer,
    merchant: Merchant,
    random: SmallRng,
    shares: Vec<(Kind, u32)>,
    left: u32,
    /// Bound: trades that re-deliveries, refunds and finishes can be about.
    trades: Vec<Trade>,
    /// Further deliveries will be made, or noted.
    keeps: bool,
}

impl Plan {
    pub(super) fn of(args: &Args) -> Result<Self, Failure> {
        let signer = args.identity.signer()?;
        let merchant =
            Merchant { app_id: args.identity.app_id.clone(), seller_id: args.identity.seller_id.clone() };
        let random = SmallRng::seed_from_u64(args.seed.unwrap_or_else(rand::random));
        Ok(Self {
            signer,
            merchant,
            random,
            shares: shares(&args.shares)?,
            left: args.count,
            trades: Vec::new(),
            keeps: args.time_scale.is_some() || args.journal.is_some(),
        })
    }
}

impl Iterator for Plan {
    type Item = Signed;

    fn next(&mut self) -> Option<Signed> {
        self.left = self.left.checked_sub(1)?;
        let all: u64 = self.shares.iter().map(|(_, share)| u64::from(*share)).sum();
        let mut at = self.random.random_range(0..all);
        let mut kind = Kind::Payment;
        for (candidate, share) in &self.shares {
            let share = u64::from(*share);
            if at < share {
                kind = *candidate;
                break;
            }
            at -= share;
        }
        let now = SystemClock.now();
        let known = self.trades.len();
        let trade = match kind {
            Kind::Redelivery | Kind::Refund | Kind::Finish if known > 0 => {
                let at = self.random.random_range(0..known);
                // Each refund and finish is of a trade of its own, so that every answer is known beforehand.
                if kind == Kind::Redelivery {
                    self.trades.get(at).cloned()
                } else {
                    Some(self.trades.swap_remove(at))
                }
            }
            Kind::Payment | Kind::Redelivery | Kind::Refund | Kind::Finish | Kind::Forged => None,
        };
        // Without an earlier payment a refund is proof of one, and a finish is the payment itself.
        let trade = trade.unwrap_or_else(|| Trade::new(&self.merchant, &mut self.random, now));
        let notification = trade.notification(kind, &mut self.random, now);
        let body = Bytes::from(notification.body(&self.signer, &mut self.random));
        if kind == Kind::Payment && known < MAX_TRADES {
            self.trades.push(trade);
        }
        Some(Signed { kind, body, notification: self.keeps.then(|| Box::new(notification)) })
    }
}

fn shares(text: &str) -> Result<Vec<(Kind, u32)>, Failure> {
    let share = |part: &str| {
        let (name, share) = part.split_once('=')?;
        Some((Kind::from_name(name.trim())?, share.trim().parse().ok()?))
    };
    let shares: Option<Vec<(Kind, u32)>> = text.split(',').map(share).collect();
    shares
        .filter(|shares| shares.iter().map(|(_, share)| u64::from(*share)).sum::<u64>() > 0)
        .ok_or_else(|| Failure::usage(format!("--shares {text:?} is not such as payment=90,forged=10")))
}

/// `--bodies-out`.
pub(super) fn write_bodies(plan: Plan, file: &Path, out: &mut dyn Write) -> Result<u8, Failure> {
    let bar = progress(u64::from(plan.left));
    let mut writer = std::io::BufWriter::new(std::fs::File::create(file)?);
    let mut count = 0u64;
    for signed in plan {
        writer.write_all(signed.kind.as_str().as_bytes())?;
        writer.write_all(b"\t")?;
        writer.write_all(&signed.body)?;
        writer.write_all(b"\n")?;
        bar.inc(1);
        count += 1;
    }
    writer.flush()?;
    bar.finish_and_clear();
    writeln!(out, "{count} signed notifications in {}", file.display())?;
    Ok(DONE)
}

/// `--bodies`.
pub(super) fn read_bodies(file: &Path) -> Result<Vec<Signed>, Failure> {
    let reader = std::io::BufReader::new(std::fs::File::open(file)?);
    let unreadable = || Failure::running(format!("{} was not written by --bodies-out", file.display()));
    reader
        .split(b'\n')
        .map(|line| {
            let line = line?;
            let tab = line.iter().position(|byte| *byte == b'\t').ok_or_else(unreadable)?;
            let (kind, body) = line.split_at(tab);
            let kind = std::str::from_utf8(kind).ok().and_then(Kind::from_name).ok_or_else(unreadable)?;
            let body = Bytes::copy_from_slice(body.get(1..).unwrap_or_default());
            Ok(Signed { kind, body, notification: None })
        })
        .collect()
}

const MAX_TRADES: usize = 10_000;
