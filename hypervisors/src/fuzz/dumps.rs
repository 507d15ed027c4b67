//! What a server and its dump say: whatever it is, it can be shown, and nothing but the words for it makes it a success.

use std::path::Path;

use super::{shown, text};
use crate::transfer::said::{DumpSaid, RestoreSaid, verdict};
use crate::transfer::{Dialect, DumpLine, Since, System, df, table};

pub(super) fn said(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    for snapshot in [false, true] {
        let (mut dump, mut restore) = (DumpSaid::new(snapshot), RestoreSaid::new(snapshot));
        for line in text.lines() {
            dump.hear(line);
            restore.hear(line);
        }
        if let Some(date) = dump.date() {
            shown(date);
        }
        assert!(dump.fraction().is_none_or(|fraction| (0.0..=1.0).contains(&fraction)));
        let done = text.lines().any(|line| line.contains("DUMP IS DONE"));
        match verdict(&dump, 0, &RestoreSaid::new(snapshot), 0) {
            Ok(told) => {
                assert!(done, "a success without its words");
                told.iter().for_each(|line| shown(line));
            }
            Err(failure) => shown(&failure.why),
        }
        for status in [1, 3, 127] {
            assert!(verdict(&DumpSaid::new(snapshot), status, &restore, 0).is_err());
            assert!(verdict(&dump, 0, &restore, status).is_err());
        }
    }
}

pub(super) fn tables(bytes: &[u8], _: &Path) {
    for mount in table(bytes) {
        assert!(!mount.device.is_empty() && !mount.kind.is_empty());
    }
    let text = text(bytes);
    df(&text);
    for system in [System::Freebsd, System::Linux] {
        for release in ["4.7-RELEASE", "13.2-RELEASE", &text] {
            let dialect = Dialect::of(system, release, &text);
            let dump =
                DumpLine { dialect: &dialect, level: 0, device: "/dev/da0", snapshot: true, since: Since::Nothing };
            let argv = dump.argv();
            assert_eq!(argv.iter().any(|word| word == "-L"), system == System::Freebsd && dialect.snapshot);
            assert_eq!(argv.last().map(String::as_str), Some("/dev/da0"));
        }
    }
}
