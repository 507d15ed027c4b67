//! What is old: `ObsoleteFiles.inc` of the sources (`OLD_FILES+=usr/bin/x`), and of `OptionalObsoleteFiles.inc` what the host's
//! src.conf leaves out (`.if ${MK_SENDMAIL} == no` … `.endif`).

use std::path::Path;

use crate::host::Host;

/// Paths below a root.
#[derive(Default)]
pub struct Old {
    /// Files.
    pub files: Vec<String>,
    /// Libraries, which go only when nothing uses them any more.
    pub libraries: Vec<String>,
    /// Directories.
    pub directories: Vec<String>,
}

/// Reads both lists.
pub fn read(host: &Host, source: &Path) -> Old {
    let mut old = Old::default();
    let conf = host.read("/etc/src.conf").unwrap_or_default();
    let without: Vec<String> = conf
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| {
            line.trim().split('=').next()?.strip_prefix("WITHOUT_").map(|name| name.trim_end_matches('+').to_owned())
        })
        .collect();
    for file in ["ObsoleteFiles.inc", "tools/build/mk/OptionalObsoleteFiles.inc"] {
        let mut applies = true;
        for line in std::fs::read_to_string(source.join(file)).unwrap_or_default().lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if let Some(condition) = line.strip_prefix(".if ${MK_") {
                let option = condition.split('}').next().unwrap_or_default();
                applies = condition.trim_end().ends_with("== no") && without.iter().any(|name| name == option);
            } else if line.starts_with(".endif") {
                applies = true;
            } else if let (true, Some((kind, path))) = (applies, line.split_once("+=")) {
                let list = match kind.trim() {
                    "OLD_FILES" => &mut old.files,
                    "OLD_LIBS" => &mut old.libraries,
                    "OLD_DIRS" => &mut old.directories,
                    _ => continue,
                };
                list.push(path.trim().to_owned());
            }
        }
    }
    old
}
