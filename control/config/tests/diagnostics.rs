//! What a person sees when a file is wrong, letter by letter.

use tachyon_config::{ControlFile, Diagnostic, Durability, RULES_MANUAL, Rules, Severity, TagDemand, WhenLogFull};

fn rules_say(text: &str) -> String {
    shown(&Rules::parse("rules.toml", text).expect_err("must be refused"))
}

fn control_says(text: &str) -> String {
    shown(&ControlFile::parse("control.toml", text).expect_err("must be refused"))
}

fn shown(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_unknown_key_is_refused_with_the_word_that_was_meant() {
    let expected = "\
error: unknown key `rat`
 --> rules.toml:3:1
  |
3 | rat = \"1000/s\"
  | ^^^
  = help: did you mean `rate`? Known here: `match`, `rate`, `burst`, `tag`, `quarantine`, `durability`, \
          `when_log_full`";
    assert_eq!(rules_say("[[topic]]\nmatch = \"a.*\"\nrat = \"1000/s\"\n"), expected);
}

#[test]
fn an_unknown_word_is_refused_with_the_words_there_are() {
    let expected = "\
error: unknown value `persistent`
 --> rules.toml:3:14
  |
3 | durability = \"persistent\"
  |              ^^^^^^^^^^^^
  = help: known here: `volatile`, `logged`, `durable`; `tachyon-control --print-default-rules` explains each";
    assert_eq!(rules_say("[[topic]]\nmatch = \"a.*\"\ndurability = \"persistent\"\n"), expected);
}

#[test]
fn values_out_of_range_are_refused_all_at_once() {
    let expected = "\
error: `topics_max` is 2000000, which is out of range
 --> control.toml:1:14
  |
1 | topics_max = 2_000_000
  |              ^^^^^^^^^
  = help: give a value from 1 to 1048575
error: `subscriber_credit` is 0, which is out of range
 --> control.toml:2:21
  |
2 | subscriber_credit = 0
  |                     ^
  = help: give a value from 1 to 65536";
    assert_eq!(control_says("topics_max = 2_000_000\nsubscriber_credit = 0\n"), expected);
}

#[test]
fn a_wrong_type_is_refused_at_its_place() {
    let expected = "\
error: invalid type: string \"yes\", expected a boolean
 --> rules.toml:3:7
  |
3 | tag = \"yes\"
  |       ^^^^^
  = help: `tachyon-control --print-default-rules` prints a commented file that explains each key";
    assert_eq!(rules_say("[[topic]]\nmatch = \"a.*\"\ntag = \"yes\"\n"), expected);
}

#[test]
fn a_missing_key_is_named() {
    let said = rules_say("[[topic]]\nrate = \"1/s\"\n");
    assert!(said.starts_with("error: missing key `match`\n --> rules.toml:1:1\n"), "{said}");
    assert!(said.ends_with("= help: add `match = …`; `tachyon-control --print-default-rules` explains it"), "{said}");
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    let said = control_says("log_level = \"info\"\nlog_level = \"warn\"\n");
    assert!(said.contains("duplicate key") && said.contains("control.toml:2:1"), "{said}");
}

#[test]
fn duplicate_entries_are_refused() {
    let text = "[[topic]]\nmatch = \"a\"\n[[topic]]\nmatch = \"a\"\n\
                [[identity]]\nname = \"x\"\n[[identity]]\nname = \"x\"\n";
    let expected = "\
error: a second [[topic]] entry for `a`
 --> rules.toml:4:9
  |
4 | match = \"a\"
  |         ^^^
  = help: each pattern has one entry: merge the two
error: a second [[identity]] entry named `x`
 --> rules.toml:8:8
  |
8 | name = \"x\"
  |        ^^^
  = help: each identity has one entry: merge the two";
    assert_eq!(rules_say(text), expected);
}

#[test]
fn overlapping_sender_ranges_are_refused() {
    let text = "[[topic]]\nmatch = \"*\"\n\
                [[identity]]\nname = \"one\"\npublish = [\"*\"]\nsenders = \"10-20\"\n\
                [[identity]]\nname = \"two\"\npublish = [\"*\"]\nsenders = \"20-30\"\n";
    let said = rules_say(text);
    assert!(said.starts_with("error: sender 20 already belongs to `one`\n  --> rules.toml:10:11\n"), "{said}");
}

#[test]
fn a_publisher_without_senders_is_refused() {
    let said = rules_say("[[topic]]\nmatch = \"*\"\n[[identity]]\nname = \"one\"\npublish = [\"*\"]\n");
    assert!(said.contains("no sender ids") && said.contains("rules.toml:5:12"), "{said}");
}

#[test]
fn rates_that_are_none_are_refused() {
    for rate in ["1000", "fast/s", "10/d", "0/s", "17G/s", "/s", "-1/s", "1.5/s", "99999999999999999999/s"] {
        let said = rules_say(&format!("[[topic]]\nmatch = \"a\"\nrate = \"{rate}\"\n"));
        assert!(said.contains("rules.toml:3:8") && said.contains("such as \"1000/s\""), "{rate}: {said}");
    }
}

#[test]
fn denied_prefixes_are_read_and_what_is_none_is_refused_at_its_place() {
    let text = "[prefilter]\ndeny = [\"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.7\", \"10.1.0.0/16\"]\n";
    let (rules, warnings) = Rules::parse("rules.toml", text).expect("valid");
    let denied: Vec<String> = rules.denied.iter().map(ToString::to_string).collect();
    assert_eq!(denied, ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32"]);
    assert_eq!(warnings, []);
    let expected = "\
error: `10.0.0.0/33` does not end with a number of bits from 0 to 32
 --> rules.toml:2:9
  |
2 | deny = [\"10.0.0.0/33\", \"here\"]
  |         ^^^^^^^^^^^^^
  = help: write an address (`10.1.2.3`) or the beginning of several with its bits (`10.0.0.0/8`, `2001:db8::/32`)
error: `here` does not begin with an IP address
 --> rules.toml:2:24
  |
2 | deny = [\"10.0.0.0/33\", \"here\"]
  |                        ^^^^^^
  = help: write an address (`10.1.2.3`) or the beginning of several with its bits (`10.0.0.0/8`, `2001:db8::/32`)";
    assert_eq!(rules_say("[prefilter]\ndeny = [\"10.0.0.0/33\", \"here\"]\n"), expected);
    assert!(rules_say("[prefilter]\ndenny = []\n").contains("did you mean `deny`?"));
    let many = vec!["\"10.0.0.1\""; 65_537].join(", ");
    assert!(rules_say(&format!("[prefilter]\ndeny = [{many}]\n")).contains("--from-file"));
    for again in ["\"10.0.0.1\"", "\"10.0.0.1/8\"", "\"here\""] {
        // A line for each of them would be gigabytes.
        let text = format!("[prefilter]\ndeny = [{}]\n", vec![again; 65_536].join(", "));
        let told = Rules::parse("rules.toml", &text).expect_err("must be refused");
        assert!(told.len() <= 21 && told.iter().any(|one| one.message.contains("not looked at")), "{again}");
    }
}

#[test]
fn denied_prefixes_that_are_cut_or_stand_twice_are_warned_of() {
    let text = "[prefilter]\ndeny = [\"10.1.2.3/8\",\n\"10.0.0.0/8\"]\n";
    let (rules, warnings) = Rules::parse("rules.toml", text).expect("valid");
    assert_eq!(rules.denied.len(), 1);
    assert_eq!(
        warnings.iter().map(|warning| (warning.line, warning.help.as_str())).collect::<Vec<_>>(),
        [(2, "write `10.0.0.0/8`"), (3, "remove one of the two")]
    );
}

#[test]
fn a_burst_is_held_against_its_rate() {
    assert!(rules_say("[[topic]]\nmatch = \"a\"\nburst = 3\n").contains("`burst` without `rate` limits nothing"));
    assert!(rules_say("[[topic]]\nmatch = \"a\"\nrate = \"1/s\"\nburst = 0\n").contains("`burst` is 0"));
    // 2⁶² ticks of 1/16 ns hold 80,063 messages of one hour each.
    assert!(rules_say("[[topic]]\nmatch = \"a\"\nrate = \"1/h\"\nburst = 80_064\n").contains("from 1 to 80063"));
}

#[test]
fn text_that_is_no_toml_is_refused_at_its_place() {
    let said = control_says("log = \n");
    assert!(said.contains("--> control.toml:1:"), "{said}");
}

#[test]
fn a_caret_stands_under_its_word_behind_tabs_and_wide_letters() {
    let said = control_says("admin_uids = [] # ä\n\ttopics_max =\t0 # ü\n");
    assert!(said.contains("2 |  topics_max = 0 # ü\n  |               ^\n"), "{said}");
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let text = "[[topic]]\nmatch = \"a\"\nwhen_log_full = \"nack\"\n\
                [[identity]]\nname = \"x\"\nsubscribe = [\"b.*\"]\nuids = []\n";
    let (rules, warnings) = Rules::parse("rules.toml", text).expect("valid");
    assert_eq!(rules.topics[0].durability, Durability::Volatile);
    let lines: Vec<u32> = warnings.iter().map(|warning| warning.line).collect();
    assert_eq!(lines, [3, 6, 7], "{}", shown(&warnings));
    assert!(warnings.iter().all(|warning| warning.severity == Severity::Warning));
}

#[test]
fn what_a_full_log_does_depends_on_the_topic_and_never_lets_durable_messages_pass_unwritten() {
    let text = "[[topic]]\nmatch = \"a\"\ndurability = \"logged\"\n[[topic]]\nmatch = \"b\"\ndurability = \"durable\"\n\
                [[topic]]\nmatch = \"c\"\ndurability = \"durable\"\nwhen_log_full = \"buffer\"\n";
    let (rules, warnings) = Rules::parse("rules.toml", text).expect("valid");
    assert_eq!(warnings, []);
    let meant: Vec<WhenLogFull> = rules.topics.iter().map(|topic| topic.when_log_full).collect();
    assert_eq!(meant, [WhenLogFull::Mark, WhenLogFull::Nack, WhenLogFull::Buffer]);
    let expected = "\
error: `mark` forwards messages that nobody wrote, which a durable topic never does
 --> rules.toml:4:17
  |
4 | when_log_full = \"mark\"
  |                 ^^^^^^
  = help: write `nack`, or make the topic `logged`";
    let text = "[[topic]]\nmatch = \"a\"\ndurability = \"durable\"\nwhen_log_full = \"mark\"\n";
    assert_eq!(rules_say(text), expected);
}

#[test]
fn the_truth_logs_section_is_checked() {
    let said = control_says("[log]\nsegment_mib = 64\nkeep_mib = 100\n");
    assert!(said.contains("`keep_mib` is 100, with segments of 64 MiB"), "{said}");
    assert!(said.contains("3 | keep_mib = 100") && said.contains("a value from 192"), "{said}");
    let said = control_says("[log]\norigin = \"two words\"\nsegment_mib = 4\n");
    assert!(said.contains("`two words` cannot be the origin of a log"), "{said}");
    assert!(said.contains("`segment_mib` is 4, which is out of range"), "{said}");
    let (file, _) = ControlFile::parse("control.toml", "[log]\ndirectory = \"/log\"\nkeep_days = 2\n").expect("valid");
    assert_eq!(file.log.signing_key_file, std::path::Path::new("/log/log.key"));
    assert_eq!(file.log.keys_file.as_deref(), Some(std::path::Path::new("/log/keys")));
    assert_eq!(file.log.keep.map(|keep| keep.as_secs()), Some(2 * 86_400));
    let (file, _) = ControlFile::parse("control.toml", "[log]\nkeep_keys = false\nkeep_mib = 0\n").expect("valid");
    assert_eq!((file.log.keys_file, file.log.keep_bytes), (None, None));
}

#[test]
fn the_default_rules_are_valid_and_show_every_key() {
    let (rules, warnings) = Rules::parse("rules.toml", RULES_MANUAL).expect("valid");
    assert_eq!(warnings, []);
    let demo = &rules.identities[0];
    assert_eq!((demo.senders, demo.class_cap, demo.tags), (Some((1000, 1999)), 1, TagDemand::Required));
    let keys = "match rate burst tag quarantine durability when_log_full name publish subscribe senders sender_rate sender_burst \
                class system tags uids deny";
    for key in keys.split_whitespace() {
        assert!(
            RULES_MANUAL.contains(&format!("\n{key} = ")) || RULES_MANUAL.contains(&format!("\n# {key} = ")),
            "{key}"
        );
    }
}

#[test]
fn the_default_control_file_says_what_holds_without_one() {
    let (file, warnings) = ControlFile::parse("control.toml", ControlFile::MANUAL).expect("valid");
    assert_eq!(warnings, []);
    assert_eq!(file, ControlFile::default());
}

#[test]
fn a_burst_that_is_left_out_is_a_tenth_of_a_second() {
    let burst = |rate: &str| {
        let text = format!("[[topic]]\nmatch = \"a\"\nrate = \"{rate}\"\n");
        Rules::parse("rules.toml", &text).expect("valid").0.topics[0].limit.expect("limited").burst
    };
    assert_eq!(burst("1000/s"), 100);
    assert_eq!(burst("50/m"), 1);
    assert_eq!(burst("2M/s"), 200_000);
    assert_eq!(burst("16G/s"), 1_600_000_000);
}
