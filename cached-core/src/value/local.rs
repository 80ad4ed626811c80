//! Values of functions with the option `remote = false`. They need not implement serde's traits.
//!
//! The local tier must know how much memory a value takes. If a value is not `Serialize`, its parts
//! cannot be added up. [`WeightProbe`] therefore chooses, at compile time, the best estimate that
//! the value's traits allow.

use std::any::type_name;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use serde::Serialize;

use super::{Returned, Value, ValueOperations, variant};
use crate::unstorable::Unstorable;
use crate::unwind::catch_panic;
use crate::weight;

impl ValueOperations {
    /// Returns the operations on values of the type `V`, which are never stored in the remote tier.
    /// `W` estimates how much memory a value takes.
    pub(crate) const fn of_local<V: Send + Sync + 'static, W: Weigher<V>>()
    -> &'static ValueOperations {
        const {
            &ValueOperations {
                write: |_, _| Err(Unstorable::new("is of a function with `remote = false`")),
                read: |_| None,
                weigh: |value: &Value| catch_panic(|| W::weigh(value.downcast_ref::<V>()?))?,
                is_none: |value| value.downcast_ref::<V>().is_some_and(variant::is_none),
                is_option: variant::is_option::<V>,
                name: type_name::<V>,
            }
        }
    }
}

/// A way to estimate how many bytes a `V` takes in memory.
pub trait Weigher<V> {
    /// Estimates the weight. Returns `None` if the value's `Serialize` fails.
    fn weigh(value: &V) -> Option<usize>;
}

/// A weigher that adds up the parts that the value's `Serialize` visits; see [`weight`].
#[derive(Debug)]
pub struct SerdeWeigher(());

/// A weigher that adds the value's own size and the size of the one block that the value owns on
/// the heap; see [`HeapBlock`].
#[derive(Debug)]
pub struct BlockWeigher(());

/// A weigher that counts only the value's own size.
#[derive(Debug)]
pub struct OwnSizeWeigher(());

impl<V: Serialize> Weigher<V> for SerdeWeigher {
    fn weigh(value: &V) -> Option<usize> {
        weight::of(value)
    }
}

impl<V: HeapBlock> Weigher<V> for BlockWeigher {
    fn weigh(value: &V) -> Option<usize> {
        Some(weight::of_own_size::<V>().saturating_add(value.block_size()))
    }
}

impl<V> Weigher<V> for OwnSizeWeigher {
    fn weigh(_: &V) -> Option<usize> {
        Some(weight::of_own_size::<V>())
    }
}

/// A standard type that owns one block on the heap. The contents of the block may own more memory,
/// which is not counted.
pub trait HeapBlock {
    /// Estimates how many bytes an allocator reserves for the block.
    fn block_size(&self) -> usize;
}

impl<T: ?Sized> HeapBlock for Arc<T> {
    fn block_size(&self) -> usize {
        weight::arc_block_size(size_of_val(&**self))
    }
}

impl<T: ?Sized> HeapBlock for Box<T> {
    fn block_size(&self) -> usize {
        weight::block_size(size_of_val(&**self))
    }
}

impl<T> HeapBlock for Vec<T> {
    fn block_size(&self) -> usize {
        weight::block_size(self.capacity().saturating_mul(size_of::<T>()))
    }
}

impl<K, V, S> HeapBlock for HashMap<K, V, S> {
    fn block_size(&self) -> usize {
        weight::block_size(self.capacity().saturating_mul(size_of::<(K, V)>() + 1))
    }
}

impl<T: HeapBlock> HeapBlock for Option<T> {
    fn block_size(&self) -> usize {
        self.as_ref().map_or(0, HeapBlock::block_size)
    }
}

/// Chooses at compile time how the values of a function with the return type `R` are weighed.
///
/// The compiler looks for the method `weigher` on `WeightProbe` first. If there is no such method,
/// it follows `Deref` to `BlockProbe`, and then to `OwnSizeProbe`. `WeightProbe` has the method
/// only if the values are `Serialize`, and `BlockProbe` only if they are a `HeapBlock`.
pub struct WeightProbe<R, Mode> {
    next: BlockProbe<R, Mode>,
}

