//! Looking at the platform for `status --live`, and the way into a run's guest.

use hypervisors::GuestLink;
use jiff::Timestamp;

use super::app::App;
use super::error::{Failure, exit};
use super::fill::Seen;
use super::query::StatusLine;
use super::record::RunFacts;
use super::state::State;
use crate::journal::RunRecord;

impl App {
    /// Adds what the platform says now to a line of `status`. What cannot be asked is told in the line itself.
    pub async fn look(&self, run: &RunRecord, line: &mut StatusLine) {
        if let Err(Failure(error)) = self.try_look(run, line).await {
            line.trouble = Some(format!("cannot {}: {}", error.message, error.causes.join(": ")));
        }
    }

    async fn try_look(&self, run: &RunRecord, line: &mut StatusLine) -> Result<(), Failure> {
        let facts: RunFacts = serde_json::from_value(run.facts.clone())?;
        let sides = self.sides(&facts)?;
        let link = link(run, &facts);
        let hypervisor = if link.name == facts.original.name { sides.production } else { sides.clone };
        line.clone.power = Some(hypervisor.power(&link.name).await?);
        if facts.transfer.is_some() {
            // A tree has no area of its own that could fill.
            return Ok(());
        }
        let (mut seen, now) = (Seen::read(&facts.run_dir), Timestamp::now());
        let mut volumes = Vec::new();
        for volume in facts.disks.iter().filter_map(|disk| disk.target.as_ref()) {
            let found = hypervisor.storage(volume.kind)?.inspect(volume).await?;
            seen.note(&volume.to_string(), found.as_ref(), now);
            volumes.push(seen.info(&volume.to_string()));
        }
        line.volumes = volumes;
        Ok(())
    }

    /// A link with the address that the guest has now.
    ///
    /// # Errors
    /// If it is not found.
    pub async fn found(&self, run: &RunRecord, link: GuestLink) -> Result<GuestLink, Failure> {
        let facts: RunFacts = serde_json::from_value(run.facts.clone())?;
        let hypervisor = self.sides(&facts)?.clone;
        let address = hypervisors::net::address(&*hypervisor.net(), &link).await?;
        Ok(GuestLink { address, by: None, ..link })
    }
}

/// The way into the clone (or the promoted guest, which it has become).
fn link<'a>(run: &RunRecord, facts: &'a RunFacts) -> &'a GuestLink {
    match State::parse(&run.state) {
        Some(State::Promoted | State::Committing | State::Committed) => &facts.original,
        _ => &facts.clone,
    }
}

/// The way into the clone of a run, or into its original.
///
/// # Errors
/// If the original is not running: the clone has taken its place.
pub fn way_in(run: &RunRecord, original: bool) -> Result<GuestLink, Failure> {
    let facts: RunFacts = serde_json::from_value(run.facts.clone())?;
    let link = link(run, &facts);
    if original && link.name == facts.original.name {
        // A server that became a jail has not gone.
        if let Some(parked) = facts.transfer.as_ref().and_then(|transfer| transfer.server.parking.clone()) {
            return Ok(parked);
        }
        return Err(Failure::new(exit::STATE, format!("reach the original of {}", run.guest))
            .cause("it is stopped: the clone has taken its place")
            .help(format!("upgradectl ssh {} leads to the promoted guest", run.guest)));
    }
    Ok(if original { facts.original.clone() } else { link.clone() })
}
