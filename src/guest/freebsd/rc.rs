//! rc.conf(5) and what is read with it, without the lines that are the host's business.
//!
//! Which line is about what, `hypervisors::jail::rc::kind` tells. Hardware, network and the server's own jails go; so do
//! services that a jail cannot run. The name stays: in a jail rc.conf's counts. A line goes by being commented out; where it
//! shares its line with something that stays, it is cut out. What is left is read again, and must be what was to stay.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hypervisors::host::printable;
use hypervisors::jail::rc::kind::{Classified, Kind};
use hypervisors::jail::rc::{Rc, Statement, is_yes};

use super::super::hostname::{check, renamed};
use super::super::tree::{shown, unfit};
use super::{COMMENT, Files, GuestError, ORIGINAL};

/// The files of the whole system, in the order in which they are read: the last that sets a variable counts.
const SYSTEM: [&str; 2] = ["etc/rc.conf", "etc/rc.conf.local"];
/// Directories of files for one service each, named as it is; read after those of the system.
pub(super) const PER_SERVICE: [&str; 2] = ["etc/rc.conf.d", "usr/local/etc/rc.conf.d"];
const DEFAULTS: &str = "etc/defaults/rc.conf";

/// Beginnings of the names of variables that are about what only a host can do, though they look like a service's.
const CANNOT: [(&str, &str); 22] = [
    ("accounting_", "accounts for processes of the host"),
    ("amd_", "mounts"),
    ("auditd_", "audits the kernel"),
    ("autofs_", "mounts"),
    ("automountd_", "mounts"),
    ("autounmountd_", "mounts"),
    ("check_quotas", "needs the disks"),
    ("ctld_", "needs the disks"),
    ("enable_quotas", "needs the disks"),
    ("ibcs2_", "needs a module of the kernel"),
    ("linux_", "needs a module of the kernel"),
    ("mountd_", "exports file systems"),
    ("nfs_client_", "mounts"),
    ("nfs_reserved_port_only", "exports file systems"),
    ("nfs_server_", "exports file systems"),
    ("nfsuserd_", "exports file systems"),
    ("quota_", "needs the disks"),
    ("single_mountd_enable", "exports file systems"),
    ("smartd_", "needs the disks"),
    ("svr4_", "needs a module of the kernel"),
    ("sysvipc_", "needs a module of the kernel"),
    ("vm_", "runs virtual machines"),
];

/// Most variables that are cut out of lines they share with others: the file is read again for each.
const MAX_SHARED: usize = 64;

/// A file that was read.
pub(super) struct RcFile {
    pub path: PathBuf,
    pub rc: Rc,
}

/// All that is there, in the order in which it is read.
pub(super) fn files(files: &mut Files<'_>) -> Result<Vec<RcFile>, GuestError> {
    let mut paths: Vec<PathBuf> = SYSTEM.map(PathBuf::from).to_vec();
    for directory in PER_SERVICE {
        let names = files.names(directory)?.into_iter();
        paths.extend(names.filter(|path| !path.to_string_lossy().ends_with(ORIGINAL)));
    }
    let mut found = Vec::new();
    for path in paths {
        if let Some(text) = files.text(&path)? {
            found.push(RcFile { rc: parse(&path, &text)?, path });
        }
    }
    Ok(found)
}

/// What the system's own defaults say; nothing if they cannot be read.
pub(super) fn defaults(files: &mut Files<'_>) -> Result<Option<Rc>, GuestError> {
    let text = files.text(Path::new(DEFAULTS))?;
    Ok(text.and_then(|text| parse(Path::new(DEFAULTS), &text).ok()))
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Rc, GuestError> {
    let file = shown(path);
    Rc::parse(&file, text).map_err(|wrong| GuestError::Syntax { path: file, line: wrong.place.line, why: wrong.what })
}

/// Plans the reduction.
pub(super) fn reduce(files: &mut Files<'_>) -> Result<(), GuestError> {
    for file in self::files(files)? {
        let kinds = file.rc.kinds();
        tell(files, &file.rc, &kinds);
        let goes = |one: &Classified| match (one.kind, one.name.as_deref()) {
            (_, None | Some("hostname")) => false,
            (Kind::Hardware | Kind::Network | Kind::Jail, _) => true,
            (Kind::Service | Kind::Other, Some(name)) => cannot(name).is_some(),
        };
        let gone: BTreeSet<usize> = kinds.iter().filter(|one| goes(one)).map(|one| one.statement).collect();
        if let Some(new) = reduced(&file.path, &file.rc, &gone)? {
            files.keep_original(&file.path)?;
            files.set(&file.path, &new, "hardware, network and disks are the jail host's")?;
        }
    }
    Ok(())
}

fn cannot(name: &str) -> Option<&'static str> {
    CANNOT.iter().find(|(start, _)| name.starts_with(start)).map(|(_, why)| *why)
}

