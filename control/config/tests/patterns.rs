//! Patterns against the obvious model: try every pattern on the name, sort what matches by length.

use proptest::prelude::*;
use tachyon_config::{Pattern, PatternIndex};

/// Few letters, so that patterns overlap.
fn word() -> impl Strategy<Value = String> {
    "[ab.]{1,5}"
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![word(), word().prop_map(|word| word + "*"), Just("*".to_owned())]
}

/// Whether a pattern, as text, matches, and how specific it is. Knows nothing of the crate.
fn model(pattern: &str, name: &str) -> Option<usize> {
    match pattern.strip_suffix('*') {
        Some(prefix) => (name.len() >= prefix.len() && &name[..prefix.len()] == prefix).then_some(prefix.len()),
        None => (pattern == name).then_some(usize::MAX),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn the_index_finds_what_the_model_finds_in_its_order(texts in prop::collection::vec(pattern(), 0..12), name in word()) {
        let patterns: Vec<Pattern> = texts.iter().map(|text| text.parse().expect("valid")).collect();
        let index: PatternIndex<usize> = patterns.iter().enumerate().map(|(number, pattern)| (pattern, number)).collect();
        let found: Vec<usize> = index.matching(&name).copied().collect();
        let mut expected: Vec<usize> = (0..texts.len()).filter(|n| model(&texts[*n], &name).is_some()).collect();
        expected.sort_by_key(|n| std::cmp::Reverse(model(&texts[*n], &name)));
        prop_assert_eq!(found, expected);
        for (text, pattern) in texts.iter().zip(&patterns) {
            prop_assert_eq!(pattern.matches(&name), model(text, &name).is_some());
            prop_assert_eq!(&pattern.to_string(), text);
        }
    }

    #[test]
    fn two_patterns_that_match_one_name_overlap(a in pattern(), b in pattern(), name in word()) {
        if model(&a, &name).is_some() && model(&b, &name).is_some() {
            let (a, b): (Pattern, Pattern) = (a.parse().expect("valid"), b.parse().expect("valid"));
            prop_assert!(a.overlaps(&b) && b.overlaps(&a));
        }
    }
}

#[test]
fn patterns_that_share_no_name_do_not_overlap() {
    let overlap = |a: &str, b: &str| a.parse::<Pattern>().unwrap().overlaps(&b.parse().unwrap());
    assert!(!overlap("a.*", "b.*"));
    assert!(!overlap("a", "b.*"));
    assert!(!overlap("a", "ab"));
    assert!(overlap("*", "b"));
}

#[test]
fn refuses_what_is_no_pattern() {
    for text in ["", "a*b", "*a", "a b", "ä", "**", "a\n"] {
        assert!(text.parse::<Pattern>().is_err(), "{text:?}");
    }
    assert!("x".repeat(256).parse::<Pattern>().is_err());
    assert!("x".repeat(255).parse::<Pattern>().is_ok());
}
