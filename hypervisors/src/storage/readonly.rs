//! Block devices as the kernel reads them: stale buffers dropped, and a read-only loop device over one (`loop(4)`), which
//! clears itself when nothing uses it any more, however this process ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

nix::ioctl_none!(blkflsbuf, 0x12, 97);
nix::ioctl_none_bad!(loop_ctl_get_free, 0x4c82);
nix::ioctl_write_ptr_bad!(loop_configure, 0x4c0a, LoopConfig);

const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;

/// `struct loop_config` with its `struct loop_info64` (linux/loop.h).
#[repr(C)]
pub struct LoopConfig {
    fd: u32,
    block_size: u32,
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

/// A read-only loop device. It goes when this is dropped and nothing else (a mount) has it open.
#[derive(Debug)]
pub struct Loop {
    path: PathBuf,
    /// Keeps the device until a mount has taken hold of it.
    _device: File,
}

impl Loop {
    /// A loop device over `backing`.
    pub fn over(backing: &File) -> io::Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
        for _ in 0..32 {
            // SAFETY: takes no argument and returns a number; the descriptor is open.
            let number = unsafe { loop_ctl_get_free(control.as_raw_fd()) }?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = File::open(&path)?;
            let config = LoopConfig {
                fd: u32::try_from(backing.as_raw_fd()).unwrap_or(u32::MAX),
                block_size: 0,
                numbers: [0; 5],
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags: READ_ONLY | AUTOCLEAR,
                names: [0; 160],
                init: [0; 2],
                reserved: [0; 8],
            };
            // SAFETY: the structure is the kernel's, fully initialised, and lives beyond the call.
            match unsafe { loop_configure(device.as_raw_fd(), &raw const config) } {
                Ok(_) => return Ok(Self { path, _device: device }),
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
