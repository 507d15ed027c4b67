//! The parameters of one jail as jail(8) computes them: its own and those of wildcards in the order of the file, later ones
//! over earlier ones, then the variables. Pure.
//!
//! jail(8) gives a jail no parameter of its own accord but `name` (or `jid`, where the name is a number): without
//! `host.hostname` the kernel gives it the host's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::super::wrong::{LIMIT, Place, Wrong};
use super::{Config, Definition, InFile, Param, Piece, applies};

/// Variables that lead to variables.
const DEPTH: usize = 64;
/// Dots a name may have.
const PARTS: usize = 16;

/// Names that jail(8) knows by itself, which no variable may have.
const KNOWN: [&str; 42] = [
    "allow.chflags",
    "allow.dying",
    "allow.mount",
    "allow.raw_sockets",
    "allow.set_hostname",
    "allow.socket_af",
    "allow.sysvipc",
    "command",
    "depend",
    "devfs_ruleset",
    "exec.clean",
    "exec.consolelog",
    "exec.created",
    "exec.fib",
    "exec.jail_user",
    "exec.poststart",
    "exec.poststop",
    "exec.prepare",
    "exec.prestart",
    "exec.prestop",
    "exec.release",
    "exec.start",
    "exec.stop",
    "exec.system_jail_user",
    "exec.system_user",
    "exec.timeout",
    "host.hostname",
    "interface",
    "ip4.addr",
    "ip6.addr",
    "ip_hostname",
    "jid",
    "mount",
    "mount.devfs",
    "mount.fdescfs",
    "mount.fstab",
    "mount.procfs",
    "name",
    "path",
    "persist",
    "vnet",
    "vnet.interface",
];

/// All parameters of one jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The jail.
    pub jail: String,
    /// Its parameters, in the order in which each first stands; variables left out.
    pub params: Vec<Parameter>,
}

/// One parameter of a jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The name as it was last written: `mount.nodevfs` after `mount.devfs; mount.nodevfs;`.
    pub name: String,
    /// Its values, in order; none where only the name stands.
    pub values: Vec<String>,
    /// Where the statements stand that make it up.
    pub places: Vec<Place>,
    /// The last of these stands in the jail's own block.
    pub own: bool,
    /// Which word of a file each value comes from.
    pub(super) origins: Vec<Origin>,
    /// The variables and parameters it is made of.
    pub(super) uses: BTreeSet<String>,
}

/// A word of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) file: String,
    pub(super) span: Range<usize>,
}

impl Effective {
    /// A parameter by its name, with or without the `no` of a negated one.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.params.iter().find(|param| same(&param.name, name))
    }

    /// A single value: of several the last, as jail(8) takes it.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.values.last().map(String::as_str)
    }

    /// All values of a list.
    pub fn list(&self, name: &str) -> Vec<&str> {
        self.get(name).into_iter().flat_map(|param| &param.values).map(String::as_str).collect()
    }

    /// Whether something is set that is true or false.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(Parameter::is_true)
    }
}

impl Parameter {
    /// Whether it is true, as jail(8) judges it: `true`, a number that is not 0, or no value at all; a `no` before the last part
    /// of the name turns it round.
    pub fn is_true(&self) -> bool {
        let last = self.name.rsplit('.').next().unwrap_or_default();
        let said = self.values.last().is_none_or(|value| value.eq_ignore_ascii_case("true") || number(value) != 0);
        last.starts_with("no") != said
    }
}

/// The number that a text begins with (strtol(3)).
fn number(text: &str) -> i64 {
    let text = text.trim_ascii_start();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = digits.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    if end == 0 { 0 } else { digits[..end].parse().map_or(i64::MAX, |number: i64| sign * number) }
}

/// Whether two names are of one parameter: equal but for a `no` before the last part that differs.
pub(super) fn same(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one, other);
    loop {
        let negated = |long: &str, short: &str| long.strip_prefix("no").is_some_and(|rest| rest == short);
        if one == other || negated(one, other) || negated(other, one) {
            return true;
        }
        let Some((part, rest)) = one.split_once('.') else { return false };
        match other.strip_prefix(part).and_then(|after| after.strip_prefix('.')) {
            Some(after) => (one, other) = (rest, after),
            None => return false,
        }
    }
}

