//! A jail of the old way as a definition: its `jail_NAME_…` variables, read, written, changed where they stand, taken out. Pure.
//!
//! rc.conf(5) of 9.x: `jail_list` is "a space separated list of names for jails. This is purely a configuration aid to help identify
//! and configure multiple jails. The names specified in this list will be used to identify settings common to an instance of a jail."
//! `jail_<jname>_rootdir` is the directory of its root, `jail_<jname>_hostname` its name, and `jail_<jname>_ip` "the (primary) IPv4
//! and/or IPv6 address(es) of the jail. The argument can be a sole address or a comma separated list of addresses. Additionally
//! each address can be prefixed by the name of an interface followed by a pipe to overwrite `jail_<jname>_interface` or
//! `jail_interface` and/or suffixed by a netmask, prefixlen or prefix"; more stand in `jail_<jname>_ip_multi<n>`. In the name of a
//! variable all that is not a letter or a digit is an underscore (libexec/rc/rc.d/jail: `tr -c '[:alnum:]' _`).
//!
//! The definition's text is a line for each assignment, as it is written; before them the run mark, a comment that stands right
//! above the first one. An edit changes values where they stand, and puts new variables beside the old ones. What comes out is read
//! again: the jail's lines must be what was asked, and everything else must stand there as it stood and say what it said.

use std::ops::Range;

use super::super::address;
use super::super::conf::cut::{Cut, cut, rest_of_line, with_lines};
use super::super::conf::mark;
use super::super::wrong::{Place, Wrong};
use super::jails::{jail_name, part};
use super::{Assign, Rc, Statement, Value, is_yes};
use crate::{Definition, DefinitionEdit, DiskEdit, Mark, NewGuest};

/// The name of a definition read by itself.
const ALONE: &str = "the definition";

/// Whether a definition's text is of this kind; else it is a block of jail.conf(5).
pub fn is_variables(text: &str) -> bool {
    let Ok(rc) = Rc::parse(ALONE, text) else { return false };
    !rc.statements.is_empty() && rc.code_free() && rc.assigns().all(|assign| assign.name.starts_with("jail_"))
}

/// The variables of a jail that is to be: what the host's own variables for all jails do not say already.
pub fn compose(rc: &Rc, guest: &NewGuest) -> Result<Definition, Wrong> {
    let wrong = |what: String| Wrong::new(Place::whole(&rc.file), what);
    if guest.name.is_empty() || jail_name(&guest.name) != guest.name || guest.name.contains(|c: char| c.is_whitespace())
    {
        return Err(wrong(format!("a jail of rc.conf cannot be called {:?}", guest.name)));
    }
    if guest.addresses.is_empty() {
        // rc.d/jail takes it for one with a network stack of its own.
        return Err(wrong(format!("{} has no address", guest.name)));
    }
    let addresses = guest.addresses.iter().map(|address| {
        let on = address.interface.as_ref().map(|name| format!("{name}|")).unwrap_or_default();
        format!("{on}{}/{}", address.ip, address.prefix)
    });
    let mut own = vec![
        ("rootdir", guest.root.to_string_lossy().into_owned()),
        ("hostname", guest.hostname.clone()),
        ("ip", addresses.collect::<Vec<_>>().join(",")),
    ];
    if !rc.value("jail_devfs_enable").text().is_some_and(is_yes) {
        own.push(("devfs_enable", "YES".to_owned()));
    }
    let mut lines: Vec<String> = guest.mark.iter().map(comment).collect();
    for (name, value) in own {
        lines.push(format!("jail_{}_{name}={}", part(&guest.name), rc.written(&value, Some('"'))?));
    }
    Ok(Definition { name: guest.name.clone(), text: lines.join("\n") })
}

