//! Which machine is meant, and what is told of it.

use anyhow::Result;
use hypervisors::{Cause, Hypervisor as _, Machines as _, Power};

use integration::vcenter::Speaks;

use super::{WEB, lab};

in_both!(a_machine_is_found_by_path_name_and_uuid, a_name_that_several_have_is_refused_and_all_are_told,);

async fn a_machine_is_found_by_path_name_and_uuid(speaks: Speaks) -> Result<()> {
    let (_vcenter, platform) = lab(speaks)?;
    let machine = platform.find(WEB).await?;
    assert_eq!((machine.path.as_str(), machine.name.as_str()), (WEB, "DC0_H0_VM0"));
    assert_eq!(platform.find("DC0_H0_VM0").await?, machine);
    assert_eq!(platform.find(&machine.uuid.to_uppercase()).await?, machine);
    let none = platform.find("/DC0/vm/nobody").await.unwrap_err();
    assert!(matches!(none.cause, Cause::NotFound(_)), "{none}");

    let facts = platform.machine(&machine.uuid).await?.expect("it was found");
    assert_eq!((&facts.machine, facts.power), (&machine, Power::On));
    assert!(
        facts.cpus > 0 && facts.memory_bytes > 0 && facts.mark.is_none() && facts.snapshots.is_empty(),
        "{facts:?}"
    );
    let [disk] = facts.disks.as_slice() else { panic!("{:?}", facts.disks) };
    assert!(disk.file.ends_with(".vmdk") && disk.parents.is_empty() && !disk.independent && !disk.raw, "{disk:?}");
    let [nic] = facts.nics.as_slice() else { panic!("{:?}", facts.nics) };
    assert!(nic.start_connected && nic.mac.is_some(), "{nic:?}");
    assert_eq!(nic.network, "DC0_DVPG0");
    assert!(platform.machine("00000000-0000-0000-0000-000000000000").await?.is_none());
    platform.close().await?;
    Ok(())
}

async fn a_name_that_several_have_is_refused_and_all_are_told(speaks: Speaks) -> Result<()> {
    let (vcenter, platform) = lab(speaks)?;
    vcenter.tell("folder web")?;
    vcenter.tell("folder old")?;
    let new = vcenter.tell("machine web web1")?;
    vcenter.tell("machine old web1")?;
    let error = platform.find("web1").await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error.cause, Cause::Refused(_)), "{text}");
    assert!(
        text.contains("/DC0/vm/web/web1") && text.contains("/DC0/vm/old/web1") && text.contains("2 machines"),
        "{text}"
    );
    assert_eq!(platform.find("/DC0/vm/web/web1").await?.uuid, new);
    assert_eq!(platform.find(&new).await?.path, "/DC0/vm/web/web1");
    // As a platform: a name that is not clear is no guest that is missing.
    assert!(platform.facts("web1").await.is_err());
    assert!(platform.facts("web2").await?.is_none());
    let names: Vec<String> = platform.list().await?.into_iter().map(|guest| guest.name).collect();
    assert!(names.iter().filter(|name| *name == "web1").count() == 2 && names.is_sorted(), "{names:?}");
    platform.close().await?;
    Ok(())
}
