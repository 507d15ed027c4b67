//! What `watch` shows: a table that is drawn anew on a terminal, plain lines when something has changed elsewhere. Pure.

use std::collections::BTreeMap;

use hypervisors::host::printable;
use jiff::Timestamp;

use super::Style;
use super::format::{about, hanging, table, time};
use crate::lifecycle::fill::VolumeInfo;
use crate::lifecycle::watch::{RunWatch, Watching};

/// Number of the newest things done that stay below the table.
const KEPT: usize = 8;
/// In a log a volume is told of again when it has moved by this much, in percent.
const STEP: f64 = 5.0;

/// What was shown before: a log repeats nothing, a table keeps what was done for a while.
#[derive(Debug, Default)]
pub struct Shown {
    warned: BTreeMap<String, Vec<String>>,
    filled: BTreeMap<String, (f64, bool)>,
    done: Vec<String>,
}

/// One look as a table, with what was done and what is wrong below it.
pub fn render(watching: &Watching, shown: &mut Shown, style: Style) -> String {
    for run in &watching.runs {
        let new = run.did.iter().map(|did| format!("{} {}", time(watching.time), printable(&did.text)));
        shown.done.extend(new);
    }
    let from = shown.done.len().saturating_sub(KEPT);
    shown.done.drain(..from);
    let mut text = of_table(watching, style);
    for done in &shown.done {
        text.push_str(&hanging("  ", done));
    }
    for warning in watching.runs.iter().flat_map(told) {
        text.push_str(&hanging("! ", &warning));
    }
    text
}

/// One look as the lines of a log: what was done, what is wrong since this look, and volumes that have filled further.
pub fn lines(watching: &Watching, shown: &mut Shown) -> String {
    let mut text = String::new();
    let mut line = |words: &str| text.push_str(&format!("{}\n", printable(words)));
    for run in &watching.runs {
        for did in &run.did {
            line(&format!("{}: {}", run.run, did.text));
        }
        for volume in run.volumes.iter().filter(|volume| volume.can_fill) {
            let now = (volume.fill_percent.unwrap_or_default(), volume.lost.is_some());
            let moved = shown
                .filled
                .get(&volume.name)
                .is_none_or(|(then, lost)| (now.0 - then).abs() >= STEP || *lost != now.1);
            if moved {
                shown.filled.insert(volume.name.clone(), now);
                let left = volume.full_in_s.map(|left| format!(", full in {}", about(left))).unwrap_or_default();
                line(&format!("{}: {} is {}{left}", run.run, volume.name, fill(volume)));
            }
        }
        let warnings = told(run);
        // Only what it says beside its numbers makes a warning a new one.
        let sense = |text: &String| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
        let before = shown.warned.insert(run.run.clone(), warnings.iter().map(sense).collect()).unwrap_or_default();
        for warning in warnings.iter().filter(|warning| !before.contains(&sense(warning))) {
            line(&format!("{}: warning: {warning}", run.run));
        }
    }
    text
}

fn told(run: &RunWatch) -> Vec<String> {
    run.warnings.iter().chain(&run.trouble).map(|text| printable(text)).collect()
}

fn of_table(watching: &Watching, style: Style) -> String {
    if watching.runs.is_empty() {
        return "no open runs\n".to_owned();
    }
    let mut rows = vec![["GUEST", "VOLUME", "FILL", "AN HOUR", "FULL IN", "NOW"].map(str::to_owned).to_vec()];
    for run in &watching.runs {
        for volume in &run.volumes {
            let name = volume.name.rsplit('/').next().unwrap_or(&volume.name);
            rows.push(vec![
                printable(&run.guest),
                printable(name),
                fill(volume),
                volume.rate_percent_per_h.map_or("-".to_owned(), |rate| format!("{rate:.1} %")),
                volume.full_in_s.map_or("-".to_owned(), about),
                now(run, volume),
            ]);
        }
    }
    let text = table(0, &rows);
    ["LOST", "PAUSED"].iter().fold(text, |text, word| text.replace(word, &style.bad(word)))
}

fn fill(volume: &VolumeInfo) -> String {
    volume.fill_percent.map_or("-".to_owned(), |percent| format!("{percent:.0} %"))
}

fn now(run: &RunWatch, volume: &VolumeInfo) -> String {
    let state = run.state.replace('_', " ");
    if volume.lost.is_some() {
        "LOST: abort cleans up".to_owned()
    } else if run.paused && volume.can_fill {
        "clone PAUSED: no room".to_owned()
    } else if let Some(holder) = &run.holder {
        format!("{state} (process {})", holder.pid)
    } else if !volume.can_fill {
        format!("{state}; cannot fill")
    } else {
        state
    }
}

