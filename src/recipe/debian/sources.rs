//! Package sources of a guest, taken from one release to the next. Pure functions over text: one-line style and
//! deb822 style of `sources.list(5)`.
//!
//! Only suites are rewritten, never a host name; comments, spacing and line ends stay as they are. Backports, other
//! releases and third parties are disabled during the upgrade, as the release notes advise: a one-line entry becomes
//! a comment, a deb822 stanza gets `Enabled: no`. A second pass changes nothing.
//!
//! An entry is Debian's own if its components are Debian's, every suite is a pocket of a Debian release, its key (if
//! named) is Debian's, and its path ends as a mirror's does (`…/debian`, `…/debian-security`) or its suite is a
//! security one. Everything else counts as a third party; the plan shows each verdict with its line.

use serde::{Deserialize, Serialize};

use super::release::{RELEASES, Release};

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `deb [options] URI suite components`.
    OneLine,
    /// Stanzas of fields.
    Deb822,
}

impl Format {
    /// The format apt reads a file of that name in; `None` if apt ignores it.
    pub fn of(path: &str) -> Option<Self> {
        let name = path.rsplit('/').next().unwrap_or(path);
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) || name.starts_with('.') {
            return None;
        }
        match name.rsplit_once('.')?.1 {
            "list" => Some(Self::OneLine),
            "sources" => Some(Self::Deb822),
            _ => None,
        }
    }
}

/// What happens to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Its suite names the new release.
    Rewritten,
    /// It is switched off.
    Disabled,
}

/// One changed entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Line it begins at, counted from 1.
    pub line: usize,
    /// URI and suites, without passwords.
    pub entry: String,
    /// What happens to it.
    pub action: Action,
    /// Why, in a few words.
    pub why: String,
}

/// A rewritten file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The whole new text.
    pub text: String,
    /// What was changed, in file order.
    pub notes: Vec<Note>,
}

/// One active entry of a file, for telling which line a failing repository stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Line it begins at, counted from 1.
    pub line: usize,
    /// Base URIs.
    pub uris: Vec<String>,
    /// Suites.
    pub suites: Vec<String>,
}

/// Takes a file's text to the release `to`. See the module for the rules.
pub fn rewrite(format: Format, text: &str, from: Release, to: Release) -> Rewrite {
    let mut out = Rewrite { text: String::with_capacity(text.len() + 64), notes: Vec::new() };
    match format {
        Format::OneLine => one_line(text, from, to, &mut out),
        Format::Deb822 => deb822(text, from, to, &mut out),
    }
    out
}

/// The active entries of a file.
pub fn entries(format: Format, text: &str) -> Vec<Entry> {
    let strings = |words: &[Word]| words.iter().map(|word| word.text.to_owned()).collect();
    match format {
        Format::OneLine => text
            .lines()
            .enumerate()
            .filter_map(|(index, line)| {
                let entry = OneLine::parse(line)?;
                Some(Entry {
                    line: index + 1,
                    uris: vec![entry.uri.text.into()],
                    suites: vec![entry.suite.text.into()],
                })
            })
            .collect(),
        Format::Deb822 => {
            let lines: Vec<&str> = text.split_inclusive('\n').collect();
            stanzas(&lines)
                .into_iter()
                .filter(|stanza| stanza.enabled())
                .map(|s| Entry { line: s.first + 1, uris: strings(s.get("uris")), suites: strings(s.get("suites")) })
                .collect()
        }
    }
}

