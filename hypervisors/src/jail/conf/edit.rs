//! Changes of one jail in a jail.conf(5) that leave every other byte alone. Pure.
//!
//! A change is made in the jail's own block only. A value that comes from a wildcard, or from outside of all jails, belongs to
//! every jail: it is overridden in the block, never changed where it stands. What comes out is read again: the jail must say what
//! was asked, other parameters of it may change only where they are made of a changed one by variables (and are named in
//! [`Edited::followed`]), and every other jail must say what it said. A comment is never lost.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::super::wrong::{Place, Wrong};
use super::cut::{Cut, cut, new_line, rest_of_line, with_lines};
use super::effective::{Origin, Parameter, clears, same};
use super::parse::{Block, Item, Param};
use super::{Config, Effective, InFile, Piece, is_wildcard, mark, write};
use crate::Mark;

/// What a parameter shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// These values, to the letter: a `$` in one is a dollar sign.
    Values(Vec<String>),
    /// Set, or negated (`mount.nodevfs`).
    Flag(bool),
}

/// One change of one jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A parameter shall be this, wherever it comes from now.
    Set(String, Setting),
    /// A parameter shall be gone; an error if a wildcard gives it to the jail.
    Remove(String),
    /// The jail's own statements of a parameter go; what wildcards say of it counts again.
    Inherit(String),
    /// The run mark as the first comment of the jail's block, or none.
    Mark(Option<Mark>),
}

/// A configuration after a change.
#[derive(Clone, Debug)]
pub struct Edited {
    /// All of it, read again.
    pub config: Config,
    /// The one file that is different.
    pub file: String,
    /// Its new text.
    pub text: String,
    /// Parameters that changed because they are made of one that was changed, in order of name.
    pub followed: Vec<String>,
    /// Places in the jail's own block that still hold the old name as a word, after a copy or a new name.
    pub mentions: Vec<Place>,
}

impl Edited {
    pub(super) fn of(config: Config, file: String) -> Self {
        let text = config.text(&file).to_owned();
        Self { config, file, text, followed: Vec::new(), mentions: Vec::new() }
    }
}

impl Config {
    /// Changes a jail.
    pub fn edit(&self, jail: &str, changes: &[Change]) -> Result<Edited, Wrong> {
        let before = self.effective(jail)?;
        let file = self.file_of(jail)?.to_owned();
        let (mut config, mut asked) = (self.clone(), BTreeSet::new());
        for change in changes {
            config = config.after(&file, config.cuts(jail, change)?)?;
            asked.extend(config.prove(jail, change)?);
        }
        // A later change must not undo an earlier one.
        for change in changes.iter().rev().skip(1) {
            config.prove(jail, change)?;
        }
        let after = config.effective(jail)?;
        let followed = followed(&before, &after, &asked).map_err(|name| {
            self.broken(&file, format!("the edit of {jail} would change {name}, which it does not name"))
        })?;
        self.others_same(&config, &[jail])?;
        Ok(Edited { followed, ..Edited::of(config, file) })
    }

    /// Puts a second jail after another, as its copy but for these changes. A run mark is not copied.
    pub fn copy(&self, from: &str, to: &str, changes: &[Change]) -> Result<Edited, Wrong> {
        let (_, block) = self.own(from)?;
        let (file, text) = (block.file.clone(), self.text(&block.file));
        self.free(to, block)?;
        lone(self, block, "copied")?;
        let it = &block.it;
        let name = write_name(to, it.quote);
        let mut copy = format!("{name}{}", &text[it.name_span.end..it.span.end]);
        if let Some((_, span)) = mark::find(text, it).map_err(|(at, what)| Wrong::new(self.place(&file, at), what))? {
            let moved = |at: usize| at - it.name_span.end + name.len();
            copy.replace_range(moved(span.start)..moved(span.end), "");
        }
        let start = text[..it.span.start].rfind('\n').map_or(0, |newline| newline + 1);
        let indent = Some(&text[start..it.span.start]).filter(|indent| indent.trim_matches([' ', '\t']).is_empty());
        let new = match rest_of_line(text, it.span.end) {
            Some(end) => new_line(text, end, &format!("{}{copy}", indent.unwrap_or_default())),
            None => (it.span.end..it.span.end, format!(" {copy}")),
        };
        let config = self.after(&file, vec![new])?;
        let named = config.renamed(self, from, to)?;
        self.others_same(&config, &[to])?;
        let mut edited = config.edit(to, changes)?;
        edited.followed.extend(named);
        edited.followed.sort();
        edited.followed.dedup();
        edited.mentions = edited.config.mentions(to, from)?;
        Ok(edited)
    }

