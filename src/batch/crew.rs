//! Items side by side: each has a thread, so that one that waits for a disk, or panics, holds up nobody else.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What one item did: its place, and what came of it or why its thread ended without.
pub type Done<T> = (usize, Result<T, String>);

/// Threads at work.
pub struct Crew<T> {
    sender: UnboundedSender<Done<T>>,
    receiver: UnboundedReceiver<Done<T>>,
    at_work: usize,
}

impl<T: Send + 'static> Crew<T> {
    /// Nobody is at work.
    pub fn new() -> Self {
        let (sender, receiver) = unbounded_channel();
        Self { sender, receiver, at_work: 0 }
    }

    /// Begins the work of an item. It is made in its thread: it need not be able to change threads.
    pub fn begin<F: Future<Output = T>>(&mut self, index: usize, work: impl FnOnce() -> F + Send + 'static) {
        let (runtime, sender) = (Handle::current(), self.sender.clone());
        let body = move || {
            let done = catch_unwind(AssertUnwindSafe(|| runtime.block_on(work())));
            let why = |panic: Box<dyn std::any::Any + Send>| match panic.downcast::<String>() {
                Ok(text) => *text,
                Err(panic) => panic.downcast::<&str>().map_or("panicked".to_owned(), |text| (*text).to_owned()),
            };
            // Whoever waited is gone: so is the batch.
            let _ = sender.send((index, done.map_err(why)));
        };
        self.at_work += 1;
        if let Err(error) = std::thread::Builder::new().name("item".into()).spawn(body) {
            let _ = self.sender.send((index, Err(format!("no thread could be started: {error}"))));
        }
    }

    /// Nobody is at work.
    pub fn is_idle(&self) -> bool {
        self.at_work == 0
    }

    /// The next item that has done its work; waits for ever if nobody is at work.
    pub async fn next(&mut self) -> Done<T> {
        match self.receiver.recv().await {
            Some(done) => {
                self.at_work -= 1;
                done
            }
            // The sender is here.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
#[expect(clippy::panic, reason = "that is what is tested")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_panics_holds_up_nobody() {
        let mut crew = Crew::new();
        crew.begin(0, || async { panic!("no {}", "luck") });
        crew.begin(1, || async { 7 });
        let mut done = vec![crew.next().await, crew.next().await];
        done.sort_by_key(|(index, _)| *index);
        assert_eq!(done, [(0, Err("no luck".to_owned())), (1, Ok(7))]);
        assert!(crew.is_idle());
    }
}
