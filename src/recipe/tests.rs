//! The recipes against a guest that behaves: files of a map, commands with scripted answers, jobs that run over
//! several looks, and a link that is lost now and then.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use hypervisors::host::{Command, Job, JobStatus, Output};
use hypervisors::{Cause, Change, Error, Host, Result};

use super::job::{self, Patience};
use super::{Verdict, conffiles, debian, yum};

#[derive(Debug, Default)]
struct Running {
    printed: Vec<u8>,
    /// Looks until it ends, and how.
    ends: (u32, Option<i32>),
    looks: u32,
}

/// A guest in memory.
#[derive(Debug, Default)]
struct Guest {
    files: BTreeMap<String, Vec<u8>>,
    answers: BTreeMap<String, Output>,
    jobs: Mutex<BTreeMap<String, Running>>,
    /// How the next jobs end.
    fates: Mutex<VecDeque<(u32, Option<i32>)>>,
    calls: Mutex<u32>,
    /// Every n-th call loses the link; 0: never.
    lossy: u32,
    /// These calls, counted from 1, abort in the guest: its C library is being replaced.
    aborting: std::ops::Range<u32>,
}

impl Guest {
    fn link(&self) -> Result<()> {
        let mut calls = self.calls.lock().unwrap();
        *calls += 1;
        if self.aborting.contains(&calls) {
            let stderr = "*** stack smashing detected ***: terminated / Aborted".to_owned();
            return Err(Error::new("look", Cause::Command { program: "sh".to_owned(), status: 134, stderr }));
        }
        if self.lossy > 0 && calls.is_multiple_of(self.lossy) {
            return Err(Error::unknown("talk to the guest", "the link was lost"));
        }
        Ok(())
    }
    fn answer(mut self, command: &str, status: i32, stdout: &str) -> Self {
        let output = Output { status, stdout: stdout.as_bytes().to_vec(), ..Output::default() };
        self.answers.insert(command.to_owned(), output);
        self
    }
    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.as_bytes().to_vec());
        self
    }
}

#[async_trait]
impl Host for Guest {
    fn name(&self) -> &str {
        "mercure--k3f9"
    }
    fn is_local(&self) -> bool {
        false
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        self.link()?;
        let line = command.argv.join(" ");
        let found = self.answers.iter().filter(|(key, _)| line.starts_with(*key)).max_by_key(|(key, _)| key.len());
        Ok(found.map(|(_, output)| output.clone()).unwrap_or(Output { status: 127, ..Output::default() }))
    }
    async fn read_file(&self, path: &Path, _limit: u64) -> Result<Option<Vec<u8>>> {
        self.link()?;
        Ok(self.files.get(path.to_str().unwrap()).cloned())
    }
    async fn write_file(&self, _path: &Path, _bytes: &[u8], _mode: u32) -> Result<Change> {
        Ok(Change::Changed)
    }
    async fn job_start(&self, job: &Job) -> Result<Change> {
        let fate = self.fates.lock().unwrap().pop_front().unwrap_or((2, Some(0)));
        let running = Running { printed: format!("{}\n", job.argv.join(" ")).into(), ends: fate, looks: 0 };
        self.jobs.lock().unwrap().entry(job.id.clone()).or_insert(running);
        // The job is started even if the link is lost before the answer comes.
        self.link()?;
        Ok(Change::Created)
    }
    async fn job_status(&self, id: &str) -> Result<JobStatus> {
        self.link()?;
        let mut jobs = self.jobs.lock().unwrap();
        let Some(job) = jobs.get_mut(id) else { return Ok(JobStatus::Absent) };
        job.looks += 1;
        let look = format!("look {}\n", job.looks);
        Ok(match job.ends {
            (looks, _) if job.looks <= looks => {
                job.printed.extend(look.bytes());
                JobStatus::Running { tail: Vec::new() }
            }
            (_, Some(status)) => JobStatus::Ended { status, tail: Vec::new() },
            (_, None) => JobStatus::Lost,
        })
    }
    async fn job_forget(&self, _id: &str) -> Result<Change> {
        Ok(Change::Removed)
    }
    async fn job_output(&self, id: &str, from: u64) -> Result<Vec<u8>> {
        self.link()?;
        let jobs = self.jobs.lock().unwrap();
        let printed = &jobs[id].printed;
        Ok(printed[usize::try_from(from).unwrap().min(printed.len())..].iter().take(5).copied().collect())
    }
}

