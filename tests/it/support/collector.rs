//! A collector: takes OTLP over HTTP, as the real ones do, or behaves as badly as one can.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};
use prost::Message as _;

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Takes everything.
    Takes,
    /// Takes all but so many of each request.
    Refuses(i64),
    /// 503.
    Unavailable,
    /// Takes the connection and never says a word.
    Silent,
    /// A body of 200 MB with the word that all is well.
    Endless,
    /// What is no HTTP.
    Rubbish,
}

/// A running one. Its thread ends with the test process.
pub struct Collector {
    pub addr: SocketAddr,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

/// A span as a test looks at it.
#[derive(Debug, Clone)]
pub struct Told(pub Span);

impl Collector {
    pub fn start(manner: Manner) -> Self {
        let socket = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = socket.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<_>>>::default();
        let taken = Arc::clone(&requests);
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in socket.incoming() {
                let stream = stream.unwrap();
                if manner == Manner::Silent {
                    silent.push(stream);
                } else {
                    // A gateway that hangs up is its business.
                    let _ = answer(stream, manner, &taken);
                }
            }
        });
        Self { addr, requests }
    }

    /// `[traces]` for it.
    pub fn config(&self) -> String {
        format!("[traces]\notlp_endpoint = \"http://{}\"\n", self.addr)
    }

    pub fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        self.requests.lock().unwrap().clone()
    }

    /// All spans, in the order of their coming.
    pub fn spans(&self) -> Vec<Told> {
        let requests = self.requests();
        let scopes = requests.into_iter().flat_map(|request| request.resource_spans);
        let spans =
            scopes.flat_map(|of_resource| of_resource.scope_spans).flat_map(|of_scope| of_scope.spans);
        spans.map(Told).collect()
    }

    /// Those of a trace.
    pub fn trace(&self, id: &str) -> Vec<Told> {
        self.spans().into_iter().filter(|span| span.trace_id() == id).collect()
    }
}

impl Told {
    pub fn trace_id(&self) -> String {
        hex(&self.0.trace_id)
    }

    pub fn id(&self) -> String {
        hex(&self.0.span_id)
    }

    pub fn parent(&self) -> String {
        hex(&self.0.parent_span_id)
    }

    /// An attribute that is a text; empty if there is none.
    pub fn says(&self, name: &str) -> &str {
        let found = self.0.attributes.iter().find(|attribute| attribute.key == name);
        let value = found.and_then(|attribute| attribute.value.as_ref()).and_then(|any| any.value.as_ref());
        match value {
            Some(Value::StringValue(text)) => text,
            _ => "",
        }
    }

    pub fn has_failed(&self) -> bool {
        self.0.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer(
    mut stream: TcpStream,
    manner: Manner,
    requests: &Mutex<Vec<ExportTraceServiceRequest>>,
) -> std::io::Result<()> {
    let body = read(&stream)?;
    let (status, body) = match manner {
        Manner::Rubbish => return stream.write_all(b"SSH-2.0-no collector\r\n\0\x01\x02"),
        Manner::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")?;
            return std::io::copy(&mut std::io::repeat(b'x').take(200_000_000), &mut stream).map(drop);
        }
        Manner::Unavailable => ("503 Service Unavailable", Vec::new()),
        Manner::Takes | Manner::Refuses(_) | Manner::Silent => {
            requests.lock().unwrap().push(ExportTraceServiceRequest::decode(&body[..]).unwrap());
            let refused = if let Manner::Refuses(refused) = manner { refused } else { 0 };
            let partial = ExportTracePartialSuccess { rejected_spans: refused, error_message: String::new() };
            ("200 OK", ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec())
        }
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/x-protobuf\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}

/// The body of a request, which is what OTLP says that it is.
fn read(stream: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line)? > 2 {
        head.push_str(&line.to_ascii_lowercase());
        line.clear();
    }
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body)?;
    Ok(body)
}
