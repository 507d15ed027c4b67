//! One look at a volume group for all the questions of a plan: a report takes seconds on a busy host, and a plan asks a dozen
//! times. Steps look for themselves.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;

use super::report::Report;

/// By host and volume group, what was reported.
type Seen = BTreeMap<(String, String), Report>;

tokio::task_local! {
    /// `None`: things are being changed, and every question is asked anew.
    static LOOK: RefCell<Option<Seen>>;
}

/// Lets everything that is asked in this work be answered from one report of each volume group, until [`look_anew`].
pub async fn one_look<T>(work: impl Future<Output = T>) -> T {
    LOOK.scope(RefCell::new(Some(Seen::new())), work).await
}

/// Ends [`one_look`]: from here on things change.
pub fn look_anew() {
    // Outside of such work every look is a new one.
    let _ = LOOK.try_with(|look| look.replace(None));
}

/// What was reported in this work.
pub(super) fn seen(host: &str, vg: &str) -> Option<Report> {
    LOOK.try_with(|look| look.borrow().as_ref()?.get(&(host.to_owned(), vg.to_owned())).cloned()).ok().flatten()
}

/// Keeps a report for the rest of this work.
pub(super) fn saw(host: &str, vg: &str, report: &Report) {
    let _ = LOOK.try_with(|look| {
        if let Some(seen) = look.borrow_mut().as_mut() {
            seen.insert((host.to_owned(), vg.to_owned()), report.clone());
        }
    });
}