/// How full the run's volumes were, for `status`: the fullest, and when that was if it is a while ago.
pub fn fullest(volumes: &[VolumeInfo], now: Timestamp) -> String {
    let fullest = volumes.iter().filter(|volume| volume.fill_percent.is_some());
    let fullest =
        fullest.max_by(|a, b| a.fill_percent.partial_cmp(&b.fill_percent).unwrap_or(std::cmp::Ordering::Equal));
    let Some(volume) = fullest else { return "-".to_owned() };
    let old = volume.seen.filter(|seen| now.duration_since(*seen).as_secs() > 900);
    let ago = old.map(|seen| format!(" {} ago", super::format::ago(seen, now))).unwrap_or_default();
    format!("{}{ago}", fill(volume))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::lifecycle::watch::{Action, Did};

    fn volume(percent: f64, left_s: Option<f64>) -> VolumeInfo {
        VolumeInfo {
            name: "/dev/vg1/mercure--k3f9-xvda1".into(),
            fill_percent: Some(percent),
            full_in_s: left_s,
            rate_percent_per_h: left_s.map(|left| (100.0 - percent) / left * 3600.0),
            area_bytes: Some(1 << 30),
            can_fill: true,
            lost: None,
            seen: Some(Timestamp::UNIX_EPOCH),
        }
    }

    fn watching(volume: VolumeInfo, did: &[&str], warnings: &[&str]) -> Watching {
        let mut run = RunWatch::new("mercure--k3f9", "mercure", "upgraded");
        run.volumes = vec![volume];
        run.warnings = warnings.iter().map(|text| (*text).to_owned()).collect();
        let did_it = |text: &&str| Did { action: Action::Extend, volume: None, done: true, text: (*text).to_owned() };
        run.did = did.iter().map(did_it).collect();
        Watching { time: Timestamp::UNIX_EPOCH, runs: vec![run] }
    }

    #[test]
    fn the_table_tells_fill_rate_and_time_left_and_keeps_what_was_done_for_a_while() {
        let mut shown = Shown::default();
        let text = render(
            &watching(volume(61.4, Some(115_800.0)), &["extended it"], &["no room"]),
            &mut shown,
            Style::default(),
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "GUEST    VOLUME               FILL  AN HOUR  FULL IN  NOW");
        assert_eq!(lines[1], "mercure  mercure--k3f9-xvda1  61 %  1.2 %    32 h     upgraded");
        assert!(lines[2].ends_with("extended it") && lines[3] == "! no room", "{text}");
        for _ in 0..20 {
            let text = render(&watching(volume(1.0, None), &["again"], &[]), &mut shown, Style::default());
            assert!(text.lines().count() <= 2 + KEPT && text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
        let empty = Watching::default();
        assert_eq!(render(&empty, &mut Shown::default(), Style::default()), "no open runs\n");
    }

    #[test]
    fn a_lost_or_paused_clone_stands_out() {
        let mut lost = volume(100.0, None);
        lost.lost = Some("full".into());
        let look = |watching: &Watching| render(watching, &mut Shown::default(), Style::default());
        assert!(look(&watching(lost.clone(), &[], &[])).contains("LOST: abort cleans up"));
        let mut paused = watching(volume(93.0, None), &[], &[]);
        paused.runs[0].paused = true;
        assert!(look(&paused).contains("clone PAUSED: no room"));
    }

    #[test]
    fn a_log_repeats_nothing() {
        let mut shown = Shown::default();
        let mut tell = |percent, did: &[&str], warnings: &[&str]| {
            lines(&watching(volume(percent, None), did, warnings), &mut shown)
        };
        assert_eq!(tell(61.0, &[], &[]), "mercure--k3f9: /dev/vg1/mercure--k3f9-xvda1 is 61 %\n");
        assert_eq!(tell(64.0, &[], &[]), "");
        assert!(tell(66.5, &[], &[]).contains("is 66 %"));
        assert!(tell(67.0, &["extended"], &["67 % full and no room"]).lines().count() == 2);
        assert_eq!(tell(68.0, &[], &["68 % full and no room"]), "", "the same trouble");
        tell(68.0, &[], &[]);
        assert!(tell(68.0, &[], &["68 % full and no room"]).contains("warning"), "it came back");
        let hostile = lines(&watching(volume(1.0, None), &["\x1b[2J"], &[]), &mut shown);
        assert!(!hostile.contains('\x1b'), "{hostile:?}");
    }

    #[test]
    fn status_tells_the_fullest_and_when_it_was_seen_if_that_is_a_while_ago() {
        let soon = Timestamp::from_second(60).unwrap();
        assert_eq!(fullest(&[volume(3.0, None), volume(61.0, None)], soon), "61 %");
        assert_eq!(fullest(&[volume(61.0, None)], Timestamp::from_second(7300).unwrap()), "61 % 2 h ago");
        assert_eq!(fullest(&[], soon), "-");
    }
}
