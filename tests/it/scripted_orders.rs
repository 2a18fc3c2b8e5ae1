//! Every order of confirms, enumerated and not sampled (`support/orders.rs` says which space that is): through the
//! attribution with the client modelled, and through the real client over a socket, which shows that the model is
//! the client. And what a publisher makes of them that trusts each confirm for its own.
//!
//! The attribution is the source of `publication` itself, compiled into this binary: there is no door to it.

use std::collections::BTreeMap;

use alipay_notify_gateway::broker::{Confirm, Confirms, Settled};
use alipay_notify_gateway::event::Message;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::attribution::{Attribution, Verdict};
use crate::support::amqp_peer::{Peer, Published, Reply, Script};
use crate::support::broker::{Connected, at, config, message, settle_all};
use crate::support::naive::Naive;
use crate::support::orders::{End, Fate, Order};

#[test]
fn no_order_of_confirms_makes_the_attribution_believe_what_is_not_so() {
    let mut counts = BTreeMap::new();
    for size in 1..=4 {
        let count: &mut Count = counts.entry(size).or_default();
        Order::each(size, &mut |order| {
            count.orders += 1;
            let outcomes = order.outcomes(&|tag| name(0, tag));
            let fooled = outcomes.iter().filter(|outcome| is_fooled(order, outcome)).count();
            count.fooling += u64::from(fooled > 0);
            for outcome in outcomes {
                count.outcomes += 1;
                count.seen += through_the_attribution(order, &outcome);
            }
        });
    }
    let table: Vec<String> = counts.iter().map(|(size, count)| count.row(*size)).collect();
    eprintln!("{}", table.join("\n"));
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    for row in table {
        assert!(document.contains(&row), "docs/reliability.md does not say:\n{row}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_client_answers_every_order_as_modelled_and_fools_nobody() {
    let orders = some_orders();
    let mut doubted = 0;
    for end in End::ALL {
        for some in orders.chunks(CHANNELS) {
            for (number, (order, views)) in some.iter().zip(play(some, end).await).enumerate() {
                let named = |tag| name(number, tag);
                assert!(is_modelled(order, &views, &named), "{order:?} {end:?}: the client said {views:?}");
                let verdicts = judge(order, &views, &named).unwrap_or_else(|wrong| panic!("{end:?} {wrong}"));
                let needless = |(fate, verdict): (Fate, Option<Verdict>)| {
                    fate == Fate::Taken && verdict != Some(Verdict::Confirmed)
                };
                doubted += u64::from(order.fates().into_iter().zip(verdicts).any(needless));
            }
        }
    }
    eprintln!(
        "through the real client: {} orders, each with {} ends; in {doubted} of them one that was taken is in doubt",
        orders.len(),
        End::ALL.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_trusts_each_confirm_for_its_own_is_fooled_by_the_real_client() {
    let orders = some_orders();
    let possible = |order: &Order| {
        let outcomes = order.outcomes(&|tag| name(0, tag));
        outcomes.iter().filter(|outcome| is_fooled(order, outcome)).count() as f64 / outcomes.len() as f64
    };
    for naive in [Naive::InTurn, Naive::TasksOnOneChannel] {
        let mut fooled = 0;
        for some in orders.chunks(CHANNELS) {
            let peer = Peer::start(script(some, End::Silence)).await;
            let believed = naive.play(&peer.uri(), some.iter().map(|order| order.size)).await;
            let tags: BTreeMap<String, u64> =
                peer.seen().published.iter().map(|published| (published.id(), published.tag)).collect();
            for (order, believed) in some.iter().zip(believed) {
                let fates = order.fates();
                let is_false = |id: &String| fates[usize::try_from(tags[id]).unwrap() - 1] != Fate::Taken;
                let is_fooled = believed.iter().any(is_false);
                fooled += u64::from(is_fooled);
                let in_order = naive == Naive::InTurn;
                assert!(!in_order || !is_fooled || possible(order) > 0.0, "{order:?}: {believed:?}");
                assert!(!in_order || is_fooled || possible(order) < 1.0, "{order:?}: {believed:?}");
            }
        }
        eprintln!("{naive:?}: fooled by {fooled} of {} orders", orders.len());
        assert!(fooled > 0);
    }
}

/// All orders of up to three, and of those of four every [`STRIDE`]th, or as the environment says.
fn some_orders() -> Vec<Order> {
    let stride = std::env::var("ORDERS_STRIDE").map_or(STRIDE, |text| text.parse().unwrap());
    let mut orders = Vec::new();
    for size in 1..=4 {
        let mut number = 0;
        Order::each(size, &mut |order| {
            if size < 4 || number % stride == 0 {
                orders.push(order.clone());
            }
            number += 1;
        });
    }
    orders
}

#[derive(Default)]
struct Count {
    orders: u64,
    outcomes: u64,
    /// Outcomes as a lane may see them: in one view, one by one, and all between, up to a close.
    seen: u64,
    /// Orders with an outcome that makes a naive publisher believe in a message that no queue took.
    fooling: u64,
}

impl Count {
    /// As docs/reliability.md has it.
    fn row(&self, size: usize) -> String {
        let Self { orders, outcomes, seen, fooling } = self;
        format!("| {size} | {orders} | {outcomes} | {seen} | {fooling} | 0 |")
    }
}

/// Feeds an outcome, and then the loss of what is open, in every grouping into settled views; says how many.
fn through_the_attribution(order: &Order, outcome: &[Settled]) -> u64 {
    let mut confirms = outcome.to_vec();
    confirms.extend(lost_of(order.size, outcome));
    let groupings = 1u64 << (order.size - 1);
    for grouping in 0..groupings {
        let mut views: Vec<Vec<Settled>> = Vec::new();
        for (at, settled) in confirms.iter().enumerate() {
            match views.last_mut() {
                Some(view) if grouping & (1 << (at - 1)) == 0 => view.push(settled.clone()),
                Some(_) | None => views.push(vec![settled.clone()]),
            }
        }
        // As the publisher gives them: by position within a view.
        views.iter_mut().for_each(|view| view.sort_by_key(|settled| settled.index));
        if let Err(wrong) = judge(order, &views, &|tag| name(0, tag)) {
            panic!("{wrong}");
        }
    }
    groupings
}

/// What a closed channel makes of those that had not settled.
fn lost_of(size: usize, settled: &[Settled]) -> Vec<Settled> {
    let open = (0..size).filter(|index| settled.iter().all(|settled| settled.index != *index));
    open.map(|index| Settled { index, confirm: Confirm::Lost }).collect()
}

/// What the attribution makes of these views, and whether it is true.
fn judge(
    order: &Order,
    views: &[Vec<Settled>],
    name: &impl Fn(usize) -> String,
) -> Result<Vec<Option<Verdict>>, String> {
    let fates = order.fates();
    let mut attribution = Attribution::of((1..=order.size).map(name));
    let mut verdicts = vec![None; order.size];
    let wrong = |what: &str, index: usize| Err(format!("{order:?} as {views:?}: {} {what}", index + 1));
    for view in views {
        for (index, verdict) in attribution.settle(view.clone()) {
            let is_true = match verdict {
                Verdict::Confirmed => fates[index] == Fate::Taken,
                Verdict::Returned => fates[index] == Fate::Unroutable,
                Verdict::Nacked => fates[index] != Fate::Taken && fates[index] != Fate::Open,
                Verdict::Lost => !order.is_resolved(),
                Verdict::Unsent => false,
            };
            if !is_true || verdicts[index].is_some() {
                return wrong(&format!("is {:?} and was taken for {verdict:?}", fates[index]), index);
            }
            verdicts[index] = Some(verdict);
        }
        for settled in view {
            if settled.confirm == Confirm::Ack(None) && verdicts[settled.index].is_none() {
                return wrong("had a plain ack of its own and was left in doubt", settled.index);
            }
        }
    }
    for (index, verdict) in verdicts.iter().enumerate() {
        let expected = match fates[index] {
            Fate::Taken => Verdict::Confirmed,
            Fate::Refused => Verdict::Nacked,
            Fate::Unroutable if *verdict == Some(Verdict::Nacked) => Verdict::Nacked,
            Fate::Unroutable => Verdict::Returned,
            Fate::Open => Verdict::Lost,
        };
        if order.is_resolved() && *verdict != Some(expected) {
            return wrong("is decided otherwise although the broker settled all", index);
        }
    }
    let all_settled = views.iter().map(Vec::len).sum::<usize>() == order.size;
    if attribution.is_complete() != all_settled && all_settled {
        return wrong("and the others are still undecided after the last confirm", 0);
    }
    Ok(verdicts)
}

/// Whether somebody who trusts each confirm for its own would believe in what no queue took.
fn is_fooled(order: &Order, outcome: &[Settled]) -> bool {
    let fates = order.fates();
    outcome.iter().any(|one| one.confirm == Confirm::Ack(None) && fates[one.index] != Fate::Taken)
}

/// Whether the model has an outcome with these confirms, of which each view completes a beginning.
fn is_modelled(order: &Order, views: &[Vec<Settled>], name: &impl Fn(usize) -> String) -> bool {
    order.outcomes(name).into_iter().any(|mut outcome| {
        let lost = views.iter().flatten().filter(|settled| settled.confirm == Confirm::Lost);
        let answered = outcome.len();
        outcome.extend(lost.cloned());
        let mut begun = 0;
        outcome.len() == views.iter().map(Vec::len).sum::<usize>()
            && views.iter().all(|view| {
                let beginning = begun..begun + view.len();
                begun = beginning.end;
                // What was lost resolves in any order, after everything else.
                let fits = |settled| outcome[beginning.clone()].contains(settled);
                view.iter().all(|settled| {
                    fits(settled) || (settled.confirm == Confirm::Lost && beginning.end > answered)
                })
            })
    })
}

/// Plays orders through the real client, each on a channel of its own on one connection, and gives the settled views
/// of each.
async fn play(orders: &[Order], end: End) -> Vec<Vec<Vec<Settled>>> {
    let peer = Peer::start(script(orders, end)).await;
    let broker = Connected::start(config(&peer.uri(), "payments"));
    broker.up().await;
    let mut last = broker.publisher().await;
    // Kept to the end: where a channel is dropped and the broker's close of it is on its way, lapin takes the whole
    // connection down (a loss for the others, which is safe, and not what is told here).
    let mut publishers = join_all(orders.iter().map(|_| broker.publisher())).await;
    let said = CancellationToken::new();
    let mut watching = Vec::new();
    for (number, (order, publisher)) in orders.iter().zip(&mut publishers).enumerate() {
        let mut confirms = publisher.publish(batch(number, order.size), at());
        // This hands the batch to the client.
        let first = confirms.settle_now();
        watching.push(tokio::spawn(watch(confirms, first, said.clone())));
    }
    // The peer answers this after everything else, and the client reads its answers in their order.
    settle_all(&mut last.publish(batch(orders.len(), 1), at())).await;
    match end {
        End::Silence | End::ChannelCloses => said.cancel(),
        End::ConnectionCloses => peer.say_on(1, 0, vec![Reply::CloseConnection(320, "CONNECTION_FORCED")]),
        End::Cut => peer.say_on(1, 0, vec![Reply::Cut]),
    }
    let views = join_all(watching).await.into_iter().map(Result::unwrap).collect();
    drop(publishers);
    broker.amqp.close().await;
    views
}

/// Settles while the client reads, as a lane does, and once more when everything was said.
async fn watch(
    mut confirms: Box<dyn Confirms>,
    first: Vec<Settled>,
    said: CancellationToken,
) -> Vec<Vec<Settled>> {
    let mut views = vec![first];
    loop {
        let view = tokio::select! {
            biased;
            view = confirms.settle() => view,
            () = said.cancelled() => {
                views.push(confirms.settle_now());
                break;
            }
        };
        if view.is_empty() {
            break;
        }
        views.push(view);
    }
    views.retain(|view| !view.is_empty());
    views
}

/// Answers the last publish of each batch with its order; any other batch is acked.
fn script(orders: &[Order], end: End) -> Script {
    let orders = orders.to_vec();
    Script::answering(move |published: &Published| {
        let number: usize = published.id().split('.').next().unwrap().parse().unwrap();
        match orders.get(number) {
            None => vec![Reply::ack(published.tag)],
            Some(order) if u64::try_from(order.size).unwrap() == published.tag => order.replies(end),
            Some(_) => Vec::new(),
        }
    })
}

fn batch(number: usize, size: usize) -> Vec<Message> {
    (1..=size).map(|tag| message(&name(number, tag), "payment.succeeded")).collect()
}

/// The id of a message: which order it is of, and its tag there.
fn name(number: usize, tag: usize) -> String {
    format!("{number}.{tag}")
}

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reliability.md");
/// Orders that share a connection: the peer allows a hundred channels.
const CHANNELS: usize = 90;
const STRIDE: u64 = 101;
