//! The file `persona` of the state: which system is pretended, a line `key = "value"` each. A key that is not known is an
//! error. Without the file it is the host on which the recordings were made.

use std::path::Path;

/// Which system is pretended. The names are the file's keys.
#[derive(Debug, Clone)]
pub struct Persona {
    /// The userland's release, as `freebsd-version -u` prints it.
    pub release: String,
    /// The running kernel's release, `uname -r` and `freebsd-version -r`.
    pub kernel: String,
    /// `kern.osreldate`.
    pub osreldate: String,
    /// The host's name.
    pub hostname: String,
    /// The kernel's configuration, the last but one word of `uname -a`.
    pub ident: String,
    /// `uname -m` and `-p`.
    pub arch: String,
    /// `kern.securelevel`: from 1 on no flag is taken off.
    pub securelevel: i32,
    /// Interfaces: "state" or "real".
    pub network: Real,
    /// What jails run: "recorded" or "real".
    pub processes: Real,
    /// With `-L` dump reads: "live" what is on the device after a sync, or "copy" a copy of its image.
    pub snapshot: String,
    /// `interface.NAME = "THIS MACHINE'S"`: names of interfaces where they differ.
    pub interfaces: Vec<(String, String)>,
}

/// Whether something is done on this machine or only noted in the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Real {
    /// With the machine's own means.
    Real,
    /// In the state alone.
    Noted,
}

impl Default for Persona {
    fn default() -> Self {
        Self {
            release: "13.2-RELEASE".to_owned(),
            kernel: "13.2-RELEASE".to_owned(),
            osreldate: "1302001".to_owned(),
            hostname: "jailhost".to_owned(),
            ident: "LAB".to_owned(),
            arch: "amd64".to_owned(),
            securelevel: -1,
            network: Real::Noted,
            processes: Real::Noted,
            snapshot: "live".to_owned(),
            interfaces: Vec::new(),
        }
    }
}

impl Persona {
    /// Reads the file; a missing one is the default.
    pub fn read(at: &Path) -> Result<Self, String> {
        match std::fs::read_to_string(at) {
            Ok(text) => Self::parse(&text).map_err(|wrong| format!("{}: {wrong}", at.display())),
            Err(wrong) if wrong.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(wrong) => Err(format!("{}: {wrong}", at.display())),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut persona = Self::default();
        let mut kernel = None;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) = line.split_once('=').ok_or_else(|| format!("not key = value: {line}"))?;
            let value = value.trim().trim_matches('"').to_owned();
            match key.trim() {
                "release" => persona.release = value,
                "kernel" => kernel = Some(value),
                "osreldate" => persona.osreldate = value,
                "hostname" => persona.hostname = value,
                "ident" => persona.ident = value,
                "arch" => persona.arch = value,
                "securelevel" => persona.securelevel = value.parse().map_err(|_| format!("not a number: {line}"))?,
                "network" => persona.network = real(&value, "state")?,
                "processes" => persona.processes = real(&value, "recorded")?,
                "snapshot" if ["live", "copy"].contains(&value.as_str()) => persona.snapshot = value,
                key if key.starts_with("interface.") => {
                    persona.interfaces.push((key["interface.".len()..].to_owned(), value));
                }
                _ => return Err(format!("not understood: {line}")),
            }
        }
        persona.kernel = kernel.unwrap_or_else(|| persona.release.clone());
        Ok(persona)
    }

    /// The release's first number.
    pub fn major(&self) -> u32 {
        self.release.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).unwrap_or(13)
    }

    /// What this machine calls an interface.
    pub fn real_interface(&self, pretended: &str) -> String {
        let own = self.interfaces.iter().find(|(name, _)| name == pretended);
        own.map_or_else(|| pretended.to_owned(), |(_, real)| real.clone())
    }
}

fn real(value: &str, noted: &str) -> Result<Real, String> {
    match value {
        "real" => Ok(Real::Real),
        value if value == noted => Ok(Real::Noted),
        value => Err(format!("neither \"real\" nor \"{noted}\": {value}")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::{Persona, Real};

    #[test]
    fn the_kernel_is_the_releases_unless_said_otherwise() {
        let persona = Persona::parse("# a comment\nrelease = \"4.10-RELEASE\"\nprocesses = \"real\"\n").unwrap();
        assert_eq!((persona.kernel.as_str(), persona.major()), ("4.10-RELEASE", 4));
        assert_eq!((persona.processes, persona.network), (Real::Real, Real::Noted));
        assert!(Persona::parse("relase = \"4.10\"").unwrap_err().contains("relase"));
        assert!(Persona::parse("network = \"yes\"").is_err());
    }
}
