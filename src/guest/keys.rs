//! ssh host keys: throw-away ones in the clone, and the public ones by which a guest is known.
//!
//! The clone must not prove itself with production's keys, and nobody who logs in to it shall learn to accept new keys
//! for production. Without throw-away keys in the specification nothing is touched (sshd would not start without any).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::tree::{FileImage, Overlay};
use super::{CloneSpec, GuestError, Tree};

const DIRECTORY: &str = "etc/ssh";

/// Plans the edits of the host keys: those given replace, all others are removed.
pub fn rewrite(edits: &mut Overlay<'_>, spec: &CloneSpec) -> Result<(), GuestError> {
    if spec.host_keys.is_empty() || !edits.tree().exists(Path::new(DIRECTORY))? {
        return Ok(());
    }
    for path in host_keys(&edits.list(Path::new(DIRECTORY))?) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !spec.host_keys.contains_key(name) {
            edits.put(&path, None, "production's host key stays with production")?;
        }
    }
    for (name, text) in &spec.host_keys {
        let path = Path::new(DIRECTORY).join(name);
        let new = match edits.image(&path)? {
            Some(FileImage::Regular { mode, uid, gid, xattrs, .. }) => {
                FileImage::Regular { bytes: text.clone().into_bytes(), mode, uid, gid, xattrs }
            }
            _ => edits.tree().new_file(text.clone(), if name.ends_with(".pub") { 0o644 } else { 0o600 }),
        };
        edits.put(&path, Some(new), "throw-away host key")?;
    }
    Ok(())
}

/// The host's public keys as `type base64`, for known_hosts; certificates and what is not a key are left out.
pub fn public_keys(tree: &Tree) -> Result<Vec<String>, GuestError> {
    let mut keys = Vec::new();
    for path in host_keys(&tree.list(Path::new(DIRECTORY))?) {
        if path.extension().is_some_and(|suffix| suffix == "pub")
            && let Some(text) = tree.read_text(&path)?
            && let Some(key) = public_key(&text)
        {
            keys.push(key);
        }
    }
    keys.sort();
    keys.dedup();
    Ok(keys)
}

/// Public host keys as `type base64`, from the lines of their files; lines that are no key are left out.
pub fn keys_of(text: &str) -> Vec<String> {
    let mut keys: Vec<String> = text.lines().filter_map(public_key).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// First two words of a public key file (sshd(8), AUTHORIZED_KEYS FILE FORMAT), if they can be nothing else.
fn public_key(text: &str) -> Option<String> {
    let mut words = text.lines().next()?.split_ascii_whitespace();
    let (kind, key) = (words.next()?, words.next()?);
    let known = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-sha2-"].iter().any(|start| kind.starts_with(start));
    let plain = kind.chars().all(|c| c.is_ascii_alphanumeric() || "-@.".contains(c));
    let base64 = key.len() >= 32 && key.chars().all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c));
    (known && plain && base64 && !kind.contains("-cert-")).then(|| format!("{kind} {key}"))
}

/// Paths of the files sshd keeps its host keys in (sshd_config(5), `HostKey`), certificates included.
fn host_keys(names: &[std::ffi::OsString]) -> Vec<PathBuf> {
    let is_key = |name: &&std::ffi::OsString| {
        name.to_str().is_some_and(|name| {
            let stem = name.strip_suffix(".pub").unwrap_or(name);
            name.starts_with("ssh_host_") && (stem.ends_with("_key") || stem.ends_with("_key-cert"))
        })
    };
    names.iter().filter(is_key).map(|name| Path::new(DIRECTORY).join(name)).collect()
}

/// Whether a path is one of sshd's host keys.
pub(super) fn is_host_key(path: &Path) -> bool {
    path.parent() == Some(Path::new(DIRECTORY))
        && path.file_name().is_some_and(|name| !host_keys(&[name.to_owned()]).is_empty())
}

/// Lines of a known_hosts file (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT) for an alias.
pub fn known_hosts(alias: &str, keys: &[String]) -> String {
    keys.iter().map(|key| format!("{alias} {key}\n")).collect()
}

/// Public keys as they come in a specification, in the form of [`public_keys`].
pub fn public_keys_of(host_keys: &BTreeMap<String, String>) -> Vec<String> {
    host_keys.iter().filter(|(name, _)| name.ends_with(".pub")).filter_map(|(_, text)| public_key(text)).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;

    use super::*;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJtPvVRJQvEh3f0bBhAzQAZ0k2YyXu0Tt6RNLLyDZbK0";

    #[test]
    fn keys_without_replacement_go_and_the_others_keep_their_modes() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/ssh")).unwrap();
        // Names: openssh-server 1:9.2p1-2+deb12u3, postinst.
        for name in
            ["ssh_host_rsa_key", "ssh_host_rsa_key.pub", "ssh_host_ed25519_key", "ssh_host_ed25519_key-cert.pub"]
        {
            fs::write(root.path().join("etc/ssh").join(name), "old").unwrap();
        }
        fs::write(root.path().join("etc/ssh/ssh_config"), "").unwrap();
        let tree = Tree::open(root.path()).unwrap();
        let spec = CloneSpec {
            host_keys: BTreeMap::from([
                ("ssh_host_ed25519_key".into(), "private".into()),
                ("ssh_host_ed25519_key.pub".into(), format!("{ED25519} root@x\n")),
            ]),
            ..CloneSpec::default()
        };
        let mut edits = Overlay::new(&tree);
        rewrite(&mut edits, &spec).unwrap();
        let edits = edits.into_edits();
        let gone: Vec<_> = edits.iter().filter(|edit| edit.after.is_none()).map(|edit| edit.path.clone()).collect();
        assert_eq!(
            gone,
            ["ssh_host_ed25519_key-cert.pub", "ssh_host_rsa_key", "ssh_host_rsa_key.pub"]
                .map(|name| Path::new(DIRECTORY).join(name))
        );
        super::super::apply(&tree, &edits).unwrap();
        assert_eq!(public_keys(&tree).unwrap(), [ED25519]);
        assert_eq!(public_keys_of(&spec.host_keys), [ED25519]);
        let mut again = Overlay::new(&tree);
        rewrite(&mut again, &spec).unwrap();
        assert_eq!(again.into_edits(), []);
    }

    #[test]
    fn a_public_key_cannot_smuggle_in_more() {
        for text in [
            "",
            "ssh-ed25519",
            "ssh-rsa @cert-authority",
            "* ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIJtPvVRJQvEh3f0b",
            "ssh-rsa a\nb c",
        ] {
            assert_eq!(public_key(text), None, "{text}");
        }
    }
}