/// What happens to one suite.
enum Fate {
    Keep,
    Become(String),
    Disable(&'static str),
}

/// What becomes of a suite of Debian; `None` if it is none.
fn fate(suite: &str, from: Release, to: Release) -> Option<Fate> {
    const POCKETS: [&str; 8] =
        ["", "-security", "-updates", "-proposed-updates", "-backports", "-backports-sloppy", "-debug", "/updates"];
    let base_length = suite.find(['-', '/']).unwrap_or(suite.len());
    let (base, pocket) = suite.split_at(base_length);
    if !POCKETS.contains(&pocket) {
        return None;
    }
    let moving = ["stable", "oldstable", "oldoldstable"].contains(&base);
    if base == to.codename && pocket != "/updates" {
        return Some(Fate::Keep);
    }
    if base == from.codename || base == to.codename || moving {
        return Some(match pocket {
            "/updates" => Fate::Become(format!("{}-security", to.codename)),
            "-backports" | "-backports-sloppy" => Fate::Disable("backports of the old release"),
            pocket => Fate::Become(format!("{}{pocket}", to.codename)),
        });
    }
    let other = RELEASES.iter().any(|release| release.codename == base)
        || ["testing", "unstable", "sid", "experimental"].contains(&base);
    other.then_some(Fate::Disable("another release"))
}

/// Whether an entry is one of Debian's own archives (see the module).
fn is_debians<'a>(
    uris: impl IntoIterator<Item = &'a str>,
    suites: &[&str],
    components: &[&str],
    signed_by: &str,
) -> bool {
    let own_components = ["main", "contrib", "non-free", "non-free-firmware"];
    let security = suites.iter().all(|suite| suite.ends_with("-security") || suite.ends_with("/updates"));
    let mut uris = uris.into_iter().peekable();
    uris.peek().is_some()
        && !components.is_empty()
        && components.iter().all(|component| own_components.contains(component))
        && (signed_by.is_empty() || signed_by.contains("debian-archive"))
        && uris.all(|uri| {
            let path = uri.trim_end_matches('/').trim_end_matches(".list");
            let last = path.rsplit('/').next().unwrap_or_default();
            !uri.starts_with("cdrom:")
                && (security || ["debian", "debian-security", "debian-archive", "debian-debug"].contains(&last))
        })
}

/// Whether crossing into `to` needs the component split off from non-free in bookworm.
fn wants_firmware(components: &[&str], from: Release, to: Release) -> bool {
    from.version < 12
        && to.version >= 12
        && components.contains(&"non-free")
        && !components.contains(&"non-free-firmware")
}

/// An entry for people: no user names or passwords, one space between words.
fn shown<'a>(uris: impl IntoIterator<Item = &'a str>, suites: &[&str]) -> String {
    let mut words: Vec<String> = uris.into_iter().map(without_login).collect();
    words.extend(suites.iter().map(|suite| (*suite).to_owned()));
    hypervisors::host::printable(&words.join(" "))
}

/// A URI without the login in it.
pub(super) fn without_login(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    format!("{scheme}://{host}{path}")
}

/// A word of a line, and where it stands there (bytes).
#[derive(Clone, Copy, Debug)]
struct Word<'a> {
    text: &'a str,
    line: usize,
    start: usize,
    end: usize,
}

/// Words of `text[from..to]` separated by white space; `[…]` and `"…"` hold a word together, as in apt.
fn words(text: &str, line: usize, from: usize, to: usize) -> Vec<Word<'_>> {
    let bytes = &text.as_bytes()[..to];
    let (mut found, mut at) = (Vec::new(), from);
    // What nothing closes from somewhere on, nothing closes further on.
    let mut open: Vec<u8> = Vec::new();
    while at < to {
        if bytes[at].is_ascii_whitespace() {
            at += 1;
            continue;
        }
        let start = at;
        while at < to && !bytes[at].is_ascii_whitespace() {
            let close = match bytes[at] {
                b'[' => Some(b']'),
                b'"' => Some(b'"'),
                _ => None,
            };
            let close = close.filter(|close| !open.contains(close));
            let inside = close.and_then(|close| bytes[at + 1..].iter().position(|byte| *byte == close));
            open.extend(close.filter(|_| inside.is_none()));
            at += inside.map_or(1, |length| length + 2);
        }
        found.push(Word { text: &text[start..at], line, start, end: at });
    }
    found
}

/// An active entry in one-line style.
struct OneLine<'a> {
    options: &'a str,
    uri: Word<'a>,
    suite: Word<'a>,
    components: Vec<Word<'a>>,
}

