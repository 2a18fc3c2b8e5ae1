//! What people have captured, read into a form: the raw body, as it was received; else a request with its
//! head, a line of a log, a JSON map, or a dump of a program's map.

mod dump;
mod json;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::super::Failure;
use super::parameters::{Parameters, decode_escapes};
use crate::admission::form::Form;

/// Gives the body that a capture of one shape holds.
type Reader = fn(&[u8]) -> Option<Vec<u8>>;

/// A captured notification.
#[derive(Debug)]
pub(in crate::cli) struct Capture {
    /// As a form.
    pub(in crate::cli) body: Vec<u8>,
    /// What it was, where it was none.
    pub(in crate::cli) shape: Option<Shape>,
}

/// What people capture in the place of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Shape {
    /// A request with its head.
    Request,
    /// A JSON map.
    Json,
    /// A program's dump of a map.
    Dump,
    /// A line of a log with a body in it.
    LogLine,
    /// A body that was percent-encoded as a whole.
    Encoded,
}

impl Capture {
    /// Reads a file; or standard input for `-` and for nothing.
    pub(in crate::cli) fn read(file: Option<&Path>) -> Result<Self, Failure> {
        let content = match file {
            Some(file) if file != Path::new("-") => {
                read_file(file).map_err(|error| Failure::running(format!("{}: {error}", file.display())))?
            }
            Some(_) | None => read_bounded(io::stdin().lock())?,
        };
        Ok(Self::of(&content))
    }

    /// What a content is.
    pub(in crate::cli) fn of(content: &[u8]) -> Self {
        // An editor's or `echo`'s own; a body never ends in one.
        let body = content.strip_suffix(b"\n").unwrap_or(content);
        let body = body.strip_suffix(b"\r").unwrap_or(body);
        if is_plain(body) || (begins_as_form(body) && dump::lines(body).is_none()) {
            return Self { body: body.to_vec(), shape: None };
        }
        let shapes: [(Reader, Shape); 12] = [
            (behind_head, Shape::Request),
            (|text| json::read(text).map(|found| found.to_body()), Shape::Json),
            (json_inside, Shape::Json),
            (|text| dump::print_r(text).map(|found| found.to_body()), Shape::Dump),
            (|text| dump::java(text).map(|found| found.to_body()), Shape::Dump),
            (|text| dump::quoted(text).map(|found| found.to_body()), Shape::Dump),
            (|text| dump::javascript(text).map(|found| found.to_body()), Shape::Dump),
            (|text| dump::go(text).map(|found| found.to_body()), Shape::Dump),
            (|text| dump::lines(text).map(|found| found.to_body()), Shape::Dump),
            (java_inside, Shape::Dump),
            (in_line, Shape::LogLine),
            (encoded_in_line, Shape::Encoded),
        ];
        let read = shapes.into_iter().find_map(|(read, shape)| {
            let body = read(body).filter(|body| Parameters::lenient(body).value("sign").is_some())?;
            Some(Self { body, shape: Some(shape) })
        });
        read.unwrap_or_else(|| Self { body: body.to_vec(), shape: None })
    }
}

/// A form with a signature in it is nothing else, whatever else it looks like.
fn is_plain(body: &[u8]) -> bool {
    let is_url = [&b"http://"[..], b"https://"].iter().any(|scheme| body.starts_with(scheme));
    !is_url
        && Form::parse(body).is_ok_and(|form| {
            let names_are_names =
                form.parameters().all(|(name, _)| !name.iter().any(u8::is_ascii_whitespace));
            names_are_names && form.has("sign")
        })
}

/// What begins like a form is judged as one, even if it is none: nothing of it is left out, or a forgery could
/// be taken for the genuine body that it holds.
fn begins_as_form(body: &[u8]) -> bool {
    let name = body.split(|byte| matches!(byte, b'=' | b'&')).next().unwrap_or_default();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.%+[]".contains(byte);
    !name.is_empty() && name.iter().all(is_plain) && body.contains(&b'&')
}

/// The body of an HTTP request.
fn behind_head(text: &[u8]) -> Option<Vec<u8>> {
    let head = text.strip_prefix(b"POST ")?;
    let ends = [&b"\r\n\r\n"[..], b"\n\n"];
    ends.into_iter().find_map(|end| {
        let at = head.windows(end.len()).position(|window| window == end)?;
        head.get(at + end.len()..).map(<[u8]>::to_vec)
    })
}

/// A JSON map behind the head of a line, or inside of another map.
fn json_inside(text: &[u8]) -> Option<Vec<u8>> {
    let begins = text.iter().enumerate().filter(|(_, byte)| **byte == b'{').map(|(at, _)| at);
    begins.take(MAX_INSIDE).find_map(|at| {
        let found = json::read_first(text.get(at..)?)?;
        ["sign", "sign_type"].iter().all(|name| found.value(name).is_some()).then(|| found.to_body())
    })
}

