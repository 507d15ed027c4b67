//! Renews leased changes beside the verb that made them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hypervisors::{Host, Hypervisor};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Leased, Renewal};
use crate::steps::World;

/// What cannot be renewed is tried again so often, at least.
const AGAIN: Duration = Duration::from_secs(10);

/// Renews what it was told to hold, each at a third of its time, until it is told to let go or is dropped. Trouble is told,
/// never fatal: what is not renewed is taken back, no worse.
pub struct Keeper {
    held: Mutex<BTreeMap<String, JoinHandle<()>>>,
    tell: Arc<dyn Fn(String) + Send + Sync>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.held().keys()).finish()
    }
}

impl Keeper {
    /// Holds nothing yet; warnings go to `tell`.
    pub fn new(tell: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self { held: Mutex::default(), tell: Arc::new(tell) }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, JoinHandle<()>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews it from now on.
    pub(super) fn hold(&self, leased: &Leased, world: &World) {
        let care = Care {
            leased: leased.clone(),
            hypervisors: world.hypervisors.clone(),
            controller: world.controller.clone(),
            run: world.run.clone(),
            tell: Arc::clone(&self.tell),
        };
        let before = self.held().insert(leased.id(&world.run), tokio::spawn(care.take()));
        if let Some(before) = before {
            before.abort();
        }
    }

    /// Renews it no more.
    pub(super) fn let_go(&self, id: &str) {
        if let Some(care) = self.held().remove(id) {
            care.abort();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        for care in self.held().values() {
            care.abort();
        }
    }
}

/// The care for one change.
struct Care {
    leased: Leased,
    hypervisors: BTreeMap<String, Arc<dyn Hypervisor>>,
    controller: Arc<dyn Host>,
    run: String,
    tell: Arc<dyn Fn(String) + Send + Sync>,
}

impl Care {
    async fn take(self) {
        let third = Duration::from_millis(self.leased.seconds.saturating_mul(1000) / 3);
        let (name, place) = (&self.leased.name, self.leased.place.word());
        let (mut renewed, mut told, mut pause) = (Instant::now(), false, third);
        loop {
            tokio::time::sleep(pause).await;
            let begun = Instant::now();
            match self.leased.renew(&self.hypervisors, &self.controller, &self.run).await {
                Ok(Renewal::Gone) => {
                    (self.tell)(format!(
                        "{name}: no reversal of it stands on {place} any more: it was taken back there, or another machine \
                         has its address now"
                    ));
                    return;
                }
                Ok(Renewal::Renewed | Renewal::Busy) => {
                    if told {
                        (self.tell)(format!("{name}: {place} can be reached again"));
                    }
                    (renewed, told, pause) = (begun, false, third);
                }
                Err(error) => {
                    // A machine that reboots is not worth a word: its time begins anew with that.
                    if !told && renewed.elapsed() > third * 2 {
                        (self.tell)(format!(
                            "{name}: cannot be renewed, and is soon taken back by {place} itself: {error}"
                        ));
                        told = true;
                    }
                    pause = AGAIN.min(third);
                }
            }
        }
    }
}