/// Applies an edit to a definition's text.
pub fn derived(original: &Definition, edit: &DefinitionEdit) -> Result<Definition, Wrong> {
    let rc = Rc::parse(ALONE, &original.text)?;
    let (old, name) = (part(&original.name), edit.name.as_ref().unwrap_or(&original.name));
    let mut lines = Vec::new();
    let found = rc.mark_above(rc.assigns().next());
    match (&edit.mark, found.map(|(mark, _)| mark)) {
        (Some(mark), _) => lines.extend(mark.as_ref().map(comment)),
        (None, found) => lines.extend(found.as_ref().map(comment)),
    }
    let root = edit.disks.values().find_map(|edit| match edit {
        DiskEdit::Source(volume) => Some(volume.path.to_string_lossy().into_owned()),
        DiskEdit::Remove => None,
    });
    for assign in rc.assigns() {
        let place = || rc.place(assign.span.start);
        let suffix = assign
            .name
            .strip_prefix(&format!("jail_{old}_"))
            .ok_or_else(|| Wrong::new(place(), format!("{} is no variable of {}", assign.name, original.name)))?;
        let new = match &root {
            Some(root) if suffix == "rootdir" => Some(root.clone()),
            _ if suffix == "ip" || suffix.starts_with("ip_multi") => {
                let value = rc.known(&assign.name)?.text().unwrap_or_default().to_owned();
                moved(&value, edit).map_err(|what| Wrong::new(place(), what))?
            }
            _ => None,
        };
        let value = match &new {
            Some(value) => rc.written(value, assign.quote)?,
            None => rc.text[assign.value_span.clone()].to_owned(),
        };
        lines.push(format!("jail_{}_{suffix}={value}", part(name)));
    }
    Ok(Definition { name: name.clone(), text: lines.join("\n") })
}

/// A value of addresses after an edit; `None`: as it is.
fn moved(value: &str, edit: &DefinitionEdit) -> Result<Option<String>, String> {
    if value.is_empty() || edit.addresses.is_empty() {
        return Ok(None);
    }
    let old = address::read(value)?;
    let mut new = Vec::new();
    for address in &old {
        match edit.addresses.get(&address.ip) {
            None => new.push(address.clone()),
            Some(None) => {}
            Some(Some(ip)) => new.push(address.with_ip(*ip)?),
        }
    }
    Ok((new != old).then(|| address::write(&new)))
}

fn comment(mark: &Mark) -> String {
    format!("# {}", mark::words(mark))
}

impl Rc {
    /// The jails that are defined the old way, those of `jail_list` first; of another one no name is known but that in its
    /// variables, unless its run mark tells it.
    pub fn old_jails(&self) -> Result<Vec<String>, Wrong> {
        let mut found: Vec<String> = Vec::new();
        for listed in self.jail_list()?.unwrap_or_default() {
            if self.is_old_style(&listed)? && !found.contains(&listed) {
                found.push(listed);
            }
        }
        for part in self.parts() {
            if !self.is_old_style(&part)? || found.iter().any(|name| super::jails::part(name) == part) {
                continue;
            }
            let run = self.jail_mark(&part)?.map(|mark| mark.run);
            let of_run = run.iter().flat_map(|run| [Some(run.as_str()), run.rsplit_once("--").map(|(guest, _)| guest)]);
            let name = of_run.flatten().find(|name| super::jails::part(name) == part).map(str::to_owned);
            found.push(name.unwrap_or(part));
        }
        Ok(found)
    }

    /// A jail's definition; `None` if it is not defined the old way.
    pub fn jail_text(&self, jail: &str) -> Result<Option<String>, Wrong> {
        if !self.is_old_style(jail)? {
            return Ok(None);
        }
        Ok(Some(self.shown(&self.own_assigns(jail)?)))
    }

    /// A jail's run mark.
    pub fn jail_mark(&self, jail: &str) -> Result<Option<Mark>, Wrong> {
        Ok(self.mark_above(self.own_assigns(jail)?.first().copied()).map(|(mark, _)| mark))
    }

    /// The file with this definition of a jail: where it stands, or at the end.
    pub fn with_jail(&self, jail: &str, text: &str) -> Result<Self, Wrong> {
        let new = Self::parse(ALONE, text)?;
        let begin = format!("jail_{}_", part(jail));
        let all: Vec<&Assign> = new.assigns().collect();
        if !is_variables(text) || !all.iter().all(|assign| assign.name.starts_with(&begin)) || new.shown(&all) != text {
            return Err(Wrong::new(Place::whole(ALONE), format!("it is not a line for each variable of {jail}")));
        }
        let mark = new.mark_above(all.first().copied()).map(|(mark, _)| mark);
        let own = self.own_assigns(jail)?;
        for assign in &own {
            self.known(&assign.name)?;
        }
        let cuts = match own.first() {
            None => vec![self.appended(text)],
            Some(first) => {
                let mut cuts = self.changes(&own, &new);
                cuts.extend(self.remarked(first, mark.as_ref()));
                cuts
            }
        };
        let edited = self.with_cuts(jail, cuts)?;
        match edited.jail_text(jail)? {
            Some(now) if now == text => Ok(edited),
            _ => Err(Wrong::new(Place::whole(&self.file), format!("{jail} is not read back as it was written"))
                .help("each of its variables has to stand in one place")),
        }
    }

