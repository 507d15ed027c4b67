//! Work that many guests need and one does for all: a tree of configuration files, a built world, packages on their way. The steps that
//! make such a thing take turns; whoever comes second finds it made.
//!
//! Turns are taken within this process. Two controllers that make the same thing at the same moment make it twice, which is
//! harmless: each makes it aside and puts it in place whole.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

static TURNS: Mutex<Option<HashMap<String, Arc<Turn<()>>>>> = Mutex::new(None);

/// Waits for one's turn at a thing, named by its host and place; it is held as long as what is returned.
pub(crate) async fn turn(thing: &str) -> OwnedMutexGuard<()> {
    let turn = {
        let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        turns.get_or_insert_default().entry(thing.to_owned()).or_default().clone()
    };
    turn.lock_owned().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_at_the_same_thing_only() {
        let first = turn("here:/usr/src").await;
        let _other = turn("here:/usr/src2").await;
        let second = tokio::spawn(turn("here:/usr/src"));
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        assert!(second.await.is_ok());
    }
}