/// Tells what needs a person's eye.
fn tell(files: &mut Files<'_>, rc: &Rc, kinds: &[Classified]) {
    for one in kinds {
        let assign = match &rc.statements()[one.statement] {
            Statement::Code(code) => {
                files.note(format!("{}: code is kept: {}", rc.place(code.span.start), code.why));
                continue;
            }
            Statement::Assign(assign) if assign.value.as_deref().is_none_or(is_yes) => assign,
            Statement::Assign(_) => continue,
        };
        if one.kind == Kind::Jail && assign.name == "jail_enable" {
            let place = rc.place(assign.span.start);
            files.note(format!("{place}: the server has jails of its own; they do not come along"));
        }
        if let Some(why) = cannot(&assign.name).filter(|_| assign.name.ends_with("_enable")) {
            files.note(format!("{}: {}: a jail cannot: it {why}", rc.place(assign.span.start), assign.name));
        }
    }
}

/// The text without these statements; `None` if none of them is there.
pub(super) fn reduced(path: &Path, rc: &Rc, gone: &BTreeSet<usize>) -> Result<Option<String>, GuestError> {
    if gone.is_empty() {
        return Ok(None);
    }
    let text = rc.text();
    let mut starts = vec![0];
    starts.extend(text.match_indices('\n').map(|(at, _)| at + 1));
    let line = |at: usize| starts.partition_point(|start| *start <= at) - 1;
    let span = |statement: &Statement| match statement {
        Statement::Assign(assign) => assign.span.clone(),
        Statement::Code(code) => code.span.clone(),
    };
    let lines = |statement: &Statement| {
        let span = span(statement);
        line(span.start)..=line(span.end.saturating_sub(1).max(span.start))
    };
    let statements = rc.statements();
    let stays = |index: &usize| !gone.contains(index);
    let kept: BTreeSet<usize> =
        (0..statements.len()).filter(stays).flat_map(|index| lines(&statements[index])).collect();
    let (mut off, mut shared) = (BTreeSet::new(), BTreeSet::new());
    for statement in gone.iter().map(|index| &statements[*index]) {
        match (lines(statement).any(|line| kept.contains(&line)), statement) {
            (true, Statement::Assign(assign)) => drop(shared.insert(assign.name.as_str())),
            _ => off.extend(lines(statement)),
        }
    }
    let mut new = String::with_capacity(text.len() + 64);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if off.contains(&index) {
            new.push_str(COMMENT);
        }
        new.push_str(line);
    }
    let wrong = |why: String| unfit(path, why, "put each variable on a line of its own in the guest");
    if shared.len() > MAX_SHARED {
        return Err(wrong("has too many lines with several variables".to_owned()));
    }
    for name in shared {
        let cut = parse(path, &new)?.unset(name).map_err(|error| wrong(error.to_string()))?;
        new = cut.text().to_owned();
    }
    let after = parse(path, &new)?;
    let before: Vec<&str> = (0..statements.len()).filter(stays).map(|index| &text[span(&statements[index])]).collect();
    let left: Vec<&str> = after.statements().iter().map(|statement| &new[span(statement)]).collect();
    if before != left {
        return Err(wrong("cannot be reduced: its lines hang together".to_owned()));
    }
    Ok(Some(new))
}

/// Gives the guest another name: in rc.conf, where it is set last, and in hosts(5).
pub(super) fn rename(files: &mut Files<'_>, new: &str) -> Result<(), GuestError> {
    check(new)?;
    let all = self::files(files)?;
    let sets = |file: &&RcFile| file.rc.assigns().any(|assign| assign.name == "hostname");
    let file = all.iter().rfind(sets).or(all.first());
    let old = file.and_then(|file| file.rc.value("hostname").text().map(str::to_owned));
    if old.as_deref() == Some(new) {
        return Ok(());
    }
    let path = file.map_or(PathBuf::from(SYSTEM[0]), |file| file.path.clone());
    let empty = parse(&path, "")?;
    let set = file.map_or(&empty, |file| &file.rc).set("hostname", new);
    let set = set.map_err(|wrong| unfit(&path, wrong.to_string(), wrong.help.unwrap_or_default()))?;
    let why = format!("hostname {} becomes {new}", printable(old.as_deref().unwrap_or("(none)")));
    files.set(&path, set.text(), why.clone())?;
    let hosts = Path::new("etc/hosts");
    let (Some(old), Some(text)) = (old, files.text(hosts)?) else { return Ok(()) };
    let mut changed = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (entry, comment) = line.split_at(line.find('#').unwrap_or(line.len()));
        for word in entry.split_inclusive(char::is_whitespace) {
            let name = word.trim_end();
            let with = renamed(name, &old, new).filter(|_| !name.is_empty());
            changed.push_str(with.as_deref().unwrap_or(name));
            changed.push_str(&word[name.len()..]);
        }
        changed.push_str(comment);
    }
    if changed != text {
        files.set(hosts, &changed, why)?;
    }
    Ok(())
}
