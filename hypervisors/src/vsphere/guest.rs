//! The inside of a guest by way of its VMware tools: programs are started and files moved through the API and the hypervisor, so no
//! network of the guest is needed.
//!
//! A command is one program for the tools: a shell that runs it with its streams in files of a directory of its own, which are
//! fetched when it has ended. "In Linux and Solaris, the arguments will be passed to a guest shell" (`GuestProgramSpec.arguments`):
//! they are quoted once, by the one function that quotes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::time::sleep;
use vim_rs::core::client::{Error as Fault, VimClient as _};
use vim_rs::mo::{GuestFileManager, GuestOperationsManager, GuestProcessManager};
use vim_rs::types::structs::{
    GuestAuthentication, GuestFileAttributes, GuestPosixFileAttributes, GuestProgramSpec, ManagedObjectReference,
    NamePasswordAuthentication,
};

use super::session::{Session, server};
use super::{Trouble, Vsphere, chain, wrong};
use crate::host::{Command, CommandRecord, Job, JobStatus, Output, Stdin, Stdout, files, job, report, shell_quote};
use crate::machines::GuestLogin;
use crate::{Cause, Change, Error, Host, Result};

/// First pause between two looks at a process, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// `$0` is the directory; the rest is the command. Its status is in a file, as its output is: that of the process is the tools' to
/// tell, or to leave out. The shell's own words ("not found") go where the command's would.
const RUN: &str =
    "\"$@\" <\"$0/in\" >\"$0/out\" 2>\"$0/err\" & p=$!; trap 'kill $p' TERM; wait $p; echo $? >\"$0/status\"";

/// A guest's inside.
#[derive(Debug)]
pub(super) struct Inside {
    platform: Vsphere,
    uuid: String,
    login: GuestLogin,
}

/// What guest operations need, for the length of one command.
struct Way {
    session: Arc<Session>,
    vm: ManagedObjectReference,
    login: NamePasswordAuthentication,
    processes: GuestProcessManager,
    files: GuestFileManager,
}

impl Inside {
    pub(super) fn new(platform: Vsphere, uuid: &str, login: GuestLogin) -> Self {
        Self { platform, uuid: uuid.to_ascii_lowercase(), login }
    }

    async fn way(&self, doing: &str) -> Result<Way> {
        let session = self.platform.session().await?;
        let bad = |fault: Fault| lost(doing, fault);
        let vm = self.platform.known(&session, &self.uuid).await.map_err(|trouble| lost(doing, trouble))?;
        let vm =
            vm.ok_or_else(|| Error::not_found(doing, format!("no machine has the instance UUID {}", self.uuid)))?;
        let missing = || Error::new(doing, Cause::Unsupported("this API has no guest operations".into()));
        let manager = session.service_content().guest_operations_manager.as_ref().ok_or_else(missing)?;
        let manager = GuestOperationsManager::new(session.clone(), &manager.value);
        let processes = manager.process_manager().await.map_err(bad)?.ok_or_else(missing)?;
        let files = manager.file_manager().await.map_err(bad)?.ok_or_else(missing)?;
        Ok(Way {
            vm,
            login: NamePasswordAuthentication {
                guest_authentication_: GuestAuthentication { interactive_session: false },
                username: self.login.user.clone(),
                password: self.login.password.clone(),
            },
            processes: GuestProcessManager::new(session.clone(), &processes.value),
            files: GuestFileManager::new(session.clone(), &files.value),
            session,
        })
    }

    /// The address of a transfer: "if the host is `*`, it is the one the client is connected to".
    fn address(&self, url: &str) -> String {
        match (url.strip_prefix("https://*"), server(&self.platform.address.url)) {
            (Some(rest), Some(server)) => match rest.starts_with(':') {
                true => format!("https://{}{rest}", server.rsplit_once(':').map_or(server, |(host, _)| host)),
                false => format!("https://{server}{rest}"),
            },
            _ => url.to_owned(),
        }
    }

