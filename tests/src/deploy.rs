//! Two builds of one program, of which the types of some values differ: what their `main`s share.

/// For each change of a type a module with the type, a value of it and a function that is cached,
/// and a `main` that calls each function once. It prints a line for each: the change, how the
/// call was answered, and whether the value is the one that this build's function returns.
#[macro_export]
macro_rules! build {
    ($($change:ident $name:tt: $type:ty = $value:expr; { $($item:item)* })*) => {
        $(mod $change {
            #[allow(unused_imports)]
            use std::collections::{BTreeMap, HashSet};
            use std::sync::atomic::{AtomicBool, Ordering};

            use cached_core::coordinator_cached;
            #[allow(unused_imports)]
            use serde::{Deserialize, Serialize};

            $(
                #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
                #[allow(dead_code)]
                $item
            )*

            static FETCHED: AtomicBool = AtomicBool::new(false);

            #[coordinator_cached(name = $name, version = number)]
            async fn call(number: u32) -> Result<$type, ()> {
                let _ = number;
                FETCHED.store(true, Ordering::SeqCst);
                Ok($value)
            }

            pub(crate) async fn run() {
                let answer = call(7).await;
                let how = if FETCHED.load(Ordering::SeqCst) { "fetched" } else { "hit" };
                let right = answer == Ok($value);
                println!("{} {how} {}", $name, if right { "right" } else { "wrong" });
            }
        })*

        #[tokio::main]
        async fn main() -> Result<(), Box<dyn std::error::Error>> {
            let cache = cached_core::Cache::from_env().await?;
            cache.clone().install()?;
            $($change::run().await;)*
            cache.flush().await;
            Ok(())
        }
    };
}