    /// Gives a jail another name.
    pub fn rename(&self, from: &str, to: &str) -> Result<Edited, Wrong> {
        let (_, block) = self.own(from)?;
        let file = block.file.clone();
        self.free(to, block)?;
        lone(self, block, "given another name")?;
        self.needed(from)?;
        let config = self.after(&file, vec![(block.it.name_span.clone(), write_name(to, block.it.quote))])?;
        let followed = config.renamed(self, from, to)?;
        self.others_same(&config, &[from, to])?;
        let mentions = config.mentions(to, from)?;
        Ok(Edited { followed, mentions, ..Edited::of(config, file) })
    }

    /// Takes a jail out, with the lines it stands in if nothing else does.
    pub fn remove(&self, jail: &str) -> Result<Edited, Wrong> {
        let (_, block) = self.own(jail)?;
        let (file, text) = (block.file.clone(), self.text(&block.file));
        lone(self, block, "taken out")?;
        self.needed(jail)?;
        let config = self.after(&file, out(text, std::iter::once(block.it.span.clone())))?;
        self.others_same(&config, &[jail])?;
        if config.jails().contains(&jail) {
            return Err(self.broken(&file, format!("{jail} would still be there")));
        }
        Ok(Edited::of(config, file))
    }

    /// Puts another text in the place of a jail's own block: the bytes of [`Config::block`] as they once were, say.
    pub fn with_block(&self, jail: &str, new: &str) -> Result<Edited, Wrong> {
        let (_, block) = self.own(jail)?;
        let file = block.file.clone();
        let config = self.after(&file, vec![(block.it.span.clone(), new.to_owned())])?;
        if config.block(jail).ok() != Some(new) {
            return Err(self.broken(&file, format!("what shall stand there is not one block of {jail}")));
        }
        config.effective(jail)?;
        self.others_same(&config, &[jail])?;
        Ok(Edited::of(config, file))
    }

    /// The run mark of a jail: a comment that is the first thing in its block.
    pub fn mark(&self, jail: &str) -> Result<Option<Mark>, Wrong> {
        let (_, block) = self.own(jail)?;
        let found = mark::find(self.text(&block.file), &block.it);
        let found = found.map_err(|(at, what)| Wrong::new(self.place(&block.file, at), what))?;
        Ok(found.map(|(mark, _)| mark))
    }

    /// The configuration with cuts made in one file.
    fn after(&self, file: &str, cuts: Vec<Cut>) -> Result<Self, Wrong> {
        let text = cut(self.text(file), cuts).ok_or_else(|| self.broken(file, "two edits of one place"))?;
        self.with(file, text)
    }

    fn broken(&self, file: &str, what: impl Into<String>) -> Wrong {
        Wrong::new(Place::whole(file), what)
    }

