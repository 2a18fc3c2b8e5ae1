//! The bytes that Alipay signed (protocol.md §2), rebuilt from the decoded form: chosen parameters, sorted by
//! name, `name=value` joined by `&`, nothing escaped.

use super::form::Form;

/// How the signing content is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// Whether `sign_type` is signed.
    pub version: Version,
    /// Whether parameters with empty values are signed: the official SDKs contradict each other.
    pub empty_values: bool,
    /// Whether `alipay_cert_sn` is signed: the SDKs disagree, and no capture has one.
    pub cert_sn: bool,
}

/// Which parameters are left out of the signing content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `sign` and `sign_type`: every trade, refund, agreement, pre-authorisation and message notification.
    V1,
    /// `sign` only: application-gateway traffic.
    V2,
}

impl Recipe {
    /// The recipes worth trying on this form, the likeliest first. At most four: each may cost a signature
    /// verification for every key of the app.
    pub fn worth_trying(form: &Form, version: Version) -> impl Iterator<Item = Self> {
        let empties = form.has_empty_values();
        let cert_sn = form.has("alipay_cert_sn");
        // A number holds none: with it, it would be where a border can be moved to.
        let is_number = form.value("alipay_cert_sn").is_none_or(|value| !value.contains(&b'&'));
        [(false, true), (true, true), (false, false), (true, false)]
            .into_iter()
            .filter(move |(empty_values, with_sn)| {
                (empties || !*empty_values) && if *with_sn { is_number } else { cert_sn }
            })
            .map(move |(empty_values, with_sn)| Self { version, empty_values, cert_sn: with_sn })
    }

    /// The bytes that are signed.
    pub fn content(self, form: &Form) -> Vec<u8> {
        let mut content = Vec::with_capacity(USUAL_BYTES);
        for (name, value, signed) in form.signed() {
            if self.leaves_out(name) || (value.is_empty() && !self.empty_values) {
                continue;
            }
            if !content.is_empty() {
                content.push(b'&');
            }
            content.extend_from_slice(signed);
        }
        content
    }

    fn leaves_out(self, name: &[u8]) -> bool {
        match name {
            b"sign" => true,
            b"sign_type" => self.version == Version::V1,
            b"alipay_cert_sn" => !self.cert_sn,
            _ => false,
        }
    }
}

/// Real ones are 300 to 1,000 bytes.
const USUAL_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn content(body: &[u8], version: Version) -> Vec<u8> {
        let form = Form::parse(body).unwrap();
        Recipe::worth_trying(&form, version).next().unwrap().content(&form)
    }

    #[test]
    fn v1_leaves_out_sign_and_sign_type_and_v2_only_sign() {
        let body = b"b=2&sign=x&a=1&sign_type=RSA2";
        assert_eq!(content(body, Version::V1), b"a=1&b=2");
        assert_eq!(content(body, Version::V2), b"a=1&b=2&sign_type=RSA2");
    }

    #[test]
    fn nothing_is_trimmed_escaped_or_decoded_again() {
        assert_eq!(content(b"s=+%26quot%3B%2541+&sign=x", Version::V1), b"s= &quot;%41 ");
    }

    #[test]
    fn empty_values_are_left_out_first_and_kept_second() {
        let form = Form::parse(b"a=1&b=&sign=x").unwrap();
        let tried: Vec<_> =
            Recipe::worth_trying(&form, Version::V1).map(|recipe| recipe.content(&form)).collect();
        assert_eq!(tried, [b"a=1".to_vec(), b"a=1&b=".to_vec()]);
    }

    #[test]
    fn a_certificate_number_is_signed_first_and_left_out_second() {
        let form = Form::parse(b"alipay_cert_sn=9&b=2&sign=x").unwrap();
        let tried: Vec<_> =
            Recipe::worth_trying(&form, Version::V1).map(|recipe| recipe.content(&form)).collect();
        assert_eq!(tried, [b"alipay_cert_sn=9&b=2".to_vec(), b"b=2".to_vec()]);
    }

    #[test]
    fn an_ordinary_form_is_tried_once() {
        let form = Form::parse(b"a=1&sign=x").unwrap();
        let tried: Vec<Recipe> = Recipe::worth_trying(&form, Version::V1).collect();
        assert_eq!(tried, [Recipe { version: Version::V1, empty_values: false, cert_sn: true }]);
    }
}
