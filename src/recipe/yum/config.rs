//! What the configuration of yum(8) and dnf(8) hides from an update: `exclude=` and `excludepkgs=` of yum.conf(5) and dnf.conf(5), in
//! `[main]` or of a repository, and the lists of the plugin versionlock. Pure.
//!
//! The files are read as their tools read them (Python's ConfigParser, libdnf's IniParser): a section in brackets, `key = value` or
//! `key: value`, a value that goes on in lines that begin with blanks, comments in lines that begin with `#` or `;`.

use std::path::{Path, PathBuf};

/// An installed package, as `rpm -qa` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Epoch, 0 where there is none.
    pub epoch: String,
    /// Version.
    pub version: String,
    /// Release.
    pub release: String,
    /// Architecture.
    pub arch: String,
}

impl Package {
    /// The forms that a pattern of yum's may match (yum(8), *Specifying package names*).
    fn forms(&self) -> [String; 7] {
        let Self { name, epoch, version, release, arch } = self;
        [
            name.clone(),
            format!("{name}.{arch}"),
            format!("{name}-{version}-{release}.{arch}"),
            format!("{name}-{version}"),
            format!("{name}-{version}-{release}"),
            format!("{epoch}:{name}-{version}-{release}.{arch}"),
            format!("{name}-{epoch}:{version}-{release}.{arch}"),
        ]
    }

    /// What `uname -r` says of a kernel of this package where it names the architecture.
    pub fn kernel(&self) -> String {
        format!("{}-{}.{}", self.version, self.release, self.arch)
    }
}

/// The format that [`packages`] reads, for `rpm -qa --qf`.
pub const FORMAT: &str = "%{NAME}\\t%{EPOCH}\\t%{VERSION}\\t%{RELEASE}\\t%{ARCH}\\n";

/// Reads packages in [`FORMAT`]. Lines that make no sense are passed over.
pub fn packages(text: &str) -> Vec<Package> {
    let sound = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_graphic());
    let package = |line: &str| {
        let words: Vec<&str> = line.split('\t').collect();
        let [name, epoch, version, release, arch] = *words.as_slice() else { return None };
        let epoch = if epoch == "(none)" { "0" } else { epoch };
        [name, epoch, version, release, arch].into_iter().all(sound).then(|| Package {
            name: name.into(),
            epoch: epoch.into(),
            version: version.into(),
            release: release.into(),
            arch: arch.into(),
        })
    };
    text.lines().filter_map(package).collect()
}

/// A value that hides packages, and the lines it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclude {
    /// The file.
    pub file: PathBuf,
    /// Its section: `main`, or a repository.
    pub section: String,
    /// The key, as it is written.
    pub key: String,
    /// First line, counted from 1.
    pub first: usize,
    /// Last line.
    pub last: usize,
    /// Its patterns.
    pub patterns: Vec<String>,
    /// The lines, as they stand there.
    pub says: Vec<String>,
}

impl Exclude {
    /// Whether it hides kernels: one of its patterns begins with the word, or matches an installed one.
    pub fn hides(&self, kernels: &[Package]) -> bool {
        self.patterns.iter().any(|pattern| hides(pattern, kernels))
    }
}

fn hides(pattern: &str, kernels: &[Package]) -> bool {
    if is_kernel(pattern) {
        return true;
    }
    // A run of stars is one star to fnmatch(3).
    let mut collapsed = String::with_capacity(pattern.len());
    for c in pattern.chars() {
        if c != '*' || !collapsed.ends_with('*') {
            collapsed.push(c);
        }
    }
    let Ok(pattern) = glob::Pattern::new(&collapsed) else { return false };
    kernels.iter().any(|kernel| kernel.forms().iter().any(|form| pattern.matches(form)))
}

/// Whether a package (or a pattern) is a kernel or belongs to one, by its name.
pub fn is_kernel(name: &str) -> bool {
    name.strip_prefix("kernel").is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
}

