//! Detached work on a machine, by shell scripts that never change, run through [`Host::run`], the same for the controller's
//! own machine and over ssh. The scripts hold no newline within a word and no `!`, so that a csh login shell (root's on
//! older FreeBSD) hands them on whole.
//!
//! Below the state directory each job has a directory named by its id:
//!
//! | file | meaning |
//! |---|---|
//! | `run` | what is run: the runner, with the job's argv quoted into it (0600) |
//! | `lock/` | a runner took the job; whoever makes this directory is the only one that runs it |
//! | `pid` | `PID STARTTIME BOOTID` of the runner |
//! | `output` | what the work printed on both streams |
//! | `status` | its exit status, present only once it has ended |
//!
//! Races: a start repeated after a lost link finds `lock` and does nothing; if the first start died before its runner took
//! the lock, the second starts one; if both runners come up, one of them makes `lock` and the other leaves.
//! A runner that is gone without `status` (killed, or the machine went down) makes the job [`JobStatus::Lost`];
//! what it had started may then still run if only the runner itself was killed.

use std::path::Path;
use std::time::Duration;

use super::{Command, Host, Job, JobStatus, shell_quote};
use crate::{Cause, Change, Error, Result};

/// Where jobs are kept on every machine.
pub const DIRECTORY: &str = "/var/lib/upgradectl/jobs";

/// Bytes that [`output`] returns at most.
pub const OUTPUT_CHUNK: usize = 256 << 10;

/// Sets `b` to the id of this boot and defines `born PID`: the start time of a process (none for a zombie). Linux has both in /proc
/// (`proc(5)`, field 22 of stat counted behind the name, which may hold blanks); elsewhere sysctl and ps tell.
const PROCESS: &str = "b=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null || sysctl -n kern.boottime | tr -c 0-9 _); \
    born() { if test -r /proc/self/stat; then l=$(cat /proc/$1/stat 2>/dev/null) || return 1; set -- ${l##*) }; \
    case $1 in Z) return 1;; esac; shift 19; echo $1; else ps -o lstart= -p $1 | tr -s ' ' _; fi; }; ";

/// What the job's `run` does, before and after the line `set -- ARGV`; its first argument is the job's directory.
const RUNNER_HEAD: &str = "umask 022; d=$1; mkdir \"$d/lock\" 2>/dev/null || exit 0; trap '' HUP; unset UPGRADECTL_LEASE; \
    export HOME=\"${HOME:-/root}\" PATH=\"${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}\"; \
    echo \"$$ $(born $$) $b\" >\"$d/pid.new\"; mv -f \"$d/pid.new\" \"$d/pid\"; ";
const RUNNER_TAIL: &str = "\"$@\" >\"$d/output\" 2>&1 </dev/null; s=$?; \
    echo $s >\"$d/status.new\"; sync; mv -f \"$d/status.new\" \"$d/status\"; sync\n";

/// Arguments: state directory, id, length of `run`, which is on standard input.
const START: &str = "umask 077; d=$1/$2; mkdir -p \"$d\" || exit 1; \
    if test -d \"$d/lock\"; then cat >/dev/null; echo unchanged; exit 0; fi; \
    cat >\"$d/run.$$\" && test $(($(wc -c <\"$d/run.$$\"))) -eq \"$3\" && mv -f \"$d/run.$$\" \"$d/run\" || exit 1; \
    unset UPGRADECTL_LEASE; \
    if test -d /run/systemd/system && systemd-run --quiet --collect --unit=\"upgradectl-job-$2\" \
    --property=KillMode=process -- /bin/sh \"$d/run\" \"$d\" >&2; then :; \
    else s=nohup; test -x /usr/sbin/daemon && s='/usr/sbin/daemon -f'; command -v setsid >/dev/null && s=setsid; \
    $s /bin/sh \"$d/run\" \"$d\" </dev/null >/dev/null 2>&1 & fi; \
    i=0; until test -s \"$d/pid\"; do i=$((i+1)); test $i -le 50 || { echo 'the runner did not come up' >&2; exit 1; }; \
    sleep 0.2; done; echo created";

