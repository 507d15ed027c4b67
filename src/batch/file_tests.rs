#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::inventory::parse_text;

const INVENTORY: &str = r#"
version = 1
[hosts]
jailhost = { hypervisor = "jail", ssh = { address = "jailhost" }, jails = "/jails" }
node1 = { hypervisor = "sim" }
node2 = { hypervisor = "sim" }
[guests.ServerA]
host = "jailhost"
clone = { strategy = "transfer", ip = [".113"], interface = "em0" }
source = { ssh = { address = "a" }, filesystems = ["/"], parking = "10.0.0.1" }
[guests.ServerB]
host = "jailhost"
clone = { strategy = "transfer", ip = [".114"], interface = "em0" }
source = { ssh = { address = "b" }, filesystems = ["/"], parking = "10.0.0.2" }
[guests.ServerC]
host = "jailhost"
clone = { strategy = "transfer", ip = [".115"], interface = "em0" }
source = { ssh = { address = "c" }, filesystems = ["/"], parking = "10.0.0.3" }
[guests.web1]
host = "node1"
tags = ["web"]
[guests.web2]
host = "node1"
tags = ["web"]
clone = { runs_on = "node2" }
[guests.web3]
host = "node2"
tags = ["web", "old"]
"#;

fn read(text: &str) -> Result<Spec, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("batch.toml");
    std::fs::write(&path, text).unwrap();
    load(&path, &parse_text(INVENTORY).unwrap()).map_err(|error| match error {
        InventoryError::Invalid(problems) => {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            lines.join("\n").replace(&path.display().to_string(), "FILE")
        }
        error @ InventoryError::Io { .. } => error.to_string(),
    })
}

fn guests(spec: &Spec) -> Vec<&str> {
    spec.items.iter().map(|item| item.guest.as_str()).collect()
}

#[test]
fn the_example_is_what_the_book_says() {
    let spec = read(EXAMPLE).unwrap();
    assert_eq!((spec.name.as_str(), spec.words().as_str()), ("consolidation", "clone, upgrade, verify"));
    assert_eq!(guests(&spec), ["ServerA", "ServerB", "ServerC"]);
    assert_eq!((spec.items[2].after.as_slice(), spec.items[2].on_failure), ([1].as_slice(), OnFailure::Abort));
    assert_eq!((spec.items[0].link.as_deref(), spec.items[1].expected_s), (Some("jailhost"), Some(2700)));
    // What stands there as a comment is sound, too.
    let all = EXAMPLE.replace("# window", "window").replace("# waves", "waves").replace("# between", "between");
    let spec = read(&all.replace("# stop", "stop")).unwrap();
    assert_eq!((spec.waves(), spec.stop_at_failed), (2, Some(StopAt::Percent(20))));
}

#[test]
fn guests_are_picked_by_name_host_and_tag_and_once() {
    let head = "version = 1\n[batch]\nname = \"n\"\nverbs = [\"clone\"]\n";
    let spec = read(&format!(
        "{head}waves = [1, \"rest\"]\n[[batch.items]]\ntag = \"web\"\n[[batch.items]]\nguest = \"web2\"\non_failure = \"stop\"\n\
         after = [\"web1\"]\n[[batch.items]]\nhost = \"jailhost\"\n"
    ));
    let spec = spec.unwrap();
    assert_eq!(guests(&spec), ["web1", "web3", "web2", "ServerA", "ServerB", "ServerC"]);
    let web2 = &spec.items[2];
    assert_eq!((web2.on_failure, web2.after.as_slice(), web2.wave), (OnFailure::Stop, [0].as_slice(), 1));
    assert_eq!((web2.host.as_str(), web2.disk.as_str()), ("node2", "node1"), "it runs elsewhere");
}

#[test]
fn every_slip_has_its_place_and_remedy() {
    let slips = [
        (
            "[batch]\nname = \"a b\"\nverbs = [\"verify\", \"clone\"]\nparalel = 2\n[[batch.items]]\nguest = \"ServerX\"\n",
            "slips",
        ),
        (
            "[batch]\nname = \"n\"\nverbs = [\"abort\", \"clone\"]\nwindow = \"22-5\"\nwaves = [\"rest\", 1]\n\
             stop_at_failed = \"half\"\n[[batch.items]]\nguest = \"web1\"\ntag = \"web\"\n[[batch.items]]\ntag = \"webb\"\n",
            "more slips",
        ),
        (
            "[batch]\nname = \"n\"\nverbs = [\"clone\"]\nwaves = [1, 1]\n[[batch.items]]\nguest = \"web1\"\nafter = [\"web2\"]\n\
             [[batch.items]]\nguest = \"web2\"\nafter = [\"web1\", \"web9\"]\n[[batch.items]]\nguest = \"web3\"\n\
             [[batch.items]]\nguest = \"web3\"\n",
            "order",
        ),
        ("[batch]\nname = \"n\"\nverbs = []\n", "nothing"),
        ("", "empty"),
    ];
    let mut all = String::new();
    for (text, what) in slips {
        let said = read(&format!("version = 1\n{text}")).unwrap_err();
        all.push_str(&format!("== {what}\n{said}\n"));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn a_name_is_found_in_a_file_that_is_wrong_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("batch.toml");
    std::fs::write(&path, "[batch]\nname = \"night\"\nverbs = 7\n").unwrap();
    assert_eq!(name(&path).as_deref(), Some("night"));
    assert_eq!(name(&dir.path().join("none")), None);
}