/// The lines of a file, without what ends them.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// The values of a configuration file: section, key, value, first and last line.
fn values(text: &[u8]) -> Vec<(String, String, String, usize, usize)> {
    let mut all: Vec<(String, String, String, usize, usize)> = Vec::new();
    let (mut section, mut open) = (None, false);
    for (number, line) in lines(text).enumerate() {
        let line = String::from_utf8_lossy(line);
        let rest = line.trim();
        if rest.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with([' ', '\t']) && open {
            if let Some((_, _, value, _, last)) = all.last_mut() {
                value.push('\n');
                value.push_str(rest);
                *last = number + 1;
            }
            continue;
        }
        open = false;
        if let Some(name) = rest.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            section = Some(name.trim().to_owned());
        } else if let (Some(section), Some(at)) = (&section, rest.find(['=', ':'])) {
            let (key, value) = (rest[..at].trim(), &rest[at + 1..]);
            // A comment behind a value begins with a semicolon after a blank.
            let end = value.char_indices().find(|(at, c)| *c == ';' && value[..*at].ends_with([' ', '\t']));
            let value = value[..end.map_or(value.len(), |(at, _)| at)].trim();
            all.push((section.clone(), key.to_owned(), value.to_owned(), number + 1, number + 1));
            open = true;
        }
    }
    all
}

