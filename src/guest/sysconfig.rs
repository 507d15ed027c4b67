//! Files of shell variables below `/etc/sysconfig`, which the scripts of the Red Hat family source and NetworkManager
//! reads (initscripts' `sysconfig.txt`): their assignments, each with its place, for editing by place.
//!
//! They are programs; only what is plainly assigned is understood. Code is left alone as long as nothing of what is asked
//! for can hang on it, and is refused otherwise.

use std::ops::Range;
use std::path::{Path, PathBuf};

use hypervisors::jail::rc::{Assign, Rc, Statement};

use super::GuestError;
use super::splice::Splices;
use super::tree::{FileImage, Overlay, shown, unfit};

/// Words of commands after which nothing is known: they read other files, or end this one.
const FAR_REACHING: [&str; 5] = [".", "source", "eval", "return", "exit"];

/// One file.
#[derive(Debug)]
pub(super) struct Variables {
    /// Where it is, relative to the root.
    pub path: PathBuf,
    rc: Rc,
    /// Where each line begins.
    starts: Vec<usize>,
    /// How many statements have a part in each line.
    shared: Vec<usize>,
}

/// One assignment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting<'t> {
    assign: &'t Assign,
    file: &'t Variables,
}

impl Variables {
    /// Reads a file; none if there is no such file. `concern`: parts of the names of what is asked for.
    ///
    /// # Errors
    /// It is no text, or what is asked for may hang on code in it.
    pub fn read(files: &Overlay<'_>, path: &Path, concern: &[&str]) -> Result<Option<Self>, GuestError> {
        if matches!(files.image(path)?, Some(FileImage::Directory { .. })) {
            return Ok(None);
        }
        let Some(text) = files.text(path)? else { return Ok(None) };
        let syntax = |line, why: String| GuestError::Syntax { path: shown(path), line, why };
        let rc = Rc::parse(&shown(path), &text).map_err(|wrong| syntax(wrong.place.line, wrong.what))?;
        let starts: Vec<usize> = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let shared = vec![0; starts.len()];
        let mut file = Self { path: path.to_owned(), rc, starts, shared };
        for statement in file.rc.statements() {
            let span = match statement {
                Statement::Assign(assign) => assign.span.clone(),
                Statement::Code(code) => {
                    let said = &text[code.span.clone()];
                    let reaches =
                        said.split(|c: char| c.is_whitespace() || c == ';').any(|w| FAR_REACHING.contains(&w));
                    if reaches || concern.iter().any(|name| said.contains(name)) {
                        let why = "only a shell could tell what this line does to the variables".to_owned();
                        return Err(syntax(file.line(code.span.start) + 1, why));
                    }
                    code.span.clone()
                }
            };
            for line in file.lines(&span) {
                file.shared[line] += 1;
            }
        }
        Ok(Some(file))
    }

    /// Its text.
    pub fn text(&self) -> &str {
        self.rc.text()
    }

    /// The assignments in order, those that a later one replaces included.
    pub fn settings(&self) -> impl Iterator<Item = Setting<'_>> {
        self.rc.assigns().map(|assign| Setting { assign, file: self })
    }

    /// The assignment that counts.
    pub fn last(&self, name: &str) -> Option<Setting<'_>> {
        self.settings().filter(|setting| setting.name() == name).last()
    }

    /// The value that counts; none if it is empty.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.last(name)?.assign.value.as_deref().filter(|value| !value.is_empty())
    }

    /// How its lines end.
    pub fn line_end(&self) -> &'static str {
        if self.text().contains("\r\n") { "\r\n" } else { "\n" }
    }

    /// An error of this file.
    pub fn syntax(&self, line: usize, why: impl Into<String>) -> GuestError {
        GuestError::Syntax { path: shown(&self.path), line, why: why.into() }
    }

    /// The line of a byte, from 0.
    fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at).saturating_sub(1)
    }

    fn lines(&self, span: &Range<usize>) -> std::ops::RangeInclusive<usize> {
        self.line(span.start)..=self.line(span.end.saturating_sub(1).max(span.start))
    }
}

impl<'t> Setting<'t> {
    /// The variable.
    pub fn name(&self) -> &'t str {
        &self.assign.name
    }

    /// Where its name stands.
    pub fn name_range(&self) -> Range<usize> {
        self.assign.span.start..self.assign.span.start + self.assign.name.len()
    }

    /// Line, from 1.
    pub fn line(&self) -> usize {
        self.file.line(self.assign.span.start) + 1
    }

    /// The value.
    ///
    /// # Errors
    /// Only a shell can tell it.
    pub fn value(&self) -> Result<&'t str, GuestError> {
        let why = || self.file.syntax(self.line(), format!("only a shell could tell the value of {}", self.name()));
        self.assign.value.as_deref().ok_or_else(why)
    }

    /// The value as it would be written in its place.
    fn written(&self, value: &str) -> (Range<usize>, String) {
        let span = self.assign.value_span.clone();
        match self.assign.quote {
            Some(_) => (span.start + 1..span.end - 1, value.to_owned()),
            None if value.contains(' ') => (span, format!("\"{value}\"")),
            None => (span, value.to_owned()),
        }
    }

    /// Gives it another value, of letters that need no quotes within quotes.
    pub fn set(&self, splices: &mut Splices<'_>, value: &str, why: &str) {
        let (range, value) = self.written(value);
        splices.replace(range, value, why);
    }

    /// Comments it out, and puts it anew with another value below, if there is one.
    ///
    /// # Errors
    /// It shares its line with others, or its value is put together by the shell: the line would not tell what it was.
    pub fn off(&self, splices: &mut Splices<'_>, anew: Option<&str>, why: &str) -> Result<(), GuestError> {
        let file = self.file;
        if file.lines(&self.assign.span).any(|line| file.shared[line] > 1) {
            let why = format!("line {} has more than {}, which has to go", self.line(), self.name());
            return Err(unfit(&file.path, why, "put each variable on a line of its own in the guest"));
        }
        let written = &file.text()[self.assign.value_span.clone()];
        if self.assign.value.as_deref().is_some_and(|value| !written.contains(value)) {
            let why = format!("line {} does not have the value of {} written out", self.line(), self.name());
            return Err(unfit(&file.path, why, "write the value itself in the guest"));
        }
        splices.comment_out(self.assign.span.clone(), why);
        if let Some(value) = anew {
            let end = file.text()[self.assign.span.end..]
                .find('\n')
                .map_or(file.text().len(), |at| self.assign.span.end + at);
            let end = file.text()[..end].trim_end_matches('\r').len();
            splices.replace(end..end, format!("{}{}=\"{value}\"", file.line_end(), self.name()), why);
        }
        Ok(())
    }
}
