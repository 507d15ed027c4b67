//! The texts of jails: what is edited is read back, all else stays, and the way back leads to the same bytes.

use std::path::Path;

use super::{shown, text};
use crate::jail::conf::edit::{Change, Setting};
use crate::jail::conf::{Config, Dialect, Files};
use crate::jail::managed::{Known, managed};
use crate::jail::rc::variables::derived;
use crate::jail::rc::{Rc, Value};
use crate::jail::{Wrong, address};
use crate::{Definition, DefinitionEdit, DiskEdit, Mark, Role, VolumeKind, VolumeRef};

/// What is wrong may be shown; nothing else is wanted of it.
fn told(wrong: &Wrong) {
    shown(&wrong.to_string());
}

pub(super) fn addresses(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    let other = ["10.0.5.16".parse(), "2001:db8::16".parse()];
    for line in text.lines().take(8) {
        managed(&Known {
            name: line,
            path: Some(line),
            file: Some(line),
            bastille_conf: Some(&text),
            ..Known::default()
        });
    }
    for line in text.lines() {
        let Ok(found) = address::read(line) else { continue };
        assert_eq!(address::write(&found), line);
        for (address, new) in found.iter().flat_map(|address| other.iter().flatten().map(move |new| (address, new))) {
            let Ok(moved) = address.with_ip(*new) else { continue };
            let again = address::read(&moved.to_string());
            assert!(again.as_ref().is_ok_and(|again| again.len() == 1 && again[0] == moved), "{line:?}: {again:?}");
            assert_eq!(
                (&moved.interface, moved.prefix, &moved.options),
                (&address.interface, address.prefix, &address.options)
            );
        }
    }
}

pub(super) fn conf(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    let name = "/etc/jail.conf";
    let files = Files::from([(name.to_owned(), text.to_string())]);
    for dialect in [Dialect::Plain, Dialect::Including] {
        if let Err(wrong) = Config::wanted(name, &files, dialect) {
            told(&wrong);
        }
        let Ok(config) = Config::read(name, &files, dialect).inspect_err(told) else { continue };
        // What is edited is the same to both.
        let (read, edited) = if dialect == Dialect::Plain { (2, 0) } else { (0, 2) };
        for jail in config.jails().into_iter().take(read) {
            drop(config.effective(jail).inspect_err(told));
        }
        for jail in config.jails().into_iter().take(edited) {
            edits(&config, jail, &text);
        }
    }
}

fn edits(config: &Config, jail: &str, text: &str) {
    let Ok(before) = config.effective(jail).inspect_err(told) else { return };
    assert!(before.params.iter().all(|param| param.places.iter().all(|place| place.line > 0)));
    assert_eq!(config.edit(jail, &[]).map(|edited| edited.text).as_deref(), Ok(text), "an edit of nothing");
    let block = config.block(jail).unwrap_or_default();
    let set = |name: &str, values: &[&str]| {
        Change::Set(name.to_owned(), Setting::Values(values.iter().map(|value| (*value).to_owned()).collect()))
    };
    let changes = [
        set("path", &["/data/it's $name"]),
        set("ip4.addr", &["em0|10.0.5.16/24", "10.0.5.17"]),
        Change::Set("mount.devfs".to_owned(), Setting::Flag(false)),
    ];
    for change in &changes {
        let Ok(edited) = config.edit(jail, std::slice::from_ref(change)).inspect_err(told) else { continue };
        let Ok(after) = edited.config.effective(jail) else {
            panic!("what was edited is not read again\n{}", edited.text)
        };
        let done = match change {
            Change::Set(name, Setting::Values(values)) => after.list(name).iter().eq(values),
            Change::Set(name, Setting::Flag(on)) => after.flag(name) == *on,
            _ => true,
        };
        assert!(done, "{change:?}\n{}", edited.text);
        let back = edited.config.with_block(jail, block).map(|back| back.text);
        assert_eq!(back.as_deref(), Ok(text), "{change:?}");
    }
    let mark = Some(Mark { run: "mercure--k3f9".into(), role: Role::Clone });
    if let (Ok(None), Ok(marked)) = (config.mark(jail), config.edit(jail, &[Change::Mark(mark.clone())])) {
        assert_eq!(marked.config.mark(jail), Ok(mark));
        let gone = marked.config.edit(jail, &[Change::Mark(None)]).map(|gone| gone.text);
        assert_eq!(gone.as_deref(), Ok(text), "a mark");
    }
    if let Ok(copy) = config.copy(jail, "mercure--k3f9", &changes[..1]).inspect_err(told) {
        let gone = copy.config.remove("mercure--k3f9").map(|gone| gone.text);
        assert_eq!(gone.as_deref(), Ok(text), "a copy");
    }
}

