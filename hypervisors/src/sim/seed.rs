//! Worlds to start with: one host, one mail server `mercure` with a data volume, running; or a host of a fleet, with many
//! small web servers.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::json;

use super::boot::uuid;
use super::commands::os_release;
use super::world::{HostConfig, Sim};
use crate::storage::Copies;
use crate::{Definition, Error, MacAddr, Power, Result};

/// Makes the default world in a directory: host `here`; guest `mercure` (10.0.5.12, Debian 12: postfix, dovecot, nginx, cron,
/// ssh) with its root on volume `mercure` and its mail archive on `mercure-mail`, at `/srv/mail`; it runs, and starts with its host.
/// User `probe` with password `probe` has three mails. Refuses a directory that has a world.
pub fn seed(dir: &Path) -> Result<Sim> {
    seed_with(dir, Copies::Trees)
}

/// Makes the default world with volumes whose copies stand to them like this. Other than with trees the guest has swap space:
/// disk `xvda2`, volume `mercure-swap`, 512 MiB.
pub fn seed_with(dir: &Path, copies: Copies) -> Result<Sim> {
    let sim = Sim::create(dir, &HostConfig { copies, ..HostConfig::default() })?;
    let doing = "fill the simulated world";
    let io = |error| Error::io(doing, error);
    let volumes = sim.volumes();
    root_tree(&volumes.join("mercure")).map_err(io)?;
    if copies != Copies::Trees {
        let fstab = volumes.join("mercure/etc/fstab");
        let text = fs::read_to_string(&fstab).map_err(io)?;
        fs::write(&fstab, text + "/dev/xvda2 none swap sw 0 0\n").map_err(io)?;
    }
    Tree(&volumes.join("mercure-mail")).file("archive/2024.mbox", "From a@example.org\n\nhello\n").map_err(io)?;
    sim.add_volume("mercure", 8 << 30, 1200 << 20)?;
    sim.add_volume("mercure-mail", 20 << 30, 300 << 20)?;
    let mut disks = vec![
        json!({"name": "/", "volume": "mercure", "root": true}),
        json!({"name": "/srv/mail", "volume": "mercure-mail"}),
    ];
    if copies != Copies::Trees {
        sim.add_swap("mercure-swap", 512 << 20, "swap")?;
        disks.insert(1, json!({"name": "xvda2", "volume": "mercure-swap"}));
    }
    let definition = json!({
        "name": "mercure",
        "uuid": "0f6e8b4a-2d0c-4c55-9f0e-5a1b7c3d2e10",
        "memory_bytes": 512 << 20,
        "vcpus": 1,
        "disks": disks,
        "nics": [{"name": "eth0", "mac": "00:16:3e:00:05:0c", "bridge": "br5"}],
        "note": "mail server; keys that the program does not know are kept",
    });
    start(&sim, "mercure", format!("{definition:#}\n"))?;
    Ok(sim)
}

/// Guests of a fleet that one host has room for.
pub const PER_HOST: usize = 20;

/// A guest of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetGuest {
    /// Its name: `g0001`.
    pub name: String,
    /// Its address; its clone may have the one that is [`PER_HOST`] further.
    pub address: Ipv4Addr,
}

/// The guests of a host (both counted from 0) of a fleet of so many.
pub fn fleet_of(host: usize, guests: usize) -> Vec<FleetGuest> {
    let first = host * PER_HOST;
    #[expect(clippy::cast_possible_truncation, reason = "two bytes of a number of hosts, and less than 20")]
    let guest = |number: usize| FleetGuest {
        name: format!("g{:04}", number + 1),
        address: Ipv4Addr::new(10, 1 + (host >> 8) as u8, host as u8, 20 + (number - first) as u8),
    };
    (first..guests.min(first + PER_HOST)).map(guest).collect()
}

/// Makes the world of one host of a fleet: small Debian 12 guests that run cron, nginx and ssh. Refuses a directory that has
/// a world.
pub fn seed_fleet(dir: &Path, host: usize, guests: usize) -> Result<Sim> {
    let guests = fleet_of(host, guests);
    let gateway = guests.first().map(|guest| {
        IpAddr::from([guest.address.octets()[0], guest.address.octets()[1], guest.address.octets()[2], 1])
    });
    let sim = Sim::create(
        dir,
        &HostConfig {
            name: format!("node{}", host + 1),
            memory_bytes: 1 << 40,
            pool_free_bytes: 1 << 40,
            addresses: gateway.into_iter().collect(),
            ..HostConfig::default()
        },
    )?;
    for guest in &guests {
        let FleetGuest { name, address } = guest;
        let root = Tree(&sim.volumes().join(name));
        small_tree(&root, guest).map_err(|error| Error::io("fill the simulated world", error))?;
        sim.add_volume(name, 4 << 30, 600 << 20)?;
        let [_, a, b, c] = address.octets();
        let definition = json!({
            "name": name,
            "uuid": uuid(&format!("fleet {name}")),
            "memory_bytes": 256 << 20,
            "vcpus": 1,
            "disks": [{"name": "/", "volume": name, "root": true}],
            "nics": [{"name": "eth0", "mac": MacAddr([0, 0x16, 0x3e, a, b, c]).to_string(), "bridge": "br5"}],
        });
        start(&sim, name, format!("{definition:#}\n"))?;
    }
    Ok(sim)
}

