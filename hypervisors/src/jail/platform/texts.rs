//! The texts on a host that its jails come of: rc.conf(5), jail.conf(5), what that includes, and files of one jail alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::conf::{Config, Dialect, Files};
use super::super::rc::Rc;
use super::super::wrong::{Place, Wrong};
use crate::host::{Command, printable};
use crate::{Cause, Change, Error, Host, Mark, Result, versions};

/// Where rc.d/jail finds variables, in the order in which they are read.
const RC: [&str; 3] = ["/etc/rc.conf", "/etc/rc.conf.local", "/etc/rc.conf.d/jail"];
const BASTILLE: &str = "/usr/local/etc/bastille/bastille.conf";
const ALL: [&str; 5] = ["/etc/jail.conf", "/etc/jail.*.conf", "/etc/jail.conf.d/*.conf", "/etc/fstab.*", BASTILLE];
/// Bytes that all texts together may have.
const LIMIT: usize = 8 << 20;
/// Rounds of includes.
const ROUNDS: usize = 32;

/// Arguments: prefix, then paths with wildcards. For each file that is there its length, its path and its bytes, each with a line feed.
const READ: &str = "r=$1; shift; IFS=; for p do for f in $r$p; do test -f \"$f\" || continue; n=$(($(wc -c <\"$f\"))); \
    test $n -le 1048576 || { echo \"$f is larger than 1 MiB\" >&2; exit 97; }; \
    printf '%s\\n%s\\n' $n \"${f#\"$r\"}\"; cat -- \"$f\" || exit 1; echo; done; done";

/// Arguments: path. Its permission bits in octal, by FreeBSD's stat(1) or by Linux's.
const MODE: &str =
    "test -e \"$1\" || exit 98; stat -f %Lp -- \"$1\" 2>/dev/null | grep '^[0-7][0-7]*$' || stat -c %a -- \"$1\"";

/// All that was read at one time.
#[derive(Clone, Debug)]
pub struct Texts {
    /// Which jail(8) reads them.
    pub dialect: Dialect,
    /// The files, by path.
    pub files: Files,
    /// What rc.conf and its like say together.
    pub rc: Rc,
}

/// Where the texts are.
#[derive(Clone, Debug)]
pub struct Shelf {
    host: Arc<dyn Host>,
    /// What stands before every path (tests).
    prefix: PathBuf,
}

/// A refusal to read or write what somebody wrote.
pub fn wrong(doing: impl Into<String>, wrong: Wrong) -> Error {
    let error = Error::new(doing, Cause::Malformed(wrong.to_string()));
    match wrong.help {
        Some(help) => error.help(help),
        None => error,
    }
}

impl Shelf {
    /// Of a machine.
    pub fn new(host: &Arc<dyn Host>, prefix: PathBuf) -> Self {
        Self { host: Arc::clone(host), prefix }
    }

    /// Reads all of it. `version`: as freebsd-version(1) says it.
    pub async fn read(&self, version: &str) -> Result<Texts> {
        let doing = format!("read the jails of {}", self.host.name());
        let dialect = dialect(version);
        let mut files = Files::new();
        let mut wanted: Vec<String> = RC.map(str::to_owned).to_vec();
        wanted.extend(ALL.map(str::to_owned));
        let mut asked: Vec<String> = Vec::new();
        for _ in 0..ROUNDS {
            let new: Vec<String> = wanted.iter().filter(|path| !asked.contains(path)).cloned().collect();
            if new.is_empty() {
                break;
            }
            files.extend(self.fetch(&doing, &new).await?);
            asked.extend(new);
            for root in roots(&files) {
                // An error in it is told where the file is used.
                wanted.extend(Config::wanted(&root, &files, dialect).unwrap_or_default());
            }
            wanted.extend(shared(&files)?);
        }
        let rc = joined(&files).map_err(|error| wrong(&*doing, error))?;
        Ok(Texts { dialect, files, rc })
    }

