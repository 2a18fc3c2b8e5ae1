//! Members of a JSON object, written one behind the other. By hand, because an event and its audit line have some
//! eighty texts of which hardly any needs escaping, and having a serialiser look for those that do took a fifth of
//! the instructions that are not RSA.

use std::borrow::Cow;

/// The members so far, without the braces around them.
#[derive(Debug)]
pub struct Members(pub String);

impl Members {
    /// A text. A name that is ours needs no escaping.
    #[inline]
    pub fn text(&mut self, name: &'static str, value: &str) {
        self.name(name);
        self.quoted(value);
    }

    /// A text, if there is one.
    pub fn maybe(&mut self, name: &'static str, value: Option<Cow<'_, str>>) {
        if let Some(value) = value {
            self.text(name, &value);
        }
    }

    /// What is JSON by itself: a number, or true.
    pub fn plain(&mut self, name: &'static str, value: &str) {
        self.name(name);
        self.0.push_str(value);
    }

    /// An object of its own.
    pub fn object(&mut self, name: &'static str, members: impl FnOnce(&mut Self)) {
        self.name(name);
        self.0.push('{');
        members(self);
        self.0.push('}');
    }

    #[inline]
    fn name(&mut self, name: &'static str) {
        self.separate();
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    /// A text with a name that was received.
    pub fn received(&mut self, name: &str, value: &str) {
        self.separate();
        self.quoted(name);
        self.0.push(':');
        self.quoted(value);
    }

    fn separate(&mut self) {
        if !self.0.is_empty() && !self.0.ends_with('{') {
            self.0.push(',');
        }
    }

    fn quoted(&mut self, text: &str) {
        if is_plain(text.as_bytes()) {
            self.0.push('"');
            self.0.push_str(text);
            self.0.push('"');
        } else {
            // A text cannot fail to serialise.
            self.0.push_str(&serde_json::to_string(text).unwrap_or_else(|_| "null".to_owned()));
        }
    }
}

/// Whether no byte needs escaping: eight at a time, as most texts are too short for wider instructions.
fn is_plain(text: &[u8]) -> bool {
    let Some(last) = text.last_chunk::<8>() else {
        return text.iter().all(|byte| *byte >= b' ' && !matches!(byte, b'"' | b'\\'));
    };
    let (words, _) = text.as_chunks::<8>();
    let last = odd_bytes(u64::from_ne_bytes(*last));
    words.iter().fold(last, |odd, word| odd | odd_bytes(u64::from_ne_bytes(*word))) == 0
}

/// The high bit of each byte below a space, of each `"` and of each `\\`, and perhaps of bytes above such a one.
/// ("Determine if a word has a byte less than n", S. E. Anderson, Bit Twiddling Hacks.)
const fn odd_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const fn below(word: u64, bound: u8) -> u64 {
        word.wrapping_sub(ONES * bound as u64)
    }
    let odd =
        below(word, b' ') | below(word ^ (ONES * b'"' as u64), 1) | below(word ^ (ONES * b'\\' as u64), 1);
    odd & !word & (ONES << 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_comes_out_as_it_went_in() {
        let odd: String = (0..0x30).map(char::from).chain("\"\\/é商\u{2028}\u{7f}😀".chars()).collect();
        // At the end too, where the last bytes are no whole word.
        let places = || (0..18).flat_map(|at| [0, 1, 5, 9].map(|behind| (at, behind)));
        let each = odd
            .chars()
            .flat_map(|odd| places().map(move |(at, behind)| format!("{:a<at$}{odd}{:a<behind$}", "", "")));
        for text in ["", "plain", "商品", "{", "a{", &odd].map(str::to_owned).into_iter().chain(each) {
            let text = &text;
            let mut json = Members(String::new());
            json.received(text, text);
            json.object("inside", |json| {
                json.text("a", text);
                json.plain("b", "1");
            });
            json.text("last", text);
            let read: serde_json::Value = serde_json::from_str(&format!("{{{}}}", json.0)).unwrap();
            let expected = serde_json::json!({text: text, "inside": {"a": text, "b": 1}, "last": text});
            assert_eq!(read, expected);
        }
    }
}
