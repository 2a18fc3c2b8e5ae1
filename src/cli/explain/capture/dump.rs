//! Notifications as programs print them: Java's `{a=b, c=d}`, PHP's `var_export`, `print_r` and `var_dump`,
//! Python's `{'a': 'b'}`, a parameter a line. What none of them marks is guessed: a value ends where the next
//! name begins.

use super::super::parameters::Parameters;

/// Java's `Map.toString`.
pub(super) fn java(content: &[u8]) -> Option<Parameters> {
    let inside = content.trim_ascii().strip_prefix(b"{")?.strip_suffix(b"}")?;
    pairs(split_before_names(inside, b", ", b'='))
}

/// Go's `%v` of a map of texts, or of lists of texts.
pub(super) fn go(content: &[u8]) -> Option<Parameters> {
    let inside = content.trim_ascii().strip_prefix(b"map[")?.strip_suffix(b"]")?;
    let pieces = split_before_names(inside, b" ", b':');
    let split: Option<Vec<_>> = pieces.iter().map(|piece| split_once(piece, b":")).collect();
    let split = split.filter(|split| split.len() > 1)?;
    // A text may begin and end as a list does; all of them, `sign` among them, do only if they are lists.
    let listed = |value: &[u8]| Some(value.strip_prefix(b"[")?.strip_suffix(b"]")?.to_vec());
    let lists: Option<Vec<Vec<u8>>> = split.iter().map(|(_, value)| listed(value)).collect();
    let plain = || split.iter().map(|(_, value)| value.to_vec()).collect();
    let names = split.iter().map(|(name, _)| name.to_vec());
    Some(names.zip(lists.unwrap_or_else(plain)).collect())
}

/// What JavaScript's `console.log` makes of an object: `{ name: 'value' }`.
pub(super) fn javascript(content: &[u8]) -> Option<Parameters> {
    let text = content.trim_ascii();
    let text = text.strip_prefix(b"[Object: null prototype]").unwrap_or(text).trim_ascii_start();
    let mut rest = text.strip_prefix(b"{")?.strip_suffix(b"}")?.trim_ascii();
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    while !rest.is_empty() {
        let (name, after) = match rest.first() {
            Some(b'\'' | b'"') => string(rest)?,
            _ => split_once(rest, b":")
                .map(|(name, _)| (name.to_vec(), rest.get(name.len()..).unwrap_or_default()))?,
        };
        let after = after.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let (value, after) = value(after)?;
        found.push((name, value));
        let after = after.trim_ascii_start();
        rest = after.strip_prefix(b",").unwrap_or(after).trim_ascii_start();
    }
    (!found.is_empty()).then(|| found.into_iter().collect())
}

/// A parameter a line, every line: `name=value`; or `name: value`, as browsers and HTTP clients show a form.
pub(super) fn lines(content: &[u8]) -> Option<Parameters> {
    lines_with(content, b'=').or_else(|| lines_with(content, b':')).or_else(|| lines_with(content, b'\t'))
}

fn lines_with(content: &[u8], end: u8) -> Option<Parameters> {
    let text = content.trim_ascii();
    let lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let lines: Vec<Vec<u8>> = lines.map(<[u8]>::to_vec).collect();
    if lines.len() < MIN_LINES || !lines.iter().all(|line| begins_with_name(line, end)) {
        return None;
    }
    if end == b'=' {
        return pairs(lines);
    }
    let split = lines.iter().map(|line| {
        let (name, value) = split_once(line, &[end])?;
        Some((name.to_vec(), value.strip_prefix(b" ").unwrap_or(value).to_vec()))
    });
    split.collect()
}

/// PHP's `print_r`: `[name] => value` on lines of their own.
pub(super) fn print_r(content: &[u8]) -> Option<Parameters> {
    let text = content.trim_ascii().strip_prefix(b"Array")?.trim_ascii().strip_prefix(b"(")?;
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let begins = line.trim_ascii_start().strip_prefix(b"[");
        match begins.and_then(|rest| split_once(rest, b"] => ").or_else(|| split_once(rest, b"] =>"))) {
            Some((name, value)) => found.push((name.to_vec(), value.to_vec())),
            None if line.trim_ascii() == b")" => break,
            None => {
                if let Some((_, value)) = found.last_mut() {
                    value.push(b'\n');
                    value.extend_from_slice(line);
                }
            }
        }
    }
    (!found.is_empty()).then(|| found.into_iter().collect())
}

