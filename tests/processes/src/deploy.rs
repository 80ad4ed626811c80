//! Two builds of one program, for the test `deploys`. In the two builds, most of the cached
//! functions return different types.

pub mod panicking;

/// Writes the program of one build: `build! { old }` before a deploy, `build! { new }` after the
/// deploy.
///
/// Each item below describes a cached function. The first brackets hold its type and its value in
/// the old build, and the second brackets those in the new build. In a few items, such as
/// `unchanged`, both builds have the same type.
#[macro_export]
macro_rules! build {
    ($build:ident) => {
        $crate::functions! { $build
            unchanged "unchanged":
                [Payment = Payment { amount: 1, fee: 2 }; struct Payment { amount: u32, fee: u32 }]
                [Payment = Payment { amount: 1, fee: 2 }; struct Payment { amount: u32, fee: u32 }]

            field_added "field_added":
                [Payment = Payment { amount: 1, fee: 2 }; struct Payment { amount: u32, fee: u32 }]
                [Payment = Payment { amount: 1, fee: 2, tax: 0 };
                    struct Payment { amount: u32, fee: u32, tax: u32 }]

            field_removed "field_removed":
                [Payment = Payment { amount: 1, fee: 2 }; struct Payment { amount: u32, fee: u32 }]
                [Payment = Payment { amount: 1 }; struct Payment { amount: u32 }]

            field_renamed "field_renamed":
                [Payment = Payment { amount: 1, fee: 2 }; struct Payment { amount: u32, fee: u32 }]
                [Payment = Payment { amount: 1, charge: 3 };
                    struct Payment { amount: u32, charge: u32 }]

            fields_reordered "fields_reordered":
                [Payment = Payment { amount: 1, by: String::new() };
                    struct Payment { amount: u8, by: String }]
                [Payment = Payment { by: String::new(), amount: 1 };
                    struct Payment { by: String, amount: u8 }]

            fields_swapped "fields_swapped":
                [Payment = Payment { amount: 1, fee: 2 }; struct Payment { amount: u32, fee: u32 }]
                [Payment = Payment { fee: 2, amount: 1 }; struct Payment { fee: u32, amount: u32 }]

            struct_renamed "struct_renamed":
                [Payment = Payment { amount: 1 }; struct Payment { amount: u32 }]
                [Refund = Refund { amount: 3 }; struct Refund { amount: u32 }]

            widened "widened":
                [Payment = Payment { amount: 1 }; struct Payment { amount: u32 }]
                [Payment = Payment { amount: 1 }; struct Payment { amount: u64 }]

            signed "signed":
                [Payment = Payment { amount: 2 }; struct Payment { amount: u32 }]
                [Payment = Payment { amount: 2 }; struct Payment { amount: i32 }]

            float_widened "float_widened":
                [Vec<f32> = vec![1.0, 2.0];]
                [Vec<f64> = vec![1.0, 2.0];]

            bytes_of_text "bytes_of_text":
                [String = "seven".into();]
                [Vec<u8> = b"eight".to_vec();]

            option_added "option_added":
                [Payment = Payment { amount: 1, fee: 2 }; struct Payment { amount: u8, fee: u8 }]
                [Payment = Payment { amount: Some(1), fee: 2 };
                    struct Payment { amount: Option<u8>, fee: u8 }]

            variant_added "variant_added":
                [State = State::Refunded; enum State { Paid, Refunded }]
                [State = State::Refunded; enum State { Paid, Failed, Refunded }]

            variant_removed "variant_removed":
                [State = State::Refunded; enum State { Paid, Failed, Refunded }]
                [State = State::Refunded; enum State { Paid, Refunded }]

            variant_renamed "variant_renamed":
                [State = State::Paid; enum State { Paid, Refunded }]
                [State = State::Settled; enum State { Settled, Refunded }]

            variants_reordered "variants_reordered":
                [Vec<State> = vec![State::Paid, State::Refunded]; enum State { Paid, Refunded }]
                [Vec<State> = vec![State::Paid, State::Refunded]; enum State { Refunded, Paid }]

            variant_filled "variant_filled":
                [State = State::Paid; enum State { Paid, Refunded }]
                [State = State::Paid(7); enum State { Paid(u8), Refunded }]

            newtype_wrapped "newtype_wrapped":
                [u32 = 7;]
                [Cents = Cents(8); struct Cents(u32);]

            tuple_for_struct "tuple_for_struct":
                [Payment = Payment { amount: 1, fee: 2 }; struct Payment { amount: u32, fee: u32 }]
                [Payment = Payment(2, 1); struct Payment(u32, u32);]

            nested "nested":
                [BTreeMap<String, Vec<Order>> =
                    [("7".into(), vec![Order { lines: vec![Line { price: 1, count: 2 }] }])].into();
                    struct Order { lines: Vec<Line> }
                    struct Line { price: u32, count: u32 }]
                [BTreeMap<String, Vec<Order>> =
                    [("7".into(), vec![Order { lines: vec![Line { count: 2, price: 1 }] }])].into();
                    struct Order { lines: Vec<Line> }
                    struct Line { count: u32, price: u32 }]

            array_grown "array_grown":
                [[u8; 3] = [1, 2, 3];]
                [[u8; 4] = [1, 2, 3, 4];]

            pairs_for_map "pairs_for_map":
                [BTreeMap<u8, u8> = BTreeMap::from([(1, 2)]);]
                [Vec<(u8, u8)> = vec![(1, 3)];]

            after_an_address "after_an_address":
                [(std::net::IpAddr, u8) = ([127, 0, 0, 1].into(), 7);]
                [(std::net::IpAddr, i8) = ([127, 0, 0, 1].into(), 7);]

            checked "checked":
                [(Stamp, Currency, Percent) = (Stamp(7), Currency("EUR".into()), Percent(7));]
                [(Stamp, Currency, Percent) = (Stamp(7), Currency("EUR".into()), Percent(7));]

            text_checked "text_checked":
                [Payment = Payment { at: "today".into() }; struct Payment { at: String }]
                [Payment = Payment { at: Stamp(7) }; struct Payment { at: Stamp }]

            number_checked "number_checked":
                [Payment = Payment { fee: 200 }; struct Payment { fee: u8 }]
                [Payment = Payment { fee: Percent(1) }; struct Payment { fee: Percent }]

            text_for_number "text_for_number":
                [Payment = Payment { by: 7 }; struct Payment { by: u64 }]
                [Payment = Payment { by: Currency("EUR".into()) }; struct Payment { by: Currency }]

            checked_otherwise "checked_otherwise":
                [Vec<Option<Stamp>> = vec![Some(Stamp(7))];]
                [Vec<Option<Currency>> = vec![Some(Currency("EUR".into()))];]

            checked_key "checked_key":
                [BTreeMap<String, u8> = BTreeMap::from([("number".into(), 255)]);]
                [HashMap<String, Percent> = HashMap::from([("number".into(), Percent(7))]);]

            checked_in_a_variant "checked_in_a_variant":
                [State = State::Paid("today".into()); enum State { Paid(String) }]
                [State = State::Paid(Stamp(7)); enum State { Paid(Stamp) }]

            same_name "same_name":
                [Payment = Payment { at: other::Stamp(4_000_000_000) };
                    struct Payment { at: other::Stamp }]
                [Payment = Payment { at: Stamp(7) }; struct Payment { at: Stamp }]

            omitted "omitted":
                [Payment = Payment { amount: 1, fee: None, tax: None };
                    struct Payment {
                        amount: u32,
                        #[serde(default, skip_serializing_if = "Option::is_none")]
                        fee: Option<u8>,
                        #[serde(default, skip_serializing_if = "Option::is_none")]
                        tax: Option<u8>,
                    }]
                [Payment = Payment { amount: 1, fee: None, tax: None };
                    struct Payment {
                        amount: u32,
                        #[serde(default, skip_serializing_if = "Option::is_none")]
                        fee: Option<u8>,
                        #[serde(default, skip_serializing_if = "Option::is_none")]
                        tax: Option<u8>,
                    }]

            omitted_swapped "omitted_swapped":
                [Payment = Payment { at: "today".into(), by: Stamp(7), tax: None };
                    struct Payment {
                        at: String,
                        by: Stamp,
                        #[serde(default, skip_serializing_if = "Option::is_none")]
                        tax: Option<u8>,
                    }]
                [Payment = Payment { at: Stamp(7), by: "today".into(), tax: None };
                    struct Payment {
                        at: Stamp,
                        by: String,
                        #[serde(default, skip_serializing_if = "Option::is_none")]
                        tax: Option<u8>,
                    }]

            any_data "any_data":
                [Vec<NumberOrLetter> = vec![NumberOrLetter::Number(7), NumberOrLetter::Text("a".into())];]
                [Vec<NumberOrLetter> = vec![NumberOrLetter::Number(7), NumberOrLetter::Text("a".into())];]

            adjacent_changed "adjacent_changed":
                [State = State::Paid("today".into());
                    #[serde(tag = "kind", content = "value")] enum State { Paid(String), Other(NumberOrLetter) }]
                [State = State::Paid(Stamp(7));
                    #[serde(tag = "kind", content = "value")] enum State { Paid(Stamp), Other(NumberOrLetter) }]

            untagged "untagged":
                [Vec<State> = vec![State::Paid { at: Stamp(7) }, State::Open(1)];
                    #[serde(untagged)] enum State { Paid { at: Stamp }, Open(u8) }]
                [Vec<State> = vec![State::Paid { at: Stamp(7) }, State::Open(1)];
                    #[serde(untagged)] enum State { Paid { at: Stamp }, Open(u8) }]

            flattened_beside_skipped "flattened_beside_skipped":
                [User = User { id: 1, page: Page { of: 2 } };
                    struct User { id: u8, #[serde(flatten)] page: Page }
                    struct Page { of: u8 }]
                [User = User { id: 1, page: Page { of: 2 }, vip: Some(true) };
                    struct User { id: u8, #[serde(flatten)] page: Page,
                        #[serde(default, skip_serializing_if = "Option::is_none")]
                        vip: Option<bool> }
                    struct Page { of: u8 }]

            other_variant "other_variant":
                [State = State::Unknown;
                    #[serde(tag = "kind")] enum State { Paid, #[serde(other)] Unknown }]
                [State = State::Refunded;
                    #[serde(tag = "kind")] enum State { Paid, Refunded, #[serde(other)] Unknown }]

            untagged_renamed "untagged_renamed":
                [Wait = Wait::Seconds(30); #[serde(untagged)] enum Wait { Seconds(u64), Text(String) }]
                [Wait = Wait::Millis(9); #[serde(untagged)] enum Wait { Millis(u64), Text(String) }]

            untagged_checked "untagged_checked":
                [State = State::Paid { at: "today".into() };
                    #[serde(untagged)] enum State { Paid { at: String }, Open(u8) }]
                [State = State::Paid { at: Stamp(7) };
                    #[serde(untagged)] enum State { Paid { at: Stamp }, Open(u8) }]

            untagged_reordered "untagged_reordered":
                [State = State::Wide(7); #[serde(untagged)] enum State { Wide(u32), Narrow(u8) }]
                [State = State::Narrow(7); #[serde(untagged)] enum State { Narrow(u8), Wide(u32) }]

            internal_checked "internal_checked":
                [State = State::Paid { at: "today".into() };
                    #[serde(tag = "kind")] enum State { Paid { at: String } }]
                [State = State::Paid { at: Stamp(7) };
                    #[serde(tag = "kind")] enum State { Paid { at: Stamp } }]

            flattened_checked "flattened_checked":
                [Payment = Payment { amount: 1, rest: Rest { at: "today".into() } };
                    struct Payment { amount: u8, #[serde(flatten)] rest: Rest }
                    struct Rest { at: String }]
                [Payment = Payment { amount: 1, rest: Rest { at: Stamp(7) } };
                    struct Payment { amount: u8, #[serde(flatten)] rest: Rest }
                    struct Rest { at: Stamp }]

            set_for_list "set_for_list":
                [Vec<u8> = vec![3, 1, 1];]
                [HashSet<u8> = HashSet::from([1, 3]);]
        }
    };
}

/// Writes `main`, and a module for each function.
///
/// Without an argument, `main` calls each function once. With an argument, `main` does that action
/// on each entry instead: `invalidate`, `overwrite`, `get`, `add`, or `key`. `main` prints a line
/// for each function: its name, the outcome or the key, and `right` or `wrong`. `wrong` means that
/// a call returned another value than this build's.
#[doc(hidden)]
#[macro_export]
macro_rules! functions {
    (old $($change:ident $name:tt: [$($old:tt)*] [$($new:tt)*])*) => {
        $crate::functions! { $($change $name: [$($old)*])* }
    };
    (new $($change:ident $name:tt: [$($old:tt)*] [$($new:tt)*])*) => {
        $crate::functions! { $($change $name: [$($new)*])* }
    };
    ($($change:ident $name:tt: [$type:ty = $value:expr; $($item:item)*])*) => {
        $(mod $change {
            #[allow(unused_imports)]
            use std::collections::{BTreeMap, HashMap, HashSet};
            use std::sync::atomic::{AtomicBool, Ordering};

            use cached_core::coordinator_cached;
            #[allow(unused_imports)]
            use serde::{Deserialize, Serialize};

            #[allow(unused_imports)]
            use $crate::deploy::panicking::{NumberOrLetter, Currency, Percent, Stamp, other};

            $(
                #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
                #[allow(dead_code)]
                $item
            )*

            static FETCHED: AtomicBool = AtomicBool::new(false);

            #[coordinator_cached(
                name = $name,
                version = number,
                overwrite(reason = "a test overwrites what another build has stored"),
                entry = call_entry
            )]
            async fn call(number: u32) -> Result<$type, ()> {
                let _ = number;
                FETCHED.store(true, Ordering::SeqCst);
                Ok($value)
            }

            pub(crate) async fn run(action: Option<&str>) {
                let entry = call_entry(7);
                match action {
                    None => {}
                    Some("invalidate") => entry.invalidate().await.expect("memcached is reached"),
                    Some("overwrite") => entry.overwrite($value).await.expect("the value is stored"),
                    Some("get") => {
                        let value: $type = $value;
                        let first = cached_core::first_found([call_entry(8), entry.clone()]).await;
                        let found = entry.get().await.into_option() == first && first == Some(value);
                        return println!("{} {} right", $name, if found { "found" } else { "no" });
                    }
                    Some("add") => {
                        let added = entry.add($value).await;
                        return println!("{} {} right", $name, if added { "added" } else { "no" });
                    }
                    Some(_) => return println!("{} {} right", $name, entry.key()),
                }
                if action.is_some() {
                    return println!("{} done right", $name);
                }
                let answer = call(7).await;
                let how = if FETCHED.load(Ordering::SeqCst) { "fetched" } else { "hit" };
                let right = answer == Ok($value);
                println!("{} {how} {}", $name, if right { "right" } else { "wrong" });
            }
        })*

        #[tokio::main]
        async fn main() -> Result<(), Box<dyn std::error::Error>> {
            // Any panic ends the process, as in a build with `panic = "abort"`.
            std::panic::set_hook(Box::new(|panic| {
                eprintln!("{panic}");
                std::process::abort();
            }));
            let builder = cached_core::Cache::builder().memcached([std::env::var("MEMCACHED")?]);
            let builder = builder.remote_timeout(std::time::Duration::from_secs(5));
            let cache = builder.build().await?;
            cache.clone().install()?;
            let action = std::env::args().nth(1);
            $($change::run(action.as_deref()).await;)*
            cache.flush().await;
            Ok(())
        }
    };
}
