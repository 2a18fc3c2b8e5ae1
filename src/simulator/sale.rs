//! One trade at the desk: what may happen to it, and the notifications that tell of it.

use rand::RngExt as _;
use rand::rngs::SmallRng;
use serde::Serialize;

use super::client::Answer;
use super::request::{PayRequest, Refusal, Words};
use crate::clock::Timestamp;
use crate::event::Money;
use crate::signer::notification::{Fact, Merchant, Purchase, Refund, Trade};

/// Alipay's `trade_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Status {
    WaitBuyerPay,
    TradeSuccess,
    TradeFinished,
    TradeClosed,
}

impl Status {
    /// As it is said to a person.
    fn words(self) -> Words {
        let (en, zh) = match self {
            Self::WaitBuyerPay => ("waits for the buyer (WAIT_BUYER_PAY)", "正在等待付款（WAIT_BUYER_PAY）"),
            Self::TradeSuccess => ("is paid (TRADE_SUCCESS)", "已付款（TRADE_SUCCESS）"),
            Self::TradeFinished => ("is finished (TRADE_FINISHED)", "已完结（TRADE_FINISHED）"),
            Self::TradeClosed => ("is closed (TRADE_CLOSED)", "已关闭（TRADE_CLOSED）"),
        };
        Words::new(format!("the trade {en}"), format!("这笔交易{zh}"))
    }
}

/// A trade that somebody opened the cashier for.
#[derive(Debug)]
pub(super) struct Sale {
    pub(super) trade: Trade,
    pub(super) request: PayRequest,
    pub(super) status: Status,
    pub(super) refunds: Vec<GivenBack>,
    /// Bound: [`MAX_NOTICES`].
    pub(super) notices: Vec<Notice>,
}

/// A refund, and how much of it was this one's.
#[derive(Debug, Clone)]
pub(super) struct GivenBack {
    pub(super) amount: Money,
    pub(super) refund: Refund,
}

/// A notification, with all its deliveries.
#[derive(Debug)]
pub(super) struct Notice {
    pub(super) notify_id: String,
    pub(super) fact: Fact,
    pub(super) state: State,
    /// Bound: the eight of the schedule, and [`MAX_BY_HAND`].
    pub(super) deliveries: Vec<Delivery>,
    /// How many of them were asked for by hand, those that are under way included.
    by_hand: usize,
}

/// Where a notification stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is", content = "at")]
pub(super) enum State {
    /// The person at the desk lets it go when it suits.
    HeldBack,
    /// The next delivery is due then.
    Waiting(Timestamp),
    /// It is being delivered.
    OnTheWay,
    /// `success` was answered.
    Answered,
    /// Eight deliveries, and no `success`.
    GivenUp,
    /// There is no address that it could go to.
    Undeliverable,
}

/// How a delivery came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    /// On Alipay's schedule.
    Scheduled,
    /// Once more, by hand.
    Again,
    /// In GBK.
    Gbk,
    /// With another amount than the one that was signed.
    Forged,
    /// With a `notify_time` of the day before yesterday.
    Expired,
}

impl Way {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "again" => Self::Again,
            "gbk" => Self::Gbk,
            "forged" => Self::Forged,
            "expired" => Self::Expired,
            _ => return None,
        })
    }

    /// What an answer to such a delivery means. No answer, and one of trouble, says nothing of what was believed.
    pub(super) fn verdict(self, answer: &Result<Answer, String>) -> Verdict {
        let Ok(answer) = answer else { return Verdict::Failed };
        match (self, answer.is_success()) {
            (Self::Forged, true) => Verdict::Believed,
            // An old one of a trade that is known is a repeat.
            (Self::Scheduled | Self::Again | Self::Gbk | Self::Expired, true) => Verdict::Success,
            (Self::Forged | Self::Expired, false) if !answer.status.is_server_error() => Verdict::Disbelieved,
            (_, false) => Verdict::Failed,
        }
    }
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// `success`, and rightly.
    Success,
    /// Not `success`, and rightly: nobody has to believe that.
    Disbelieved,
    /// `success` for a forgery.
    Believed,
    /// It did not arrive, or was not taken.
    Failed,
}

