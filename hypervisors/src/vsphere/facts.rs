//! What a machine is, from its properties. The properties are as hostile as anything: what has not the form of the reference is
//! as if it were not there, and what a decision must not rest on then is refused.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;
use vim_rs::types::enums::MoTypesEnum;
use vim_rs::types::structs::ManagedObjectReference;

use super::props::{Seen, reference};
use crate::machines::{Machine, MachineDisk, MachineFacts, MachineNic, SnapshotFacts, Tools, ToolsKind};
use crate::{MacAddr, Mark, Power};

/// The extraConfig key of a run mark.
pub(super) const MARK: &str = "upgradectl.run";

/// Properties of a machine that [`machine`] reads.
pub(super) const MACHINE: &[&str] = &[
    "name",
    "parent",
    "parentVApp",
    "config.uuid",
    "config.instanceUuid",
    "config.template",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.hardware.device",
    "config.extraConfig",
    "runtime.powerState",
    "runtime.consolidationNeeded",
    "guest.toolsRunningStatus",
    "guest.toolsVersionStatus2",
    "guest.toolsInstallType",
    "guest.ipAddress",
    "guest.net",
    "snapshot",
];
/// Properties of what machines are in, and their types.
pub(super) const ABOVE: &[(&str, &[&str])] = &[
    ("Folder", &["name", "parent"]),
    ("Datacenter", &["name", "parent"]),
    ("VirtualApp", &["name", "parent", "parentFolder"]),
];
/// Longest chain of folders, of disks, of snapshots.
const DEEP: usize = 64;

#[derive(Deserialize)]
struct Reference {
    value: String,
}

/// What is above machines: name and parent by the server's id.
#[derive(Debug, Default)]
pub(super) struct Above(HashMap<String, (String, Option<String>)>);

impl Above {
    pub(super) fn add(&mut self, seen: &Seen) {
        let name = seen.text("name").unwrap_or_default().to_owned();
        self.0.insert(seen.reference.value.clone(), (name, parent(seen)));
    }

    /// Inventory path of a machine: all that is above it but the root folder, whose name no path has.
    pub(super) fn path(&self, machine: &Seen) -> String {
        let mut names = vec![machine.text("name").unwrap_or_default()];
        let mut next = parent(machine);
        while let Some((name, parent)) = next.and_then(|id| self.0.get(&id)) {
            if parent.is_none() || names.len() > DEEP {
                break;
            }
            names.push(name);
            next = parent.clone();
        }
        names.iter().rev().fold(String::new(), |path, name| format!("{path}/{name}"))
    }
}

/// The id of what an object is in: of a vApp and of what is in one, the folder or vApp.
fn parent(seen: &Seen) -> Option<String> {
    let of = |name: &str| seen.get::<Reference>(name).map(|found| found.value);
    of("parentVApp").or_else(|| of("parentFolder")).or_else(|| of("parent"))
}

/// The folder a machine is in.
pub(super) fn folder(seen: &Seen) -> Option<ManagedObjectReference> {
    Some(reference(MoTypesEnum::Folder, seen.get::<Reference>("parent")?.value))
}

/// Instance UUID of a machine.
pub(super) fn uuid(seen: &Seen) -> Option<String> {
    seen.text("config.instanceUuid").filter(|uuid| !uuid.is_empty()).map(str::to_ascii_lowercase)
}

/// Which machine it is; `None` if it has no UUID: it is being made, or its files cannot be reached.
pub(super) fn which(seen: &Seen, above: &Above) -> Option<Machine> {
    let name = seen.text("name")?.to_owned();
    Some(Machine { uuid: uuid(seen)?, path: above.path(seen), name })
}

/// All about a machine; `None` as [`which`], and where a decision would rest on what was not told: its power, its devices.
pub(super) fn machine(seen: &Seen, above: &Above, networks: &HashMap<String, String>) -> Option<MachineFacts> {
    let power = match seen.text("runtime.powerState")? {
        "poweredOn" => Power::On,
        "suspended" => Power::Paused,
        "poweredOff" => Power::Off,
        _ => return None,
    };
    seen.properties.get("config.hardware.device")?.as_array()?;
    let (current_snapshot, snapshots) = snapshots(seen);
    Some(MachineFacts {
        machine: which(seen, above)?,
        bios: seen.text("config.uuid").filter(|uuid| !uuid.is_empty()).map(str::to_ascii_lowercase),
        power,
        memory_bytes: seen.get::<u64>("config.hardware.memoryMB").unwrap_or_default().saturating_mul(1 << 20),
        cpus: seen.get("config.hardware.numCPU").unwrap_or_default(),
        disks: devices(seen).filter(|device| is(device, "VirtualDisk")).map(disk).collect::<Option<_>>()?,
        nics: devices(seen)
            .filter(|device| is_nic(device))
            .map(|device| nic(device, networks))
            .collect::<Option<_>>()?,
        tools: tools(seen),
        snapshots,
        current_snapshot,
        mark: mark(seen),
        addresses: addresses(seen),
        needs_consolidation: seen.get("runtime.consolidationNeeded").unwrap_or_default(),
        template: seen.get("config.template").unwrap_or_default(),
    })
}