/// What the names of one parameter have in common: no `no` before any part.
fn without_no(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (index, mut part) in name.split('.').enumerate() {
        while let Some(rest) = part.strip_prefix("no") {
            part = rest;
        }
        if index > 0 {
            out.push('.');
        }
        out.push_str(part);
    }
    out
}

/// A parameter before its variables are replaced.
#[derive(Debug)]
struct Raw {
    name: String,
    var: bool,
    values: Vec<RawValue>,
    places: Vec<Place>,
    own: bool,
}

/// Parameters in the order in which each first stands.
#[derive(Debug, Default)]
struct Raws {
    list: Vec<Raw>,
    /// Those whose names may be of one parameter.
    alike: BTreeMap<String, Vec<usize>>,
}

impl Raws {
    fn push(&mut self, raw: Raw) {
        self.alike.entry(without_no(&raw.name)).or_default().push(self.list.len());
        self.list.push(raw);
    }

    fn first(&self, name: &str, fits: impl Fn(&str) -> bool) -> Option<usize> {
        let alike = self.alike.get(&without_no(name)).into_iter().flatten();
        alike.copied().find(|index| fits(&self.list[*index].name))
    }

    /// The first that has this name, with or without a `no`.
    fn find(&self, name: &str) -> Option<usize> {
        self.first(name, |other| same(other, name))
    }
}

#[derive(Clone, Debug)]
struct RawValue {
    pieces: Vec<Piece>,
    origin: Origin,
}

impl Config {
    /// The parameters of a jail.
    pub fn effective(&self, jail: &str) -> Result<Effective, Wrong> {
        let (own, block) = self.own(jail)?;
        let numeric =
            number(jail) != 0 && jail.trim_start_matches(['-', '+']).bytes().all(|byte| byte.is_ascii_digit());
        let implied = |name: &str| Raw {
            name: name.to_owned(),
            var: false,
            values: vec![RawValue {
                pieces: vec![Piece::Text(jail.to_owned())],
                origin: Origin { file: block.file.clone(), span: block.it.name_span.clone() },
            }],
            places: vec![self.place(&block.file, block.it.name_span.start)],
            own: true,
        };
        let mut raws = Raws::default();
        raws.push(implied(if numeric { "jid" } else { "name" }));
        for definition in &self.definitions {
            let is_own = std::ptr::eq(definition, own);
            if is_own || definition.wild && applies(&definition.name, jail) {
                self.collect(&mut raws, definition, is_own)?;
            }
        }
        if numeric && raws.find("name").is_none() {
            raws.push(implied("name"));
        }
        let mut resolver = Resolver { raws: &raws, done: BTreeMap::new(), path: Vec::new(), bytes: 0 };
        let mut params = Vec::new();
        for (index, raw) in raws.list.iter().enumerate() {
            let values = resolver.values(index)?;
            if !raw.var {
                let (values, origins) = values.values.into_iter().unzip();
                let (name, places, uses) = (raw.name.clone(), raw.places.clone(), resolver.uses(index));
                params.push(Parameter { name, values, places, own: raw.own, origins, uses });
            }
        }
        Ok(Effective { jail: jail.to_owned(), params })
    }