    /// Files by their paths, those that are there.
    pub async fn fetch(&self, doing: &str, paths: &[String]) -> Result<Files> {
        let prefix = self.prefix.to_string_lossy();
        let words = ["sh", "-c", READ, "sh", prefix.trim_end_matches('/')];
        let mut command = Command::new(words.into_iter().chain(paths.iter().map(String::as_str)));
        command.limit = LIMIT;
        let output = self.host.run(&command).await?;
        if output.truncated {
            return Err(Error::refused(doing, format!("its files have more than {} MiB together", LIMIT >> 20)));
        }
        let output = output.checked(doing, &command)?;
        framed(&output.stdout).map_err(|what| Error::new(doing, Cause::Malformed(what)))
    }

    /// Replaces a file, which is as it was read (`before`; `None`: not there); keeps its mode.
    pub async fn write(&self, path: &str, before: Option<&str>, after: &str) -> Result<Change> {
        let doing = format!("write {} on {}", printable(path), self.host.name());
        let at = self.at(path);
        let now = self.host.read_file(&at, 1 << 20).await?;
        if now.as_deref() == Some(after.as_bytes()) {
            return Ok(Change::Unchanged);
        }
        if now.as_deref() != before.map(str::as_bytes) {
            return Err(
                Error::unknown(doing, "somebody else wrote it at the same time").help("look at it, and try again")
            );
        }
        let mode = match before {
            Some(_) => self.mode(&doing, &at).await?,
            None => 0o644,
        };
        let versioned = versions::before(&self.host, &at).await;
        let change = self.host.write_file(&at, after.as_bytes(), mode).await?;
        let did = if before.is_none() { "define jails in" } else { "change" };
        versions::commit(versioned, format!("{did} {}", printable(path))).await;
        Ok(change)
    }

    /// Removes a file that is as it was read.
    pub async fn remove(&self, path: &str, before: &str) -> Result<Change> {
        let doing = format!("remove {} on {}", printable(path), self.host.name());
        let at = self.at(path);
        match self.host.read_file(&at, 1 << 20).await? {
            None => return Ok(Change::Unchanged),
            Some(now) if now != before.as_bytes() => {
                return Err(
                    Error::unknown(doing, "somebody else wrote it at the same time").help("look at it, and try again")
                );
            }
            Some(_) => {}
        }
        let versioned = versions::before(&self.host, &at).await;
        let command = Command::new(["rm".to_owned(), "--".to_owned(), at.to_string_lossy().into_owned()]);
        self.host.run(&command).await?.checked(doing, &command)?;
        versions::commit(versioned, format!("remove {}", printable(path))).await;
        Ok(Change::Removed)
    }

    async fn mode(&self, doing: &str, at: &Path) -> Result<u32> {
        let command = Command::new(["sh", "-c", MODE, "sh", &at.to_string_lossy()]);
        let output = self.host.run(&command).await?.checked(doing, &command)?;
        u32::from_str_radix(output.text().trim(), 8)
            .map_err(|_| Error::new(doing, Cause::Malformed("its mode could not be told".into())))
    }

    fn at(&self, path: &str) -> PathBuf {
        self.prefix.join(path.trim_start_matches('/'))
    }
}

/// `.include` came with 13.3 and 14.0 (jail.conf(5)).
fn dialect(version: &str) -> Dialect {
    let number = version.split('-').next().unwrap_or_default();
    let mut parts = number.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if (major, minor) >= (13, 3) { Dialect::Including } else { Dialect::Plain }
}

/// Files that are read by themselves, not by an include.
fn roots(files: &Files) -> Vec<String> {
    let mut roots: Vec<String> = files.keys().filter(|path| is_root(path)).cloned().collect();
    roots.extend(shared(files).unwrap_or_default().into_iter().filter(|path| files.contains_key(path)));
    roots.dedup();
    roots
}

