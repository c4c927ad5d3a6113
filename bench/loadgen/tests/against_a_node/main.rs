//! Publishers, subscribers and the whole program against a stand-in node.

#[cfg(test)]
mod control;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod pcap;
#[cfg(test)]
mod stand_in;
#[cfg(test)]
mod udp;
