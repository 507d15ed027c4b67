//! What is asked of the API, in its JSON form, made from what it told. A device that is edited is sent back as it was read, but for
//! what changes: nothing of it is lost that nobody here knows.

use serde_json::{Value, json};

use super::facts;
use crate::Mark;
use crate::machines::{NewMachine, NicEdit};

/// Where a card is plugged in, as the API wants it.
#[derive(Clone, Debug)]
pub(super) enum Plug {
    /// A network of the host's own, by name.
    Network(String),
    /// A port group of a distributed switch: its key, and the switch's UUID.
    Portgroup { key: String, switch: String },
}

impl Plug {
    fn backing(&self) -> Value {
        match self {
            Self::Network(name) => json!({"_typeName": "VirtualEthernetCardNetworkBackingInfo", "deviceName": name}),
            Self::Portgroup { key, switch } => json!({
                "_typeName": "VirtualEthernetCardDistributedVirtualPortBackingInfo",
                "port": {"_typeName": "DistributedVirtualSwitchPortConnection", "switchUuid": switch, "portgroupKey": key},
            }),
        }
    }
}

/// An empty `VirtualMachineConfigSpec`.
pub(super) fn config() -> Value {
    json!({"_typeName": "VirtualMachineConfigSpec"})
}

/// The extraConfig that sets or removes a run mark. "Keys with empty values will be removed" (`VirtualMachineConfigSpec.extraConfig`).
pub(super) fn marked(mark: Option<&Mark>) -> Value {
    let value = mark.map(Mark::to_string).unwrap_or_default();
    json!([{"_typeName": "OptionValue", "key": facts::MARK, "value": {"_typeName": "string", "_value": value}}])
}

fn change(device: Value) -> Value {
    json!({"_typeName": "VirtualDeviceConfigSpec", "operation": "edit", "device": device})
}

/// The edit of one card; `None` if it already is as asked.
pub(super) fn nic(device: &Value, edit: &NicEdit, plug: Option<&Plug>) -> Option<Value> {
    let mut edited = device.clone();
    let fields = edited.as_object_mut()?;
    if edit.connected.is_some() || edit.start_connected.is_some() {
        let usual = json!({"_typeName": "VirtualDeviceConnectInfo", "startConnected": true, "allowGuestControl": true,
            "connected": false});
        let state = fields.entry("connectable").or_insert(usual).as_object_mut()?;
        for (name, wanted) in [("connected", edit.connected), ("startConnected", edit.start_connected)] {
            if let Some(wanted) = wanted {
                state.insert(name.into(), wanted.into());
            }
        }
    }
    if let Some(mac) = edit.mac {
        let mac = mac.to_string();
        let is = |field: &str, wanted: &str| {
            fields.get(field).and_then(Value::as_str).is_some_and(|now| now.eq_ignore_ascii_case(wanted))
        };
        let same = is("macAddress", &mac);
        // "Clients can set this property to any of the allowed address types" (VirtualEthernetCard.macAddress).
        if !same || edit.mac_type.as_ref().is_some_and(|wanted| !is("addressType", wanted)) {
            let kind = edit.mac_type.clone().unwrap_or_else(|| "manual".to_owned());
            fields.insert("addressType".into(), kind.into());
            if !same {
                fields.insert("macAddress".into(), mac.into());
            }
        }
    }
    if let Some(plug) = plug {
        fields.insert("backing".into(), plug.backing());
    }
    (edited != *device).then(|| change(edited))
}

/// Cards of a clone: disconnected, with hardware addresses of their own, and not at the port of a distributed switch that is their
/// original's: one of their port group is chosen for them.
pub(super) fn unplugged<'a>(devices: impl Iterator<Item = &'a Value>) -> Vec<Value> {
    let off = NicEdit { connected: Some(false), start_connected: Some(false), ..NicEdit::default() };
    let cards = devices.filter(|device| facts::is_nic(device)).filter_map(|device| {
        let mut device = device.clone();
        let fields = device.as_object_mut()?;
        fields.remove("macAddress");
        fields.insert("addressType".into(), "generated".into());
        if let Some(port) = fields.get_mut("backing").and_then(|backing| backing.get_mut("port")?.as_object_mut()) {
            port.remove("portKey");
            port.remove("connectionCookie");
        }
        Some(nic(&device, &off, None).unwrap_or_else(|| change(device)))
    });
    cards.collect()
}

/// How a clone's disks come to be (`VirtualMachineRelocateDiskMoveOptions`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disks {
    /// "A new child disk backing will be created for any virtual disk that is not in the destination": only from a snapshot, else
    /// two machines would write to the same disk.
    Linked,
    /// "The disk backing (all of it, consolidated) will be copied".
    Own,
}

