//! `yum update` with a new kernel, in a guest of the Red Hat family on VMware: what is looked at before, and what decides the steps.
//!
//! * [`config`]: what hides kernels from an update. [`version`]: versions as rpm compares them.
//! * [`Seen`]: the guest as it is; [`findings`]: what of it stands in the way.
//!
//! Kernels are updated in a transaction of their own, after everything else: what else an exclude hides stays hidden.

pub mod config;
pub mod version;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hypervisors::Host;
use hypervisors::host::{Command, printable};
use serde::{Deserialize, Serialize};

use self::config::{Exclude, Package};
use super::{Finding, Verdict};

/// Modules by which a guest drives the hardware that VMware shows it. Of each pair, the name in VMware's own tools, and the one in
/// Linux since it has the driver itself (open-vm-tools' README); alone where both are the same, or where there is no other.
const PARAVIRTUAL: [(&str, &str); 9] = [
    ("vmxnet3", "vmxnet3"),
    ("vmxnet", "vmxnet"),
    ("pvscsi", "vmw_pvscsi"),
    ("vmmemctl", "vmw_balloon"),
    ("vmci", "vmw_vmci"),
    ("vsock", "vmw_vsock_vmci_transport"),
    ("vmhgfs", "vmhgfs"),
    ("mptspi", "mptspi"),
    ("e1000", "e1000"),
];

/// The names under which a module's work is done.
pub fn names(module: &str) -> Vec<&str> {
    match PARAVIRTUAL.iter().find(|(own, mainline)| *own == module || *mainline == module) {
        Some((own, mainline)) if own != mainline => vec![own, mainline],
        _ => vec![module],
    }
}

/// The tool that updates packages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// `yum` or `dnf`.
    pub program: String,
    /// Its switch that looks past all excludes, if it has one: `--disableexcludes=all` (yum(8), dnf(8)),
    /// `--setopt=disable_excludes=*` (dnf5-filtering(7)).
    pub past: Option<String>,
}

impl Tool {
    /// The command that updates packages, or all, without a question.
    pub fn update(&self, packages: &[String], options: &[&str]) -> Vec<String> {
        let verb = if self.program == "dnf" { "upgrade" } else { "update" };
        let words = [self.program.as_str(), "-y"].into_iter().chain(options.iter().copied()).chain([verb]);
        words.map(str::to_owned).chain(packages.iter().cloned()).collect()
    }
}

/// What loads the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loader {
    /// GRUB 2: an entry can be booted once.
    Grub2,
    /// GRUB before that.
    Legacy,
}

/// What starts the guest's services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// systemd.
    Systemd,
    /// Scripts of run levels.
    Sysv,
    /// A local script alone.
    RcLocal,
}

/// How VMware's tools were installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tools {
    /// The distribution's open-vm-tools: nothing has to be done again.
    Open,
    /// VMware's packages (OSP): their modules are packages too.
    Packages,
    /// VMware's tar archive: its modules are built for one kernel.
    Tar,
    /// None.
    None,
}

impl Tools {
    /// As people call it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open-vm-tools",
            Self::Packages => "VMware's packages",
            Self::Tar => "VMware's tar archive",
            Self::None => "none",
        }
    }
}