/// Quoted names and values with `:` or `=>` between them: PHP's `var_export` and `var_dump`, Python's `repr`.
pub(super) fn quoted(content: &[u8]) -> Option<Parameters> {
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let begins = content.trim_ascii_start();
    if ![&b"array"[..], b"{", b"[", b"'", b"\""].iter().any(|begin| begins.starts_with(begin)) {
        return None;
    }
    let mut rest = content;
    while let Some(start) = rest.iter().position(|byte| matches!(byte, b'\'' | b'"')) {
        let (name, after) = string(rest.get(start..)?)?;
        let after = after.trim_ascii_start();
        let after = after.strip_prefix(b"]").unwrap_or(after).trim_ascii_start();
        let after = after.strip_prefix(b"=>").or_else(|| after.strip_prefix(b":"))?;
        let (value, after) = value(after.trim_ascii_start())?;
        found.push((name, value));
        rest = after;
    }
    (!found.is_empty()).then(|| found.into_iter().collect())
}

fn value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    // `var_dump` says how long a text is, and escapes nothing.
    if let Some((length, after)) = text.strip_prefix(b"string(").and_then(|rest| split_once(rest, b") \"")) {
        let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
        let (value, after) = after.split_at_checked(length)?;
        return Some((value.to_vec(), after.strip_prefix(b"\"")?));
    }
    if matches!(text.first(), Some(b'\'' | b'"' | b'`')) {
        return string(text);
    }
    let end = text.iter().position(|byte| matches!(byte, b',' | b'}' | b')' | b'\n')).unwrap_or(text.len());
    let (value, after) = text.split_at(end);
    let value = value.trim_ascii();
    let is_nothing = matches!(value, b"None" | b"NULL" | b"null" | b"nil");
    Some((if is_nothing { Vec::new() } else { value.to_vec() }, after))
}

/// A text in quotes, in which a backslash takes the next character as it is.
fn string(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (quote, mut rest) = text.split_first()?;
    let mut read = Vec::new();
    loop {
        match rest {
            [byte, after @ ..] if byte == quote => return Some((read, after)),
            [b'\\', byte, after @ ..] if byte == quote || *byte == b'\\' => {
                read.push(*byte);
                rest = after;
            }
            [byte, after @ ..] => {
                read.push(*byte);
                rest = after;
            }
            [] => return None,
        }
    }
}

/// Splits at each `separator` behind which a name and its `end` follow.
fn split_before_names(text: &[u8], separator: &[u8], end: u8) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let (mut piece, mut rest) = (Vec::new(), text);
    while let [byte, after @ ..] = rest {
        match rest.strip_prefix(separator) {
            Some(behind) if begins_with_name(behind, end) => {
                pieces.push(std::mem::take(&mut piece));
                rest = behind;
            }
            Some(_) | None => {
                piece.push(*byte);
                rest = after;
            }
        }
    }
    pieces.push(piece);
    pieces
}

fn begins_with_name(text: &[u8], end: u8) -> bool {
    let at = text.iter().position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'));
    // No name of Alipay's begins with a digit; the hour of a time does.
    let begins = text.first().is_some_and(|byte| !byte.is_ascii_digit());
    begins && at.is_some_and(|at| at > 0 && text.get(at) == Some(&end))
}

/// As they stand: a dump is of what was decoded already. Unless nothing in it is, and much is still encoded.
fn pairs(pieces: Vec<Vec<u8>>) -> Option<Parameters> {
    let split: Option<Vec<(Vec<u8>, Vec<u8>)>> = pieces
        .iter()
        .filter(|piece| !piece.is_empty())
        .map(|piece| {
            split_once(piece, b"=").map(|(name, value)| (name.trim_ascii().to_vec(), value.to_vec()))
        })
        .collect();
    let split = split.filter(|split| split.len() > 1)?;
    let is_encoded = split.iter().any(|(name, value)| name == b"sign" && value.contains(&b'%'));
    if is_encoded {
        return Some(Parameters::lenient(&pieces.join(&b'&')));
    }
    Some(split.into_iter().collect())
}

fn split_once<'a>(text: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = text.windows(separator.len()).position(|window| window == separator)?;
    Some((text.get(..at)?, text.get(at + separator.len()..)?))
}

/// Fewer lines than this are no notification.
const MIN_LINES: usize = 3;
