//! One key in one cache: how long its entry lives, and its value as a frame.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::Cache;
use crate::declaration::Declaration;
use crate::frame::{self, Opened};
use crate::stats::Counters;
use crate::tier::local::Local;
use crate::tier::remote::{LONGEST_TTL, Remote, RemoteKey, whole_seconds};
use crate::value::{Value, ValueType};

/// What the local tier may keep of a value that is not confirmed to stand in memcached, and by
/// default of one that another process may overwrite.
pub(crate) const UNCONFIRMED: Duration = Duration::from_secs(5);

/// One key in one cache: what every step of a call, and an entry, work with.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) cache: Cache,
    declaration: &'static Declaration,
    /// The declaration's.
    index: usize,
    pub(crate) key: Arc<[u8]>,
    pub(crate) value_type: &'static ValueType,
    /// The ttl given with this call, where the declaration has none that is fixed.
    pub(crate) ttl: Option<Duration>,
}

/// How long an entry lives in each tier.
#[derive(Clone, Copy)]
pub(crate) struct Lifetime {
    pub(crate) ttl: Duration,
    /// What the local tier may keep once memcached has the value, or where there is no memcached.
    pub(crate) local: Duration,
}

impl Site {
    /// `None` where the cache is off, or the declaration shares its name.
    pub(crate) fn new(
        cache: &Cache,
        declaration: &'static Declaration,
        key: Arc<[u8]>,
        value_type: &'static ValueType,
        ttl: Option<Duration>,
    ) -> Option<Site> {
        let index = declaration.index().filter(|_| cache.is_enabled())?;
        Some(Site {
            cache: cache.clone(),
            declaration,
            index,
            key,
            value_type,
            ttl,
        })
    }

    pub(crate) fn counters(&self) -> &Counters {
        self.cache.counters_at(self.index)
    }

    pub(crate) fn local(&self) -> &Local {
        self.cache.local()
    }

    /// Where the key lives in memcached, if there is a remote tier.
    pub(crate) fn remote(&self) -> Option<(&Arc<Remote>, RemoteKey)> {
        let remote = self.cache.remote()?;
        let key = remote.locate(&self.cache.key(self.declaration, &self.key))?;
        Some((remote, key))
    }

    pub(crate) fn overwritable(&self) -> bool {
        self.declaration.overwrite_reason().is_some()
    }

    pub(crate) fn lifetime(&self) -> Lifetime {
        let config = self.cache.config();
        let ttl = self
            .ttl
            .or(self.declaration.declared_ttl())
            .unwrap_or(config.default_ttl);
        let ttl = if config.jitter > 0.0 {
            ttl.mul_f64(1.0 - config.jitter * random())
        } else {
            ttl
        };
        let local = match (self.cache.remote(), whole_seconds(ttl.min(LONGEST_TTL))) {
            // memcached counts in whole seconds: what lives shorter stays in this process.
            (None, _) | (_, 0) => ttl,
            (Some(_), seconds) => {
                // The server counts on ticks of its own, so an item may live a second less than
                // its ttl; the local entry must not outlive it.
                let remote = Duration::from_secs(u64::from(seconds - 1));
                if self.overwritable() {
                    remote.min(UNCONFIRMED)
                } else {
                    remote
                }
            }
        };
        Lifetime { ttl, local }
    }

    /// The value of a frame, if it is this key's, whole, and of this build's type.
    pub(crate) fn open(&self, frame: &[u8]) -> Frame {
        match frame::open(&self.key, frame) {
            Opened::Corrupt => Frame::Corrupt,
            Opened::Foreign => Frame::Foreign,
            Opened::Payload { shape, payload } => match self.decode(shape, payload) {
                Some(value) => Frame::Value(value, payload.len()),
                None => Frame::Foreign,
            },
        }
    }

    fn decode(&self, shape: u64, payload: &[u8]) -> Option<Value> {
        let value = (self.value_type.decode)(payload)?;
        ((self.value_type.shape)(&value) == Ok(shape)).then_some(value)
    }

    /// The frame of a value, after making sure that it can be read back as what it is.
    ///
    /// # Errors
    /// Why this value has to stay out of memcached.
    pub(crate) fn seal(
        &self,
        value: &Value,
        payload: Option<&[u8]>,
    ) -> Result<Vec<u8>, &'static str> {
        let unstorable = |why: &'static str| {
            if self.declaration.unstorable.set(why).is_ok() {
                log::warn!(
                    "values of `{}` ({}) are kept in this process only: {why}",
                    self.declaration.name(),
                    self.declaration.function()
                );
            }
            why
        };
        let payload = payload.ok_or_else(|| unstorable("the codec cannot write the value"))?;
        let shape = (self.value_type.shape)(value).map_err(|error| unstorable(error.reason()))?;
        if self.decode(shape, payload).is_none() {
            return Err(unstorable(
                "the value does not read back as what was written (an untagged or internally tagged enum, \
                 a flattened or skipped field, or another type that only a self-describing format can read)",
            ));
        }
        Ok(frame::seal(&self.key, shape, payload))
    }
}

pub(crate) enum Frame {
    /// A value, and how many bytes encode it.
    Value(Value, usize),
    /// Perhaps of use to another build.
    Foreign,
    /// Of no use to anybody.
    Corrupt,
}

/// 0 to 1, of no quality but that of not being the same each time.
fn random() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}
