//! A scripted AMQP peer, on the frames of `amq-protocol`: it shakes hands, opens channels and declares what it
//! is asked to as a broker does, and answers publishes with what the script says: returns, acks and nacks in
//! any order and grouping, silence, a closed channel or connection, `connection.blocked`, a cut socket.
//!
//! It is for the answers that a real broker gives too rarely to be waited for.
//!
//! ```ignore
//! let peer = Peer::start(Script::after(3, vec![Reply::Return(1), Reply::Return(3), Reply::ack(3)])).await;
//! // … connect to peer.uri(), publish three …
//! let published = peer.published(3).await;
//! peer.say(&published[0], vec![Reply::ack(1)]);
//! ```

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::basic::AMQPProperties;
use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// What the peer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `basic.return` of the publish with this tag, with its content.
    Return(u64),
    /// `basic.ack`.
    Ack { tag: u64, multiple: bool },
    /// `basic.nack`.
    Nack { tag: u64, multiple: bool },
    /// `channel.close` with a code and a text, as after a publish to an exchange that is not there.
    CloseChannel(u16, &'static str),
    /// `connection.close`, as when an operator closes it.
    CloseConnection(u16, &'static str),
    /// `connection.blocked`.
    Block,
    /// `connection.unblocked`.
    Unblock,
    /// The socket is cut, without a word.
    Cut,
}

impl Reply {
    /// An ack of one.
    pub fn ack(tag: u64) -> Self {
        Self::Ack { tag, multiple: false }
    }

    /// An ack of all up to this one.
    pub fn ack_up_to(tag: u64) -> Self {
        Self::Ack { tag, multiple: true }
    }

    /// A nack of one.
    pub fn nack(tag: u64) -> Self {
        Self::Nack { tag, multiple: false }
    }
}

/// What the peer does.
pub struct Script {
    on_publish: Box<Answer>,
    refused: Vec<Refusal>,
    mute_until: Option<Mute>,
}

type Answer = dyn FnMut(&Published) -> Vec<Reply> + Send;
/// What is to be said on a channel.
type Say = (u16, Vec<Reply>);

#[derive(Clone)]
struct Refusal {
    name: String,
    code: u16,
    text: String,
    passively_too: bool,
}

/// What a mute peer does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mute {
    Handshake,
    ConfirmSelect,
}

impl Script {
    /// Asks the closure after each publish. What it gives is written at once, in one piece.
    pub fn answering(on_publish: impl FnMut(&Published) -> Vec<Reply> + Send + 'static) -> Self {
        Self { on_publish: Box::new(on_publish), refused: Vec::new(), mute_until: None }
    }

    /// Answers no publish by itself.
    pub fn silent() -> Self {
        Self::answering(|_| Vec::new())
    }

    /// Acks each publish by itself.
    pub fn acking() -> Self {
        Self::answering(|published| vec![Reply::ack(published.tag)])
    }

    /// Answers once: the publish with tag `count` on any channel. Tags begin at 1 on each channel.
    pub fn after(count: u64, replies: Vec<Reply>) -> Self {
        Self::answering(move |published| if published.tag == count { replies.clone() } else { Vec::new() })
    }

    /// Refuses to declare, bind or find the exchange or queue of that name: the channel is closed.
    pub fn refusing(mut self, name: &str, code: u16, text: &str) -> Self {
        let (name, text) = (name.to_owned(), text.to_owned());
        self.refused.push(Refusal { name, code, text, passively_too: true });
        self
    }

    /// Refuses to declare it, and lets it be found.
    pub fn refusing_to_declare(mut self, name: &str, code: u16, text: &str) -> Self {
        let (name, text) = (name.to_owned(), text.to_owned());
        self.refused.push(Refusal { name, code, text, passively_too: false });
        self
    }

    /// Accepts TCP and says nothing, not even hello.
    pub fn mute() -> Self {
        Self { mute_until: Some(Mute::Handshake), ..Self::silent() }
    }

    /// Opens channels and does not answer `confirm.select`.
    pub fn without_confirm_mode() -> Self {
        Self { mute_until: Some(Mute::ConfirmSelect), ..Self::silent() }
    }
}

/// A message that was published.
#[derive(Debug, Clone)]
pub struct Published {
    pub connection: u64,
    pub channel: u16,
    /// Its delivery tag: counted from 1 on each channel.
    pub tag: u64,
    pub exchange: String,
    pub routing_key: String,
    pub mandatory: bool,
    pub properties: AMQPProperties,
    pub body: Vec<u8>,
}

impl Published {
    pub fn id(&self) -> String {
        self.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default()
    }
}

