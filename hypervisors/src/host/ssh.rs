//! A machine reached by the `ssh` program. One quoting function ([`shell_quote`]) stands between argv and the shell that
//! sshd forces on us; every connection checks the host key and never asks anything.
//!
//! ssh ends with 255 for its own troubles, and so may a command. The command therefore runs under a fixed wrapper that says
//! so on standard error when the 255 is its own; any other 255 is ssh's, and is sorted by its message.

mod trouble;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use trouble::sort;

use super::local::{Call, execute};
use super::quote::{for_any_shell, shell_quote};
use super::{Command, GuestLink, Host, Job, JobStatus, Output, Stream, files, job};
use crate::{Change, Error, Result};

/// A socket's path may have 107 characters (`unix(7)`); ssh adds 17 to the control path while it makes it.
const CONTROL_PATH_MOST: usize = 107 - 17;

/// Runs its arguments; a 255 that is theirs is announced by [`trouble::OWN_255`].
const WRAPPER: &str = "\"$@\" || { s=$?; test $s -ne 255 || echo upgradectl-status-255 >&2; exit $s; }";

/// How a machine is reached.
#[derive(Clone, Debug)]
pub struct SshTarget {
    /// Name for messages and logs.
    pub name: String,
    /// Host name or address (IPv6 without brackets).
    pub address: String,
    /// Port of sshd.
    pub port: u16,
    /// Login name.
    pub user: String,
    /// Private key file; the agent's or default keys if absent.
    pub key: Option<PathBuf>,
    /// Commands are run by `sudo -n`.
    pub sudo: bool,
    /// The only file of host keys that counts; the user's and the system's if absent.
    pub known_hosts: Option<PathBuf>,
    /// The name under which the host key is looked up, instead of the address.
    pub alias: Option<String>,
    /// Directory for control sockets; made with mode 0700 if missing.
    pub control_dir: PathBuf,
    /// Offers the algorithms of sshd before 2014 too.
    pub legacy: bool,
}

/// How a command gets to the machine.
#[derive(Clone, Copy)]
enum Connection {
    /// Through the connection that the others use.
    Shared,
    /// By one of its own: streams would share one cipher's processor and one window, and hold up every small command.
    Own,
}

/// A machine reached by ssh.
#[derive(Clone, Debug)]
pub struct SshHost {
    target: SshTarget,
    jobs: PathBuf,
}

impl SshHost {
    /// A machine to be reached so; nothing is tried yet.
    pub fn new(target: SshTarget) -> Self {
        Self { target, jobs: PathBuf::from(job::DIRECTORY) }
    }
    /// The inside of a running guest.
    pub fn for_guest(link: &GuestLink) -> Self {
        Self::new(SshTarget {
            name: link.name.clone(),
            address: link.address.to_string(),
            port: link.port,
            user: link.user.clone(),
            key: link.key.clone(),
            sudo: link.sudo,
            known_hosts: Some(link.known_hosts.clone()),
            alias: Some(link.name.clone()),
            control_dir: link.control_dir.clone(),
            legacy: link.legacy,
        })
    }
    /// Keeps jobs in another directory there than [`job::DIRECTORY`].
    #[must_use]
    pub fn jobs_in(mut self, directory: impl Into<PathBuf>) -> Self {
        self.jobs = directory.into();
        self
    }
    /// Ends the shared connection, if one is open: before the machine behind the address changes.
    pub async fn disconnect(&self) -> Result<()> {
        let mut argv = self.options()?;
        argv.extend(["-O".to_owned(), "exit".to_owned(), "--".to_owned(), self.target.address.clone()]);
        let command = Command::new(argv).timeout(Duration::from_secs(10));
        // It fails where no connection is open, which is as good.
        execute(&Call { host: &self.target.name, shown: &command.argv, command: &command, local: false })
            .await
            .map(drop)
    }

