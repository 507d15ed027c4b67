//! The fence of a clone (`clone.network = "fenced"`): new connections go to its controller, its resolvers, its package
//! mirrors and what is allowed, and nowhere else.
//!
//! It is made of routing rules (ip-rule(8)) inside the clone, set by a unit before there is any network: nothing needs to
//! be installed, the rules stand whatever becomes of interfaces and routes, and the files go and come with the clone's
//! identity. Mirrors are not told by address (their names have changing answers, and redirect) but by who asks for
//! them: apt downloads as its own user. What it protects from is accidents; root of the guest can take it down.
//!
//! The order of preferences: a verification's own fence, which leaves the controller only, stands before the clone's.

use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::tree::{FileImage, Overlay};
use super::{CloneSpec, GuestError, Tree};

/// Preference of the rules that open fixed ways.
const WAYS: u32 = 8100;
/// Preference of the rule that shuts what no rule before it opened.
pub const WALL: u32 = 8199;
/// The same two for the time of a verification.
const VERIFYING_WAYS: u32 = 8000;
/// See [`VERIFYING_WAYS`].
pub const VERIFYING_WALL: u32 = 8099;

/// By number: a guest without netbase has no protocols(5).
const TCP: &str = "6";
/// See [`TCP`].
const UDP: &str = "17";

/// The user that apt(8) downloads as (apt.conf(5), `APT::Sandbox::User`).
const APT_USER: &str = "_apt";
const HERE: &str = "etc/upgradectl";
const UNITS: &str = "etc/systemd/system";
const WHY: &str = "fence: new connections to few places only";

/// Where a way through the fence leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// An address or a network.
    Network {
        /// The address.
        address: IpAddr,
        /// Prefix length.
        prefix: u8,
    },
    /// A name that the clone looks up, again and again.
    Name(String),
}

/// A way through the fence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Where to.
    pub to: Destination,
    /// One port of TCP and UDP; everything if absent.
    pub port: Option<u16>,
}

impl From<IpAddr> for Way {
    fn from(address: IpAddr) -> Self {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        Self { to: Destination::Network { address, prefix }, port: None }
    }
}

/// What a fenced clone may reach beside its resolvers and mirrors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The controller, and what is allowed.
    pub ways: Vec<Way>,
}

/// A family of addresses, as `ip -4` and `ip -6` tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
    /// `-4` or `-6`.
    pub fn option(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }
}

/// What follows `ip -4 rule add` (or `del`) to shut everything that no earlier rule opens.
pub fn wall(pref: u32) -> Vec<String> {
    ["pref", &pref.to_string(), "unreachable"].map(str::to_owned).to_vec()
}

/// What follows `ip rule add` for a way, with the family it is of; nothing for a name.
fn rules(pref: u32, way: &Way) -> Vec<(Family, Vec<String>)> {
    let Destination::Network { address, prefix } = way.to else { return Vec::new() };
    let to = format!("{address}/{prefix}");
    let rule = |ports: &[&str]| {
        let pref = pref.to_string();
        let words = ["pref", &pref, "to", &to].into_iter().chain(ports.iter().copied()).chain(["lookup", "main"]);
        (Family::of(address), words.map(str::to_owned).collect())
    };
    match way.port.map(|port| port.to_string()) {
        None => vec![rule(&[])],
        Some(port) => [TCP, UDP].map(|kind| rule(&["ipproto", kind, "dport", &port])).to_vec(),
    }
}

/// The fence for the time of a verification: what follows `ip -4 rule add` and `ip -6 rule add`, the controller's way
/// first, so that it is never cut off.
pub fn while_verifying(controller: IpAddr, family: Family) -> Vec<Vec<String>> {
    let ways = rules(VERIFYING_WAYS, &controller.into()).into_iter();
    let mut all: Vec<_> = ways.filter(|(of, _)| *of == family).map(|(_, words)| words).collect();
    all.push(wall(VERIFYING_WALL));
    all
}

