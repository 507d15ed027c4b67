//! Block devices as the kernel reads them: stale buffers dropped, and loop devices over one or a part of one (`loop(4)`),
//! which clear themselves when nothing uses them any more, however this process ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

nix::ioctl_none!(blkflsbuf, 0x12, 97);
nix::ioctl_none_bad!(loop_ctl_get_free, 0x4c82);
nix::ioctl_write_ptr_bad!(loop_configure, 0x4c0a, LoopConfig);

const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
/// Past this machine's buffers, as a guest reads and writes; ignored where the backing device cannot.
const DIRECT_IO: u32 = 16;
/// How long a loop device may take to clear itself: something like udev may look at it just then.
const CLEARING: Duration = Duration::from_secs(2);

/// `struct loop_config` with its `struct loop_info64` (linux/loop.h).
#[repr(C)]
pub struct LoopConfig {
    fd: u32,
    block_size: u32,
    /// Device, inode, raw device; where it begins, how far it reaches (0: to the end).
    numbers: [u64; 5],
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    names: [u8; 160],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// Writes out and drops what this machine's buffers hold of a device.
pub fn flush_buffers(device: &File) -> io::Result<()> {
    // SAFETY: BLKFLSBUF takes no argument; the descriptor is open.
    unsafe { blkflsbuf(device.as_raw_fd()) }?;
    Ok(())
}

/// A loop device. It goes when this is dropped and nothing else (a mount) has it open.
#[derive(Debug)]
pub struct Loop {
    path: PathBuf,
    device: Option<File>,
}

impl Loop {
    /// A loop device over `backing`, or over so many bytes of it from a start on. Read-only unless `backing` was opened for
    /// writing and `write` is set.
    pub fn over(backing: &File, part: Option<(u64, u64)>, write: bool) -> io::Result<Self> {
        let (offset, limit) = part.unwrap_or((0, 0));
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
        for _ in 0..32 {
            // SAFETY: takes no argument and returns a number; the descriptor is open.
            let number = unsafe { loop_ctl_get_free(control.as_raw_fd()) }?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = OpenOptions::new().read(true).write(write).open(&path)?;
            let config = LoopConfig {
                fd: u32::try_from(backing.as_raw_fd()).unwrap_or(u32::MAX),
                block_size: 0,
                numbers: [0, 0, 0, offset, limit],
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags: AUTOCLEAR | DIRECT_IO | if write { 0 } else { READ_ONLY },
                names: [0; 160],
                init: [0; 2],
                reserved: [0; 8],
            };
            // SAFETY: the structure is the kernel's, fully initialised, and lives beyond the call.
            match unsafe { loop_configure(device.as_raw_fd(), &raw const config) } {
                Ok(_) => return Ok(Self { path, device: Some(device) }),
                // Someone else took it between the two calls.
                Err(nix::errno::Errno::EBUSY) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::Error::other("no loop device could be had"))
    }
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Loop {
    /// Waits until it has let go of what it lay over, so that whoever comes next finds that closed.
    fn drop(&mut self) {
        drop(self.device.take());
        let Some(name) = self.path.file_name() else { return };
        let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
        let until = Instant::now() + CLEARING;
        while backing.exists() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
