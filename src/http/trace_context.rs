//! W3C Trace Context, version 00: the one header of a request that travels on, into the event's headers. It
//! comes from anybody, so only the exact form passes.

use hyper::HeaderMap;
use hyper::header::HeaderName;

/// The request's `traceparent`, if there is exactly one and it is well-formed.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(&TRACEPARENT).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let value = value.to_str().ok()?;
    is_well_formed(value).then(|| value.to_owned())
}

/// `00-{32 hex}-{16 hex}-{2 hex}`, lower case, neither id all zero (W3C Trace Context, 3.2.2).
fn is_well_formed(value: &str) -> bool {
    let mut parts = value.split('-');
    let (Some("00"), Some(trace), Some(parent), Some(flags), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let not_zero = |part: &str| part.bytes().any(|byte| byte != b'0');
    hex(trace, 32) && not_zero(trace) && hex(parent, 16) && not_zero(parent) && hex(flags, 2)
}

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn with(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("traceparent", value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_well_formed_context_passes_as_it_is() {
        assert_eq!(traceparent(&with(&[GOOD])).as_deref(), Some(GOOD));
    }

    #[test]
    fn any_other_form_is_dropped() {
        let bad = [
            "",
            "00",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b70-01",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ];
        for value in bad {
            assert_eq!(traceparent(&with(&[value])), None, "{value:?}");
        }
        assert_eq!(traceparent(&with(&[])), None);
    }

    #[test]
    fn two_contexts_are_none() {
        assert_eq!(traceparent(&with(&[GOOD, GOOD])), None);
    }
}