    /// A name that a new jail can have.
    fn free(&self, name: &str, near: &InFile<Block>) -> Result<(), Wrong> {
        let wrong = |what: String| Err(Wrong::new(self.place(&near.file, near.it.span.start), what));
        if self.jails().contains(&name) {
            return wrong(format!("there is a jail {name:?} already"));
        }
        if name.is_empty() || is_wildcard(name) || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/') {
            return wrong(format!("a jail cannot be called {name:?}"));
        }
        Ok(())
    }

    /// Refuses to touch a jail that others name.
    fn needed(&self, jail: &str) -> Result<(), Wrong> {
        for other in self.definitions.iter().filter(|other| !other.wild && other.name != jail) {
            let Some(block) = &other.block else { continue };
            let place = self.place(&block.file, block.it.span.start);
            if other.name.strip_prefix(jail).is_some_and(|rest| rest.starts_with('.')) {
                return Err(Wrong::new(place, format!("{} is a jail within {jail}", other.name)));
            }
            // One that jail(8) cannot read depends on what it names to the letter.
            let literal = || {
                let words = statements(&block.it, "depend").into_iter().flat_map(|param| &param.values);
                words.into_iter().any(|word| word.pieces == [Piece::Text(jail.to_owned())]).then(|| place.clone())
            };
            let on = match self.effective(&other.name) {
                Ok(effective) => effective.get("depend").and_then(|depend| {
                    let named = depend.values.iter().any(|on| on == jail);
                    depend.places.last().filter(|_| named).cloned()
                }),
                Err(_) => literal(),
            };
            if let Some(place) = on {
                return Err(
                    Wrong::new(place, format!("{} depends on {jail}", other.name)).help("change its depend first")
                );
            }
        }
        Ok(())
    }

    /// Every jail but these, and every wildcard, says what it says here: the same statements in the same order.
    pub(super) fn others_same(&self, after: &Self, except: &[&str]) -> Result<(), Wrong> {
        let others = |config: &'_ Self| -> Vec<usize> {
            let all = config.definitions.iter().enumerate();
            all.filter(|(_, it)| it.wild || !except.contains(&it.name.as_str())).map(|(index, _)| index).collect()
        };
        let (mine, theirs) = (others(self), others(after));
        if mine.len() != theirs.len() {
            return Err(self.broken(&self.root, "the edit would change which other jails there are"));
        }
        for (mine, theirs) in mine.into_iter().zip(theirs) {
            let (mine, theirs) = (&self.definitions[mine], &after.definitions[theirs]);
            let same = |(mine, theirs): (&InFile<Param>, &InFile<Param>)| {
                let pieces = |param: &Param| param.values.iter().map(|word| word.pieces.clone()).collect::<Vec<_>>();
                let of = |param: &Param| (param.name.clone(), param.var, param.add, pieces(param));
                of(&mine.it) == of(&theirs.it)
            };
            let params = mine.params.len() == theirs.params.len() && mine.params.iter().zip(&theirs.params).all(same);
            if mine.name != theirs.name || !params {
                return Err(self.broken(&self.root, format!("the edit would change the jail {}", mine.name)));
            }
        }
        Ok(())
    }

    /// What a jail says under its new name but for the name and what is made of it; that is returned.
    fn renamed(&self, before: &Self, from: &str, to: &str) -> Result<Vec<String>, Wrong> {
        let (old, new) = (before.effective(from)?, self.effective(to)?);
        let names = ["name", "jid"].map(str::to_owned).into_iter().collect();
        followed(&old, &new, &names).map_err(|name| {
            let what = format!("{to} would get another {name} than {from}: a wildcard is for one of the two names");
            Wrong::new(
                old.get(&name)
                    .and_then(|param| param.places.last().cloned())
                    .unwrap_or_else(|| Place::whole(&self.root)),
                what,
            )
        })
    }

    /// Where a jail's own block holds a name as a word.
    fn mentions(&self, jail: &str, name: &str) -> Result<Vec<Place>, Wrong> {
        let (_, block) = self.own(jail)?;
        let text = self.text(&block.file);
        let part = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        let inside = block.it.open..block.it.span.end;
        let found = text[inside.clone()].match_indices(name).map(|(at, _)| inside.start + at);
        let alone = found.filter(|at| !text[..*at].ends_with(part) && !text[*at + name.len()..].starts_with(part));
        Ok(alone.map(|at| self.place(&block.file, at)).collect())
    }

    fn cuts(&self, jail: &str, change: &Change) -> Result<Vec<Cut>, Wrong> {
        let (_, block) = self.own(jail)?;
        let text = self.text(&block.file);
        match change {
            Change::Set(name, setting) => self.set(jail, block, name, setting),
            Change::Remove(name) | Change::Inherit(name) => {
                let gone = statements(&block.it, name);
                if gone.is_empty() && matches!(change, Change::Inherit(_)) {
                    return Err(self.no_own(jail, name, block)?);
                }
                for param in &gone {
                    self.no_comment(block, &param.span)?;
                }
                Ok(out(text, gone.into_iter().map(|param| param.span.clone())))
            }
            Change::Mark(mark) => {
                let cut = mark::cut(text, &block.it, mark.as_ref());
                let cut = cut.map_err(|(at, what)| Wrong::new(self.place(&block.file, at), what))?;
                Ok(cut.into_iter().collect())
            }
        }
    }

    /// The error for a parameter that a jail does not set itself.
    fn no_own(&self, jail: &str, name: &str, block: &InFile<Block>) -> Result<Wrong, Wrong> {
        let effective = self.effective(jail)?;
        Ok(match effective.get(name).and_then(|param| param.places.last().cloned()) {
            Some(place) => Wrong::new(place, format!("{name} of {jail} is set here, and not in its own block"))
                .help("it counts for other jails too: set it to something else in the jail instead"),
            None => Wrong::new(self.place(&block.file, block.it.span.start), format!("{jail} does not set {name}")),
        })
    }

    fn set(&self, jail: &str, block: &InFile<Block>, name: &str, setting: &Setting) -> Result<Vec<Cut>, Wrong> {
        let text = self.text(&block.file);
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
            return Err(self.broken(&block.file, format!("{name:?} is not the name of a parameter")));
        }
        if same(name, "name") || same(name, "jid") {
            return Err(self
                .broken(&block.file, format!("{name} of {jail} is its name"))
                .help("give the jail another name"));
        }
        let effective = self.effective(jail)?;
        let now = effective.get(name);
        if now.is_some_and(|now| agrees(now, setting)) {
            return Ok(Vec::new());
        }
        let own = statements(&block.it, name);
        // What counts: the last that puts the others away, and what is added to it.
        let first = own.iter().rposition(|param| clears(param)).unwrap_or(0);
        let Some((head, rest)) = own[first.min(own.len())..].split_first() else {
            let new = self.statement(block, name, setting, Some('"'))?;
            return Ok(vec![insert(text, &block.it, &new)]);
        };
        if let (Setting::Values(values), Some(now)) = (setting, now)
            && same_name(head, name)
            && let Some(cuts) = self.word_by_word(block, now, values, head, rest)?
        {
            return Ok(cuts);
        }
        for param in std::iter::once(head).chain(rest) {
            self.no_comment(block, &param.span)?;
        }
        let quote = head.values.last().map_or(Some('"'), |word| word.quote);
        let name = if same_name(head, name) { &head.name } else { name };
        let mut cuts = vec![(head.span.clone(), self.statement(block, name, setting, quote)?)];
        cuts.extend(out(text, rest.iter().map(|param| param.span.clone())));
        Ok(cuts)
    }

    /// Replaces the values that are different, each in its quotes; `None` if values and words do not match one to one.
    fn word_by_word(
        &self,
        block: &InFile<Block>,
        now: &Parameter,
        values: &[String],
        head: &Param,
        rest: &[&Param],
    ) -> Result<Option<Vec<Cut>>, Wrong> {
        let words: Vec<_> = std::iter::once(head).chain(rest.iter().copied()).flat_map(|param| &param.values).collect();
        let origin = |span: &Range<usize>| Origin { file: block.file.clone(), span: span.clone() };
        let fits = clears(head)
            && !words.is_empty()
            && words.len() == values.len()
            && now.origins.iter().eq(words.iter().map(|word| origin(&word.span)).collect::<Vec<_>>().iter());
        if !fits {
            return Ok(None);
        }
        let mut cuts = Vec::new();
        for ((word, _), new) in words.iter().zip(&now.values).zip(values).filter(|((_, old), new)| old != new) {
            cuts.push((word.span.clone(), self.value(block, new, word.quote)?));
        }
        Ok(Some(cuts))
    }

    fn value(&self, block: &InFile<Block>, value: &str, quote: Option<char>) -> Result<String, Wrong> {
        write::value(value, quote)
            .ok_or_else(|| self.broken(&block.file, format!("{value:?} cannot be written: it has control characters")))
    }

    fn statement(
        &self,
        block: &InFile<Block>,
        name: &str,
        setting: &Setting,
        quote: Option<char>,
    ) -> Result<String, Wrong> {
        Ok(match setting {
            Setting::Flag(on) => format!("{};", write::flag(name, *on)),
            Setting::Values(values) if values.is_empty() => {
                return Err(self.broken(&block.file, format!("{name} without a value is a flag")));
            }
            Setting::Values(values) => {
                let values = values.iter().map(|value| self.value(block, value, quote));
                format!("{name} = {};", values.collect::<Result<Vec<_>, _>>()?.join(", "))
            }
        })
    }

    /// Refuses to lose a comment within a statement.
    fn no_comment(&self, block: &InFile<Block>, span: &Range<usize>) -> Result<(), Wrong> {
        match super::lex::first_comment(&block.file, self.text(&block.file), span, self.dialect)? {
            Some(at) => {
                Err(Wrong::new(self.place(&block.file, at), "a comment within a statement that is to be replaced")
                    .help("move the comment before the statement, or change the values by hand"))
            }
            None => Ok(()),
        }
    }

    /// The jail says what a change asked for; the names that it may have changed.
    fn prove(&self, jail: &str, change: &Change) -> Result<Option<String>, Wrong> {
        let effective = self.effective(jail)?;
        let instead = "it counts for other jails too: set it to something else in the jail instead";
        let below = "what stands below a jail counts more than the jail: move it above the jails, or change it by hand";
        let (name, done, what, help) = match change {
            Change::Mark(mark) => {
                return match self.mark(jail)? == *mark {
                    true => Ok(None),
                    false => Err(self.broken(&self.root, format!("the mark of {jail} is not read back"))),
                };
            }
            Change::Inherit(name) => {
                (name, statements(&self.own(jail)?.1.it, name).is_empty(), "is still set in its block", below)
            }
            Change::Remove(name) => {
                (name, effective.get(name).is_none(), "is set here, and not in its own block", instead)
            }
            Change::Set(name, setting) => {
                let done = effective.get(name).is_some_and(|now| agrees(now, setting));
                (name, done, "is set here in spite of its own block", below)
            }
        };
        if done {
            return Ok(Some(name.clone()));
        }
        let place = effective.get(name).and_then(|param| param.places.last().cloned());
        Err(Wrong::new(place.unwrap_or_else(|| Place::whole(&self.root)), format!("{name} of {jail} {what}"))
            .help(help))
    }
}

