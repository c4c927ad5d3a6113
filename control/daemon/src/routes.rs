//! What the routes of a ruleset are, for a person: read back from the image that was published.

use tachyon_policy::Ruleset;
use tachyon_wire::image::ROUTE_NONE;

/// Routes by index.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    /// By index.
    pub(crate) routes: Vec<RouteEntry>,
}

/// One route.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteEntry {
    /// What egress frames carry.
    pub(crate) route_id: u32,
    /// Subscriber slots.
    pub(crate) subscribers: Vec<u32>,
    /// Topics that take it.
    pub(crate) topics: u32,
    /// The lowest id among them.
    pub(crate) example: u32,
}

impl RouteTable {
    /// Reads a verified ruleset.
    #[must_use]
    pub(crate) fn new(ruleset: &Ruleset<'_>) -> Self {
        let entry = |index: usize| {
            let (rule, targets) = ruleset.route(u32::try_from(index).ok()?)?;
            let subscribers = targets.iter().map(|slot| slot.get()).collect();
            Some(RouteEntry { route_id: rule.route_id.get(), subscribers, ..RouteEntry::default() })
        };
        let mut routes: Vec<RouteEntry> = (0..ruleset.routes()).filter_map(entry).collect();
        let ids = (1..ruleset.topic_slots()).filter_map(|id| u32::try_from(id).ok());
        for topic in ids.filter_map(|id| ruleset.topic(id)) {
            let route = topic.route.get();
            if route == ROUTE_NONE {
                continue;
            }
            if let Some(entry) = routes.get_mut(route as usize) {
                entry.topics += 1;
                if entry.example == 0 {
                    entry.example = topic.topic_id.get();
                }
            }
        }
        Self { routes }
    }
}