/// A guest as it is before.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `uname -r`.
    pub kernel: String,
    /// Name of the package whose kernel in `/boot` that is; `None`: it is of none, or not there.
    pub owner: Option<String>,
    /// Number of the user that commands run as.
    pub user: String,
    /// UUID of the machine as its BIOS tells it, where that is VMware's.
    pub uuid: Option<String>,
    /// First line of `/etc/redhat-release`.
    pub release: String,
    /// What updates packages; `None`: neither yum nor dnf is there.
    pub tool: Option<Tool>,
    /// What loads the kernel; `None`: it cannot be told.
    pub loader: Option<Loader>,
    /// grubby(8) is there.
    pub grubby: bool,
    /// What starts services.
    pub init: Option<Init>,
    /// VMware's tools.
    pub tools: Tools,
    /// The program that applies them again.
    pub again: Option<String>,
    /// Their daemon runs.
    pub running: bool,
    /// Modules of [`PARAVIRTUAL`] that are loaded.
    pub loaded: BTreeSet<String>,
    /// Modules between the root file system and its disk.
    pub drivers: BTreeSet<String>,
    /// Installed packages of kernels.
    pub kernels: Vec<Package>,
    /// What hides kernels.
    pub excludes: Vec<Exclude>,
    /// SHA-256 of the files that these stand in.
    pub digests: BTreeMap<PathBuf, String>,
    /// The plugin versionlock holds kernels.
    pub locked: bool,
    /// dnf 5's list of locks does: it has no switch that looks past it.
    pub locked5: bool,
    /// `[main]`'s installonly_limit.
    pub limit: Option<u32>,
    /// Network mounts of fstab(5) that a boot waits for.
    pub network_mounts: Vec<String>,
    /// Mount points on other disks than the root's.
    pub other_disks: Vec<String>,
    /// KiB free for `/boot`, and taken there by a kernel with its initial ramdisk.
    pub boot: Option<(u64, u64)>,
    /// Configuration that is included from elsewhere and was not looked at.
    pub unread: Vec<String>,
}

const LOOK: &str = include_str!("look.sh");
/// A configuration file is far smaller.
const LIMIT: u64 = 1 << 20;

/// Runs a script in the guest.
async fn script(guest: &dyn Host, doing: &str, text: &str, patience_s: u64) -> hypervisors::Result<String> {
    let command = Command::new(["sh", "-c", text]).timeout(Duration::from_secs(patience_s));
    Ok(guest.run(&command).await?.checked(doing, &command)?.text())
}

impl Seen {
    /// Looks at the guest; changes nothing.
    ///
    /// # Errors
    /// It cannot be reached, or has no rpm.
    pub async fn look(guest: &dyn Host) -> hypervisors::Result<Self> {
        let told = script(guest, "look at the guest's kernel and tools", LOOK, 120).await?;
        let lines: Vec<(&str, String)> = told
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .map(|(key, value)| (key, printable(value.trim())))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        let all =
            |key: &str| lines.iter().filter(move |line| line.0 == key).map(|line| line.1.clone()).collect::<Vec<_>>();
        let one = |key: &str| all(key).into_iter().next();
        let is = |key: &str, word: &str| all(key).iter().any(|value| value == word);

        let asked = format!("rpm -qa --qf '{}' 'kernel*'", config::FORMAT);
        let kernels = config::packages(&script(guest, "ask for the installed kernels", &asked, 120).await?);
        let kernels: Vec<Package> = kernels.into_iter().filter(|one| config::is_kernel(&one.name)).collect();
        let (mut excludes, mut digests, mut unread, mut limit) = (Vec::new(), BTreeMap::new(), Vec::new(), None);
        for path in all("config").into_iter().map(PathBuf::from).collect::<BTreeSet<_>>() {
            let Some(text) = guest.read_file(&path, LIMIT).await? else { continue };
            let hiding =
                config::excludes(&path, &text).into_iter().filter(|one| one.hides(&kernels)).collect::<Vec<_>>();
            limit = limit.or(config::main_value(&text, "installonly_limit").and_then(|value| value.parse().ok()));
            if let Some(from) = config::main_value(&text, "include") {
                unread.push(format!("{} includes {}", path.display(), printable(&from)));
            }
            if !hiding.is_empty() {
                digests.insert(path, crate::recipe::sha256(&text));
                excludes.extend(hiding);
            }
        }
        let (mut locked, mut locked5) = (false, false);
        for path in all("locks") {
            locked |= config::locks_kernels(&guest.read_file(Path::new(&path), LIMIT).await?.unwrap_or_default());
        }
        for path in all("locks5") {
            locked5 |= config::locks_kernels5(&guest.read_file(Path::new(&path), LIMIT).await?.unwrap_or_default());
        }
        let fstab = guest.read_file(Path::new("/etc/fstab"), LIMIT).await?.unwrap_or_default();
        let (network_mounts, other_disks) = mounts(&String::from_utf8_lossy(&fstab));
        let loaded: BTreeSet<String> = all("loaded").into_iter().collect();
        let ours = |name: &&String| PARAVIRTUAL.iter().any(|(own, mainline)| name == own || name == mainline);
        let number = |key: &str| one(key).and_then(|value| value.parse().ok());
        Ok(Self {
            kernel: one("kernel").unwrap_or_default(),
            owner: one("owner"),
            user: one("user").unwrap_or_default(),
            uuid: one("uuid"),
            release: one("release").unwrap_or_default(),
            tool: one("tool").map(|program| Tool { program, past: one("past") }),
            loader: match (is("boots", "grub2"), is("boots", "legacy")) {
                (true, _) => Some(Loader::Grub2),
                (_, true) => Some(Loader::Legacy),
                _ => None,
            },
            grubby: is("boots", "grubby"),
            init: match one("init").as_deref() {
                Some("systemd") => Some(Init::Systemd),
                Some("sysv") => Some(Init::Sysv),
                Some("rc.local") => Some(Init::RcLocal),
                _ => None,
            },
            tools: match one("tools").as_deref() {
                Some("open") => Tools::Open,
                Some("packages") => Tools::Packages,
                Some("tar") => Tools::Tar,
                _ => Tools::None,
            },
            again: one("again"),
            running: one("running").is_some(),
            loaded: loaded.iter().filter(ours).cloned().collect(),
            drivers: all("driver").into_iter().collect(),
            kernels,
            excludes,
            digests,
            locked,
            locked5,
            limit,
            network_mounts,
            other_disks,
            boot: number("free").zip(number("needs")),
            unread,
        })
    }