    fn collect(&self, raws: &mut Raws, definition: &Definition, own: bool) -> Result<(), Wrong> {
        for InFile { file, it: param } in &definition.params {
            let place = self.place(file, param.span.start);
            let value = |word: &super::Word| RawValue {
                pieces: word.pieces.clone(),
                origin: Origin { file: file.clone(), span: word.span.clone() },
            };
            let values: Vec<RawValue> = param.values.iter().map(value).collect();
            let clash = |name: &str| {
                Wrong::new(place.clone(), format!("the variable ${name} has the name of a parameter"))
                    .help("give the variable another name")
            };
            if param.name.matches('.').count() > PARTS {
                return Err(Wrong::new(place, format!("a name of more than {PARTS} parts")));
            }
            let Some(index) = raws.find(&param.name) else {
                if param.var && KNOWN.iter().any(|known| same(known, &param.name)) {
                    return Err(clash(&param.name));
                }
                let (name, places) = (param.name.clone(), vec![place]);
                raws.push(Raw { name, var: param.var, values, places, own });
                continue;
            };
            let raw = &mut raws.list[index];
            if raw.var != param.var {
                return Err(clash(&param.name));
            }
            if matches!(raw.name.as_str(), "name" | "jid") {
                return Err(Wrong::new(place, format!("{} is set a second time: the jail's name sets it", param.name))
                    .help("name the jail as it is to be called, and take this line out"));
            }
            raw.own = own;
            if clears(param) {
                raw.values.clear();
                raw.places.clear();
            }
            raw.values.extend(values);
            raw.places.push(place);
            raw.name.clone_from(&param.name);
        }
        Ok(())
    }
}

/// Whether a statement puts away what there was before it.
pub(super) fn clears(param: &Param) -> bool {
    !param.add || param.values.is_empty()
}

/// What a parameter's values say, and each by which word.
#[derive(Clone, Debug, Default)]
struct Values {
    values: Vec<(String, Origin)>,
    uses: BTreeSet<String>,
}

struct Resolver<'r> {
    raws: &'r Raws,
    done: BTreeMap<usize, Values>,
    path: Vec<usize>,
    bytes: usize,
}

impl Resolver<'_> {
    /// All that a parameter is made of, through variables too.
    fn uses(&self, index: usize) -> BTreeSet<String> {
        self.done.get(&index).map(|done| done.uses.clone()).unwrap_or_default()
    }

    fn values(&mut self, index: usize) -> Result<Values, Wrong> {
        if let Some(done) = self.done.get(&index) {
            return Ok(done.clone());
        }
        let raw = &self.raws.list[index];
        let wrong =
            |what: String| Wrong::new(raw.places.last().cloned().unwrap_or_else(|| Place::whole("jail.conf")), what);
        if self.path.contains(&index) || self.path.len() == DEPTH {
            return Err(wrong(format!("{} is made of itself, by its variables", raw.name))
                .help("a variable must not lead back to itself"));
        }
        self.path.push(index);
        let mut values = Values::default();
        for value in &raw.values {
            let single = value.pieces.iter().filter(|piece| **piece != Piece::Text(String::new())).count() == 1;
            let mut said = vec![String::new()];
            for piece in &value.pieces {
                match piece {
                    Piece::Text(text) => said.iter_mut().last().into_iter().for_each(|last| last.push_str(text)),
                    Piece::Var(name) => {
                        let found = self.raws.first(name, |other| other == name);
                        let of = found.filter(|found| !self.raws.list[*found].values.is_empty()).ok_or_else(|| {
                            wrong(format!("{} uses the variable {name:?}, which has no value", raw.name))
                                .help("define it before or after, or write \\$ for a dollar sign")
                        })?;
                        let of = self.values(of)?;
                        values.uses.extend(of.uses);
                        values.uses.insert(name.clone());
                        match of.values.as_slice() {
                            [(one, _)] => said.iter_mut().last().into_iter().for_each(|last| last.push_str(one)),
                            many if single => said = many.iter().map(|(one, _)| one.clone()).collect(),
                            _ => {
                                return Err(wrong(format!("{} has the list {name:?} within a value", raw.name))
                                    .help("a list can only stand alone"));
                            }
                        }
                    }
                }
            }
            self.bytes += said.iter().map(String::len).sum::<usize>();
            if self.bytes > LIMIT {
                return Err(wrong(format!("{} becomes too long by its variables", raw.name)));
            }
            values.values.extend(said.into_iter().map(|said| (said, value.origin.clone())));
        }
        self.path.pop();
        self.done.insert(index, values.clone());
        Ok(values)
    }
}
