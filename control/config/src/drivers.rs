//! Which drivers a node uses, and in which order.

use serde::{
    Deserialize, Deserializer,
    de::{Error, IntoDeserializer, SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use std::fmt;

/// A driver that this project has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// UDP sockets through io_uring, or through `recvmmsg` and `sendmmsg` where the kernel refuses it.
    Uring,
    /// Devices that the workers own, through DPDK.
    Dpdk,
    /// Queues of interfaces that stay with the kernel, through XDP sockets.
    Afxdp,
    /// `RoCE` v2 through verbs, to peers that agreed on a lane.
    Rdma,
}

impl Driver {
    /// Its name in the node file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Dpdk => "dpdk",
            Self::Afxdp => "afxdp",
            Self::Rdma => "rdma",
        }
    }
}

/// Drivers in order of preference: a frame goes by the first one that reaches its destination. At least one, none twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drivers(Vec<Driver>);

impl Drivers {
    /// All of them, in order.
    #[must_use]
    pub fn list(&self) -> &[Driver] {
        &self.0
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn has(&self, driver: Driver) -> bool {
        self.0.contains(&driver)
    }

    fn new<E: Error>(list: Vec<Driver>) -> Result<Self, E> {
        if list.is_empty() {
            return Err(E::custom(
                "no driver at all: choose one or more of \"rdma\", \"dpdk\", \"afxdp\" and \"uring\"",
            ));
        }
        match list.iter().enumerate().find(|(index, driver)| list[..*index].contains(driver)) {
            Some((_, twice)) => Err(E::custom(format!("{} is there twice: choose one place for it", twice.name()))),
            None => Ok(Self(list)),
        }
    }
}

impl From<Driver> for Drivers {
    fn from(driver: Driver) -> Self {
        Self(vec![driver])
    }
}

impl fmt::Display for Drivers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|driver| driver.name()).collect();
        f.write_str(&names.join(", "))
    }
}

impl<'de> Deserialize<'de> for Drivers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Drivers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a driver or a list of them")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Drivers, E> {
                Driver::deserialize(name.into_deserializer()).map(Drivers::from)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Drivers, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).and_then(Drivers::new)
            }
        }
        from.deserialize_any(Names)
    }
}