/// The `VirtualMachineCloneSpec` of a clone from a snapshot.
pub(super) fn clone(disks: Disks, snapshot: &str, cards: Vec<Value>, new: &NewMachine) -> Value {
    let moved = match disks {
        Disks::Linked => "createNewChildDiskBacking",
        Disks::Own => "moveAllDiskBackingsAndDisallowSharing",
    };
    let mut config = config();
    config["extraConfig"] = marked(Some(&new.mark));
    config["instanceUuid"] = new.uuid.clone().into();
    json!({
        "_typeName": "VirtualMachineCloneSpec",
        "location": {"_typeName": "VirtualMachineRelocateSpec", "diskMoveType": moved, "deviceChange": cards},
        "template": false,
        "config": config,
        "powerOn": false,
        "snapshot": {"_typeName": "ManagedObjectReference", "type": "VirtualMachineSnapshot", "value": snapshot},
        "memory": false,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn card() -> Value {
        json!({"_typeName": "VirtualVmxnet3", "key": 4000, "backing": {"_typeName": "VirtualEthernetCardNetworkBackingInfo",
            "deviceName": "VM Network"}, "connectable": {"_typeName": "VirtualDeviceConnectInfo", "startConnected": true,
            "allowGuestControl": true, "connected": true}, "addressType": "assigned", "macAddress": "00:50:56:8f:00:01",
            "somethingNew": {"kept": 1}})
    }

    #[test]
    fn an_edited_card_keeps_what_nobody_here_knows() {
        let edit = NicEdit { key: 4000, connected: Some(false), ..NicEdit::default() };
        let spec = nic(&card(), &edit, None).unwrap();
        assert_eq!(spec["operation"], "edit");
        assert_eq!(spec["device"]["somethingNew"], json!({"kept": 1}));
        assert_eq!(spec["device"]["connectable"]["connected"], false);
        assert_eq!(spec["device"]["connectable"]["startConnected"], true);
    }

    #[test]
    fn what_already_is_as_asked_is_no_edit() {
        let mac = "00:50:56:8F:00:01".parse().unwrap();
        let edit = NicEdit { key: 4000, connected: Some(true), mac: Some(mac), ..NicEdit::default() };
        assert!(nic(&card(), &edit, None).is_none());
        assert!(nic(&Value::Null, &edit, None).is_none());
    }

    #[test]
    fn a_hardware_address_is_given_with_its_type() {
        let edit = |mac: &str, kind: Option<&str>| NicEdit {
            key: 4000,
            mac: Some(mac.parse().unwrap()),
            mac_type: kind.map(str::to_owned),
            ..NicEdit::default()
        };
        let (own, other) = ("00:50:56:8f:00:01", "00:50:56:00:00:07");
        for (mac, kind, expected) in [
            (own, None, None),
            (own, Some("assigned"), None),
            (own, Some("manual"), Some((own, "manual"))),
            (other, None, Some((other, "manual"))),
            (other, Some("generated"), Some((other, "generated"))),
        ] {
            let spec = nic(&card(), &edit(mac, kind), None);
            let now = spec.as_ref().map(|spec| (&spec["device"]["macAddress"], &spec["device"]["addressType"]));
            let now = now.map(|(mac, kind)| (mac.as_str().unwrap(), kind.as_str().unwrap()));
            assert_eq!(now, expected, "{mac} as {kind:?}");
        }
    }

    /// A port takes one card.
    #[test]
    fn a_clones_card_is_not_at_its_originals_port() {
        let mut card = card();
        card["backing"] = json!({"_typeName": "VirtualEthernetCardDistributedVirtualPortBackingInfo", "port":
            {"switchUuid": "50", "portgroupKey": "dvportgroup-1", "portKey": "10", "connectionCookie": 7}});
        let port = &unplugged([card].iter())[0]["device"]["backing"]["port"];
        assert_eq!(port, &json!({"switchUuid": "50", "portgroupKey": "dvportgroup-1"}));
    }

    #[test]
    fn a_clones_cards_are_unplugged_and_never_have_their_originals_address() {
        let devices = [card(), json!({"_typeName": "VirtualDisk", "key": 2000})];
        let cards = unplugged(devices.iter());
        assert_eq!(cards.len(), 1);
        assert_eq!(cards[0]["device"]["connectable"]["startConnected"], false);
        assert!(cards[0]["device"].get("macAddress").is_none());
    }
}
