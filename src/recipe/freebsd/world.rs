//! What make(1) prints of installworld, buildworld, check-old and delete-old. Pure.

use hypervisors::host::printable;

/// Follows a world being built or installed.
#[derive(Debug, Default)]
pub struct Transcript {
    line: Vec<u8>,
    /// The last banner (`>>> Making hierarchy`), and the directory being worked on.
    banner: String,
    directory: String,
    last: String,
    /// The first line that says what went wrong.
    error: Option<String>,
    completed: bool,
    /// A program that was started met a loader or a library that was just being replaced.
    loader: bool,
}

/// How lines begin or what they hold that tell a cause, in make's and install's words.
const CAUSES: &[&str] = &[
    "don't know how to make",
    "No space left on device",
    "Operation not permitted",
    "Permission denied",
    "Read-only file system",
    "No such file or directory",
    "Required ",
    "ld-elf.so",
    "error:",
    "*** ",
];

impl Transcript {
    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = printable(String::from_utf8_lossy(&self.line).trim());
                self.line.clear();
                self.take(line.chars().take(300).collect());
            } else if self.line.len() < 4096 {
                self.line.push(byte);
            }
        }
    }

    fn take(&mut self, line: String) {
        if let Some(banner) = line.strip_prefix(">>> ") {
            banner.clone_into(&mut self.banner);
            self.directory.clear();
            self.completed |= banner.starts_with("Installing everything completed on")
                || banner.starts_with("World build completed on");
        } else if let Some(directory) = line.strip_prefix("===> ") {
            directory.split(' ').next().unwrap_or_default().clone_into(&mut self.directory);
        }
        self.loader |= line.contains("ld-elf.so");
        if self.error.is_none() && CAUSES.iter().any(|cause| line.contains(cause)) {
            self.error = Some(line.clone());
        }
        if !line.is_empty() && !line.bytes().all(|byte| byte == b'-') {
            self.last = line;
        }
    }

    /// What is happening, in a line.
    pub fn progress(&self) -> String {
        let banner = self.banner.split(" started on").next().unwrap_or_default();
        match (banner, self.directory.as_str()) {
            ("", _) => self.last.clone(),
            (banner, "") => banner.to_owned(),
            (banner, directory) => format!("{banner}: {directory}"),
        }
    }
    /// Its last banner says that it is complete.
    pub fn completed(&self) -> bool {
        self.completed
    }
    /// Worth another attempt at once: a world that replaces its loader trips over it now and then (UPDATING, 20200729).
    pub fn tripped(&self) -> bool {
        self.loader
    }
    /// Why it failed.
    pub fn cause(&self) -> &str {
        self.error.as_deref().unwrap_or(&self.last)
    }
}

/// What a release has no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Old {
    /// Files.
    pub files: Vec<String>,
    /// Shared libraries: programs of third parties may still use them.
    pub libraries: Vec<String>,
    /// Directories.
    pub directories: Vec<String>,
}

/// Reads `make check-old DESTDIR=ROOT`; paths as in the jail.
pub fn check_old(text: &str, root: &str) -> Old {
    let mut old = Old::default();
    let mut part: Option<fn(&mut Old) -> &mut Vec<String>> = None;
    for line in text.lines() {
        match line.trim() {
            ">>> Checking for old files" => part = Some(|old| &mut old.files),
            ">>> Checking for old libraries" => part = Some(|old| &mut old.libraries),
            ">>> Checking for old directories" => part = Some(|old| &mut old.directories),
            line if line.starts_with(">>>") => part = None,
            line => {
                if let (Some(part), Some(path)) = (part, below(line, root)) {
                    part(&mut old).push(path);
                }
            }
        }
    }
    old
}

/// Whether `make delete-old` or `delete-old-libs` came to its end.
pub fn deleted(text: &str) -> bool {
    text.lines().any(|line| matches!(line.trim(), ">>> Old directories removed" | ">>> Old libraries removed"))
}

/// A path below the root as the jail sees it (`DESTDIR` and path may meet with two slashes).
fn below(line: &str, root: &str) -> Option<String> {
    let path = line.strip_prefix(root.trim_end_matches('/'))?;
    path.starts_with('/').then(|| printable(&format!("/{}", path.trim_start_matches('/'))))
}

/// The options that a src.conf(5) or make.conf(5) sets which leave parts out. Those that only concern the building are none.
pub fn without(text: &str) -> Vec<String> {
    const BUILDING: &[&str] =
        &["CLEAN", "SYSTEM_COMPILER", "SYSTEM_LINKER", "META_MODE", "CCACHE_BUILD", "REPRODUCIBLE_BUILD"];
    let mut found: Vec<String> = text
        .lines()
        .filter_map(|line| {
            let key = line.trim_start().strip_prefix("WITHOUT_")?;
            let end = key.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(key.len());
            let set = key[end..].trim_start().trim_start_matches(['?', '+', ':']).starts_with('=');
            (set && end > 0 && !BUILDING.contains(&&key[..end])).then(|| format!("WITHOUT_{}", &key[..end]))
        })
        .collect();
    found.sort();
    found.dedup();
    found
}
