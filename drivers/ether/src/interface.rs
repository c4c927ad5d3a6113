//! What a port is on the network: its addresses, its networks and the UDP ports of its shards.

use crate::Mac;
use arrayvec::ArrayVec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most networks of one port: both families, a few VRFs' worth of each, and few enough to compare with all of them.
pub const NETWORKS_MAX: usize = 8;

/// One address of ours and the network it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Our address.
    pub ip: IpAddr,
    /// Leading bits that all addresses of the network share; more than the family has count as all of them.
    pub prefix: u8,
    /// Who forwards to everybody outside our networks, if anybody does.
    pub gateway: Option<IpAddr>,
}

impl Network {
    /// Whether an address lies in this network, so that it can be reached without a gateway.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differing = ours.to_bits() ^ theirs.to_bits();
                differing.leading_zeros() >= u32::from(self.prefix.min(32))
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differing = ours.to_bits() ^ theirs.to_bits();
                differing.leading_zeros() >= u32::from(self.prefix.min(128))
            }
            _ => false,
        }
    }
}

/// A port as the network sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its Ethernet address.
    pub mac: Mac,
    /// The VLAN that all its packets are tagged with, 1 to 4094; `None` for packets without a tag.
    pub vlan: Option<u16>,
    /// Its addresses and networks.
    pub networks: ArrayVec<Network, NETWORKS_MAX>,
    /// The UDP port of shard 0.
    pub base_port: u16,
    /// Shards that it receives; shard n at `base_port` + n.
    pub shard_count: u16,
    /// Largest IP packet in bytes.
    pub mtu: u16,
}

impl Interface {
    /// Whether an address is one of ours on this port.
    pub(crate) fn owns(&self, ip: IpAddr) -> bool {
        self.networks.iter().any(|network| network.ip == ip)
    }

    /// Whether packets to an address leave by this port: it lies in one of its networks, or behind a gateway.
    #[must_use]
    pub fn reaches(&self, to: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(to)) || self.network_with_gateway(to).is_some()
    }

    /// The network that holds an address; the narrowest if several do.
    pub(crate) fn network_of(&self, ip: IpAddr) -> Option<&Network> {
        self.networks.iter().filter(|network| network.contains(ip)).max_by_key(|network| network.prefix)
    }

    /// The first network of an address's family that has a gateway of that family.
    pub(crate) fn network_with_gateway(&self, to: IpAddr) -> Option<&Network> {
        let leads_there = |network: &&Network| {
            network.ip.is_ipv4() == to.is_ipv4()
                && network.gateway.is_some_and(|gateway| gateway.is_ipv4() == to.is_ipv4())
        };
        self.networks.iter().find(leads_there)
    }

    /// The address of ours to send from: that of the network which holds the destination or leads to it, else the first
    /// of that family (fixed neighbours may be in no network).
    pub(crate) fn source_towards(&self, to: IpAddr) -> Option<IpAddr> {
        let first = || self.networks.iter().find(|network| network.ip.is_ipv4() == to.is_ipv4());
        let network = self.network_of(to).or_else(|| self.network_with_gateway(to)).or_else(first);
        network.map(|network| network.ip)
    }
}

/// An address as endpoints hold it: 16 bytes, IPv4 addresses IPv4-mapped.
#[must_use]
pub const fn address_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The address that an endpoint's 16 bytes stand for; the opposite of [`address_bytes`].
#[must_use]
pub fn address(bytes: &[u8; 16]) -> IpAddr {
    let ip = Ipv6Addr::from(*bytes);
    ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)
}

/// Whether an address can be that of a single other machine: not zero, not multicast, not the limited broadcast.
#[inline]
pub(crate) fn is_unicast(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

#[cfg(test)]
mod tests {
    use super::{Interface, Network, address, address_bytes};
    use core::net::IpAddr;

    #[test]
    fn a_network_holds_what_its_prefix_says() {
        let network = |ip: &str, prefix| Network { ip: ip.parse().unwrap(), prefix, gateway: None };
        let holds = |network: Network, ip: &str| network.contains(ip.parse().unwrap());
        assert!(holds(network("192.0.2.1", 24), "192.0.2.255") && !holds(network("192.0.2.1", 24), "192.0.3.1"));
        assert!(holds(network("192.0.2.1", 32), "192.0.2.1") && !holds(network("192.0.2.1", 32), "192.0.2.2"));
        assert!(holds(network("192.0.2.1", 0), "203.0.113.9") && !holds(network("192.0.2.1", 0), "2001:db8::1"));
        assert!(
            holds(network("2001:db8::1", 64), "2001:db8::ffff") && !holds(network("2001:db8::1", 64), "2001:db9::")
        );
        assert!(!holds(network("2001:db8::1", 200), "2001:db8::2"));
    }

    #[test]
    fn a_port_reaches_its_networks_and_what_lies_behind_its_gateways() {
        let network = |ip: &str, gateway: Option<&str>| Network {
            ip: ip.parse().unwrap(),
            prefix: 24,
            gateway: gateway.map(|ip| ip.parse().unwrap()),
        };
        let reaches = |networks: &[Network], to: &str| {
            let interface = Interface {
                mac: [2, 0, 0, 0, 0, 1],
                vlan: None,
                networks: networks.iter().copied().collect(),
                base_port: 1,
                shard_count: 1,
                mtu: 1_500,
            };
            interface.reaches(to.parse().unwrap())
        };
        let alone = [network("10.0.1.1", None), network("10.0.2.1", None)];
        assert!(reaches(&alone, "10.0.2.9") && !reaches(&alone, "10.0.3.9") && !reaches(&alone, "fd00::1"));
        let routed = [network("10.0.1.1", None), network("10.0.2.1", Some("10.0.2.254"))];
        assert!(reaches(&routed, "10.0.3.9") && !reaches(&routed, "fd00::1"));
    }

    #[test]
    fn addresses_survive_the_form_that_endpoints_have() {
        for text in ["192.0.2.7", "2001:db8::7"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(address(&address_bytes(ip)), ip);
        }
    }
}