impl<'a> OneLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut end = 0;
        let bytes = line.as_bytes();
        // Where nothing closes a bracket, nothing closes a later one.
        let mut closes = true;
        while end < bytes.len() && bytes[end] != b'#' {
            let opens = closes && bytes[end] == b'[';
            let inside = opens.then(|| line[end..].find(']')).flatten();
            closes &= !opens || inside.is_some();
            end += inside.unwrap_or(0) + 1;
        }
        let mut words = words(line, 0, 0, end.min(line.len())).into_iter().peekable();
        let kind = words.next()?.text;
        if kind != "deb" && kind != "deb-src" {
            return None;
        }
        let options = words.next_if(|word| word.text.starts_with('[')).map_or("", |word| word.text);
        Some(Self { options, uri: words.next()?, suite: words.next()?, components: words.collect() })
    }
    fn signed_by(&self) -> &str {
        let inside = self.options.trim_matches(['[', ']']);
        let value = inside.split_ascii_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        value.unwrap_or_default()
    }
}

fn one_line(text: &str, from: Release, to: Release, out: &mut Rewrite) {
    for (index, whole) in text.split_inclusive('\n').enumerate() {
        let line = whole.trim_end_matches(['\n', '\r']);
        let Some(entry) = OneLine::parse(line) else {
            out.text.push_str(whole);
            continue;
        };
        let suite = entry.suite.text;
        let components: Vec<&str> = entry.components.iter().map(|word| word.text).collect();
        let own = is_debians([entry.uri.text], &[suite], &components, entry.signed_by());
        let fate = fate(suite, from, to).filter(|_| own).unwrap_or(Fate::Disable("third party"));
        let mut note = |action, why: String| {
            out.notes.push(Note { line: index + 1, entry: shown([entry.uri.text], &[suite]), action, why });
        };
        match fate {
            Fate::Keep => out.text.push_str(whole),
            Fate::Disable(why) => {
                note(Action::Disabled, why.to_owned());
                out.text.push_str(&format!("# disabled for the upgrade to {}: {whole}", to.codename));
            }
            Fate::Become(new) => {
                note(Action::Rewritten, format!("{suite} becomes {new}"));
                let mut changed = whole.to_owned();
                if wants_firmware(&components, from, to)
                    && let Some(word) = entry.components.iter().find(|word| word.text == "non-free")
                {
                    changed.insert_str(word.end, " non-free-firmware");
                }
                changed.replace_range(entry.suite.start..entry.suite.end, &new);
                out.text.push_str(&changed);
            }
        }
    }
}

/// A stanza in deb822 style: its fields' words by lower-case field name.
struct Stanza<'a> {
    /// First line that holds a field.
    first: usize,
    fields: Vec<(String, Vec<Word<'a>>)>,
}

impl<'a> Stanza<'a> {
    fn get(&self, name: &str) -> &[Word<'a>] {
        self.fields.iter().find(|(field, _)| field == name).map_or(&[], |(_, words)| words)
    }
    fn texts(&self, name: &str) -> Vec<&'a str> {
        self.get(name).iter().map(|word| word.text).collect()
    }
    fn enabled(&self) -> bool {
        let off = ["no", "false", "without", "off", "disable", "0"];
        !self.get("enabled").iter().any(|word| off.contains(&word.text.to_ascii_lowercase().as_str()))
    }
}

fn stanzas<'a>(lines: &[&'a str]) -> Vec<Stanza<'a>> {
    let mut found: Vec<Stanza<'a>> = Vec::new();
    let mut open = false;
    for (index, whole) in lines.iter().enumerate() {
        let line = whole.trim_end_matches(['\n', '\r']);
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            open = false;
            continue;
        }
        let folded = line.starts_with([' ', '\t']);
        if folded {
            if let Some((_, value)) = found.last_mut().filter(|_| open).and_then(|stanza| stanza.fields.last_mut()) {
                value.extend(words(line, index, 0, line.len()));
            }
        } else if let Some((name, _)) = line.split_once(':') {
            if !open {
                found.push(Stanza { first: index, fields: Vec::new() });
                open = true;
            }
            let value = words(line, index, name.len() + 1, line.len());
            if let Some(stanza) = found.last_mut() {
                stanza.fields.push((name.trim().to_ascii_lowercase(), value));
            }
        }
    }
    found
}

