//! What the checks gave: verdicts, the table for people, JSON, JUnit XML.

use std::fmt::Write as _;
use std::net::IpAddr;

use hypervisors::host::printable;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::Side;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Passed,
    /// Not as it should be.
    Failed,
    /// Needs a service that is quarantined on the clone; runs right after promotion.
    Held,
    /// Cannot be made before promotion.
    Later,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Name of the check.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was seen, or why not; printable.
    pub detail: String,
    /// What the baseline has, if it has something: `answered in 3 ms`.
    pub baseline: Option<String>,
    /// How long it took, retries included, in seconds.
    pub elapsed_s: f64,
}

/// The results of one round of checks, in the order of the checks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Format of this record, 1.
    pub schema: u32,
    /// What was checked: the run's or the guest's name.
    pub name: String,
    /// Where.
    pub address: IpAddr,
    /// Which of the pair.
    pub side: Side,
    /// When the round began.
    pub time: Timestamp,
    /// When the baseline was taken.
    pub baseline_time: Option<Timestamp>,
    /// The results.
    pub checks: Vec<CheckResult>,
    /// How long the round took, in seconds.
    pub elapsed_s: f64,
}

/// Columns of a terminal line.
const WIDTH: usize = 80;

impl Report {
    /// How many checks came out so.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }

    /// No check failed.
    pub fn passed(&self) -> bool {
        self.count(Verdict::Failed) == 0
    }

    /// `3 failed, 1 passed, 1 held, 1 later`; what there is none of is left out.
    pub fn summary(&self) -> String {
        let words = [
            (Verdict::Failed, "failed"),
            (Verdict::Passed, "passed"),
            (Verdict::Held, "held"),
            (Verdict::Later, "later"),
        ];
        let parts: Vec<String> = words
            .iter()
            .map(|(verdict, word)| (self.count(*verdict), word))
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        if parts.is_empty() { "no checks".into() } else { parts.join(", ") }
    }

    /// The page for people, times in the zone of this machine; without the summary line.
    pub fn table(&self) -> String {
        self.table_in(&TimeZone::system())
    }

    /// The page for people, times in a zone: passed first, then failed, held and later.
    pub fn table_in(&self, zone: &TimeZone) -> String {
        let against = match self.baseline_time {
            Some(time) => {
                let time = time.to_zoned(zone.clone()).strftime("%-d %b %H:%M").to_string();
                format!(" against the baseline of {time}")
            }
            None => String::new(),
        };
        let title = format!("Verify {} at {}{against}", printable(&self.name), self.address);
        let mut text = wrap(&title, WIDTH).join("\n  ");
        text.push_str("\n\n");
        let longest = self.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
        let names = longest.clamp(14, 24);
        let mut ordered: Vec<&CheckResult> = self.checks.iter().collect();
        ordered.sort_by_key(|check| check.verdict);
        for check in ordered {
            let word = match check.verdict {
                Verdict::Passed => "passed",
                Verdict::Failed => "FAILED",
                Verdict::Held => "held",
                Verdict::Later => "later",
            };
            let name = printable(&check.name);
            let mut head = format!("  {word:<6}  {name:<names$}  ");
            let indent = 2 + 6 + 2 + names + 2;
            if name.chars().count() > names {
                head = format!("{}\n{:indent$}", head.trim_end(), "");
            }
            let detail = wrap(&printable(&check.detail), WIDTH - indent).join(&format!("\n{:indent$}", ""));
            let _ = writeln!(text, "{}", format!("{head}{detail}").trim_end());
        }
        text
    }

    /// JUnit XML, as continuous integration reads it. `held` and `later` are skipped tests.
    pub fn junit(&self) -> String {
        let skipped = self.count(Verdict::Held) + self.count(Verdict::Later);
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{skipped}\" time=\"{:.3}\" timestamp=\"{}\">",
            escape(&self.name),
            self.checks.len(),
            self.count(Verdict::Failed),
            self.elapsed_s,
            self.time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        );
        for check in &self.checks {
            let (kind, name, detail) = (escape(&check.kind), escape(&check.name), escape(&check.detail));
            let _ = write!(xml, "    <testcase classname=\"{kind}\" name=\"{name}\" time=\"{:.3}\"", check.elapsed_s);
            let _ = match check.verdict {
                Verdict::Passed => {
                    writeln!(xml, ">\n      <system-out>{detail}</system-out>\n    </testcase>")
                }
                Verdict::Failed => writeln!(xml, ">\n      <failure message=\"{detail}\"/>\n    </testcase>"),
                Verdict::Held => writeln!(xml, ">\n      <skipped message=\"held: {detail}\"/>\n    </testcase>"),
                Verdict::Later => writeln!(xml, ">\n      <skipped message=\"later: {detail}\"/>\n    </testcase>"),
            };
        }
        xml.push_str("  </testsuite>\n</testsuites>\n");
        xml
    }
}

