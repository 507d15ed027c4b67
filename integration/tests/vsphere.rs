//! The vSphere ring: the platform against a simulated vCenter (`integration/vcenter`), over TLS and SOAP.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "vsphere/busy.rs"]
mod busy;
#[path = "vsphere/finding.rs"]
mod finding;
#[path = "vsphere/gc.rs"]
mod gc;
#[path = "vsphere/in_place.rs"]
mod in_place;
#[path = "vsphere/inside.rs"]
mod inside;
#[path = "vsphere/lifecycle.rs"]
mod lifecycle;
#[path = "vsphere/linked.rs"]
mod linked;
#[path = "vsphere/sessions.rs"]
mod sessions;
#[path = "vsphere/trial.rs"]
mod trial;

use std::sync::Arc;

use anyhow::Result;
use hypervisors::net::RealNet;
use hypervisors::vsphere::{Address, Credentials, Trust, Vsphere};
use integration::vcenter::Vcenter;

/// A machine of the simulator's own inventory, on.
const WEB: &str = "/DC0/vm/DC0_H0_VM0";

/// A vCenter, and the platform that uses it.
fn lab() -> Result<(Vcenter, Vsphere)> {
    let vcenter = Vcenter::start()?;
    let trust = Trust::File(vcenter.ca());
    let platform = platform(&vcenter, trust)?;
    Ok((vcenter, platform))
}

fn platform(vcenter: &Vcenter, trust: Trust) -> Result<Vsphere> {
    let credentials = Credentials::File(vcenter.credentials());
    let address = Address { name: "vcenter".into(), url: vcenter.url()?, trust, credentials };
    Ok(Vsphere::new(address, Arc::new(RealNet)))
}
