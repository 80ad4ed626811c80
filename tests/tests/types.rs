//! Checks that types that programs commonly cache cause neither wrong values nor errors.
//!
//! For each type one of two things happens. Either a second process reads the value from memcached,
//! or the value stays in the process that fetched it. In the second case the audit, the library's
//! report on the program's annotated functions, names the function.
//!
//! This file is a test program of its own because each test starts the program a second time.
#![allow(missing_docs, clippy::type_complexity)]

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cached_core::Cache;
use cached_tests::Memcached;
use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

/// Returns a cache like that of a new process: it shares only memcached with other caches.
async fn new_process_cache(memcached: &Memcached) -> Cache {
    let builder = Cache::builder().memcached([memcached.address()]);
    builder.remote_timeout(Duration::from_secs(5)).build().await.expect("the settings are valid")
}

/// The environment variable that makes a process the second one. Its value is memcached's address.
const READER: &str = "CACHED_TYPES_READER";

/// The environment variable that tells a second process what to expect: `hit` or `fetch`.
const EXPECTED: &str = "CACHED_TYPES_EXPECTED";

/// Returns the audit's finding about a function.
fn finding_about(name: &str) -> Option<String> {
    let findings = cached_core::ledger().audit();
    findings.iter().map(ToString::to_string).find(|finding| finding.contains(&format!("`{name}`")))
}

/// Generates one test for each line: `test_name "cache_name" Type = value;`.
macro_rules! types {
    ($($what:ident $name:tt $type:ty = $value:expr;)*) => {$(
        #[tokio::test]
        async fn $what() {
            use std::sync::atomic::{AtomicUsize, Ordering};
            static FETCHES: AtomicUsize = AtomicUsize::new(0);

            #[cached_core::coordinator_cached(name = $name, version = number, entry = value_entry)]
            async fn value(number: u32) -> Result<$type, ()> {
                let _ = number;
                FETCHES.fetch_add(1, Ordering::SeqCst);
                let value: $type = $value;
                Ok(value)
            }

            // This runs in the second process, which has seen no value of this type.
            if let Ok(address) = std::env::var(READER) {
                let expects = std::env::var(EXPECTED);
                let builder = Cache::builder().memcached([address]);
                let cache = builder.remote_timeout(Duration::from_secs(5)).build().await;
                let cache = cache.expect("the settings are valid");
                let is_unshared = match expects.as_deref() {
                    Ok("hit") => {
                        // `get` does not fetch, so it stores nothing.
                        let found = cache.scope(async { value_entry(7).get().await }).await;
                        assert!(found.is_found());
                        return;
                    }
                    Ok(_) => true,
                    Err(_) => UNSHARED.contains(&$name),
                };
                let expected: $type = $value;
                assert_eq!(cache.scope(value(7)).await, Ok(expected));
                cache.flush().await;
                assert_eq!(FETCHES.load(Ordering::SeqCst), usize::from(is_unshared));
                return;
            }
            let memcached = Memcached::start();
            let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
            for cache in [&a, &b, &a, &b] {
                let expected: $type = $value;
                assert_eq!(cache.scope(value(7)).await, Ok(expected));
                cache.flush().await;
            }
            let fetches = FETCHES.load(Ordering::SeqCst);
            match (UNSHARED.contains(&$name), finding_about($name)) {
                (true, Some(_)) => assert_eq!(fetches, 2, "each process fetches once"),
                (false, None) => assert_eq!(fetches, 1, "the second process reads from memcached"),
                (_, audit) => panic!("fetched {fetches} times, and the audit says {audit:?}"),
            }
            let reader = std::process::Command::new(std::env::current_exe().expect("the test knows its program"))
                .args(["--exact", stringify!($what)])
                .env(READER, memcached.address())
                .output()
                .expect("the program starts");
            let output = String::from_utf8_lossy(&reader.stdout);
            assert!(reader.status.success() && output.contains("1 passed"), "{output}");
        }
    )*};
}

/// The types whose values are not stored in memcached.
const UNSHARED: &[&str] =
    &["never_serialized", "skipped", "set_of_shapes", "two_nothings", "wide_untagged"];