const PATIENCE: Patience = Patience { poll: Duration::from_millis(1), total: Duration::from_secs(5) };

async fn drive(guest: &Guest) -> (job::End, String) {
    let mut printed = Vec::new();
    let mut sink = |_: &str, bytes: &[u8]| printed.extend_from_slice(bytes);
    let end = job::run(guest, "work", &["apt-get".to_owned()], &[], PATIENCE, &mut sink).await.unwrap();
    (end, String::from_utf8(printed).unwrap())
}

#[tokio::test]
async fn a_lost_link_neither_ends_nor_repeats_the_work() {
    for lossy in [0, 3, 4, 5] {
        let guest = Guest { lossy, ..Guest::default() };
        let (end, printed) = drive(&guest).await;
        assert!(end.well() && !end.already, "{end:?}");
        assert_eq!(printed, "apt-get\nlook 1\nlook 2\n", "lossy {lossy}");
        assert_eq!(guest.jobs.lock().unwrap().len(), 1);
        let (again, _) = drive(&guest).await;
        assert!(again.already);
        assert_eq!(guest.jobs.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn looks_that_abort_while_libc_is_replaced_are_repeated_but_not_for_ever() {
    for first in 1..8 {
        let guest = Guest { aborting: first..first + 5, ..Guest::default() };
        let (end, printed) = drive(&guest).await;
        assert!(end.well(), "{end:?}");
        assert_eq!(printed, "apt-get\nlook 1\nlook 2\n", "from call {first}");
        assert_eq!(guest.jobs.lock().unwrap().len(), 1);
    }
    let guest = Guest { aborting: 4..u32::MAX, ..Guest::default() };
    let error = job::run(&guest, "work", &[], &[], PATIENCE, &mut |_, _| ()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Command { status: 134, .. }), "{error}");
}

#[tokio::test]
async fn a_failed_or_lost_attempt_is_followed_by_a_new_one() {
    let guest = Guest::default();
    guest.fates.lock().unwrap().extend([(1, Some(100)), (1, None), (1, Some(0))]);
    assert_eq!(drive(&guest).await.0.status, Some(100));
    let (lost, _) = drive(&guest).await;
    assert_eq!((lost.id.as_str(), lost.status), ("work-2", None));
    assert_eq!(drive(&guest).await.0.id, "work-3");
    assert_eq!(job::newest(&guest, "work").await.unwrap().0, 3);
}

#[tokio::test]
async fn running_out_of_patience_is_unknown_and_leaves_the_work() {
    let guest = Guest::default();
    guest.fates.lock().unwrap().push_back((u32::MAX, None));
    let patience = Patience { total: Duration::from_millis(20), ..PATIENCE };
    let error = job::run(&guest, "work", &[], &[], patience, &mut |_, _| ()).await.unwrap_err();
    assert!(error.is_unknown());
    assert!(matches!(guest.job_status("work").await.unwrap(), JobStatus::Running { .. }));
}

fn debian_12() -> Guest {
    Guest::default()
        .file("/etc/os-release", include_str!("fixtures/os-release-debian-12"))
        .file("/etc/apt/sources.list", include_str!("fixtures/sources-debian-12.list"))
        .file("/etc/apt/sources.list.d/x.list", "deb https://apt.example/x bookworm stable\n")
        .file("/etc/apt/preferences", "Package: *\nPin: release n=bookworm\nPin-Priority: 990\n")
        .answer("dpkg --audit", 0, "")
        .answer("dpkg-query", 0, "ii \tadduser\t428\n")
        .answer("apt-mark showhold", 0, "")
        .answer("df -P -B1", 0, "h\n/dev/x 9 1 9000000000 1% /\n/dev/x 9 1 9000000000 1% /\n")
        .answer(
            "find /etc/apt",
            0,
            "f 644 /etc/apt/sources.list\0f 644 /etc/apt/sources.list.d/x.list\0f 644 /etc/apt/preferences\0",
        )
}

async fn verdicts(guest: &Guest, continuing: bool) -> Vec<(String, Verdict)> {
    let found = debian::preflight(guest, "trixie", continuing).await.unwrap();
    found.into_iter().filter(|f| f.verdict != Verdict::Pass).map(|f| (f.id, f.verdict)).collect()
}

#[tokio::test]
async fn preflight_passes_a_sound_guest_and_names_what_is_disabled() {
    let warned = [("debian.third_party".to_owned(), Verdict::Warn), ("debian.pins".to_owned(), Verdict::Warn)];
    assert_eq!(verdicts(&debian_12(), false).await, warned);
    let found = debian::preflight(&debian_12(), "trixie", false).await.unwrap();
    let third = found.iter().find(|f| f.id == "debian.third_party").unwrap();
    assert!(third.detail.starts_with("/etc/apt/sources.list.d/x.list:1: https://apt.example/x bookworm "));
}

#[tokio::test]
async fn preflight_refuses_half_done_packages_unless_it_goes_on() {
    let guest = debian_12().answer("dpkg --audit", 0, include_str!("fixtures/apt-2.6/audit-dovecot.txt"));
    let dpkg = |found: Vec<(String, Verdict)>| found.into_iter().find(|(id, _)| id == "debian.dpkg").unwrap().1;
    assert_eq!(dpkg(verdicts(&guest, false).await), Verdict::Refuse);
    assert_eq!(dpkg(verdicts(&guest, true).await), Verdict::Warn);
    assert_eq!(debian::audit(&guest).await.unwrap().unwrap(), "dovecot-core");
    let link = debian_12().answer("find /etc/apt", 0, "l 777 /etc/apt/sources.list\0");
    let found = verdicts(&link, false).await;
    assert!(found.contains(&("debian.sources".to_owned(), Verdict::Refuse)), "{found:?}");
    let other = debian_12().file("/etc/os-release", "ID=fedora\n");
    assert_eq!(verdicts(&other, false).await, [("debian.release".to_owned(), Verdict::Refuse)]);
}

#[tokio::test]
async fn conffiles_are_collected_with_both_sides_and_their_age() {
    let guest = Guest::default()
        .file("/etc/a.conf", "a = old\n")
        .file("/etc/a.conf.ucf-dist", "a = new\n")
        .file("/etc/b.dpkg-old", "b\n")
        .answer("find", 1, "/etc/b.dpkg-old\0/etc/a.conf.ucf-dist\0")
        .answer("dpkg-query", 0, "aaa\n\n /etc/a.conf 0123\n");
    let older = BTreeMap::from([("/etc/b.dpkg-old".to_owned(), super::sha256(b"b\n"))]);
    assert_eq!(conffiles::leftovers(&guest).await.unwrap()["/etc/b.dpkg-old"], older["/etc/b.dpkg-old"]);
    let keep = |bytes: &[u8]| Ok::<_, Error>(super::sha256(bytes));
    let found = conffiles::collect(&guest, &older, &keep).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].package.as_deref(), found[0].older), (Some("aaa"), false));
    assert_eq!(found[0].in_force, Some(super::sha256(b"a = old\n")));
    assert_eq!((found[1].in_force.as_ref(), found[1].older), (None, true));
}

