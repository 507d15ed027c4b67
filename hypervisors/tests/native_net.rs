//! [`RealNet`] on a real link: two network namespaces and a veth pair between them. Needs root and `ip`.
//!
//! The test thread moves into one namespace; raw sockets are opened on threads of a runtime started there, so they inherit it.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "common/skip.rs"]
mod skip;

use std::fs::File;
use std::net::IpAddr;
use std::process::Command as Process;

use hypervisors::Cause;
use hypervisors::net::{MacAddr, Net, RealNet};
use nix::sched::{CloneFlags, setns};
use skip::skip;

/// A namespace by name, deleted (with its end of the pair) when dropped.
struct Namespace(String);

impl Namespace {
    fn new(suffix: &str) -> Self {
        let name = format!("upgctl{}{suffix}", std::process::id());
        ip(&["netns", "add", &name]);
        Self(name)
    }
    fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.0], arguments].concat());
    }
    fn neighbour(&self, address: &str) -> String {
        let output = Process::new("ip").args(["-n", &self.0, "neigh", "show", address]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Process::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(arguments: &[&str]) {
    let output = Process::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn owners_are_found_and_announcements_are_believed() {
    let able = Process::new("ip").arg("netns").output().is_ok_and(|output| output.status.success());
    if !able || !nix::unistd::geteuid().is_root() {
        skip("root and ip (package iproute2) with network namespaces");
        return;
    }
    let (here, there) = (Namespace::new("a"), Namespace::new("b"));
    let own: MacAddr = "02:00:00:00:00:0a".parse().unwrap();
    let peer: MacAddr = "02:00:00:00:00:0b".parse().unwrap();
    here.ip(&[
        "link",
        "add",
        "v0",
        "address",
        &own.to_string(),
        "type",
        "veth",
        "peer",
        "name",
        "v1",
        "netns",
        &there.0,
    ]);
    there.ip(&["link", "set", "v1", "address", &peer.to_string()]);
    for (namespace, link, v4, v6) in
        [(&here, "v0", "10.0.5.1/24", "fd00::1/64"), (&there, "v1", "10.0.5.2/24", "fd00::2/64")]
    {
        namespace.ip(&["address", "add", v4, "dev", link]);
        namespace.ip(&["address", "add", v6, "dev", link, "nodad"]);
    }
    // One more there, outside of our network: it answers a probe all the same.
    there.ip(&["address", "add", "10.9.9.9/24", "dev", "v1"]);

    let file = File::open(format!("/run/netns/{}", here.0)).unwrap();
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
                runtime.block_on(async {
                    let down = RealNet.owner(address("10.0.5.2"), "v0").await.unwrap_err();
                    assert!(matches!(down.cause, Cause::Refused(_)) && down.help.is_some(), "{down:?}");
                    here.ip(&["link", "set", "v0", "up"]);
                    there.ip(&["link", "set", "v1", "up"]);
                    for wanted in ["10.0.5.2", "10.9.9.9", "fd00::2"] {
                        let owner = RealNet.owner(address(wanted), "v0").await.unwrap();
                        assert_eq!(owner, Some(peer), "{wanted}");
                    }
                    for wanted in ["10.0.5.1", "fd00::1"] {
                        assert_eq!(RealNet.owner(address(wanted), "v0").await.unwrap(), Some(own), "{wanted}");
                    }
                    for wanted in ["10.0.5.3", "fd00::3"] {
                        assert_eq!(RealNet.owner(address(wanted), "v0").await.unwrap(), None, "{wanted}");
                    }

                    // The other side believes an address elsewhere, until it is announced here.
                    let wrong = "02:00:00:00:00:ee";
                    let new: MacAddr = "02:00:00:00:00:77".parse().unwrap();
                    for moved in ["10.0.5.50", "fd00::50"] {
                        there.ip(&["neigh", "add", moved, "lladdr", wrong, "dev", "v1", "nud", "stale"]);
                        assert!(there.neighbour(moved).contains(wrong));
                        RealNet.announce(address(moved), new, "v0").await.unwrap();
                        let known = there.neighbour(moved);
                        assert!(known.contains(&new.to_string()), "{moved}: {known}");
                    }
                    let error = RealNet.owner(address("10.0.5.2"), "lo").await.unwrap_err();
                    assert!(matches!(error.cause, Cause::Unsupported(_)), "{error:?}");
                });
            })
            .join()
            .unwrap();
    });
}
