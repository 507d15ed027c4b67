//! Changes of simulated machines that these take back by themselves, as by the script that the product brings. A reversal lies
//! among its machine's files, as a real one does: it outlives a reboot, and is copied with them.
//!
//! Nothing happens while nobody looks: what has become due meanwhile is carried out when a machine is next looked at, or by
//! [`Sim::tick`], which may say that time has passed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::commands::Inside;
use super::host;
use super::tree;
use super::world::{Locked, Sim, now_ms, read_bounded};
use crate::host::{Command, Output, Stdin};
use crate::{Error, Power, Result};

/// The name the script is run under.
const NAME: &str = "upgradectl-leased";
/// Where reversals stand.
const DIRECTORY: &str = "var/lib/upgradectl/leased";

/// What a machine is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked<'a> {
    /// The script, with its arguments.
    Script(&'a [String]),
    /// The reversal of this id, at once.
    Now(&'a str),
}

/// What a command asks for, if it is of this kind.
pub(super) fn asked(argv: &[String]) -> Option<Asked<'_>> {
    match argv {
        [sh, c, _, name, rest @ ..] if sh == "sh" && c == "-c" && name == NAME => Some(Asked::Script(rest)),
        [sh, file, now] if sh == "sh" && now == "now" => {
            let id = file.strip_prefix('/')?.strip_prefix(DIRECTORY)?.strip_prefix('/')?.strip_suffix("/tick")?;
            Some(Asked::Now(id))
        }
        _ => None,
    }
}

/// Whether that changes nothing.
pub(super) fn only_looks(argv: &[String]) -> bool {
    matches!(asked(argv), Some(Asked::Script([verb, ..])) if verb == "can" || verb == "list")
}

/// How it stands in the trace: without the script's text.
pub(super) fn shown(argv: &[String]) -> String {
    match asked(argv) {
        Some(Asked::Script(words)) => format!("{NAME} {}", words.join(" ")),
        _ => argv.join(" "),
    }
}

/// A reversal that stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    about: String,
    argv: Vec<String>,
    grace_ms: u64,
    due_ms: u64,
    /// The boot in which that was said.
    boots: u64,
    machine: String,
}

/// The reversals of a machine.
#[derive(Debug)]
pub(super) struct Leases {
    /// Its files.
    pub root: PathBuf,
    /// How often it has booted.
    pub boots: u64,
    /// Something on it keeps time.
    pub timers: bool,
    /// What time it is, in milliseconds since the epoch.
    pub now_ms: u64,
}

impl Leases {
    /// The same, so much later.
    fn at(self, later: Duration) -> Self {
        let later = u64::try_from(later.as_millis()).unwrap_or(u64::MAX);
        Self { now_ms: self.now_ms.saturating_add(later), ..self }
    }
}

type Run<'a> = &'a mut dyn FnMut(&[String]) -> Result<Output>;

fn said(text: impl Into<String>) -> Output {
    Output { stdout: text.into().into_bytes(), ..Output::default() }
}

