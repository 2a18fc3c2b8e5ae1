//! The desk: every trade, and the post that carries its notifications on Alipay's schedule until `success`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::Config;
use super::client::{Answer, Client, Target};
use super::request::{PayRequest, Refusal, Words};
use super::sale::{Delivery, Notice, Sale, State, Way};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::event::Money;
use crate::lifecycle::{Stopping, Tasks};
use crate::signer::notification::{Fact, body_in_gbk, signed_body};

/// What the person at the desk wants done with a trade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Pay,
    Close,
    Finish,
    Refund { amount: Option<Money>, out_biz_no: Option<String> },
}

/// Whether its notification goes out at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Release {
    Now,
    Later,
}

/// All of it.
pub(super) struct Desk {
    pub(super) config: Config,
    book: Mutex<Book>,
    stopping: Stopping,
    tasks: Tasks,
}

/// What is remembered: for as long as the process lives.
pub(super) struct Book {
    /// The newest first. Bound: [`MAX_SALES`].
    pub(super) sales: VecDeque<Sale>,
    random: SmallRng,
}

impl Book {
    pub(super) fn sale(&mut self, trade_no: &str) -> Option<&mut Sale> {
        self.sales.iter_mut().find(|sale| sale.trade.trade_no() == trade_no)
    }
}