/// What the peer has seen so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Complete messages, over all connections.
    pub published: Vec<Published>,
    /// Connections that were accepted.
    pub connections: u64,
    /// Those that have ended.
    pub ended: u64,
    /// `channel.open`s.
    pub channels: u64,
    /// Declarations and bindings, in words: `exchange payments topic durable`, `queue q passive`, …
    pub asked: Vec<String>,
}

/// The peer. It goes with its owner.
pub struct Peer {
    port: u16,
    shared: Arc<Shared>,
    accepting: tokio::task::AbortHandle,
}

struct Shared {
    seen: Mutex<Seen>,
    changed: watch::Sender<()>,
    script: Mutex<Script>,
    speakers: Mutex<HashMap<u64, mpsc::Sender<Say>>>,
}

impl Peer {
    /// Listens on a port of its own.
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            changed: watch::Sender::new(()),
            script: Mutex::new(script),
            speakers: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self { port, shared, accepting }
    }

    pub fn uri(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// What it has seen by now.
    pub fn seen(&self) -> Seen {
        self.shared.seen().clone()
    }

    /// Waits until what it has seen fits.
    pub async fn until(&self, fits: impl Fn(&Seen) -> bool) -> Seen {
        let mut changed = self.shared.changed.subscribe();
        let waiting = async {
            loop {
                let seen = self.seen();
                if fits(&seen) {
                    return seen;
                }
                changed.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(seen) => seen,
            Err(_) => panic!("the peer never saw it: {:?}", self.seen()),
        }
    }

    /// Waits for that many messages, over all connections.
    pub async fn published(&self, count: usize) -> Vec<Published> {
        self.until(|seen| seen.published.len() >= count).await.published
    }

    /// Says something on the channel on which this was published, beside the script.
    pub fn say(&self, to: &Published, replies: Vec<Reply>) {
        self.say_on(to.connection, to.channel, replies);
    }

    /// Says something on a connection (counted from 1) and a channel.
    pub fn say_on(&self, connection: u64, channel: u16, replies: Vec<Reply>) {
        let speakers = self.shared.speakers.lock().unwrap();
        speakers[&connection].try_send((channel, replies)).unwrap();
    }

    /// From now on it does something else.
    pub fn change(&self, script: Script) {
        *self.shared.script.lock().unwrap() = script;
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.accepting.abort();
        // The connections end when their speakers are gone.
        self.shared.speakers.lock().unwrap().clear();
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    fn see(&self, what: impl FnOnce(&mut Seen)) {
        what(&mut self.seen());
        self.changed.send_replace(());
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (speaker, heard) = mpsc::channel(64);
        let mut number = 0;
        shared.see(|seen| {
            seen.connections += 1;
            number = seen.connections;
        });
        shared.speakers.lock().unwrap().insert(number, speaker);
        let conversation = Conversation {
            number,
            shared: Arc::clone(&shared),
            channels: HashMap::new(),
            closed: Vec::new(),
            out: Vec::new(),
            over: false,
        };
        tokio::spawn(conversation.run(stream, heard));
    }
}

/// One connection.
struct Conversation {
    number: u64,
    shared: Arc<Shared>,
    channels: HashMap<u16, Channel>,
    /// Channels that we closed and whose `close-ok` has not come: everything else on them is passed over.
    closed: Vec<u16>,
    out: Vec<u8>,
    over: bool,
}

#[derive(Default)]
struct Channel {
    incoming: Option<(basic::Publish, Option<AMQPContentHeader>, Vec<u8>)>,
    published: BTreeMap<u64, Published>,
}

impl Conversation {
    async fn run(mut self, mut stream: TcpStream, mut heard: mpsc::Receiver<Say>) {
        let mut buffer = Vec::new();
        let mut heartbeat = tokio::time::interval(Duration::from_secs(4));
        while !self.over {
            tokio::select! {
                read = stream.read_buf(&mut buffer) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(_) => self.hear(&mut buffer),
                },
                told = heard.recv() => match told {
                    Some((channel, replies)) => self.reply(channel, &replies),
                    None => break,
                },
                _ = heartbeat.tick() => {
                    if !self.channels.is_empty() {
                        self.write(&AMQPFrame::Heartbeat);
                    }
                }
            }
            if stream.write_all(&std::mem::take(&mut self.out)).await.is_err() {
                break;
            }
        }
        drop(stream);
        self.shared.see(|seen| seen.ended += 1);
    }

    fn hear(&mut self, buffer: &mut Vec<u8>) {
        if self.shared.script.lock().unwrap().mute_until == Some(Mute::Handshake) {
            return;
        }
        while let Ok((rest, frame)) = parse_frame(buffer.as_slice()) {
            let consumed = buffer.len() - rest.len();
            buffer.drain(..consumed);
            self.frame(frame);
        }
    }

    fn frame(&mut self, frame: AMQPFrame) {
        match frame {
            AMQPFrame::ProtocolHeader(_) => {
                let start = connection::Start {
                    version_major: 0,
                    version_minor: 9,
                    server_properties: FieldTable::default(),
                    mechanisms: "PLAIN".into(),
                    locales: "en_US".into(),
                };
                self.method(0, AMQPClass::Connection(connection::AMQPMethod::Start(start)));
            }
            AMQPFrame::Method(id, method) if self.closed.contains(&id) => {
                if let AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) = method {
                    self.closed.retain(|closed| *closed != id);
                }
            }
            AMQPFrame::Method(id, method) => self.called(id, method),
            AMQPFrame::Header(id, header) => {
                if let Some((_, into, _)) = self.incoming(id) {
                    *into = Some(header);
                }
                self.complete(id);
            }
            AMQPFrame::Body(id, piece) => {
                if let Some((_, _, body)) = self.incoming(id) {
                    body.extend(piece);
                }
                self.complete(id);
            }
            AMQPFrame::Heartbeat | AMQPFrame::InvalidHeartbeat(_) => {}
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "what it does not know ends the test")]
    fn called(&mut self, id: u16, method: AMQPClass) {
        match method {
            AMQPClass::Connection(method) => self.connection(method),
            AMQPClass::Channel(channel::AMQPMethod::Open(_)) => {
                self.channels.insert(id, Channel::default());
                self.shared.see(|seen| seen.channels += 1);
                let ok = channel::AMQPMethod::OpenOk(channel::OpenOk {});
                self.method(id, AMQPClass::Channel(ok));
            }
            AMQPClass::Channel(channel::AMQPMethod::Close(_)) => {
                let ok = channel::AMQPMethod::CloseOk(channel::CloseOk {});
                self.method(id, AMQPClass::Channel(ok));
            }
            AMQPClass::Confirm(confirm::AMQPMethod::Select(_)) => {
                if self.shared.script.lock().unwrap().mute_until != Some(Mute::ConfirmSelect) {
                    let ok = confirm::AMQPMethod::SelectOk(confirm::SelectOk {});
                    self.method(id, AMQPClass::Confirm(ok));
                }
            }
            AMQPClass::Exchange(exchange::AMQPMethod::Declare(asked)) => {
                let words = format!("exchange {} {}", asked.exchange, asked.kind);
                let how = [(asked.durable, " durable"), (asked.passive, " passive")];
                if self.agrees(id, asked.exchange.as_str(), words, &how) {
                    let ok = exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {});
                    self.method(id, AMQPClass::Exchange(ok));
                }
            }
            AMQPClass::Queue(queue::AMQPMethod::Declare(asked)) => {
                let kind = match asked.arguments.inner().get("x-queue-type") {
                    Some(AMQPValue::LongString(kind)) => format!(" {kind}"),
                    _ => String::new(),
                };
                let words = format!("queue {}{kind}", asked.queue);
                let how = [(asked.durable, " durable"), (asked.passive, " passive")];
                if self.agrees(id, asked.queue.as_str(), words, &how) {
                    let ok = queue::DeclareOk { queue: asked.queue, message_count: 0, consumer_count: 0 };
                    self.method(id, AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)));
                }
            }
            AMQPClass::Queue(queue::AMQPMethod::Bind(asked)) => {
                let words = format!("bind {} {} {}", asked.queue, asked.exchange, asked.routing_key);
                if self.agrees(id, asked.routing_key.as_str(), words, &[]) {
                    let ok = queue::AMQPMethod::BindOk(queue::BindOk {});
                    self.method(id, AMQPClass::Queue(ok));
                }
            }
            AMQPClass::Basic(basic::AMQPMethod::Publish(publish)) => {
                if let Some(channel) = self.channels.get_mut(&id) {
                    channel.incoming = Some((publish, None, Vec::new()));
                }
            }
            other => panic!("the peer does not know {other:?}"),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "what it does not know ends the test")]
    fn connection(&mut self, method: connection::AMQPMethod) {
        match method {
            connection::AMQPMethod::StartOk(_) => {
                let tune = connection::Tune { channel_max: 100, frame_max: 131_072, heartbeat: 0 };
                self.method(0, AMQPClass::Connection(connection::AMQPMethod::Tune(tune)));
            }
            connection::AMQPMethod::Open(_) => {
                let ok = connection::AMQPMethod::OpenOk(connection::OpenOk {});
                self.method(0, AMQPClass::Connection(ok));
            }
            connection::AMQPMethod::Close(_) => {
                let ok = connection::AMQPMethod::CloseOk(connection::CloseOk {});
                self.method(0, AMQPClass::Connection(ok));
                self.over = true;
            }
            connection::AMQPMethod::CloseOk(_) => self.over = true,
            connection::AMQPMethod::TuneOk(_) => {}
            other => panic!("the peer does not know {other:?}"),
        }
    }

    /// Notes what is asked, and closes the channel if the script refuses it.
    fn agrees(&mut self, id: u16, name: &str, mut words: String, how: &[(bool, &str)]) -> bool {
        how.iter().filter(|(is, _)| *is).for_each(|(_, word)| words.push_str(word));
        let passive = words.ends_with(" passive");
        self.shared.see(|seen| seen.asked.push(words));
        let fits = |refusal: &&Refusal| refusal.name == name && (refusal.passively_too || !passive);
        let refused = self.shared.script.lock().unwrap().refused.iter().find(fits).cloned();
        if let Some(refusal) = &refused {
            self.close_channel(id, refusal.code, &refusal.text);
        }
        refused.is_none()
    }

    fn incoming(&mut self, id: u16) -> Option<&mut (basic::Publish, Option<AMQPContentHeader>, Vec<u8>)> {
        self.channels.get_mut(&id)?.incoming.as_mut()
    }

    /// If the message is whole, it was published.
    fn complete(&mut self, id: u16) {
        let number = self.number;
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let whole = |(_, header, body): &mut (_, Option<AMQPContentHeader>, Vec<u8>)| {
            header.as_ref().is_some_and(|header| header.body_size == body.len() as u64)
        };
        let Some((publish, Some(header), body)) = channel.incoming.take_if(whole) else { return };
        let published = Published {
            connection: number,
            channel: id,
            tag: channel.published.len() as u64 + 1,
            exchange: publish.exchange.to_string(),
            routing_key: publish.routing_key.to_string(),
            mandatory: publish.mandatory,
            properties: header.properties,
            body,
        };
        channel.published.insert(published.tag, published.clone());
        let replies = (self.shared.script.lock().unwrap().on_publish)(&published);
        self.shared.see(|seen| seen.published.push(published));
        self.reply(id, &replies);
    }

    fn reply(&mut self, id: u16, replies: &[Reply]) {
        for reply in replies {
            match *reply {
                Reply::Return(tag) => self.hand_back(id, tag),
                Reply::Ack { tag: delivery_tag, multiple } => {
                    let ack = basic::AMQPMethod::Ack(basic::Ack { delivery_tag, multiple });
                    self.method(id, AMQPClass::Basic(ack));
                }
                Reply::Nack { tag: delivery_tag, multiple } => {
                    let nack = basic::Nack { delivery_tag, multiple, requeue: false };
                    self.method(id, AMQPClass::Basic(basic::AMQPMethod::Nack(nack)));
                }
                Reply::CloseChannel(code, text) => self.close_channel(id, code, text),
                Reply::CloseConnection(reply_code, text) => {
                    let close =
                        connection::Close { reply_code, reply_text: text.into(), class_id: 0, method_id: 0 };
                    self.method(0, AMQPClass::Connection(connection::AMQPMethod::Close(close)));
                }
                Reply::Block => {
                    let blocked = connection::Blocked { reason: "low on memory".into() };
                    self.method(0, AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked)));
                }
                Reply::Unblock => {
                    let unblocked = connection::AMQPMethod::Unblocked(connection::Unblocked {});
                    self.method(0, AMQPClass::Connection(unblocked));
                }
                Reply::Cut => self.over = true,
            }
        }
    }

    fn hand_back(&mut self, id: u16, tag: u64) {
        let published = self.channels[&id].published[&tag].clone();
        let returned = basic::Return {
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
            exchange: published.exchange.as_str().into(),
            routing_key: published.routing_key.as_str().into(),
        };
        self.method(id, AMQPClass::Basic(basic::AMQPMethod::Return(returned)));
        let body_size = published.body.len() as u64;
        let header = AMQPContentHeader { class_id: 60, body_size, properties: published.properties };
        self.write(&AMQPFrame::Header(id, header));
        for piece in published.body.chunks(4096) {
            self.write(&AMQPFrame::Body(id, piece.to_vec()));
        }
    }

    fn close_channel(&mut self, id: u16, reply_code: u16, text: &str) {
        let close = channel::Close { reply_code, reply_text: text.into(), class_id: 60, method_id: 40 };
        self.method(id, AMQPClass::Channel(channel::AMQPMethod::Close(close)));
        self.channels.remove(&id);
        self.closed.push(id);
    }

    fn method(&mut self, id: u16, method: AMQPClass) {
        self.write(&AMQPFrame::Method(id, method));
    }

    fn write(&mut self, frame: &AMQPFrame) {
        let mut space = vec![0; 64 * 1024];
        let cursor = Cursor::new(space.as_mut_slice());
        let written = gen_frame(frame)(WriteContext::from(cursor)).unwrap().into_inner().1;
        self.out.extend(&space[..usize::try_from(written).unwrap()]);
    }
}

/// Bound: how long a test waits before it fails.
const PATIENCE: Duration = Duration::from_secs(20);
