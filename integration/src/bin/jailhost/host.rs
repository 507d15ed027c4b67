//! The pretended host: where its files are, and what it is.

use std::path::{Path, PathBuf};

use crate::persona::Persona;

/// Where everything is. Made once, when a stand-in starts.
pub struct Host {
    /// What stands before every path of the pretended system; `/` in a guest.
    pub root: PathBuf,
    /// The directory of the state: files one can read and edit.
    pub state: PathBuf,
    /// Which system is pretended.
    pub persona: Persona,
}

impl Host {
    /// From `$JAILHOST_ROOT` and `$JAILHOST_STATE`.
    pub fn open() -> Result<Self, String> {
        let from =
            |name: &str, otherwise: &str| PathBuf::from(std::env::var_os(name).unwrap_or_else(|| otherwise.into()));
        let root = from("JAILHOST_ROOT", "/");
        let state = from("JAILHOST_STATE", "/var/db/jailhost");
        std::fs::create_dir_all(&state).map_err(|wrong| format!("{}: {wrong}", state.display()))?;
        let persona = Persona::read(&state.join("persona"))?;
        Ok(Self { root, state, persona })
    }

    /// Where a path of the pretended system is on this machine. A path that is there already, and a relative one, stay.
    pub fn path(&self, pretended: impl AsRef<Path>) -> PathBuf {
        let pretended = pretended.as_ref();
        if !pretended.is_absolute() || pretended.starts_with(&self.root) {
            return pretended.to_owned();
        }
        self.root.join(pretended.strip_prefix("/").unwrap_or(pretended))
    }

    /// How the pretended system calls a path of this machine.
    pub fn pretended(&self, path: &str) -> String {
        match Path::new(path).strip_prefix(&self.root) {
            Ok(rest) => format!("/{}", rest.display()),
            Err(_) => path.to_owned(),
        }
    }

    /// The text of a file of the pretended system.
    pub fn read(&self, pretended: impl AsRef<Path>) -> std::io::Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(self.path(pretended))?).into_owned())
    }

    /// A file or directory of the state.
    pub fn of_state(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// The text of a file of the state, empty if there is none.
    pub fn state_text(&self, name: &str) -> String {
        std::fs::read_to_string(self.state.join(name)).unwrap_or_default()
    }

    /// Writes a file of the state, whole or not at all.
    pub fn write_state(&self, name: &str, text: &str) {
        let at = self.state.join(name);
        let beside = at.with_extension(format!("new{}", std::process::id()));
        let written = std::fs::create_dir_all(at.parent().unwrap_or(&self.state))
            .and_then(|()| std::fs::write(&beside, text))
            .and_then(|()| std::fs::rename(&beside, &at));
        if let Err(wrong) = written {
            crate::say::err(&format!("jailhost: {}: {wrong}\n", at.display()));
            std::process::exit(70);
        }
    }

    /// Takes away a file of the state that may not be there.
    pub fn remove_state(&self, name: &str) {
        let _ = std::fs::remove_file(self.state.join(name));
    }

    /// One stand-in at a time changes the state; the lock goes with what is returned.
    pub fn lock(&self) -> impl Drop + use<> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(self.state.join("lock"));
        let locked = file.map_err(|wrong| wrong.to_string()).and_then(|file| {
            nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, wrong)| wrong.to_string())
        });
        match locked {
            Ok(lock) => lock,
            Err(wrong) => {
                crate::say::err(&format!("jailhost: {}: {wrong}\n", self.state.display()));
                std::process::exit(70);
            }
        }
    }
}
