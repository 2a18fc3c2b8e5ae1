//! A publisher as one would write it: it takes each confirm for its own, and `Ack(None)` for the proof that the
//! message is in a queue.

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::PATIENCE;

/// How it waits for its confirms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naive {
    /// One task publishes the batch and then awaits one confirm after the other.
    InTurn,
    /// A task for each message, all on one channel: each publishes its own and awaits its own.
    TasksOnOneChannel,
}

impl Naive {
    /// Publishes a batch of each size, each on a channel of its own, and says which messages it believes in. What has
    /// not come when the peer has said everything counts as timed out.
    pub async fn play(self, uri: &str, sizes: impl Iterator<Item = usize>) -> Vec<Vec<String>> {
        let connection = Connection::connect(uri, ConnectionProperties::default()).await.unwrap();
        let said = CancellationToken::new();
        let channels = join_all(sizes.map(async |size| {
            let channel = connection.create_channel().await.unwrap();
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            (channel, size)
        }))
        .await;
        let (handed_over, mut all) = mpsc::channel::<()>(1);
        let batches = channels.into_iter().enumerate().map(|(number, (channel, size))| {
            let ids: Vec<String> = (1..=size).map(|tag| format!("{number}.{tag}")).collect();
            let (said, handed_over) = (said.clone(), handed_over.clone());
            tokio::spawn(async move {
                match self {
                    Self::InTurn => in_turn(channel, ids, said, handed_over).await,
                    Self::TasksOnOneChannel => in_tasks(channel, ids, said, handed_over).await,
                }
            })
        });
        let batches: Vec<_> = batches.collect();
        drop(handed_over);
        assert!(all.recv().await.is_none());
        // The peer answers this after everything else.
        connection.create_channel().await.unwrap();
        said.cancel();
        let believed = join_all(batches).await.into_iter().map(Result::unwrap).collect();
        // Its channels are on their way out, of which this may stumble. One run never ended, here or before.
        let _ = tokio::time::timeout(PATIENCE, connection.close(200, "done".into())).await;
        believed
    }
}

async fn in_turn(
    channel: Channel,
    ids: Vec<String>,
    said: CancellationToken,
    handed_over: mpsc::Sender<()>,
) -> Vec<String> {
    let mut confirms = Vec::new();
    for id in &ids {
        confirms.push(publish(&channel, id).await);
    }
    drop(handed_over);
    said.cancelled().await;
    let mut believed = Vec::new();
    for (id, confirm) in ids.into_iter().zip(confirms) {
        if let Some(Ok(Confirmation::Ack(None))) = confirm.now_or_never() {
            believed.push(id);
        }
    }
    believed
}

async fn in_tasks(
    channel: Channel,
    ids: Vec<String>,
    said: CancellationToken,
    handed_over: mpsc::Sender<()>,
) -> Vec<String> {
    let tasks: Vec<_> = ids
        .into_iter()
        .map(|id| {
            let (channel, said, handed_over) = (channel.clone(), said.clone(), handed_over.clone());
            tokio::spawn(async move {
                let confirm = publish(&channel, &id).await;
                drop(handed_over);
                tokio::select! {
                    biased;
                    confirmation = confirm => matches!(confirmation, Ok(Confirmation::Ack(None))).then_some(id),
                    () = said.cancelled() => None,
                }
            })
        })
        .collect();
    drop(handed_over);
    join_all(tasks).await.into_iter().filter_map(Result::unwrap).collect()
}

async fn publish(channel: &Channel, id: &str) -> PublisherConfirm {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let properties = BasicProperties::default().with_message_id(id.into());
    channel
        .basic_publish("payments".into(), "payment.succeeded".into(), options, b"{}", properties)
        .await
        .unwrap()
}
