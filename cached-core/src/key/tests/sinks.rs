//! Tests the hasher of keys, and the comparer, which compares a key with stored bytes. Two keys
//! match if and only if their bytes are equal, and equal bytes must have equal hashes.

use std::collections::HashSet;

use super::*;

fn hash_of(parts: &[impl Serialize]) -> u32 {
    let write =
        |hasher, part: &_| Serialize::serialize(part, KeySerializer(hasher)).expect("hashes");
    parts.iter().fold(KeyHasher::new(3), write).header(3).hash()
}

fn matches_bytes(values: &[SerdeValue], bytes: &[u8]) -> bool {
    let write = |matching, value: &SerdeValue| value.serialize(KeySerializer(matching));
    values.iter().try_fold(KeyComparer::new(bytes), write).is_ok_and(KeyComparer::is_match)
}

/// Returns a slightly different value, which a wrong comparison might accept as equal.
fn altered(value: &SerdeValue, choice: usize) -> SerdeValue {
    match value {
        SerdeValue::Str(text) => {
            let mut chars: Vec<char> = text.chars().collect();
            let place = choice % (chars.len() + 1);
            match chars.get_mut(place) {
                Some(char) => *char = if *char == 'x' { 'y' } else { 'x' },
                None => chars.push('x'),
            }
            SerdeValue::Str(chars.into_iter().collect())
        }
        SerdeValue::Bytes(bytes) => SerdeValue::Bytes([&bytes[..], &[0]].concat()),
        SerdeValue::Unsigned(value) => SerdeValue::Unsigned(value ^ (1 << (choice % 128))),
        SerdeValue::Signed(value) => SerdeValue::Signed(value ^ (1 << (choice % 128))),
        SerdeValue::Float(bits) => SerdeValue::Float(bits ^ (1 << (choice % 64))),
        SerdeValue::Some(value) => SerdeValue::Some(Box::new(altered(value, choice))),
        SerdeValue::Seq(values) if !values.is_empty() => {
            let mut values = values.clone();
            let place = choice % values.len();
            values[place] = altered(&values[place], choice / 7);
            SerdeValue::Seq(values)
        }
        SerdeValue::Struct(fields) if !fields.is_empty() => {
            let mut fields = fields.clone();
            let place = choice % fields.len();
            fields[place].1 = altered(&fields[place].1, choice / 7);
            SerdeValue::Struct(fields)
        }
        _ => SerdeValue::Some(Box::new(value.clone())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn keys_match_exactly_if_their_bytes_are_equal(
        one in vec(serde_values(), 0..4),
        other in vec(serde_values(), 0..4),
        choice in any::<usize>(),
    ) {
        let mut nearly = one.clone();
        if !nearly.is_empty() {
            let place = choice % nearly.len();
            nearly[place] = altered(&nearly[place], choice / 5);
        }
        let shorter = &one[..one.len().saturating_sub(1)];
        for another in [&one[..], &other, &nearly, shorter] {
            let bytes = bytes_of(another);
            let are_equal = bytes_of(&one) == bytes;
            prop_assert_eq!(matches_bytes(&one, &bytes), are_equal, "wrong match with {:?}", another);
        }
    }

    #[test]
    fn equal_bytes_have_equal_hashes(
        entries in vec((serde_values(), serde_values()), 0..5),
        before in serde_values(),
        after in serde_values(),
        places in vec(any::<prop::sample::Index>(), 5),
    ) {
        let mut shuffled = entries.clone();
        for (index, place) in places.iter().enumerate().take(entries.len()) {
            shuffled.swap(index, place.index(entries.len()));
        }
        let key = |entries| [before.clone(), SerdeValue::Map(entries), after.clone()];
        let (one, other) = (key(entries), key(shuffled));
        prop_assert_eq!(bytes_of(&one), bytes_of(&other));
        prop_assert_eq!(hash_of(&one), hash_of(&other));
        prop_assert!(matches_bytes(&one, &bytes_of(&other)));
    }
}

/// The hasher and the comparer treat short, medium and long strings differently, so the test has
/// strings of all three kinds.
#[test]
fn any_changed_byte_changes_the_key() {
    for length in (0..40).chain([127, 128, 129, 300]) {
        let text = "a".repeat(length);
        let bytes = bytes_of(&[SerdeValue::Str(text.clone())]);
        assert!(matches_bytes(&[SerdeValue::Str(text.clone())], &bytes));
        let hash = hash_of(&[&text]);
        for place in 0..length {
            let mut other = text.clone();
            other.replace_range(place..=place, "b");
            assert!(
                !matches_bytes(&[SerdeValue::Str(other)], &bytes),
                "the comparer sees a change of byte {place} of {length}"
            );
        }
        let longer = format!("{text}a");
        assert_ne!(hash_of(&[&longer]), hash, "an added byte changes the hash: {length}");
        assert!(
            !matches_bytes(&[SerdeValue::Str(longer)], &bytes),
            "the comparer sees an added byte: {length}"
        );
    }
}

/// An attacker might split one list in different places in order to make keys collide.
#[test]
fn lists_split_in_different_places_have_different_hashes() {
    let cut = |cuts: u32| {
        let mut lists = vec![SerdeValue::Seq(Vec::new())];
        for bit in 0..12 {
            if cuts >> bit & 1 == 1 {
                lists.push(SerdeValue::Seq(Vec::new()));
            }
            let Some(SerdeValue::Seq(last)) = lists.last_mut() else { unreachable!() };
            last.push(SerdeValue::Unsigned(1));
        }
        hash_of(&[SerdeValue::Seq(lists)])
    };
    let hashes: HashSet<u32> = (0..1 << 12).map(cut).collect();
    assert!(hashes.len() >= (1 << 12) - 2, "nearly all hashes differ: {}", hashes.len());
    let nested = |inner| SerdeValue::Seq(vec![SerdeValue::Unsigned(1), SerdeValue::Seq(inner)]);
    assert_ne!(
        hash_of(&[nested(vec![SerdeValue::Unsigned(2)])]),
        hash_of(&[SerdeValue::Seq(vec![SerdeValue::Seq(vec![
            SerdeValue::Unsigned(1),
            SerdeValue::Unsigned(2)
        ])])])
    );
}

/// The test also checks that the hashes are spread evenly over 512 buckets.
#[test]
fn hashes_of_ordinary_keys_rarely_collide() {
    let mut hashes = HashSet::new();
    let mut sets = [[0u32; 512]; 2];
    let (keys, mut collisions) = (20_000, 0);
    let mut add = |hash: u32| {
        collisions += i32::from(!hashes.insert(hash));
        sets[0][hash as usize >> 23 & 511] += 1;
        sets[1][hash as usize >> 14 & 511] += 1;
    };
    for number in 0..keys {
        match number % 5 {
            0 => add(hash_of(&[number])),
            1 => add(hash_of(&[format!("{number}")])),
            2 => add(hash_of(&[(format!("payment-{number:08}"), true)])),
            3 => add(hash_of(&[(format!("{number:040}"), Some(number % 7))])),
            _ => add(hash_of(&[(number, "x".repeat(200))])),
        }
    }
    assert!(collisions <= 2, "at most 2 of {keys} keys collide: {collisions}");
    let fair = keys / 512;
    for count in sets.as_flattened() {
        assert!(
            (fair / 3..fair * 3).contains(&(*count as i32)),
            "each of 512 sets has about {fair} keys: {count}"
        );
    }
}