/// A map as Java prints it, behind the head of a line.
fn java_inside(text: &[u8]) -> Option<Vec<u8>> {
    let begin = text.iter().position(|byte| *byte == b'{')?;
    let end = text.iter().rposition(|byte| *byte == b'}')?;
    dump::java(text.get(begin..=end)?).map(|found| found.to_body())
}

/// The longest word with `&` and `sign=` in it; behind a `?` if it is a URL.
fn in_line(text: &[u8]) -> Option<Vec<u8>> {
    let words = text.split(|byte| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\''));
    let has_sign = |word: &&[u8]| word.windows(5).any(|window| window == b"sign=") && word.contains(&b'&');
    let word = words.filter(has_sign).max_by_key(|word| word.len())?;
    let query = word.iter().position(|byte| *byte == b'?').and_then(|at| word.get(at + 1..));
    Some(query.unwrap_or(word).to_vec())
}

/// The longest word in which a whole form is encoded, so that no `&` and no `=` is left in it.
fn encoded_in_line(text: &[u8]) -> Option<Vec<u8>> {
    let ends = |byte: &u8| byte.is_ascii_whitespace() || b"\"'=?&,;".contains(byte);
    let has_sign = |word: &&[u8]| {
        let lower = word.to_ascii_lowercase();
        [&b"sign%3d"[..], b"%26"].iter().all(|part| lower.windows(part.len()).any(|window| window == *part))
    };
    text.split(ends).filter(has_sign).max_by_key(|word| word.len()).map(decode_escapes)
}

/// Reads a file, but not without end.
pub(in crate::cli) fn read_file(file: &Path) -> io::Result<Vec<u8>> {
    read_bounded(File::open(file)?)
}

fn read_bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("larger than 1 MiB, which no notification and no key is"));
    }
    Ok(content)
}