fn start(sim: &Sim, name: &str, text: String) -> Result<()> {
    let mut world = sim.lock()?;
    world.define(&Definition { name: name.into(), text: text.clone() })?;
    world.boot(name, &text)?;
    let mut runtime = world.runtime(name)?;
    (runtime.autostart, runtime.power) = (true, Power::On);
    world.set_runtime(name, &runtime)
}

/// Writes files below a root.
struct Tree<'a>(&'a Path);

impl Tree<'_> {
    fn file(&self, path: &str, text: &str) -> io::Result<()> {
        let path = self.0.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text)?;
        // Whatever the umask is: worlds are alike.
        fs::set_permissions(path, fs::Permissions::from_mode(0o644))
    }
    fn secret(&self, path: &str, text: &str) -> io::Result<()> {
        self.file(path, text)?;
        fs::set_permissions(self.0.join(path), fs::Permissions::from_mode(0o600))
    }
    fn dirs(&self, paths: &[&str]) -> io::Result<()> {
        paths.iter().try_for_each(|path| fs::create_dir_all(self.0.join(path)))
    }
}

/// Services of the seeded guest; all enabled.
const SERVICES: [(&str, &str); 5] = [
    ("cron", "Regular background program processing daemon"),
    ("dovecot", "Dovecot IMAP/POP3 email server"),
    ("nginx", "A high performance web server and a reverse proxy server"),
    ("postfix", "Postfix Mail Transport Agent"),
    ("ssh", "OpenBSD Secure Shell server"),
];

/// Packages of the seeded guest, in the order of the database.
const PACKAGES: &str = "adduser 3.134
apt 2.6.1
base-files 12.4
base-passwd 3.6.1
bash 5.2.15-2
ca-certificates 20230311
coreutils 9.1-1
cron 3.0pl1-162
dash 0.5.12-2
debconf 1.5.82
debian-archive-keyring 2023.3
diffutils 3.8-4
dovecot-core 2.3.19.1-2
dovecot-imapd 2.3.19.1-2
dovecot-pop3d 2.3.19.1-2
dpkg 1.21.22
findutils 4.9.0-4
gzip 1.12-1
ifupdown 0.8.41
iproute2 6.1.0-3
libc6 2.36-9
libpam0g 1.5.2-6
libssl3 3.0.15-1
libsystemd0 252.30-1
login 4.13
nginx 1.22.1-9
openssh-server 9.2p1-2
perl-base 5.36.0-7
postfix 3.7.11-0
sed 4.9-1
systemd 252.30-1
tar 1.34
tzdata 2024a-0
util-linux 2.38.1-5";

/// Public keys made for this file; nobody has the private halves, and nothing checks them.
const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJr0g3V5hX2kYbq3yG0kqjv3s8n1QzQm8d5T4w6mRk2A root@mercure\n";
const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBKf1c2ltdWxhdGVkLWtleS1vZi1tZXJjdXJlLW5vdC1hLXNlY3JldC1hdC1hbGwtMDAwMDAwMDAwMDA= root@mercure\n";

fn root_tree(root: &Path) -> io::Result<()> {
    let tree = Tree(root);
    skeleton(&tree)?;
    tree.dirs(&["srv/mail"])?;
    identity(&tree, "mercure", "10.0.5.12", "10.0.5.1")?;
    tree.file("etc/fstab", "# <file system> <mount point> <type> <options> <dump> <pass>\nsim:mercure / sim defaults 0 1\nsim:mercure-mail /srv/mail sim defaults 0 2\n")?;
    tree.file("usr/sbin/dhclient", "")?;
    services(&tree, &SERVICES)?;
    tree.file("etc/cron.d/mail-report", "0 6 * * * root /usr/local/bin/mail-report\n")?;
    mail(&tree)?;
    release(&tree, PACKAGES)
}

fn small_tree(tree: &Tree<'_>, guest: &FleetGuest) -> io::Result<()> {
    let [a, b, c, _] = guest.address.octets();
    skeleton(tree)?;
    identity(tree, &guest.name, &guest.address.to_string(), &format!("{a}.{b}.{c}.1"))?;
    tree.file("etc/fstab", &format!("sim:{} / sim defaults 0 1\n", guest.name))?;
    services(tree, &[SERVICES[0], SERVICES[2], SERVICES[4]])?;
    release(
        tree,
        "base-files 12.4\ncron 3.0pl1-162\nlibc6 2.36-9\nnginx 1.22.1-9\nopenssh-server 9.2p1-2\nsystemd 252.30-1",
    )
}

