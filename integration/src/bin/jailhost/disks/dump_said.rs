//! What FreeBSD's `dump` says where Linux's says something else.

use std::io::BufRead;

use super::dump_asked::Asked;
use super::dumpdates;
use super::filesystems::Filesystem;
use super::time::{self, Time};
use crate::host::Host;
use crate::say;

/// A line of dump's.
pub fn message(text: &str) {
    say::err(&format!("  DUMP: {text}\n"));
}

/// Says what FreeBSD says while Linux's dump says what it says.
pub struct Told<'a> {
    host: &'a Host,
    asked: &'a Asked,
    of: &'a Filesystem,
    snapshot: Option<u64>,
    base: Option<(u8, String)>,
    output: String,
    dates: String,
    began: String,
    began_at: i64,
}

impl<'a> Told<'a> {
    /// What is known before it begins.
    pub fn new(
        host: &'a Host,
        asked: &'a Asked,
        of: &'a Filesystem,
        snapshot: Option<u64>,
        base: Option<(u8, String)>,
        output: String,
        dates: String,
    ) -> Self {
        Self { host, asked, of, snapshot, base, output, dates, began: Time::now().text(), began_at: time::now() }
    }

    /// Everything Linux's dump says.
    pub fn all(mut self, said: impl BufRead) -> Self {
        for line in said.lines().map_while(Result::ok) {
            match line.strip_prefix("  DUMP: ") {
                Some(text) => self.one(text),
                None => say::err(&format!("{line}\n")),
            }
        }
        self
    }

    /// One line of it.
    pub fn one(&mut self, text: &str) {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["Date", "of", "this", ..] => {
                if let (Some((_, date)), true) =
                    (text.split_once("dump: "), self.began_at > 0 && !text.contains("completed"))
                {
                    self.began = date.to_owned();
                    self.head();
                    self.began_at = -self.began_at;
                }
            }
            ["mapping", "(Pass", "I)", ..] => {
                message(text);
                if let Some(cache) = self.asked.cache {
                    message(&format!("Cache {cache} MB, blocksize = 65536"));
                }
            }
            ["mapping" | "dumping", "(Pass", ..] | ["Broken", "pipe"] | ["The", "ENTIRE", "dump", "is", "aborted."] => {
                message(text)
            }
            ["estimated", blocks, ..] => {
                let tapes = blocks.parse::<f64>().unwrap_or(0.0) / 39_000.0;
                let on = if self.asked.auto { String::new() } else { format!(" on {tapes:.2} tape(s)") };
                message(&format!("estimated {blocks} tape blocks{on}."));
            }
            [blocks, "blocks", ..] if self.asked.file.is_some() || self.asked.pipe.is_some() => {
                let on = if self.output == "-" || self.asked.pipe.is_some() { "" } else { " on 1 volume" };
                message(&format!("DUMP: {blocks} tape blocks{on}"));
            }
            ["finished", "in", seconds, "seconds,", "throughput", rate, ..] => {
                message(&format!("finished in {seconds} seconds, throughput {rate} KBytes/sec"));
            }
            ["finished", "in", "less", ..] => message(text),
            // `12.34% done at 1234 kB/s, finished in 0:18`: FreeBSD says when instead of how fast.
            [percent, "done", "at", _, "kB/s,", "finished", "in", left] => {
                let (hours, minutes) = left.split_once(':').unwrap_or(("0", left));
                let seconds = hours.parse::<i64>().unwrap_or(0) * 3600 + minutes.parse::<i64>().unwrap_or(0) * 60;
                message(&format!("{percent} done, finished in {left} at {}", Time::of(time::now() + seconds).text()));
            }
            ["Dumping" | "Label:" | "Writing" | "Volume" | "Closing" | "Average" | "DUMP", ..]
            | ["Date", "of", "last", ..]
            | ["Date", "this", ..] => {}
            ["Excluding", ..] => {}
            _ => message(text),
        }
    }

    /// The first lines.
    pub fn head(&self) {
        let level = self.asked.level;
        message(&format!("Date of this level {level} dump: {}", self.began));
        let (last, date) = self.base.clone().unwrap_or((0, "the epoch".to_owned()));
        message(&format!("Date of last level {last} dump: {date}"));
        let what = if self.snapshot.is_some() { "snapshot of " } else { "" };
        let to = match (&self.asked.pipe, self.output.as_str()) {
            (Some(pipe), _) => pipe.clone(),
            (None, "-") => "standard output".to_owned(),
            (None, file) => self.host.pretended(file),
        };
        message(&format!("Dumping {what}{} ({}) to {to}", self.of.device, self.of.mountpoint));
    }

    /// The last lines of a dump that went well.
    pub fn end(&self) {
        if self.asked.update {
            message(&format!("level {} dump on {}", self.asked.level, self.began));
            dumpdates::note(self.host, &self.dates, &self.of.device, self.asked.level, &self.began);
        }
        if self.output != "-" && self.asked.pipe.is_none() {
            message(&format!("Closing {}", self.host.pretended(&self.output)));
        }
        message("DUMP IS DONE");
    }
}