    /// The file without a jail's variables and its run mark.
    pub fn without_jail(&self, jail: &str) -> Result<Self, Wrong> {
        let own = self.own_assigns(jail)?;
        let Some(first) = own.first() else { return Ok(self.clone()) };
        let mark = self.mark_above(Some(first)).map(|(_, span)| span.start..span.end - 1);
        let own = own.iter().map(|assign| self.with_separator(&assign.span));
        let spans: Vec<Range<usize>> = mark.into_iter().chain(own).collect();
        let mut cuts = joined(with_lines(&self.text, &spans));
        // The lines came to a file without a line end at its end, and leave it without one.
        if let Some((span, _)) = cuts.last_mut().filter(|(span, _)| span.end == self.text.len()) {
            let line_end = !self.text.ends_with('\n') && self.text[..span.start].ends_with('\n');
            span.start -= usize::from(line_end);
        }
        let edited = self.with_cuts(jail, cuts)?;
        match edited.own_assigns(jail)?.is_empty() {
            true => Ok(edited),
            false => Err(Wrong::new(Place::whole(&self.file), format!("{jail} would still be there"))),
        }
    }

    /// A value as it is written. rc.d/jail copies it between the quotes of a jail.conf as it is: what ends them there, or is a variable to
    /// jail(8), would say something else than it does here.
    fn written(&self, value: &str, quote: Option<char>) -> Result<String, Wrong> {
        match value.contains(|c: char| c.is_control() || "\"'\\$`".contains(c)) {
            true => {
                Err(Wrong::new(Place::whole(&self.file), format!("{value:?} cannot be a value of a jail of rc.conf"))
                    .help("give it a name without quotes, dollar signs and backslashes"))
            }
            false => self.quoted(value, quote),
        }
    }

    /// What stands for a jail in the names of variables, of each that has a root.
    fn parts(&self) -> Vec<String> {
        let mut parts: Vec<String> = Vec::new();
        for assign in self.assigns() {
            let part = assign.name.strip_prefix("jail_").and_then(|rest| rest.strip_suffix("_rootdir"));
            if let Some(part) = part.filter(|part| !part.is_empty() && !parts.iter().any(|known| known == part)) {
                parts.push(part.to_owned());
            }
        }
        parts
    }

    /// The prefixes of variables of jails whose names only begin like a jail's.
    pub(super) fn longer(&self, jail: &str) -> Result<Vec<String>, Wrong> {
        let own = format!("jail_{}_", part(jail));
        let listed = self.jail_list()?.unwrap_or_default();
        let all = listed.iter().map(|name| part(name)).chain(self.parts()).map(|part| format!("jail_{part}_"));
        Ok(all.filter(|other| *other != own && other.starts_with(&own)).collect())
    }

    fn own_assigns(&self, jail: &str) -> Result<Vec<&Assign>, Wrong> {
        let names = self.jail_variables(jail)?;
        Ok(self.assigns().filter(|assign| names.contains(&assign.name.as_str())).collect())
    }

    /// Assignments as a definition's text.
    fn shown(&self, own: &[&Assign]) -> String {
        let mark = self.mark_above(own.first().copied()).map(|(mark, _)| comment(&mark));
        let lines = own.iter().map(|assign| self.text[assign.span.clone()].to_owned());
        mark.into_iter().chain(lines).collect::<Vec<_>>().join("\n")
    }

    fn code_free(&self) -> bool {
        self.statements.iter().all(|statement| matches!(statement, Statement::Assign(_)))
    }

