//! A `HashSet` in the key has no stable order, so it is refused where the type shows it.

use std::collections::{BTreeSet, HashMap, HashSet};

use cached_core::coordinator_cached;

#[coordinator_cached(name = "courses", version = edition)]
async fn courses(ids: HashSet<u32>, edition: u8) -> Result<usize, String> {
    Ok(ids.len() + usize::from(edition))
}

#[coordinator_cached(name = "borrowed", version = edition, identifier = (region, ids))]
async fn borrowed(
    region: &str,
    ids: &std::collections::HashSet<u32>,
    edition: u8,
) -> Result<usize, String> {
    Ok(ids.len() + region.len() + usize::from(edition))
}

#[coordinator_cached(name = "nested", version = (edition, kinds))]
async fn nested(
    groups: Vec<HashSet<u32>>,
    wanted: Option<HashSet<String>>,
    kinds: HashMap<u32, (u8, HashSet<u8>)>,
    edition: u8,
) -> Result<usize, String> {
    Ok(groups.len() + wanted.map_or(0, |wanted| wanted.len()) + kinds.len() + usize::from(edition))
}

#[coordinator_cached(
    name = "sorted",
    version = edition,
    identifier = ids.iter().collect::<BTreeSet<_>>(),
    skip(seen)
)]
async fn sorted(ids: HashSet<u32>, seen: &HashSet<u32>, edition: u8) -> Result<usize, String> {
    Ok(ids.len() + seen.len() + usize::from(edition))
}

fn main() {
    let ids = || HashSet::from([1, 2, 3]);
    drop(async { courses(ids(), 1).await });
    drop(async { borrowed("eu", &ids(), 1).await });
    drop(async { nested(vec![ids()], None, HashMap::new(), 1).await });
    drop(async { sorted(ids(), &ids(), 1).await });
}
