//! Sizes, durations, times and lines as they are shown. Pure.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Columns of a terminal line.
pub const WIDTH: usize = 80;

/// A length of time as an estimate: `<1 s`, `80 s`, `12 m`, `3 h`, `2 d`.
pub fn about(seconds: f64) -> String {
    match seconds {
        s if s < 0.95 => "<1 s".to_owned(),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} m", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

/// A measured length of time: `1.4 s`, `97.3 s`, `12:05`.
pub fn measured(seconds: f64) -> String {
    if seconds < 600.0 { format!("{seconds:.1} s") } else { clock(seconds) }
}

/// Minutes and seconds, or with hours: `0:41`, `1:02:03`.
pub fn clock(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped; whole seconds are shown")]
    let all = seconds.clamp(0.0, 1e9) as u64;
    let (h, m, s) = (all / 3600, all / 60 % 60, all % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

/// How long ago something was: `12 m`.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs_f64();
    if seconds < 0.95 { "0 s".to_owned() } else { about(seconds) }
}

/// A time for people in the system's zone: `22 Nov 21:04`.
pub fn time(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%-d %b %H:%M").to_string()
}

/// A size: `512 MiB`, `8.0 GiB`.
pub fn bytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let gib = bytes as f64 / f64::from(1 << 30);
    match bytes {
        b if b < 1 << 10 => format!("{b} B"),
        b if b < 1 << 20 => format!("{} KiB", b >> 10),
        b if b < 1 << 30 => format!("{} MiB", b >> 20),
        _ if gib < 100.0 => format!("{gib:.1} GiB"),
        _ => format!("{gib:.0} GiB"),
    }
}

/// `1 volume`, `2 volumes`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Width in columns, taken as one a character.
pub fn width(text: &str) -> usize {
    text.chars().count()
}

/// Breaks at spaces into lines of at most `width` characters; a longer word is broken anywhere. Never empty.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(8);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && width(&line) + 1 + width(word) <= columns {
            line.push(' ');
            line.push_str(word);
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        let mut rest: Vec<char> = word.chars().collect();
        while rest.len() > columns {
            lines.push(rest.drain(..columns).collect());
        }
        line = rest.into_iter().collect();
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// `head` and wrapped text after it; further lines stand below the text's beginning.
pub fn hanging(head: &str, text: &str) -> String {
    let indent = width(head);
    let lines = wrap(text, WIDTH.saturating_sub(indent));
    let mut out = String::new();
    for (number, line) in lines.iter().enumerate() {
        let start = if number == 0 { head.to_owned() } else { " ".repeat(indent) };
        out.push_str(format!("{start}{line}").trim_end());
        out.push('\n');
    }
    out
}

/// Rows in aligned columns, two spaces between them; the last column is wrapped at 80.
pub fn table(indent: usize, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut head = " ".repeat(indent);
        let Some((last, cells)) = row.split_last() else { continue };
        for (cell, width) in cells.iter().zip(&widths) {
            head.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(&if width(&head) + 8 < WIDTH { hanging(&head, last) } else { format!("{head}{last}\n") });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (seconds, shown) in [(0.1, "<1 s"), (1.0, "1 s"), (80.0, "80 s"), (720.0, "12 m"), (7200.0, "2 h")] {
            assert_eq!(about(seconds), shown);
        }
        assert_eq!((bytes(512 << 20), bytes(8 << 30)), ("512 MiB".into(), "8.0 GiB".into()));
        assert_eq!(clock(41.9), "0:41");
        assert_eq!(clock(3723.0), "1:02:03");
        assert_eq!((measured(97.31), measured(725.0)), ("97.3 s".into(), "12:05".into()));
    }

    #[test]
    fn lines_are_never_wider_than_asked() {
        let text = "a word and averyveryverylongwordthatdoesnotfit in a line";
        assert!(wrap(text, 12).iter().all(|line| width(line) <= 12));
        assert_eq!(wrap("", 12), [""]);
        assert_eq!(hanging("  a  ", "b").as_str(), "  a  b\n");
    }
}
