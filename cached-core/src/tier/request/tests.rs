//! Tests of the request tier, which keeps the values of one request.

use super::*;

const CACHE: u64 = 1;

fn key(header: u64, body: u64) -> Arc<[u8]> {
    Arc::from([header, body].map(u64::to_ne_bytes).as_flattened())
}

fn number(value: Option<Value>) -> Option<u64> {
    value.map(|value| *value.downcast_ref().expect("the value is a number"))
}

#[tokio::test]
async fn kept_values_are_found_among_removed_values() {
    // Each header is shared by five keys. In the hash table, the searches for many of these headers
    // begin at the same slot.
    let keys: Vec<_> = (0..1_000).map(|number| key(number % 200 * 8, number)).collect();
    let request = async {
        let request = RequestHandle::current().expect("the thread polls a request");
        let get = |at: u64| {
            let others = [(CACHE + 1, key(8, 1)), (CACHE, key(8, 5_000))];
            assert!(others.iter().all(|(cache, key)| request.get(*cache, key).is_none()));
            number(request.get(CACHE, &keys[at as usize]))
        };
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(get(at as u64), None);
            let kept = request.keep(CACHE, key, Arc::new(at as u64));
            assert_eq!(number(Some(kept)), Some(at as u64));
            assert_eq!(number(Some(request.keep(CACHE, key, Arc::new(0_u64)))), Some(at as u64));
        }
        for key in keys.iter().step_by(3) {
            request.remove(CACHE, key);
            request.remove(CACHE, key);
        }
        for at in 0..1_000 {
            assert_eq!(get(at), (at % 3 != 0).then_some(at));
        }
        for (at, key) in keys.iter().enumerate().skip(1).step_by(3) {
            request.replace(CACHE, key, Arc::new(at as u64 + 1_000));
        }
        let later = RequestHandle::current().expect("the thread polls a request");
        for (at, key) in keys.iter().enumerate().step_by(3) {
            // The handle `request` was created before the value was removed, so it keeps no new
            // value.
            let unkept = request.keep(CACHE, key, Arc::new(0_u64));
            assert_eq!((number(Some(unkept)), get(at as u64)), (Some(0), None));
            later.keep(CACHE, key, Arc::new(at as u64 + 2_000));
        }
        for at in 0..1_000 {
            let expected = at + [2_000, 1_000, 0][at as usize % 3];
            assert_eq!(get(at), Some(expected));
        }
    };
    RequestScope::new().run(request).await;
    assert_eq!(RequestHandle::current(), None);
}

#[tokio::test]
async fn a_request_forgets_all_values_of_a_function() {
    let of = |index: u64, body: u64| key(index << 32 | 7, body);
    let found = |cache: u64, key: &Arc<[u8]>| {
        let request = RequestHandle::current().expect("the thread polls a request");
        request.get(cache, key).is_some()
    };
    let request = async {
        let early = RequestHandle::current().expect("the thread polls a request");
        let keep = |request: RequestHandle, cache: u64, key: &Arc<[u8]>| {
            request.keep(cache, key, Arc::new(1_u64));
        };
        for body in 0..20 {
            keep(early, CACHE, &of(1, body));
            keep(early, CACHE, &of(2, body));
            keep(early, CACHE + 1, &of(1, body));
        }
        early.remove_all(CACHE, Some(1));
        for body in 0..20 {
            assert!(!found(CACHE, &of(1, body)));
            assert!(found(CACHE, &of(2, body)) && found(CACHE + 1, &of(1, body)));
        }
        // The handle `early` was created before the removal, so it keeps no new values of function
        // 1. This holds even for the key with number 99, which never had a value.
        keep(early, CACHE, &of(1, 3));
        keep(early, CACHE, &of(1, 99));
        keep(early, CACHE, &of(2, 99));
        assert!(!found(CACHE, &of(1, 3)) && !found(CACHE, &of(1, 99)));
        assert!(found(CACHE, &of(2, 99)));
        let late = RequestHandle::current().expect("the thread polls a request");
        keep(late, CACHE, &of(1, 98));
        assert!(found(CACHE, &of(1, 98)));

        late.remove_all(CACHE, None);
        keep(late, CACHE, &of(2, 97));
        assert!(![of(1, 98), of(2, 99), of(2, 97)].iter().any(|key| found(CACHE, key)));
        assert!(found(CACHE + 1, &of(1, 0)));
    };
    RequestScope::new().run(request).await;
}

#[tokio::test]
async fn futures_are_polled_and_dropped_in_their_request() {
    /// A value whose `Drop` stores the id of the current request plus one, or 0 outside a request.
    struct RequestIdOnDrop(Arc<AtomicU64>);
    impl Drop for RequestIdOnDrop {
        fn drop(&mut self) {
            self.0.store(
                RequestHandle::current().map_or(0, |request| request.id() + 1),
                Ordering::Relaxed,
            );
        }
    }
    let dropped_in = Arc::new(AtomicU64::new(0));
    let recorder = RequestIdOnDrop(Arc::clone(&dropped_in));
    let outer = async move {
        let outer = RequestHandle::current();
        let inner = async {
            let inner = RequestHandle::current();
            tokio::task::yield_now().await;
            assert_eq!(RequestHandle::current(), inner);
            inner
        };
        let inner = RequestScope::new().run(inner).await;
        assert!(outer.is_some() && inner.is_some() && outer != inner);
        assert_eq!(RequestHandle::current(), outer);
        let _recorder = recorder;
        std::future::pending().await
    };
    let mut outer = Box::pin(RequestScope::new().run(outer));
    for _ in 0..3 {
        let polled = std::future::poll_fn(|context| Poll::Ready(outer.as_mut().poll(context)));
        assert_eq!(polled.await, Poll::<()>::Pending);
        assert_eq!(RequestHandle::current(), None);
    }
    drop(outer);
    assert_ne!(dropped_in.load(Ordering::Relaxed), 0);
    assert_eq!(RequestHandle::current(), None);
}
