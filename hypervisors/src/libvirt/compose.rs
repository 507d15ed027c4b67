//! The definition of a container that has no original to be derived from (libvirt.org, formatdomain and drvlxc). Pure.

use super::edit::{self, escape};
use crate::{DefinitionEdit, NewGuest};

/// A container whose root is a directory, with one card on a bridge, in a network of its own; it is started by its `/sbin/init`.
///
/// # Errors
/// Something in it cannot stand in a definition, or is missing; in words.
pub fn container(guest: &NewGuest) -> Result<String, String> {
    let own = guest.container.as_ref().ok_or("it is not said what its card and its memory are")?;
    let bridge = guest.addresses.iter().find_map(|address| address.interface.as_deref());
    let bridge = escape(bridge.ok_or("no bridge is named for its card")?)?;
    let root =
        guest.root.to_str().filter(|root| root.starts_with('/')).ok_or("its root is no absolute path in UTF-8")?;
    let (name, root, card) = (escape(&guest.name)?, escape(root)?, escape(&own.card)?);
    let (uuid, mac, kib) = (escape(&own.uuid)?, own.mac, own.memory_bytes.div_ceil(1024));
    // libvirt itself adds its default partition at the first start: the definition would no longer be the one that was written.
    let text = format!(
        "<domain type='lxc'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='KiB'>{kib}</memory>
  <vcpu>1</vcpu>
  <resource>
    <partition>/machine</partition>
  </resource>
  <os>
    <type>exe</type>
    <init>/sbin/init</init>
  </os>
  <features>
    <privnet/>
  </features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <filesystem type='mount'>
      <source dir='{root}'/>
      <target dir='/'/>
    </filesystem>
    <interface type='bridge'>
      <mac address='{mac}'/>
      <source bridge='{bridge}'/>
      <guest dev='{card}'/>
    </interface>
    <console type='pty'/>
  </devices>
</domain>
"
    );
    // Read again, and marked, as every other one is.
    edit::apply(&text, &DefinitionEdit { mark: Some(guest.mark.clone()), ..DefinitionEdit::default() })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::libvirt::xml;
    use crate::{DiskSource, Mark, NewAddress, NewContainer, Role};

    #[test]
    fn what_is_composed_says_what_was_asked() {
        let guest = NewGuest {
            name: "oldmail--k3f9".into(),
            root: "/srv/trees/a&b".into(),
            hostname: "oldmail".into(),
            addresses: vec![NewAddress { interface: Some("br0".into()), ip: "10.0.5.13".parse().unwrap(), prefix: 24 }],
            mark: Some(Mark { run: "oldmail--k3f9".into(), role: Role::Clone }),
            container: Some(NewContainer {
                uuid: "0e6e1d3f-3f0b-8d3c-a1aa-5b0c1e2d3f4a".into(),
                card: "ens3".into(),
                mac: "52:54:00:01:02:03".parse().unwrap(),
                memory_bytes: 1 << 30,
            }),
        };
        let facts = xml::read(&container(&guest).unwrap()).unwrap();
        assert_eq!((facts.name.as_str(), facts.mark), ("oldmail--k3f9", guest.mark.clone()));
        assert_eq!(facts.uuid.as_deref(), Some("0e6e1d3f-3f0b-8d3c-a1aa-5b0c1e2d3f4a"));
        assert_eq!(facts.memory_bytes, 1 << 30);
        let [disk] = facts.disks.as_slice() else { panic!("{:?}", facts.disks) };
        assert_eq!((disk.root, &disk.source), (true, &DiskSource::Directory("/srv/trees/a&b".into())));
        let [nic] = facts.nics.as_slice() else { panic!("{:?}", facts.nics) };
        assert_eq!((nic.name.as_deref(), nic.bridge.as_str()), (Some("ens3"), "br0"));
        assert_eq!(nic.mac, guest.container.as_ref().map(|own| own.mac));
        assert!(container(&NewGuest { container: None, ..guest.clone() }).is_err());
        assert!(container(&NewGuest { addresses: Vec::new(), ..guest }).is_err());
    }
}
