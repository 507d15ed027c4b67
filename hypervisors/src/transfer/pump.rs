//! What flows from one command to another: through a buffer of fixed size, so that memory is the same for any file system, and
//! measured on either side, so that it can be said which end is the brake.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Bytes between the two at most: some tenths of a second of a fast link, over which either side may be slow.
const BUFFER: usize = 4 << 20;
/// Bytes read or written in one go.
const CHUNK: usize = 256 << 10;
/// The part of a second's allowance that may be spent at once, under a limit.
const BURST: f64 = 0.1;

/// What flowed, and who waited for whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Bytes that came from the source and went to the target (packed, if the source packed them).
    pub bytes: u64,
    /// From begin to end.
    pub elapsed: Duration,
    /// The buffer was empty: the source, or the link to it, was slower.
    pub for_source: Duration,
    /// The buffer was full: the target, or the link to it, was slower.
    pub for_target: Duration,
    /// The limit was.
    pub for_limit: Duration,
}

/// Which end of a copy is the slower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Brake {
    /// Reading there, or the link from it.
    Source,
    /// Writing there, or the link to it.
    Target,
    /// The limit that was asked for.
    Limit,
    /// Neither was waited for more than a quarter of the time.
    #[default]
    Neither,
}

impl Flow {
    /// Bytes in a second.
    pub fn rate(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64().max(1e-6)
    }
    /// Which end held it up.
    pub fn brake(&self) -> Brake {
        let most = [(self.for_source, Brake::Source), (self.for_target, Brake::Target), (self.for_limit, Brake::Limit)];
        let (longest, brake) = most.into_iter().max_by_key(|(waited, _)| *waited).unwrap_or_default();
        if longest * 4 >= self.elapsed { brake } else { Brake::Neither }
    }
}

/// How the flow ended.
#[derive(Debug)]
pub enum End {
    /// The source closed its end, and all of it was handed on.
    Whole,
    /// The target takes no more.
    TargetClosed,
    /// Reading or writing failed otherwise.
    Failed(io::Error),
}

/// Copies until the source ends or the target takes no more; then both ends are dropped. `moved` tells meanwhile how many bytes
/// have reached the target. `limit`: bytes a second at most.
pub async fn pump(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    limit: Option<u64>,
    moved: &AtomicU64,
) -> (Flow, End) {
    let begun = Instant::now();
    let mut pump = Pump {
        from,
        to,
        ring: vec![0; BUFFER].into_boxed_slice(),
        at: 0,
        filled: 0,
        ended: false,
        allowance: limit.map(|limit| Allowance { limit: limit.max(1) as f64, left: 0.0, seen: begun }),
        flow: Flow::default(),
        waiting: None,
    };
    let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
    let end = poll_fn(|cx| pump.poll(cx, sleep.as_mut(), moved)).await;
    pump.flow.elapsed = begun.elapsed();
    (pump.flow, end)
}

struct Pump<R, W> {
    from: R,
    to: W,
    ring: Box<[u8]>,
    /// Where the oldest byte is.
    at: usize,
    /// How many there are.
    filled: usize,
    /// The source has no more.
    ended: bool,
    allowance: Option<Allowance>,
    flow: Flow,
    /// Since when, and for whom.
    waiting: Option<(Instant, Brake)>,
}

/// What may still be read now, under a limit.
struct Allowance {
    limit: f64,
    left: f64,
    seen: Instant,
}