/// The statements of a jail's own block that are about a parameter.
fn statements<'b>(block: &'b Block, name: &str) -> Vec<&'b Param> {
    let params = block.items.iter().filter_map(|item| match item {
        Item::Param(param) if !param.var && same(&param.name, name) => Some(param),
        _ => None,
    });
    params.collect()
}

/// A statement has the name as it is asked for, without a `no` more or less.
fn same_name(param: &Param, name: &str) -> bool {
    param.name == name && !param.values.is_empty()
}

/// Refuses a block that holds more than parameters.
fn lone(config: &Config, block: &InFile<Block>, done: &str) -> Result<(), Wrong> {
    match block.it.items.iter().find(|item| !matches!(item, Item::Param(_))) {
        Some(item) => {
            let what = format!("a jail that holds another jail or an include is not {done}");
            Err(Wrong::new(config.place(&block.file, item.span().start), what).help("write it out by hand"))
        }
        None => Ok(()),
    }
}

fn agrees(now: &Parameter, setting: &Setting) -> bool {
    match setting {
        Setting::Values(values) => now.values == *values && !values.is_empty(),
        Setting::Flag(on) => now.is_true() == *on,
    }
}

/// The parameters that differ because they are made of one of these; an error with the name of one that is not.
fn followed(before: &Effective, after: &Effective, asked: &BTreeSet<String>) -> Result<Vec<String>, String> {
    let is_asked = |name: &str| asked.iter().any(|asked| same(asked, name));
    let said = |effective: &Effective| -> BTreeMap<String, Vec<String>> {
        effective.params.iter().map(|param| (param.name.clone(), param.values.clone())).collect()
    };
    let (was, is) = (said(before), said(after));
    let names: BTreeSet<&String> = was.keys().chain(is.keys()).filter(|name| was.get(*name) != is.get(*name)).collect();
    let mut found = Vec::new();
    for name in names {
        if is_asked(name) {
            continue;
        }
        if !after.get(name).is_some_and(|is| is.uses.iter().any(|name| is_asked(name))) {
            return Err(name.to_owned());
        }
        found.push(name.to_owned());
    }
    Ok(found)
}

