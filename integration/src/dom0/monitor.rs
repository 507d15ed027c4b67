//! qemu's monitor: QMP over a socket in the lab's directory (qemu-qmp-ref(7)), one command per connection.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// How long qemu may take for an answer: it answers at once unless the machine is overwhelmed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Executes one command: `ask(socket, "query-status", json!({}))`; its `return`.
///
/// # Errors
/// Nobody answers, or qemu refuses; its words are in the error.
pub fn ask(socket: &Path, command: &str, arguments: Value) -> Result<Value> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("qemu's monitor {}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    // The greeting; then negotiation must come first.
    read(&mut answers)?;
    write(&mut stream, &json!({ "execute": "qmp_capabilities" }))?;
    answer(&mut answers, "qmp_capabilities")?;
    write(&mut stream, &json!({ "execute": command, "arguments": arguments }))?;
    answer(&mut answers, command)
}

/// A command of the human monitor, for what QMP has no command of its own; what it prints.
///
/// # Errors
/// As [`ask`].
pub fn human(socket: &Path, line: &str) -> Result<String> {
    let answer = ask(socket, "human-monitor-command", json!({ "command-line": line }))?;
    answer.as_str().map(str::to_owned).with_context(|| format!("an answer to {line}: {answer}"))
}

/// The host's port that is forwarded to the guest's, from `info usernet`: connections in state `HOST_FORWARD`.
pub fn forwarded_port(usernet: &str, guest_port: u16) -> Option<u16> {
    usernet.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Protocol[State] FD Source Port Dest. Port RecvQ SendQ
        let [state, _, _, port, _, to, ..] = fields.as_slice() else { return None };
        (state.contains("HOST_FORWARD") && to.parse() == Ok(guest_port)).then(|| port.parse().ok())?
    })
}

fn write(stream: &mut UnixStream, value: &Value) -> Result<()> {
    stream.write_all(format!("{value}\n").as_bytes()).context("writing to qemu's monitor")
}

fn read(answers: &mut BufReader<UnixStream>) -> Result<Value> {
    let mut line = String::new();
    let count = answers.read_line(&mut line).context("reading from qemu's monitor")?;
    anyhow::ensure!(count > 0, "qemu closed its monitor");
    serde_json::from_str(&line).with_context(|| format!("qemu's monitor said {line:?}"))
}

/// The answer to a command; events may come before it.
fn answer(answers: &mut BufReader<UnixStream>, command: &str) -> Result<Value> {
    loop {
        let mut said = read(answers)?;
        if let Some(error) = said.get("error") {
            bail!("qemu refuses {command}: {error}");
        }
        if let Some(value) = said.get_mut("return") {
            return Ok(value.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forwarded_port_is_read_from_what_qemu_prints() {
        let printed = "Hub -1 (n0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  TCP[ESTABLISHED]  13       127.0.0.1 4000       10.0.2.15    22     0     0\r\n  TCP[HOST_FORWARD]  12       127.0.0.1 35805       10.0.2.15    22     0     0\r\n";
        assert_eq!(forwarded_port(printed, 22), Some(35805));
        assert_eq!(forwarded_port(printed, 80), None);
    }
}
