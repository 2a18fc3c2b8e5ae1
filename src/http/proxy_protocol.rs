//! The PROXY protocol, versions 1 and 2: what a proxy that only forwards bytes says about its client, before the first
//! of them. With `http.proxy_protocol` every connection of a trusted proxy must begin with it (the specification forbids
//! to guess), and no other connection may be believed to.
//!
//! Exactly the header is read, because what follows is TLS or HTTP.

use std::io;
use std::net::IpAddr;

use ppp::{v1, v2};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Whom the proxy names; `None` if it speaks for itself (`LOCAL`, `UNKNOWN`), or of what has no address.
///
/// Bound: [`MAX_V1`], [`MAX_V2`]; the caller has the deadline.
///
/// # Errors
/// If there is no header, or a malformed one.
pub(super) async fn source(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let mut header = vec![stream.read_u8().await?];
    match header.first() {
        Some(b'P') => {
            read_line(stream, &mut header).await?;
            let header = v1::Header::try_from(header.as_slice()).map_err(|_| malformed())?;
            Ok(match header.addresses {
                v1::Addresses::Tcp4(ip) => Some(ip.source_address.into()),
                v1::Addresses::Tcp6(ip) => Some(ip.source_address.into()),
                v1::Addresses::Unknown => None,
            })
        }
        Some(b'\r') => {
            read_block(stream, &mut header).await?;
            let header = v2::Header::try_from(header.as_slice()).map_err(|_| malformed())?;
            Ok(match (header.command, header.addresses) {
                (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => Some(ip.source_address.into()),
                (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => Some(ip.source_address.into()),
                (v2::Command::Proxy, v2::Addresses::Unix(_) | v2::Addresses::Unspecified)
                | (v2::Command::Local, _) => None,
            })
        }
        _ => Err(malformed()),
    }
}

/// Reads to the end of the line, and nothing behind it.
async fn read_line(stream: &mut TcpStream, header: &mut Vec<u8>) -> io::Result<()> {
    while header.last() != Some(&b'\n') {
        let mut ahead = [0; MAX_V1];
        let room = ahead.get_mut(header.len()..).unwrap_or_default();
        let seen = stream.peek(room).await?;
        if seen == 0 {
            return Err(malformed());
        }
        let line = room.iter().take(seen).position(|&byte| byte == b'\n').map_or(seen, |at| at + 1);
        let mut read = vec![0; line];
        stream.read_exact(&mut read).await?;
        header.append(&mut read);
    }
    Ok(())
}

/// Reads the rest of the fixed part, and as much as it announces.
async fn read_block(stream: &mut TcpStream, header: &mut Vec<u8>) -> io::Result<()> {
    header.resize(FIXED_V2, 0);
    stream.read_exact(header.get_mut(1..).unwrap_or_default()).await?;
    let announced = header.last_chunk().copied().map_or(0, u16::from_be_bytes);
    let whole = FIXED_V2 + usize::from(announced);
    if whole > MAX_V2 {
        return Err(malformed());
    }
    header.resize(whole, 0);
    stream.read_exact(header.get_mut(FIXED_V2..).unwrap_or_default()).await?;
    Ok(())
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// Bound: the longest line, by the specification.
const MAX_V1: usize = 107;
/// Signature, version, family and length.
const FIXED_V2: usize = 16;
/// Bound: addresses, and what proxies add about TLS.
const MAX_V2: usize = 4096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    fn version_2(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[0x20 | command, family], &length, content].concat()
    }

    /// What is read of `sent`, in pieces of `piece` bytes, and what is left.
    async fn read(sent: &[u8], piece: usize) -> (io::Result<Option<String>>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let sending = async {
            for piece in sent.chunks(piece) {
                let _ = peer.write_all(piece).await;
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            let _ = peer.shutdown().await;
        };
        let (source, ()) = tokio::join!(source(&mut stream), sending);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        (source.map(|source| source.map(|address| address.to_string())), rest)
    }

    #[tokio::test]
    async fn both_versions_name_the_source_and_leave_what_follows() {
        let ipv4 = [198, 51, 100, 1, 10, 0, 0, 1, 0x11, 0x5c, 0, 80];
        let mut ipv6 = vec![0; 36];
        ipv6.splice(..16, "2001:db8::5".parse::<std::net::Ipv6Addr>().unwrap().octets());
        let with_more = [&ipv4[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        let cases = [
            (b"PROXY TCP4 198.51.100.1 10.0.0.1 4444 80\r\n".to_vec(), Some("198.51.100.1")),
            (b"PROXY TCP6 2001:db8::5 ::1 4444 80\r\n".to_vec(), Some("2001:db8::5")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (version_2(1, 0x11, &ipv4), Some("198.51.100.1")),
            (version_2(1, 0x11, &with_more), Some("198.51.100.1")),
            (version_2(1, 0x21, &ipv6), Some("2001:db8::5")),
            (version_2(0, 0x00, &[]), None),
            (version_2(0, 0x11, &ipv4), None),
            (version_2(1, 0x31, &[0; 216]), None),
        ];
        for (header, source) in cases {
            for piece in [1000, 1, 7] {
                let sent = [&header[..], b"POST / HTTP/1.1\n\r\n"].concat();
                let (read, rest) = read(&sent, piece).await;
                let shown = header.escape_ascii().to_string();
                assert_eq!(read.unwrap().as_deref(), source, "{shown}");
                assert_eq!(rest, b"POST / HTTP/1.1\n\r\n", "{shown}");
            }
        }
    }

    #[tokio::test]
    async fn anything_else_is_no_header() {
        let too_long = [b"PROXY UNKNOWN ", &[b'x'; 200][..], b"\r\n"].concat();
        let mut of_another = version_2(1, 0x11, &[0; 12]);
        of_another[12] = 0x31;
        for sent in [
            &b"POST /alipay/notify HTTP/1.1\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\n\r\n",
            b"PROXY TCP4 198.51.100.1 10.0.0.1 4444 80\n",
            b"PROXY TCP4 198.51.100.1 10.0.0.1 4444",
            b"PROXY TCP4 198.51.100.1.1 10.0.0.1 4444 80\r\n",
            b"PROXY TCP5 198.51.100.1 10.0.0.1 4444 80\r\n",
            b"\r\n\r\n\0\r\nQUIT\r\x21\x11\0\x0c123456789012",
            &version_2(1, 0x11, &[0; 4]),
            &version_2(1, 0x11, &[0; 5000]),
            &of_another,
            &too_long,
            b"",
        ] {
            assert!(read(sent, 1000).await.0.is_err(), "{}", sent.escape_ascii());
        }
    }
}
