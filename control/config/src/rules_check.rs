//! The rules file as it is written, and its checks.

use crate::{
    Diagnostic, Durability, Identity, Limit, Pattern, Rate, Report, Rules, Source, SourcePrefix, TagDemand, TopicRules,
    WhenLogFull, check_topic_name,
};
use serde::Deserialize;
use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    ops::Range,
};
use tachyon_wire::image::SENDER_SLOTS_MAX;
use toml::Spanned;

/// Most `[[topic]]` entries. They are patterns, not topics; thousands of them are a sign of a generated file, and the
/// time to compile grows with them.
const TOPIC_RULES_MAX: usize = 16_384;
/// Most `[[identity]]` entries: a fourth of the rows that an image can hold, since rows are never used again.
const IDENTITIES_MAX: usize = 16_384;
/// Most patterns in one list.
const PATTERNS_MAX: usize = 1_024;
/// Most denied prefixes: what a person still reads. Longer lists come from programs, and have a command of their own.
const DENIED_MAX: usize = 65_536;
/// Most problems of them that are told: each is shown with its line, and a list may be one line of 4 MiB.
const DENIED_TOLD_MAX: usize = 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RulesFile {
    #[serde(default)]
    topic: Vec<Spanned<TopicEntry>>,
    #[serde(default)]
    identity: Vec<Spanned<IdentityEntry>>,
    #[serde(default)]
    prefilter: PrefilterEntry,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct PrefilterEntry {
    #[serde(default)]
    deny: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicEntry {
    r#match: Spanned<String>,
    rate: Option<Spanned<String>>,
    burst: Option<Spanned<u32>>,
    #[serde(default = "yes")]
    tag: bool,
    #[serde(default)]
    quarantine: bool,
    durability: Option<DurabilityWord>,
    when_log_full: Option<Spanned<WhenLogFullWord>>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum DurabilityWord {
    Volatile,
    Logged,
    Durable,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum WhenLogFullWord {
    Taildrop,
    Mark,
    Nack,
    Buffer,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityEntry {
    name: Spanned<String>,
    #[serde(default)]
    publish: Vec<Spanned<String>>,
    #[serde(default)]
    subscribe: Vec<Spanned<String>>,
    senders: Option<Spanned<String>>,
    sender_rate: Option<Spanned<String>>,
    sender_burst: Option<Spanned<u32>>,
    #[serde(default)]
    class: Class,
    #[serde(default)]
    system: bool,
    #[serde(default)]
    tags: Tags,
    uids: Option<Spanned<Vec<u32>>>,
}

#[derive(Deserialize, Clone, Copy, Default)]
enum Class {
    P0,
    P1,
    /// Below what the first two are for: what must get through when the node is short of buffers.
    #[default]
    P2,
    P3,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
enum Tags {
    #[default]
    Required,
    Optional,
}

const fn yes() -> bool {
    true
}

pub(crate) fn check(source: Source<'_>, file: RulesFile) -> Result<(Rules, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut check = Check { report: Report::new(source), patterns: HashMap::new(), names: HashMap::new() };
    check.count("[[topic]]", file.topic.len(), TOPIC_RULES_MAX, file.topic.last().map(Spanned::span));
    check.count("[[identity]]", file.identity.len(), IDENTITIES_MAX, file.identity.last().map(Spanned::span));
    let topics: Vec<TopicRules> = file.topic.iter().filter_map(|entry| check.topic(entry.get_ref())).collect();
    let identities: Vec<Identity> =
        file.identity.iter().filter_map(|entry| check.identity(entry.get_ref(), &topics)).collect();
    check.overlapping_senders(&file.identity);
    let denied = check.denied(&file.prefilter.deny);
    check.report.finish(Rules { topics, identities, denied })
}

struct Check<'a> {
    report: Report<'a>,
    /// Line of the first entry with this pattern or name.
    patterns: HashMap<Pattern, Range<usize>>,
    names: HashMap<String, Range<usize>>,
}

impl Check<'_> {
    fn count(&mut self, what: &str, count: usize, max: usize, last: Option<Range<usize>>) {
        if let Some(span) = last.filter(|_| count > max) {
            self.report.error(
                span,
                format!("{count} {what} entries, at most {max}"),
                "use patterns (`orders.*`) instead",
            );
        }
    }

    fn topic(&mut self, entry: &TopicEntry) -> Option<TopicRules> {
        let limit = self.limit(["rate", "burst"], entry.rate.as_ref(), entry.burst.as_ref());
        let durability = match entry.durability {
            None | Some(DurabilityWord::Volatile) => Durability::Volatile,
            Some(DurabilityWord::Logged) => Durability::Logged,
            Some(DurabilityWord::Durable) => Durability::Durable,
        };
        let when_log_full = self.when_log_full(durability, entry.when_log_full.as_ref());
        let pattern = self.pattern(&entry.r#match)?;
        if self.patterns.insert(pattern.clone(), entry.r#match.span()).is_some() {
            let message = format!("a second [[topic]] entry for `{pattern}`");
            self.report.error(entry.r#match.span(), message, "each pattern has one entry: merge the two");
        }
        Some(TopicRules { pattern, limit, tag: entry.tag, quarantine: entry.quarantine, durability, when_log_full })
    }

    fn when_log_full(&mut self, durability: Durability, word: Option<&Spanned<WhenLogFullWord>>) -> WhenLogFull {
        let Some(word) = word else { return durability.usual_when_log_full() };
        let meant = match word.get_ref() {
            WhenLogFullWord::Taildrop => WhenLogFull::Taildrop,
            WhenLogFullWord::Mark => WhenLogFull::Mark,
            WhenLogFullWord::Nack => WhenLogFull::Nack,
            WhenLogFullWord::Buffer => WhenLogFull::Buffer,
        };
        if durability == Durability::Durable && meant == WhenLogFull::Mark {
            let message = "`mark` forwards messages that nobody wrote, which a durable topic never does";
            self.report.error(word.span(), message, "write `nack`, or make the topic `logged`");
        }
        if durability == Durability::Volatile {
            let message = "`when_log_full` means nothing for a volatile topic, which is never written";
            self.report.warning(word.span(), message, "remove it, or set `durability`");
        }
        meant
    }

    fn pattern(&mut self, text: &Spanned<String>) -> Option<Pattern> {
        let help = "write a name (`orders.eu`) or a beginning with `*` at its end (`orders.*`)";
        text.get_ref().parse().map_err(|wrong: String| self.report.error(text.span(), wrong, help)).ok()
    }

    fn patterns(&mut self, key: &str, texts: &[Spanned<String>]) -> Vec<Pattern> {
        if let Some(over) = texts.get(PATTERNS_MAX) {
            let message = format!("`{key}` has {} patterns, at most {PATTERNS_MAX}", texts.len());
            self.report.error(over.span(), message, "use beginnings (`orders.*`) instead of single names");
        }
        texts.iter().filter_map(|text| self.pattern(text)).collect()
    }

    fn limit(
        &mut self,
        [rate_key, burst_key]: [&str; 2],
        rate: Option<&Spanned<String>>,
        burst: Option<&Spanned<u32>>,
    ) -> Option<Limit> {
        let Some(text) = rate else {
            if let Some(burst) = burst {
                let message = format!("`{burst_key}` without `{rate_key}` limits nothing");
                self.report.error(burst.span(), message, format!("add `{rate_key}`, or remove `{burst_key}`"));
            }
            return None;
        };
        let rate: Rate = match text.get_ref().parse() {
            Ok(rate) => rate,
            Err(wrong) => {
                self.report.error(text.span(), wrong, Rate::HELP);
                return None;
            }
        };
        if let Some(burst) = burst {
            self.report.within(burst_key, burst, 1..=rate.burst_max());
        }
        Some(Limit { rate, burst: burst.map_or(rate.default_burst(), |burst| *burst.get_ref()) })
    }

    fn identity(&mut self, entry: &IdentityEntry, topics: &[TopicRules]) -> Option<Identity> {
        let name = entry.name.get_ref().clone();
        if let Err(wrong) = check_topic_name(&name) {
            self.report.error(entry.name.span(), wrong, "names use the same characters as topics, such as `desk.eu`");
            return None;
        }
        if self.names.insert(name.clone(), entry.name.span()).is_some() {
            let message = format!("a second [[identity]] entry named `{name}`");
            self.report.error(entry.name.span(), message, "each identity has one entry: merge the two");
        }
        let identity = Identity {
            publish: self.patterns("publish", &entry.publish),
            subscribe: self.patterns("subscribe", &entry.subscribe),
            senders: self.senders(entry),
            sender_limit: self.limit(
                ["sender_rate", "sender_burst"],
                entry.sender_rate.as_ref(),
                entry.sender_burst.as_ref(),
            ),
            class_cap: entry.class as u8,
            system: entry.system,
            tags: match entry.tags {
                Tags::Required => TagDemand::Required,
                Tags::Optional => TagDemand::Optional,
            },
            uids: entry.uids.as_ref().map(|uids| uids.get_ref().clone()),
            name,
        };
        self.reach(entry, topics);
        Some(identity)
    }

    /// Warns of patterns that can never match, and of an identity that nobody can claim.
    fn reach(&mut self, entry: &IdentityEntry, topics: &[TopicRules]) {
        for text in entry.publish.iter().chain(&entry.subscribe) {
            let Ok(pattern) = text.get_ref().parse::<Pattern>() else { continue };
            if !topics.iter().any(|topic| topic.pattern.overlaps(&pattern)) {
                let message = format!("no [[topic]] entry matches anything under `{pattern}`");
                self.report.warning(text.span(), message, format!("add a [[topic]] with match = \"{pattern}\""));
            }
        }
        if let Some(uids) = entry.uids.as_ref().filter(|uids| uids.get_ref().is_empty()) {
            let help = "list the Unix users that may, or remove `uids` for root and control's own user";
            self.report.warning(uids.span(), "an empty `uids`: nobody can claim this identity", help);
        }
    }

    fn senders(&mut self, entry: &IdentityEntry) -> Option<(u32, u32)> {
        let Some(text) = &entry.senders else {
            if let Some(pattern) = entry.publish.first() {
                let message = "this identity may publish, but has no sender ids to do it with";
                self.report.error(pattern.span(), message, "add `senders`, such as \"1000-1999\"");
            }
            return None;
        };
        match parse_range(text.get_ref()) {
            Ok(range) => Some(range),
            Err(wrong) => {
                let help = format!("write first and last, such as \"1000-1999\", both below {SENDER_SLOTS_MAX}");
                self.report.error(text.span(), wrong, help);
                None
            }
        }
    }

    fn denied(&mut self, texts: &[Spanned<String>]) -> Vec<SourcePrefix> {
        if let Some(over) = texts.get(DENIED_MAX) {
            let message = format!("`deny` has {} prefixes, at most {DENIED_MAX}", texts.len());
            let help = "keep long lists out of the rules: `tachyon prefilter deny add --from-file FILE`";
            self.report.error(over.span(), message, help);
            return Vec::new();
        }
        let (mut seen, mut told) = (HashSet::new(), 0);
        for text in texts {
            told += usize::from(!self.denies(text, &mut seen));
            if told == DENIED_TOLD_MAX {
                let message = format!("`deny` is not looked at from here on: there were {told} problems");
                self.report.error(text.span(), message, "mend those first");
                break;
            }
        }
        let mut denied: Vec<SourcePrefix> = seen.into_iter().collect();
        denied.sort_unstable();
        denied
    }

    /// Takes one prefix; false if something was said about it.
    fn denies(&mut self, text: &Spanned<String>, seen: &mut HashSet<SourcePrefix>) -> bool {
        let prefix = match text.get_ref().parse::<SourcePrefix>() {
            Ok(prefix) => prefix,
            Err(wrong) => {
                self.report.error(text.span(), wrong, SourcePrefix::HELP);
                return false;
            }
        };
        let ip = text.get_ref().split('/').next().and_then(|ip| ip.parse::<IpAddr>().ok());
        let cut = ip.is_some_and(|ip| ip.to_canonical() != prefix.ip());
        if cut {
            let message = format!("only the first {} bits of `{}` count", prefix.bits(), text.get_ref());
            self.report.warning(text.span(), message, format!("write `{prefix}`"));
        }
        let new = seen.insert(prefix);
        if !new {
            self.report.warning(text.span(), format!("`{prefix}` is denied already"), "remove one of the two");
        }
        new && !cut
    }

    /// A sender has one quota, so it belongs to one identity.
    fn overlapping_senders(&mut self, entries: &[Spanned<IdentityEntry>]) {
        let mut ranges: Vec<((u32, u32), &Spanned<String>, &str)> = entries
            .iter()
            .filter_map(|entry| {
                let text = entry.get_ref().senders.as_ref()?;
                Some((parse_range(text.get_ref()).ok()?, text, entry.get_ref().name.get_ref().as_str()))
            })
            .collect();
        ranges.sort_by_key(|(range, ..)| *range);
        for pair in ranges.windows(2) {
            if let [((_, last), _, owner), ((first, _), text, _)] = pair
                && first <= last
            {
                let message = format!("sender {first} already belongs to `{owner}`");
                self.report.error(text.span(), message, format!("start above {last}"));
            }
        }
    }
}

fn parse_range(text: &str) -> Result<(u32, u32), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number =
        |digits: &str| digits.trim().parse::<u32>().map_err(|_| format!("`{text}` is not a range of sender ids"));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("`{text}` ends before it begins"));
    }
    if last >= SENDER_SLOTS_MAX {
        return Err(format!("sender {last} is out of range"));
    }
    Ok((first, last))
}