    /// The installed packages of kernels of the running one's kind: those that have one in them.
    fn own(&self) -> impl Iterator<Item = &Package> {
        self.kernels.iter().filter(|it| Some(&it.name) == self.owner.as_ref())
    }

    /// The newest kernel that is installed and newer than the running one.
    pub fn waiting(&self) -> Option<String> {
        // Old ones say what kind they are behind their release: `2.6.18-128.el5PAE` is of kernel-PAE.
        let kind = self.owner.as_deref().and_then(|owner| owner.strip_prefix("kernel-"));
        let all: Vec<String> = self
            .own()
            .map(|it| match kind.filter(|kind| self.kernel.ends_with(kind)) {
                Some(kind) => format!("{}-{}{kind}", it.version, it.release),
                None => it.kernel(),
            })
            .collect();
        version::newest(all.iter().map(String::as_str), &self.kernel)
            .filter(|newest| !newest.starts_with(&format!("{}.", self.kernel)))
            .map(str::to_owned)
    }

    /// Whether one more installed kernel lets this one go: so many are kept (`installonly_limit`; 3 where nothing is said, 0: all), the
    /// running one in any case, and the oldest are removed.
    pub fn may_lose(&self, before: &str) -> bool {
        let limit = self.limit.unwrap_or(3) as usize;
        let removed = (self.own().count() + 1).saturating_sub(limit);
        let older = self.own().filter(|it| version::kernels(&it.kernel(), before) == Ordering::Less).count();
        limit > 0 && before != self.kernel && older < removed
    }