    /// The argv of a session for a person: the same options, host key and key file as every other connection. Without a
    /// command a login shell; `terminal` asks for one there. Ends as ssh(1) does.
    ///
    /// # Errors
    /// If a path or name cannot be given to ssh.
    pub fn session(&self, command: &[String], terminal: bool) -> Result<Vec<String>> {
        let target = &self.target;
        if target.address.is_empty() || target.address.starts_with('-') || target.user.starts_with('-') {
            return Err(self.unfit("the address or login name"));
        }
        let mut argv = self.options()?;
        argv.retain(|word| word != "-T");
        if terminal {
            argv.push("-t".into());
        }
        argv.extend(["--".to_owned(), target.address.clone()]);
        if !command.is_empty() {
            let sudo = target.sudo.then_some(["sudo", "-n", "--"]).into_iter().flatten().map(str::to_owned);
            argv.push(shell_quote(&sudo.chain(command.iter().cloned()).collect::<Vec<_>>()));
        }
        Ok(argv)
    }

    /// What `rsync -e` wants: `ssh` with its options as one word of words, and the destination to put before `:/path`.
    ///
    /// # Errors
    /// A path or name that cannot be handed over.
    pub fn for_rsync(&self) -> Result<(String, String)> {
        let address = &self.target.address;
        let destination = if address.contains(':') { format!("[{address}]") } else { address.clone() };
        let options = self.options()?;
        // rsync splits by rules of its own, in which an apostrophe cannot be quoted by a backslash.
        match options.iter().find(|word| word.contains('\'')) {
            Some(word) => Err(self.unfit(&format!("{} (an apostrophe, through rsync)", super::printable(word)))),
            None => Ok((shell_quote(&options), destination)),
        }
    }

    /// `ssh` with its options, without the destination.
    fn options(&self) -> Result<Vec<String>> {
        self.options_for(Connection::Shared)
    }
    fn options_for(&self, connection: Connection) -> Result<Vec<String>> {
        let target = &self.target;
        let mut argv: Vec<String> =
            ["ssh", "-T", "-p", &target.port.to_string(), "-l", &target.user].into_iter().map(str::to_owned).collect();
        let mut option = |key: &str, value: &str| argv.extend(["-o".to_owned(), format!("{key}={value}")]);
        for (key, value) in [
            ("BatchMode", "yes"),
            ("StrictHostKeyChecking", "yes"),
            ("ConnectTimeout", "5"),
            ("ServerAliveInterval", "5"),
            ("ServerAliveCountMax", "3"),
            ("LogLevel", "ERROR"),
            ("ClearAllForwardings", "yes"),
            ("ForwardAgent", "no"),
            ("CheckHostIP", "no"),
            ("UpdateHostKeys", "no"),
            ("RemoteCommand", "none"),
        ] {
            option(key, value);
        }
        if let Some(file) = &target.known_hosts {
            option("UserKnownHostsFile", &self.path_value(file)?);
            option("GlobalKnownHostsFile", "/dev/null");
        }
        if let Some(alias) = &target.alias {
            option("HostKeyAlias", &self.word("the host key alias", alias)?);
        }
        if let Some(key) = &target.key {
            option("IdentityFile", &self.path_value(key)?);
            option("IdentitiesOnly", "yes");
        }
        if target.legacy {
            option(
                "KexAlgorithms",
                "+diffie-hellman-group14-sha1,diffie-hellman-group-exchange-sha1,diffie-hellman-group1-sha1",
            );
            option("HostKeyAlgorithms", "+ssh-rsa");
            option("PubkeyAcceptedAlgorithms", "+ssh-rsa");
            option("Ciphers", "+aes128-cbc,aes256-cbc,3des-cbc");
            option("MACs", "+hmac-sha1");
        }
        let shared = match connection {
            Connection::Shared => self.control_path()?,
            Connection::Own => None,
        };
        match shared {
            Some(path) => {
                option("ControlMaster", "auto");
                option("ControlPersist", "30");
                option("ControlPath", &self.path_value(&path)?);
            }
            None => option("ControlPath", "none"),
        }
        Ok(argv)
    }

