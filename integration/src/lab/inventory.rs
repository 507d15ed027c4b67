//! The inventory of a lab, as an operator would write it.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::Result;

use super::Lab;
use super::guest::{Guest, MERCURE, PROBE_PASSWORD};

/// Writes `LAB/inventory.toml` and what it refers to.
///
/// # Errors
/// A file could not be written.
pub fn write(lab: &Lab, guests: &[Guest]) -> Result<()> {
    let secret = lab.path("probe");
    fs::write(&secret, format!("{PROBE_PASSWORD}\n"))?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    Ok(fs::write(lab.inventory(), text(lab, guests))?)
}

/// Adds to the inventory, as an operator does between two verbs.
///
/// # Errors
/// The file could not be written.
pub fn add(lab: &Lab, tables: &str) -> Result<()> {
    let old = fs::read_to_string(lab.inventory())?;
    Ok(fs::write(lab.inventory(), format!("{old}\n{tables}"))?)
}

/// The inventory for these guests. Each one's clone has its address plus 4: mercure .12, its clone .16.
pub fn text(lab: &Lab, guests: &[Guest]) -> String {
    let mut text = format!(
        "version = 1\n\n[defaults]\nssh = {{ user = \"root\", key = \"{}\" }}\n\n[hosts]\nhere = {{ hypervisor = \"libvirt\", uri = \"{}\" }}\n",
        lab.key().display(),
        lab.uri()
    );
    for guest in guests {
        let _ = write!(
            text,
            "\n[guests.{}]\nhost = \"here\"\nclone = {{ ip = [\".{}\"] }}\nupgrade = {{ recipe = \"debian\", to = \"trixie\" }}\n",
            guest.name,
            guest.host + 4
        );
        if let Some(target) = guest.data {
            let _ = writeln!(text, "disks = {{ \"{target}\" = \"detach\" }}");
        }
        if guest.image == MERCURE.image {
            text += &mail(lab.path("probe"));
        }
    }
    text
}

/// What makes a guest's entry that of a mail server.
fn mail(password: PathBuf) -> String {
    format!(
        r#"quarantine = {{ off = ["postfix", "cron"] }}
checks = [
  {{ kind = "http" }},
  {{ kind = "imap" }},
  {{ kind = "pop3" }},
  {{ kind = "smtp", rcpt = "postmaster@mercure.lab" }},
  {{ name = "mailbox", kind = "imap", login = {{ user = "probe", password_file = "{}" }}, messages_min = 3 }},
]
carry = [{{ kind = "rsync", path = "/home/" }}]
"#,
        password.display()
    )
}
