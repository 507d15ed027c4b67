//! The strings in `disk = […]` and `vif = […]`: xl-disk-configuration(5), xl-network-configuration(5). Pure.
//!
//! Read as libxlu_disk and xl read them, old prefixes (`phy:`, `file:`, `tap:aio:`) and positional parameters included. What xl
//! refuses is an error in words. Ranges are byte positions in the string.

use std::net::IpAddr;
use std::ops::Range;

use crate::MacAddr;

/// A disk as its string describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskSpec {
    /// Path, or what a script makes of it; empty for an empty drive.
    pub target: String,
    /// Where the target stands; `None` if it is not written at all.
    pub target_at: Option<Range<usize>>,
    /// The target is written as `target=`, which takes the rest of the string whatever it holds.
    pub named_target: bool,
    /// Device in the guest: `xvda1`.
    pub vdev: String,
    /// Image format, if it is given.
    pub format: Option<String>,
    /// Read-only for the guest.
    pub readonly: bool,
    /// A CD drive.
    pub cdrom: bool,
    /// Hotplug script that makes a device of the target.
    pub script: Option<String>,
    /// Domain that serves the disk, if it is not dom0.
    pub backend: Option<String>,
    /// `phy:` stands before the target.
    pub phy: bool,
}

/// Reads a disk's string.
pub fn disk(text: &str) -> Result<DiskSpec, String> {
    let mut reader =
        DiskReader { text, at: 0, spec: DiskSpec::default(), old_prefix: false, vdev: None, access: false };
    while reader.parameter()? {}
    let mut spec = reader.spec;
    spec.vdev = reader.vdev.unwrap_or_default();
    spec.readonly |= spec.cdrom;
    if spec.vdev.is_empty() {
        return Err("it names no device of the guest".to_owned());
    }
    if spec.target.is_empty() && !spec.cdrom {
        return Err("it has no target".to_owned());
    }
    Ok(spec)
}

struct DiskReader<'t> {
    text: &'t str,
    at: usize,
    spec: DiskSpec,
    old_prefix: bool,
    vdev: Option<String>,
    access: bool,
}

impl<'t> DiskReader<'t> {
    /// Reads one parameter; `false` at the end.
    fn parameter(&mut self) -> Result<bool, String> {
        let blanks = |c: char| matches!(c, ' ' | '\t' | '\n');
        self.at += self.text[self.at..].len() - self.text[self.at..].trim_start_matches(blanks).len();
        let rest = &self.text[self.at..];
        if rest.is_empty() {
            return Ok(false);
        }
        if let Some(value) = rest.strip_prefix("target=") {
            self.spec.named_target = true;
            self.target(self.text.len() - value.len()..self.text.len() - usize::from(value.ends_with(',')))?;
            self.at = self.text.len();
            return Ok(true);
        }
        if self.prefix(rest)? {
            return Ok(true);
        }
        let end = rest.find(',').unwrap_or(rest.len());
        let start = self.at;
        let word = &rest[..end];
        self.at += (end + 1).min(rest.len());
        match word.split_once('=') {
            Some((key, value)) => self.named(key, value)?,
            None => self.bare(word, start)?,
        }
        Ok(true)
    }

    fn target(&mut self, span: Range<usize>) -> Result<(), String> {
        // an empty target may be given again
        if !self.spec.target.is_empty() {
            return Err("its target is given twice".to_owned());
        }
        self.text[span.clone()].clone_into(&mut self.spec.target);
        self.spec.target_at = Some(span);
        Ok(())
    }

