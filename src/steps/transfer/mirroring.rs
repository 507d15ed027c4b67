//! A file system on its way by rsync: twice over, so that what changed during the long first pass is brought by the short second.

use std::path::{Path, PathBuf};

use hypervisors::transfer::mirror::{Mirror, mirror};
use hypervisors::transfer::pump::Flow;

use super::moving::Moving;
use super::{Moved, Transfer};
use crate::steps::StepError;

/// What one file system's passes brought.
pub(super) struct Mirrored {
    /// The second, by the source's clock, in which the last pass began.
    pub since: i64,
    pub flow: Flow,
    pub told: Vec<String>,
}

/// What rsync's pattern for a path in what it copies has to be (rsync(1), FILTER RULES): anchored, its wildcards meant literally.
fn anchored(below: &Path) -> String {
    let mut pattern = String::from("/");
    for c in below.to_string_lossy().chars() {
        if matches!(c, '*' | '?' | '[' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// rsync's own count, from what it tells at its end: `Total bytes received: 1,234`.
fn received(stats: &str) -> u64 {
    let line = stats.lines().find_map(|line| line.strip_prefix("Total bytes received: "));
    line.and_then(|count| count.replace([',', '.'], "").trim().parse().ok()).unwrap_or(0)
}

/// The command line of one of them, as one would type it here.
pub(super) fn typed(step: &Transfer, moved: &Moved) -> Vec<String> {
    let mount = moved.mount.display().to_string();
    let from = format!("{}@{}:{}/", step.source.user, step.source.address, mount.trim_end_matches('/'));
    let to = format!("{}/", moved.place(&step.root).path().display());
    ["rsync", "-aHAXSx", "--numeric-ids", "--delete", "--", &from, &to].map(str::to_owned).to_vec()
}

impl Moving<'_> {
    /// What lies below a file system and is another one.
    pub(super) fn inside(&self, moved: &Moved) -> Vec<PathBuf> {
        let mounts = self.mounts.iter().map(|mount| &mount.point);
        let all = mounts.chain(self.step.filesystems.iter().map(|other| &other.mount)).chain(&self.step.apart);
        let below =
            all.filter(|point| **point != moved.mount).filter_map(|point| point.strip_prefix(&moved.mount).ok());
        let mut inside: Vec<PathBuf> = below.map(Path::to_owned).collect();
        inside.sort();
        inside.dedup();
        inside
    }

    /// Both passes of one.
    pub(super) async fn mirrored(&self, moved: &Moved) -> Result<Mirrored, StepError> {
        let place = moved.place(&self.step.root);
        let from = moved.mount.to_string_lossy().trim_end_matches('/').to_owned();
        let below = place.below.to_string_lossy().into_owned();
        let shell = self.step.scratch.join(format!("rsync-shell-{}", super::stamp::name(&moved.mount)));
        // Their places are copied, and what is in them is theirs.
        let exclude: Vec<String> = self.inside(moved).iter().map(|path| format!("{}/*", anchored(path))).collect();
        let what = Mirror {
            from: &from,
            root: &place.root,
            below: &below,
            exclude: &exclude,
            backup: None,
            shell: &shell,
            whole: true,
        };
        let begun = std::time::Instant::now();
        let (mut since, mut bytes, mut vanished) = (0, 0, false);
        for pass in ["copying", "copying what changed in"] {
            self.world.progress(format!("{pass} {}", moved.mount.display()), None);
            since = self.now().await?;
            let stats = mirror(self.source, self.target, &what, true).await?;
            bytes += received(&stats);
            vanished |= stats.contains("vanished");
        }
        let mut told = Vec::new();
        if vanished {
            told.push("files vanished on the server while it was copied".to_owned());
        }
        Ok(Mirrored { since, flow: Flow { bytes, elapsed: begun.elapsed(), ..Flow::default() }, told })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_is_named() {
        assert_eq!(anchored(Path::new("var/lib/a b")), "/var/lib/a b");
        assert_eq!(anchored(Path::new("srv/[x]*")), "/srv/\\[x]\\*");
    }

    #[test]
    fn bytes_are_read_as_they_are_told() {
        assert_eq!(received("Number of files: 3\nTotal bytes received: 1,234,567\n"), 1_234_567);
        assert_eq!(received("something else"), 0);
    }
}
