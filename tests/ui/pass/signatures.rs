//! Functions with visibility, attributes, `unsafe`, aliases, `infallible` or another crate path, and
//! functions that a macro writes.
#![deny(warnings)]
#![allow(clippy::needless_question_mark, clippy::manual_async_fn)]

mod reexported {
    pub(crate) use cached_core as cache;
}

use serde::{Deserialize, Serialize};

mod inner {
    use super::*;

    type Aliased<T> = Result<T, std::num::ParseIntError>;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    pub(crate) struct Rates {
        pub(crate) eur: u32,
    }

    /// Attributes keep their places.
    #[inline]
    #[must_use = "the answer of a network call"]
    #[cached_core::coordinator_cached(name = "aliased", version = number)]
    #[allow(clippy::unused_async)]
    pub(crate) async fn aliased(#[allow(unused)] number: &str) -> Aliased<u32> {
        #![allow(unused_variables)]
        //! Documentation inside of the body.
        let unused = 1;
        Ok(number.parse::<u32>()?)
    }

    #[reexported::cache::coordinator_cached(
        name = "rates",
        overwrite(reason = "rates are replaced every morning"),
        crate = reexported::cache,
        entry = rates_entry,
        infallible
    )]
    pub(super) async fn rates() -> Rates {
        Rates { eur: 1 }
    }

    /// # Safety
    /// There is nothing to uphold.
    #[cached_core::coordinator_cached(name = "unsafe", version = number)]
    pub(in crate::inner) async unsafe fn dangerous(number: u8) -> Option<u8> {
        if number == 0 {
            return None;
        }
        Some(number)
    }

    pub(crate) async fn safe(number: u8) -> Option<u8> {
        unsafe { dangerous(number).await }
    }
}

#[cached_core::coordinator_cached(name = "connection", version = number, skip(connection))]
async fn fetch_through(connection: &mut u32, number: u8) -> Result<u8, String> {
    *connection += 1;
    Ok(number)
}

/// An expression made from a `&mut` may be in the key.
#[cached_core::coordinator_cached(name = "database", version = number, identifier = database.len())]
async fn fetch_from(database: &mut String, number: u8) -> Result<u8, String> {
    database.clear();
    Ok(number)
}

#[cached_core::coordinator_cached(name = "change", version = number, skip(change))]
async fn changed<F: Fn(&mut u8)>(change: F, mut number: u8) -> Result<u8, String> {
    change(&mut number);
    Ok(number)
}

macro_rules! annotated {
    ($function:ident, $entry:ident, $name:literal, $ttl:expr, $number:ident: $type:ty => $body:block) => {
        #[cached_core::coordinator_cached(name = $name, version = $number, ttl = $ttl, entry = $entry)]
        async fn $function($number: $type) -> Result<$type, String> $body
    };
}

annotated!(written, written_entry, "written", "5m", number: u8 => { Ok(number + 1) });

/// Bodies get no errors, callers get no warnings, and a future is `Send` if its body is.
fn spawned() -> impl Future<Output = ()> + Send {
    async {
        assert_eq!(inner::aliased("1").await, Ok(1));
        assert_eq!(inner::rates().await, inner::Rates { eur: 1 });
        assert_eq!(inner::safe(0).await, None);
        assert_eq!(written(1).await, Ok(2));
        assert_eq!(fetch_through(&mut 1, 2).await, Ok(2));
        assert_eq!(fetch_from(&mut "eu".to_owned(), 2).await, Ok(2));
        assert_eq!(changed(|number| *number += 1, 2).await, Ok(3));
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    spawned().await;
    let _ = inner::rates_entry();
    let _ = written_entry(1);
}