types! {
    date_time "date_time" DateTime<Utc> =
        DateTime::from_timestamp(1_700_000_000, 123_456_789).expect("the time is valid");
    date "date" NaiveDate = NaiveDate::from_ymd_opt(2024, 2, 29).expect("the date is valid");
    local_date_time "local_date_time" NaiveDateTime =
        NaiveDate::from_ymd_opt(2024, 2, 29).and_then(|day| day.and_hms_opt(1, 2, 3)).expect("the time is valid");
    uuid "uuid" Uuid = Uuid::from_u128(0x0123_4567_89ab_cdef);
    uuids "uuids" HashMap<Uuid, Vec<Uuid>> = HashMap::from([(Uuid::nil(), vec![Uuid::max()])]);
    decimal "decimal" Decimal = Decimal::new(-12_345, 2);
    decimal_as_text "decimal_as_text" Vec<Price> =
        vec![Price { amount: Decimal::new(100, 2), count: 1 }];
    url "url" Url = "https://example.org/a?b=c#d".parse().expect("the URL is valid");
    sorted "sorted" BTreeMap<String, u32> = BTreeMap::from([("b".into(), 2), ("a".into(), 1)]);
    hashed "hashed" HashMap<u32, String> = (0..100).map(|n| (n, n.to_string())).collect();
    hashed_deep "hashed_deep" HashMap<String, HashMap<u8, Option<u8>>> =
        (0..9).map(|n| (n.to_string(), HashMap::from([(n, Some(n)), (n + 1, None)]))).collect();
    set "set" HashSet<u64> = (0..100).collect();
    sorted_set "sorted_set" BTreeSet<(u8, String)> = BTreeSet::from([(1, "a".into())]);
    queue "queue" VecDeque<i8> = VecDeque::from([-1, 0, 1]);
    nested_some "nested_some" Vec<Option<Option<u8>>> = vec![None, Some(None), Some(Some(7))];
    wide "wide" (i128, u128) = (i128::MIN, u128::MAX);
    duration "duration" Duration = Duration::new(7, 8);
    system_time "system_time" SystemTime =
        SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5);
    addresses "addresses" Vec<IpAddr> = vec![[127, 0, 0, 1].into(), [0; 16].into()];
    socket "socket" SocketAddr = ([10, 0, 0, 1], 80).into();
    shared_text "shared_text" Arc<str> = Arc::from("text");
    shared "shared" Arc<Vec<Arc<String>>> = Arc::new(vec![Arc::new("text".into())]);
    cow "cow" Cow<'static, str> = Cow::Borrowed("text");
    boxed "boxed" Box<[u16]> = Box::new([1, 2, 3]);
    text_bytes "text_bytes" ByteBuf = ByteBuf::from(vec![0, 255, 7]);
    floats "floats" [f64; 3] = [f64::MAX, -0.0, f64::INFINITY];
    characters "characters" Vec<char> = vec!['a', 'é', '🦀'];
    nonzero "nonzero" Option<NonZeroU32> = NonZeroU32::new(7);
    range "range" std::ops::Range<u32> = 1..7;
    bounds "bounds" Vec<Bound<String>> =
        vec![Bound::Unbounded, Bound::Included("a".into()), Bound::Excluded("b".into())];
    generics "generics" GenericPair<GenericPair<Option<u8>>, Result<String, GenericPair<u8, ()>>> = GenericPair {
        inner: GenericPair { inner: Some(1), other: None },
        other: Some(Err(GenericPair { inner: 7, other: Some(()) })),
    };
    variants "variants" Vec<EveryKindOfVariant> = vec![
        EveryKindOfVariant::Unit,
        EveryKindOfVariant::Newtype(Cents(InnerNumber { inner: 7 })),
        EveryKindOfVariant::Tuple(1, "a".into()),
        EveryKindOfVariant::Struct { a: Unit, b: [1; 3] },
        EveryKindOfVariant::Within(Box::new(EveryKindOfVariant::Unit)),
    ];
    aliased "aliased" AliasedField = AliasedField { amount: 7, fee: 1 };
    validated "validated" Vec<(Email, AsymmetricPercent)> = vec![(Email("a@b".into()), AsymmetricPercent(7))];
    borrowed_key "borrowed_key" HashMap<Cow<'static, str>, Box<str>> =
        HashMap::from([(Cow::Borrowed("a"), "b".into())]);
    path "path" std::path::PathBuf = "/a/b".into();
    os_text "os_text" std::ffi::OsString = "a".into();
    nothing "nothing" ((), std::marker::PhantomData<u8>, Option<()>) =
        ((), std::marker::PhantomData, Some(()));
    many "many" Vec<u8> = (0..100_000).map(|number| number as u8).collect();
    deep "deep" Tree = (0..100).fold(Tree::default(), |tree, _| Tree {
        children: vec![tree],
        label: None,
    });
    result "result" Vec<Result<u8, String>> = vec![Ok(7), Err("no".into())];
    newtypes "newtypes" (Cents, Unit) = (Cents(InnerNumber { inner: 7 }), Unit);
    transparent "transparent" TransparentNewtype = TransparentNewtype { inner: 7 };
    modules "modules" WithModules = WithModules {
        at: DateTime::from_timestamp(1_700_000_000, 0).expect("the time is valid"),
        bytes: vec![1, 2, 3],
        code: Code("EUR".into()),
    };
    defaults "defaults" DefaultedField = DefaultedField { amount: 1, fee: 0 };
    renamed "renamed" RenamedFields = RenamedFields { in_use: true, kind: Kind::Big { size: 7 } };
    externally_tagged "externally_tagged" Vec<Kind> = vec![Kind::Small, Kind::Big { size: 7 }];
    adjacently_tagged "adjacently_tagged" Vec<AdjacentlyTagged> =
        vec![AdjacentlyTagged::None, AdjacentlyTagged::One(1), AdjacentlyTagged::Many { of: vec![2, 3] }];
    adjacently_tagged_one "adjacently_tagged_one" AdjacentlyTagged = AdjacentlyTagged::One(1);
    recursive "recursive" Tree = Tree { children: vec![Tree::default()], label: Some(Box::default()) };
    set_of_shapes "set_of_shapes" HashSet<Result<u8, u8>> =
        (0..100).map(|number| if number % 2 == 0 { Ok(number) } else { Err(number) }).collect();
    json "json" Value = json!({ "a": [1, 2.5, null], "b": { "c": "d" } });
    flattened "flattened" FlattenedMap =
        FlattenedMap { id: 7, rest: BTreeMap::from([("a".into(), 1), ("b".into(), 2)]) };
    untagged "untagged" Vec<UntaggedScalar> = vec![UntaggedScalar::Number(1), UntaggedScalar::Text("2".into())];
    internally_tagged "internally_tagged" Vec<InternallyTagged> =
        vec![InternallyTagged::Card { last: 1234 }, InternallyTagged::Cash];
    skipped_if_empty "skipped_if_empty" SkippedIfNone = SkippedIfNone { note: None, amount: 1, fee: 2 };
    skipped_if_filled "skipped_if_filled" SkippedIfNone =
        SkippedIfNone { note: Some(7), amount: 1, fee: 2 };
    never_serialized "never_serialized" UnserializedField =
        UnserializedField { secret: 9, amount: 1, rest: vec![0; 4] };
    // A service parses this type with `serde_json` or `reqwest`'s `json()`.
    parsed_json "parsed_json" Envelope<Vec<Order>> = serde_json::from_str(
        r#"{"data": [{"orderId": 7, "lines": [{"sku": "a", "price": "12.50", "extra": {"x": [1, null]}}]}],
            "meta": {"page": 1}, "requestId": "0123", "traceId": "4567"}"#,
    ).expect("the text is JSON");
    json_list "json_list" Vec<Value> = vec![json!(null), json!(-1), json!(u64::MAX), json!("text")];
    json_object "json_object" serde_json::Map<String, Value> =
        json!({ "b": 1, "a": { "c": [] } }).as_object().cloned().expect("the value is an object");
    shared_json "shared_json" Arc<Value> = Arc::new(json!({ "a": [true] }));
    json_or_none "json_or_none" Vec<Option<Value>> = vec![None, Some(json!({ "a": 1 }))];
    untagged_deep "untagged_deep" UntaggedAnswer = UntaggedAnswer::Many(vec![
        UntaggedAnswer::Address([127, 0, 0, 1].into()),
        UntaggedAnswer::Number(-7),
        UntaggedAnswer::At(DateTime::from_timestamp(1_700_000_000, 5).expect("the time is valid")),
        UntaggedAnswer::By(Uuid::from_u128(7)),
        UntaggedAnswer::Priced { price: Decimal::new(-12_345, 2), lasts: Duration::new(1, 2) },
    ]);
    internally_tagged_newtype "internally_tagged_newtype" InternalNewtype =
        InternalNewtype::Card(Card { last: 1234, holder: None });
    many_optional "many_optional" OptionalFields =
        OptionalFields { first: None, second: Some(2), third: None, lines: vec![SkippedIfNone { note: None, amount: 1, fee: 2 }] };
    flattened_twice "flattened_twice" FlatTwice = FlatTwice {
        page: Page { number: 7, next: None },
        rest: HashMap::from([("a".into(), json!([1])), ("b".into(), json!({ "c": null }))]),
    };
    bytes "bytes" bytes::Bytes = bytes::Bytes::from_static(&[0, 255, 7]);
    http_response "http_response" StoredResponse = StoredResponse(
        http::Response::builder()
            .status(404)
            .header("etag", "\"7\"")
            .header("set-cookie", "a=b")
            .header("set-cookie", "c=d")
            .body(b"not here".to_vec())
            .expect("the response is valid"),
    );
    prost_message "prost_message" PaymentMessage =
        PaymentMessage { number: "7".into(), cents: -300, tags: vec!["a".into()], note: None };
    prost_by_bytes "prost_by_bytes" ProtobufBytes<BareMessage> =
        ProtobufBytes(BareMessage { number: "7".into(), cents: 300 });
    weighed_decimals "weighed_decimals" BTreeMap<String, Decimal> =
        BTreeMap::from([("eur".into(), Decimal::new(1, 2)), ("usd".into(), Decimal::MAX)]);
    wide_untagged "wide_untagged" UntaggedInteger = UntaggedInteger::Wide(i128::MAX);
    two_nothings "two_nothings" TwoKindsOfNone = TwoKindsOfNone { kind: UntaggedScalar::Number(1), nested: Some(None) };
    skipped "skipped" SkippedField = SkippedField { amount: 7, seen: true };
    skipped_default "skipped_default" SkippedField = SkippedField { amount: 7, seen: false };
}

