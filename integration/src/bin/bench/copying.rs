//! What copying file systems costs: our stream between dump and restore against the bare `ssh … dump | restore`, with the same
//! programs, over an sshd of its own on the loopback, between ext4 file systems on loop devices.
//!
//! Nothing but dump, the way, and restore is timed on either side; both begin with what the kernel keeps of the device let go of,
//! and into an empty directory. The copies run in a process of their own: this program again, see [`copy`].

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hypervisors::host::{GuestLink, LocalHost, SshHost};
use hypervisors::transfer::{Dialect, DumpLine, Pass, Place, Since, System};
use integration::command::run;
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

use crate::results::Results;

/// First argument of the process that copies.
pub const COPY: &str = "--copy";

/// Pairs per ratio.
const PAIRS: usize = 5;
/// File systems that are copied beside each other.
const BESIDE: usize = 3;
/// Bytes of each.
const SIZE: u64 = 384 << 20;
/// Bytes that are moved while memory is measured.
const MUCH: u64 = 4 << 30;

/// One file system of the server, and where it goes.
#[derive(Clone)]
struct Copied {
    device: String,
    mount: PathBuf,
    target: PathBuf,
}

/// The server and its file systems; all of it goes when it is dropped.
struct Server {
    directory: tempfile::TempDir,
    daemon: Child,
    port: u16,
    mounted: Vec<PathBuf>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        for mount in self.mounted.iter().rev() {
            let _ = run("umount").arg(mount).output();
        }
    }
}

