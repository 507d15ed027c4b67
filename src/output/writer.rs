//! The only place that writes to standard output and standard error, in threads of its own: a reader that does not read
//! (a pager that waits, a terminal held by Ctrl-S, a program that hangs) must never hold up a verb, least of all one
//! that has production down.
//!
//! Invariants:
//! * Putting a text here never waits for a reader. Only [`shown`] and [`drain`] wait, and they say so.
//! * Texts of one stream are written whole and in their order; of both, if both lead to the same file or terminal.
//! * Memory is bounded by [`ROOM`] plus what may not be left out, of which a plan can cause only so much.
//! * A reader that is gone is no error: what cannot be written is forgotten.
//! * Nothing but our own colours reaches a terminal that it would obey ([`super::neutral`]).
//!
//! The line that moves is drawn here too, so that it is never in the way of a text and a text never waits for it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, poll};

use super::format::WIDTH;
use super::neutral::{neutral, neutral_line};

/// Bytes that wait before details are left out.
const ROOM: usize = 256 << 10;
/// How often the moving line is drawn.
const TICK: Duration = Duration::from_millis(250);
/// Back to where so many moving lines begin, and away with them (ECMA-48: CR, CUU, EL, ED).
fn clear(lines: usize) -> Vec<u8> {
    match lines {
        0 => Vec::new(),
        1 => b"\r\x1b[K".to_vec(),
        _ => format!("\r\x1b[{}A\x1b[J", lines - 1).into_bytes(),
    }
}

/// Where a text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output: results.
    Out,
    /// Standard error: progress and errors.
    Err,
}

/// Text of the moving line, or lines, for so many columns.
pub type MovingLine = Arc<dyn Fn(usize) -> String + Send + Sync>;

/// How long a reader is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// As long as it lives.
    Endless,
    /// So long since it last took anything.
    Idle(Duration),
    /// So long in all.
    Total(Duration),
}

/// Writes some of these bytes.
type Write = Box<dyn Fn(Stream, &[u8]) -> io::Result<usize> + Send + Sync>;

/// A queue of texts with the thread that writes them.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    write: Write,
}

#[derive(Default)]
struct State {
    texts: VecDeque<(Stream, Vec<u8>)>,
    /// Bytes of the texts, with those being written.
    waiting: usize,
    /// The thread is writing.
    busy: bool,
    /// Bytes the readers have taken so far.
    taken: u64,
    /// The readers are not waited for any more.
    given_up: bool,
    moving: Option<MovingLine>,
    /// So many moving lines stand on the terminal.
    drawn: usize,
    /// When it is drawn next.
    tick: Option<Instant>,
}

impl State {
    fn idle(&self) -> bool {
        self.texts.is_empty() && !self.busy && self.drawn == 0
    }
}

impl Queue {
    /// Starts the thread.
    pub(super) fn start(write: Write) -> Arc<Self> {
        let queue = Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), write });
        let writer = queue.clone();
        let started = std::thread::Builder::new().name("output".into()).spawn(move || writer.run());
        if started.is_err() {
            // No thread, no output: the journal has what happens.
            queue.lock().given_up = true;
        }
        queue
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a text here that will be written, come what may.
    pub(super) fn put(&self, stream: Stream, text: &str) {
        self.push(self.lock(), stream, text);
    }

    /// Puts a text here unless too much waits already; says whether it did.
    pub(super) fn offer(&self, stream: Stream, text: &str) -> bool {
        let state = self.lock();
        let fits = state.waiting == 0 || state.waiting + text.len() <= ROOM;
        if fits {
            self.push(state, stream, text);
        }
        fits
    }

    fn push(&self, mut state: MutexGuard<'_, State>, stream: Stream, text: &str) {
        if !state.given_up && !text.is_empty() {
            state.waiting += text.len();
            state.texts.push_back((stream, text.as_bytes().to_vec()));
            self.changed.notify_all();
        }
    }

    /// From now on this line moves, or none.
    pub(super) fn moving(&self, line: Option<MovingLine>) {
        let mut state = self.lock();
        state.moving = line;
        state.tick = Some(Instant::now());
        self.changed.notify_all();
    }

    /// Waits until all is written; `false`: the reader's patience was at an end, and nothing is written any more.
    pub(super) fn drain(&self, patience: Patience) -> bool {
        let mut state = self.lock();
        state.moving = None;
        self.changed.notify_all();
        let (mut since, mut taken) = (Instant::now(), state.taken);
        while !state.idle() && !state.given_up {
            if patience != Patience::Endless && state.taken != taken {
                taken = state.taken;
                if matches!(patience, Patience::Idle(_)) {
                    since = Instant::now();
                }
            }
            state = match patience {
                Patience::Endless => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Patience::Idle(most) | Patience::Total(most) => match most.checked_sub(since.elapsed()) {
                    Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                    None => {
                        state.given_up = true;
                        state
                    }
                },
            };
        }
        !state.given_up
    }

    fn run(&self) {
        // A shell with `stty tostop` would stop the whole program for a word it writes in the background.
        let mut stops = SigSet::empty();
        stops.add(Signal::SIGTTOU);
        let _ = stops.thread_block();
        loop {
            let (stream, bytes, length) = self.next();
            self.write_all(stream, &bytes);
            let mut state = self.lock();
            state.waiting -= length;
            state.busy = false;
            self.changed.notify_all();
        }
    }

    /// What is written next, and how many bytes of it were waiting.
    fn next(&self) -> (Stream, Vec<u8>, usize) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if let Some((stream, text)) = state.texts.pop_front() {
                let length = text.len();
                state.busy = true;
                state.tick = Some(now);
                let cleared = clear(std::mem::take(&mut state.drawn));
                return (stream, [cleared, text].concat(), length);
            }
            let tick = state.tick.unwrap_or(now);
            let wait = match &state.moving {
                Some(line) if tick <= now => {
                    let line = line.clone();
                    (state.busy, state.tick) = (true, Some(now + TICK));
                    let drawn = state.drawn.max(1);
                    drop(state);
                    let text = line(columns());
                    // What does not fit would scroll away each time.
                    let shown = text.split('\n').take(rows().saturating_sub(1).max(1));
                    let lines: Vec<String> = shown.map(|line| neutral_line(line).into_owned()).collect();
                    self.lock().drawn = lines.len();
                    return (Stream::Err, [clear(drawn), lines.join("\n").into_bytes()].concat(), 0);
                }
                Some(_) => Some(tick - now),
                None if state.drawn > 0 => {
                    state.busy = true;
                    return (Stream::Err, clear(std::mem::take(&mut state.drawn)), 0);
                }
                None => None,
            };
            state = match wait {
                Some(wait) => self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn write_all(&self, stream: Stream, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match (self.write)(stream, bytes) {
                Ok(written) if written > 0 => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    self.lock().taken += written as u64;
                    self.changed.notify_all();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The reader is gone, or the disk is full.
                Ok(_) | Err(_) => return,
            }
        }
    }
}

