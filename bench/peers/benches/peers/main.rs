//! cached-core beside its peers, in one run.
#![allow(missing_docs)]

mod harness;
mod hitbox;
mod hits;
mod payment;

use tokio::runtime::Builder;

fn main() {
    let only = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    for keys in [200, 1_000] {
        let results = hits::run(&runtime, keys, 15, keys * 20, only.as_deref());
        println!("{keys} keys");
        for name in results.names() {
            println!(
                "  {name:45} {:7.0} ns  {:5.2} x concurrent_cached",
                results.median(name),
                results.ratio(name, hits::PEER)
            );
        }
    }
}