fn deb822(text: &str, from: Release, to: Release, out: &mut Rewrite) {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut new: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    for stanza in stanzas(&lines).iter().filter(|stanza| stanza.enabled()) {
        let (uris, suites, components) = (stanza.texts("uris"), stanza.texts("suites"), stanza.texts("components"));
        if uris.is_empty() || suites.is_empty() {
            continue;
        }
        let own = is_debians(uris.iter().copied(), &suites, &components, &stanza.texts("signed-by").join(" "));
        let fates: Option<Vec<Fate>> = suites.iter().map(|suite| fate(suite, from, to)).collect();
        let mut note = |suites: &[&str], action, why: String| {
            let entry = shown(uris.iter().copied(), suites);
            out.notes.push(Note { line: stanza.first + 1, entry, action, why });
        };
        let Some(fates) = fates.filter(|_| own) else {
            note(&suites, Action::Disabled, "third party".to_owned());
            disable(stanza, &lines, &mut new);
            continue;
        };
        let off = fates.iter().zip(&suites).filter_map(|(fate, suite)| match fate {
            Fate::Disable(why) => Some((*suite, *why)),
            _ => None,
        });
        off.clone().for_each(|(suite, why)| note(&[suite], Action::Disabled, why.to_owned()));
        if off.count() == fates.len() {
            disable(stanza, &lines, &mut new);
            continue;
        }
        let becoming = fates.iter().zip(&suites).filter_map(|(fate, suite)| match fate {
            Fate::Become(new) => Some((*suite, new)),
            _ => None,
        });
        let (old, renamed): (Vec<&str>, Vec<String>) =
            becoming.map(|(suite, new)| (suite, format!("{suite} becomes {new}"))).unzip();
        if !old.is_empty() {
            note(&old, Action::Rewritten, renamed.join(", "));
        }
        let values: Vec<Option<String>> = fates
            .into_iter()
            .zip(&suites)
            .map(|(fate, suite)| match fate {
                Fate::Keep => Some((*suite).to_owned()),
                Fate::Become(new) => Some(new),
                Fate::Disable(_) => None,
            })
            .collect();
        replace(stanza.get("suites"), &values, &lines, &mut new);
        if !old.is_empty() && wants_firmware(&components, from, to) {
            let with = |word: &&str| {
                Some(if *word == "non-free" { "non-free non-free-firmware".to_owned() } else { (*word).to_owned() })
            };
            replace(stanza.get("components"), &components.iter().map(with).collect::<Vec<_>>(), &lines, &mut new);
        }
    }
    out.text = new.concat();
}

/// Switches a stanza off.
fn disable(stanza: &Stanza<'_>, lines: &[&str], new: &mut [String]) {
    if let Some(word) = stanza.get("enabled").first() {
        replace(std::slice::from_ref(word), &[Some("no".to_owned())], lines, new);
    } else {
        let first = lines[stanza.first];
        let end = if first.ends_with("\r\n") { "\r\n" } else { "\n" };
        new[stanza.first].insert_str(0, &format!("Enabled: no{end}"));
    }
}

/// Gives the words of a field new values; `None` takes a word away, and its line if that is folded and becomes empty.
fn replace(field: &[Word<'_>], values: &[Option<String>], lines: &[&str], new: &mut [String]) {
    for (index, whole) in lines.iter().enumerate() {
        let here: Vec<_> = field.iter().zip(values).filter(|(word, _)| word.line == index).collect();
        let (Some((first, _)), Some((last, _))) = (here.first(), here.last()) else { continue };
        let (head, tail) = (&whole[..first.start], &whole[last.end..]);
        if here.iter().all(|(_, value)| value.is_some()) {
            let mut line = (*whole).to_owned();
            for (word, value) in here.iter().rev() {
                line.replace_range(word.start..word.end, value.as_deref().unwrap_or_default());
            }
            new[index] = line;
            continue;
        }
        let kept: Vec<&str> = here.iter().filter_map(|(_, value)| value.as_deref()).collect();
        new[index] = match (kept.is_empty(), head.trim().is_empty()) {
            (true, true) => String::new(),
            (true, false) => format!("{}{tail}", head.trim_end()),
            _ => format!("{head}{}{tail}", kept.join(" ")),
        };
    }
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
