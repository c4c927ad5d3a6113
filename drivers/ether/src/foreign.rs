//! Why a packet carries no frame for a worker. These are counts of a port, apart from the three ledgers: what is not
//! addressed to a shard of ours was never offered to the node.

macro_rules! foreign {
    ($($kind:ident, $name:literal, $help:literal;)*) => {
        /// What a packet without a frame for us is. Packets are looked at in the order: Ethernet, VLAN, then IP from
        /// front to back; the first fault names it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Foreign { $(#[doc = $help] $kind,)* }

        impl Foreign {
            /// Every kind, in order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];
            /// How many kinds there are: the length of an array that counts them.
            pub const COUNT: usize = Self::ALL.len();

            /// Its name in counters and reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name),* }
            }

            /// One sentence: what it is and what to do about it.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$kind => $help),* }
            }

            /// The kind as an index into an array of [`Foreign::COUNT`].
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

foreign! {
    Neighbour, "neighbour", "ARP, neighbour discovery or an echo request to us: a copy goes to the responder.";
    Runt, "runt", "The packet ends before its headers do; look for a bad cable or a sender that cuts packets short.";
    Vlan, "vlan", "The packet carries another VLAN tag than the port's, or none; compare `vlan` with the switch port.";
    NotIp, "not_ip", "The packet is neither IP nor ARP; switches send some of these, such as LLDP and spanning tree.";
    OtherMac, "other_mac", "The packet is for another Ethernet address, or to a group; the switch floods, or the port is promiscuous.";
    OtherAddress, "other_address", "The packet is for another IP address, or its source cannot be a sender; compare the port's networks with what clients use.";
    Fragment, "fragment", "The packet is an IP fragment, which is never reassembled; lower the sender's frame size to the path's MTU.";
    Extension, "extension", "The packet has IPv6 extension headers, which are not read; make the sender leave them out.";
    NotUdp, "not_udp", "The packet is IP to us, but not UDP; something else is addressed to the port.";
    OtherPort, "other_port", "The UDP port belongs to no shard; send shard n to base port + n.";
    Length, "length", "The lengths of IP, UDP and packet contradict each other, or there is no payload; check the sender.";
    IpChecksum, "ip_checksum", "The IPv4 header checksum is wrong; the packet was damaged on the way.";
    UdpChecksum, "udp_checksum", "The UDP checksum is wrong, or missing over IPv6; the packet was damaged on the way.";
    TooLong, "too_long", "The packet is longer than a buffer takes; lower the sender's frame size or raise the port's MTU.";
    MultiSegment, "multi_segment", "The device spread the packet over several buffers; raise the buffer size above the MTU.";
}

#[cfg(test)]
mod tests {
    use super::Foreign;

    #[test]
    fn names_are_unique_and_every_kind_is_counted_at_its_number() {
        for (index, kind) in Foreign::ALL.iter().enumerate() {
            assert_eq!(kind.index(), index);
            assert!(kind.name().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", kind.name());
            assert!(Foreign::ALL[..index].iter().all(|other| other.name() != kind.name()), "{}", kind.name());
            assert!(kind.help().ends_with('.'), "{}", kind.help());
        }
    }
}
