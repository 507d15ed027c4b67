//! Who is trusted, who logs in, and what becomes of sessions.

use std::time::Duration;

use anyhow::Result;
use hypervisors::vsphere::{Address, Credentials, Trust, Vsphere};
use hypervisors::{Cause, Machines as _};

use super::{WEB, lab, platform};
use integration::vcenter::{Speaks, Vcenter};

in_both!(
    a_certificate_is_trusted_by_its_authority_or_its_thumbprint_and_no_other_way,
    a_refused_password_is_told_and_never_shown,
    a_session_that_expires_in_the_middle_of_a_task_is_begun_again,
    a_platform_that_is_dropped_leaves_no_session,
);

async fn a_certificate_is_trusted_by_its_authority_or_its_thumbprint_and_no_other_way(speaks: Speaks) -> Result<()> {
    let vcenter = Vcenter::start(speaks)?;
    let pinned = platform(&vcenter, Trust::Thumbprint(vcenter.thumbprint()?))?;
    assert_eq!(pinned.find(WEB).await?.path, WEB);
    pinned.close().await?;
    for trust in [Trust::Machine, Trust::Thumbprint("00".repeat(32))] {
        let error = platform(&vcenter, trust.clone())?.find(WEB).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Refused(_)), "{trust:?}: {error}");
        assert!(error.help.as_deref().is_some_and(|help| help.contains("thumbprint")), "{error:?}");
    }
    assert_eq!(vcenter.tell("sessions")?, "0");
    Ok(())
}

async fn a_refused_password_is_told_and_never_shown(speaks: Speaks) -> Result<()> {
    let vcenter = Vcenter::start(speaks)?;
    let told = vec!["printf".into(), "user\\ns3cret\\n".into()];
    let address = Address {
        name: "vcenter".into(),
        url: vcenter.url()?,
        trust: Trust::File(vcenter.ca()),
        credentials: Credentials::Command(told),
    };
    let error = Vsphere::new(address, std::sync::Arc::new(hypervisors::net::RealNet)).find(WEB).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(matches!(error.cause, Cause::Refused(_)) && text.contains("InvalidLogin"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    Ok(())
}

async fn a_session_that_expires_in_the_middle_of_a_task_is_begun_again(speaks: Speaks) -> Result<()> {
    let (vcenter, platform) = lab(speaks)?;
    let machine = platform.find(WEB).await?;
    vcenter.tell("hold CreateSnapshot_Task 2500")?;
    let expire = async {
        tokio::time::sleep(Duration::from_millis(1000)).await;
        vcenter.tell("expire")
    };
    let (made, expired) = tokio::join!(platform.snapshot(&machine.uuid, "before", "web1--k3f9", false), expire);
    assert_eq!(expired?, "1");
    let made = made?;
    let facts = platform.machine(&machine.uuid).await?.expect("it is there");
    assert_eq!(facts.snapshots.len(), 1, "the task was not begun twice");
    assert_eq!(facts.snapshots[0].id, made);
    assert_eq!(platform.calls()["Login"], 2);
    assert_eq!(platform.calls()["CreateSnapshot_Task"], 1);
    // What stands before the server answers for a while: the task is looked at again.
    vcenter.tell("hold RemoveSnapshot_Task 1500")?;
    let away = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        vcenter.tell("away 500")
    };
    let (removed, told) = tokio::join!(platform.remove_snapshot(&machine.uuid, &made), away);
    told?;
    removed?;
    vcenter.tell("away 60000")?;
    let error = platform.machine(&machine.uuid).await.unwrap_err();
    assert!(error.is_unknown(), "{error}");
    vcenter.tell("away 0")?;
    let made = platform.snapshot(&machine.uuid, "before", "web1--k3f9", false).await?;
    // Between two calls as well, a call that changes something: it is made once.
    vcenter.tell("expire")?;
    platform.remove_snapshot(&machine.uuid, &made).await?;
    assert_eq!(platform.calls()["Login"], 3);
    platform.close().await?;
    assert_eq!(vcenter.tell("sessions")?, "0");
    Ok(())
}

async fn a_platform_that_is_dropped_leaves_no_session(speaks: Speaks) -> Result<()> {
    let (vcenter, platform) = lab(speaks)?;
    platform.find(WEB).await?;
    assert_eq!(vcenter.tell("sessions")?, "1");
    drop(platform);
    assert_eq!(vcenter.tell("sessions")?, "0");
    Ok(())
}