/// Arguments: state directory, id. First line: `absent`, `running`, `ended STATUS` or `lost`; then the end of the output.
/// The status is looked for again after the runner was found gone: it may have ended in between.
const STATUS: &str = "d=$1/$2; test -d \"$d/lock\" || { echo absent; exit 0; }; \
    ended() { test -s \"$d/status\" || return 0; echo \"ended $(cat \"$d/status\")\"; \
    tail -c 65536 \"$d/output\" 2>/dev/null; exit 0; }; \
    ended; test -s \"$d/pid\" || sleep 1; \
    if read p s o <\"$d/pid\" && test \"$o\" = \"$b\" && test \"$(born $p)\" = \"$s\"; then echo running; \
    tail -c 8192 \"$d/output\" 2>/dev/null; exit 0; fi; ended; echo lost";

/// Arguments: state directory, id, first byte counted from 1, most bytes.
const OUTPUT: &str = "f=$1/$2/output; test -e \"$f\" || exit 0; tail -c \"+$3\" \"$f\" | head -c \"$4\"";

/// Arguments: state directory, what ids begin with. The ids of those that run; a runner that has noted its end waits for the disk only.
const RUNNING: &str = "for d in \"$1/$2\"*; do test -s \"$d/status\" && continue; if read p s o <\"$d/pid\" && test \"$o\" = \"$b\" && test \"$(born $p)\" = \"$s\"; then \
    echo \"${d##*/}\"; fi; done 2>/dev/null; exit 0";

/// Arguments: state directory, what ids begin with. Ends those that run, with all that they started, and removes the records of all. A
/// make(1) has its jobs in process groups of their own, so it is gone by parents. Who does not end in ten seconds is killed.
const END: &str = "all() { ps -axo pid=,ppid= | awk -v p=\"$1\" '{ up[$1] = $2 } END { for (i in up) { j = i; n = 0; \
    while (j in up && n < 99) { if (j == p) { print i; break } j = up[j]; n++ } } }'; }; \
    some() { for q in $l; do kill -0 \"$q\" 2>/dev/null && return 0; done; return 1; }; \
    for d in \"$1/$2\"*; do test -d \"$d\" || continue; \
    if test -s \"$d/pid\" && read p s o <\"$d/pid\" && test \"$o\" = \"$b\" && test \"$(born $p)\" = \"$s\"; then \
    l=$(all \"$p\"); kill $l 2>/dev/null; i=0; while some; do i=$((i+1)); test $i -gt 50 && kill -9 $l 2>/dev/null; \
    test $i -gt 100 && { echo \"${d##*/} does not end\" >&2; exit 1; }; sleep 0.2; done; fi; \
    rm -rf \"$d\" || exit 1; done; exit 0";

