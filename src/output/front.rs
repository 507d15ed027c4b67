//! Who is asked: the person at the terminal, if there is one.

use std::io::{BufRead, IsTerminal, Read};
use std::sync::atomic::{AtomicU8, Ordering};

/// Longest answer that is read (bytes).
const ANSWER: u64 = 1024;

/// Questions to the person at the terminal.
#[derive(Debug, Default)]
pub struct Person {
    /// Exit code of a Ctrl-C while a question waits for its answer; 0: none waits.
    asking: AtomicU8,
}

impl Person {
    /// What a Ctrl-C at this moment ends the program with, if a question waits.
    pub fn interrupt_code(&self) -> Option<u8> {
        Some(self.asking.load(Ordering::Relaxed)).filter(|code| *code != 0)
    }

    /// The word typed after a prompt on standard error; `None` if there is nobody to ask. `code`: what Ctrl-C means.
    pub fn answer(&self, prompt: &str, code: u8) -> Option<String> {
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return None;
        }
        self.asking.store(code, Ordering::Relaxed);
        super::err(prompt);
        super::writer::shown();
        let mut line = String::new();
        let read = std::io::stdin().lock().take(ANSWER).read_line(&mut line);
        self.asking.store(0, Ordering::Relaxed);
        Some(if read.is_ok() { line.trim().to_owned() } else { String::new() })
    }
}
