//! What `verify` refuses, and that nothing makes it panic.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use tachyon_policy::compile::{Durability, Quota, RulesetSource, SenderSource, TopicSource, WhenFull, compile, seal};
use tachyon_policy::{Fault, ImageError, verify};
use tachyon_wire::image::{ImageHeader, RouteRule, SenderRule, TOPIC_KNOWN, TopicRule};
use zerocopy::FromBytes;

const SHARDS: u16 = 4;
const HEADER: usize = size_of::<ImageHeader>();

/// Three topic slots, of which 1 is not in use, three sender slots, of which 1 is not, two principals, two routes.
fn source() -> RulesetSource {
    let topic = |topic_id, publishers, subscribers| TopicSource {
        topic_id,
        quota: Quota::new(1_000, 1_000_000_000, 5).unwrap(),
        tag_required: true,
        quarantine: true,
        durability: Durability::Durable,
        when_full: WhenFull::Nack,
        publishers,
        subscribers,
    };
    let sender = |sender_id| SenderSource { sender_id, quota: Quota { period: 160, burst: 9 } };
    RulesetSource {
        version: 7,
        shard_count: SHARDS,
        principals: 2,
        sets: vec![vec![0], vec![1, 0], vec![3, 2], vec![4_095]],
        topics: vec![topic(2, 0, 2), topic(3, 1, 3)],
        senders: vec![sender(0), sender(2)],
    }
}

/// Where the sections of `source()`'s image start, by the rule of the layout.
const TOPICS: usize = HEADER;
const SENDERS: usize = TOPICS + 128;
const RIGHTS: usize = SENDERS + 64;
const ROUTES: usize = RIGHTS + 64;
const TARGETS: usize = ROUTES + 64;
const END: usize = TARGETS + 64;

/// The error after a change to a good image, with a checksum that fits it.
fn after(change: impl FnOnce(&mut Vec<u8>)) -> ImageError {
    let mut image = compile(&source()).unwrap();
    change(&mut image);
    seal(&mut image);
    verify(image, SHARDS).unwrap_err()
}

fn header(change: impl FnOnce(&mut ImageHeader)) -> ImageError {
    after(|image| change(ImageHeader::mut_from_prefix(image).unwrap().0))
}

fn topic(slot: usize, change: impl FnOnce(&mut TopicRule)) -> ImageError {
    after(|image| change(TopicRule::mut_from_prefix(&mut image[TOPICS + slot * 32..]).unwrap().0))
}

fn sender(slot: usize, change: impl FnOnce(&mut SenderRule)) -> ImageError {
    after(|image| change(SenderRule::mut_from_prefix(&mut image[SENDERS + slot * 16..]).unwrap().0))
}

fn route(index: usize, change: impl FnOnce(&mut RouteRule)) -> ImageError {
    after(|image| change(RouteRule::mut_from_prefix(&mut image[ROUTES + index * 16..]).unwrap().0))
}

#[test]
fn accepts_what_compile_writes_and_gives_the_records_back() {
    let image = compile(&source()).unwrap();
    assert_eq!(image.len(), END);
    let verified = verify(image.clone(), SHARDS).unwrap();
    let ruleset = verified.ruleset();
    assert_eq!((verified.version(), ruleset.version), (7, 7));
    assert_eq!((ruleset.topic_slots(), ruleset.sender_slots(), ruleset.routes()), (4, 3, 2));
    assert_eq!(ruleset.topic(1).unwrap().flags.get(), 0);
    assert_eq!(ruleset.topic(2).unwrap().period.get(), 16_000_000);
    assert!(ruleset.topic(4).is_none() && ruleset.topic(u32::MAX).is_none());
    assert_eq!(ruleset.sender(2).unwrap().burst.get(), 9);
    assert!(ruleset.sender(1).is_none() && ruleset.sender(u32::MAX).is_none());
    let rows: Vec<_> = (0..3).map(|principal| ruleset.rights_row(principal).first().map(|word| word.get())).collect();
    assert_eq!(rows, [Some(0b110), Some(0b100), None]);
    assert!(ruleset.rights_row(u32::MAX).is_empty());
    let (rule, targets) = ruleset.route(ruleset.topic(2).unwrap().route.get()).unwrap();
    assert_eq!((rule.route_id.get(), targets.iter().map(|slot| slot.get()).collect()), (2, vec![2, 3]));
    // The route with one target comes first, though a later topic takes it.
    assert_eq!((ruleset.topic(3).unwrap().route.get(), ruleset.direct_routes()), (0, 1));
    assert!(ruleset.route(2).is_none() && ruleset.route(u32::MAX).is_none());
    assert_eq!(verified.into_inner(), image);
}