fn fd(stream: Stream) -> BorrowedFd<'static> {
    match stream {
        Stream::Out => rustix::stdio::stdout(),
        Stream::Err => rustix::stdio::stderr(),
    }
}

fn write(stream: Stream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match rustix::io::write(fd(stream), bytes) {
            // Someone who shares the terminal or pipe has set it so.
            Err(rustix::io::Errno::AGAIN) => {
                poll(&mut [PollFd::from_borrowed_fd(fd(stream), PollFlags::OUT)], None)?;
            }
            result => return Ok(result?),
        }
    }
}

fn rows() -> usize {
    let rows = rustix::termios::tcgetwinsize(fd(Stream::Err)).map_or(0, |size| usize::from(size.ws_row));
    if rows == 0 { 24 } else { rows }
}

fn columns() -> usize {
    let columns = rustix::termios::tcgetwinsize(fd(Stream::Err)).map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { WIDTH } else { columns.min(WIDTH) }
}

/// Whether both streams lead to the same file or terminal: their texts must then keep their order.
fn one_reader() -> bool {
    let id = |stream| rustix::fs::fstat(fd(stream)).map(|stat| (stat.st_dev, stat.st_ino, stat.st_rdev));
    matches!((id(Stream::Out), id(Stream::Err)), (Ok(out), Ok(err)) if out == err)
}

/// The queues of the two streams; one for both if they have one reader.
fn queues() -> &'static [Arc<Queue>; 2] {
    static QUEUES: OnceLock<[Arc<Queue>; 2]> = OnceLock::new();
    QUEUES.get_or_init(|| {
        let out = Queue::start(Box::new(write));
        let err = if one_reader() { out.clone() } else { Queue::start(Box::new(write)) };
        [out, err]
    })
}

fn queue(stream: Stream) -> &'static Queue {
    let [out, err] = queues();
    match stream {
        Stream::Out => out,
        Stream::Err => err,
    }
}

/// Writes a text as soon as its reader takes it. What would do something to a terminal is taken out of it.
pub fn put(stream: Stream, text: &str) {
    queue(stream).put(stream, &neutral(text));
}

/// The same if its reader keeps up; says whether it will.
#[must_use]
pub fn offer(stream: Stream, text: &str) -> bool {
    queue(stream).offer(stream, &neutral(text))
}

/// Draws this line on standard error, again and again; `None` takes it away.
pub fn moving(line: Option<MovingLine>) {
    queue(Stream::Err).moving(line);
}

/// Waits until a question stands on standard error: whoever answers it has to have read it.
pub fn shown() {
    queue(Stream::Err).drain(Patience::Endless);
}

/// Waits until all is written, or patience ends. Nothing is written after that.
pub fn drain(patience: Patience) {
    let [out, err] = queues();
    out.drain(patience);
    err.drain(patience);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