/// The preferences of a verification's fence, the wall's first.
pub fn verifying_prefs() -> [u32; 2] {
    [VERIFYING_WALL, VERIFYING_WAYS]
}

/// The file for `ip -batch`, in one family: the wall first, so that what fails after it leaves the clone shut in.
fn batch(fence: &Fence, apt: Option<u32>, family: Family) -> String {
    let mut lines = vec![wall(WALL)];
    lines.extend(
        fence.ways.iter().flat_map(|way| rules(WAYS, way)).filter(|(of, _)| *of == family).map(|(_, words)| words),
    );
    let pref = WAYS.to_string();
    if let Some(uid) = apt {
        let range = format!("{uid}-{uid}");
        lines.push(["pref", &pref, "uidrange", &range, "lookup", "main"].map(str::to_owned).to_vec());
    }
    // A lease has to be renewed.
    let dhcp = match family {
        Family::V4 => "67",
        Family::V6 => "547",
    };
    lines.push(["pref", &pref, "ipproto", UDP, "dport", dhcp, "lookup", "main"].map(str::to_owned).to_vec());
    lines.iter().map(|words| format!("rule add {}\n", words.join(" "))).collect()
}

/// The number of apt's own user, by the guest's passwd(5).
pub fn apt_user(tree: &Tree) -> Result<Option<u32>, GuestError> {
    let text = tree.read_text(Path::new("etc/passwd"))?.unwrap_or_default();
    let mut users = text.lines().map(|line| line.split(':'));
    Ok(users.find_map(|mut fields| {
        let found = fields.next() == Some(APT_USER);
        fields.nth(1).filter(|_| found)?.parse().ok()
    }))
}

/// Plans the files of the fence.
pub fn rewrite(edits: &mut Overlay<'_>, spec: &CloneSpec) -> Result<(), GuestError> {
    let Some(fence) = &spec.fence else { return Ok(()) };
    let apt = apt_user(edits.tree())?;
    let names: String = fence
        .ways
        .iter()
        .filter_map(|way| match &way.to {
            Destination::Name(name) => Some(format!("{name} {}\n", way.port.unwrap_or(0))),
            Destination::Network { .. } => None,
        })
        .collect();
    for (name, text) in [
        ("fence", include_str!("../../templates/fence/fence").to_owned()),
        ("fence4", batch(fence, apt, Family::V4)),
        ("fence6", batch(fence, apt, Family::V6)),
        ("fence-names", names),
    ] {
        put(edits, &Path::new(HERE).join(name), text)?;
    }
    put(
        edits,
        Path::new("etc/sysctl.d/zz-upgradectl-fence.conf"),
        include_str!("../../templates/fence/sysctl.conf").to_owned(),
    )?;
    let units = Path::new(UNITS);
    for (name, text) in [
        ("upgradectl-fence.service", include_str!("../../templates/fence/upgradectl-fence.service")),
        ("upgradectl-fence-names.service", include_str!("../../templates/fence/upgradectl-fence-names.service")),
        ("upgradectl-fence-names.timer", include_str!("../../templates/fence/upgradectl-fence-names.timer")),
    ] {
        put(edits, &units.join(name), text.to_owned())?;
    }
    for network in ["networking", "ifup@", "systemd-networkd", "NetworkManager"] {
        let needs = include_str!("../../templates/fence/needs-fence.conf").to_owned();
        put(edits, &units.join(format!("{network}.service.d/upgradectl-fence.conf")), needs)?;
    }
    for (wants, unit) in
        [("sysinit.target.wants", "upgradectl-fence.service"), ("timers.target.wants", "upgradectl-fence-names.timer")]
    {
        let link = units.join(wants).join(unit);
        directories(edits, &link)?;
        edits.put(&link, Some(FileImage::Symlink { target: Path::new("..").join(unit) }), WHY)?;
    }
    Ok(())
}

