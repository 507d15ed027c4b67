//! Services that must not run beside the server, off by their variable of rc.conf(5) before the jail's first start.
//!
//! The shipped list is that of every guest (`templates/quarantine.toml`); its names are compared with those of variables,
//! `-` as `_`, and without a version at a variable's end (`nrpe3_enable` is `nrpe`). A variable is set off at the end of the
//! last file that is read, so that it counts, and in the file of its own service. What has no variable (scripts of ports of
//! before 5.x, run because they can be) loses its permission to be run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hypervisors::jail::rc::{Rc, Value, is_yes};

use super::super::quarantine::{Held, shipped};
use super::super::tree::FileImage;
use super::rc::{PER_SERVICE, RcFile, defaults, files};
use super::{COMMENT, Files, GuestError, JailSpec, with_lines};

/// On unless rc.conf says otherwise, on every release, whatever the defaults that were brought say.
const ALWAYS: [&str; 2] = ["cron", "sendmail"];
/// Scripts that have `rcvar=`, and those that are run because they are executable.
const SCRIPTS: [&str; 2] = ["usr/local/etc/rc.d", "etc/rc.d"];

/// Plans it; returns what is held.
pub(super) fn rewrite(files: &mut Files<'_>, spec: &JailSpec) -> Result<Vec<Held>, GuestError> {
    let known = Known { files: self::files(files)?, defaults: defaults(files)? };
    let wanted = wanted(files, &known, spec)?;
    let mut held = scripts(files, spec)?;
    let mut lines: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    let system = known.files.iter().map(|file| &file.path).rfind(|path| !per_service(path));
    let system = system.cloned().unwrap_or_else(|| "etc/rc.conf".into());
    for (service, (reason, shipped)) in wanted.into_iter().filter(|(service, _)| known.is_on(service)) {
        let off: &[(&str, &str)] = match service.as_str() {
            "sendmail" => &[("", "NONE"), ("_submit", "NO"), ("_outbound", "NO"), ("_msp_queue", "NO")],
            _ => &[("", "NO")],
        };
        let said: Vec<String> =
            off.iter().map(|(part, value)| format!("{service}{part}_enable=\"{value}\" {COMMENT}{reason}")).collect();
        for file in known.files.iter().filter(|file| per_service(&file.path) && file.concerns(&service)) {
            lines.entry(file.path.clone()).or_default().extend(said.iter().cloned());
        }
        lines.entry(system.clone()).or_default().extend(said);
        held.push(Held { unit: service, reason, shipped });
    }
    for (path, lines) in lines {
        let text = files.text(&path)?.unwrap_or_default();
        files.set(&path, &with_lines(&text, &lines), "quarantine, until promotion")?;
    }
    held.sort_by(|a, b| a.unit.cmp(&b.unit));
    Ok(held)
}

fn per_service(path: &Path) -> bool {
    PER_SERVICE.iter().any(|directory| path.starts_with(directory))
}

impl RcFile {
    /// Whether it sets the variable, or is read for the service.
    fn concerns(&self, service: &str) -> bool {
        let variable = format!("{service}_enable");
        self.path.file_name().is_some_and(|name| name == service)
            || self.rc.assigns().any(|assign| assign.name == variable)
    }
}

/// What the files say of services.
struct Known {
    files: Vec<RcFile>,
    defaults: Option<Rc>,
}

impl Known {
    fn is_on(&self, service: &str) -> bool {
        if service == "sendmail" {
            // Its queue runs, and this machine's own mail is sent, unless each is off by itself or all are by NONE.
            let none = matches!(self.last("sendmail"), Value::Is(value) if value.eq_ignore_ascii_case("NONE"));
            let parts = ["sendmail", "sendmail_submit", "sendmail_outbound", "sendmail_msp_queue"];
            let off = |part: &str| matches!(self.last(part), Value::Is(value) if !is_yes(&value));
            return !none && !parts.into_iter().all(off);
        }
        match self.last(service) {
            Value::Is(value) => is_yes(&value),
            // It is set again behind the code, so that it counts.
            Value::Unknown(_) => true,
            Value::Unset => {
                let default = self.defaults.as_ref().map(|rc| rc.value(&format!("{service}_enable")));
                ALWAYS.contains(&service) || default.is_some_and(|value| is_yes(value.text().unwrap_or_default()))
            }
        }
    }

    /// What the last file that sets a service's variable says.
    fn last(&self, service: &str) -> Value {
        let values = self.files.iter().rev().map(|file| known(&file.rc, &format!("{service}_enable")));
        values.into_iter().find(|value| *value != Value::Unset).unwrap_or(Value::Unset)
    }

