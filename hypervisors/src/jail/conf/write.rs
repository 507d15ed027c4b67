//! Values and names as they are written into a jail.conf(5). Pure.

use super::lex::is_plain;

/// A value as a word, in these quotes if it can be; `None` if it has control characters that nobody writes.
pub(super) fn value(value: &str, quote: Option<char>) -> Option<String> {
    let slashes = value.contains("//") || value.contains("/*");
    let plain = !value.is_empty() && !slashes && value.bytes().all(|byte| is_plain(byte) || byte == b'/');
    match quote {
        None if plain => Some(value.to_owned()),
        Some('\'') => quoted(value, '\'', "'\\"),
        _ => quoted(value, '"', "\"\\$"),
    }
}

fn quoted(value: &str, quote: char, escaped: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len() + 2);
    out.push(quote);
    for c in value.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => return None,
            c if escaped.contains(c) => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out.push(quote);
    Some(out)
}

/// A name with or without the `no` of a negated one: before its last part.
pub(super) fn flag(name: &str, on: bool) -> String {
    let (group, last) = match name.rsplit_once('.') {
        Some((group, last)) => (format!("{group}."), last),
        None => (String::new(), name),
    };
    let bare = last.strip_prefix("no").filter(|bare| !bare.is_empty()).unwrap_or(last);
    format!("{group}{}{bare}", if on { "" } else { "no" })
}
