//! The ports that packets go between.

use arrayvec::ArrayVec;
use std::net::IpAddr;
use tachyon_driver_ether::{Interface, Mac, Network};

/// An Ethernet address out of the range for documentation (RFC 7042).
pub(crate) const fn mac(last: u8) -> Mac {
    [0x00, 0x00, 0x5e, 0x00, 0x53, last]
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A port with an address of each family, ending in `last`, and a gateway for each.
pub(crate) fn interface(last: u8, vlan: Option<u16>) -> Interface {
    let network = |ip: String, prefix, gateway: &str| Network {
        ip: ip.parse().unwrap(),
        prefix,
        gateway: Some(gateway.parse().unwrap()),
    };
    let networks: ArrayVec<Network, 8> = [
        network(format!("192.0.2.{last}"), 24, "192.0.2.254"),
        network(format!("2001:db8::{last:x}"), 64, "2001:db8::fe"),
    ]
    .into_iter()
    .collect();
    Interface { mac: mac(last), vlan, networks, base_port: 24_640, shard_count: 16, mtu: 1500 }
}