impl Leases {
    fn place(&self, id: &str) -> io::Result<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if id.is_empty() || id.starts_with('.') || !id.chars().all(plain) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no id: {id}")));
        }
        tree::resolve(&self.root, &Path::new(DIRECTORY).join(id).join("tick"), false)
    }
    fn machine(&self) -> String {
        let path = tree::resolve(&self.root, Path::new("etc/machine-id"), true);
        path.and_then(fs::read_to_string).unwrap_or_else(|_| "none".into())
    }
    fn read(&self, id: &str) -> Option<Record> {
        let bytes = self.place(id).and_then(|place| read_bounded(&place, 1 << 20)).ok()??;
        serde_json::from_slice(&bytes).ok()
    }
    fn write(&self, id: &str, record: &Record) -> Result<()> {
        let doing = || format!("write the reversal {id}");
        let bytes = serde_json::to_vec(record).map_err(|error| Error::io(doing(), error.into()))?;
        let written = self.place(id).and_then(|place| host::write(&place, &bytes, 0o600));
        written.map(drop).map_err(|error| Error::io(doing(), error))
    }
    /// Begins its time anew.
    fn renew(&self, id: &str, record: Record) -> Result<()> {
        let due_ms = self.now_ms + record.grace_ms;
        self.write(id, &Record { due_ms, boots: self.boots, ..record })
    }
    fn remove(&self, id: &str) -> Result<()> {
        let gone = self.place(id).and_then(|place| {
            let directory = place.parent().map(Path::to_owned).unwrap_or_default();
            tree::remove(&directory)?;
            // As the script does: nothing of it stays, not even where it lay. A simulated host has no files of its own.
            for above in directory.ancestors().skip(1).take(4) {
                let _ = fs::remove_dir(above);
            }
            Ok(())
        });
        gone.map_err(|error| Error::io(format!("remove the reversal {id}"), error))
    }

    /// Answers as the script does.
    pub fn answer(&self, asked: Asked<'_>, stdin: &Stdin, run: Run<'_>) -> Result<Output> {
        let words: &[String] = match asked {
            Asked::Now(id) => return self.carry_out(id, run),
            Asked::Script(words) => words,
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let argv = |from: usize| words[from..].iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        match words.as_slice() {
            ["can"] if !self.timers => Ok(said("none there is neither systemd nor atd\n")),
            ["can"] => Ok(said("systemd\n")),
            ["make", id, grace, _tick, _limit, _, ..] => {
                let text = match stdin {
                    Stdin::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                    _ => String::new(),
                };
                let (about, reversal) = reversal(&text);
                let grace_ms = grace.parse::<u64>().unwrap_or_default() * 1000;
                let machine = self.machine();
                let record = Record { about, argv: reversal, grace_ms, due_ms: 0, boots: 0, machine };
                self.renew(id, record.clone())?;
                let output = run(&argv(5))?;
                self.renew(id, record)?;
                Ok(output)
            }
            ["renew", id] => match self.read(id) {
                Some(record) if record.machine == self.machine() => {
                    self.renew(id, record)?;
                    Ok(said("renewed\n"))
                }
                _ => Ok(said("gone\n")),
            },
            ["take", id, _limit, _, ..] => {
                let output = run(&argv(3))?;
                if output.status == 0 && self.read(id).is_some() {
                    self.remove(id)?;
                }
                Ok(output)
            }
            ["list"] => {
                let stands = |id: String| {
                    let record = self.read(&id)?;
                    let left_s = record.due_ms.saturating_sub(self.now_ms) / 1000;
                    Some(format!("{id} {left_s} {}\n", record.about))
                };
                Ok(said(tree::names(&self.root, DIRECTORY).into_iter().filter_map(stands).collect::<String>()))
            }
            _ => Ok(Output { status: 76, ..Output::default() }),
        }
    }

    fn carry_out(&self, id: &str, run: Run<'_>) -> Result<Output> {
        let Some(record) = self.read(id) else { return Ok(Output { status: 2, ..Output::default() }) };
        let output = run(&record.argv)?;
        if output.status == 0 {
            self.remove(id)?;
        }
        Ok(output)
    }

    /// What its timers would have done by now.
    pub fn settle(&self, run: Run<'_>) -> Result<()> {
        for id in tree::names(&self.root, DIRECTORY) {
            let Some(record) = self.read(&id) else { continue };
            if record.machine != self.machine() {
                self.remove(&id)?;
            } else if record.boots != self.boots {
                self.renew(&id, record)?;
            } else if record.due_ms <= self.now_ms {
                self.carry_out(&id, run)?;
            }
        }
        Ok(())
    }
}

/// What stands in a reversal's file: its first line, and the words of its `set --`.
fn reversal(text: &str) -> (String, Vec<String>) {
    let about = text.lines().next().unwrap_or_default().trim_start_matches("# ").to_owned();
    let words = text.split_once("\nset -- ").map(|(_, rest)| words(rest)).unwrap_or_default();
    (about, words)
}

/// The words of a shell's line, up to its end: plain ones, and quoted by `'` or `\`.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            c if quoted => word.get_or_insert_default().push(c),
            '\n' => break,
            ' ' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(rest.next()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

impl Inside<'_> {
    fn leases(&self) -> Leases {
        Leases { root: self.root(), boots: self.runtime.boots, timers: self.config.timers, now_ms: now_ms() }
    }
    /// Answers as the script does.
    pub fn leased(&mut self, asked: Asked<'_>, stdin: &Stdin) -> Result<Output> {
        self.leases().answer(asked, stdin, &mut |argv| self.run(argv))
    }
    /// What its timers do when so much more time has passed.
    pub fn settle_leased(&mut self, later: Duration) -> Result<()> {
        if self.runtime.is_frozen() {
            return Ok(());
        }
        self.leases().at(later).settle(&mut |argv| self.run(argv))
    }
}

impl Locked {
    fn host_leases(&self) -> Result<Leases> {
        let timers = self.sim.config()?.timers;
        Ok(Leases { root: self.sim.hostfs(), boots: 0, timers, now_ms: now_ms() })
    }
    /// The simulated machine itself answers as the script does.
    pub fn host_leased(&mut self, asked: Asked<'_>, command: &Command) -> Result<Output> {
        self.host_leases()?.answer(asked, &command.stdin, &mut |argv| host::program(self, argv))
    }
    /// What its timers do when so much more time has passed.
    pub fn settle_host_leased(&mut self, later: Duration) -> Result<()> {
        self.host_leases()?.at(later).settle(&mut |argv| host::program(self, argv))
    }
}

impl Sim {
    /// So much time passes: the timers of the machine and of its guests do what is due then.
    pub fn tick(&self, later: Duration) -> Result<()> {
        let mut world = self.lock()?;
        world.settle_host_leased(later)?;
        for (guest, runtime) in world.running()? {
            if runtime.power == Power::On {
                Inside::enter(&mut world, &guest)?.settle_leased(later)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::shell_quote;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quoted_words_are_read_back(argv in proptest::collection::vec("[^\0]{0,8}", 1..5)) {
            let text = format!("# about it\nid=x\nset -- {}\nmore 'of it'\n", shell_quote(&argv));
            prop_assert_eq!(reversal(&text), ("about it".to_owned(), argv));
        }
    }
}