    /// The prefixes of xm and of xl 4.1.
    fn prefix(&mut self, rest: &str) -> Result<bool, String> {
        let Some((word, after)) = rest.split_once(':') else { return Ok(false) };
        match word {
            "raw" | "qcow" | "qcow2" | "vhd" => self.format(word)?,
            "iscsi" | "nbd" | "enbd" | "drbd" => self.script(&format!("block-{word}"))?,
            "phy" => self.spec.phy = true,
            "tapdisk" | "tap" | "tap2" | "aio" | "ioemu" | "file" => {}
            _ => {
                let mut letters = word.bytes();
                let plain = letters.next().is_some_and(|byte| byte.is_ascii_lowercase())
                    && letters.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
                if plain && !after.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) {
                    return Err(format!("xl does not know the prefix {word}:"));
                }
                return Ok(false);
            }
        }
        self.old_prefix = true;
        self.at += word.len() + 1;
        Ok(true)
    }

    fn named(&mut self, key: &str, value: &str) -> Result<(), String> {
        match (key, value) {
            ("format", format) => self.format(format),
            ("devtype", "cdrom") => self.cdrom(true),
            ("devtype", "disk") => self.cdrom(false),
            ("access", access) => self.access(access),
            ("vdev", vdev) => self.vdev(vdev),
            ("script", script) => self.script(script),
            ("backend", domain) if self.spec.backend.is_none() => {
                self.spec.backend = Some(domain.to_owned());
                Ok(())
            }
            ("backendtype", "phy" | "tap" | "qdisk" | "standalone")
            | ("specification", "xen" | "virtio")
            | ("grant_usage", "0" | "1")
            | ("colo-host" | "colo-port" | "colo-export" | "active-disk" | "hidden-disk", _) => Ok(()),
            _ => Err(format!("xl does not read {key}={value}")),
        }
    }

    fn bare(&mut self, word: &str, start: usize) -> Result<(), String> {
        match word {
            "cdrom" => return self.cdrom(true),
            "direct-io-safe" | "discard" | "no-discard" | "colo" | "no-colo" | "trusted" | "untrusted" => return Ok(()),
            _ => {}
        }
        if self.spec.target_at.is_none() {
            return self.target(start..start + word.len());
        }
        if !self.old_prefix && self.spec.format.is_none() {
            if self.spec.target.is_empty()
                && let Some((vdev, kind)) = word.rsplit_once(':')
            {
                self.kind(kind)?;
                self.format("empty")?;
                return self.vdev(vdev);
            }
            return self.format(word);
        }
        if self.vdev.is_none() {
            return match word.rsplit_once(':') {
                Some((vdev, kind)) => {
                    self.kind(kind)?;
                    self.vdev(vdev)
                }
                None => self.vdev(word),
            };
        }
        if std::mem::replace(&mut self.access, true) {
            return Err(format!("{word:?} is one parameter too many"));
        }
        self.access(word)
    }

    fn kind(&mut self, kind: &str) -> Result<(), String> {
        match kind {
            "cdrom" => self.cdrom(true),
            "disk" => self.cdrom(false),
            other => Err(format!("xl does not know the kind of device {other:?}")),
        }
    }

    fn cdrom(&mut self, cdrom: bool) -> Result<(), String> {
        self.spec.cdrom = cdrom;
        Ok(())
    }

    fn vdev(&mut self, vdev: &str) -> Result<(), String> {
        if self.vdev.as_ref().is_some_and(|before| !before.is_empty()) {
            return Err("its device is given twice".to_owned());
        }
        self.vdev = Some(vdev.to_owned());
        Ok(())
    }

    fn format(&mut self, format: &str) -> Result<(), String> {
        let format = match format {
            "" | "raw" => "raw",
            "qcow" | "qcow2" | "vhd" | "empty" | "qed" => format,
            other => return Err(format!("xl does not know the image format {other:?}")),
        };
        if self.spec.format.as_ref().is_some_and(|before| before != format) {
            return Err("its image format is given twice".to_owned());
        }
        self.spec.format = Some(format.to_owned());
        Ok(())
    }

    fn script(&mut self, script: &str) -> Result<(), String> {
        if self.spec.script.as_ref().is_some_and(|before| !before.is_empty()) {
            return Err("its script is given twice".to_owned());
        }
        self.spec.script = Some(script.to_owned());
        Ok(())
    }

    fn access(&mut self, access: &str) -> Result<(), String> {
        self.spec.readonly = match access {
            "r" | "ro" => true,
            "w" | "rw" | "" => false,
            other => return Err(format!("xl does not know the access {other:?}")),
        };
        Ok(())
    }
}

/// A network card as its string describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VifSpec {
    /// Hardware address, and where it stands.
    pub mac: Option<(MacAddr, Range<usize>)>,
    /// Bridge on the host; xl's default if absent.
    pub bridge: Option<String>,
    /// Addresses that `ip=` names (of a network, its own), and where each stands.
    pub addresses: Vec<(IpAddr, Range<usize>)>,
    /// Where `ip=` stands with all that it names.
    pub addresses_at: Option<Range<usize>>,
    /// Name of the interface on the host, with where its parameter stands.
    pub vifname: Option<(String, Range<usize>)>,
    /// Interface of the host by which it routes (`gatewaydev=`, once `netdev=`).
    pub gateway: Option<String>,
}

/// Reads a network card's string. Parameters that do not matter here are not judged.
pub fn vif(text: &str) -> Result<VifSpec, String> {
    let mut spec = VifSpec::default();
    let mut start = 0;
    for word in text.split(',') {
        let begin = start + word.len() - word.trim_start_matches(' ').len();
        let end = start + word.len();
        start = end + 1;
        let Some((key, value)) = text[begin..end].split_once('=') else {
            if begin < end {
                return Err(format!("xl does not read {:?}", &text[begin..end]));
            }
            continue;
        };
        let at = end - value.len()..end;
        // the last one counts, as in xl
        match key {
            "mac" => spec.mac = Some((mac(value)?, at)),
            "bridge" => spec.bridge = Some(value.to_owned()),
            "vifname" => spec.vifname = Some((value.to_owned(), begin..end)),
            "gatewaydev" | "netdev" => spec.gateway = Some(value.to_owned()),
            "ip" => {
                let place = |word: &str| {
                    let start = at.start + (word.as_ptr() as usize - value.as_ptr() as usize);
                    let bare = word.split('/').next().unwrap_or_default();
                    Some((bare.parse().ok()?, start..start + bare.len()))
                };
                spec.addresses = value.split_ascii_whitespace().filter_map(place).collect();
                spec.addresses_at = Some(begin..end);
            }
            _ => {}
        }
    }
    Ok(spec)
}

/// Six hexadecimal numbers of one or two digits.
fn mac(text: &str) -> Result<MacAddr, String> {
    let octets: Option<Vec<u8>> = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).ok().filter(|_| octet.len() <= 2 && !octet.starts_with('+')))
        .collect();
    let octets: Option<[u8; 6]> = octets.and_then(|octets| octets.try_into().ok());
    octets.map(MacAddr).ok_or_else(|| format!("{text:?} is not a hardware address"))
}