pub(super) fn rc_conf(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    let Ok(rc) = Rc::parse("/etc/rc.conf", &text).inspect_err(told) else { return };
    for assign in rc.assigns() {
        assert!(text[assign.span.clone()].starts_with(&assign.name));
    }
    assert_eq!(rc.kinds().len(), rc.statements().len());
    rc.code().for_each(|(place, _)| shown(&place.to_string()));
    for jail in rc.jail_list().inspect_err(told).ok().flatten().unwrap_or_default().iter().take(3) {
        let _ = (rc.generated(jail, &|_| true).inspect_err(told), rc.jail_files(jail));
    }
    for jail in rc.old_jails().inspect_err(told).unwrap_or_default().iter().take(3) {
        by_variables(&rc, jail, &text);
    }
    let new = "jail_k3f9_rootdir=\"/data/k3f9\"\njail_k3f9_hostname=\"k3f9\"";
    if let (Ok(None), Ok(more)) = (rc.jail_text("k3f9"), rc.with_jail("k3f9", new).inspect_err(told)) {
        let own = rc.jail_variables("k3f9").is_ok_and(|own| own.is_empty());
        let gone = more.without_jail("k3f9").map(|gone| gone.text().to_owned());
        assert!(!own || gone.as_deref() == Ok(&*text), "{gone:?}");
    }
    for alias in rc.aliases().iter().take(3) {
        let Ok(new) = "10.0.5.16".parse() else { continue };
        if let Ok(moved) = rc.set_address(&alias.variable, alias.ip, new).inspect_err(told) {
            assert!(moved.aliases().iter().any(|found| found.ip == new), "{}", moved.text());
        }
        let _ = rc.next_alias(&alias.interface).inspect_err(told);
    }
    for name in ["sshd_enable", "jail_list"] {
        let Ok(set) = rc.set(name, "it's $5").inspect_err(told) else { continue };
        assert_eq!(set.value(name), Value::Is("it's $5".to_owned()));
        if rc.value(name) == Value::Unset {
            assert_eq!(set.unset(name).map(|gone| gone.text().to_owned()).as_deref(), Ok(&*text), "{name}");
        }
    }
    if let Ok(more) = rc.add_word("jail_list", "k3f9").inspect_err(told) {
        assert!(more.words("jail_list").iter().any(|word| word == "k3f9"));
        let gone = more.remove_word("jail_list", "k3f9");
        assert!(gone.is_ok_and(|gone| gone.words("jail_list").iter().all(|word| word != "k3f9")));
    }
}

/// A jail of the old way is put elsewhere, and back.
fn by_variables(rc: &Rc, jail: &str, text: &str) {
    let Ok(Some(old)) = rc.jail_text(jail).inspect_err(told) else { return };
    let old = Definition { name: jail.to_owned(), text: old };
    let root = VolumeRef { kind: VolumeKind::Directory, path: "/data/mercure--k3f9".into() };
    let disks = [("/".to_owned(), DiskEdit::Source(root))].into();
    let mark = Some(Some(Mark { run: "mercure--k3f9".into(), role: Role::Production }));
    let Ok(new) = derived(&old, &DefinitionEdit { mark, disks, ..DefinitionEdit::default() }).inspect_err(told) else {
        return;
    };
    let Ok(after) = rc.with_jail(jail, &new.text).inspect_err(told) else { return };
    assert_eq!(after.jail_text(jail).ok().flatten().as_deref(), Some(&*new.text));
    let back = after.with_jail(jail, &old.text).map(|back| back.text().to_owned());
    assert_eq!(back.as_deref(), Ok(text), "{jail}");
}
