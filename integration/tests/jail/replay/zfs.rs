//! `zfs`, of which no recording shows anything: the stand-in by its manual pages, and the product's drivers on it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use hypervisors::host::{Command, Job, JobStatus, LocalHost, Output};
use hypervisors::jail::Jails;
use hypervisors::net::RealNet;
use hypervisors::storage::{Snapshot, ZfsStorage, zfs};
use hypervisors::{Change, Host, Hypervisor, Mark, Result, Role, Storage, VolumeKind, VolumeRef};

use super::stage::Stage;

/// This machine with the stand-ins before its own programs, and a pool whose datasets lie in the stage's root.
#[derive(Debug)]
struct Played {
    local: LocalHost,
    environment: [(&'static str, String); 3],
}

#[async_trait]
impl Host for Played {
    fn name(&self) -> &str {
        "jailhost"
    }
    fn is_local(&self) -> bool {
        false
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        let with = |command: Command, (name, value): &(&'static str, String)| command.env(*name, value.clone());
        self.local.run(&self.environment.iter().fold(command.clone(), with)).await
    }
    async fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        self.local.read_file(path, limit).await
    }
    async fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<Change> {
        self.local.write_file(path, bytes, mode).await
    }
    async fn job_start(&self, job: &Job) -> Result<Change> {
        self.local.job_start(job).await
    }
    async fn job_status(&self, id: &str) -> Result<JobStatus> {
        self.local.job_status(id).await
    }
    async fn job_forget(&self, id: &str) -> Result<Change> {
        self.local.job_forget(id).await
    }
    async fn job_output(&self, id: &str, from: u64) -> Result<Vec<u8>> {
        self.local.job_output(id, from).await
    }
}

/// A host with a dataset of jails, and one of them in a dataset of its own.
struct Bench {
    stage: Stage,
    jails: PathBuf,
    host: Arc<dyn Host>,
}

const RUN: &str = "web--k3f9";

fn mark(role: Role) -> Mark {
    Mark { run: RUN.into(), role }
}

impl Bench {
    fn new() -> Self {
        let stage = Stage::new();
        let jails = stage.root().join("jails");
        let pool = format!("zroot\tnone\t-\t-\nzroot/jails\t{}\t-\t-\nzroot/jails/web\t-\t-\t-\n", jails.display());
        stage.state("zfs", &pool);
        stage.state("filesystems", "");
        stage.write("/jails/web/etc/motd", "the original\n");
        let [path, state] = ["bin", "state"].map(|name| stage.root().parent().expect("a directory").join(name));
        let environment = [
            ("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", path.display())),
            ("JAILHOST_ROOT", "/".to_owned()),
            ("JAILHOST_STATE", state.display().to_string()),
        ];
        let host = Arc::new(Played { local: LocalHost::new("jailhost"), environment });
        Self { stage, jails, host }
    }

    fn driver(&self) -> ZfsStorage {
        ZfsStorage::new(&self.host)
    }

    fn volume(&self, name: &str) -> VolumeRef {
        VolumeRef { kind: VolumeKind::Zfs, path: self.jails.join(name) }
    }

    fn clone(&self) -> VolumeRef {
        self.volume("web--k3f9-root")
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.jails.join(path)).expect("a file")
    }

    /// What the pool has, without its own lines.
    fn pool(&self) -> String {
        self.stage.sh("tail -n +4 $JAILHOST_STATE/zfs")
    }

