//! What a stand-in prints, and how it gives up. A fault can end the program after so many bytes of output.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static NAME: OnceLock<&'static str> = OnceLock::new();
/// How many bytes may still go to the standard output; `u64::MAX` is without end.
static LEFT: AtomicU64 = AtomicU64::new(u64::MAX);

/// Under which name messages are printed.
pub fn i_am(name: &'static str) {
    NAME.get_or_init(|| name);
}

/// The name of the program that runs.
pub fn name() -> &'static str {
    NAME.get().copied().unwrap_or("jailhost")
}

/// From now on the program ends by SIGKILL after so many bytes on the standard output.
pub fn die_after(bytes: u64) {
    LEFT.store(bytes, Ordering::SeqCst);
}

/// Whether [`die_after`] was called: who hands the standard output to another program has to stay in between.
pub fn is_counted() -> bool {
    LEFT.load(Ordering::SeqCst) != u64::MAX
}

/// Bytes to the standard output. An error is a reader that went away, which is the caller's business.
///
/// # Errors
/// As `write(2)`.
pub fn bytes(bytes: &[u8]) -> std::io::Result<()> {
    let left = LEFT.load(Ordering::SeqCst);
    let mut out = std::io::stdout().lock();
    if (bytes.len() as u64) < left {
        if left != u64::MAX {
            LEFT.store(left - bytes.len() as u64, Ordering::SeqCst);
        }
        out.write_all(bytes)?;
        return out.flush();
    }
    let _ = out.write_all(&bytes[..usize::try_from(left).unwrap_or(bytes.len())]);
    let _ = out.flush();
    kill_myself()
}

/// Text to the standard output; a reader that went away ends the program as SIGPIPE does.
pub fn out(text: &str) {
    if bytes(text.as_bytes()).is_err() {
        std::process::exit(141);
    }
}

/// Text to the standard error.
pub fn err(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// `PROGRAM: text` on the standard error, and the status 1, as err(3) does.
pub fn wrong(text: &str) -> u8 {
    err(&format!("{}: {text}\n", name()));
    1
}

/// What getopt(3) says of a letter it does not know, then the usage; the status 1 (64 where the real program says so).
pub fn illegal(option: char, usage: &str) -> u8 {
    err(&format!("{}: illegal option -- {option}\n{usage}", name()));
    1
}

/// What the real program has and the stand-in does not: said plainly, and never taken for an answer of the real one.
pub fn not_played(what: &str) -> u8 {
    err(&format!("jailhost: {}: {what} is documented but not played by the stand-in\n", name()));
    70
}

/// Ends this program as a power cut would.
pub fn kill_myself() -> ! {
    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    std::process::abort()
}

/// The words the C library of FreeBSD has for an error where Linux has others.
pub fn reason(wrong: &std::io::Error) -> String {
    match wrong.raw_os_error() {
        Some(6) => "Device not configured".to_owned(),
        _ => {
            let text = wrong.to_string();
            text.split(" (os error").next().unwrap_or_default().to_owned()
        }
    }
}
