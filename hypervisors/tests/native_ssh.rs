//! [`SshHost`] against a real sshd of its own on a loopback port, with keys of its own. Needs `/usr/sbin/sshd` and root
//! (sshd then needs its privilege separation directory, `/run/sshd`).
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "common/skip.rs"]
mod skip;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use hypervisors::host::{Command, GuestLink, Job, JobStatus, SshHost, SshTarget, Stream};
use hypervisors::{Cause, Change, Host};
use skip::skip;

/// A private sshd; ended and removed when dropped.
struct Sshd {
    directory: tempfile::TempDir,
    port: u16,
    daemon: Child,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn keygen(path: &Path) {
    let done = Process::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status().unwrap();
    assert!(done.success());
}

fn daemon(config: &Path) -> Child {
    Process::new("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(config).stderr(Stdio::null()).spawn().unwrap()
}

impl Sshd {
    /// `None`, said on stderr, where sshd cannot run.
    fn start() -> Option<Self> {
        if !Path::new("/usr/sbin/sshd").exists() || !nix::unistd::geteuid().is_root() {
            skip("/usr/sbin/sshd (package openssh-server) and root");
            return None;
        }
        std::fs::create_dir_all("/run/sshd").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        keygen(&at("hostkey"));
        keygen(&at("key"));
        keygen(&at("otherkey"));
        std::fs::copy(at("key.pub"), at("authorized")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/hostkey\nAuthorizedKeysFile {0}/authorized\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n",
            directory.path().display()
        );
        std::fs::write(at("config"), config).unwrap();
        let key = std::fs::read_to_string(at("hostkey.pub")).unwrap();
        std::fs::write(at("known"), format!("mercure--k3f9 {key}")).unwrap();
        let other = std::fs::read_to_string(at("otherkey.pub")).unwrap();
        std::fs::write(at("known_wrong"), format!("mercure--k3f9 {other}")).unwrap();
        let daemon = daemon(&at("config"));
        let sshd = Self { directory, port, daemon };
        sshd.comes_up();
        Some(sshd)
    }
    fn comes_up(&self) {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "sshd does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    /// Another machine answers at the address: the same but for its host key.
    fn becomes_another(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        let config = self.directory.path().join("config");
        let text = std::fs::read_to_string(&config).unwrap().replace("/hostkey\n", "/otherkey\n");
        std::fs::write(&config, text).unwrap();
        self.daemon = daemon(&config);
        self.comes_up();
    }
    fn link(&self) -> GuestLink {
        let at = |name: &str| self.directory.path().join(name);
        GuestLink {
            name: "mercure--k3f9".into(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            by: None,
            port: self.port,
            user: "root".into(),
            key: Some(at("key")),
            sudo: false,
            known_hosts: at("known"),
            control_dir: at("control"),
            legacy: false,
        }
    }
}

#[tokio::test]
async fn commands_files_and_jobs_over_ssh() {
    let Some(sshd) = Sshd::start() else { return };
    let host = SshHost::for_guest(&sshd.link()).jobs_in(sshd.directory.path().join("jobs"));

    let word = "it's \"$HOME\" `id`\n!x *";
    let output = host.run(&Command::new(["printf", "%s|", word, ""]).env("A", "b c")).await.unwrap();
    assert_eq!((output.status, output.text()), (0, format!("{word}||")));
    let output =
        host.run(&Command::new(["sh", "-c", "echo \"$A\"; cat; exit 3"]).env("A", "b c").stdin("in")).await.unwrap();
    assert_eq!((output.status, output.text().as_str()), (3, "b c\nin"));
    // A command's own 255 is a status, not a lost link.
    let output = host.run(&Command::new(["sh", "-c", "echo mine >&2; exit 255"])).await.unwrap();
    assert_eq!((output.status, output.stderr.as_slice()), (255, &b"mine\n"[..]));
    let error = host.run(&Command::new(["no-such-program-here"])).await.unwrap_err();
    assert!(matches!(error.cause, Cause::NotFound(_)), "{error:?}");
    let error = host.run(&Command::new(["sleep", "30"]).timeout(Duration::from_millis(500))).await.unwrap_err();
    assert!(error.is_unknown(), "{error:?}");

    let path = sshd.directory.path().join("a file 'x'");
    assert_eq!(host.read_file(&path, 10).await.unwrap(), None);
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    assert_eq!(host.write_file(&path, &bytes, 0o640).await.unwrap(), Change::Created);
    assert_eq!(host.write_file(&path, &bytes, 0o640).await.unwrap(), Change::Unchanged);
    assert_eq!(host.read_file(&path, 100_000).await.unwrap().unwrap(), bytes);
    assert!(matches!(host.read_file(&path, 99_999).await.unwrap_err().cause, Cause::Refused(_)));
    assert_eq!(host.write_file(&path, b"", 0o600).await.unwrap(), Change::Changed);
    assert_eq!(host.read_file(&path, 0).await.unwrap().unwrap(), b"");
    assert!(host.write_file(sshd.directory.path(), b"x", 0o600).await.is_err());
    assert!(matches!(host.read_file(sshd.directory.path(), 9).await.unwrap_err().cause, Cause::Refused(_)));
    let left: Vec<_> = std::fs::read_dir(sshd.directory.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".upgradectl"))
        .collect();
    assert!(left.is_empty(), "{left:?}");

    let job =
        Job { id: "j".into(), argv: ["sh", "-c", "sleep 1; echo out; exit 4"].map(str::to_owned).into(), env: vec![] };
    assert_eq!(host.job_start(&job).await.unwrap(), Change::Created);
    assert_eq!(host.job_start(&job).await.unwrap(), Change::Unchanged);
    assert!(matches!(host.job_status("j").await.unwrap(), JobStatus::Running { .. }));
    // The work goes on when the link is gone.
    host.disconnect().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let ended = host.job_status("j").await.unwrap();
    assert_eq!(ended, JobStatus::Ended { status: 4, tail: b"out\n".to_vec() });
    assert_eq!(host.job_forget("j").await.unwrap(), Change::Removed);
    host.disconnect().await.unwrap();
}

#[tokio::test]
async fn refusals_and_lost_links_are_told_apart() {
    let Some(mut sshd) = Sshd::start() else { return };
    let id = Command::new(["id"]);
    let mut link = sshd.link();
    link.known_hosts = sshd.directory.path().join("known_wrong");
    let error = SshHost::for_guest(&link).run(&id).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Refused(_)) && error.to_string().contains("host key"), "{error:?}");
    let mut link = sshd.link();
    link.name = "unknown--0000".into();
    let error = SshHost::for_guest(&link).run(&id).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Refused(_)) && error.help.is_some(), "{error:?}");
    let mut link = sshd.link();
    link.key = Some(sshd.directory.path().join("otherkey"));
    let error = SshHost::for_guest(&link).run(&id).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Refused(_)) && error.to_string().contains("login"), "{error:?}");

    // The session's sshd dies under a running command, which had said something: Unknown, never a status.
    let host = SshHost::for_guest(&sshd.link());
    let kill = "echo before >&2; p=$PPID; while test \"$(cat /proc/$p/comm)\" != sshd; do \
                p=$(sed 's/.*) //' /proc/$p/stat | cut -d' ' -f2); done; kill -9 $p; sleep 5";
    let error = host.run(&Command::new(["sh", "-c", kill])).await.unwrap_err();
    assert!(error.is_unknown(), "{error:?}");
    host.disconnect().await.unwrap();

    sshd.daemon.kill().unwrap();
    sshd.daemon.wait().unwrap();
    let error = host.run(&id).await.unwrap_err();
    assert!(error.is_unknown() && error.to_string().contains("refused"), "{error:?}");
    std::io::stderr().flush().unwrap();
}