/// `/etc/jail.conf`, `/etc/jail.NAME.conf`, `/etc/jail.conf.d/NAME.conf`.
fn is_root(path: &str) -> bool {
    let own = |rest: &str| rest.strip_suffix(".conf").is_some_and(|name| !name.is_empty() && !name.contains('/'));
    path == "/etc/jail.conf"
        || path.strip_prefix("/etc/jail.conf.d/").is_some_and(own)
        || path.strip_prefix("/etc/jail.").is_some_and(|rest| !rest.starts_with("conf.d/") && own(rest))
}

/// Another file of jails, where rc.conf names one.
fn shared(files: &Files) -> Result<Option<String>> {
    let Ok(rc) = joined(files) else { return Ok(None) };
    let value = rc.value("jail_conf");
    Ok(value.text().filter(|path| path.starts_with('/') && !path.contains(['*', '?', '['])).map(str::to_owned))
}

/// The files of variables as one, in the order in which they are read.
fn joined(files: &Files) -> Result<Rc, Wrong> {
    let texts = RC.iter().filter_map(|path| files.get(*path));
    let text = texts.fold(String::new(), |all, text| {
        let gap = if all.is_empty() || all.ends_with('\n') { "" } else { "\n" };
        all + gap + text
    });
    Rc::parse(RC[0], &text)
}

impl Texts {
    /// The configuration in which a jail is found: what rc.d/jail makes of its variables, or the first file of its order that is there.
    /// `None`: there is none.
    pub fn config_of(&self, jail: &str) -> Result<Option<Config>, Wrong> {
        let table = |path: &str| !path.starts_with("/etc/fstab.") || self.files.contains_key(path);
        if let Some(text) = self.rc.generated(jail, &table)? {
            let root = format!("/var/run/jail.{jail}.conf");
            return Config::read(&root, &Files::from([(root.clone(), text)]), self.dialect).map(Some);
        }
        let Some(root) = self.rc.jail_files(jail)?.into_iter().find(|path| self.files.contains_key(path)) else {
            return Ok(None);
        };
        let config = Config::read(&root, &self.files, self.dialect)?;
        Ok(config.jails().contains(&jail).then_some(config))
    }

    /// Every jail, with the configuration it stands in. A file that cannot be read is an error: it may hold an address.
    pub fn jails(&self) -> Result<BTreeMap<String, Config>, Wrong> {
        let mut all = BTreeMap::new();
        for root in roots(&self.files) {
            let config = Config::read(&root, &self.files, self.dialect)?;
            for jail in config.jails() {
                if !self.rc.is_old_style(jail)?
                    && self.rc.jail_files(jail)?.into_iter().find(|path| self.files.contains_key(path))
                        == Some(root.clone())
                {
                    all.insert(jail.to_owned(), config.clone());
                }
            }
        }
        for jail in self.rc.old_jails()? {
            all.extend(self.config_of(&jail)?.map(|config| (jail, config)));
        }
        Ok(all)
    }

    /// Whether the host defines its jails by variables of rc.conf: it has such jails, and no jail.conf.
    pub fn is_old_way(&self) -> Result<bool, Wrong> {
        Ok(roots(&self.files).is_empty() && !self.rc.old_jails()?.is_empty())
    }

    /// A jail's definition: its block, or its variables.
    pub fn definition_of(&self, jail: &str) -> Result<Option<String>, Wrong> {
        if self.rc.is_old_style(jail)? {
            return self.rc_of(jail)?.1.jail_text(jail);
        }
        self.config_of(jail)?.map(|config| config.block(jail).map(str::to_owned)).transpose()
    }

    /// The run mark of a jail that is defined in a configuration.
    pub fn mark_of(&self, config: &Config, jail: &str) -> Result<Option<Mark>, Wrong> {
        match self.rc.is_old_style(jail)? {
            true => self.rc.jail_mark(jail),
            false => config.mark(jail),
        }
    }

