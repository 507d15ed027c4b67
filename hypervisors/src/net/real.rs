//! The network as the controller's own machine sees it: raw frames on an interface for address resolution, sockets for
//! the rest. Raw frames need CAP_NET_RAW (`packet(7)`) and are handled off the async threads, each wait with a time-out.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use tokio::net::{TcpStream, UdpSocket};

use super::{MacAddr, Net, Stream, frame};
use crate::host::blocking;
use crate::{Cause, Error, Result};

/// How long an owner has to answer, and how often it is asked meanwhile.
const SILENCE: Duration = Duration::from_millis(500);
/// The same for IPv6: an address that has just come up is still tentative, and is not answered for (RFC 4862, 5.4).
const SILENCE_IPV6: Duration = Duration::from_millis(1500);
/// How long a link is listened to whose addresses have all been asked for.
const SILENCE_SWEEP: Duration = Duration::from_millis(1000);
const ASK_EVERY: Duration = Duration::from_millis(160);
/// How often an announcement is sent, and at what distance: a single frame may be lost.
const ANNOUNCEMENTS: usize = 3;
const ANNOUNCE_EVERY: Duration = Duration::from_millis(20);

/// The network as this machine sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealNet;

/// An address of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// The interface that has it.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// The network's prefix length, if the system tells.
    pub prefix: Option<u8>,
}