impl Server {
    fn start() -> Result<Server> {
        let directory = tempfile::Builder::new().prefix("upgradectl-bench-").tempdir_in("/var/tmp")?;
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all("/run/sshd")?;
        for name in ["hostkey", "key"] {
            run("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(name)).output()?;
        }
        fs::copy(at("key.pub"), at("authorized"))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let here = directory.path().display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {here}/hostkey\nAuthorizedKeysFile {here}/authorized\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        );
        fs::write(at("config"), config)?;
        fs::write(at("known"), format!("server {}", fs::read_to_string(at("hostkey.pub"))?))?;
        let daemon =
            Command::new("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(at("config")).stderr(Stdio::null()).spawn()?;
        let server = Server { directory, daemon, port, mounted: Vec::new() };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(begun.elapsed() < Duration::from_secs(10), "sshd does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file system in a file.
    fn mount(&mut self, name: &str, size: u64, make: &[&str], options: &str) -> Result<PathBuf> {
        let (image, at) = (self.path(&format!("{name}.img")), self.path(name));
        fs::File::create(&image)?.set_len(size)?;
        run(make[0]).args(&make[1..]).arg(&image).output()?;
        fs::create_dir(&at)?;
        run("mount").args(["-o", options]).arg(&image).arg(&at).output()?;
        self.mounted.push(at.clone());
        Ok(at)
    }

    fn copied(&self, mount: PathBuf, target: PathBuf) -> Result<Copied> {
        let device = run("findmnt").args(["-n", "-o", "SOURCE"]).arg(&mount).output()?;
        Ok(Copied { device: device.trim().to_owned(), mount, target })
    }

    /// A server's file system, half of it in small files, and a file system that its copy goes to.
    fn filled(&mut self, number: usize) -> Result<Copied> {
        let make = ["mkfs.ext4", "-q", "-F"];
        let mount = self.mount(&format!("server{number}"), SIZE * 5 / 4, &make, "loop")?;
        let target = self.mount(&format!("target{number}"), SIZE * 5 / 4, &make, "loop")?;
        let mut noise = fs::File::open("/dev/urandom")?;
        let mut put = |name: String, bytes: u64| -> Result<()> {
            use std::io::Read as _;
            let path = mount.join(name);
            fs::create_dir_all(path.parent().context("no directory")?)?;
            std::io::copy(&mut noise.by_ref().take(bytes), &mut fs::File::create(path)?)?;
            Ok(())
        };
        for file in 0..SIZE / 2 / (64 << 10) {
            put(format!("small/{}/{file}", file / 100), 64 << 10)?;
        }
        for file in 0..4 {
            put(format!("large/{file}"), SIZE / 8)?;
        }
        self.copied(mount, target.join("tree"))
    }

    /// Both sides begin alike.
    fn ready(&self, copied: &[Copied]) -> Result<()> {
        for one in copied {
            if one.target.exists() {
                fs::remove_dir_all(&one.target)?;
            }
            fs::create_dir(&one.target)?;
        }
        run("sync").output()?;
        for one in copied {
            run("blockdev").args(["--flushbufs", &one.device]).output()?;
        }
        Ok(())
    }

    /// As one types it; seconds.
    fn by_hand(&self, copied: &[Copied]) -> Result<f64> {
        self.ready(copied)?;
        let begun = Instant::now();
        let lines = copied.iter().enumerate().map(|(number, one)| {
            let temporary = self.path(&format!("hand{number}"));
            fs::create_dir_all(&temporary)?;
            let script = "cd \"$1\" && ssh -T -p \"$2\" -i \"$3/key\" -o UserKnownHostsFile=\"$3/known\" -o HostKeyAlias=server \
                -o BatchMode=yes root@127.0.0.1 dump -0 -a -f - \"$4\" 2>/dev/null | TMPDIR=\"$5\" restore -rf - 2>/dev/null";
            let child = Command::new("sh")
                .args(["-c", script, "sh"])
                .arg(&one.target)
                .arg(self.port.to_string())
                .arg(self.directory.path())
                .arg(&one.device)
                .arg(&temporary)
                .stdin(Stdio::null())
                .spawn()?;
            Ok(child)
        });
        for child in lines.collect::<Result<Vec<_>>>()? {
            ensure!(child.wait_with_output()?.status.success(), "the bare pipeline failed");
        }
        let took = begun.elapsed().as_secs_f64();
        self.came(copied)?;
        Ok(took)
    }

    /// By ours: seconds, and the most memory it had, in MiB.
    fn by_us(&self, copied: &[Copied]) -> Result<(f64, f64)> {
        self.ready(copied)?;
        let all = copied.iter().enumerate().map(|(number, one)| {
            json!({ "device": one.device, "mount": one.mount, "target": one.target, "temporary": self.path(&format!("ours{number}")) })
        });
        let asked = json!({ "directory": self.directory.path(), "port": self.port, "all": all.collect::<Vec<_>>() });
        let said = run(std::env::current_exe()?).arg(COPY).arg(asked.to_string()).output()?;
        let said: Value =
            serde_json::from_str(said.lines().last().unwrap_or_default()).context("the copy's figures")?;
        self.came(copied)?;
        let figure = |name: &str| said[name].as_f64().with_context(|| format!("no {name}"));
        Ok((figure("seconds")?, figure("rss_mib")?))
    }

    /// Whether as much is there as was on the server.
    fn came(&self, copied: &[Copied]) -> Result<()> {
        for one in copied {
            let size = |at: &Path| -> Result<u64> {
                let said = run("du").args(["-s", "-k", "--apparent-size", "-x"]).arg(at).output()?;
                Ok(said.split_whitespace().next().unwrap_or_default().parse::<u64>()?)
            };
            let (there, here) = (size(&one.mount)?, size(&one.target)?);
            ensure!(
                here >= there - there / 100 && there > 1 << 10,
                "{here} KiB of {there} came to {}",
                one.target.display()
            );
        }
        Ok(())
    }
}

/// One file system: throughput against the bare pipeline.
pub fn single(_: &(), results: &mut Results) -> Result<()> {
    let mut server = Server::start()?;
    let copied = [server.filled(0)?];
    results.ratio("dump_over_pipeline", &pairs(|| Ok((server.by_hand(&copied)?, server.by_us(&copied)?.0)))?);
    Ok(())
}

/// Three beside each other against three bare pipelines beside each other.
pub fn beside(_: &(), results: &mut Results) -> Result<()> {
    let mut server = Server::start()?;
    let copied = (0..BESIDE).map(|number| server.filled(number)).collect::<Result<Vec<_>>>()?;
    results.ratio("dump_parallel_over_bare", &pairs(|| Ok((server.by_hand(&copied)?, server.by_us(&copied)?.0)))?);
    Ok(())
}

/// Three after each other against three beside each other, both by ours.
pub fn speedup(_: &(), results: &mut Results) -> Result<()> {
    let mut server = Server::start()?;
    let copied = (0..BESIDE).map(|number| server.filled(number)).collect::<Result<Vec<_>>>()?;
    let in_turn = |server: &Server| -> Result<f64> {
        copied.iter().try_fold(0.0, |sum, one| Ok(sum + server.by_us(std::slice::from_ref(one))?.0))
    };
    results.ratio("dump_parallel_speedup", &pairs(|| Ok((in_turn(&server)?, server.by_us(&copied)?.0)))?);
    Ok(())
}

fn pairs(mut pair: impl FnMut() -> Result<(f64, f64)>) -> Result<Vec<(f64, f64)>> {
    // The first warms the caches.
    pair()?;
    (0..PAIRS).map(|_| pair()).collect()
}

/// The most memory while much is moved. The bytes are zeros, of which the server's image keeps none (`fallocate --dig-holes`) and
/// the target's file system few: dump and ssh move them as any others.
pub fn memory(_: &(), results: &mut Results) -> Result<()> {
    let mut server = Server::start()?;
    let mount = server.mount("server", MUCH * 9 / 8, &["mkfs.ext4", "-q", "-F"], "loop")?;
    let target = server.mount("target", MUCH / 4, &["mkfs.btrfs", "-q", "-f"], "loop,compress-force=zstd:1")?;
    for number in 0..32 {
        let zeros = vec![0; 1 << 20];
        let mut file = fs::File::create(mount.join(number.to_string()))?;
        for _ in 0..(MUCH / 32) >> 20 {
            std::io::Write::write_all(&mut file, &zeros)?;
        }
        file.sync_all()?;
        run("fallocate").arg("--dig-holes").arg(server.path("server.img")).output()?;
    }
    let copied = [server.copied(mount, target.join("tree"))?];
    let (_, rss) = server.by_us(&copied)?;
    results.single("dump_rss_mib", &[rss]);
    Ok(())
}

/// Copies as asked, and prints how long it took and what it had of memory at most (getrusage(2), itself alone).
pub fn copy(asked: &[String]) -> Result<ExitCode> {
    let asked: Value = serde_json::from_str(asked.first().context("nothing is asked")?)?;
    let directory = PathBuf::from(asked["directory"].as_str().context("no directory")?);
    let link = GuestLink {
        name: "server".into(),
        address: "127.0.0.1".parse()?,
        by: None,
        port: u16::try_from(asked["port"].as_u64().context("no port")?)?,
        user: "root".into(),
        key: Some(directory.join("key")),
        sudo: false,
        known_hosts: directory.join("known"),
        control_dir: directory.join("control"),
        legacy: false,
    };
    let (source, target) = (SshHost::for_guest(&link), LocalHost::new("here"));
    let dialect = Dialect { system: System::Linux, snapshot: false, cache: false, dumpdates: true };
    let all = asked["all"].as_array().context("no file systems")?;
    let text =
        |one: &Value, key: &str| Ok::<_, anyhow::Error>(one[key].as_str().context("a path is missing")?.to_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let begun = Instant::now();
    runtime.block_on(async {
        let mut work = tokio::task::JoinSet::new();
        for one in all {
            let (device, mount) = (text(one, "device")?, PathBuf::from(text(one, "mount")?));
            let place = Place { root: text(one, "target")?.into(), below: PathBuf::new() };
            let temporary = PathBuf::from(text(one, "temporary")?);
            let (source, target) = (source.clone(), target.clone());
            work.spawn(async move {
                let dump =
                    DumpLine { dialect: &dialect, level: 0, device: &device, snapshot: false, since: Since::Nothing };
                let pass = Pass {
                    source: &source,
                    target: &target,
                    mount: &mount,
                    dump: &dump,
                    place: &place,
                    temporary: &temporary,
                    compression: None,
                    limit: None,
                    timeout: Duration::from_secs(3600),
                };
                pass.run(&|_| ()).await
            });
        }
        while let Some(done) = work.join_next().await {
            done??;
        }
        anyhow::Ok(())
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let rss_mib = getrusage(UsageWho::RUSAGE_SELF)?.max_rss() as f64 / 1024.0;
    println!("{}", json!({ "seconds": seconds, "rss_mib": rss_mib }));
    Ok(ExitCode::SUCCESS)
}
