//! The files a person writes: rules, the control file, the node file. Each is TOML with a typed schema, and what is wrong
//! in one is told with file, line, caret and the fix.
//!
//! An unknown key is an error, because a misspelt limit that is silently ignored is a limit that does not exist. Each
//! file has a commented default that is its manual and that a test reads. The crate deliberately opens no file and looks
//! nothing up: it turns text into checked values, and the caller does the rest.
#![forbid(unsafe_code)]

mod control_file;
mod diagnostic;
mod drivers;
mod log;
mod node_file;
mod pattern;
mod ports;
mod ports_check;
mod prefilter;
mod prefix;
mod rate;
mod rdma;
mod rules;
mod rules_check;
mod source;
mod truth_log;

pub use control_file::{ControlFile, LogLevel};
pub use diagnostic::{Diagnostic, Severity};
pub use drivers::{Driver, Drivers};
pub use log::LogSection;
pub use node_file::*;
pub use pattern::{PATTERN_BYTES_MAX, Pattern, PatternIndex, check_topic_name};
pub use ports::*;
pub use prefilter::{AfxdpSection, AtStop, FilterDelivery, FilterMode, PREFILTERS_MAX, PrefilterSection};
pub use prefix::SourcePrefix;
pub use rate::{Limit, Rate};
pub use rdma::{RdmaDevice, RdmaSection};
pub use rules::{Durability, Identity, RULES_MANUAL, Rules, TagDemand, TopicRules, WhenLogFull};
pub use source::{Report, Source, read};
pub use truth_log::TruthLogSection;
