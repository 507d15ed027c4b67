//! The platform against a host of jails in memory, whose files are real and lie in a directory; it answers as the recorded
//! FreeBSD 13.2 does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::Jails;
use crate::host::{Command, Host, Job, JobStatus, LocalHost, Output};
use crate::net::RealNet;
use crate::{
    Cause, Change, Definition, DefinitionEdit, DiskEdit, Hypervisor, Mark, NewAddress, NewGuest, Power, Result, Role,
    VolumeKind, VolumeRef,
};

#[derive(Debug, Default)]
struct State {
    /// Names of running jails and their roots.
    running: BTreeMap<String, (u32, String)>,
    next: u32,
    /// Jails that do not stop when asked.
    deaf: Vec<String>,
    /// Jails that do not start.
    broken: Vec<String>,
}

/// `service jail`, `jls -n`, `jail -R`, `uname`; the rest is this machine's.
#[derive(Debug)]
struct FakeHost {
    real: LocalHost,
    state: Mutex<State>,
    release: &'static str,
}

impl FakeHost {
    fn answer(&self, argv: &[&str]) -> Option<(i32, String, String)> {
        let mut state = self.state.lock().unwrap();
        let said = |status: i32, out: &str, err: &str| Some((status, out.to_owned(), err.to_owned()));
        match argv {
            ["uname", "-sr"] => said(0, &format!("FreeBSD {}\n", self.release), ""),
            ["jls", "-n"] => {
                let line = |(name, (jid, path)): (&String, &(u32, String))| {
                    format!(
                        "nodying jid={jid} name={name} path={path} vnet=inherit host.hostname={name} ip4.addr=10.0.2.112 ip6.addr=\n"
                    )
                };
                said(0, &state.running.iter().map(line).collect::<String>(), "")
            }
            ["service", "jail", "onestart", name] if state.broken.iter().any(|broken| broken == name) => {
                let out = format!(
                    "Starting jails: cannot start jail  \"{name}\": \njail: {name}: mount.devfs: /x/dev: No such file or directory\n.\n"
                );
                said(0, &out, "")
            }
            ["service", "jail", "onestart", name] => {
                state.next += 1;
                let jail = (state.next, format!("/data/jails/{name}"));
                state.running.insert((*name).to_owned(), jail);
                said(0, &format!("Starting jails: {name}.\n"), "")
            }
            ["service", "jail", "onestop", name] => {
                if !state.deaf.iter().any(|deaf| deaf == name) {
                    state.running.remove(*name);
                }
                said(0, &format!("Stopping jails: {name}.\n"), "")
            }
            ["jail", "-R", jid] => {
                state.running.retain(|_, (number, _)| number.to_string() != *jid);
                said(0, "", "")
            }
            ["sh", "-c", script, ..] if script.contains("mount -p") => said(0, "", ""),
            _ => None,
        }
    }
}

#[async_trait]
impl Host for FakeHost {
    fn name(&self) -> &str {
        "jailhost"
    }
    fn is_local(&self) -> bool {
        false
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        let argv: Vec<&str> = command.argv.iter().map(String::as_str).collect();
        match self.answer(&argv) {
            Some((status, out, err)) => {
                Ok(Output { status, stdout: out.into_bytes(), stderr: err.into_bytes(), truncated: false })
            }
            None => self.real.run(command).await,
        }
    }
    async fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        self.real.read_file(path, limit).await
    }
    async fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<Change> {
        self.real.write_file(path, bytes, mode).await
    }
    async fn job_start(&self, job: &Job) -> Result<Change> {
        self.real.job_start(job).await
    }
    async fn job_status(&self, id: &str) -> Result<JobStatus> {
        self.real.job_status(id).await
    }
    async fn job_forget(&self, id: &str) -> Result<Change> {
        self.real.job_forget(id).await
    }
    async fn job_output(&self, id: &str, from: u64) -> Result<Vec<u8>> {
        self.real.job_output(id, from).await
    }
}

struct World {
    directory: tempfile::TempDir,
    fake: Arc<FakeHost>,
    jails: Jails,
}

