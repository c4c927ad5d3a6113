//! What stands where RDMA would, in a program that was built without it.

use crate::{
    args::RunArgs,
    hire::{Ports, Role},
    lanes::{Fabric, FabricReport},
    session::LaneCalls,
};
use anyhow::{Result, bail};
use tachyon_driver_api::PortError;
use tachyon_driver_arena::Arena;
use tachyon_driver_uring::UringPort;
use tachyon_wire::Endpoint;

/// There is none.
#[derive(Clone, Debug)]
pub enum Rdma {}

/// Nothing is kept.
#[derive(Clone, Copy, Debug)]
pub enum Keeper {}

/// Nothing rests.
#[derive(Clone, Copy, Debug)]
pub enum AtRest {}

#[expect(clippy::missing_errors_doc, reason = "only the first can be called")]
impl Rdma {
    /// `None` for UDP.
    ///
    /// # Errors
    /// For everything else: this program cannot.
    pub fn asked(args: &RunArgs) -> Result<Option<Self>> {
        if args.fabric == Fabric::Udp {
            return Ok(None);
        }
        bail!(
            "this tachyon-load was built without RDMA; install libibverbs-dev and libclang-dev, and build it with \
             `cargo build --release -p tachyon-loadgen --features verbs`"
        )
    }

    /// Never called.
    #[must_use]
    pub const fn towards(self, _workers: u16, _shard_count: u16, _node_mtu_bytes: Option<u32>) -> Self {
        self
    }

    /// Never called.
    #[must_use]
    pub const fn mtu_bytes(&self) -> u32 {
        match *self {}
    }

    /// Never called.
    pub const fn agree(&self, _node: Endpoint, _: &[u32], _: &[u32], _: &LaneCalls) -> Result<Keeper> {
        match *self {}
    }
}

#[expect(clippy::missing_errors_doc, reason = "it cannot be called")]
impl Keeper {
    /// Never called.
    pub const fn end(self) -> Result<(FabricReport, AtRest)> {
        match self {}
    }
}

impl Ports for Rdma {
    type Port = UringPort;

    fn port(&self, _role: Role, _arena: &Arena) -> Result<UringPort, PortError> {
        match *self {}
    }
}
