//! The last gate before a terminal: what a terminal would obey instead of showing it is replaced, whoever wrote it.
//!
//! Lines are made of printable parts ([`hypervisors::host::printable`]); that is the first gate, which also keeps a guest from
//! making lines of its own. This one holds where a part was forgotten: no control character but the line end passes, and no
//! escape sequence but our own colours, and those only where colours were chosen.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use hypervisors::host::is_hidden;

/// Stands for what was there.
const REPLACEMENT: char = '\u{fffd}';
/// Colours were chosen for a stream.
static COLOURS: AtomicBool = AtomicBool::new(false);

/// From now on sequences that only colour (`ESC [ … m`) pass.
pub fn allow_colours() {
    COLOURS.store(true, Ordering::Relaxed);
}

/// Text of whole lines, as it may be written.
pub fn neutral(text: &str) -> Cow<'_, str> {
    replaced(text, COLOURS.load(Ordering::Relaxed), |c| c == '\n')
}

/// The same of a line that is not to end.
pub fn neutral_line(text: &str) -> Cow<'_, str> {
    replaced(text, COLOURS.load(Ordering::Relaxed), |_| false)
}

fn replaced(text: &str, colours: bool, passes: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(|c| is_hidden(c) && !passes(c)) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match colour(rest).filter(|_| colours) {
            Some(length) => length,
            None => c.len_utf8(),
        };
        let (part, after) = rest.split_at(length);
        match c {
            '\x1b' if length > 1 => plain.push_str(part),
            '\t' => plain.push(' '),
            c if is_hidden(c) && !passes(c) => plain.push(REPLACEMENT),
            _ => plain.push_str(part),
        }
        rest = after;
    }
    Cow::Owned(plain)
}

/// Length of the sequence a text begins with, if it does nothing but colour, weight and underline: `ESC [ 1 ; 31 m`.
fn colour(text: &str) -> Option<usize> {
    let inside = text.strip_prefix("\x1b[")?;
    let end = inside.bytes().take(16).position(|byte| !(byte.is_ascii_digit() || byte == b';'))?;
    // 8 conceals: what is written there would not be seen.
    let shows = inside[..end].split(';').all(|code| code.trim_start_matches('0') != "8");
    (shows && inside.as_bytes().get(end) == Some(&b'm')).then_some(2 + end + 1)
}

/// A JSON text in which what a terminal would obey is escaped. Outside of its strings there is none of it.
pub fn escaped(json: String) -> String {
    if !json.contains(is_hidden) {
        return json;
    }
    let mut text = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_hidden(c) {
            let mut units = [0; 2];
            text.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_our_own_colours_pass_and_only_where_they_were_chosen() {
        let lines = |text: &str, colours| replaced(text, colours, |c| c == '\n').into_owned();
        let painted = "\x1b[1;31merror:\x1b[0m x\n";
        assert_eq!(lines(painted, true), painted);
        assert_eq!(lines(painted, false), "\u{fffd}[1;31merror:\u{fffd}[0m x\n");
        for evil in [
            "\x1b[2J",
            "\x1b]0;title\x07",
            "\x1b[8m",
            "\x1b[1;08mx",
            "\x1bP",
            "\x1b[",
            "\x1b[31",
            "\u{9b}2J",
            "\r",
            "\x08",
        ] {
            for colours in [true, false] {
                let shown = lines(evil, colours);
                assert!(!shown.contains(is_hidden), "{evil:?} became {shown:?}");
            }
        }
        assert_eq!(lines("a\tb\u{202e}c", true), "a b\u{fffd}c");
        assert_eq!(replaced("a\nb", true, |_| false), "a\u{fffd}b");
    }

    proptest! {
        #[test]
        fn nothing_hidden_is_left(text in any::<String>(), colours in any::<bool>()) {
            let shown = replaced(&text, colours, |c| c == '\n').replace('\n', "");
            let mut rest = shown.as_str();
            while let Some(at) = rest.find(is_hidden) {
                prop_assert!(colours, "{shown:?}");
                rest = &rest[at + colour(&rest[at..]).unwrap()..];
            }
        }

        #[test]
        fn escaped_json_says_the_same(text in any::<String>()) {
            let value = serde_json::json!({ &text: [&text, "\u{9b}\u{7f}\u{202e}\u{e0041}"] });
            let json = escaped(value.to_string());
            prop_assert!(!json.contains(is_hidden), "{json:?}");
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), value);
        }
    }
}