const SHARED: &str = "exec.start = \"/bin/sh /etc/rc\";\nexec.stop = \"/bin/sh /etc/rc.shutdown jail\";\nexec.clean;\nmount.devfs;\n\
path = \"/data/jails/$name\";\nServerA {\n  host.hostname = \"ServerA.example\";\n  ip4.addr = \"vtnet0|10.0.2.112/32\";\n}\n";

impl World {
    fn new(files: &[(&str, &str)]) -> Self {
        Self::of("13.2-RELEASE", files)
    }
    fn of(release: &'static str, files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::create_dir_all(directory.path().join("etc")).unwrap();
        let fake = Arc::new(FakeHost { real: LocalHost::new("jailhost"), state: Mutex::default(), release });
        let jails = Jails::beneath(fake.clone(), Arc::new(RealNet), directory.path().to_owned());
        Self { directory, fake, jails }
    }
    fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.directory.path().join(path.trim_start_matches('/'))).ok()
    }
    fn clone() -> NewGuest {
        NewGuest {
            container: None,
            name: "ServerB--k3f9".into(),
            root: "/data/jails/ServerB--k3f9".into(),
            hostname: "ServerB.example".into(),
            addresses: vec![NewAddress {
                interface: Some("em0".into()),
                ip: "10.0.2.113".parse().unwrap(),
                prefix: 24,
            }],
            mark: Some(Mark { run: "ServerB--k3f9".into(), role: Role::Clone }),
        }
    }
}

#[tokio::test]
async fn jails_are_listed_with_their_facts() {
    let bare = "jail_enable=\"YES\"\njail_list=\"ServerA other\"\n";
    let own = "web { path = /srv/web; host.hostname = web; ip4.addr = \"em1|192.0.2.1/24\", \"192.0.2.2\"; }\n";
    let world = World::new(&[("/etc/jail.conf", SHARED), ("/etc/rc.conf", bare), ("/etc/jail.web.conf", own)]);
    world.jails.start("ServerA").await.unwrap();
    world.fake.state.lock().unwrap().running.insert("ioc-x".into(), (9, "/iocage/jails/x/root".into()));
    let all = world.jails.list().await.unwrap();
    let names: Vec<&str> = all.iter().map(|guest| guest.name.as_str()).collect();
    assert_eq!(names, ["ServerA", "ioc-x", "web"]);
    assert!(all[0].power == Power::On && all[0].autostart && !all[2].autostart && all[2].power == Power::Off);
    assert_eq!(all[0].disks[0].source, crate::DiskSource::Directory("/data/jails/ServerA".into()));
    assert_eq!(all[2].nics.iter().map(|nic| nic.bridge.as_str()).collect::<Vec<_>>(), ["em1", ""]);
    assert_eq!(all[1].nics[0].addresses.len(), 1, "a stranger's address is taken too");
    assert!(world.jails.facts("none").await.unwrap().is_none());
}

#[tokio::test]
async fn a_clone_is_defined_in_a_file_of_its_own_and_goes_without_a_trace() {
    let rc = "jail_enable=\"YES\" # all of them\n";
    let world = World::new(&[("/etc/jail.conf", SHARED), ("/etc/rc.conf", rc)]);
    let definition = world.jails.compose(&World::clone()).await.unwrap();
    insta::assert_snapshot!(definition.text);
    assert_eq!(world.jails.define(&definition).await.unwrap(), Change::Created);
    assert_eq!(world.jails.define(&definition).await.unwrap(), Change::Unchanged);
    assert_eq!(world.text("/etc/jail.conf").unwrap(), SHARED);
    let facts = world.jails.facts("ServerB--k3f9").await.unwrap().unwrap();
    assert_eq!(facts.mark.unwrap().role, Role::Clone);
    assert!(!facts.autostart, "every jail of /etc/jail.conf starts with the host; a clone does not");
    assert!(world.jails.facts("ServerA").await.unwrap().unwrap().autostart);
    assert_eq!(world.jails.start("ServerB--k3f9").await.unwrap(), Change::Changed);
    assert_eq!(world.jails.start("ServerB--k3f9").await.unwrap(), Change::Unchanged);
    assert!(matches!(world.jails.undefine("ServerB--k3f9").await.unwrap_err().cause, Cause::Refused(_)));
    assert_eq!(world.jails.shutdown("ServerB--k3f9", Duration::from_secs(5)).await.unwrap(), Change::Changed);
    assert_eq!(world.jails.undefine("ServerB--k3f9").await.unwrap(), Change::Removed);
    assert_eq!(world.jails.undefine("ServerB--k3f9").await.unwrap(), Change::Unchanged);
    assert!(world.text("/etc/jail.ServerB--k3f9.conf").is_none());
    assert_eq!(world.text("/etc/rc.conf").unwrap(), rc);
}

