//! A conversation by lines with a server that may be hostile: lines and their number are bounded, and what is shown
//! is made printable. Time is bounded by the caller.

use hypervisors::net::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::inside::short;

/// Longest line taken; protocols allow 512 to 8192.
const LINE: usize = 8192;

/// Why an attempt failed: a fragment for the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// What went wrong.
    pub why: String,
    /// Trying again cannot help.
    pub fixed: bool,
}

impl Fault {
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), fixed: false }
    }
    pub fn fixed(why: impl Into<String>) -> Self {
        Self { why: why.into(), fixed: true }
    }
}

impl From<hypervisors::Error> for Fault {
    fn from(error: hypervisors::Error) -> Self {
        Self::new(short(&error.to_string()))
    }
}

/// A stream read by lines.
pub(crate) struct Lines {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl Lines {
    pub fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The next line without its end.
    pub async fn line(&mut self) -> Result<String, Fault> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
            }
            if self.buffer.len() > LINE {
                return Err(Fault::new(format!("sent a line of more than {LINE} bytes")));
            }
            if self.fill().await? == 0 {
                return Err(Fault::new("closed the connection"));
            }
        }
    }

    /// Reads more; 0 at the end.
    pub async fn fill(&mut self) -> Result<usize, Fault> {
        let mut chunk = [0; 4096];
        let count =
            self.stream.read(&mut chunk).await.map_err(|error| Fault::new(format!("connection broke: {error}")))?;
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count)
    }

    /// What has been read and not taken.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    pub async fn send(&mut self, text: &str) -> Result<(), Fault> {
        let broke = |error| Fault::new(format!("connection broke: {error}"));
        self.stream.write_all(text.as_bytes()).await.map_err(broke)?;
        self.stream.flush().await.map_err(broke)
    }

    /// The bare stream, to go on by TLS. What a server sends before TLS must not be taken for something said in TLS.
    pub fn into_stream(self) -> Result<Box<dyn Stream>, Fault> {
        match self.buffer.is_empty() {
            true => Ok(self.stream),
            false => Err(Fault::new("went on in plain text after STARTTLS")),
        }
    }
}