#[test]
fn refuses_each_wrong_header_field() {
    assert_eq!(header(|header| header.magic = *b"RTT1"), ImageError::Magic);
    assert_eq!(header(|header| header.layout.set(1)), ImageError::Layout(1));
    assert_eq!(header(|header| header.version.set(0)), ImageError::Version(0));
    assert_eq!(header(|header| header.version.set(1 << 32)), ImageError::Version(1 << 32));
    assert_eq!(header(|header| header.length += 64), ImageError::Length);
    assert_eq!(header(|header| header.shard_count.set(8)), ImageError::ShardCount(8));
    assert_eq!(header(|header| header.reserved[43] = 1), ImageError::HeaderReserved);
    assert_eq!(header(|header| header.topic_slots.set((1 << 20) + 1)), ImageError::Count("topic_slots"));
    assert_eq!(header(|header| header.sender_slots.set(u32::MAX)), ImageError::Count("sender_slots"));
    assert_eq!(header(|header| header.principals.set(65_537)), ImageError::Count("principals"));
    assert_eq!(header(|header| header.rights_words.set(0)), ImageError::Count("rights_words"));
    assert_eq!(header(|header| header.rights_words.set(1_025)), ImageError::Count("rights_words"));
    assert_eq!(header(|header| header.routes.set(65_537)), ImageError::Count("routes"));
    assert_eq!(header(|header| header.targets.set(u32::MAX)), ImageError::Count("targets"));
    for count in [5, 1 << 20] {
        assert_eq!(header(|header| header.topic_slots.set(count)), ImageError::Length);
    }
}

#[test]
fn refuses_an_image_for_another_number_of_shards() {
    let image = compile(&source()).unwrap();
    for shards in [0, 1, 3, 5, 8, u16::MAX] {
        assert_eq!(verify(&image, shards).unwrap_err(), ImageError::ShardCount(4));
    }
}

#[test]
fn refuses_each_wrong_topic_field() {
    let wrong = |slot, fault| ImageError::Topic(slot, fault);
    assert_eq!(topic(0, |rule| rule.flags.set(TOPIC_KNOWN)), wrong(0, Fault::NotEmpty));
    assert_eq!(topic(1, |rule| rule.group.set(1)), wrong(1, Fault::NotEmpty));
    assert_eq!(topic(2, |rule| rule.flags -= TOPIC_KNOWN), wrong(2, Fault::NotEmpty));
    assert_eq!(topic(2, |rule| rule.topic_id.set(3)), wrong(2, Fault::WrongSlot));
    assert_eq!(topic(2, |rule| rule.flags |= 0x80), wrong(2, Fault::Flags));
    assert_eq!(topic(2, |rule| rule.burst.set(0)), wrong(2, Fault::Bucket));
    assert_eq!(topic(3, |rule| rule.period.set((1 << 62) / 5 + 1)), wrong(3, Fault::Bucket));
    assert_eq!(topic(3, |rule| rule.period.set(u64::MAX)), wrong(3, Fault::Bucket));
    assert_eq!(topic(3, |rule| rule.route.set(2)), wrong(3, Fault::Route));
    assert_eq!(topic(3, |rule| rule.group.set(64)), wrong(3, Fault::Group));
    assert_eq!(topic(3, |rule| rule.reserved.set(1)), wrong(3, Fault::Reserved));
}

