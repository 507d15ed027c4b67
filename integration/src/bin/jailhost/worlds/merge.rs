//! What `etcupdate` does with each file: what stock was, what it is now, what is installed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{databases, make};
use crate::host::Host;
use crate::say;

/// Two that are links to root's own, and always left alone.
pub fn is_ignored(file: &Path) -> bool {
    [".cshrc", ".profile"].iter().any(|name| Path::new(name) == file)
}

/// A passage over two trees.
pub struct Merge<'a> {
    host: &'a Host,
    destination: &'a str,
    work: &'a str,
    old: &'a Path,
    new: &'a Path,
    dry: bool,
    /// What the log says.
    pub log: String,
    /// What is said at the end, lines.
    pub warnings: Vec<String>,
}

impl<'a> Merge<'a> {
    /// From the old stock to the new.
    pub fn new(host: &'a Host, destination: &'a str, work: &'a str, old: &'a Path, new: &'a Path, dry: bool) -> Self {
        Self { host, destination, work, old, new, dry, log: String::new(), warnings: Vec::new() }
    }

    /// Everything: what is gone, what is in both, what is new.
    pub fn all(&mut self, only_accounts: bool) {
        let accounts = [PathBuf::from("etc/master.passwd"), PathBuf::from("etc/group")];
        let of = |tree: &Path| -> BTreeSet<PathBuf> {
            let files = make::files(tree).into_iter().filter(|file| !only_accounts || accounts.contains(file));
            files.filter(|file| !tree.join(file).is_dir()).collect()
        };
        let (old, new) = (of(self.old), of(self.new));
        for file in old.difference(&new) {
            self.removed(file);
        }
        for file in old.intersection(&new) {
            self.both(file);
        }
        for file in new.difference(&old) {
            self.added(file);
        }
    }

    fn installed(&self, file: &Path) -> PathBuf {
        self.host.path(self.destination).join(file)
    }

    /// A name of the pretended host, for the log.
    fn shown(&self, path: &Path) -> String {
        self.host.pretended(&path.display().to_string())
    }

    fn says(&self, letter: char, file: &Path) {
        say::out(&format!("  {letter} /{}\n", file.display()));
    }

    fn removed(&mut self, file: &Path) {
        let installed = self.installed(file);
        match std::fs::read(&installed) {
            Err(_) => {}
            Ok(text) if Some(&text) == std::fs::read(self.old.join(file)).ok().as_ref() => {
                self.says('D', file);
                if !self.dry {
                    self.log += &format!(">>> rm -f {}\n", self.shown(&installed));
                    let _ = std::fs::remove_file(installed);
                }
            }
            Ok(_) => self.warnings.push(format!("  Modified regular file remains: /{}\n", file.display())),
        }
    }

    fn both(&mut self, file: &Path) {
        let installed = self.installed(file);
        let (old, new, own) = (
            std::fs::read(self.old.join(file)).ok(),
            std::fs::read(self.new.join(file)).ok(),
            std::fs::read(&installed).ok(),
        );
        if is_ignored(file) {
            if own.is_some() && own != new {
                self.log += &format!(">>> IGNORE: modified file /{}\n", file.display());
            }
            return;
        }
        if old == new {
            return;
        }
        if own == new {
            return;
        }
        if own.is_none() {
            self.warnings.push(format!("  Removed file changed: /{}\n", file.display()));
            return;
        }
        if own == old {
            self.says('U', file);
            self.install(file);
            return;
        }
        match self.merged(file, &installed, &["-E", "-m"]) {
            (true, text) => {
                self.says('M', file);
                if !self.dry {
                    let new = self.new.join(file);
                    self.log += &format!(
                        ">>> diff3 -E -m {} {} {}\n",
                        self.shown(&installed),
                        self.shown(&self.old.join(file)),
                        self.shown(&new)
                    );
                    let _ = std::fs::write(&installed, text);
                    self.after(file);
                }
            }
            (false, _) => {
                self.says('C', file);
                let (_, text) = self.merged(file, &installed, &["-m", "-A"]);
                self.conflict(file, &installed, &text);
            }
        }
    }

    fn added(&mut self, file: &Path) {
        let installed = self.installed(file);
        let (new, own) = (std::fs::read(self.new.join(file)).ok(), std::fs::read(&installed).ok());
        match own {
            None => {
                self.says('A', file);
                self.install(file);
            }
            own if own == new => {}
            Some(own) => {
                self.says('C', file);
                let mut text = b"<<<<<<< yours\n".to_vec();
                text.extend(own);
                text.extend(b"||||||| original\n=======\n");
                text.extend(new.unwrap_or_default());
                text.extend(b">>>>>>> new\n");
                self.conflict(file, &installed, &text);
            }
        }
    }

    fn conflict(&mut self, file: &Path, installed: &Path, text: &[u8]) {
        if self.dry {
            return;
        }
        let conflict = self.host.path(self.work).join("conflicts").join(file);
        if let Some(above) = conflict.parent()
            && !above.is_dir()
        {
            self.log += &format!(">>> install -d -o root -g wheel -m 0755 {}\n", self.shown(above));
            let _ = std::fs::create_dir_all(above);
        }
        self.log += &format!(">>> diff3 -m -A {} {}\n", self.shown(installed), self.shown(&conflict));
        let _ = std::fs::write(conflict, text);
    }

    /// Whether it merges, and what comes out.
    fn merged(&self, file: &Path, installed: &Path, how: &[&str]) -> (bool, Vec<u8>) {
        let mut run = Command::new("/usr/bin/diff3");
        run.args(how)
            .args(["-L", "yours", "-L", "original", "-L", "new"])
            .arg(installed)
            .arg(self.old.join(file))
            .arg(self.new.join(file));
        match run.output() {
            Ok(said) => (said.status.success(), said.stdout),
            Err(wrong) => {
                say::err(&format!("jailhost: /usr/bin/diff3: {wrong}\n"));
                std::process::exit(70);
            }
        }
    }

    fn install(&mut self, file: &Path) {
        if !self.dry {
            let (new, installed) = (self.new.join(file), self.installed(file));
            self.log += &format!(">>> cp -Rp {} {}\n", self.shown(&new), self.shown(&installed));
            let _ = make::put(&new, &installed);
        }
        self.after(file);
    }

    /// What a changed file needs. Of a jail's aliases it can only be said.
    fn after(&mut self, file: &Path) {
        if file == Path::new("etc/mail/aliases") && !self.destination.is_empty() {
            self.warnings
                .push("  Needs update: /etc/mail/aliases.db (requires manual update via newaliases(1))\n".to_owned());
        } else if !self.dry {
            self.log += &after(self.host, self.destination, &file.display().to_string());
        }
    }
}

/// Makes the database of a changed file; what the log says of it.
pub fn after(host: &Host, destination: &str, file: &str) -> String {
    let at = |path: &str| format!("{destination}/{path}");
    let (name, arguments): (&str, Vec<String>) = match file {
        "etc/master.passwd" => ("pwd_mkdb", vec!["-p".to_owned(), "-d".to_owned(), at("etc"), at(file)]),
        "etc/login.conf" => ("cap_mkdb", vec![at(file)]),
        "etc/services" => ("services_mkdb", vec!["-q".to_owned(), "-o".to_owned(), at("var/db/services.db"), at(file)]),
        _ => return String::new(),
    };
    let _ = match name {
        "pwd_mkdb" => databases::pwd_mkdb(host, &arguments),
        "cap_mkdb" => databases::cap_mkdb(host, &arguments),
        _ => databases::services_mkdb(host, &arguments),
    };
    format!(">>> {name} {}\n", arguments.join(" "))
}