/// serde does not encode a field with `#[serde(skip)]`, so another process would read a different
/// value. The library therefore does not store such a value in memcached.
#[tokio::test]
async fn a_skipped_field_is_not_lost() {
    #[cached_core::coordinator_cached(name = "skipped_alone", version = number, entry = entry)]
    async fn value(number: u8) -> Result<SkippedField, ()> {
        Ok(SkippedField { amount: number, seen: true })
    }

    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    for cache in [&a, &b] {
        assert_eq!(cache.scope(value(7)).await, Ok(SkippedField { amount: 7, seen: true }));
        cache.flush().await;
    }
    let finding = finding_about("skipped_alone").expect("the audit says so");
    assert!(finding.contains("types::Skipped") && finding.contains("#[serde(skip)]"), "{finding}");
    // A value that the program itself puts into the cache is not stored in memcached either.
    let added = SkippedField { amount: 8, seen: true };
    a.scope(async { entry(8).add(added.clone()).await }).await;
    assert_eq!(b.scope(value(8)).await, Ok(added));
    assert_eq!(b.stats().total().remote_hits, 0);
}

/// If a part of a type cannot be encoded, the audit names the innermost such part.
#[tokio::test]
async fn the_audit_names_the_unstorable_part() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Page {
        lines: Vec<Line>,
    }
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Line {
        count: u8,
        raw: Box<OnlyReads>,
    }
    #[derive(Debug, Clone, PartialEq, Deserialize)]
    struct OnlyReads;
    impl Serialize for OnlyReads {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("it is not written"))
        }
    }
    #[cached_core::coordinator_cached(name = "only_reads", version = number)]
    async fn value(number: u8) -> Result<Page, ()> {
        Ok(Page { lines: vec![Line { count: number, raw: Box::new(OnlyReads) }] })
    }
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    cache.scope(value(7)).await.expect("the call succeeds");
    cache.flush().await;
    let finding = finding_about("only_reads").expect("the audit says so");
    for named in ["::Page`", "field `raw`", "OnlyReads", "`Serialize`"] {
        assert!(finding.contains(named), "the finding names {named}: {finding}");
    }
}