    async fn upload(&self, doing: &str, way: &Way, path: &str, bytes: Vec<u8>) -> Result<()> {
        let attributes = GuestPosixFileAttributes {
            guest_file_attributes_: GuestFileAttributes {
                modification_time: None,
                access_time: None,
                symlink_target: None,
            },
            owner_id: None,
            group_id: None,
            permissions: Some(0o600),
        };
        let size = i64::try_from(bytes.len()).map_err(|_| Error::refused(doing, "it is too large"))?;
        let url = way.files.initiate_file_transfer_to_guest(&way.vm, &way.login, path, &attributes, size, true).await;
        let url = self.address(&url.map_err(|fault| lost(doing, fault))?);
        let sent =
            way.session.http.put(url).header("Content-Type", "application/octet-stream").body(bytes).send().await;
        let sent = sent.map_err(|error| Error::unknown(doing, chain(&error)))?;
        match sent.status().is_success() {
            true => Ok(()),
            false => Err(Error::unknown(doing, format!("sending {path} gave HTTP {}", sent.status()))),
        }
    }

    /// At most `limit` bytes of a file, and whether there are more.
    async fn download(&self, doing: &str, way: &Way, path: &str, limit: usize) -> Result<(Vec<u8>, bool)> {
        let told = way.files.initiate_file_transfer_from_guest(&way.vm, &way.login, path).await;
        let url = self.address(&told.map_err(|fault| lost(doing, fault))?.url);
        let broken = |error: reqwest::Error| Error::unknown(doing, chain(&error));
        let mut answer = way.session.http.get(url).send().await.map_err(broken)?;
        if !answer.status().is_success() {
            return Err(Error::unknown(doing, format!("fetching {path} gave HTTP {}", answer.status())));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(broken)? {
            let room = limit - bytes.len();
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                return Ok((bytes, true));
            }
        }
        Ok((bytes, false))
    }

    async fn ran(&self, doing: &str, command: &Command) -> Result<Output> {
        let input = match &command.stdin {
            Stdin::Null => Vec::new(),
            Stdin::Bytes(bytes) => bytes.clone(),
            Stdin::File(path) => {
                let read = tokio::fs::read(path).await;
                read.map_err(|error| Error::io(format!("{doing}: read {}", path.display()), error))?
            }
        };
        let way = self.way(doing).await?;
        let made = way.files.create_temporary_directory_in_guest(&way.vm, &way.login, "upgradectl-", "", None).await;
        let directory = made.map_err(|fault| lost(doing, fault))?;
        let output = self.ran_in(doing, &way, &directory, input, command).await;
        if let Err(fault) = way.files.delete_directory_in_guest(&way.vm, &way.login, &directory, true).await {
            tracing::warn!(%fault, directory, "a directory in the guest was not removed");
        }
        output
    }