/// The part of [`WeightProbe`] for values that are a [`HeapBlock`] and not `Serialize`.
#[doc(hidden)]
pub struct BlockProbe<R, Mode> {
    next: OwnSizeProbe<R, Mode>,
}

/// The part of [`WeightProbe`] for all other values.
#[doc(hidden)]
pub struct OwnSizeProbe<R, Mode>(PhantomData<fn() -> (R, Mode)>);

impl<R, Mode> WeightProbe<R, Mode> {
    #[doc(hidden)]
    pub const NEW: WeightProbe<R, Mode> =
        WeightProbe { next: BlockProbe { next: OwnSizeProbe(PhantomData) } };
}

impl<R: Returned<Mode, Value: Serialize>, Mode> WeightProbe<R, Mode> {
    #[doc(hidden)]
    pub fn weigher(&self) -> SerdeWeigher {
        SerdeWeigher(())
    }
}

impl<R: Returned<Mode, Value: HeapBlock>, Mode> BlockProbe<R, Mode> {
    #[doc(hidden)]
    pub fn weigher(&self) -> BlockWeigher {
        BlockWeigher(())
    }
}

impl<R, Mode> OwnSizeProbe<R, Mode> {
    #[doc(hidden)]
    pub fn weigher(&self) -> OwnSizeWeigher {
        OwnSizeWeigher(())
    }
}

impl<R, Mode> Deref for WeightProbe<R, Mode> {
    type Target = BlockProbe<R, Mode>;
    fn deref(&self) -> &BlockProbe<R, Mode> {
        &self.next
    }
}

impl<R, Mode> Deref for BlockProbe<R, Mode> {
    type Target = OwnSizeProbe<R, Mode>;
    fn deref(&self) -> &OwnSizeProbe<R, Mode> {
        &self.next
    }
}

#[cfg(test)]
mod tests {
    use super::super::{InferredValue, WholeValue};
    use super::*;

    /// A value that does not implement serde's traits.
    struct PlainValue<const N: usize>([u8; N]);

    fn weigh<V, W: Weigher<V>>(_: W, value: &V) -> Option<usize> {
        W::weigh(value)
    }

    macro_rules! weight {
        ($value:expr, $type:ty) => {{
            let value: $type = $value;
            let weigher = WeightProbe::<Result<$type, ()>, InferredValue>::NEW.weigher();
            let weight = weigh(weigher, &value);
            let weigher = WeightProbe::<$type, WholeValue>::NEW.weigher();
            assert_eq!(weight, weigh(weigher, &value));
            weight.expect("the value has a weight")
        }};
    }

    #[test]
    fn the_best_estimate_for_a_type_is_chosen() {
        const KIB: usize = 1 << 10;
        let plain = || PlainValue([0; 64 * KIB]);
        for (value, weight) in [
            ("a value with serde", weight!("x".repeat(64 * KIB), String)),
            ("a large value", weight!(plain(), PlainValue<{ 64 * KIB }>)),
            ("the target of an `Arc`", weight!(Arc::new(plain()), Arc<PlainValue<{ 64 * KIB }>>)),
            ("the target of a trait object", weight!(Arc::new(plain()), Arc<dyn Send + Sync>)),
            ("the elements of a slice", {
                weight!((0..KIB).map(|_| PlainValue([0; 64])).collect(), Arc<[PlainValue<64>]>)
            }),
            ("the elements of a `Vec`", {
                weight!((0..KIB).map(|_| PlainValue([0; 64])).collect(), Vec<PlainValue<64>>)
            }),
            (
                "an optional value",
                weight!(Some(Box::new(plain())), Option<Box<PlainValue<{ 64 * KIB }>>>),
            ),
        ] {
            assert!((64 * KIB..66 * KIB).contains(&weight), "{value} weighs {weight} bytes");
        }
        let entries = (0..100).map(|number| (number, PlainValue([0; 56]))).collect();
        let map = weight!(entries, HashMap<u64, PlainValue<56>>);
        assert!((6400..20_000).contains(&map), "a map weighs {map} bytes");
        assert!(weight!(None, Option<Box<PlainValue<64>>>) < 100, "an absent value owns no block");
    }
}