/// Runs `program`, this program or a copy of it, so that it calls the annotated function of `test`.
/// Returns true if memcached had no value that the program could read.
fn fetches_in(program: &std::path::Path, test: &str, memcached: &Memcached) -> bool {
    let run = |expected: &str| {
        let output = std::process::Command::new(program)
            .args(["--exact", test])
            .env(READER, memcached.address())
            .env(EXPECTED, expected)
            .output()
            .expect("the program starts");
        output.status.success()
    };
    // The process that expects a hit stores nothing. The process that expects a fetch stores its
    // value.
    !run("hit") && run("fetch")
}

/// serde first copies the input of an untagged type to a buffer. The library cannot check how the
/// parts of the type are decoded from that buffer. Therefore a process reads such a value only if
/// the same build of the program has written it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn only_the_same_program_reads_buffered_values() {
    let own = std::env::current_exe().expect("the test knows its program");
    let other = own.with_extension(format!("other-build-{}", std::process::id()));
    std::fs::copy(&own, &other).expect("the program is copied");
    let mut file =
        std::fs::OpenOptions::new().append(true).open(&other).expect("the copy can be opened");
    std::io::Write::write_all(&mut file, b"another build").expect("the copy can be written");
    drop(file);
    for (test, is_buffered) in [("json", false), ("skipped_if_empty", false), ("untagged", true)] {
        let memcached = Memcached::start();
        assert!(fetches_in(&own, test, &memcached), "{test}: nobody has stored it");
        assert!(!fetches_in(&own, test, &memcached), "{test}: the same program has stored it");
        assert_eq!(fetches_in(&other, test, &memcached), is_buffered, "{test}");
        assert!(!fetches_in(&other, test, &memcached), "{test}: both builds have it now");
        assert!(!fetches_in(&own, test, &memcached), "{test}: both builds have it now");
    }
    std::fs::remove_file(&other).expect("the copy is removed");
}

