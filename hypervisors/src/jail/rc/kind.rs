//! What the variables of an rc.conf(5) are about, for the reduction of a server's to what a jail needs: in a jail hardware and
//! network are the host's. Pure.
//!
//! The names are those of rc.conf(5) and /etc/defaults/rc.conf from 4.x on, old ones included. A name that is neither is a
//! service's if it ends as services' do (`_enable`, `_flags` …), or belongs to one that the file enables.

use std::collections::BTreeSet;

use super::{Rc, Statement};

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Devices, disks, kernel, console, power, clock: the host's.
    Hardware,
    /// Interfaces, addresses, routes, packet filters: the host's.
    Network,
    /// A program that is started, and how.
    Service,
    /// Jails of this machine itself.
    Jail,
    /// Anything else, code included.
    Other,
}

/// A statement and what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classified {
    /// Index in [`Rc::statements`].
    pub statement: usize,
    /// First line, from 1.
    pub line: usize,
    /// The variable; none of code.
    pub name: Option<String>,
    /// What it is about.
    pub kind: Kind,
}

/// Names, or beginnings of names where they end with an underscore, of what is the host's hardware.
const HARDWARE: &[&str] = &[
    "acpi_",
    "adjkerntz_",
    "allscreens_",
    "apm_",
    "apmd_",
    "ata_",
    "atm_",
    "background_fsck",
    "background_fsck_",
    "bluetooth_",
    "blanktime",
    "bthidd_",
    "ccd_",
    "crashinfo_",
    "cursor",
    "devd_",
    "devfs_",
    "devmatch_",
    "dmesg_",
    "dumpdev",
    "dumpdir",
    "early_late_divider",
    "economy_",
    "entropy_",
    "extra_netfs_types",
    "font8x14",
    "font8x16",
    "font8x8",
    "fsck_",
    "gbde_",
    "geli_",
    "ggated_",
    "growfs_",
    "gvinum_",
    "hcsecd_",
    "hostid_",
    "iovctl_",
    "iscsictl_",
    "iscsid_",
    "isdn_",
    "kern_securelevel",
    "kern_securelevel_",
    "keybell",
    "keyboard",
    "keychange",
    "keymap",
    "keyrate",
    "kld_",
    "kldxref_",
    "ldm_",
    "mdconfig_",
    "microcode_update_",
    "mixer_",
    "mousechar_",
    "moused_",
    "ntpd_",
    "ntpdate_",
    "opensm_",
    "openzfs_",
    "pccard_",
    "performance_",
    "powerd_",
    "raidctl_",
    "rand_",
    "rctl_",
    "removable_",
    "root_hold_",
    "root_rw_",
    "savecore_",
    "saver",
    "scrnmap",
    "sdpd_",
    "start_vinum",
    "swap_",
    "swapfile",
    "swapoff_",
    "timed_",
    "ums_",
    "usbd_",
    "vidcontrol_",
    "vinum_",
    "watchdogd_",
    "wpa_supplicant_",
    "xntpd_",
    "zfs_",
    "zfskeys_",
    "zpool_",
];

/// The same of the network.
const NETWORK: &[&str] = &[
    "arpproxy_",
    "autobridge_",
    "background_dhclient",
    "background_dhclient_",
    "bridge_",
    "cloned_",
    "create_args_",
    "defaultroute_",
    "defaultrouter",
    "defaultrouter_",
    "dhclient_",
    "faith_",
    "fec_",
    "firewall_",
    "forward_sourceroute",
    "gateway_",
    "gif_",
    "gifconfig_",
    "hostapd_",
    "hostname",
    "icmp_",
    "ifconfig_",
    "igmp_",
    "ip6addrctl_",
    "ip_portrange_",
    "ipfilter_",
    "ipfs_",
    "ipfw_",
    "ipfw_netflow_",
    "ipmon_",
    "ipnat_",
    "ippool_",
    "ipsec_",
    "ipv4_",
    "ipv6_",
    "log_in_vain",
    "mroute6d_",
    "mrouted_",
    "natd_",
    "netif_",
    "netoptions_",
    "network_interfaces",
    "ngctl_",
    "nd6_",
    "pf_",
    "pflog_",
    "pfsync_",
    "ppp_",
    "pppoed_",
    "resolv_",
    "route6d_",
    "route_",
    "routed_",
    "router",
    "router_",
    "rtadvd_",
    "rtsol_",
    "rtsold_",
    "sppp_",
    "spppconfig_",
    "static_arp_",
    "static_ndp_",
    "static_routes",
    "static_routes_",
    "stf_",
    "synchronous_dhclient",
    "tcp_",
    "vlans_",
    "wlans_",
];

/// How names of services' variables end.
const ENDS: [&str; 14] = [
    "_chdir",
    "_conf",
    "_config",
    "_enable",
    "_env",
    "_fib",
    "_flags",
    "_group",
    "_login_class",
    "_nice",
    "_outfile",
    "_pidfile",
    "_program",
    "_user",
];

impl Rc {
    /// What every statement is about, in order.
    pub fn kinds(&self) -> Vec<Classified> {
        let services: BTreeSet<&str> = self
            .assigns()
            .filter_map(|assign| assign.name.strip_suffix("_enable"))
            .filter(|name| !name.is_empty())
            .collect();
        let classify = |(index, statement): (usize, &Statement)| {
            let (name, at) = match statement {
                Statement::Assign(assign) => (Some(&assign.name), assign.span.start),
                Statement::Code(code) => (None, code.span.start),
            };
            Classified {
                statement: index,
                line: self.place(at).line,
                name: name.cloned(),
                kind: name.map_or(Kind::Other, |name| kind(name, &services)),
            }
        };
        self.statements().iter().enumerate().map(classify).collect()
    }
}

/// What a variable is about. `services`: those that the file enables or disables.
fn kind(name: &str, services: &BTreeSet<&str>) -> Kind {
    let one_of =
        |names: &[&str]| names.iter().any(|known| name == *known || known.ends_with('_') && name.starts_with(known));
    if name.starts_with("jail_") {
        Kind::Jail
    } else if one_of(HARDWARE) {
        Kind::Hardware
    } else if one_of(NETWORK) {
        Kind::Network
    } else if ENDS.iter().any(|end| name.ends_with(end)) || begins_with_service(name, services) {
        Kind::Service
    } else {
        Kind::Other
    }
}

fn begins_with_service(name: &str, services: &BTreeSet<&str>) -> bool {
    name.match_indices('_').any(|(at, _)| services.contains(&name[..at]))
}