/// A host, which is known by its address, and original and clone, which are known by a name of ours: where another machine
/// answers with another key, nothing is run, read or written there, and the remedy names the file and the name in it.
#[tokio::test]
async fn a_changed_host_key_stops_everything() {
    let Some(mut sshd) = Sshd::start() else { return };
    let at = |name: &str| sshd.directory.path().join(name);
    let key = std::fs::read_to_string(at("hostkey.pub")).unwrap();
    let known = [format!("[127.0.0.1]:{} {key}", sshd.port), format!("mercure {key}"), format!("mercure--k3f9 {key}")];
    std::fs::write(at("known"), known.concat()).unwrap();
    let by_alias = |name: &str| SshHost::for_guest(&GuestLink { name: name.into(), ..sshd.link() }).jobs_in(at("jobs"));
    let link = sshd.link();
    let host = SshHost::new(SshTarget {
        name: "trolls".into(),
        address: link.address.to_string(),
        port: link.port,
        user: link.user.clone(),
        key: link.key.clone(),
        sudo: false,
        known_hosts: Some(link.known_hosts.clone()),
        alias: None,
        control_dir: link.control_dir.clone(),
        legacy: false,
    })
    .jobs_in(at("jobs"));
    let machines =
        [(host, "127.0.0.1"), (by_alias("mercure"), "mercure"), (by_alias("mercure--k3f9"), "mercure--k3f9")];
    let (canary, kept) = (at("canary"), at("kept"));
    std::fs::write(&kept, "as it was").unwrap();
    for (machine, name) in &machines {
        assert_eq!(machine.run(&Command::new(["true"])).await.unwrap().status, 0, "{name}");
        machine.disconnect().await.unwrap();
    }
    sshd.becomes_another();
    for (machine, name) in machines {
        let touch = Command::new(["touch", canary.to_str().unwrap()]);
        let job = Job { id: "j".into(), argv: touch.argv.clone(), env: vec![] };
        let refused = [
            machine.run(&touch).await.unwrap_err(),
            machine.write_file(&kept, b"another", 0o600).await.unwrap_err(),
            machine.read_file(&kept, 100).await.unwrap_err(),
            machine.job_start(&job).await.unwrap_err(),
            machine.job_status("j").await.unwrap_err(),
        ];
        for error in refused {
            let (said, help) = (error.to_string(), error.help.clone().unwrap_or_default());
            assert!(matches!(error.cause, Cause::Refused(_)), "{name}: {error:?}");
            assert!(said.contains("its host key is not the expected one"), "{name}: {said}");
            assert!(help.contains(name) && help.contains("/known") && help.contains("127.0.0.1"), "{name}: {help}");
        }
    }
    assert!(!canary.exists(), "a command was run on another machine");
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "as it was");
    let known_now = std::fs::read_to_string(sshd.directory.path().join("known")).unwrap();
    assert_eq!(known_now, known.concat(), "the new key was taken over");
}