    async fn zfs(&self, line: &str) -> (i32, String) {
        let output = self.host.run(&Command::new(["zfs"].into_iter().chain(line.split(' ')))).await.expect("zfs");
        (output.status, String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }
}

#[tokio::test]
async fn a_jail_is_cloned_and_the_clone_goes_without_a_trace() {
    let bench = Bench::new();
    let (driver, web, clone) = (bench.driver(), bench.volume("web"), bench.clone());
    let before = bench.stage.sh("cat $JAILHOST_STATE/zfs");
    assert_eq!(zfs::at(&*bench.host, &bench.jails).await.unwrap().unwrap().name, "zroot/jails");
    assert_eq!(
        zfs::at(&*bench.host, &bench.jails.join("web/etc")).await.unwrap(),
        None,
        "in a dataset, and none itself"
    );
    assert_eq!(driver.probe(&clone, &mark(Role::Clone)).await.unwrap(), Snapshot::Absent);
    assert_eq!(driver.snapshot(&web, &clone, &mark(Role::Clone)).await.unwrap(), Change::Created);
    bench.stage.write("/jails/web/etc/motd", "later\n");
    assert_eq!(driver.snapshot(&web, &clone, &mark(Role::Clone)).await.unwrap(), Change::Unchanged);
    assert_eq!(
        (bench.read("web--k3f9-root/etc/motd"), bench.read("web/etc/motd")),
        ("the original\n".into(), "later\n".into())
    );
    assert_eq!(driver.marked(&bench.jails).await.unwrap(), [(clone.clone(), mark(Role::Clone))]);
    assert_eq!(driver.inspect(&clone).await.unwrap().unwrap().mark, Some(mark(Role::Clone)));
    assert_eq!(driver.inspect(&web).await.unwrap().unwrap().mark, None);
    let other = Mark { run: "web--0000".into(), role: Role::Clone };
    assert!(matches!(driver.probe(&clone, &other).await.unwrap(), Snapshot::Foreign(_)));

    // Nobody's but its run's; and not while somebody else's clone lives by it.
    assert!(driver.remove(&clone, "web--0000").await.is_err() && driver.remove(&web, RUN).await.is_err());
    assert_eq!(bench.zfs("snapshot zroot/jails/web--k3f9-root@mine").await.0, 0);
    assert_eq!(bench.zfs("clone zroot/jails/web--k3f9-root@mine zroot/jails/mine").await.0, 0);
    let error = driver.remove(&clone, RUN).await.unwrap_err().to_string();
    assert!(error.contains("dependent clones") && bench.jails.join("mine/etc").is_dir(), "{error}");
    assert_eq!(bench.zfs("destroy zroot/jails/mine").await.0, 0);
    assert_eq!(driver.remove(&clone, RUN).await.unwrap(), Change::Removed);
    assert_eq!(driver.remove(&clone, RUN).await.unwrap(), Change::Unchanged);
    assert_eq!(bench.stage.sh("cat $JAILHOST_STATE/zfs"), before);
    assert_eq!(bench.read("web/etc/motd"), "later\n");
}

#[tokio::test]
async fn what_was_begun_is_made_again_and_what_cannot_be_is_refused() {
    let bench = Bench::new();
    let (driver, web, clone) = (bench.driver(), bench.volume("web"), bench.clone());
    bench.stage.state("faults", "zfs zroot/jails/web--k3f9-root = exit 1 \"I/O error\"\n");
    assert!(driver.snapshot(&web, &clone, &mark(Role::Clone)).await.is_err());
    assert_eq!(driver.probe(&clone, &mark(Role::Clone)).await.unwrap(), Snapshot::Partial);
    assert_eq!(driver.snapshot(&web, &clone, &mark(Role::Clone)).await.unwrap(), Change::Created);
    driver.remove(&clone, RUN).await.unwrap();
    bench.stage.state("faults", "zfs zroot/jails/web--k3f9-root = exit 1 \"I/O error\"\n");
    assert!(driver.snapshot(&web, &clone, &mark(Role::Clone)).await.is_err());
    assert_eq!(driver.remove(&clone, RUN).await.unwrap(), Change::Removed, "a snapshot alone goes too");
    assert_eq!(bench.pool(), "");
    // Something at the clone's place.
    bench.stage.directories(&["/jails/web--k3f9-root"]);
    assert!(matches!(driver.probe(&clone, &mark(Role::Clone)).await.unwrap(), Snapshot::Foreign(_)));
    std::fs::remove_dir(&clone.path).unwrap();
    // A dataset within it would be an empty directory of the clone.
    assert_eq!(bench.zfs("create zroot/jails/web/var").await.0, 0);
    let error = driver.snapshot(&web, &clone, &mark(Role::Clone)).await.unwrap_err();
    assert!(error.to_string().contains("zroot/jails/web/var") && error.help.is_some(), "{error}");
    assert_eq!(bench.zfs("destroy zroot/jails/web/var").await.0, 0);
    // Nor one of another place that is mounted in it.
    let place = bench.jails.join("web/data");
    assert_eq!(bench.zfs(&format!("create -o mountpoint={} zroot/data", place.display())).await.0, 0);
    let error = driver.snapshot(&web, &clone, &mark(Role::Clone)).await.unwrap_err().to_string();
    assert!(error.contains("zroot/data"), "{error}");
    assert!(driver.snapshot(&bench.volume("nosuch"), &clone, &mark(Role::Clone)).await.is_err());
    assert!(!bench.pool().contains('@'), "{}", bench.pool());
}

#[tokio::test]
async fn the_original_goes_when_the_clone_was_made_independent_of_it() {
    let bench = Bench::new();
    let (driver, web, clone) = (bench.driver(), bench.volume("web"), bench.clone());
    driver.snapshot(&web, &clone, &mark(Role::Clone)).await.unwrap();
    driver.mark(&clone, Some(&mark(Role::Production))).await.unwrap();
    driver.mark(&web, Some(&mark(Role::Original))).await.unwrap();
    // The page cannot be turned by anybody else.
    let (status, said) = bench.zfs("destroy -r zroot/jails/web").await;
    assert!(status == 1 && said.contains("filesystem has dependent clones\nuse '-R'"), "{said}");
    // Nor while somebody else's clone lives by it: that would be promoted over production's.
    assert_eq!(bench.zfs(&format!("clone zroot/jails/web@{RUN} zroot/jails/mine")).await.0, 0);
    let error = driver.remove(&web, RUN).await.unwrap_err().to_string();
    assert!(error.contains("zroot/jails/mine") && web.path.exists(), "{error}");
    assert_eq!(bench.zfs("destroy zroot/jails/mine").await.0, 0);
    assert_eq!(driver.remove(&web, RUN).await.unwrap(), Change::Removed);
    assert_eq!(driver.mark(&clone, None).await.unwrap(), Change::Changed);
    assert_eq!(driver.mark(&clone, None).await.unwrap(), Change::Unchanged);
    assert!(!web.path.exists());
    assert_eq!(bench.read("web--k3f9-root/etc/motd"), "the original\n");
    let place = clone.path.display();
    assert_eq!(
        bench.stage.sh("tail -n +3 $JAILHOST_STATE/zfs"),
        format!("zroot/jails/web--k3f9-root\t{place}\t-\t-\n")
    );
    assert_eq!(driver.marked(&bench.jails).await.unwrap(), []);
}

#[tokio::test]
async fn the_tree_of_a_transfer_goes_by_its_own_dataset_only() {
    let bench = Bench::new();
    let trees = Jails::new(bench.host.clone(), Arc::new(RealNet)).storage(VolumeKind::Directory).unwrap();
    let tree = VolumeRef { kind: VolumeKind::Directory, path: bench.jails.join(RUN) };
    let make = async |of: &str| {
        assert_eq!(
            bench.zfs(&format!("create -o org.upgradectl:run={of} zroot/jails/{RUN}")).await,
            (0, String::new())
        );
        bench.stage.write(&format!("/jails/.upgradectl/{RUN}/mark"), &format!("{RUN}.clone\n"));
        bench.stage.write(&format!("/jails/{RUN}/etc/motd"), "moved\n");
    };
    make(&format!("{RUN}.clone")).await;
    assert_eq!(trees.probe(&tree, &mark(Role::Clone)).await.unwrap(), Snapshot::Present);
    assert_eq!(bench.driver().marked(&bench.jails).await.unwrap(), [], "told by its tree, once");
    assert_eq!(trees.remove(&tree, RUN).await.unwrap(), Change::Removed);
    assert!(!tree.path.exists() && bench.pool().is_empty(), "{}", bench.pool());
    assert!(!bench.jails.join(".upgradectl").exists());

    // One that is not mounted, after a reboot of its host say.
    make(&format!("{RUN}.clone")).await;
    std::fs::remove_dir_all(&tree.path).unwrap();
    trees.remove(&tree, RUN).await.unwrap();
    assert_eq!(bench.pool(), "");

    // Its property is another's: nothing of it goes, whatever the mark beside it says.
    make("other--1111.clone").await;
    let error = trees.remove(&tree, RUN).await.unwrap_err();
    assert!(
        error.to_string().contains("is not of run") && bench.read(&format!("{RUN}/etc/motd")) == "moved\n",
        "{error}"
    );
    bench.zfs(&format!("set org.upgradectl:run={RUN}.clone zroot/jails/{RUN}")).await;
    // Something is mounted in it.
    assert_eq!(bench.zfs(&format!("create zroot/jails/{RUN}/var")).await.0, 0);
    let error = trees.remove(&tree, RUN).await.unwrap_err();
    assert!(error.to_string().contains("something is mounted in it"), "{error}");
    assert_eq!(bench.zfs(&format!("destroy zroot/jails/{RUN}/var")).await.0, 0);
    // A mark that comes from above is another's.
    bench.zfs(&format!("inherit org.upgradectl:run zroot/jails/{RUN}")).await;
    bench.zfs(&format!("set org.upgradectl:run={RUN}.clone zroot/jails")).await;
    assert!(trees.remove(&tree, RUN).await.is_err() && tree.path.join("etc").is_dir());
    bench.zfs("inherit org.upgradectl:run zroot/jails").await;
    bench.zfs(&format!("set org.upgradectl:run={RUN}.clone zroot/jails/{RUN}")).await;
    // Kept for good: no mark is left on it, and nobody removes it.
    trees.mark(&tree, None).await.unwrap();
    assert_eq!(bench.pool(), format!("zroot/jails/{RUN}\t-\t-\t-\n"));
    assert!(trees.remove(&tree, RUN).await.is_err() && tree.path.join("etc").is_dir());
}

#[tokio::test]
async fn the_stand_in_is_strict() {
    let bench = Bench::new();
    for (line, status, says) in [
        ("list -H -o nosuch zroot", 1, "invalid property 'nosuch'"),
        ("list -H -o name zroot/nosuch", 1, "cannot open 'zroot/nosuch': dataset does not exist"),
        ("list -H -o name /etc", 1, "not a ZFS filesystem"),
        ("create zroot/a/b", 1, "parent does not exist"),
        ("create zroot/jails/web", 1, "dataset already exists"),
        ("create -o Run=x zroot/jails/a", 1, "invalid property 'Run'"),
        ("destroy zroot/jails", 1, "filesystem has children\nuse '-r'"),
        ("destroy -R zroot/jails", 70, "not played"),
        ("destroy -q zroot/jails", 2, "invalid option 'q'"),
        ("clone zroot/jails/web zroot/jails/a", 1, "operation not applicable"),
        ("promote zroot/jails/web", 1, "not a cloned filesystem"),
        ("rename zroot/a zroot/b", 70, "not played"),
        ("explode", 2, "unrecognized command 'explode'"),
    ] {
        let (code, said) = bench.zfs(line).await;
        assert!(code == status && said.contains(says), "{line}: {code} {said}");
    }
    assert_eq!(bench.pool(), "");
    // Older hosts have none.
    bench.stage.state("persona", "release = \"6.2-RELEASE\"\n");
    assert_eq!(bench.zfs("list").await.0, 127);
}
