//! The file of dump's `-u` and `-D`: a line for every device and level.

use super::time::Time;
use crate::host::Host;

/// What the next dump of a level starts from: the latest of a lower level, and its date.
pub fn base(host: &Host, file: &str, device: &str, level: u8) -> Option<(u8, String)> {
    let text = host.read(file).unwrap_or_default();
    let lower = text.lines().filter_map(parsed).filter(|(of, known, _)| of == device && *known < level);
    lower.max_by_key(|(.., date)| Time::parse(date)).map(|(_, level, date)| (level, date))
}

fn parsed(line: &str) -> Option<(String, u8, String)> {
    let mut words = line.split_whitespace();
    let (device, level) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
    Some((device, level, words.collect::<Vec<_>>().join(" ")))
}

/// Notes a dump.
pub fn note(host: &Host, file: &str, device: &str, level: u8, date: &str) {
    let text = match host.read(file) {
        Ok(text) => text,
        Err(_) => {
            crate::say::err(&format!("  DUMP: WARNING: no file `{file}', making an empty one\n"));
            String::new()
        }
    };
    let others = text.lines().filter(|line| parsed(line).is_none_or(|(of, known, _)| of != device || known != level));
    let mut text: String = others.map(|line| format!("{line}\n")).collect();
    text += &format!("{device:<53} {level} {date}\n");
    if let Err(wrong) = std::fs::write(host.path(file), text) {
        crate::say::err(&format!("  DUMP: cannot write {file}: {}\n", crate::say::reason(&wrong)));
    }
}