/// Derives the traits of a cached value for each type.
macro_rules! derived {
    ($($item:item)*) => {$(
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        $item
    )*};
}

derived! {
    struct InnerNumber { inner: u8 }
    struct Cents(InnerNumber);
    struct Unit;
    #[serde(transparent)]
    struct TransparentNewtype { inner: u8 }
    struct WithModules {
        #[serde(with = "chrono::serde::ts_seconds")]
        at: DateTime<Utc>,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
        code: Code,
    }
    struct Price {
        #[serde(with = "rust_decimal::serde::str")]
        amount: Decimal,
        count: u8,
    }
    #[serde(try_from = "String", into = "String")]
    struct Code(String);
    struct DefaultedField { amount: u8, #[serde(default)] fee: u8 }
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct RenamedFields { in_use: bool, #[serde(rename = "type")] kind: Kind }
    enum Kind { Small, Big { size: u8 } }
    #[serde(tag = "kind", content = "value")]
    enum AdjacentlyTagged { None, One(u8), Many { of: Vec<u8> } }
    #[derive(Default)]
    struct Tree { children: Vec<Tree>, label: Option<Box<Tree>> }
    struct GenericPair<T, U = ()> { inner: T, other: Option<U> }
    enum EveryKindOfVariant {
        Unit,
        Newtype(Cents),
        Tuple(u8, String),
        Struct { a: Unit, b: [u8; 3] },
        Within(Box<EveryKindOfVariant>),
    }
    struct AliasedField { #[serde(alias = "sum", alias = "a")] amount: u8, fee: u8 }
    struct FlattenedMap { id: u8, #[serde(flatten)] rest: BTreeMap<String, u8> }
    #[serde(untagged)]
    enum UntaggedScalar { Number(u8), Text(String) }
    #[serde(tag = "kind")]
    enum InternallyTagged { Card { last: u16 }, Cash }
    struct SkippedIfNone {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<u8>,
        amount: u8,
        fee: u8,
    }
    struct SkippedField { amount: u8, #[serde(skip)] seen: bool }
    struct Order {
        #[serde(rename = "orderId")]
        id: u64,
        lines: Vec<OrderLine>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<String>,
    }
    struct OrderLine { sku: String, price: Decimal, #[serde(flatten)] rest: HashMap<String, Value> }
    #[serde(rename_all = "camelCase")]
    struct Envelope<T> {
        data: T,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<Url>,
        meta: Value,
        #[serde(flatten)]
        ids: Ids,
    }
    #[serde(rename_all = "camelCase")]
    struct Ids { request_id: String, trace_id: String }
    #[serde(untagged)]
    enum UntaggedAnswer {
        Number(i64),
        Address(IpAddr),
        By(Uuid),
        At(DateTime<Utc>),
        Priced { price: Decimal, lasts: Duration },
        Many(Vec<UntaggedAnswer>),
    }
    #[serde(tag = "kind", rename_all = "snake_case")]
    enum InternalNewtype { Card(Card), Cash }
    struct Card {
        last: u16,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<String>,
    }
    struct OptionalFields {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first: Option<u8>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        second: Option<u8>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        third: Option<u8>,
        lines: Vec<SkippedIfNone>,
    }
    struct Page {
        number: u8,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    }
    struct FlatTwice {
        #[serde(flatten)]
        page: Page,
        #[serde(flatten)]
        rest: HashMap<String, Value>,
    }
    #[serde(untagged)]
    enum UntaggedInteger { Narrow(u8), Wide(i128) }
    struct TwoKindsOfNone { kind: UntaggedScalar, nested: Option<Option<u8>> }
    struct UnserializedField {
        #[serde(skip_serializing, default)]
        secret: u8,
        amount: u8,
        rest: Vec<u8>,
    }
}

impl TryFrom<String> for Code {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Code, &'static str> {
        if text.len() == 3 { Ok(Code(text)) } else { Err("a code has three letters") }
    }
}

impl From<Code> for String {
    fn from(code: Code) -> String {
        code.0
    }
}

/// A validated type that serializes as a newtype and deserializes by hand from text.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Email(String);

impl<'de> Deserialize<'de> for Email {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Email, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.contains('@') {
            true => Ok(Email(text)),
            false => Err(serde::de::Error::custom("an address contains @")),
        }
    }
}

/// A type that serializes by hand as a number and deserializes as a newtype.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct AsymmetricPercent(u8);

impl Serialize for AsymmetricPercent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.0)
    }
}

/// A response of an HTTP client. serde encodes it as [`ResponseParts`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "ResponseParts", into = "ResponseParts")]
struct StoredResponse(http::Response<Vec<u8>>);

#[derive(Serialize, Deserialize, PartialEq)]
struct ResponseParts {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl From<StoredResponse> for ResponseParts {
    fn from(StoredResponse(response): StoredResponse) -> ResponseParts {
        let (parts, body) = response.into_parts();
        let headers = parts.headers.iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        ResponseParts { status: parts.status.as_u16(), headers: headers.collect(), body }
    }
}

impl TryFrom<ResponseParts> for StoredResponse {
    type Error = http::Error;
    fn try_from(parts: ResponseParts) -> Result<StoredResponse, http::Error> {
        let mut response = http::Response::builder().status(parts.status);
        for (name, value) in parts.headers {
            response = response.header(name, value);
        }
        response.body(parts.body).map(StoredResponse)
    }
}

impl PartialEq for StoredResponse {
    fn eq(&self, other: &StoredResponse) -> bool {
        ResponseParts::from(self.clone()) == ResponseParts::from(other.clone())
    }
}

/// A message whose generated code derives serde's traits too (`type_attribute` of `prost-build`).
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
struct PaymentMessage {
    #[prost(string, tag = "1")]
    number: String,
    #[prost(sint64, tag = "2")]
    cents: i64,
    #[prost(string, repeated, tag = "3")]
    tags: Vec<String>,
    #[prost(string, optional, tag = "4")]
    note: Option<String>,
}

/// A protobuf message without serde's traits, as another crate might define it.
#[derive(Clone, PartialEq, prost::Message)]
struct BareMessage {
    #[prost(string, tag = "1")]
    number: String,
    #[prost(uint32, tag = "2")]
    cents: u32,
}

/// A protobuf message that serializes as its protobuf bytes.
#[derive(Debug, Clone, PartialEq)]
struct ProtobufBytes<M>(M);

impl<M: prost::Message> Serialize for ProtobufBytes<M> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0.encode_to_vec())
    }
}

impl<'de, M: prost::Message + Default> Deserialize<'de> for ProtobufBytes<M> {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<ProtobufBytes<M>, D::Error> {
        let bytes = ByteBuf::deserialize(deserializer)?;
        M::decode(bytes.as_slice()).map(ProtobufBytes).map_err(serde::de::Error::custom)
    }
}
