//! The machine as libhwloc sees it.

use crate::topology::{Cpu, Machine};
use hwlocality::{Topology, object::types::ObjectType};
use std::fs;

/// Looks at the machine.
///
/// # Errors
/// What the library says.
pub(crate) fn discover() -> anyhow::Result<Machine> {
    let topology = Topology::new().map_err(|error| anyhow::anyhow!("{error}"))?;
    let isolated = fs::read_to_string("/sys/devices/system/cpu/isolated").unwrap_or_default();
    let isolated = crate::topology::parse_list(isolated.trim()).unwrap_or_default();
    let mut machine = Machine::default();
    for unit in topology.objects_with_type(ObjectType::PU) {
        let Some(number) = unit.os_index().and_then(|index| u16::try_from(index).ok()) else { continue };
        let above = |kind| unit.first_ancestor_with_type(kind).map(|object| object.logical_index());
        let index = |kind| above(kind).map_or(0, |index| u32::try_from(index).unwrap_or(0));
        let node = unit.nodeset().and_then(|set| set.iter_set().next()).map_or(0, usize::from);
        machine.cpus.push(Cpu {
            number,
            core: (index(ObjectType::Package), index(ObjectType::Core)),
            numa_node: u32::try_from(node).unwrap_or(0),
            isolated: isolated.contains(&number),
        });
    }
    anyhow::ensure!(!machine.cpus.is_empty(), "it found no processor");
    Ok(machine)
}