    async fn ran_in(
        &self,
        doing: &str,
        way: &Way,
        directory: &str,
        input: Vec<u8>,
        command: &Command,
    ) -> Result<Output> {
        let bad = |fault: Fault| lost(doing, fault);
        self.upload(doing, way, &format!("{directory}/in"), input).await?;
        let mut words = vec!["-c".to_owned(), RUN.to_owned(), directory.to_owned()];
        if !command.env.is_empty() {
            words.push("env".into());
            words.extend(command.env.iter().map(|(key, value)| format!("{key}={value}")));
        }
        words.extend(command.argv.iter().cloned());
        let spec = GuestProgramSpec {
            program_path: "/bin/sh".into(),
            arguments: shell_quote(&words),
            working_directory: None,
            env_variables: None,
        };
        let pid = way.processes.start_program_in_guest(&way.vm, &way.login, &spec).await.map_err(bad)?;
        let (until, mut pause) = (Instant::now() + command.timeout, PAUSE.0);
        loop {
            let known = way.processes.list_processes_in_guest(&way.vm, &way.login, Some(&[pid])).await.map_err(bad)?;
            let known = known.into_iter().flatten().find(|process| process.pid == pid);
            let Some(process) = known else {
                return Err(Error::unknown(doing, "the tools have forgotten its process: they were started again"));
            };
            if process.end_time.is_some() || process.exit_code.is_some() {
                break;
            }
            if Instant::now() >= until {
                let ended = way.processes.terminate_process_in_guest(&way.vm, &way.login, pid).await;
                let ended = if ended.is_ok() { "" } else { ", and could not be ended" };
                return Err(Error::unknown(
                    doing,
                    format!("it ran longer than {} s{ended}", command.timeout.as_secs()),
                ));
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(PAUSE.1);
        }
        let (status, _) = self.download(doing, way, &format!("{directory}/status"), 16).await?;
        let status = std::str::from_utf8(&status).ok().and_then(|text| text.trim().parse().ok());
        let status = status.ok_or_else(|| Error::unknown(doing, "it was ended before it could tell its status"))?;
        let most = match command.stdout {
            Stdout::Capture => command.limit,
            Stdout::File(_) => usize::MAX,
        };
        let (mut stdout, more) = self.download(doing, way, &format!("{directory}/out"), most).await?;
        let (stderr, much) = self.download(doing, way, &format!("{directory}/err"), command.limit).await?;
        if let Stdout::File(path) = &command.stdout {
            write_private(path, &std::mem::take(&mut stdout))
                .await
                .map_err(|error| Error::io(format!("{doing}: write {}", path.display()), error))?;
        }
        Ok(Output { status, stdout, stderr, truncated: more || much })
    }
}

/// A file of the controller's machine that only its owner reads.
async fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use tokio::io::AsyncWriteExt as _;
    let mut options = tokio::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).await?;
    file.write_all(bytes).await?;
    file.flush().await
}

/// What a fault of a guest operation means: a guest that is off, or whose tools do not answer, is a link that is lost.
fn lost(doing: &str, trouble: impl Into<Trouble>) -> Error {
    let trouble = trouble.into();
    let gone = ["GuestOperationsUnavailable", "InvalidPowerState", "OperationNotSupportedByGuest", "ToolsUnavailable"];
    if gone.contains(&trouble.kind) {
        return Error::unknown(doing, format!("its tools cannot be reached: {}", trouble.cause));
    }
    wrong(doing, trouble)
}

#[async_trait]
impl Host for Inside {
    fn name(&self) -> &str {
        &self.uuid
    }
    fn is_local(&self) -> bool {
        false
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        let doing = format!("run {} in {} by its tools", command.program(), self.uuid);
        let begun = Instant::now();
        let output = self.ran(&doing, command).await;
        let tail = |bytes: &[u8]| bytes[bytes.len().saturating_sub(4096)..].to_vec();
        report(&CommandRecord {
            host: self.uuid.clone(),
            argv: command.argv.clone(),
            status: output.as_ref().ok().map(|output| output.status),
            elapsed: begun.elapsed(),
            stdout_tail: output.as_ref().map(|output| tail(&output.stdout)).unwrap_or_default(),
            stderr_tail: output
                .as_ref()
                .map_or_else(|error| error.to_string().into_bytes(), |output| tail(&output.stderr)),
        });
        let output = output?;
        let said = String::from_utf8_lossy(&output.stderr);
        let (program, missing) =
            (command.argv.first().map_or("", String::as_str), ["not found", "No such file or directory"]);
        if output.status == 127 && said.contains(program) && missing.iter().any(|words| said.contains(words)) {
            return Err(Error::not_found(doing, format!("{program} is not installed")));
        }
        Ok(output)
    }
    async fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        files::read(self, path, limit).await
    }
    async fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<Change> {
        files::write(self, path, bytes, mode).await
    }
    async fn job_start(&self, job: &Job) -> Result<Change> {
        job::start(self, Path::new(job::DIRECTORY), job).await
    }
    async fn job_status(&self, id: &str) -> Result<JobStatus> {
        job::status(self, Path::new(job::DIRECTORY), id).await
    }
    async fn job_forget(&self, id: &str) -> Result<Change> {
        job::forget(self, Path::new(job::DIRECTORY), id).await
    }
    async fn job_output(&self, id: &str, from: u64) -> Result<Vec<u8>> {
        job::output(self, Path::new(job::DIRECTORY), id, from).await
    }
}
