//! `make demo`: a mail server goes from Debian 12 to 13, and back, and there again, while mail keeps coming in.
//!
//! Everything is real: the guests, the package upgrade, the failure in it, the mail. Every line that begins with `ok`
//! was asserted on the world itself (libvirt, ssh, IMAP, HTTP, the mail archive), not read from the product's output.
//! The first one that does not hold ends the demo, which exits 1 then and leaves the lab as it is, for a look.

mod acts;
mod stage;

use std::process::ExitCode;

use integration::lab::Lab;

fn main() -> ExitCode {
    match Lab::numbered(0).and_then(acts::play) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe demo failed: {error:#}");
            eprintln!("the lab is as it was then; look around, then: make clean-lab");
            ExitCode::FAILURE
        }
    }
}