    /// The run mark in the line above an assignment, with its line end.
    fn mark_above(&self, assign: Option<&Assign>) -> Option<(Mark, Range<usize>)> {
        let line = self.text[..assign?.span.start].rfind('\n').filter(|end| {
            self.text[end + 1..assign.map_or(0, |assign| assign.span.start)].trim_matches([' ', '\t']).is_empty()
        })?;
        let start = self.text[..line].rfind('\n').map_or(0, |newline| newline + 1);
        let mark = mark::of_words(self.text[start..line].strip_prefix('#')?.trim_ascii())?;
        Some((mark, start..line + 1))
    }

    /// The mark's line is changed, put there, or goes.
    fn remarked(&self, first: &Assign, mark: Option<&Mark>) -> Option<Cut> {
        match (self.mark_above(Some(first)), mark) {
            (None, None) => None,
            (Some((old, _)), Some(new)) if old == *new => None,
            (Some((_, span)), None) => Some((span, String::new())),
            (Some((_, span)), Some(new)) => Some((span, format!("{}\n", comment(new)))),
            (None, Some(new)) => {
                let start = self.text[..first.span.start].rfind('\n').map_or(0, |newline| newline + 1);
                let alone = self.text[start..first.span.start].trim_matches([' ', '\t']).is_empty();
                let line = format!("{}\n", comment(new));
                Some(if alone {
                    (start..start, line)
                } else {
                    (first.span.start..first.span.start, format!("\n{line}"))
                })
            }
        }
    }

    /// Values that are others, variables that come and go.
    fn changes(&self, own: &[&Assign], new: &Self) -> Vec<Cut> {
        let (mut cuts, mut gone, mut at) = (Vec::new(), Vec::new(), 0);
        for assign in new.assigns() {
            let value = &new.text[assign.value_span.clone()];
            match own[at..].iter().position(|old| old.name == assign.name) {
                Some(further) => {
                    gone.extend(own[at..at + further].iter().map(|old| self.with_separator(&old.span)));
                    let old = own[at + further];
                    if self.text[old.value_span.clone()] != *value {
                        cuts.push((old.value_span.clone(), value.to_owned()));
                    }
                    at += further + 1;
                }
                None => {
                    let text = format!("{}={value}", assign.name);
                    cuts.push(match at.checked_sub(1).map(|before| own[before].span.end) {
                        Some(end) => match rest_of_line(&self.text, end) {
                            Some(line_end) => (line_end..line_end, format!("\n{text}")),
                            None => (end..end, format!("; {text}")),
                        },
                        None => (own[0].span.start..own[0].span.start, format!("{text}\n")),
                    });
                }
            }
        }
        gone.extend(own[at..].iter().map(|old| self.with_separator(&old.span)));
        cuts.extend(joined(with_lines(&self.text, &gone)));
        cuts
    }

    fn with_cuts(&self, jail: &str, cuts: Vec<Cut>) -> Result<Self, Wrong> {
        let wrong = |what: String| Wrong::new(Place::whole(&self.file), what);
        let text = cut(&self.text, cuts).ok_or_else(|| wrong("two edits of one place".to_owned()))?;
        let edited = Self::parse(&self.file, &text)?;
        let own = |rc: &Self| -> Result<Vec<String>, Wrong> {
            Ok(rc.jail_variables(jail)?.into_iter().map(str::to_owned).collect())
        };
        let (before, after) = (own(self)?, own(&edited)?);
        let same = |name: &str| match (self.value(name), edited.value(name)) {
            (Value::Unknown(_), Value::Unknown(_)) => true,
            (old, new) => old == new,
        };
        let is_own = |name: &str| before.iter().chain(&after).any(|own| own == name);
        if self.others(&is_own) != edited.others(&is_own)
            || !self.assigns().all(|assign| is_own(&assign.name) || same(&assign.name))
        {
            return Err(wrong(format!("the edit of {jail} would change something else")));
        }
        Ok(edited)
    }
}

/// What goes, neighbours as one.
fn joined(spans: Vec<Range<usize>>) -> Vec<Cut> {
    let mut out: Vec<Cut> = Vec::new();
    for span in spans {
        match out.last_mut().filter(|(last, _)| last.end >= span.start) {
            Some((last, _)) => last.end = span.end.max(last.end),
            None => out.push((span, String::new())),
        }
    }
    out
}
