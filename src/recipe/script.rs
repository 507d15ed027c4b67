//! An upgrade that is a program of the operator's, run in the clone. Its exit status decides. Pure.

use hypervisors::host::printable;

/// The last line a program printed, for progress and for the cause of a failure.
#[derive(Debug, Default)]
pub struct LastLine {
    line: Vec<u8>,
    last: String,
}

impl LastLine {
    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' || byte == b'\r' {
                let text = printable(String::from_utf8_lossy(&self.line).trim());
                if !text.is_empty() {
                    self.last = text.chars().take(200).collect();
                }
                self.line.clear();
            } else if self.line.len() < 4096 {
                self.line.push(byte);
            }
        }
    }
    /// The last finished line that is not empty; empty if there was none.
    pub fn get(&self) -> &str {
        &self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_printable_and_bounded() {
        let mut last = LastLine::default();
        last.feed(b"one\ntw");
        last.feed(b"o\x1b[0m\n\n  \nunfinished");
        assert_eq!(last.get(), "two\u{fffd}[0m");
        last.feed(&vec![b'x'; 1 << 20]);
        last.feed(b"\n");
        assert_eq!(last.get().len(), 200);
    }
}