fn write_name(name: &str, quote: Option<char>) -> String {
    let plain = name.bytes().all(super::lex::is_plain);
    write::value(name, quote.or(if plain { None } else { Some('"') })).unwrap_or_else(|| name.to_owned())
}

/// A new statement as the last of a block: in a line of its own if the last one has one, with its indentation.
fn insert(text: &str, block: &Block, new: &str) -> Cut {
    let Some(last) = block.items.last().map(Item::span) else {
        return match rest_of_line(text, block.open) {
            Some(end) => new_line(text, end, &format!("\t{new}")),
            None => (block.open..block.open, format!(" {new}")),
        };
    };
    let line = text[..last.start].rfind('\n').map_or(0, |newline| newline + 1);
    let before = &text[line..last.start];
    let indent = &before[..before.len() - before.trim_start_matches([' ', '\t']).len()];
    match rest_of_line(text, last.end) {
        Some(end) if end < block.span.end => {
            let indent = if line < block.open { "\t" } else { indent };
            new_line(text, end, &format!("{indent}{new}"))
        }
        _ => (last.end..last.end, format!(" {new}")),
    }
}

/// Cuts that take statements out, those that share a line too.
fn out(text: &str, spans: impl Iterator<Item = Range<usize>>) -> Vec<Cut> {
    let spans: Vec<Range<usize>> = spans.collect();
    with_lines(text, &spans).into_iter().map(|span| (span, String::new())).collect()
}
