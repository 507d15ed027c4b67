//! Commands as people read them: in the words of the toolstack that a host has, and from where one would type them. What is
//! shown is what a step comes down to, not a script: libraries are called, and each step looks before and after.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hypervisors::VolumeRef;

/// The toolstack of a host, with what a command line has to name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolstack {
    /// libvirt, by its connection.
    Libvirt {
        /// Connection URI.
        uri: String,
    },
    /// Plain Xen.
    Xl {
        /// Directory of the definitions.
        definitions: PathBuf,
    },
    /// FreeBSD's jails.
    Jail,
    /// The simulated platform.
    Sim,
}

/// How commands on one host are typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manner {
    /// What it runs guests with.
    pub toolstack: Toolstack,
    /// How it is reached from here (`ssh perceval`); empty: it is this machine.
    pub reached: Vec<String>,
}

/// How commands are typed, by host name of the inventory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manners(pub BTreeMap<String, Manner>);

/// What is done to a guest on its platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Its definition is stored; `true`: in place of another.
    Define(bool),
    /// Its definition is removed.
    Undefine,
    /// It is started.
    Start,
    /// It is asked to shut down.
    Shutdown,
    /// It starts with its host from now on, or no longer.
    Autostart(bool),
    /// It is frozen.
    Pause,
    /// It goes on.
    Resume,
}

fn argv<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

impl Manners {
    /// A command on a host.
    pub fn on(&self, host: &str, command: Vec<String>) -> Vec<String> {
        let reached = self.0.get(host).map(|manner| manner.reached.clone()).unwrap_or_default();
        reached.into_iter().chain(command).collect()
    }

    /// What an act on a guest comes down to.
    pub fn act(&self, host: &str, act: Act, guest: &str) -> Vec<Vec<String>> {
        match self.0.get(host).map(|manner| &manner.toolstack) {
            Some(Toolstack::Libvirt { uri }) => vec![virsh(&["-c", uri], act, guest)],
            None => vec![virsh(&[], act, guest)],
            Some(Toolstack::Xl { definitions }) => {
                let file = definitions.join(format!("{guest}.cfg")).display().to_string();
                xl(&file, act, guest).into_iter().map(|command| self.on(host, command)).collect()
            }
            Some(Toolstack::Jail) => jail(act, guest).into_iter().map(|command| self.on(host, command)).collect(),
            Some(Toolstack::Sim) => vec![argv(["sim", word(act), guest])],
        }
    }
}

fn word(act: Act) -> &'static str {
    match act {
        Act::Define(_) => "define",
        Act::Undefine => "undefine",
        Act::Start => "start",
        Act::Shutdown => "shutdown",
        Act::Autostart(_) => "autostart",
        Act::Pause => "suspend",
        Act::Resume => "resume",
    }
}

/// virsh(1); a connection to another machine is part of its URI.
fn virsh(connection: &[&str], act: Act, guest: &str) -> Vec<String> {
    let mut words = vec!["virsh"];
    words.extend(connection);
    words.push(word(act));
    let file = format!("{guest}.xml");
    match act {
        Act::Define(_) => words.push(&file),
        Act::Autostart(false) => words.extend(["--disable", guest]),
        _ => words.push(guest),
    }
    words.into_iter().map(str::to_owned).collect()
}

/// xl(1), and what it leaves to people: files and links.
fn xl(file: &str, act: Act, guest: &str) -> Vec<Vec<String>> {
    let link = format!("/etc/xen/auto/{guest}.cfg");
    match act {
        Act::Define(false) => vec![argv(["edit", file])],
        Act::Define(true) => vec![argv(["edit", file]), argv(["xl", "config-update", guest, file])],
        Act::Undefine => vec![argv(["rm", file])],
        Act::Start => vec![argv(["xl", "create", file])],
        Act::Shutdown => vec![argv(["xl", "shutdown", guest])],
        Act::Autostart(true) => vec![argv(["ln", "-s", file, &link])],
        Act::Autostart(false) => vec![argv(["rm", &link])],
        Act::Pause => vec![argv(["xl", "pause", guest])],
        Act::Resume => vec![argv(["xl", "unpause", guest])],
    }
}

/// service(8) and sysrc(8), and what is left to people: the file of a definition.
fn jail(act: Act, guest: &str) -> Vec<Vec<String>> {
    let file = format!("/etc/jail.{guest}.conf");
    match act {
        Act::Define(_) => vec![argv(["vi", &file])],
        Act::Undefine => vec![argv(["rm", &file])],
        Act::Start => vec![argv(["service", "jail", "onestart", guest])],
        Act::Shutdown => vec![argv(["service", "jail", "onestop", guest])],
        Act::Autostart(true) => vec![argv(["sysrc", &format!("jail_list+={guest}")])],
        Act::Autostart(false) => vec![argv(["sysrc", &format!("jail_list-={guest}")])],
        // Jails cannot be paused.
        Act::Pause | Act::Resume => Vec::new(),
    }
}

/// `VG/LV` of a logical volume's path.
pub fn lv(volume: &VolumeRef) -> String {
    volume.path.strip_prefix("/dev").unwrap_or(&volume.path).display().to_string()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use hypervisors::host::shell_quote;

    fn manners() -> Manners {
        let ssh = |host: &str| argv(["ssh", host]);
        let manner = |toolstack, reached| Manner { toolstack, reached };
        Manners(BTreeMap::from([
            ("here".into(), manner(Toolstack::Libvirt { uri: "lxc:///system".into() }, Vec::new())),
            ("far".into(), manner(Toolstack::Libvirt { uri: "xen+ssh://root@far/system?no_tty=1".into() }, ssh("far"))),
            ("trolls".into(), manner(Toolstack::Xl { definitions: "/srv/VM/config".into() }, Vec::new())),
            ("perceval".into(), manner(Toolstack::Xl { definitions: "/etc/xen".into() }, ssh("perceval"))),
            ("jails".into(), manner(Toolstack::Jail, ssh("jails"))),
            ("sim".into(), manner(Toolstack::Sim, Vec::new())),
        ]))
    }

    #[test]
    fn each_toolstack_has_its_words() {
        let manners = manners();
        let acts = [
            Act::Define(false),
            Act::Define(true),
            Act::Undefine,
            Act::Start,
            Act::Shutdown,
            Act::Autostart(true),
            Act::Autostart(false),
            Act::Pause,
            Act::Resume,
        ];
        let mut shown = String::new();
        for host in ["here", "far", "trolls", "perceval", "jails", "sim"] {
            shown += &format!("{host}\n");
            for command in acts.iter().flat_map(|act| manners.act(host, *act, "mercure")) {
                shown += &format!("  {}\n", shell_quote(&command));
            }
        }
        insta::assert_snapshot!(shown);
    }

    #[test]
    fn a_logical_volume_is_named_as_lvm_names_it() {
        let volume = |path: &str| VolumeRef { kind: hypervisors::VolumeKind::LvmThick, path: path.into() };
        assert_eq!(lv(&volume("/dev/vg1/mercure")), "vg1/mercure");
        assert_eq!(manners().on("perceval", argv(["true"])), ["ssh", "perceval", "true"]);
        assert_eq!(manners().on("nowhere", argv(["true"])).first().unwrap(), "true");
    }
}