#[tokio::test]
async fn production_is_defined_where_the_host_has_its_jails() {
    let production = || NewGuest { name: "ServerB".into(), mark: None, ..World::clone() };
    let listed = "jail_enable=YES\njail_list=\"ServerA\"\n";
    let world = World::new(&[("/etc/jail.conf", SHARED), ("/etc/rc.conf", listed)]);
    let definition = world.jails.compose(&production()).await.unwrap();
    world.jails.define(&definition).await.unwrap();
    let text = world.text("/etc/jail.conf").unwrap();
    assert!(text.starts_with(SHARED));
    insta::assert_snapshot!(text[SHARED.len()..]);
    assert!(!world.jails.autostart("ServerB").await.unwrap());
    assert_eq!(world.jails.set_autostart("ServerB", true).await.unwrap(), Change::Changed);
    assert_eq!(world.text("/etc/rc.conf").unwrap(), "jail_enable=YES\njail_list=\"ServerA ServerB\"\n");
    assert_eq!(world.jails.set_autostart("ServerB", true).await.unwrap(), Change::Unchanged);
    world.jails.undefine("ServerB").await.unwrap();
    assert_eq!(world.text("/etc/jail.conf").unwrap(), SHARED);
    assert_eq!(world.text("/etc/rc.conf").unwrap(), listed);

    let each = World::new(&[("/etc/jail.conf.d/ServerA.conf", "ServerA { path = /x; }\n")]);
    let definition = each.jails.compose(&production()).await.unwrap();
    each.jails.define(&definition).await.unwrap();
    assert!(each.text("/etc/jail.conf.d/ServerB.conf").unwrap().contains("exec.start"), "nothing else says it");

    let empty = World::new(&[]);
    let definition = empty.jails.compose(&production()).await.unwrap();
    assert_eq!(empty.jails.define(&definition).await.unwrap(), Change::Created);
    assert!(empty.text("/etc/jail.conf").unwrap().contains("ServerB {"));
    let refused = empty.jails.set_autostart("ServerB", true).await.unwrap_err();
    assert!(refused.help.unwrap().contains("jail_enable=YES"));
    assert_eq!(empty.jails.undefine("ServerB").await.unwrap(), Change::Removed);
    assert!(empty.text("/etc/jail.conf").is_none(), "as it was");
}

#[tokio::test]
async fn a_definition_is_derived_and_put_back_byte_for_byte() {
    let world = World::new(&[("/etc/jail.conf", SHARED)]);
    let old = world.jails.definition("ServerA").await.unwrap().unwrap();
    let edit = DefinitionEdit {
        mark: Some(Some(Mark { run: "ServerA--k3f9".into(), role: Role::Production })),
        addresses: BTreeMap::from([("10.0.2.112".parse().unwrap(), Some("10.0.2.9".parse().unwrap()))]),
        disks: BTreeMap::from([(
            "/".to_owned(),
            DiskEdit::Source(VolumeRef {
                kind: VolumeKind::Directory,
                path: PathBuf::from("/data/jails/ServerA--k3f9"),
            }),
        )]),
        ..DefinitionEdit::default()
    };
    let new = world.jails.derive(&old, &edit).unwrap();
    insta::assert_snapshot!(new.text);
    assert_eq!(world.jails.define(&new).await.unwrap(), Change::Changed);
    assert_ne!(world.text("/etc/jail.conf").unwrap(), SHARED);
    world.jails.define(&old).await.unwrap();
    assert_eq!(world.text("/etc/jail.conf").unwrap(), SHARED);
    let renamed = DefinitionEdit { name: Some("ServerC".into()), ..DefinitionEdit::default() };
    assert!(world.jails.derive(&old, &renamed).unwrap().text.starts_with("ServerC {"));
    let foreign = Definition { name: "ServerA".into(), text: "ServerX { path = /x; }".into() };
    assert!(matches!(world.jails.define(&foreign).await.unwrap_err().cause, Cause::Malformed(_)));
}