#[tokio::test]
async fn a_failing_repository_is_found_with_its_line() {
    let found = debian::locate(&debian_12(), "http://deb.example/debian", "bookworm-updates").await;
    assert_eq!(found.unwrap(), "/etc/apt/sources.list:11");
    assert_eq!(debian::locate(&debian_12(), "http://deb.example/other", "bookworm").await, None);
}

/// What has the word in its name is not therefore one.
#[tokio::test]
async fn headers_are_no_kernel() {
    let seen = yum::Seen {
        kernels: yum::config::packages(
            "kernel\t0\t2.6.18\t128.el5\tx86_64\nkernel-headers\t0\t2.6.18\t128.el5\tx86_64\n",
        ),
        ..yum::tests::seen()
    };
    let guest = Guest::default().answer("yum -q check-update kernel", 0, "").answer(
        "yum -q check-update kernel kernel-headers",
        100,
        "kernel-headers 2.6.18-130.el5 base",
    );
    assert_eq!(yum::offered(&guest, &seen).await.unwrap(), Ok(Some(false)));
    let guest = Guest::default().answer("yum -q check-update kernel", 100, "kernel 2.6.18-130.el5 base");
    assert_eq!(yum::offered(&guest, &seen).await.unwrap(), Ok(Some(true)));
}
