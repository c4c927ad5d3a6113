//! Sources as a person writes them: one address, or all addresses that begin alike.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// All addresses that begin alike. What stands behind the beginning is cut, so two that mean the same are equal; an IPv4
/// address that is written as an IPv6 one is the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePrefix {
    ip: IpAddr,
    bits: u8,
}

impl SourcePrefix {
    /// What to do about text that is none.
    pub const HELP: &'static str =
        "write an address (`10.1.2.3`) or the beginning of several with its bits (`10.0.0.0/8`, `2001:db8::/32`)";

    /// The addresses whose first `bits` bits are those of `ip`; `None` if `ip` has fewer.
    #[must_use]
    pub fn new(ip: IpAddr, bits: u8) -> Option<Self> {
        let (ip, bits) = match (ip, ip.to_canonical()) {
            (IpAddr::V6(_), mapped @ IpAddr::V4(_)) if (96..=128).contains(&bits) => (mapped, bits - 96),
            (ip, _) => (ip, bits),
        };
        let cut = match ip {
            IpAddr::V4(ip) if bits <= 32 => {
                let kept = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                Ipv4Addr::from_bits(ip.to_bits() & kept).into()
            }
            IpAddr::V6(ip) if bits <= 128 => {
                let kept = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                Ipv6Addr::from_bits(ip.to_bits() & kept).into()
            }
            _ => return None,
        };
        Some(Self { ip: cut, bits })
    }

    /// The first of its addresses.
    #[must_use]
    pub const fn ip(&self) -> IpAddr {
        self.ip
    }

    /// How many bits its addresses have in common: up to 32 for IPv4, up to 128 for IPv6.
    #[must_use]
    pub const fn bits(&self) -> u8 {
        self.bits
    }
}

impl FromStr for SourcePrefix {
    type Err = String;

    /// An address by itself means just that one.
    fn from_str(text: &str) -> Result<Self, String> {
        let (ip, bits) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
        let ip: IpAddr = ip.parse().map_err(|_| format!("`{text}` does not begin with an IP address"))?;
        let width = if ip.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(width), |bits| bits.parse().ok());
        let prefix = bits.and_then(|bits| Self::new(ip, bits));
        prefix.ok_or_else(|| format!("`{text}` does not end with a number of bits from 0 to {width}"))
    }
}

impl fmt::Display for SourcePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        text.parse::<SourcePrefix>().unwrap().to_string()
    }

    #[test]
    fn prefixes_are_cut_and_an_address_is_all_of_itself() {
        for (text, expected) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("255.255.255.255/1", "128.0.0.0/1"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3/80", "::/80"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_prefix_is_refused_with_what_is_wrong() {
        for (text, says) in [
            ("10.0.0.0/33", "0 to 32"),
            ("10.0.0.0/", "0 to 32"),
            ("10.0.0.0/-1", "0 to 32"),
            ("::/129", "0 to 128"),
            ("10.0.0/8", "IP address"),
            ("", "IP address"),
            ("10.0.0.0 /8", "IP address"),
            ("example.org", "IP address"),
        ] {
            let said = text.parse::<SourcePrefix>().unwrap_err();
            assert!(said.contains(says) && said.contains(&format!("`{text}`")), "{text}: {said}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(ip: u128, v4: bool, bits in 0..=128_u8) {
            let ip: IpAddr = match v4 {
                true => Ipv4Addr::from_bits((ip & 0xffff_ffff) as u32).into(),
                false => Ipv6Addr::from_bits(ip).into(),
            };
            match SourcePrefix::new(ip, bits) {
                Some(prefix) => prop_assert_eq!(prefix.to_string().parse(), Ok(prefix)),
                None => prop_assert!(v4 && bits > 32),
            }
        }
    }
}