/// The machine's devices, as the API has them in JSON.
pub(super) fn devices(seen: &Seen) -> impl Iterator<Item = &Value> {
    seen.properties.get("config.hardware.device").and_then(Value::as_array).into_iter().flatten()
}

/// Whether a device is a network card.
pub(super) fn is_nic(device: &Value) -> bool {
    const CARDS: [&str; 7] = [
        "VirtualE1000",
        "VirtualE1000e",
        "VirtualPCNet32",
        "VirtualSriovEthernetCard",
        "VirtualVmxnet",
        "VirtualVmxnet2",
        "VirtualVmxnet3",
    ];
    let kind = device.get("_typeName").and_then(Value::as_str).unwrap_or_default();
    CARDS.contains(&kind) || kind == "VirtualVmxnet3Vrdma"
}

fn text_at<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str()
}

fn key(device: &Value) -> Option<i32> {
    i32::try_from(device.get("key")?.as_i64()?).ok()
}

fn label(device: &Value) -> String {
    text_at(device, "/deviceInfo/label").unwrap_or_default().to_owned()
}

fn is(device: &Value, kind: &str) -> bool {
    text_at(device, "/_typeName") == Some(kind)
}

/// A disk; `None` if the API does not tell its key, its file or all that this stands on.
fn disk(device: &Value) -> Option<MachineDisk> {
    let kilobytes = device.get("capacityInKB").and_then(Value::as_u64).unwrap_or_default();
    let mut parents = Vec::new();
    let mut next = device.pointer("/backing/parent");
    while let Some(parent) = next.filter(|parent| !parent.is_null()) {
        if parents.len() == DEEP {
            return None;
        }
        parents.push(text_at(parent, "/fileName")?.to_owned());
        next = parent.get("parent");
    }
    let kind = text_at(device, "/backing/_typeName").unwrap_or_default();
    let raw = kind.contains("RawDisk") || kind.contains("PartitionedRaw");
    let file = text_at(device, "/backing/fileName").unwrap_or_default();
    if file.is_empty() && !raw {
        return None;
    }
    let shared = text_at(device, "/backing/sharing").is_some_and(|word| word != "sharingNone");
    Some(MachineDisk {
        key: key(device)?,
        label: label(device),
        file: file.to_owned(),
        parents,
        bytes: device.get("capacityInBytes").and_then(Value::as_u64).unwrap_or(kilobytes.saturating_mul(1024)),
        independent: text_at(device, "/backing/diskMode").is_some_and(|mode| mode.starts_with("independent")),
        raw,
        shared,
    })
}

/// The key of the port group of a distributed switch that a card is plugged into.
pub(super) fn portgroup(device: &Value) -> Option<&str> {
    text_at(device, "/backing/port/portgroupKey")
}

/// A card; `None` if the API does not tell its key.
fn nic(device: &Value, networks: &HashMap<String, String>) -> Option<MachineNic> {
    let named = portgroup(device).map(|key| networks.get(key).map_or(key, String::as_str));
    let network = named.or_else(|| text_at(device, "/backing/deviceName")).unwrap_or_default();
    let is = |pointer: &str| device.pointer(pointer).and_then(Value::as_bool).unwrap_or_default();
    Some(MachineNic {
        key: key(device)?,
        label: label(device),
        mac: text_at(device, "/macAddress").and_then(|mac| mac.parse::<MacAddr>().ok()),
        mac_type: text_at(device, "/addressType").map(str::to_owned),
        network: network.to_owned(),
        connected: is("/connectable/connected"),
        start_connected: is("/connectable/startConnected"),
    })
}

fn tools(seen: &Seen) -> Tools {
    let kind = match seen.text("guest.toolsInstallType").unwrap_or_default() {
        "guestToolsTypeTar" => ToolsKind::Tar,
        "guestToolsTypeOSP" => ToolsKind::Osp,
        "guestToolsTypeOpenVMTools" => ToolsKind::Open,
        "guestToolsTypeMSI" => ToolsKind::Msi,
        _ => ToolsKind::Unknown,
    };
    Tools {
        kind,
        running: seen.text("guest.toolsRunningStatus") == Some("guestToolsRunning"),
        version: seen.text("guest.toolsVersionStatus2").map(str::to_owned),
    }
}