/// Text for XML: no markup, no characters that XML 1.0 forbids.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Breaks at spaces; a word longer than a line is broken anywhere.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut length = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let mut word: Vec<char> = word.chars().collect();
        if length > 0 && length + 1 + word.len() > width {
            lines.push(String::new());
            length = 0;
        }
        while word.len() > width {
            let rest = word.split_off(width);
            if let Some(line) = lines.last_mut() {
                line.extend(word);
            }
            lines.push(String::new());
            word = rest;
        }
        if let Some(line) = lines.last_mut() {
            if length > 0 {
                line.push(' ');
                length += 1;
            }
            length += word.len();
            line.extend(word);
        }
    }
    lines
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn report() -> Report {
        let check = |name: &str, verdict, detail: &str| CheckResult {
            name: name.into(),
            kind: name.into(),
            verdict,
            detail: detail.into(),
            baseline: None,
            elapsed_s: 0.5,
        };
        Report {
            schema: 1,
            name: "mercure--k3f9".into(),
            address: "10.0.5.16".parse().unwrap(),
            side: Side::Clone,
            time: "2026-11-22T22:31:00Z".parse().unwrap(),
            baseline_time: Some("2026-11-22T21:04:00Z".parse().unwrap()),
            checks: vec![
                check("ssh", Verdict::Passed, "expected host key"),
                check("imap", Verdict::Failed, "10.0.5.16:143 refused; the original answered in 3 ms"),
                check("smtp", Verdict::Held, "postfix is quarantined; runs after promotion"),
                check("mailbox", Verdict::Later, "when = \"promoted\""),
                check(
                    "units",
                    Verdict::Failed,
                    "dovecot.service failed: unknown setting in /etc/dovecot/conf.d/10-mail.conf",
                ),
                check("baseline", Verdict::Failed, "not listening: 110, 143 (25 is held)"),
            ],
            elapsed_s: 31.25,
        }
    }

    /// interface.md §4, as printed there.
    #[test]
    fn the_table_looks_as_promised() {
        let wanted = "\
Verify mercure--k3f9 at 10.0.5.16 against the baseline of 22 Nov 21:04

  passed  ssh             expected host key
  FAILED  imap            10.0.5.16:143 refused; the original answered in 3 ms
  FAILED  units           dovecot.service failed: unknown setting in
                          /etc/dovecot/conf.d/10-mail.conf
  FAILED  baseline        not listening: 110, 143 (25 is held)
  held    smtp            postfix is quarantined; runs after promotion
  later   mailbox         when = \"promoted\"
";
        assert_eq!(report().table_in(&TimeZone::UTC), wanted);
        assert_eq!(report().summary(), "3 failed, 1 passed, 1 held, 1 later");
    }

    #[test]
    fn nothing_exceeds_the_line_or_reaches_the_terminal() {
        let mut report = report();
        report.checks[0].detail = format!("{} \u{1b}[2J {}", "x".repeat(200), "wörd ".repeat(50));
        report.checks[1].name = "a name of forty characters, which is all".into();
        let table = report.table_in(&TimeZone::UTC);
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        assert!(!table.contains('\u{1b}'));
    }

    #[test]
    fn junit_is_escaped() {
        let mut report = report();
        report.checks.truncate(4);
        report.checks[1].detail = "<b>\"&'\u{1b}\u{0}\u{ffff}".into();
        insta::assert_snapshot!(report.junit());
    }

    #[test]
    fn json_keeps_everything() {
        let text = serde_json::to_string(&report()).unwrap();
        assert!(text.contains("\"verdict\":\"failed\"") && text.contains("\"elapsed_s\":31.25"), "{text}");
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report());
    }
}