/// A name as part of a job's id.
pub fn word(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// The ids of jobs that run and begin so.
///
/// # Errors
/// The machine cannot be asked.
pub async fn running(host: &dyn Host, directory: &Path, begins: &str) -> Result<Vec<String>> {
    let doing = format!("look for jobs {begins}… on {}", host.name());
    let directory = checked(&doing, directory, begins)?;
    let script = format!("{PROCESS}{RUNNING}");
    let command = Command::new(["sh", "-c", &script, "sh", directory, begins]).timeout(Duration::from_secs(60));
    let text = host.run(&command).await?.checked(doing, &command)?.text();
    Ok(text.lines().map(super::printable).collect())
}

/// Ends the jobs that begin so, with all that they started, and forgets them.
///
/// # Errors
/// One does not end; the machine cannot be asked.
pub async fn end(host: &dyn Host, directory: &Path, begins: &str) -> Result<()> {
    let doing = format!("end jobs {begins}… on {}", host.name());
    let directory = checked(&doing, directory, begins)?;
    let script = format!("{PROCESS}{END}");
    let command = Command::new(["sh", "-c", &script, "sh", directory, begins]).timeout(Duration::from_secs(300));
    host.run(&command).await?.checked(doing, &command).map(drop)
}

/// Starts a job, unless one of that id is there. `Created` once its runner is up.
pub async fn start(host: &dyn Host, directory: &Path, job: &Job) -> Result<Change> {
    let doing = format!("start job {} on {}", job.id, host.name());
    let directory = checked(&doing, directory, &job.id)?;
    if job.argv.is_empty() || job.env.iter().any(|(key, _)| key.is_empty() || key.contains('=')) {
        return Err(Error::refused(doing, "its command is empty or names an impossible variable"));
    }
    let mut argv = vec!["env".to_owned()];
    argv.extend(job.env.iter().map(|(key, value)| format!("{key}={value}")));
    argv.extend(job.argv.iter().cloned());
    if argv.iter().any(|word| word.contains('\0')) {
        return Err(Error::refused(doing, "an argument or variable holds a NUL character"));
    }
    let run = format!("{PROCESS}{RUNNER_HEAD}\nset -- {}\n{RUNNER_TAIL}", shell_quote(&argv));
    let length = run.len().to_string();
    let command = Command::new(["sh", "-c", START, "sh", directory, &job.id, &length]).stdin(run);
    let output = host.run(&command).await?.checked(&doing, &command)?;
    match output.text().trim() {
        "created" => Ok(Change::Created),
        "unchanged" => Ok(Change::Unchanged),
        other => Err(malformed(doing, other)),
    }
}

/// How a job stands.
pub async fn status(host: &dyn Host, directory: &Path, id: &str) -> Result<JobStatus> {
    let doing = format!("look at job {id} on {}", host.name());
    let directory = checked(&doing, directory, id)?;
    let script = format!("{PROCESS}{STATUS}");
    let command = Command::new(["sh", "-c", &script, "sh", directory, id]).timeout(Duration::from_secs(30));
    let output = host.run(&command).await?.checked(&doing, &command)?;
    parse_status(&output.stdout).ok_or_else(|| malformed(doing, &String::from_utf8_lossy(&output.stdout)))
}

/// Reads what [`STATUS`] prints.
pub(crate) fn parse_status(printed: &[u8]) -> Option<JobStatus> {
    let end = printed.iter().position(|byte| *byte == b'\n')?;
    let (word, tail) = (std::str::from_utf8(&printed[..end]).ok()?, printed[end + 1..].to_vec());
    match word.split_once(' ').unwrap_or((word, "")) {
        ("absent", "") => Some(JobStatus::Absent),
        ("running", "") => Some(JobStatus::Running { tail }),
        ("lost", "") => Some(JobStatus::Lost),
        ("ended", status) => Some(JobStatus::Ended { status: status.parse().ok()?, tail }),
        _ => None,
    }
}

/// Removes the record of a job that does not run.
pub async fn forget(host: &dyn Host, directory: &Path, id: &str) -> Result<Change> {
    let doing = format!("forget job {id} on {}", host.name());
    let path = format!("{}/{id}", checked(&doing, directory, id)?);
    if let JobStatus::Running { .. } = status(host, directory, id).await? {
        return Err(Error::refused(doing, "it is still running"));
    }
    // A start that died before its runner came up leaves a directory without a lock: that goes too.
    let command =
        Command::new(["sh", "-c", "test -d \"$1\" || { echo unchanged; exit 0; }; rm -rf \"$1\"", "sh", &path]);
    let output = host.run(&command).await?.checked(doing, &command)?;
    Ok(if output.stdout.is_empty() { Change::Removed } else { Change::Unchanged })
}

/// Bytes `from..` of what a job printed, at most [`OUTPUT_CHUNK`]; nothing if there is no such job.
pub async fn output(host: &dyn Host, directory: &Path, id: &str, from: u64) -> Result<Vec<u8>> {
    let doing = format!("follow job {id} on {}", host.name());
    let directory = checked(&doing, directory, id)?;
    let (first, most) = (from.saturating_add(1).to_string(), OUTPUT_CHUNK.to_string());
    let command = Command::new(["sh", "-c", OUTPUT, "sh", directory, id, &first, &most]);
    Ok(host.run(&command).await?.checked(doing, &command)?.stdout)
}

fn checked<'a>(doing: &str, directory: &'a Path, id: &str) -> Result<&'a str> {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if id.is_empty() || id.len() > 128 || id.starts_with('-') || !id.bytes().all(word) {
        return Err(Error::refused(doing, format!("{:?} is not a job id ([a-z0-9-]+)", super::printable(id))));
    }
    match directory.to_str() {
        Some(text) if directory.is_absolute() => Ok(text),
        _ => Err(Error::refused(doing, "the jobs directory is not an absolute path in UTF-8")),
    }
}

