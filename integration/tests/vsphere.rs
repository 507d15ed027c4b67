//! The vSphere ring: the platform against a simulated vCenter (`integration/vcenter`), over TLS, in SOAP and in JSON.

#![expect(clippy::unwrap_used, reason = "tests")]

/// Tests that are done in SOAP and in JSON.
macro_rules! in_both {
    ($($test:ident),+ $(,)?) => {
        mod soap {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() -> anyhow::Result<()> {
                super::$test(integration::vcenter::Speaks::Soap).await
            })+
        }
        mod json {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() -> anyhow::Result<()> {
                super::$test(integration::vcenter::Speaks::Json).await
            })+
        }
    };
}

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
use integration::vcenter::{Speaks, Vcenter};

/// A machine of the simulator's own inventory, on.
const WEB: &str = "/DC0/vm/DC0_H0_VM0";

/// A vCenter, and the platform that uses it.
fn lab(speaks: Speaks) -> Result<(Vcenter, Vsphere)> {
    let vcenter = Vcenter::start(speaks)?;
    let trust = Trust::File(vcenter.ca());
    let platform = platform(&vcenter, trust)?;
    Ok((vcenter, platform))
}

fn platform(vcenter: &Vcenter, trust: Trust) -> Result<Vsphere> {
    let credentials = Credentials::File(vcenter.credentials());
    let address = Address { name: "vcenter".into(), url: vcenter.url()?, trust, credentials };
    Ok(Vsphere::new(address, Arc::new(RealNet)))
}