    /// Where the shared connection listens: one socket per way in. `None` if the directory's name is too long for one.
    fn control_path(&self) -> Result<Option<PathBuf>> {
        let target = &self.target;
        let way = format!(
            "{}\0{}\0{}\0{:?}\0{:?}\0{:?}",
            target.user, target.address, target.port, target.alias, target.known_hosts, target.key
        );
        let digest = Sha256::digest(way.as_bytes());
        let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let path = target.control_dir.join(name);
        if path.as_os_str().len() > CONTROL_PATH_MOST {
            return Ok(None);
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&target.control_dir)
            .map_err(|error| Error::io(format!("create {}", target.control_dir.display()), error))?;
        Ok(Some(path))
    }

    /// A path as the value of an option (`ssh_config(5)`: quoted, `%` doubled).
    fn path_value(&self, path: &Path) -> Result<String> {
        let text = path.to_str().ok_or_else(|| self.unfit(&format!("the path {}", path.display())))?;
        Ok(self.word("a path", text)?.replace('%', "%%"))
    }
    fn word(&self, what: &str, text: &str) -> Result<String> {
        if text.is_empty() || text.contains(['"', '\\']) || text.chars().any(char::is_control) {
            return Err(self.unfit(what));
        }
        Ok(format!("\"{text}\""))
    }
    fn unfit(&self, what: &str) -> Error {
        Error::refused(format!("reach {}", self.target.name), format!("{what} cannot be given to ssh"))
    }

    /// The whole local command for a remote one.
    fn wrap(&self, command: &Command) -> Result<Command> {
        self.wrap_in(command, Connection::Shared)
    }
    fn wrap_in(&self, command: &Command, connection: Connection) -> Result<Command> {
        let target = &self.target;
        let doing = || format!("run {} on {}", super::printable(command.program()), target.name);
        if command.argv.is_empty() {
            return Err(Error::refused(doing(), "the command is empty"));
        }
        if target.address.is_empty() || target.address.starts_with('-') || target.user.starts_with('-') {
            return Err(self.unfit("the address or login name"));
        }
        if command.env.iter().any(|(key, _)| key.is_empty() || key.contains('=') || key.starts_with('-')) {
            return Err(Error::refused(doing(), "it names an impossible variable"));
        }
        let mut remote: Vec<String> = ["sh", "-c", WRAPPER, "sh"].into_iter().map(str::to_owned).collect();
        if target.sudo {
            remote.extend(["sudo", "-n", "--"].into_iter().map(str::to_owned));
        }
        if !command.env.is_empty() {
            remote.push("env".into());
            remote.extend(command.env.iter().map(|(key, value)| format!("{key}={value}")));
        }
        remote.extend(command.argv.iter().cloned());
        let mut argv = self.options_for(connection)?;
        argv.extend(["--".to_owned(), target.address.clone(), for_any_shell(shell_quote(&remote))]);
        Ok(Command { argv, env: Vec::new(), ..command.clone() })
    }
}

