//! Watches a guest from outside: connects to its ssh port again and again and waits for the banner.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

/// How a guest is asked.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The time between two questions.
    every: Duration,
    /// An answer that takes longer is none.
    patience: Duration,
}

/// A guest on this machine's own processors.
pub const NATIVE: Pace = Pace { every: Duration::from_millis(10), patience: Duration::from_millis(100) };

/// An emulated guest, which needs a good part of a second for a banner: asked more often it would do nothing else.
pub const EMULATED: Pace = Pace { every: Duration::from_secs(1), patience: Duration::from_secs(5) };

/// A prober at work.
#[derive(Debug)]
pub struct Prober {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Prober {
    /// Begins to watch a socket that answers now.
    pub fn watch(address: SocketAddr, pace: Pace) -> Result<Prober> {
        ensure!(answers(address, pace), "{address} does not answer now");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                if answers(address, pace) {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                std::thread::sleep(pace.every);
            }
            longest
        });
        Ok(Prober { stop, thread })
    }

    /// Ends it. The longest time without an answer, in seconds.
    pub fn longest_gap(self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| anyhow!("the prober panicked"))?.as_secs_f64())
    }
}

/// Whether sshd's banner comes.
pub fn answers(address: SocketAddr, pace: Pace) -> bool {
    let banner = || -> std::io::Result<[u8; 4]> {
        let mut stream = TcpStream::connect_timeout(&address, pace.patience)?;
        stream.set_read_timeout(Some(pace.patience))?;
        let mut begin = [0; 4];
        stream.read_exact(&mut begin)?;
        Ok(begin)
    };
    banner().is_ok_and(|begin| &begin == b"SSH-")
}