    /// Names of the installed packages of kernels.
    pub fn names(&self) -> Vec<String> {
        self.kernels.iter().map(|kernel| kernel.name.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Whether an ordinary update leaves kernels out.
    pub fn hidden(&self) -> bool {
        !self.excludes.is_empty() || self.locked
    }

    /// The program that applies VMware's tools again, where the new kernel needs that.
    pub fn tools_again(&self) -> Option<Vec<String>> {
        let program = self.again.clone().filter(|_| self.tools == Tools::Tar)?;
        // vmware-tools-upgrader hands the installer's own switch on, as the report does.
        let arguments: &[&str] = if program.ends_with(".pl") { &["--default"] } else { &["-p", "-d"] };
        Some([program].into_iter().chain(arguments.iter().map(|word| (*word).to_owned())).collect())
    }
}

/// Network mounts that a boot waits for, and mount points on other disks than the root's, of fstab(5).
fn mounts(fstab: &str) -> (Vec<String>, Vec<String>) {
    let entries: Vec<Vec<&str>> = fstab
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .filter(|words| words.len() >= 3)
        .collect();
    let has =
        |words: &[&str], option: &str| words.get(3).is_some_and(|options| options.split(',').any(|it| it == option));
    let waits = |words: &Vec<&str>| !has(words, "noauto") && !has(words, "nofail");
    let network = |words: &&Vec<&str>| {
        let kinds = ["nfs", "nfs4", "cifs", "smbfs", "glusterfs", "ceph", "fuse.sshfs", "gfs2", "ocfs2", "afs"];
        kinds.contains(&words[2]) || has(words, "_netdev")
    };
    // `/dev/sda` of `/dev/sda2`; labels, UUIDs and volume groups name no disk.
    let disk = |device: &str| {
        let name = device.strip_prefix("/dev/")?;
        let kind = ["sd", "hd", "vd", "xvd"].into_iter().find(|kind| name.starts_with(kind))?;
        let letters = name[kind.len()..].trim_end_matches(|c: char| c.is_ascii_digit());
        letters.chars().all(|c| c.is_ascii_lowercase()).then(|| format!("{kind}{letters}"))
    };
    let root = entries.iter().find(|words| words[1] == "/").and_then(|words| disk(words[0]));
    let elsewhere =
        |words: &&Vec<&str>| disk(words[0]).is_some_and(|own| root.as_ref().is_none_or(|root| *root != own));
    let shown = |words: &Vec<&str>| printable(&format!("{} ({})", words[1], words[0]));
    let ours: Vec<&Vec<&str>> = entries.iter().filter(|words| waits(words)).collect();
    let shows = |keep: &dyn Fn(&&Vec<&str>) -> bool| ours.iter().copied().filter(|it| keep(it)).map(shown).collect();
    (shows(&network), shows(&elsewhere))
}

/// Whether the guest's repositories offer a newer kernel, past what hides it (`check-update`: status 100 if there are updates, 0 if
/// not). `None`: its tool cannot look past an exclude. The inner error: what the tool said of its repositories.
///
/// # Errors
/// The guest does not answer.
pub async fn offered(guest: &dyn Host, seen: &Seen) -> hypervisors::Result<Result<Option<bool>, String>> {
    let (Some(tool), Some(owner)) = (&seen.tool, seen.owner.as_deref()) else { return Ok(Ok(Some(false))) };
    let mut argv = vec![tool.program.as_str(), "-q"];
    argv.extend(tool.past.as_deref());
    if seen.locked {
        argv.push("--disableplugin=versionlock");
    }
    argv.push("check-update");
    // Headers and tools have updates of their own, and no kernel in them.
    argv.push(owner);
    let command = Command::new(argv).timeout(Duration::from_secs(600)).env("LC_ALL", "C");
    let output = guest.run(&command).await?;
    Ok(match output.status {
        100 => Ok(Some(true)),
        0 if tool.past.is_none() && !seen.excludes.is_empty() => Ok(None),
        0 => Ok(Some(false)),
        _ => Err(String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr })
            .into_owned()),
    })
}

