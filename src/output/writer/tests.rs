//! The queue before a reader that can be held.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;

/// What was written, in its order; and who takes the reader's hand off it.
fn held() -> (Arc<Queue>, mpsc::Receiver<(Stream, String)>, mpsc::Sender<()>) {
    let (taken, seen) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(Some(gate));
    let queue = Queue::start(Box::new(move |stream, bytes| {
        let mut gate = gate.lock().unwrap();
        if gate.as_ref().is_some_and(|gate| gate.recv().is_err()) {
            *gate = None;
        }
        // A reader takes some of a text at a time.
        let part = bytes.len().min(5);
        taken.send((stream, String::from_utf8_lossy(&bytes[..part]).into_owned())).unwrap();
        Ok(part)
    }));
    (queue, seen, go)
}

fn all(seen: &mpsc::Receiver<(Stream, String)>) -> String {
    seen.try_iter().map(|(_, text)| text).collect()
}

#[test]
fn a_held_reader_costs_details_only_and_no_time() {
    let (queue, seen, go) = held();
    let begun = Instant::now();
    let (mut kept, mut left_out) = (String::new(), 0);
    for number in 0..20_000 {
        let detail = format!("detail {number} that is as long as a line of output may well be, or longer\n");
        if queue.offer(Stream::Out, &detail) {
            kept.push_str(&detail);
        } else {
            left_out += 1;
        }
        if number % 1000 == 0 {
            let step = format!("step {number}\n");
            queue.put(Stream::Err, &step);
            kept.push_str(&step);
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(left_out > 10_000, "{left_out}");
    assert!(queue.lock().waiting < ROOM + 20 * 12, "{}", queue.lock().waiting);
    drop(go);
    assert!(queue.drain(Patience::Endless));
    assert_eq!(all(&seen), kept, "whole, and in its order");
    assert!(queue.offer(Stream::Out, "again"), "there is room again");
}

#[test]
fn patience_ends() {
    for patience in [Patience::Idle(Duration::from_millis(50)), Patience::Total(Duration::from_millis(50))] {
        let (queue, seen, go) = held();
        queue.put(Stream::Out, "never read");
        let begun = Instant::now();
        assert!(!queue.drain(patience), "{patience:?}");
        assert!(begun.elapsed() >= Duration::from_millis(50) && begun.elapsed() < Duration::from_secs(2));
        // From then on nobody waits for it.
        queue.put(Stream::Out, "more");
        assert!(!queue.drain(Patience::Endless));
        drop(go);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(all(&seen), "never read");
    }
}

#[test]
fn a_slow_reader_that_still_reads_is_waited_for() {
    let (queue, seen, go) = held();
    queue.put(Stream::Out, "twenty-five letters here.");
    let slow = std::thread::spawn(move || {
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(120));
            go.send(()).unwrap();
        }
        go
    });
    assert!(queue.drain(Patience::Idle(Duration::from_millis(400))), "600 ms in all, but never 400 at once");
    drop(slow.join().unwrap());
    assert_eq!(all(&seen), "twenty-five letters here.");
}

#[test]
fn a_reader_that_is_gone_is_no_error() {
    let tried = Arc::new(AtomicUsize::new(0));
    let count = tried.clone();
    let queue = Queue::start(Box::new(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        Err(io::ErrorKind::BrokenPipe.into())
    }));
    queue.put(Stream::Out, "one\n");
    queue.put(Stream::Err, "two\n");
    assert!(queue.drain(Patience::Endless));
    assert_eq!(tried.load(Ordering::Relaxed), 2);
}

#[test]
fn the_moving_line_is_never_in_the_way_of_a_text() {
    let (queue, seen, go) = held();
    drop(go);
    queue.moving(Some(Arc::new(|_| "moving".into())));
    let begun = Instant::now();
    while queue.lock().drawn == 0 && begun.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(Duration::from_millis(5));
    }
    queue.put(Stream::Err, "a text\n");
    assert!(queue.drain(Patience::Endless));
    let clear = "\r\x1b[K";
    let text = all(&seen);
    assert!(text.starts_with(&format!("{clear}moving{clear}a text\n")), "{text:?}");
    // It is drawn again, if there was time, and then taken away.
    let rest = text.split_once("a text\n").unwrap().1;
    assert!(rest.is_empty() || rest.ends_with(clear), "{text:?}");
}
