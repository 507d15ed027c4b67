//! `dpkg-query`, `dpkg`, `apt-mark`, and the package database `/var/lib/dpkg/status` (deb822 stanzas).

use std::io;

use super::{Inside, fail, operands, out};
use crate::host::Output;

pub(super) const STATUS: &str = "/var/lib/dpkg/status";

/// One stanza of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Package {
    pub name: String,
    /// `install ok installed`: what is wanted, whether that is sound, what is.
    pub status: String,
    pub version: String,
    pub architecture: String,
    /// The stanza's other lines.
    rest: String,
}

impl Package {
    /// A package that is installed.
    pub fn installed(name: &str, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            status: "install ok installed".into(),
            version: version.to_owned(),
            architecture: "amd64".into(),
            rest: String::new(),
        }
    }
    pub fn held(&self) -> bool {
        self.status.starts_with("hold ")
    }
    pub fn half_done(&self) -> bool {
        self.status.ends_with(" half-configured") || self.status.ends_with(" unpacked")
    }
    /// Sets the third word of the status.
    pub fn set_state(&mut self, state: &str) {
        let want = self.status.split(' ').next().unwrap_or("install");
        self.status = format!("{want} ok {state}");
    }
    /// As `${db:Status-Abbrev}`: wanted, is, error.
    fn abbreviation(&self) -> String {
        let words: Vec<&str> = self.status.split(' ').collect();
        let want = match words.first() {
            Some(&"install") => 'i',
            Some(&"hold") => 'h',
            Some(&"deinstall") => 'r',
            Some(&"purge") => 'p',
            _ => 'u',
        };
        let is = match words.last() {
            Some(&"installed") => 'i',
            Some(&"half-configured") => 'F',
            Some(&"unpacked") => 'U',
            Some(&"config-files") => 'c',
            Some(&"half-installed") => 'H',
            _ => 'n',
        };
        format!("{want}{is} ")
    }
}

/// A package in a format of dpkg-query(1): `${Field}` is a field of the stanza, nothing if it has none.
fn shown(format: &str, package: &Package) -> String {
    let mut parts = format.split("${");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (field, after) = part.split_once('}').unwrap_or((part, ""));
        match field {
            "Package" | "binary:Package" => text += &package.name,
            "Version" => text += &package.version,
            "Architecture" => text += &package.architecture,
            "Status" => text += &package.status,
            "db:Status-Status" => text += package.status.rsplit(' ').next().unwrap_or_default(),
            "db:Status-Abbrev" => text += &package.abbreviation(),
            other => {
                let value = |line: &str| Some(line.strip_prefix(other)?.strip_prefix(": ")?.to_owned());
                text += &package.rest.lines().find_map(value).unwrap_or_default();
            }
        }
        text += after;
    }
    text
}

fn parse(text: &str) -> Vec<Package> {
    let stanza = |stanza: &str| {
        let mut package = Package::installed("", "");
        for line in stanza.lines() {
            match line.split_once(": ") {
                Some(("Package", value)) => package.name = value.to_owned(),
                Some(("Status", value)) => package.status = value.to_owned(),
                Some(("Version", value)) => package.version = value.to_owned(),
                Some(("Architecture", value)) => package.architecture = value.to_owned(),
                _ => package.rest += &format!("{line}\n"),
            }
        }
        package
    };
    text.split("\n\n").filter(|part| part.contains("Package: ")).map(|part| stanza(part.trim_matches('\n'))).collect()
}

impl Inside<'_> {
    pub(super) fn packages(&self) -> io::Result<Vec<Package>> {
        Ok(parse(&self.read(STATUS)?))
    }

    pub(super) fn set_packages(&self, packages: &[Package]) -> io::Result<()> {
        let stanza = |p: &Package| {
            let Package { name, status, version, architecture, rest } = p;
            format!("Package: {name}\nStatus: {status}\nArchitecture: {architecture}\nVersion: {version}\n{rest}\n")
        };
        self.write(STATUS, &packages.iter().map(stanza).collect::<String>())
    }

    pub(super) fn dpkg_query(&self, args: &[&str]) -> Output {
        let Ok(packages) = self.packages() else { return fail(2, "dpkg-query: error: no package database") };
        let format = args.iter().enumerate().find_map(|(index, word)| match *word {
            "-f" => args.get(index + 1).copied(),
            word => word.strip_prefix("-f=").or(word.strip_prefix("--showformat=")).or(word.strip_prefix("-f")),
        });
        let format = format.unwrap_or("${Package}\t${Version}\n").replace("\\t", "\t").replace("\\n", "\n");
        let wanted = operands(args).into_iter().filter(|word| *word != format).collect::<Vec<_>>();
        let mut text = String::new();
        for package in packages.iter().filter(|package| wanted.is_empty() || wanted.contains(&package.name.as_str())) {
            text += &shown(&format, package);
        }
        let missing = wanted.iter().find(|name| !packages.iter().any(|package| package.name == **name));
        match missing {
            Some(name) => Output {
                stdout: text.into_bytes(),
                ..fail(1, format!("dpkg-query: no packages found matching {name}"))
            },
            None => out(text),
        }
    }

    pub(super) fn dpkg(&mut self, args: &[&str]) -> Output {
        match args {
            ["--print-architecture"] => out("amd64\n"),
            ["--print-foreign-architectures"] => out(""),
            rest if rest.contains(&"--audit") || rest.contains(&"-C") => self.audit(),
            rest if rest.contains(&"--configure") => self.configure(),
            _ => fail(2, "dpkg: error: not understood in the simulated world"),
        }
    }

    fn audit(&self) -> Output {
        let Ok(packages) = self.packages() else { return fail(2, "dpkg: error: no package database") };
        let half: String =
            packages.iter().filter(|p| p.half_done()).map(|p| format!(" {:<20} simulated package\n", p.name)).collect();
        if half.is_empty() {
            return out("");
        }
        out(format!(
            "The following packages are only half configured, probably due to problems\nconfiguring them the first time.  The configuration should be retried using\ndpkg --configure <package> or the configure menu option in dselect:\n{half}\n"
        ))
    }

    fn configure(&self) -> Output {
        let Ok(mut packages) = self.packages() else { return fail(2, "dpkg: error: no package database") };
        let mut text = String::new();
        for package in packages.iter_mut().filter(|package| package.half_done()) {
            text += &format!("Setting up {} ({}) ...\n", package.name, package.version);
            if let Some(message) = self.broken(&package.name) {
                let said = format!("dpkg: error processing package {} (--configure):\n {message}", package.name);
                return Output { stdout: text.into_bytes(), ..fail(1, said) };
            }
            package.set_state("installed");
        }
        match self.set_packages(&packages) {
            Ok(()) => out(text),
            Err(error) => fail(2, format!("dpkg: error: {error}")),
        }
    }

    /// The message of a package whose configuration fails as things are.
    pub(super) fn broken(&self, package: &str) -> Option<&str> {
        let failure = self.config.upgrade_fails.as_ref().filter(|failure| failure.package == package)?;
        let mended = self.place(&failure.until, true).is_ok_and(|path| path.exists());
        (!mended).then_some(failure.message.as_str())
    }

    pub(super) fn apt_mark(&self, args: &[&str]) -> Output {
        match (args, self.packages()) {
            (["showhold"], Ok(packages)) => {
                out(packages.iter().filter(|p| p.held()).map(|p| format!("{}\n", p.name)).collect::<String>())
            }
            (["showmanual" | "showauto"], Ok(_)) => out(""),
            _ => fail(100, "E: not understood in the simulated world"),
        }
    }
}