/// What stands in the way of an update of the kernel, or should be known before.
pub fn findings(seen: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut say =
        |id: &str, verdict, detail: String, remedy: &str| found.push(Finding::new(id, verdict, detail, remedy));
    if seen.user != "0" {
        let how = "log in as root, or say ssh = { user = \"adm\", sudo = true } in the inventory";
        say("yum.root", Verdict::Refuse, format!("commands run as user {} there, not as root", seen.user), how);
    }
    match &seen.tool {
        None => say(
            "yum.tool",
            Verdict::Refuse,
            "there is neither dnf nor yum".into(),
            "this recipe is for guests that have one",
        ),
        Some(tool) => say("yum.tool", Verdict::Pass, format!("{}, {}", tool.program, seen.release), ""),
    }
    match seen.owner.is_some() {
        true => say(
            "yum.kernel",
            Verdict::Pass,
            format!("{} runs, and is installed: it stays to fall back to", seen.kernel),
            "",
        ),
        false => say(
            "yum.kernel",
            Verdict::Refuse,
            format!(
                "{0} runs, and /boot/vmlinuz-{0} is of no package: there would be nothing to fall back to",
                seen.kernel
            ),
            "boot a kernel that is installed (rpm -qf /boot/vmlinuz-*), then try again",
        ),
    }
    if seen.locked5 {
        let remedy =
            "dnf versionlock delete kernel, and what else of it dnf versionlock list has; add it again after commit";
        say("yum.lock", Verdict::Refuse, "dnf 5 holds kernels by versionlock, and knows no way past it".into(), remedy);
    }
    if seen.limit == Some(1) {
        let remedy = "set it to 2 or more in the file of yum or dnf";
        say("yum.limit", Verdict::Refuse, "installonly_limit is 1: the running kernel would be removed".into(), remedy);
    }
    if let (false, Some(loader)) = (seen.grubby, seen.loader) {
        let what = format!("{loader:?} loads the kernel, and there is no grubby to tell it which").to_lowercase();
        say("yum.grubby", Verdict::Refuse, what, "install grubby");
    }
    match seen.loader {
        Some(Loader::Grub2) => {}
        Some(Loader::Legacy) => say(
            "yum.loader",
            Verdict::Warn,
            "this boot loader cannot be told to boot a kernel once: if the new one does not come up, the old one has to be chosen at the console".into(),
            "have the console at hand",
        ),
        None => say("yum.loader", Verdict::Refuse, "no boot loader is known there".into(), "GRUB is understood, with grubby"),
    }
    match (seen.tools, seen.running) {
        (Tools::None, _) => {
            say("yum.tools", Verdict::Warn, "VMware's tools are not installed".into(), "nothing is applied again")
        }
        (tools, true) => say("yum.tools", Verdict::Pass, format!("{} run", tools.word()), ""),
        (tools, false) => say(
            "yum.tools",
            Verdict::Refuse,
            format!("{} are installed and do not run", tools.word()),
            "start them: service vmware-tools start, or systemctl start vmtoolsd",
        ),
    }
    if seen.tools == Tools::Tar && seen.again.is_none() {
        let remedy = "name it: upgrade = { recipe = \"yum-kernel\", tools = [\"/usr/bin/vmware-config-tools.pl\", \"--default\"] }";
        say("yum.tools", Verdict::Refuse, "no program is there that applies VMware's tools again".into(), remedy);
    }
    if let Some(mount) = seen.network_mounts.first() {
        let more = seen.network_mounts.len() - 1;
        let what = format!(
            "fstab mounts {mount} from the network{}",
            if more > 0 { format!(", and {more} more") } else { String::new() }
        );
        let remedy = "unmount it and put noauto or nofail into its line for as long: a boot without a driver for the network waits for it";
        say("yum.mounts", Verdict::Refuse, what, remedy);
    }
    if let Some(mount) = seen.other_disks.first() {
        let what = format!("fstab mounts {mount}, which is on another disk than the root");
        say(
            "yum.mounts",
            Verdict::Warn,
            what,
            "a boot that does not find it stops; nofail in its line goes on without it",
        );
    }
    if let Some((free, needs)) = seen.boot.filter(|(free, needs)| free < needs) {
        let what = format!(
            "/boot has {} MiB free, a kernel with its initial ramdisk takes {}",
            free / 1024,
            needs.div_ceil(1024)
        );
        say(
            "yum.boot",
            Verdict::Refuse,
            what,
            "remove an old kernel that does not run: rpm -q kernel, then yum remove kernel-VERSION",
        );
    }
    if seen.drivers.is_empty() {
        let what =
            "which driver the root disk needs cannot be told: the new initial ramdisk is not searched for it".into();
        say("yum.driver", Verdict::Warn, what, "look yourself before it reboots, with a hook at = \"after-upgrade\"");
    }
    for from in &seen.unread {
        say("yum.include", Verdict::Warn, format!("{from}: not looked at"), "an exclude in there is not seen");
    }
    found
}

#[cfg(test)]
pub(crate) mod tests;
