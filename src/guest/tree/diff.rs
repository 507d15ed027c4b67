//! Edits for people: unified diffs without secrets and without control characters of the guest.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use hypervisors::host::is_hidden;
use similar::TextDiff;

use super::{FileImage, printable, shown};
use crate::guest::FileEdit;

/// How long the shortest difference is looked for; after that a longer one is told. A guest can make two files of which the
/// shortest takes hours to find.
const PATIENCE: Duration = Duration::from_secs(1);

/// See [`crate::guest::diff`].
pub fn diff(edit: &FileEdit) -> String {
    let path = shown(&edit.path);
    let mut text = String::new();
    let mut line = |what: String| text.push_str(&format!("{path}: {what}\n"));
    match (&edit.before, &edit.after) {
        (Some(before), Some(after)) => {
            let (old, new) = (kind(before), kind(after));
            if old != new {
                line(format!("{old} becomes {new}"));
            }
        }
        (None, Some(after)) => line(format!("new {}", kind(after))),
        (Some(before), None) => line(format!("{} is removed", kind(before))),
        (None, None) => {}
    }
    let (before, after) = (bytes(edit.before.as_ref()), bytes(edit.after.as_ref()));
    if before == after {
        return text;
    }
    if secret(&edit.path, before) || secret(&edit.path, after) {
        line("secret content changes, not shown".into());
        return text;
    }
    match (text_of(before), text_of(after)) {
        (Some(before), Some(after)) => {
            let unified = TextDiff::configure().timeout(PATIENCE).diff_lines(before.as_ref(), after.as_ref());
            let (a, b) = (format!("a{path}"), format!("b{path}"));
            let (a, b) = if edit.before.is_none() { ("/dev/null".into(), b) } else { (a, b) };
            let b = if edit.after.is_none() { "/dev/null".into() } else { b };
            let shown = unified.unified_diff().header(&a, &b).to_string();
            let visible = |c: char| match c {
                '\n' | '\t' => c.to_string(),
                c if is_hidden(c) => c.escape_default().to_string(),
                c => c.to_string(),
            };
            text.extend(shown.chars().map(visible));
        }
        _ => line(format!("binary content changes ({} bytes to {})", before.len(), after.len())),
    }
    text
}

fn bytes(image: Option<&FileImage>) -> &[u8] {
    match image {
        Some(FileImage::Regular { bytes, .. }) => bytes,
        _ => &[],
    }
}

/// Text, also that of an 8-bit encoding; `None` for what is none.
fn text_of(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let odd = bytes.iter().filter(|byte| !byte.is_ascii()).count();
    let text = std::str::from_utf8(bytes).is_ok() || odd * 8 < bytes.len();
    (text && !bytes.contains(&0)).then(|| String::from_utf8_lossy(bytes))
}

fn kind(image: &FileImage) -> String {
    match image {
        FileImage::Regular { mode, uid, gid, xattrs, .. } => {
            let names: Vec<&str> = xattrs.keys().map(String::as_str).collect();
            let extra = if names.is_empty() { String::new() } else { format!(" with {}", names.join(", ")) };
            printable(format!("file {mode:04o} {uid}:{gid}{extra}").as_ref())
        }
        FileImage::Symlink { target } => format!("link to {}", printable(target.as_os_str())),
        FileImage::Directory { mode, uid, gid } => format!("directory {mode:04o} {uid}:{gid}"),
    }
}

/// Private keys and password hashes, by where they are and by what is in them.
fn secret(path: &Path, bytes: &[u8]) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    let host_key = path.starts_with("etc/ssh") && name.starts_with("ssh_host_") && name.ends_with("_key");
    let shadow = path.starts_with("etc") && matches!(name.trim_end_matches('-'), "shadow" | "gshadow");
    host_key || shadow || bytes.windows(11).any(|window| window == b"PRIVATE KEY")
}
