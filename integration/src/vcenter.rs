//! The vCenter of the lab: govmomi's simulator, as `integration/vcenter` extends it, over TLS on a port of 127.0.0.1 that it chooses.
//! It ends with its standard input, which is ours: nothing is left of it when the lab that started it ends, however that ends.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::cache;
use crate::command::run;

/// Its sources.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vcenter");
/// Where Debian has Go's libraries.
const LIBRARIES: &str = "/usr/share/gocode";

/// How its API is spoken to. Clients find it out by asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// As every vCenter and ESXi host.
    Soap,
    /// VI JSON, as vCenter from 8.0U2 on, and nothing else (`vcenter/json.go`).
    Json,
}

/// A vCenter that runs for as long as this value lives.
#[derive(Debug)]
pub struct Vcenter {
    child: Child,
    dir: TempDir,
}

impl Vcenter {
    /// Builds it if its sources have changed, and starts it.
    ///
    /// # Errors
    /// It cannot be built (see `integration/prerequisites vsphere`), or does not come up in a minute.
    pub fn start(speaks: Speaks) -> Result<Self> {
        let program = built()?;
        let dir = tempfile::Builder::new().prefix("upgradectl-vcenter-").tempdir()?;
        let log = fs::File::create(dir.path().join("log"))?;
        let child = Command::new(&program)
            .arg(dir.path())
            .args((speaks == Speaks::Json).then_some("json"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let mut vcenter = Self { child, dir };
        let begun = Instant::now();
        while !vcenter.path("url").exists() {
            if vcenter.child.try_wait()?.is_some() || begun.elapsed() > Duration::from_secs(60) {
                bail!("the vCenter does not come up:\n{}", vcenter.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let credentials = vcenter.credentials();
        fs::write(&credentials, "user\npass\n")?;
        fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600))?;
        Ok(vcenter)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Its address: `https://127.0.0.1:PORT`.
    ///
    /// # Errors
    /// The file that has it cannot be read.
    pub fn url(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path("url"))?.trim().to_owned())
    }

    /// The SHA-256 thumbprint of its certificate.
    ///
    /// # Errors
    /// The file that has it cannot be read.
    pub fn thumbprint(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path("thumbprint"))?.trim().to_owned())
    }

    /// The certificate of its authority.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A file with user and password.
    pub fn credentials(&self) -> PathBuf {
        self.path("credentials")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Tells it something (`vcenter/control.go` has the words); its answer.
    ///
    /// # Errors
    /// It refuses, or cannot be reached.
    pub fn tell(&self, line: &str) -> Result<String> {
        let mut stream = UnixStream::connect(self.path("control"))?;
        writeln!(stream, "{line}")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        let answer = answer.trim_end();
        let said = answer.strip_prefix("ok").with_context(|| format!("telling the vCenter {line:?}: {answer}"))?;
        Ok(said.trim().to_owned())
    }
}

impl Drop for Vcenter {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if begun.elapsed() > Duration::from_secs(5) {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// By what Go's sources import govmomi: where Debian has it, beneath a directory for the place that it comes from.
fn govmomi() -> Result<String> {
    let src = Path::new(LIBRARIES).join("src");
    let places = fs::read_dir(&src).into_iter().flatten().filter_map(Result::ok);
    let mut paths = places.map(|place| Path::new(&place.file_name()).join("vmware/govmomi"));
    let found = paths.find(|path| src.join(path).join("simulator").is_dir());
    let found = found.context("govmomi is not installed: integration/prerequisites vsphere")?;
    Ok(found.to_str().context("the path of govmomi is not text")?.to_owned())
}

/// The program, built once for these sources. They import `"govmomi/…"`, which becomes the library's own path.
fn built() -> Result<PathBuf> {
    let library = govmomi()?;
    let mut sources: Vec<PathBuf> = fs::read_dir(SOURCES)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    sources.retain(|path| path.extension().is_some_and(|ending| ending == "go"));
    sources.sort();
    let mut hash = Sha256::new();
    for source in &sources {
        hash.update(fs::read(source)?);
    }
    let hash: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    cache::kept("vcenter", &hash, ".bin", |program| {
        let written = tempfile::tempdir()?;
        let mut copies = Vec::new();
        for source in &sources {
            let copy = written.path().join(source.file_name().context("a source without a name")?);
            fs::write(&copy, fs::read_to_string(source)?.replace("\"govmomi/", &format!("\"{library}/")))?;
            copies.push(copy);
        }
        let build = run("go")
            .env("GO111MODULE", "off")
            .env("GOPATH", LIBRARIES)
            .env("GOFLAGS", "")
            .env("GOCACHE", std::env::temp_dir().join("upgradectl-go"))
            .args(["build", "-o"])
            .arg(program)
            .args(&copies);
        let built = build.output();
        // Only its result is kept.
        let _ = fs::remove_dir_all(std::env::temp_dir().join("upgradectl-go"));
        built.map(drop)
    })
}