#[test]
fn refuses_each_wrong_sender_right_and_route() {
    assert_eq!(sender(1, |rule| rule.period.set(1)), ImageError::Sender(1, Fault::Bucket));
    assert_eq!(sender(2, |rule| rule.burst.set(0)), ImageError::Sender(2, Fault::Bucket));
    assert_eq!(sender(2, |rule| rule.period.set(1 << 62)), ImageError::Sender(2, Fault::Bucket));
    assert_eq!(sender(0, |rule| rule.reserved.set(1)), ImageError::Sender(0, Fault::Reserved));
    assert_eq!(after(|image| image[RIGHTS + 8] |= 1), ImageError::Rights(1));
    let wrong = |index, fault| ImageError::Route(index, fault);
    assert_eq!(route(0, |rule| rule.route_id.set(0)), wrong(0, Fault::RouteId));
    assert_eq!(route(1, |rule| rule.reserved[4] = 1), wrong(1, Fault::Reserved));
    assert_eq!(route(1, |rule| rule.target_count.set(0)), wrong(1, Fault::Run));
    assert_eq!(route(1, |rule| rule.target_count.set(65)), wrong(1, Fault::Run));
    assert_eq!(route(1, |rule| rule.first_target.set(3)), wrong(1, Fault::Run));
    assert_eq!(route(1, |rule| rule.first_target.set(u32::MAX)), wrong(1, Fault::Run));
    assert_eq!(after(|image| image[TARGETS + 4] = 3), wrong(1, Fault::Targets));
    assert_eq!(after(|image| image[TARGETS + 4] = 4), wrong(1, Fault::Targets));
    assert_eq!(after(|image| image[TARGETS + 1] = 0x10), wrong(0, Fault::Targets));
}

#[test]
fn refuses_padding_that_is_not_zero() {
    assert_eq!(after(|image| image[SENDERS + 63] = 1), ImageError::Padding("senders"));
    assert_eq!(after(|image| image[RIGHTS + 16] = 1), ImageError::Padding("rights"));
    assert_eq!(after(|image| image[ROUTES + 40] = 1), ImageError::Padding("routes"));
    assert_eq!(after(|image| image[TARGETS + 12] = 1), ImageError::Padding("targets"));
    let mut odd = source();
    odd.topics.pop();
    let mut image = compile(&odd).unwrap();
    image[TOPICS + 3 * 32] = 1;
    seal(&mut image);
    assert_eq!(verify(image, SHARDS).unwrap_err(), ImageError::Padding("topics"));
}

#[test]
fn refuses_every_single_bit_flip() {
    let mut image = compile(&source()).unwrap();
    for bit in 0..image.len() * 8 {
        image[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(&image, SHARDS).is_err(), "bit {bit}");
        image[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(verify(&image, SHARDS).is_ok());
}

#[test]
fn refuses_every_truncation_and_extension() {
    let mut image = compile(&source()).unwrap();
    for length in 0..image.len() {
        let error = verify(&image[..length], SHARDS).unwrap_err();
        assert_eq!(error, if length < HEADER { ImageError::TooShort } else { ImageError::Length });
    }
    for _ in 0..64 {
        image.push(0);
        assert_eq!(verify(&image, SHARDS).unwrap_err(), ImageError::Length);
    }
}

/// Changes that the checksum no longer catches must be caught by the record checks, or be harmless.
#[test]
fn never_panics_on_random_bytes() {
    let mut state = 0x7ac4_0002_u64;
    println!("seed {state}");
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap()
    };
    let good = compile(&source()).unwrap();
    let mut accepted = 0;
    for _ in 0..30_000 {
        let mut image = good.clone();
        for _ in 0..1 + random() % 6 {
            let at = random() % image.len();
            image[at] = u8::try_from(random() % 256).unwrap();
        }
        seal(&mut image);
        if let Ok(verified) = verify(&image, SHARDS) {
            accepted += 1;
            let ruleset = verified.ruleset();
            assert!((0..4).all(|id| ruleset.topic(id).is_some()) && ruleset.route(1).is_some());
        }
        let noise: Vec<u8> = (0..random() % 400).map(|_| u8::try_from(random() % 256).unwrap()).collect();
        assert!(verify(noise, SHARDS).is_err());
    }
    println!("{accepted} of 30000 changed images still say something sound");
}

#[test]
fn names_what_is_wrong() {
    let text = ImageError::Topic(3, Fault::Bucket).to_string();
    assert_eq!(text, "topic 3: burst is 0, or period times burst is too large");
}