fn put(edits: &mut Overlay<'_>, path: &Path, text: String) -> Result<(), GuestError> {
    directories(edits, path)?;
    edits.set_text(path, text, WHY)
}

/// The directories on the way to a file, as far as they are missing.
fn directories(edits: &mut Overlay<'_>, path: &Path) -> Result<(), GuestError> {
    let mut parents: Vec<&Path> = path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()).collect();
    parents.reverse();
    for parent in parents {
        if edits.image(parent)?.is_none() {
            edits.put(parent, Some(edits.tree().new_directory(0o755)), WHY)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;

    use super::*;

    fn fence() -> Fence {
        let way = |to, port| Way { to, port };
        Fence {
            ways: vec![
                IpAddr::from([10, 0, 5, 1]).into(),
                way(Destination::Network { address: [192, 0, 2, 0].into(), prefix: 24 }, None),
                way(Destination::Network { address: "2001:db8::5".parse().unwrap(), prefix: 128 }, Some(443)),
                way(Destination::Name("db.example".into()), Some(5432)),
            ],
        }
    }

    #[test]
    fn the_wall_stands_first_and_every_way_leads_to_the_main_table() {
        assert_eq!(
            batch(&fence(), Some(42), Family::V4),
            "rule add pref 8199 unreachable
rule add pref 8100 to 10.0.5.1/32 lookup main
rule add pref 8100 to 192.0.2.0/24 lookup main
rule add pref 8100 uidrange 42-42 lookup main
rule add pref 8100 ipproto 17 dport 67 lookup main
"
        );
        assert_eq!(
            batch(&fence(), None, Family::V6),
            "rule add pref 8199 unreachable
rule add pref 8100 to 2001:db8::5/128 ipproto 6 dport 443 lookup main
rule add pref 8100 to 2001:db8::5/128 ipproto 17 dport 443 lookup main
rule add pref 8100 ipproto 17 dport 547 lookup main
"
        );
    }

    #[test]
    fn a_verification_leaves_the_controller_only() {
        let rules = |family| -> Vec<String> {
            let rules = while_verifying([10, 0, 5, 1].into(), family);
            rules.iter().map(|words| words.join(" ")).collect()
        };
        assert_eq!(rules(Family::V4), ["pref 8000 to 10.0.5.1/32 lookup main", "pref 8099 unreachable"]);
        assert_eq!(rules(Family::V6), ["pref 8099 unreachable"]);
        const { assert!(VERIFYING_WALL < WAYS, "it stands before the ways of the clone's own fence") };
    }

    #[test]
    fn the_files_come_once_and_go_whole() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/systemd/system")).unwrap();
        fs::write(root.path().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n_apt:x:100:65534::/:/bin/false\n")
            .unwrap();
        let tree = Tree::open(root.path()).unwrap();
        let spec = CloneSpec { fence: Some(fence()), ..CloneSpec::default() };
        let plan = || {
            let mut edits = Overlay::new(&tree);
            rewrite(&mut edits, &spec).unwrap();
            edits.into_edits()
        };
        let edits = plan();
        super::super::apply(&tree, &edits).unwrap();
        assert_eq!(plan(), []);
        let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        assert_eq!(read("etc/upgradectl/fence-names"), "db.example 5432\n");
        assert!(read("etc/upgradectl/fence4").contains("uidrange 100-100"));
        assert!(read("etc/systemd/system/sysinit.target.wants/upgradectl-fence.service").contains("fence up"));
        assert!(read("etc/systemd/system/ifup@.service.d/upgradectl-fence.conf").contains("Requires="));

        let back = super::super::restore::restore_edits(&tree, &edits).unwrap();
        assert_eq!(back.notes, Vec::<String>::new());
        super::super::apply(&tree, &back.edits).unwrap();
        assert!(!root.path().join("etc/upgradectl").exists() && !root.path().join("etc/sysctl.d").exists());
        assert_eq!(tree.list(Path::new("etc/systemd/system")).unwrap(), Vec::<std::ffi::OsString>::new());
    }
}