fn skeleton(tree: &Tree<'_>) -> io::Result<()> {
    tree.dirs(&[
        "boot",
        "dev",
        "proc",
        "run",
        "sys",
        "tmp",
        "root",
        "usr/bin",
        "usr/lib",
        "usr/sbin",
        "usr/share/doc",
    ])?;
    tree.dirs(&["var/cache/apt/archives", "var/log", "var/tmp", "etc/apt/sources.list.d"])?;
    for merged in ["bin", "lib", "sbin"] {
        symlink(format!("usr/{merged}"), tree.0.join(merged))?;
    }
    Ok(())
}

fn release(tree: &Tree<'_>, packages: &str) -> io::Result<()> {
    let stanza = |line: &str| {
        let (name, version) = line.split_once(' ').unwrap_or((line, "1"));
        format!(
            "Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}+deb12\nInstalled-Size: 4096\nMaintainer: Debian <debian@example.org>\n\n"
        )
    };
    tree.file("var/lib/dpkg/status", &packages.lines().map(stanza).collect::<String>())?;
    tree.file("etc/apt/sources.list", "deb http://mirror.example/debian bookworm main\n")?;
    tree.file("var/lib/apt/lists/release", "12\n")?;
    tree.file("etc/os-release", &os_release("bookworm", 12))?;
    tree.file("etc/debian_version", "12.7\n")
}

fn identity(tree: &Tree<'_>, name: &str, address: &str, gateway: &str) -> io::Result<()> {
    tree.file(
        "etc/network/interfaces",
        &format!("# The loopback network interface\nauto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n\taddress {address}/24\n\tgateway {gateway}\n"),
    )?;
    tree.file("etc/hostname", &format!("{name}\n"))?;
    tree.file(
        "etc/hosts",
        &format!("127.0.0.1\tlocalhost\n{address}\t{name}.example.org {name}\n\n::1\tlocalhost ip6-localhost\n"),
    )?;
    tree.file("etc/resolv.conf", &format!("nameserver {gateway}\n"))?;
    tree.file("etc/ssh/sshd_config", "Port 22\nPermitRootLogin prohibit-password\nUsePAM yes\n")?;
    let private = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2ltdWxhdGVk\n-----END OPENSSH PRIVATE KEY-----\n";
    tree.secret("etc/ssh/ssh_host_ed25519_key", private)?;
    tree.secret("etc/ssh/ssh_host_ecdsa_key", private)?;
    tree.file("etc/ssh/ssh_host_ed25519_key.pub", ED25519)?;
    tree.file("etc/ssh/ssh_host_ecdsa_key.pub", ECDSA)?;
    tree.file("etc/machine-id", "b08dfa6083e7567a1921a715000001fb\n")?;
    tree.file("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n_apt:x:100:65534::/nonexistent:/usr/sbin/nologin\nprobe:x:1000:1000::/home/probe:/bin/bash\n")?;
    tree.file("etc/group", "root:x:0:\nprobe:x:1000:\n")
}

fn services(tree: &Tree<'_>, services: &[(&str, &str)]) -> io::Result<()> {
    let wants = "etc/systemd/system/multi-user.target.wants";
    tree.dirs(&[wants])?;
    for (name, description) in services {
        let unit = format!("lib/systemd/system/{name}.service");
        tree.file(&unit, &format!("[Unit]\nDescription={description}\n\n[Service]\nExecStart=/usr/sbin/{name}\n\n[Install]\nWantedBy=multi-user.target\n"))?;
        symlink(format!("/{unit}"), tree.0.join(wants).join(format!("{name}.service")))?;
    }
    tree.file("etc/nginx/nginx.conf", "events {}\nhttp { server { listen 80; root /var/www/html; } }\n")?;
    tree.file("var/www/html/index.html", "<h1>mercure</h1>\n")
}

fn mail(tree: &Tree<'_>) -> io::Result<()> {
    tree.file(
        "etc/postfix/main.cf",
        "myhostname = mercure.example.org\nhome_mailbox = Maildir/\ninet_interfaces = all\n",
    )?;
    tree.file("etc/dovecot/dovecot.conf", "mail_location = maildir:~/Maildir\nprotocols = imap pop3\n")?;
    tree.file("etc/sim-passwd", "probe:probe\n")?;
    tree.dirs(&[
        "var/spool/postfix/active",
        "var/spool/postfix/incoming",
        "var/spool/postfix/maildrop",
        "var/spool/postfix/hold",
    ])?;
    for (id, to) in [("3F2A11C0042", "anna@example.org"), ("8B04D1C0057", "bert@example.net")] {
        let mail = format!("From: probe@mercure.example.org\nTo: {to}\nSubject: queued\n\nwaiting\n");
        tree.file(&format!("var/spool/postfix/deferred/{}/{id}", &id[..1]), &mail)?;
    }
    tree.dirs(&["home/probe/Maildir/cur", "home/probe/Maildir/tmp"])?;
    for number in 1..=3 {
        let mail = format!("From: anna@example.org\nTo: probe@mercure.example.org\nSubject: mail {number}\n\nhello\n");
        tree.file(&format!("home/probe/Maildir/new/172600000{number}.M1P1.mercure"), &mail)?;
    }
    Ok(())
}