/// One delivery, and what was answered.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Delivery {
    /// From 1, of those on the schedule; 0 for the others.
    pub(super) attempt: u32,
    pub(super) way: Way,
    pub(super) at: String,
    pub(super) took_ms: u64,
    pub(super) status: Option<u16>,
    /// Its beginning.
    pub(super) answer: Option<String>,
    pub(super) error: Option<String>,
    pub(super) success: bool,
    pub(super) verdict: Verdict,
}

impl Sale {
    pub(super) fn open(
        merchant: &Merchant,
        request: PayRequest,
        random: &mut SmallRng,
        now: Timestamp,
    ) -> Self {
        let purchase = Purchase {
            out_trade_no: request.out_trade_no.clone(),
            total_amount: request.total_amount,
            subject: request.subject.clone(),
            body: request.body.clone(),
            passback_params: request.passback_params.clone(),
        };
        let trade = Trade::ordered(merchant, purchase, random, now);
        Self { trade, request, status: Status::WaitBuyerPay, refunds: Vec::new(), notices: Vec::new() }
    }

    /// The same link again, or another one with the same number, while the trade can still be paid.
    pub(super) fn open_again(&mut self, request: PayRequest) -> Result<(), Refusal> {
        if self.status != Status::WaitBuyerPay {
            return Err(match self.status {
                Status::TradeClosed => Refusal::new(
                    "ACQ.TRADE_HAS_CLOSE",
                    "the trade of this out_trade_no is closed: a new order has a new number",
                    "该 out_trade_no 的交易已关闭：新订单要用新的订单号",
                ),
                Status::WaitBuyerPay | Status::TradeSuccess | Status::TradeFinished => Refusal::new(
                    "ACQ.TRADE_HAS_SUCCESS",
                    "the trade of this out_trade_no is paid: a new order has a new number",
                    "该 out_trade_no 的交易已支付：新订单要用新的订单号",
                ),
            });
        }
        if request.total_amount != self.request.total_amount || request.subject != self.request.subject {
            return Err(Refusal::new(
                "ACQ.CONTEXT_INCONSISTENT",
                "there is a trade of this out_trade_no with another amount or subject",
                "同一个 out_trade_no 已有一笔交易，但金额或标题不同",
            ));
        }
        self.request = request;
        Ok(())
    }

    /// A buyer pays.
    pub(super) fn pay(&mut self, random: &mut SmallRng, now: Timestamp) -> Result<usize, Words> {
        self.must_be(Status::WaitBuyerPay)?;
        self.trade.pay(now);
        self.status = Status::TradeSuccess;
        self.notice(Fact::Paid, random, now)
    }

    /// Nobody pays in time, or the merchant closes it.
    pub(super) fn close(&mut self, random: &mut SmallRng, now: Timestamp) -> Result<usize, Words> {
        self.must_be(Status::WaitBuyerPay)?;
        self.status = Status::TradeClosed;
        self.notice(Fact::Closed(now), random, now)
    }

    /// The refund window is over.
    pub(super) fn finish(&mut self, random: &mut SmallRng, now: Timestamp) -> Result<usize, Words> {
        self.must_be(Status::TradeSuccess)?;
        self.status = Status::TradeFinished;
        self.notice(Fact::Finished, random, now)
    }

