//! Who may change something: whoever bears the token. Without a configured token nobody may.

use std::hint::black_box;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;

use crate::secret::Secret;

/// What a request may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    /// It bears the token.
    Granted,
    /// It does not.
    Unauthorized,
    /// There is no token, so nothing can be changed here.
    Forbidden,
}

/// Judges `Authorization: Bearer …`. Two such headers are none.
pub(super) fn permission(token: Option<&Secret>, headers: &HeaderMap) -> Permission {
    let Some(token) = token else { return Permission::Forbidden };
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Permission::Unauthorized };
    let Some((scheme, given)) = value.to_str().ok().and_then(|value| value.split_once(' ')) else {
        return Permission::Unauthorized;
    };
    let expected = token.expose();
    // An empty token is a mistake in the configuration and opens nothing.
    let right = scheme.eq_ignore_ascii_case("bearer")
        && !expected.is_empty()
        && equal_in_constant_time(expected.as_bytes(), given.as_bytes());
    if right { Permission::Granted } else { Permission::Unauthorized }
}

/// Whether a header can bring it: visible ASCII, and white space within at the most.
pub fn can_be_brought(token: &Secret) -> bool {
    let text = token.expose();
    text.trim() == text && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Takes as long for a token that is nearly right as for one that is all wrong; only the length shows.
fn equal_in_constant_time(expected: &[u8], given: &[u8]) -> bool {
    let differences =
        expected.iter().zip(given).fold(0, |sum, (left, right)| black_box(sum | (left ^ right)));
    expected.len() == given.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearing(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_the_token_itself_opens() {
        let token = Secret::new("s3cret");
        let judged = |values: &[&str]| permission(Some(&token), &bearing(values));
        assert_eq!(judged(&["Bearer s3cret"]), Permission::Granted);
        assert_eq!(judged(&["bearer s3cret"]), Permission::Granted);
        for wrong in
            ["Bearer s3cre", "Bearer s3crett", "Bearer S3cret", "Basic s3cret", "s3cret", "Bearer ", ""]
        {
            assert_eq!(judged(&[wrong]), Permission::Unauthorized, "{wrong:?}");
        }
        assert_eq!(judged(&[]), Permission::Unauthorized);
        assert_eq!(judged(&["Bearer s3cret", "Bearer s3cret"]), Permission::Unauthorized);
    }

    #[test]
    fn what_no_header_can_bring_is_no_token() {
        for (token, can) in
            [("s3cret s3cret", true), ("密码", false), (" s3cret", false), ("s3\ncret", false)]
        {
            assert_eq!(can_be_brought(&Secret::new(token)), can, "{token:?}");
        }
    }

    #[test]
    fn without_a_token_nothing_opens() {
        assert_eq!(permission(None, &bearing(&["Bearer s3cret"])), Permission::Forbidden);
        let empty = Secret::new("");
        assert_eq!(permission(Some(&empty), &bearing(&["Bearer "])), Permission::Unauthorized);
    }
}