#[async_trait]
impl Host for SshHost {
    fn name(&self) -> &str {
        &self.target.name
    }
    fn is_local(&self) -> bool {
        false
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        let wrapped = self.wrap(command)?;
        let call = Call { host: &self.target.name, shown: &command.argv, command: &wrapped, local: false };
        let output = execute(&call).await?;
        sort(&self.target, command.argv.first().map_or("", String::as_str), output)
    }
    async fn stream(&self, command: &Command) -> Result<Stream> {
        let wrapped = self.wrap_in(command, Connection::Own)?;
        let (target, program) = (self.target.clone(), command.argv.first().cloned().unwrap_or_default());
        Stream::start(
            &Call { host: &self.target.name, shown: &command.argv, command: &wrapped, local: false },
            Box::new(move |output| sort(&target, &program, output)),
        )
    }
    async fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        files::read(self, path, limit).await
    }
    async fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<Change> {
        files::write(self, path, bytes, mode).await
    }
    async fn job_start(&self, job: &Job) -> Result<Change> {
        job::start(self, &self.jobs, job).await
    }
    async fn job_status(&self, id: &str) -> Result<JobStatus> {
        job::status(self, &self.jobs, id).await
    }
    async fn job_forget(&self, id: &str) -> Result<Change> {
        job::forget(self, &self.jobs, id).await
    }
    async fn job_output(&self, id: &str, from: u64) -> Result<Vec<u8>> {
        job::output(self, &self.jobs, id, from).await
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target() -> SshTarget {
        SshTarget {
            name: "mercure".into(),
            address: "fd00::5".into(),
            port: 2222,
            user: "root".into(),
            key: None,
            sudo: false,
            known_hosts: Some("/var/lib/with blank%/known".into()),
            alias: Some("mercure--k3f9".into()),
            control_dir: std::env::temp_dir().join("upgradectl-test-control"),
            legacy: false,
        }
    }
    fn gave(status: i32, stderr: &str) -> Result<Output> {
        let mut target = target();
        target.sudo = true;
        sort(&target, "dpkg", Output { status, stderr: stderr.into(), ..Output::default() })
    }

    /// Words made of what shells act upon.
    fn sharp() -> impl Strategy<Value = String> {
        let parts = [
            "a",
            " ",
            "'",
            "\"",
            "\\",
            "$",
            "`",
            "$(touch canary)",
            ";",
            "&&",
            "|",
            "\n",
            "*",
            "?",
            "[x]",
            "~",
            "#",
            "=",
            "-rf",
            "--",
            "../",
            "{a,b}",
            "!x",
            "<",
            ">",
            "\u{7f}",
            "\u{202e}",
            "é",
            "\t",
            "\r",
        ];
        proptest::collection::vec(proptest::sample::select(parts.to_vec()), 0..6).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// The whole way: what sshd gives the login shell there, through the wrapper and `env`, is the command's argv again.
        #[test]
        fn what_the_shell_there_runs_is_the_command(words in proptest::collection::vec(sharp(), 0..6), value in sharp()) {
            let place = tempfile::tempdir().unwrap();
            let mut argv = vec!["printf".to_owned(), "%s\\0".to_owned(), "first".to_owned()];
            argv.extend(words.iter().cloned());
            let command = Command::new(argv).env("UPGRADECTL_TEST", &value);
            let line = SshHost::new(target()).wrap(&command).unwrap().argv.pop().unwrap();
            for shell in ["sh", "bash"] {
                let Ok(output) = std::process::Command::new(shell).arg("-c").arg(&line).current_dir(place.path()).output() else {
                    continue;
                };
                let expected: String = std::iter::once("first").chain(words.iter().map(String::as_str)).map(|word| format!("{word}\0")).collect();
                prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{} of {}", line, shell);
                prop_assert!(output.stderr.is_empty());
                prop_assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "a word was run");
            }
            let line = SshHost::new(target()).wrap(&Command::new(["printenv", "UPGRADECTL_TEST"]).env("UPGRADECTL_TEST", &value)).unwrap();
            let output = std::process::Command::new("sh").arg("-c").arg(line.argv.last().unwrap()).output().unwrap();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{value}\n"));
        }

        /// Bytes that are any text at all.
        #[test]
        fn any_text_is_one_word(words in proptest::collection::vec(any::<String>().prop_map(|word| word.replace('\0', "")), 1..4)) {
            let line = format!("printf '%s\\0' {}", shell_quote(&words));
            let output = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
            let expected: String = words.iter().map(|word| format!("{word}\0")).collect();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
        }
    }

    #[test]
    fn what_rsync_could_not_split_again_is_refused() {
        assert!(SshHost::new(target()).for_rsync().is_ok());
        let target = SshTarget { known_hosts: Some("/var/lib/it's/known".into()), ..target() };
        let error = SshHost::new(target).for_rsync().unwrap_err();
        assert!(error.to_string().contains("apostrophe"), "{error}");
    }

    #[test]
    fn an_assignment_is_no_assignment_once_quoted() {
        assert_eq!(shell_quote(&["A=b", "x"]), "'A=b' x");
    }

    #[test]
    fn the_command_line_checks_keys_and_asks_nothing() {
        let mut host = SshHost::new(target());
        host.target.sudo = true;
        let line = host.wrap(&Command::new(["id", "a b"]).env("K", "v w")).unwrap().argv;
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "UserKnownHostsFile=\"/var/lib/with blank%%/known\"",
            "GlobalKnownHostsFile=/dev/null",
            "HostKeyAlias=\"mercure--k3f9\"",
        ] {
            assert!(line.iter().any(|word| word == option), "{option} is not in {line:?}");
        }
        assert_eq!(&line[line.len() - 3..line.len() - 1], ["--", "fd00::5"]);
        assert!(line[line.len() - 1].ends_with("sh sudo -n -- env 'K=v w' id 'a b'"));
    }

    #[test]
    fn a_long_control_directory_means_no_shared_connection() {
        let mut target = target();
        target.control_dir = std::env::temp_dir().join("x".repeat(90));
        assert!(SshHost::new(target).control_path().unwrap().is_none());
    }

    #[test]
    fn options_cannot_be_smuggled_in() {
        for (address, user, alias) in [("-oProxyCommand=x", "root", "a"), ("h", "-x", "a"), ("h", "root", "a\"b")] {
            let target =
                SshTarget { address: address.into(), user: user.into(), alias: Some(alias.into()), ..target() };
            let error = SshHost::new(target).wrap(&Command::new(["id"])).unwrap_err();
            assert!(matches!(error.cause, Cause::Refused(_)));
        }
    }

    /// Messages of OpenSSH 9.2 (Debian 12), sudo 1.9.13, dash 0.5.12 and bash 5.2.
    #[test]
    fn failures_are_sorted() {
        for (status, stderr) in [
            (255, "Host key verification failed.\n"),
            (255, "root@10.0.0.9: Permission denied (publickey).\n"),
            (255, "ssh: Could not resolve hostname nowhere: Name or service not known\n"),
            (1, "sudo: a password is required\n"),
        ] {
            let error = gave(status, stderr).unwrap_err();
            assert!(matches!(error.cause, Cause::Refused(_)) && error.help.is_some(), "{stderr}");
        }
        for stderr in [
            "ssh: connect to host 10.0.0.9 port 22: Connection refused\n",
            "ssh: connect to host 10.0.0.9 port 22: No route to host\n",
            "client_loop: send disconnect: Broken pipe\r\n",
            "",
        ] {
            assert!(gave(255, stderr).unwrap_err().is_unknown(), "{stderr}");
        }
        let own = gave(255, "mine\nupgradectl-status-255\n").unwrap();
        assert_eq!((own.status, own.stderr.as_slice()), (255, &b"mine\n"[..]));
        for (status, stderr) in [
            (127, "sh: 1: dpkg: not found\n"),
            (127, "sh: line 1: dpkg: command not found\n"),
            (127, "env: 'dpkg': No such file or directory\n"),
            (1, "sudo: dpkg: command not found\n"),
        ] {
            let error = match gave(status, stderr) {
                Err(error) => error,
                Ok(_) => panic!("{stderr}"),
            };
            assert!(matches!(error.cause, Cause::NotFound(_)), "{stderr}");
        }
        assert_eq!(gave(127, "sh: 1: other: not found\n").unwrap().status, 127);
        assert_eq!(gave(1, "dpkg: error: dpkg frontend lock was not found\n").unwrap().status, 1);
    }
}