    /// Gives some of it back: all that is left, where no amount is named.
    pub(super) fn refund(
        &mut self,
        amount: Option<Money>,
        out_biz_no: Option<String>,
        random: &mut SmallRng,
        now: Timestamp,
    ) -> Result<usize, Words> {
        self.must_be(Status::TradeSuccess)?;
        let before = self.refunded().minor();
        let left = self.request.total_amount.minor() - before;
        let amount = amount.map_or(left, Money::minor);
        if amount == 0 || amount > left {
            let left = Money::from_minor(left);
            return Err(Words::new(
                format!("from 0.01 to {left} can be given back"),
                format!("可退金额：0.01 到 {left} 元"),
            ));
        }
        if out_biz_no.as_ref().is_some_and(|number| !(1..=64).contains(&number.chars().count())) {
            return Err(Words::new("out_biz_no has 1 to 64 characters", "out_biz_no 是 1 到 64 个字符"));
        }
        let number = self.refunds.len() + 1;
        let out_biz_no = out_biz_no.unwrap_or_else(|| format!("{}-{number}", self.request.out_trade_no));
        if self.refunds.iter().any(|given| given.refund.out_biz_no == out_biz_no) {
            return Err(Words::new(
                format!(
                    "out_biz_no {out_biz_no} is a refund already: Alipay takes the same number for the same refund"
                ),
                format!("out_biz_no {out_biz_no} 已退过款：同一个退款请求号是同一次退款"),
            ));
        }
        let refunded = Money::from_minor(before + amount);
        let refund = Refund { out_biz_no, refunded, at: now };
        let index = self.notice(Fact::Refunded(refund.clone()), random, now)?;
        self.refunds.push(GivenBack { amount: Money::from_minor(amount), refund });
        if refunded == self.request.total_amount {
            self.status = Status::TradeClosed;
        }
        Ok(index)
    }

    /// What was given back so far.
    pub(super) fn refunded(&self) -> Money {
        self.refunds.last().map(|given| given.refund.refunded).unwrap_or_default()
    }

    /// Whether nothing more will happen by itself.
    pub(super) fn is_quiet(&self) -> bool {
        self.notices.iter().all(|notice| match notice.state {
            State::Waiting(_) | State::OnTheWay => false,
            State::HeldBack | State::Answered | State::GivenUp | State::Undeliverable => true,
        })
    }

    fn must_be(&self, status: Status) -> Result<(), Words> {
        if self.status == status {
            return Ok(());
        }
        Err(self.status.words())
    }

    fn notice(&mut self, fact: Fact, random: &mut SmallRng, now: Timestamp) -> Result<usize, Words> {
        if self.notices.len() >= MAX_NOTICES {
            return Err(Words::new("this trade has had its share of notifications", "这笔交易的通知太多了"));
        }
        let date: String = now.alipay().chars().filter(char::is_ascii_digit).take(8).collect();
        let notify_id = format!("{date}00222{:018}", random.random_range(0..10u64.pow(18)));
        let (state, deliveries) = (State::HeldBack, Vec::new());
        self.notices.push(Notice { notify_id, fact, state, deliveries, by_hand: 0 });
        Ok(self.notices.len() - 1)
    }
}

impl Notice {
    /// How many deliveries were made on the schedule.
    pub(super) fn attempts(&self) -> u32 {
        let scheduled = self.deliveries.iter().filter(|delivery| delivery.way == Way::Scheduled).count();
        u32::try_from(scheduled).unwrap_or(u32::MAX)
    }

    /// Whether it can be delivered once more by hand.
    pub(super) fn has_room(&self) -> bool {
        self.by_hand < MAX_BY_HAND
    }

    /// It will be.
    pub(super) fn take_room(&mut self) {
        self.by_hand += 1;
    }
}

const MAX_NOTICES: usize = 64;
const MAX_BY_HAND: usize = 128;

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    fn answer(status: u16, body: &'static str) -> Result<Answer, String> {
        Ok(Answer { status: StatusCode::from_u16(status).unwrap(), body: body.into() })
    }

    #[test]
    fn what_an_answer_means_depends_on_what_was_delivered() {
        use Verdict::{Believed, Disbelieved, Failed, Success};
        let (success, refused, away) = (answer(200, "success"), answer(400, "fail"), answer(503, "fail"));
        let none = Err("connection refused".to_owned());
        for (way, expected) in [
            (Way::Scheduled, [Success, Failed, Failed, Failed]),
            (Way::Again, [Success, Failed, Failed, Failed]),
            (Way::Gbk, [Success, Failed, Failed, Failed]),
            (Way::Forged, [Believed, Disbelieved, Failed, Failed]),
            (Way::Expired, [Success, Disbelieved, Failed, Failed]),
        ] {
            let verdicts = [&success, &refused, &away, &none].map(|answer| way.verdict(answer));
            assert_eq!(verdicts, expected, "{way:?}");
        }
        assert_eq!(Way::Scheduled.verdict(&answer(500, "success")), Failed, "it is 200, or no success");
    }
}