/// Every address of this machine's interfaces, in this network namespace.
pub fn own_addresses() -> io::Result<Vec<OwnAddress>> {
    Ok(getifaddrs()?
        .filter_map(|entry| {
            let prefix = entry.netmask.as_ref().and_then(ip).map(ones);
            Some(OwnAddress { address: entry.address.as_ref().and_then(ip)?, interface: entry.interface_name, prefix })
        })
        .collect())
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

fn ones(mask: IpAddr) -> u8 {
    let count = match mask {
        IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    };
    u8::try_from(count).unwrap_or(u8::MAX)
}

fn same_network(own: &OwnAddress, other: Ipv4Addr) -> Option<Ipv4Addr> {
    let (IpAddr::V4(address), Some(prefix)) = (own.address, own.prefix) else { return None };
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    (address.to_bits() & mask == other.to_bits() & mask).then_some(address)
}

#[async_trait]
impl Net for RealNet {
    async fn owner(&self, address: IpAddr, via: &str) -> Result<Option<MacAddr>> {
        let via = via.to_owned();
        blocking(format!("ask on {via} who has {address}"), move |doing| ask_owner(address, &via, doing)).await
    }

    async fn find(&self, mac: MacAddr, via: &str) -> Result<Option<IpAddr>> {
        let via = via.to_owned();
        blocking(format!("look on {via} for {mac}"), move |doing| find_by_mac(mac, &via, doing)).await
    }

    async fn announce(&self, address: IpAddr, mac: MacAddr, via: &str) -> Result<()> {
        let via = via.to_owned();
        blocking(format!("announce {address} on {via}"), move |doing| {
            let (kind, bytes) = match address {
                IpAddr::V4(address) => (frame::ARP, frame::arp_announcement(mac, address)),
                IpAddr::V6(address) => (frame::IPV6, frame::advertisement(mac, address)),
            };
            let link = Link::open(&via, kind, doing)?;
            for round in 0..ANNOUNCEMENTS {
                if round > 0 {
                    std::thread::sleep(ANNOUNCE_EVERY);
                }
                link.send(&bytes, doing)?;
            }
            Ok(())
        })
        .await
    }

    async fn source(&self, to: IpAddr) -> Result<IpAddr> {
        let doing = format!("find the way to {to}");
        let any: SocketAddr = match to {
            IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let look = async {
            // Connecting a datagram socket chooses its source address and sends nothing (udp(7)); the port is discard's.
            let socket = UdpSocket::bind(any).await?;
            socket.connect((to, 9)).await?;
            Ok(socket.local_addr()?.ip())
        };
        look.await.map_err(|error: io::Error| Error::io(doing, error))
    }

    async fn connect(&self, to: SocketAddr, timeout: Duration) -> Result<Box<dyn Stream>> {
        let doing = format!("connect to {to}");
        match tokio::time::timeout(timeout, TcpStream::connect(to)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(sorted(doing, error)),
            Err(_) => Err(Error::unknown(doing, format!("no answer within {timeout:?}"))),
        }
    }

    async fn ask(&self, to: SocketAddr, payload: &[u8], timeout: Duration) -> Result<Vec<u8>> {
        let doing = format!("ask {to} by UDP");
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let exchange = async {
            let socket = UdpSocket::bind(any).await?;
            // A connected socket takes answers from that address alone.
            socket.connect(to).await?;
            socket.send(payload).await?;
            let mut answer = vec![0; 65_535];
            let length = socket.recv(&mut answer).await?;
            answer.truncate(length);
            Ok(answer)
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(sorted(doing, error)),
            Err(_) => Err(Error::unknown(doing, format!("no answer within {timeout:?}"))),
        }
    }
}

/// A refusal is an answer; what a router or the own kernel says about an unreachable host is as good as silence.
fn sorted(doing: String, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Error::refused(doing, "connection refused"),
        io::ErrorKind::TimedOut
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::ConnectionReset => Error::unknown(doing, error.to_string()),
        _ => Error::io(doing, error),
    }
}

fn ask_owner(address: IpAddr, via: &str, doing: &str) -> Result<Option<MacAddr>> {
    let own = own_addresses().map_err(|error| Error::io(doing, error))?;
    if own.iter().all(|own| own.address != address) && is_empty_bridge(via) {
        return Ok(None);
    }
    let kind = if address.is_ipv4() { frame::ARP } else { frame::IPV6 };
    let link = Link::open(via, kind, doing)?;
    if own.iter().any(|own| own.address == address) {
        return Ok(Some(link.mac));
    }
    let here = own.iter().filter(|own| own.interface == via);
    let question = match address {
        IpAddr::V4(wanted) => {
            // A sender outside the network may be dropped as a martian; a probe from 0.0.0.0 is answered by everyone.
            let source = here.filter_map(|own| same_network(own, wanted)).next();
            frame::arp_request(link.mac, source.unwrap_or(Ipv4Addr::UNSPECIFIED), wanted)
        }
        IpAddr::V6(wanted) => {
            let source = here.filter_map(|own| match own.address {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            });
            // A real sender wherever there is one: a question from `::` would disturb the owner's duplicate detection.
            let source = source.max_by_key(Ipv6Addr::is_unicast_link_local);
            frame::solicitation(link.mac, source.unwrap_or(Ipv6Addr::UNSPECIFIED), wanted)
        }
    };
    let end = Instant::now() + if address.is_ipv4() { SILENCE } else { SILENCE_IPV6 };
    while Instant::now() < end {
        link.send(&question, doing)?;
        let ask_again = end.min(Instant::now() + ASK_EVERY);
        while let Some(answer) = link.receive(ask_again, doing)? {
            let owner = match address {
                IpAddr::V4(wanted) => frame::arp_answer(&answer, wanted),
                IpAddr::V6(wanted) => frame::advertisement_answer(&answer, wanted),
            };
            if owner.is_some() {
                return Ok(owner);
            }
        }
    }
    Ok(None)
}

/// A network with fewer host bits than this is asked address by address.
const MOST_HOST_BITS: u8 = 12;

/// Every address of the networks that an interface is in.
fn neighbours(own: &OwnAddress) -> impl Iterator<Item = Ipv4Addr> + use<> {
    let bits = match (own.address, own.prefix) {
        (IpAddr::V4(_), Some(prefix)) if prefix < 31 => 32 - prefix,
        _ => 0,
    };
    let (first, count) = match own.address {
        IpAddr::V4(address) if (1..=MOST_HOST_BITS).contains(&bits) => {
            (address.to_bits() >> bits << bits, 1u32 << bits)
        }
        _ => (0, 0),
    };
    (1..count.saturating_sub(1)).map(move |host| Ipv4Addr::from_bits(first + host))
}

fn find_by_mac(mac: MacAddr, via: &str, doing: &str) -> Result<Option<IpAddr>> {
    if is_empty_bridge(via) {
        return Ok(None);
    }
    let own = own_addresses().map_err(|error| Error::io(doing, error))?;
    let link = Link::open(via, frame::ARP, doing)?;
    let end = Instant::now() + SILENCE_SWEEP;
    let heard = |until: Instant| -> Result<Option<IpAddr>> {
        while let Some(frame) = link.receive(until, doing)? {
            if let Some((speaker, address)) = frame::arp_sender(&frame)
                && speaker == mac
            {
                return Ok(Some(address.into()));
            }
        }
        Ok(None)
    };
    for own in own.iter().filter(|own| own.interface == via) {
        let IpAddr::V4(source) = own.address else { continue };
        for (count, wanted) in neighbours(own).enumerate() {
            link.send(&frame::arp_request(link.mac, source, wanted), doing)?;
            // Answers are read meanwhile, or the socket's buffer would drop them.
            if count % 64 == 63
                && let Some(found) = heard(Instant::now() + Duration::from_millis(2))?
            {
                return Ok(Some(found));
            }
        }
    }
    heard(end.max(Instant::now() + SILENCE))
}

/// A bridge that nothing is plugged into: it has no hardware address of its own then, and nobody is behind it.
fn is_empty_bridge(via: &str) -> bool {
    let ports = std::path::Path::new("/sys/class/net").join(via).join("brif");
    !via.contains('/') && std::fs::read_dir(ports).is_ok_and(|mut ports| ports.next().is_none())
}

/// A raw socket on one interface, for one kind of frame.
struct Link {
    socket: OwnedFd,
    mac: MacAddr,
    via: String,
}

impl Link {
    fn open(via: &str, kind: u16, doing: &str) -> Result<Self> {
        let missing = || {
            Error::not_found(doing, format!("this machine has no interface {}", crate::host::printable(via)))
                .help("name the bridge or interface by which this machine reaches the guests' network (see `ip link`)")
        };
        let index = nix::net::if_::if_nametoindex(via).map_err(|_| missing())?;
        let mac = getifaddrs()
            .map_err(|error| Error::io(doing, error.into()))?
            .filter(|entry| entry.interface_name == via)
            .find_map(|entry| entry.address?.as_link_addr()?.addr())
            .filter(|mac| *mac != [0; 6])
            .ok_or_else(|| Error::new(doing, Cause::Unsupported(format!("{via} has no hardware address"))))?;
        let protocol = kind.to_be();
        // SAFETY: plain socket(2); the descriptor is checked and owned at once.
        let socket = unsafe {
            let fd = libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                i32::from(protocol),
            );
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
        };
        let socket = socket.map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Error::refused(doing, "raw frames need a privilege that is missing")
                .help("run as root, or give the program CAP_NET_RAW"),
            _ => Error::io(doing, error),
        })?;
        // SAFETY: all-zero bytes are a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(0);
        address.sll_protocol = protocol;
        address.sll_ifindex = i32::try_from(index).map_err(|_| missing())?;
        let length = u32::try_from(mem::size_of_val(&address)).unwrap_or(0);
        // SAFETY: a valid sockaddr_ll and its length.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        if bound != 0 {
            return Err(Error::io(doing, io::Error::last_os_error()));
        }
        Ok(Self { socket, mac: MacAddr(mac), via: via.to_owned() })
    }

    fn send(&self, frame: &[u8], doing: &str) -> Result<()> {
        // SAFETY: the buffer is valid for its length.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        Err(match error.raw_os_error() {
            Some(libc::ENETDOWN) => Error::refused(doing, format!("interface {} is down", self.via))
                .help(format!("ip link set {} up", self.via)),
            _ => Error::io(doing, error),
        })
    }

    /// The next frame, or `None` when `until` has come.
    fn receive(&self, until: Instant, doing: &str) -> Result<Option<Vec<u8>>> {
        let mut buffer = [0; 2048];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1);
            // SAFETY: one valid pollfd.
            unsafe { libc::poll(&raw mut poll, 1, millis) };
            // SAFETY: the buffer is valid for its length; the socket does not block.
            let got = unsafe { libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            if let Ok(length) = usize::try_from(got) {
                return Ok(Some(buffer[..length].to_vec()));
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => {}
                // The interface went down meanwhile: nobody answers there.
                Some(libc::ENETDOWN) => return Ok(None),
                _ => return Err(Error::io(doing, error)),
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_sender_is_an_address_of_the_same_network() {
        let own = |address: &str, prefix| OwnAddress {
            interface: "br0".into(),
            address: address.parse().unwrap(),
            prefix: Some(prefix),
        };
        let wanted = Ipv4Addr::new(10, 0, 5, 12);
        assert_eq!(same_network(&own("10.0.5.1", 24), wanted), Some(Ipv4Addr::new(10, 0, 5, 1)));
        assert_eq!(same_network(&own("10.0.4.1", 24), wanted), None);
        assert_eq!(same_network(&own("192.0.2.1", 0), wanted), Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(same_network(&own("fd00::1", 64), wanted), None);
    }

    #[test]
    fn this_machine_has_its_loopback_address() {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert!(own_addresses().unwrap().iter().any(|own| own.address == loopback && own.prefix == Some(8)));
    }

    #[tokio::test]
    async fn a_missing_interface_is_said_with_help() {
        let error = RealNet.owner("10.0.5.12".parse().unwrap(), "none0").await.unwrap_err();
        assert!(matches!(error.cause, Cause::NotFound(_)) && error.help.is_some(), "{error:?}");
    }

    #[tokio::test]
    async fn tcp_and_udp_tell_refusal_answer_and_silence_apart() {
        let second = Duration::from_secs(1);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        RealNet.connect(to, second).await.map(drop).unwrap();
        drop(listener);
        let error = RealNet.connect(to, second).await.map(drop).unwrap_err();
        assert!(matches!(error.cause, Cause::Refused(_)), "{error:?}");

        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = server.local_addr().unwrap();
        let answer = tokio::spawn(async move {
            let mut buffer = [0; 16];
            let (length, from) = server.recv_from(&mut buffer).await.unwrap();
            server.send_to(&buffer[..length], from).await.unwrap();
            server
        });
        assert_eq!(RealNet.ask(to, b"ping", second).await.unwrap(), b"ping");
        let _still_open = answer.await.unwrap();
        assert!(RealNet.ask(to, b"ping", Duration::from_millis(100)).await.unwrap_err().is_unknown());
    }

    #[test]
    fn a_small_network_is_asked_whole_and_a_large_one_not() {
        let asked = |address: &str, prefix| -> Vec<Ipv4Addr> {
            let own = OwnAddress { interface: "br0".into(), address: address.parse().unwrap(), prefix };
            neighbours(&own).collect()
        };
        let all = asked("10.0.5.1", Some(24));
        assert_eq!((all.len(), all[0], all[253]), (254, [10, 0, 5, 1].into(), [10, 0, 5, 254].into()));
        assert_eq!(asked("10.0.5.9", Some(30)), [Ipv4Addr::new(10, 0, 5, 9), Ipv4Addr::new(10, 0, 5, 10)]);
        assert_eq!(asked("172.16.9.9", Some(20)).len(), 4094);
        for (address, prefix) in [
            ("10.0.5.1", Some(32)),
            ("10.0.5.1", Some(31)),
            ("10.0.0.1", Some(8)),
            ("10.0.5.1", None),
            ("fe80::1", Some(64)),
        ] {
            assert_eq!(asked(address, prefix).len(), 0, "{address} {prefix:?}");
        }
    }
}