#[tokio::test]
async fn the_list_of_jails_decides_what_happened() {
    let world = World::new(&[("/etc/jail.conf", SHARED)]);
    world.fake.state.lock().unwrap().broken.push("ServerA".into());
    let error = world.jails.start("ServerA").await.unwrap_err();
    assert!(error.to_string().contains("mount.devfs: /x/dev: No such file or directory"), "{error}");
    world.fake.state.lock().unwrap().broken.clear();
    world.jails.start("ServerA").await.unwrap();
    world.fake.state.lock().unwrap().deaf.push("ServerA".into());
    let error = world.jails.shutdown("ServerA", Duration::from_millis(20)).await.unwrap_err();
    assert!(error.is_unknown(), "{error}");
    assert_eq!(world.jails.power("ServerA").await.unwrap(), Power::On);
    assert_eq!(world.jails.destroy("ServerA").await.unwrap(), Change::Changed);
    assert_eq!(world.jails.destroy("ServerA").await.unwrap(), Change::Unchanged);
    assert!(matches!(world.jails.start("nosuch").await.unwrap_err().cause, Cause::NotFound(_)));
}

#[tokio::test]
async fn what_is_not_ours_to_touch_is_refused() {
    let bastille = "web { path = /usr/local/bastille/jails/web/root; }\n";
    let world =
        World::new(&[("/etc/jail.conf", bastille), ("/etc/rc.conf", "jail_old_rootdir=/o\njail_old_hostname=old\n")]);
    let error = world.jails.facts("web").await.unwrap_err();
    assert!(error.to_string().contains("Bastille") && error.help.is_some(), "{error}");
    let old = NewGuest { name: "old".into(), ..World::clone() };
    let definition = world.jails.compose(&old).await.unwrap();
    assert!(world.jails.define(&definition).await.unwrap_err().to_string().contains("jail_ variables"));
    let linux = World::of("x", &[]);
    let error = {
        let fake = FakeHost { real: LocalHost::new("here"), state: Mutex::default(), release: "" };
        let jails = Jails::beneath(Arc::new(NotFreeBsd(fake)), Arc::new(RealNet), linux.directory.path().to_owned());
        jails.list().await.unwrap_err()
    };
    assert!(error.to_string().contains("no FreeBSD"), "{error}");
    let broken = World::new(&[("/etc/jail.conf", "a { path = /x }")]);
    assert!(broken.jails.list().await.unwrap_err().to_string().contains("/etc/jail.conf:1:"));
}

#[derive(Debug)]
struct NotFreeBsd(FakeHost);

#[async_trait]
impl Host for NotFreeBsd {
    fn name(&self) -> &str {
        "linux"
    }
    fn is_local(&self) -> bool {
        false
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        self.0.real.run(command).await
    }
    async fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        self.0.read_file(path, limit).await
    }
    async fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<Change> {
        self.0.write_file(path, bytes, mode).await
    }
    async fn job_start(&self, job: &Job) -> Result<Change> {
        self.0.job_start(job).await
    }
    async fn job_status(&self, id: &str) -> Result<JobStatus> {
        self.0.job_status(id).await
    }
    async fn job_forget(&self, id: &str) -> Result<Change> {
        self.0.job_forget(id).await
    }
    async fn job_output(&self, id: &str, from: u64) -> Result<Vec<u8>> {
        self.0.job_output(id, from).await
    }
}