fn array<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The snapshot tree, flat, and the id of the current one.
fn snapshots(seen: &Seen) -> (Option<String>, Vec<SnapshotFacts>) {
    let Some(info) = seen.properties.get("snapshot") else { return (None, Vec::new()) };
    let current = text_at(info, "/currentSnapshot/value").map(str::to_owned);
    let mut found = Vec::new();
    let mut left: Vec<(Option<String>, &Value)> = Vec::new();
    left.extend(array(info, "rootSnapshotList").iter().rev().map(|tree| (None, tree)));
    while let Some((parent, tree)) = left.pop() {
        let Some(id) = text_at(tree, "/snapshot/value") else { continue };
        let word = |name: &str| tree.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        found.push(SnapshotFacts {
            id: id.to_owned(),
            name: word("name"),
            description: word("description"),
            created: word("createTime"),
            parent,
            quiesced: tree.get("quiesced").and_then(Value::as_bool).unwrap_or_default(),
        });
        let below = array(tree, "childSnapshotList").iter().rev();
        left.extend(below.map(|tree| (Some(id.to_owned()), tree)));
    }
    (current, found)
}

/// The run mark. A key that is there twice (it cannot be, on a real server) counts as it was set last.
pub(super) fn mark(seen: &Seen) -> Option<Mark> {
    let options = seen.properties.get("config.extraConfig")?.as_array()?;
    let option = options.iter().rev().find(|option| text_at(option, "/key") == Some(MARK))?;
    let value = option.get("value")?;
    value.as_str().or_else(|| text_at(value, "/_value"))?.parse().ok()
}

fn addresses(seen: &Seen) -> Vec<IpAddr> {
    let cards = seen.properties.get("guest.net").and_then(Value::as_array).into_iter().flatten();
    let of_cards = cards.filter_map(|card| card.get("ipAddress")?.as_array()).flatten().filter_map(Value::as_str);
    let mut found: Vec<IpAddr> = Vec::new();
    for text in seen.text("guest.ipAddress").into_iter().chain(of_cards) {
        match text.parse() {
            Ok(address) if !found.contains(&address) => found.push(address),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(power: &str, device: Value) -> Option<MachineFacts> {
        let properties = json!({"name": "web1", "config.instanceUuid": "5200", "runtime.powerState": power,
            "config.hardware.device": device});
        let reference = reference(MoTypesEnum::VirtualMachine, "vm-1");
        let seen = Seen { reference, properties: properties.as_object().unwrap().clone() };
        machine(&seen, &Above::default(), &HashMap::new())
    }

    fn disk(backing: Value) -> Value {
        json!({"_typeName": "VirtualDisk", "key": 2000, "backing": backing})
    }

    /// That nothing is told of disks does not say that it stands on nobody's.
    #[test]
    fn a_machine_whose_power_or_devices_are_not_told_is_none() {
        let flat = |parent: Value| disk(json!({"fileName": "[a] web1/web1.vmdk", "parent": parent}));
        let whole = told("poweredOff", json!([flat(json!({"fileName": "[a] base/base.vmdk"}))])).unwrap();
        assert_eq!((whole.power, whole.disks[0].base()), (Power::Off, "[a] base/base.vmdk"));
        assert!(told("poweredOff", json!([flat(Value::Null)])).unwrap().disks[0].parents.is_empty());
        let raw = disk(json!({"_typeName": "VirtualDiskRawDiskVer2BackingInfo", "deviceName": "/dev/sda"}));
        assert!(told("poweredOff", json!([raw])).unwrap().disks[0].raw);
        let mut deep = Value::Null;
        for _ in 0..=DEEP {
            deep = json!({"fileName": "[a] b/b.vmdk", "parent": deep});
        }
        for (power, device) in [
            ("poweredWhat", json!([flat(Value::Null)])),
            ("poweredOff", Value::Null),
            ("poweredOff", json!({"odd": 1})),
            ("poweredOff", json!([disk(json!({}))])),
            ("poweredOff", json!([disk(json!({"fileName": ""}))])),
            ("poweredOff", json!([{"_typeName": "VirtualDisk", "backing": {"fileName": "[a] web1/web1.vmdk"}}])),
            ("poweredOff", json!([flat(json!("[a] base/base.vmdk"))])),
            ("poweredOff", json!([flat(json!({}))])),
            ("poweredOff", json!([flat(deep)])),
            ("poweredOff", json!([{"_typeName": "VirtualVmxnet3"}])),
        ] {
            assert!(told(power, device.clone()).is_none(), "{power} {device}");
        }
    }
}
