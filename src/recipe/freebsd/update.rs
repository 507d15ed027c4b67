//! freebsd-update(8), asked nothing and told everything: root, its own directory, its own configuration. Pure.

use std::path::Path;

use hypervisors::host::printable;

/// The configuration for a jail: its base system alone, and no file that was changed there. Files of `/etc` are not merged, since
/// that asks for an editor; those that were changed stay, and are told.
pub const CONF: &str =
    "Components world\nStrictComponents yes\nUpdateIfUnmodified /etc/ /var/ /root/ /.cshrc /.profile\nMailTo root\n";

/// The argv of one of its commands.
pub fn argv(root: &Path, work: &Path, conf: &Path, now: &str, words: &[&str]) -> Vec<String> {
    let (root, work, conf) = (root.display().to_string(), work.display().to_string(), conf.display().to_string());
    let head = [
        "freebsd-update",
        "--not-running-from-cron",
        "-b",
        &root,
        "-d",
        &work,
        "-f",
        &conf,
        "--currently-running",
        now,
    ];
    head.into_iter().chain(words.iter().copied()).map(str::to_owned).collect()
}

/// Files that it let be because they were changed.
pub fn kept(text: &str) -> Vec<String> {
    let mut lines = text.lines();
    let mut found = Vec::new();
    let mut before = "";
    while let Some(line) = lines.next() {
        if line.trim_end() == "locally:" && before.trim_end().ends_with("because the files have been modified") {
            found.extend(lines.by_ref().take_while(|line| line.starts_with('/')).map(printable));
        }
        before = line;
    }
    found
}