impl Desk {
    pub(super) fn new(config: Config, stopping: Stopping, tasks: Tasks) -> Arc<Self> {
        let book = Book { sales: VecDeque::new(), random: SmallRng::seed_from_u64(rand::random()) };
        Arc::new(Self { config, book: Mutex::new(book), stopping, tasks })
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the cashier for a request, or finds the trade that it is about. Gives its number.
    pub(super) fn open(&self, request: PayRequest) -> Result<String, Refusal> {
        let mut book = self.book();
        let Book { sales, random } = &mut *book;
        if let Some(sale) = sales.iter_mut().find(|sale| sale.request.out_trade_no == request.out_trade_no) {
            sale.open_again(request)?;
            return Ok(sale.trade.trade_no().to_owned());
        }
        if sales.len() >= MAX_SALES {
            let quiet = sales.iter().rposition(Sale::is_quiet);
            let Some(quiet) = quiet else {
                return Err(Refusal::new(
                    "SYSTEM_ERROR",
                    "too many trades are waiting here",
                    "等待中的交易太多",
                ));
            };
            sales.remove(quiet);
        }
        let sale = Sale::open(&self.config.merchant, request, random, SystemClock.now());
        let trade_no = sale.trade.trade_no().to_owned();
        sales.push_front(sale);
        Ok(trade_no)
    }

    /// Does it, and sends the notification.
    pub(super) fn act(
        self: &Arc<Self>,
        trade_no: &str,
        action: Action,
        release: Release,
    ) -> Result<(), Words> {
        let now = SystemClock.now();
        let index = {
            let mut book = self.book();
            let Book { sales, random } = &mut *book;
            let sale = sales.iter_mut().find(|sale| sale.trade.trade_no() == trade_no).ok_or_else(unknown)?;
            match action {
                Action::Pay => sale.pay(random, now)?,
                Action::Close => sale.close(random, now)?,
                Action::Finish => sale.finish(random, now)?,
                Action::Refund { amount, out_biz_no } => sale.refund(amount, out_biz_no, random, now)?,
            }
        };
        if release == Release::Now {
            self.send(trade_no, index)?;
        }
        Ok(())
    }

    /// Lets a notification go: on the schedule, until it is answered.
    pub(super) fn send(self: &Arc<Self>, trade_no: &str, index: usize) -> Result<(), Words> {
        let mut book = self.book();
        let sale = book.sale(trade_no).ok_or_else(unknown)?;
        let target = self.target(&sale.request.notify_url);
        let notice = sale.notices.get_mut(index).ok_or_else(unknown)?;
        if notice.state != State::HeldBack {
            return Err(Words::new("it is on its way already", "已经在投递"));
        }
        let Ok(target) = target else {
            notice.state = State::Undeliverable;
            return Ok(());
        };
        notice.state = State::OnTheWay;
        let (desk, trade_no) = (Arc::clone(self), trade_no.to_owned());
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = desk.stopping.begun() => {}
                () = desk.deliver_until_success(&trade_no, index, &target) => {}
            }
        });
        Ok(())
    }

    /// One more delivery, in its own way. What it is answered is seen on the page.
    pub(super) fn trick(self: &Arc<Self>, trade_no: &str, index: usize, way: Way) -> Result<(), Words> {
        let target = {
            let mut book = self.book();
            let sale = book.sale(trade_no).ok_or_else(unknown)?;
            let target = self.target(&sale.request.notify_url)?;
            let notice = sale.notices.get_mut(index).ok_or_else(unknown)?;
            if !notice.has_room() {
                return Err(full());
            }
            if notice.state == State::OnTheWay && notice.deliveries.is_empty() {
                return Err(Words::new("its first delivery is under way", "第一次投递还在进行"));
            }
            notice.take_room();
            target
        };
        let (desk, trade_no) = (Arc::clone(self), trade_no.to_owned());
        self.tasks.spawn(async move {
            desk.deliver(&trade_no, index, way, &target).await;
        });
        Ok(())
    }

    /// Everything once more, the last first.
    pub(super) fn reverse(self: &Arc<Self>, trade_no: &str) -> Result<(), Words> {
        let (target, notices) = {
            let mut book = self.book();
            let sale = book.sale(trade_no).ok_or_else(unknown)?;
            let target = self.target(&sale.request.notify_url)?;
            if !sale.notices.iter().all(Notice::has_room) {
                return Err(full());
            }
            sale.notices.iter_mut().for_each(Notice::take_room);
            (target, sale.notices.len())
        };
        let (desk, trade_no) = (Arc::clone(self), trade_no.to_owned());
        self.tasks.spawn(async move {
            for index in (0..notices).rev() {
                desk.deliver(&trade_no, index, Way::Again, &target).await;
            }
        });
        Ok(())
    }

    /// Where notifications go, if they may go there. Who signs a link names the address, and who opens it has not read it:
    /// so it is this machine, or what the operator allowed.
    pub(super) fn target(&self, notify_url: &str) -> Result<Target, Words> {
        let url = self.config.deliver_to.as_deref().unwrap_or(notify_url);
        if url.is_empty() {
            return Err(Words::new(
                "the link has no notify_url: nobody is told of a payment",
                "链接里没有 notify_url：付款不会通知任何人",
            ));
        }
        let target = Target::parse(url).map_err(|error| {
            Words::new(
                format!("{error}; the simulator speaks plain http (--deliver-to sends elsewhere than the link says)"),
                format!("{url} 无法投递：模拟器只支持 http（可用 --deliver-to 改投到别处）"),
            )
        })?;
        let host = target.host();
        let is_here = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
            || self.config.deliver_to.is_some();
        if is_here || self.config.allowed_hosts.iter().any(|allowed| allowed == host) {
            return Ok(target);
        }
        Err(Words::new(
            format!("the notify_url leads to {host}, not to this machine: --allow-host {host} allows it"),
            format!("notify_url 指向 {host}，不是本机：用 --allow-host {host} 放行"),
        ))
    }

    /// Bound: the eight deliveries of the schedule.
    async fn deliver_until_success(self: &Arc<Self>, trade_no: &str, index: usize, target: &Target) {
        loop {
            let Some(attempt) = self.deliver(trade_no, index, Way::Scheduled, target).await else { return };
            let Some(pause) = self.config.schedule.after(attempt) else {
                self.set(trade_no, index, State::GivenUp);
                return;
            };
            self.set(trade_no, index, State::Waiting(SystemClock.now().plus(pause)));
            tokio::time::sleep(pause).await;
            if !self.begin(trade_no, index) {
                return;
            }
        }
    }

    /// Unless it was answered meanwhile, by hand.
    fn begin(&self, trade_no: &str, index: usize) -> bool {
        let mut book = self.book();
        let notice = book.sale(trade_no).and_then(|sale| sale.notices.get_mut(index));
        let Some(notice) = notice.filter(|notice| notice.state != State::Answered) else { return false };
        notice.state = State::OnTheWay;
        true
    }

    fn set(&self, trade_no: &str, index: usize, state: State) {
        let mut book = self.book();
        let notice = book.sale(trade_no).and_then(|sale| sale.notices.get_mut(index));
        if let Some(notice) = notice.filter(|notice| notice.state != State::Answered) {
            notice.state = state;
        }
    }

    /// Delivers once and writes it down. Gives the number of deliveries on the schedule so far, if it goes on.
    async fn deliver(&self, trade_no: &str, index: usize, way: Way, target: &Target) -> Option<u32> {
        let began = SystemClock.now();
        let body = self.body(trade_no, index, way, began)?;
        let (mut client, clock) = (Client::new(target.clone()), Instant::now());
        let answer = client.deliver(Bytes::from(body), None).await;
        let took_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut book = self.book();
        let notice = book.sale(trade_no)?.notices.get_mut(index)?;
        let attempt = if way == Way::Scheduled { notice.attempts() + 1 } else { 0 };
        let success = answer.as_ref().is_ok_and(Answer::is_success);
        notice.deliveries.push(Delivery {
            attempt,
            way,
            at: began.rfc3339_beijing(),
            took_ms,
            status: answer.as_ref().ok().map(|answer| answer.status.as_u16()),
            answer: answer.as_ref().ok().map(|answer| beginning(&answer.body)),
            verdict: way.verdict(&answer),
            error: answer.err(),
            success,
        });
        let settles = matches!(way, Way::Scheduled | Way::Again | Way::Gbk);
        if success && settles {
            notice.state = State::Answered;
            return None;
        }
        Some(attempt)
    }

    fn body(&self, trade_no: &str, index: usize, way: Way, now: Timestamp) -> Option<String> {
        let mut book = self.book();
        let Book { sales, random } = &mut *book;
        let sale = sales.iter().find(|sale| sale.trade.trade_no() == trade_no)?;
        let notice = sale.notices.get(index)?;
        let at = match way {
            Way::Expired => Timestamp::from_unix_millis(now.unix_millis() - EXPIRED_MILLIS),
            Way::Scheduled | Way::Again | Way::Gbk | Way::Forged => now,
        };
        let fields = sale.trade.told(&notice.fact, &notice.notify_id, at);
        let signer = &self.config.signer;
        Some(match way {
            Way::Gbk => body_in_gbk(fields, signer),
            Way::Forged => {
                let more = Money::from_minor(sale.request.total_amount.minor() + 100);
                signed_body(fields, signer, Some(&more.to_string()), random)
            }
            Way::Scheduled | Way::Again | Way::Expired => signed_body(fields, signer, None, random),
        })
    }

    /// The way back to the merchant's shop, signed as Alipay signs it. It proves nothing; only a notification does.
    pub(super) fn way_back(&self, sale: &Sale) -> Option<String> {
        let url = &sale.request.return_url;
        if !(url.starts_with("https://") || url.starts_with("http://")) {
            return None;
        }
        sale.trade.paid_at()?;
        let merchant = &self.config.merchant;
        let mut fields: Vec<(String, String)> = [
            ("app_id", merchant.app_id.as_str()),
            ("auth_app_id", &merchant.app_id),
            ("charset", "utf-8"),
            ("method", &format!("{}.return", sale.request.product.method())),
            ("out_trade_no", &sale.request.out_trade_no),
            ("seller_id", &merchant.seller_id),
            ("sign_type", "RSA2"),
            ("timestamp", &SystemClock.now().alipay()),
            ("total_amount", &sale.request.total_amount.to_string()),
            ("trade_no", sale.trade.trade_no()),
            ("version", "1.0"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        let sign = self.config.signer.sign(crate::signer::signing_content(&fields).as_bytes());
        fields.push(("sign".to_owned(), sign));
        let query = serde_urlencoded::to_string(&fields).unwrap_or_default();
        // What stands behind a # no server sees.
        let (url, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
        Some(format!("{url}{}{query}{fragment}", if url.contains('?') { '&' } else { '?' }))
    }
}

/// What a notification tells, in a word.
pub(super) fn name_of(fact: &Fact) -> &'static str {
    match fact {
        Fact::Paid => "paid",
        Fact::Refunded(_) => "refunded",
        Fact::Closed(_) => "closed",
        Fact::Finished => "finished",
    }
}

/// Enough of an answer to see what it is.
fn beginning(body: &[u8]) -> String {
    let shown = body.get(..MAX_SHOWN_BYTES).unwrap_or(body);
    shown
        .iter()
        .map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '·' })
        .collect()
}

fn unknown() -> Words {
    Words::new("there is no such trade or notification here", "这里没有这笔交易或通知")
}

fn full() -> Words {
    Words::new(
        "this notification was delivered by hand often enough: open another trade",
        "这条通知手动重发的次数太多了：请另开一笔交易",
    )
}

/// Bound: trades; the oldest on which nothing is under way makes room.
const MAX_SALES: usize = 500;
const MAX_SHOWN_BYTES: usize = 200;
/// The day before yesterday: beyond `freshness.max_age` as it is by default.
const EXPIRED_MILLIS: i64 = 48 * 3600 * 1000;
/// Bound: how long stopping waits for what is being delivered.
pub(super) const GRACE: Duration = Duration::from_secs(1);