fn malformed(doing: String, printed: &str) -> Error {
    let shown: String = super::printable(printed).chars().take(80).collect();
    Error::new(doing, Cause::Malformed(format!("the job scripts answered {shown:?}")))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::LocalHost;
    use super::*;

    fn job(id: &str, argv: &[&str]) -> Job {
        Job { id: id.into(), argv: argv.iter().map(|word| (*word).to_owned()).collect(), env: Vec::new() }
    }
    async fn ended(host: &dyn Host, id: &str) -> (i32, String) {
        for _ in 0..100 {
            match host.job_status(id).await.unwrap() {
                JobStatus::Ended { status, tail } => return (status, String::from_utf8(tail).unwrap()),
                JobStatus::Running { .. } => tokio::time::sleep(Duration::from_millis(50)).await,
                other => panic!("{other:?}"),
            }
        }
        panic!("job {id} does not end");
    }

    #[test]
    fn scripts_survive_a_csh_login_shell() {
        for script in [PROCESS, START, STATUS, OUTPUT, RUNNING, END] {
            assert!(!script.contains(['\n', '!']), "{script}");
        }
    }

    #[test]
    fn status_answers_are_read_strictly() {
        assert_eq!(parse_status(b"absent\n"), Some(JobStatus::Absent));
        assert_eq!(parse_status(b"ended 255\na\nb"), Some(JobStatus::Ended { status: 255, tail: b"a\nb".to_vec() }));
        for bad in [&b""[..], b"ended\n", b"ended x\n", b"running", b"\xff\n", b"absent 1\n"] {
            assert_eq!(parse_status(bad), None);
        }
    }

    #[tokio::test]
    async fn jobs_end_with_all_that_they_started_and_others_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let host = LocalHost::new("here").jobs_in(directory.path());
        let pids = directory.path().join("pids");
        // One child takes no notice of being asked, one has a process group of its own.
        let script =
            "trap '' TERM; sleep 1000 & echo $! >\"$1\"; setsid sleep 1000 & echo $! >>\"$1\"; wait; sleep 1000";
        host.job_start(&job("servera-k3f9-1-world", &["sh", "-c", script, "sh", pids.to_str().unwrap()]))
            .await
            .unwrap();
        host.job_start(&job("servera-k3f9-1-etc", &["true"])).await.unwrap();
        host.job_start(&job("serverb-k3f9-1-world", &["sleep", "1000"])).await.unwrap();
        ended(&host, "servera-k3f9-1-etc").await;
        for _ in 0..100 {
            if std::fs::read_to_string(&pids).is_ok_and(|text| text.lines().count() == 2) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let begins = "servera-k3f9-";
        assert_eq!(running(&host, directory.path(), begins).await.unwrap(), ["servera-k3f9-1-world"]);
        end(&host, directory.path(), begins).await.unwrap();
        for pid in std::fs::read_to_string(&pids).unwrap().lines() {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(state.is_empty() || state.contains(") Z "), "it still runs: {state}");
        }
        for id in ["servera-k3f9-1-world", "servera-k3f9-1-etc"] {
            assert_eq!(host.job_status(id).await.unwrap(), JobStatus::Absent);
        }
        assert!(matches!(host.job_status("serverb-k3f9-1-world").await.unwrap(), JobStatus::Running { .. }));
        end(&host, directory.path(), begins).await.unwrap();
        end(&host, directory.path(), "serverb-").await.unwrap();
    }

    #[tokio::test]
    async fn a_job_runs_once_and_its_words_arrive_whole() {
        let directory = tempfile::tempdir().unwrap();
        let host = LocalHost::new("here").jobs_in(directory.path());
        assert_eq!(host.job_status("j").await.unwrap(), JobStatus::Absent);
        let file = directory.path().join("count");
        let script = "echo run >>\"$1\"; printf '%s|' \"$2\" \"$WORD\"; exit 3";
        let mut job = job("j", &["sh", "-c", script, "sh", file.to_str().unwrap(), "it's $HOME `id`\n\"x\""]);
        job.env.push(("WORD".into(), "a 'b' $c".into()));
        assert_eq!(host.job_start(&job).await.unwrap(), Change::Created);
        assert_eq!(host.job_start(&job).await.unwrap(), Change::Unchanged);
        assert_eq!(ended(&host, "j").await, (3, "it's $HOME `id`\n\"x\"|a 'b' $c|".to_owned()));
        assert_eq!(host.job_start(&job).await.unwrap(), Change::Unchanged);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "run\n");
        assert_eq!(host.job_output("j", 5).await.unwrap(), b"$HOME `id`\n\"x\"|a 'b' $c|");
        assert_eq!(host.job_output("j", 5000).await.unwrap(), b"");
        assert_eq!(host.job_forget("j").await.unwrap(), Change::Removed);
        assert_eq!(host.job_forget("j").await.unwrap(), Change::Unchanged);
        assert_eq!(host.job_status("j").await.unwrap(), JobStatus::Absent);
    }

    #[tokio::test]
    async fn a_running_job_is_kept_and_a_killed_one_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let host = LocalHost::new("here").jobs_in(directory.path());
        host.job_start(&job("long", &["sh", "-c", "echo begun; exec sleep 60"])).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(host.job_status("long").await.unwrap(), JobStatus::Running { tail: b"begun\n".to_vec() });
        assert!(matches!(host.job_forget("long").await.unwrap_err().cause, Cause::Refused(_)));
        // The runner leads its own session, so its group is the job.
        let pid = std::fs::read_to_string(directory.path().join("long/pid")).unwrap();
        let pid: i32 = pid.split(' ').next().unwrap().parse().unwrap();
        nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(host.job_status("long").await.unwrap(), JobStatus::Lost);
        assert_eq!(host.job_forget("long").await.unwrap(), Change::Removed);
    }

    #[tokio::test]
    async fn a_job_of_an_earlier_boot_is_lost_and_a_pid_taken_over_is_not_it() {
        let directory = tempfile::tempdir().unwrap();
        let host = LocalHost::new("here").jobs_in(directory.path());
        host.job_start(&job("old", &["sleep", "60"])).await.unwrap();
        let file = directory.path().join("old/pid");
        let line = std::fs::read_to_string(&file).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words.len(), 3);
        for forged in [format!("{} {} other-boot\n", words[0], words[1]), format!("{} 1 {}\n", words[0], words[2])] {
            std::fs::write(&file, forged).unwrap();
            assert_eq!(host.job_status("old").await.unwrap(), JobStatus::Lost);
        }
        let pid = nix::unistd::Pid::from_raw(words[0].parse().unwrap());
        nix::sys::signal::killpg(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    #[tokio::test]
    async fn a_start_that_died_early_is_repeated() {
        let directory = tempfile::tempdir().unwrap();
        let host = LocalHost::new("here").jobs_in(directory.path());
        std::fs::create_dir(directory.path().join("j")).unwrap();
        std::fs::write(directory.path().join("j/run"), "half").unwrap();
        assert_eq!(host.job_status("j").await.unwrap(), JobStatus::Absent);
        assert_eq!(host.job_start(&job("j", &["true"])).await.unwrap(), Change::Created);
        assert_eq!(ended(&host, "j").await.0, 0);
    }

    #[tokio::test]
    async fn impossible_ids_are_refused() {
        let host = LocalHost::new("here").jobs_in("/nonexistent");
        for id in ["", "-x", "../x", "A", "a b", "a/b", "a\n"] {
            assert!(matches!(host.job_start(&job(id, &["true"])).await.unwrap_err().cause, Cause::Refused(_)));
        }
    }
}