#[tokio::test]
async fn streams_over_ssh() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let Some(sshd) = Sshd::start() else { return };
    let host = SshHost::for_guest(&sshd.link());

    let word = "it's \"$HOME\" `id`\n!x *";
    let script = "echo begun \"$A\" >&2; cat; printf '%s' \"$1\"; exit 3";
    let command = Command::new(["sh", "-c", script, "sh", word]).env("A", "b c");
    let Stream { mut stdin, mut stdout, running } = host.stream(&command).await.unwrap();
    let bytes: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    let (mut lines, mut read) = (Vec::new(), Vec::new());
    let write = async {
        stdin.write_all(&bytes).await.unwrap();
        drop(stdin);
    };
    let ended = running.ended(|line| lines.push(line.to_owned()));
    let (ended, (), _) = tokio::join!(ended, write, stdout.read_to_end(&mut read));
    assert_eq!((ended.unwrap().status, lines), (3, vec!["begun b c".to_owned()]));
    assert!(read == [&bytes, word.as_bytes()].concat());

    // A command's own 255 is a status; a program that is not there is known when it ends.
    let stream = host.stream(&Command::new(["sh", "-c", "echo mine >&2; exit 255"])).await.unwrap();
    let output = stream.running.ended(|_| ()).await.unwrap();
    assert_eq!((output.status, output.stderr.as_slice()), (255, &b"mine\n"[..]));
    let stream = host.stream(&Command::new(["no-such-program-here"])).await.unwrap();
    assert!(matches!(stream.running.ended(|_| ()).await.unwrap_err().cause, Cause::NotFound(_)));

    // Its connection is its own: the shared one may go. A reader that goes ends the command there.
    let pid = sshd.directory.path().join("pid");
    let script = format!("echo $$ >{}; exec cat /dev/zero", pid.display());
    let mut stream = host.stream(&Command::new(["sh", "-c", &script])).await.unwrap();
    stream.stdout.read_exact(&mut [0; 1000]).await.unwrap();
    host.disconnect().await.unwrap();
    stream.stdout.read_exact(&mut [0; 1000]).await.unwrap();
    let pid = std::fs::read_to_string(pid).unwrap();
    drop(stream);
    let begun = Instant::now();
    while Path::new("/proc").join(pid.trim()).exists() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the command goes on without its reader");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