    /// The file of variables in which those of a jail stand; of a new one, those of the host's last jail.
    pub fn rc_of(&self, jail: &str) -> Result<(&'static str, Rc), Wrong> {
        let (mut own, mut others) = (Vec::new(), None);
        for path in RC {
            let Some(text) = self.files.get(path) else { continue };
            let rc = Rc::parse(path, text)?;
            let has = !rc.jail_variables(jail)?.is_empty();
            if has {
                own.push((path, rc));
            } else if !rc.old_jails()?.is_empty() {
                others = Some((path, rc));
            }
        }
        match (own.pop(), own.pop(), others) {
            (Some((path, _)), Some((other, _)), _) => {
                let what = format!("variables of the jail {jail} stand in {other} too");
                Err(Wrong::new(Place::whole(path), what).help("put all of them into one of the files"))
            }
            (Some(own), None, _) => Ok(own),
            (None, _, Some(others)) => Ok(others),
            (None, ..) => self.rc_with("jail_list"),
        }
    }

    /// Bastille's own configuration.
    pub fn bastille(&self) -> Option<&str> {
        self.files.get(BASTILLE).map(String::as_str)
    }

    /// The file of variables in which one is set last; rc.conf if none sets it.
    pub fn rc_with(&self, name: &str) -> Result<(&'static str, Rc), Wrong> {
        let mut found = None;
        for path in RC {
            let Some(text) = self.files.get(path) else { continue };
            let rc = Rc::parse(path, text)?;
            if found.is_none() || rc.assigns().any(|assign| assign.name == name) {
                found = Some((path, rc));
            }
        }
        match found {
            Some(found) => Ok(found),
            None => Ok((RC[0], Rc::parse(RC[0], "")?)),
        }
    }
}

/// Reads what [`READ`] prints.
fn framed(mut bytes: &[u8]) -> Result<Files, String> {
    let mut files = Files::new();
    let line = |bytes: &mut &[u8]| -> Option<String> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let line = String::from_utf8(bytes[..end].to_vec()).ok();
        *bytes = &bytes[end + 1..];
        line
    };
    while !bytes.is_empty() {
        let bad = || "the answer was not understood".to_owned();
        let length: usize = line(&mut bytes).and_then(|text| text.parse().ok()).ok_or_else(bad)?;
        let path = line(&mut bytes).ok_or_else(bad)?;
        let text = bytes.get(..length).ok_or_else(bad)?;
        let text = String::from_utf8(text.to_vec()).map_err(|error| {
            let line = 1 + text[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            format!("{}:{line}: it is not UTF-8", printable(&path))
        })?;
        bytes = bytes.get(length + 1..).ok_or_else(bad)?;
        files.insert(path, text);
    }
    Ok(files)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn includes_came_with_a_release() {
        for (version, including) in [
            ("12.4-RELEASE-p9", false),
            ("13.2-RELEASE", false),
            ("13.3-RELEASE-p1", true),
            ("14.0-RELEASE", true),
            ("15.0-CURRENT", true),
            ("", false),
        ] {
            assert_eq!(dialect(version) == Dialect::Including, including, "{version}");
        }
    }

    #[test]
    fn files_are_told_apart() {
        for path in ["/etc/jail.conf", "/etc/jail.web.conf", "/etc/jail.conf.d/web.conf"] {
            assert!(is_root(path), "{path}");
        }
        for path in [
            "/etc/rc.conf",
            "/etc/jail.conf.d/x/web.conf",
            "/etc/jail.conf.d/.conf",
            "/etc/jail..conf/x",
            "/etc/other.conf",
        ] {
            assert!(!is_root(path), "{path}");
        }
    }

    #[test]
    fn what_is_framed_is_read() {
        let files = framed(b"3\n/etc/rc.conf\na\nb\n0\n/etc/jail.conf\n\n").unwrap();
        assert_eq!(files.get("/etc/rc.conf").map(String::as_str), Some("a\nb"));
        assert_eq!(files.get("/etc/jail.conf").map(String::as_str), Some(""));
        for bad in [&b"x\n/p\n"[..], b"9\n/p\nabc\n", b"3\n/p\nabc", b"4"] {
            assert!(framed(bad).is_err(), "{bad:?}");
        }
        assert!(framed(b"3\n/etc/rc.conf\na\n\xff\n").unwrap_err().contains("/etc/rc.conf:2"));
    }
}
