//! Watches an address from outside: connects to its ssh port every 10 ms and waits for the banner.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

const EVERY: Duration = Duration::from_millis(10);

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_millis(100);

/// A prober at work.
#[derive(Debug)]
pub struct Prober {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Prober {
    /// Begins to watch an address that answers now.
    pub fn watch(address: &str) -> Result<Prober> {
        let address: SocketAddr = format!("{address}:22").parse()?;
        ensure!(answers(address), "{address} does not answer now");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                if answers(address) {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                std::thread::sleep(EVERY);
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
pub fn answers(address: SocketAddr) -> bool {
    let banner = || -> std::io::Result<[u8; 4]> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut begin = [0; 4];
        stream.read_exact(&mut begin)?;
        Ok(begin)
    };
    banner().is_ok_and(|begin| &begin == b"SSH-")
}