/// The excludes of a configuration file.
pub fn excludes(file: &Path, text: &[u8]) -> Vec<Exclude> {
    let wanted = |key: &str| key.eq_ignore_ascii_case("exclude") || key.eq_ignore_ascii_case("excludepkgs");
    let exclude = |(section, key, value, first, last): (String, String, String, usize, usize)| Exclude {
        file: file.to_owned(),
        section,
        key,
        first,
        last,
        says: lines(text)
            .skip(first - 1)
            .take(last + 1 - first)
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect(),
        patterns: value.split([' ', '\t', '\n', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect(),
    };
    values(text)
        .into_iter()
        .filter(|value| wanted(&value.1))
        .map(exclude)
        .filter(|one| !one.patterns.is_empty())
        .collect()
}

/// The value of a key of `[main]`, the last one that is given.
pub fn main_value(text: &[u8], key: &str) -> Option<String> {
    values(text).into_iter().rfind(|value| value.0 == "main" && value.1.eq_ignore_ascii_case(key)).map(|value| value.2)
}

/// A file with the lines of an exclude commented out: nothing else of it changes.
pub fn lifted(text: &[u8], first: usize, last: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + last + 1 - first);
    for (number, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if (first..=last).contains(&(number + 1)) {
            out.push(b'#');
        }
        out.extend_from_slice(line);
    }
    out
}

/// Whether a list of the plugin versionlock (`versionlock.list`) names a kernel: lines of `[epoch:]name-version-release.arch` or
/// patterns of them, with `!` before those that are excluded.
pub fn locks_kernels(list: &[u8]) -> bool {
    lines(list).any(|line| {
        let line = String::from_utf8_lossy(line);
        let line = line.trim().trim_start_matches('!');
        let name =
            line.split_once(':').filter(|(epoch, _)| epoch.bytes().all(|b| b.is_ascii_digit())).map_or(line, |it| it.1);
        is_kernel(name)
    })
}

/// Whether dnf 5's list (`versionlock.toml`) names a kernel: `name = "kernel"`.
pub fn locks_kernels5(list: &[u8]) -> bool {
    String::from_utf8_lossy(list).lines().any(|line| {
        line.split_once('=')
            .is_some_and(|(key, value)| key.trim() == "name" && is_kernel(value.trim().trim_matches(['"', '\''])))
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn kernel() -> Vec<Package> {
        packages("kernel\t(none)\t2.6.18\t128.el5\tx86_64\nkernel-headers\t0\t2.6.18\t128.el5\tx86_64\nodd line\n")
    }

    fn of(text: &str) -> Vec<Exclude> {
        excludes(Path::new("/etc/yum.conf"), text.as_bytes())
    }

    /// yum.conf of the report, as it stands there.
    const SEED: &str = include_str!("tests/nifty-yum.conf");

    #[test]
    fn the_reports_own_file() {
        let found = of(SEED);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].first, found[0].last, found[0].section.as_str()), (12, 12, "main"));
        assert_eq!(found[0].patterns, ["kernel.*"]);
        assert!(found[0].hides(&kernel()));
        let lifted = lifted(SEED.as_bytes(), 12, 12);
        assert_eq!(lifted.len(), SEED.len() + 1);
        assert!(String::from_utf8(lifted.clone()).unwrap().contains("\n#exclude=kernel.*\n"));
        assert!(excludes(Path::new("/etc/yum.conf"), &lifted).is_empty());
        assert_eq!(main_value(SEED.as_bytes(), "installonly_limit").unwrap(), "5");
    }

    #[test]
    fn every_way_to_write_it() {
        for (text, patterns) in [
            ("[main]\nexclude = kernel* php , foo\n", &["kernel*", "php", "foo"][..]),
            ("[main]\nExclude: kernel*\n", &["kernel*"]),
            (
                "[base]\nname=x\nexcludepkgs=kernel\n\tkernel-devel\n  foo\n# no\nenabled=1\n",
                &["kernel", "kernel-devel", "foo"],
            ),
            ("[main]\r\nexclude=kernel*\r\n", &["kernel*"]),
            ("[main]\nexclude=kernel* ; not today\n", &["kernel*"]),
            ("[main]\n[a]b\nexclude=*\n", &["*"]),
        ] {
            let found = of(text);
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!(found[0].patterns, patterns, "{text}");
            assert!(found[0].hides(&kernel()), "{text}");
            let after = lifted(text.as_bytes(), found[0].first, found[0].last);
            assert!(excludes(Path::new("x"), &after).is_empty(), "{text}");
        }
        for text in
            ["exclude=kernel*\n", "[main]\n#exclude=kernel*\n", "[main]\nexclude=\n", "[main]\nexcluded=kernel\n", ""]
        {
            assert!(of(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn what_hides_a_kernel() {
        for (pattern, expected) in [
            ("kernel", true),
            ("kernel*", true),
            ("kernel.*", true),
            ("kernel-2.6.18-238*", true),
            ("k*", true),
            ("*.x86_64", true),
            ("***", true),
            ("[jk]ernel", true),
            ("kernelshark", false),
            ("php*", false),
            ("[", false),
            ("*.i386", false),
        ] {
            assert_eq!(hides(pattern, &kernel()), expected, "{pattern}");
        }
    }

    #[test]
    fn locks() {
        assert!(locks_kernels(b"0:kernel-2.6.32-431.el6.*\n"));
        assert!(locks_kernels(b"# x\n!kernel-3.10.0-1.el7.*\n"));
        assert!(!locks_kernels(b"0:kernelshark-1-1.el7.*\nphp-5*\n# kernel\n"));
        assert!(locks_kernels5(b"version = \"1.0\"\n[[packages]]\nname = \"kernel\"\n"));
        assert!(!locks_kernels5(b"[[packages]]\nname = \"bash\"\ncomment = \"kernel\"\n"));
    }

    proptest::proptest! {
        #[test]
        fn lifting_takes_only_those_lines(text in "(\\[main\\]|exclude=kernel|\texclude|x=1|#y|\\r|\n){0,24}") {
            for one in of(&text) {
                let after = lifted(text.as_bytes(), one.first, one.last);
                let changed: Vec<bool> = text.split('\n').zip(String::from_utf8(after).unwrap().split('\n'))
                    .map(|(before, after)| { assert_eq!(after.trim_start_matches('#').len(), before.trim_start_matches('#').len()); before != after })
                    .collect();
                assert_eq!(changed.iter().filter(|changed| **changed).count(), one.last + 1 - one.first);
            }
        }
    }
}