    /// Services that have a variable here.
    fn services(&self) -> Vec<String> {
        let all = self.files.iter().map(|file| &file.rc).chain(&self.defaults);
        let names = all.flat_map(|rc| rc.assigns().filter_map(|assign| assign.name.strip_suffix("_enable")));
        let mut names: Vec<String> = names.chain(ALWAYS).map(str::to_owned).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// A value; behind code that may set it, an assignment that is known counts all the same.
fn known(rc: &Rc, variable: &str) -> Value {
    let value = rc.value(variable);
    let Value::Unknown(place) = &value else { return value };
    let last = rc.assigns().filter(|assign| assign.name == variable).last();
    let behind = last.filter(|last| rc.place(last.span.start) > *place).and_then(|last| last.value.clone());
    // Behind a here-document nothing is told apart from it but what was written here before.
    let ours = || {
        let line = rc.text().lines().rfind(|line| line.starts_with(variable) && line.contains(COMMENT))?;
        let value = line[variable.len()..].strip_prefix("=\"")?;
        value.split_once('"').map(|(value, _)| value.to_owned())
    };
    behind.or_else(ours).map_or(value, Value::Is)
}

/// Services to be off, each with the reason, and whether it is the shipped list's.
fn wanted(
    files: &mut Files<'_>,
    known: &Known,
    spec: &JailSpec,
) -> Result<BTreeMap<String, (String, bool)>, GuestError> {
    let mut wanted = BTreeMap::new();
    let services = known.services();
    for service in &services {
        if let Some(reason) = on_the_list(service)? {
            wanted.insert(service.clone(), (reason.to_owned(), true));
        }
    }
    for name in &spec.quarantine {
        let service = plain(name.strip_suffix("_enable").unwrap_or(name));
        let mut by_script = None;
        let mut there = services.contains(&service);
        for directory in SCRIPTS {
            let text = files.text(&Path::new(directory).join(name))?;
            there |= text.is_some() || files.edits.image(&Path::new(directory).join(format!("{name}.sh")))?.is_some();
            by_script = by_script.or_else(|| text.as_deref().and_then(variable_of));
        }
        if !there {
            files.note(format!("quarantine: nothing here is called {name}"));
        }
        wanted.entry(by_script.unwrap_or(service)).or_insert_with(|| ("named in the inventory".to_owned(), false));
    }
    Ok(wanted)
}

/// Why a service is on the shipped list.
fn on_the_list(service: &str) -> Result<Option<&'static str>, GuestError> {
    let bare = service.trim_end_matches(|c: char| c.is_ascii_digit());
    let found = shipped()?.find(|(name, _)| {
        let name = plain(name);
        name == service || name == bare
    });
    Ok(found.map(|(_, reason)| reason))
}

/// A name as variables have it.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// The service whose variable a script names: `rcvar=mysql_enable`.
fn variable_of(script: &str) -> Option<String> {
    let value = script.lines().find_map(|line| line.trim_start().strip_prefix("rcvar="))?;
    let service = value.trim().trim_matches(['"', '\'']).strip_suffix("_enable")?;
    (!service.is_empty() && service.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
        .then(|| service.to_owned())
}

/// Scripts without a variable, which are run because they are executable: rc(8) before 5.x, rc.d/localpkg after.
fn scripts(files: &mut Files<'_>, spec: &JailSpec) -> Result<Vec<Held>, GuestError> {
    let mut held = Vec::new();
    for path in files.names(SCRIPTS[0])? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".sh")) else { continue };
        // `010.postfix.sh`: the number is for the order.
        let service = name.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches('.');
        let Ok(Some(FileImage::Regular { bytes, mode, uid, gid, xattrs })) = files.edits.image(&path) else { continue };
        let has_variable = super::decoded(bytes.clone()).contains("rc.subr");
        let shipped = on_the_list(&plain(service))?;
        let named = spec.quarantine.iter().any(|wanted| wanted == service);
        if mode & 0o111 == 0 || has_variable || (shipped.is_none() && !named) {
            continue;
        }
        let image = FileImage::Regular { bytes, mode: mode & !0o111, uid, gid, xattrs };
        files.edits.put(&path, Some(image), "quarantine, until promotion")?;
        let reason = shipped.unwrap_or("named in the inventory").to_owned();
        held.push(Held { unit: name.to_owned(), reason, shipped: shipped.is_some() });
    }
    Ok(held)
}