impl Allowance {
    /// How many bytes may be read now; or how long to wait.
    fn now(&mut self) -> Result<usize, Duration> {
        let now = Instant::now();
        let earned = self.limit * now.duration_since(self.seen).as_secs_f64();
        (self.left, self.seen) = ((self.left + earned).min(self.limit * BURST), now);
        // In portions of a fiftieth of a second, at least a byte.
        let portion = (self.limit / 50.0).max(1.0);
        if self.left >= portion {
            Ok(self.left as usize)
        } else {
            Err(Duration::from_secs_f64((portion - self.left) / self.limit).max(Duration::from_millis(1)))
        }
    }
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Pump<R, W> {
    fn poll(&mut self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>, moved: &AtomicU64) -> Poll<End> {
        if let Some((since, brake)) = self.waiting.take() {
            let waited = match brake {
                Brake::Source => &mut self.flow.for_source,
                Brake::Target => &mut self.flow.for_target,
                _ => &mut self.flow.for_limit,
            };
            *waited += since.elapsed();
        }
        loop {
            let (mut progress, mut limited) = (false, false);
            if !self.ended && self.filled < self.ring.len() {
                match self.poll_fill(cx, sleep.as_mut(), &mut limited) {
                    Poll::Ready(Ok(0)) => (self.ended, progress) = (true, true),
                    Poll::Ready(Ok(_)) => progress = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(End::Failed(error)),
                    Poll::Pending => (),
                }
            }
            if self.filled > 0 {
                match self.poll_drain(cx) {
                    Poll::Ready(Ok(count)) => {
                        progress = true;
                        self.flow.bytes += count as u64;
                        moved.store(self.flow.bytes, Ordering::Relaxed);
                    }
                    Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                        return Poll::Ready(End::TargetClosed);
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(End::Failed(error)),
                    Poll::Pending => (),
                }
            } else if self.ended {
                return match Pin::new(&mut self.to).poll_flush(cx) {
                    Poll::Ready(Ok(())) => Poll::Ready(End::Whole),
                    Poll::Ready(Err(error)) => Poll::Ready(End::Failed(error)),
                    Poll::Pending => Poll::Pending,
                };
            }
            if !progress {
                let brake = match () {
                    () if self.filled == 0 && limited => Some(Brake::Limit),
                    () if self.filled == 0 => Some(Brake::Source),
                    () if self.ended || self.filled == self.ring.len() => Some(Brake::Target),
                    () => None,
                };
                self.waiting = brake.map(|brake| (Instant::now(), brake));
                return Poll::Pending;
            }
        }
    }

    /// Reads into the free part behind the last byte.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        mut sleep: Pin<&mut Sleep>,
        limited: &mut bool,
    ) -> Poll<io::Result<usize>> {
        let mut most = CHUNK;
        if let Some(allowance) = &mut self.allowance {
            match allowance.now() {
                Ok(bytes) => most = most.min(bytes),
                Err(wait) => {
                    *limited = true;
                    sleep.as_mut().reset(tokio::time::Instant::now() + wait);
                    std::task::ready!(std::future::Future::poll(sleep, cx));
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
        let begin = (self.at + self.filled) % self.ring.len();
        let end = if begin < self.at { self.at } else { self.ring.len() };
        let end = end.min(begin + most);
        let mut buffer = ReadBuf::new(&mut self.ring[begin..end]);
        std::task::ready!(Pin::new(&mut self.from).poll_read(cx, &mut buffer))?;
        let count = buffer.filled().len();
        self.filled += count;
        if let Some(allowance) = &mut self.allowance {
            allowance.left -= count as f64;
        }
        Poll::Ready(Ok(count))
    }

    /// Writes the oldest bytes.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let end = (self.at + self.filled).min(self.ring.len()).min(self.at + CHUNK);
        let count = std::task::ready!(Pin::new(&mut self.to).poll_write(cx, &self.ring[self.at..end]))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.at = (self.at + count) % self.ring.len();
        self.filled -= count;
        Poll::Ready(Ok(count))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Bytes that say where they stand.
    fn bytes(count: usize) -> Vec<u8> {
        (0..count.div_ceil(8)).flat_map(|at| (at as u64).to_le_bytes()).take(count).collect()
    }

    /// Both ends as slow as told, for each of so many pieces.
    async fn flows(count: usize, piece: usize, source: Duration, target: Duration, limit: Option<u64>) -> Flow {
        let (mut into, from) = duplex(64 << 10);
        let (to, mut out) = duplex(64 << 10);
        let sent = bytes(count);
        let write = async {
            for piece in sent.chunks(piece) {
                tokio::time::sleep(source).await;
                into.write_all(piece).await.unwrap();
            }
            drop(into);
        };
        let read = async {
            let (mut got, mut buffer) = (Vec::new(), vec![0; piece]);
            loop {
                tokio::time::sleep(target).await;
                match out.read(&mut buffer).await.unwrap() {
                    0 => break got,
                    count => got.extend_from_slice(&buffer[..count]),
                }
            }
        };
        let moved = AtomicU64::new(0);
        let ((flow, end), (), got) = tokio::join!(pump(from, to, limit, &moved), write, read);
        assert!(matches!(end, End::Whole), "{end:?}");
        assert!(got == sent, "bytes were lost, repeated or turned");
        assert_eq!((flow.bytes, moved.into_inner()), (count as u64, count as u64));
        flow
    }

    #[tokio::test]
    async fn every_byte_once_in_order_and_the_slow_end_is_named() {
        let (none, slow) = (Duration::ZERO, Duration::from_millis(5));
        flows(0, 10, none, none, None).await;
        flows(3 * BUFFER + 12345, 70_001, none, none, None).await;
        assert_eq!(flows(1_000_000, 40_000, slow, none, None).await.brake(), Brake::Source);
        assert_eq!(flows(BUFFER + (2 << 20), 60_000, none, slow, None).await.brake(), Brake::Target);
    }

    #[tokio::test]
    async fn a_limit_holds() {
        let flow = flows(300_000, 10_000, Duration::ZERO, Duration::ZERO, Some(600_000)).await;
        assert_eq!(flow.brake(), Brake::Limit);
        let seconds = flow.elapsed.as_secs_f64();
        assert!((0.35..1.5).contains(&seconds), "{seconds}");
    }

    #[tokio::test]
    async fn a_target_that_takes_no_more_ends_it() {
        let (mut into, from) = duplex(1 << 16);
        let (to, out) = duplex(1 << 16);
        drop(out);
        let moved = AtomicU64::new(0);
        let ((_, end), written) = tokio::join!(pump(from, to, None, &moved), into.write_all(&[1; 1 << 20]));
        assert!(matches!(end, End::TargetClosed), "{end:?}");
        assert!(written.is_err(), "the source is not told");
    }
}
