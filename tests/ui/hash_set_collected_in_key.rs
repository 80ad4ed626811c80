//! The elements of a `HashSet` have no stable order, so a `Vec` of them cannot be in the key.

use std::collections::{BTreeSet, HashMap, HashSet};

use cached_core::coordinator_cached;

#[coordinator_cached(name = "courses", version = edition, identifier = ids.iter().collect::<Vec<_>>())]
async fn courses(ids: HashSet<u32>, edition: u8) -> Result<usize, String> {
    Ok(ids.len() + usize::from(edition))
}

#[coordinator_cached(
    name = "regions",
    version = edition,
    identifier = (region, names.keys().cloned().collect::<Vec<String>>())
)]
async fn regions(
    region: &str,
    names: &HashMap<String, u32>,
    edition: u8,
) -> Result<usize, String> {
    Ok(names.len() + region.len() + usize::from(edition))
}

#[coordinator_cached(
    name = "amounts",
    version = amounts.into_values().collect::<Vec<_>>(),
    identifier = edition
)]
async fn amounts(amounts: HashMap<String, u32>, edition: u8) -> Result<usize, String> {
    Ok(amounts.len() + usize::from(edition))
}

fn sorted(ids: &HashSet<u32>) -> Vec<u32> {
    let mut ids: Vec<u32> = ids.iter().copied().collect();
    ids.sort_unstable();
    ids
}

#[coordinator_cached(
    name = "sorted",
    version = edition,
    identifier = (
        sorted(ids),
        names.keys().collect::<BTreeSet<_>>(),
        order.iter().collect::<Vec<_>>(),
    )
)]
async fn sorted_courses(
    ids: &HashSet<u32>,
    names: &HashMap<String, u32>,
    order: &[u32],
    edition: u8,
) -> Result<usize, String> {
    Ok(ids.len() + names.len() + order.len() + usize::from(edition))
}

fn main() {
    let ids = HashSet::from([1, 2, 3]);
    let names = HashMap::from([(String::from("eu"), 1)]);
    drop(async { (regions("eu", &names, 1).await, sorted_courses(&ids, &names, &[1], 1).await) });
    drop(async { amounts(HashMap::new(), 1).await });
    drop(async { courses(HashSet::from([1]), 1).await });
}
