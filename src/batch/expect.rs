//! How long the verbs of each guest are expected to take: what the operator says, else what the journal remembers of the
//! same guest, else a guess by its strategy and recipe.

use std::collections::BTreeMap;

use super::spec::{Item, Spec};
use crate::inventory::{GuestSpec, Inventory, Recipe, Strategy};
use crate::lifecycle::state::Verb;

/// Lengths in seconds of each item's verbs. `remembered`: how long each verb took last, of a guest.
pub fn lengths(
    spec: &Spec,
    inventory: &Inventory,
    remembered: impl Fn(&str) -> BTreeMap<String, f64>,
) -> Vec<Vec<f64>> {
    let of_item = |item: &Item| -> Vec<f64> {
        let guest = inventory.guests.get(&item.guest);
        let guesses: Vec<f64> = spec.verbs.iter().map(|verb| guess(*verb, guest)).collect();
        let Some(said) = item.expected_s else {
            let last = remembered(&item.guest);
            return spec
                .verbs
                .iter()
                .zip(guesses)
                .map(|(v, guess)| last.get(v.word()).copied().unwrap_or(guess))
                .collect();
        };
        // What is said of the whole is shared as the guesses are.
        let whole: f64 = guesses.iter().sum();
        #[expect(clippy::cast_precision_loss, reason = "seconds of a night")]
        let scale = said as f64 / whole.max(1.0);
        guesses.iter().map(|guess| guess * scale).collect()
    };
    spec.items.iter().map(of_item).collect()
}

/// Seconds; what a mail server with some gigabytes took in the lab, rounded.
fn guess(verb: Verb, guest: Option<&GuestSpec>) -> f64 {
    let strategy = guest.and_then(|guest| guest.clone.strategy);
    match verb {
        Verb::Clone if strategy == Some(Strategy::Transfer) => 1800.0,
        Verb::Clone => 120.0,
        Verb::Upgrade => match guest.and_then(|guest| guest.upgrade.as_ref()).map(|upgrade| &upgrade.recipe) {
            Some(Recipe::FreebsdWorld(_)) => 2400.0,
            Some(Recipe::Debian { .. }) => 1500.0,
            _ => 600.0,
        },
        Verb::Verify => 60.0,
        Verb::Promote => 180.0,
        Verb::Rollback | Verb::Commit => 90.0,
        Verb::Abort | Verb::Resume => 30.0,
    }
}