/// Bound: places where a map may begin in a line.
const MAX_INSIDE: usize = 32;
/// Bound: what is read of a capture or a key; the gateway itself takes 64 KiB.
const MAX_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// What every shape below says.
    const EXPECTED: &str = r#"amount=0.10&list=[{"b":"1","a":"2"}]&sign=ab+/==&text=it's, a \ "b", c"#;

    fn told(content: &str) -> String {
        let capture = Capture::of(content.as_bytes());
        let form = Form::parse(&capture.body).unwrap_or_else(|error| panic!("{error}: {content}"));
        let pairs = form.parameters().map(|(name, value)| [name, b"=", value].concat());
        String::from_utf8(pairs.collect::<Vec<_>>().join(&b'&')).unwrap()
    }

    const SHAPES: &[(&str, &str)] = &[
        (
            "form",
            "text=it%27s,+a+%5C+%22b%22,+c&amount=0.10&list=[{%22b%22:%221%22,%22a%22:%222%22}]&sign=ab%2B/==",
        ),
        (
            "json",
            r#"{"text":"it's, a \\ \"b\", c","amount":"0.10","list":"[{\"b\":\"1\",\"a\":\"2\"}]","sign":"ab+/=="}"#,
        ),
        (
            "json, nested",
            r#"{"text":"it's, a \\ \"b\", c","amount":"0.10","list":[{"b": "1", "a": "2"}],"sign":"ab+/=="}"#,
        ),
        (
            "json, lists",
            r#"{"text":["it's, a \\ \"b\", c"],"amount":["0.10"],"list":["[{\"b\":\"1\",\"a\":\"2\"}]"],"sign":["ab+/=="]}"#,
        ),
        ("java", r#"{text=it's, a \ "b", c, amount=0.10, list=[{"b":"1","a":"2"}], sign=ab+/==}"#),
        ("lines", "text=it's, a \\ \"b\", c\namount=0.10\nlist=[{\"b\":\"1\",\"a\":\"2\"}]\nsign=ab+/==\n"),
        (
            "lines with colons",
            "text: it's, a \\ \"b\", c\namount: 0.10\nlist: [{\"b\":\"1\",\"a\":\"2\"}]\nsign: ab+/==\n",
        ),
        (
            "lines with tabs",
            "text\tit's, a \\ \"b\", c\namount\t0.10\nlist\t[{\"b\":\"1\",\"a\":\"2\"}]\nsign\tab+/==\n",
        ),
        (
            "lines, encoded",
            "text=it%27s%2C+a+%5C+%22b%22%2C+c\namount=0.10\nlist=[{\"b\":\"1\",\"a\":\"2\"}]\nsign=ab%2B%2F%3D%3D\n",
        ),
        (
            "var_export",
            "array (\n  'text' => 'it\\'s, a \\\\ \"b\", c',\n  'amount' => '0.10',\n  'list' => '[{\"b\":\"1\",\"a\":\"2\"}]',\n  'sign' => 'ab+/==',\n)",
        ),
        (
            "print_r",
            "Array\n(\n    [text] => it's, a \\ \"b\", c\n    [amount] => 0.10\n    [list] => [{\"b\":\"1\",\"a\":\"2\"}]\n    [sign] => ab+/==\n)\n",
        ),
        (
            "var_dump",
            "array(4) {\n  [\"text\"]=>\n  string(16) \"it's, a \\ \"b\", c\"\n  [\"amount\"]=>\n  string(4) \"0.10\"\n  [\"list\"]=>\n  string(19) \"[{\"b\":\"1\",\"a\":\"2\"}]\"\n  [\"sign\"]=>\n  string(6) \"ab+/==\"\n}",
        ),
        (
            "python",
            r#"{'text': 'it\'s, a \\ "b", c', 'amount': '0.10', 'list': '[{"b":"1","a":"2"}]', 'sign': 'ab+/=='}"#,
        ),
        (
            "javascript",
            r#"{ text: 'it\'s, a \\ "b", c', amount: '0.10', list: '[{"b":"1","a":"2"}]', sign: 'ab+/==' }"#,
        ),
        (
            "javascript, with a prototype",
            "[Object: null prototype] {\n  text: `it's, a \\\\ \"b\", c`,\n  amount: '0.10',\n  'list': '[{\"b\":\"1\",\"a\":\"2\"}]',\n  sign: 'ab+/=='\n}",
        ),
        ("go", r#"map[text:it's, a \ "b", c amount:0.10 list:[{"b":"1","a":"2"}] sign:ab+/==]"#),
        (
            "go, of lists",
            r#"map[amount:[0.10] list:[[{"b":"1","a":"2"}]] sign:[ab+/==] text:[it's, a \ "b", c]]"#,
        ),
        (
            "a log, encoded as a whole",
            "10:15:31 INFO body=text%3Dit%2527s%2C%2Ba%2B%255C%2B%2522b%2522%2C%2Bc%26amount%3D0.10%26list%3D%5B%7B%2522b%2522%3A%25221%2522%2C%2522a%2522%3A%25222%2522%7D%5D%26sign%3Dab%252B%2F%3D%3D",
        ),
        (
            "request",
            "POST /alipay/notify HTTP/1.1\r\nHost: x\r\n\r\ntext=it%27s,+a+%5C+%22b%22,+c&amount=0.10&list=[{%22b%22:%221%22,%22a%22:%222%22}]&sign=ab%2B/==",
        ),
        (
            "log",
            "10:15:31 INFO notify body=\"text=it%27s,+a+%5C+%22b%22,+c&amount=0.10&list=[{%22b%22:%221%22,%22a%22:%222%22}]&sign=ab%2B/==\" ok",
        ),
        (
            "java in a log",
            r#"10:15:31 INFO notify: {text=it's, a \ "b", c, amount=0.10, list=[{"b":"1","a":"2"}], sign=ab+/==} ok"#,
        ),
        (
            "url alone",
            "https://x.example/n?text=it%27s,+a+%5C+%22b%22,+c&amount=0.10&list=[{%22b%22:%221%22,%22a%22:%222%22}]&sign=ab%2B/==",
        ),
        (
            "url",
            "GET https://x.example/n?text=it%27s,+a+%5C+%22b%22,+c&amount=0.10&list=[{%22b%22:%221%22,%22a%22:%222%22}]&sign=ab%2B/== 200",
        ),
    ];

    #[test]
    fn every_shape_of_a_dump_gives_the_same_parameters() {
        for (name, content) in SHAPES {
            assert_eq!(told(content), EXPECTED, "{name}");
        }
    }

    #[test]
    fn a_json_map_is_found_behind_the_head_of_a_line_and_in_another_map() {
        let map = r#"{"text":"it's, a \\ \"b\", c","amount":"0.10","list":[{"b":"1","a":"2"}],"sign":"ab+/==","sign_type":"RSA2"}"#;
        for content in [
            format!("10:15:31 [x] INFO {{7}} {{\"a\":1}} notify: {map} ok"),
            format!(r#"{{"at":{{"sign":"x"}},"params":{map}}}"#),
        ] {
            assert_eq!(told(&content).replace("&sign_type=RSA2", ""), EXPECTED, "{content}");
        }
    }

    #[test]
    fn a_broken_form_is_not_searched_for_a_genuine_one() {
        for content in
            ["total_amount=9 a=1&total_amount=1&sign=x", "a=%&b=1&sign=x y&sign=x", "a&sign=x 'sign'=>'y'"]
        {
            assert_eq!(Capture::of(content.as_bytes()).body, content.as_bytes());
        }
    }

    #[test]
    fn what_is_nothing_of_the_kind_is_left_alone() {
        for content in
            ["", "hello", "{", "{}", "[1]", "Array\n(\n)", "{a=b", "'", "\"a\"", "a=b\nc", "POST / HTTP/1.1"]
        {
            let capture = Capture::of(content.as_bytes());
            assert_eq!((capture.body.as_slice(), capture.shape), (content.as_bytes(), None));
        }
    }
}
