use std::time::Instant;

use super::*;

fn key() -> Arc<[u8]> {
    Arc::from(&b"12345678 a key behind its hash"[..])
}

fn publish(local: &Local, ticket: Ticket, write: Write, value: u32) -> bool {
    let life = Life { from: Instant::now(), fresh: Duration::from_secs(60), kept: Duration::ZERO };
    let value: Value = Arc::new(value);
    local.publish(&key(), ticket, write, &value, 4, life)
}

fn held(local: &Local) -> Option<u32> {
    local.get(&key()).ok().and_then(|value| value.downcast_ref().copied())
}

fn absent(local: &Local) -> Ticket {
    match local.get_or_ticket(&key(), None) {
        Err(ticket) => ticket,
        Ok(_) => panic!("nothing was published yet"),
    }
}

#[test]
fn of_two_who_found_nothing_the_first_to_publish_stays() {
    let local = Local::new(1 << 20, Clock::default());
    let (first, second) = (absent(&local), absent(&local));
    assert!(publish(&local, first, Write::Once, 1));
    assert!(!publish(&local, second, Write::Once, 2));
    assert_eq!(held(&local), Some(1));
    assert!(publish(&local, second, Write::Replace, 3));
    assert_eq!(held(&local), Some(3));
}

#[test]
fn what_was_published_and_invalidated_lets_nobody_before_it_publish() {
    let local = Local::new(1 << 20, Clock::default());
    let before = absent(&local);
    assert!(publish(&local, before, Write::Once, 1));
    let after = local.invalidate(&key(), None).expect("there is no ticket to be out of date");
    assert!(!publish(&local, before, Write::Once, 2));
    assert_eq!(held(&local), None);
    assert!(publish(&local, after, Write::Once, 3));
    assert_eq!(held(&local), Some(3));
}

#[test]
fn what_is_not_fresh_for_any_time_is_not_stored() {
    let local = Local::new(1 << 20, Clock::default());
    let life = Life { from: Instant::now(), fresh: Duration::ZERO, kept: Duration::ZERO };
    let value: Value = Arc::new(1_u32);
    assert!(!local.publish(&key(), absent(&local), Write::Once, &value, 4, life));
}

#[test]
fn who_looked_before_another_published_finds_it_in_the_second_look() {
    let local = Local::new(1 << 20, Clock::default());
    let looked = local.get(&key()).err();
    assert!(local.get_or_ticket(&key(), looked).is_err());
    assert!(publish(&local, absent(&local), Write::Once, 1));
    assert!(local.get_or_ticket(&key(), looked).is_ok());
}

#[test]
fn keys_of_one_head_have_entries_of_their_own_however_long_they_are() {
    let local = Local::new(1 << 20, Clock::default());
    let keys: Vec<Arc<[u8]>> = (8..140)
        .flat_map(|length| [7, 8].map(|last| (length, last)))
        .map(|(length, last)| {
            let mut key = vec![1; length];
            key.push(last);
            Arc::from(key)
        })
        .collect();
    let life = Life { from: Instant::now(), fresh: Duration::from_secs(60), kept: Duration::ZERO };
    for (number, key) in keys.iter().enumerate() {
        let value: Value = Arc::new(number);
        let Err(ticket) = local.get_or_ticket(key, None) else {
            panic!("{number} is not there yet")
        };
        assert!(local.publish(key, ticket, Write::Once, &value, 8, life));
    }
    for (number, key) in keys.iter().enumerate() {
        let held = local.get_from_store(key).ok().and_then(|value| value.downcast_ref().copied());
        assert_eq!(held, Some(number));
        local.invalidate(key, None);
        assert!(local.get_from_store(key).is_err());
    }
}
