//! All that an expansion of the attribute may name. Not public: it changes without notice.

use std::any::type_name;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub use linkme;

use crate::cache::Cache;
use crate::call::{Begun, Missed};
use crate::current::{current_of_process, with_current};
pub use crate::declaration::{DECLARATIONS, Declaration, Declared};
use crate::entry::CacheEntry;
use crate::key::{Encoder, KeyError, KeyPart};
use crate::site::Site;
use crate::tier::request::Request;
pub use crate::value::{ByType, Errors, Returned, Returns, Sharing, Whole};
use crate::value::{CachedValue, Value, ValueType, joined};

/// One part of a key.
pub type Part<'p> = &'p (dyn KeyPart + 'p);

/// Makes a key's part of an expression; a call of its own, so that its error stands there.
#[inline]
pub fn part<T: KeyPart>(part: &T) -> Part<'_> {
    part
}

/// The declaration of the function around it: a static, found by the linker. Each option is a call
/// of the method of [`Declaration`] that sets it.
#[doc(hidden)]
#[macro_export]
macro_rules! __declaration {
    ($name:literal, $function:literal $(, $option:ident($($value:expr),*))*) => {{
        #[$crate::private::linkme::distributed_slice($crate::private::DECLARATIONS)]
        #[linkme(crate = $crate::private::linkme)]
        static DECLARATION: $crate::private::Declaration = $crate::private::Declaration::new(
            $name,
            ::core::concat!(::core::module_path!(), "::", $function),
            ::core::file!(),
            ::core::line!(),
            ::core::column!(),
        )$(.$option($($value),*))*;
        &DECLARATION
    }};
}

/// The same in the companion beside that function.
#[doc(hidden)]
#[macro_export]
macro_rules! __declared {
    ($name:literal, $function:literal) => {{
        static DECLARED: $crate::private::Declared = $crate::private::Declared::new(
            $name,
            ::core::concat!(::core::module_path!(), "::", $function),
        );
        DECLARED.get()
    }};
}

/// Looks, and returns from the function with a hit; else the call that is to be answered.
#[doc(hidden)]
#[macro_export]
macro_rules! __begin {
    ($lookup:expr) => {
        match $lookup.begin() {
            ::core::result::Result::Ok(hit) => return hit,
            ::core::result::Result::Err(call) => call,
        }
    };
}

pub use crate::{__begin as begin, __declaration as declaration, __declared as declared};

/// Which entry is meant, before it is looked at.
pub struct Lookup<'k, R, V, J> {
    returns: Returns<R, V>,
    /// The same as `returns.join`, as a type: a call of it can be inlined.
    join: J,
    asked: Asked<'k>,
    cache: Option<&'k Cache>,
}

/// The bounds on a function's return type are here, in one plain call that is spanned at the type.
/// The function and its companion make the same, so that an error in it is one error.
#[inline]
pub fn lookup<'k, R>(
    errors: Errors<R>,
    declaration: &'static Declaration,
    types: Types<'k>,
    identifier: &'k [Part<'k>],
    version: Option<Part<'k>>,
) -> Lookup<'k, R, R::Value, impl Fn(&Value) -> Option<R>>
where
    R: Returned<ByType>,
    R::Value: CachedValue,
{
    let returns = Returns::new::<ByType>(errors);
    let asked = Asked::new(declaration, returns.value_type, types, identifier, version);
    Lookup { returns, join: joined::<ByType, R>, asked, cache: None }
}

/// The same for a function that is `infallible`.
#[inline]
pub fn lookup_whole<'k, R: CachedValue>(
    errors: Errors<R>,
    declaration: &'static Declaration,
    types: Types<'k>,
    identifier: &'k [Part<'k>],
    version: Option<Part<'k>>,
) -> Lookup<'k, R, R, impl Fn(&Value) -> Option<R>> {
    let returns = Returns::new::<Whole>(errors);
    let asked = Asked::new(declaration, returns.value_type, types, identifier, version);
    Lookup { returns, join: joined::<Whole, R>, asked, cache: None }
}

impl<'k, R, V, J> Lookup<'k, R, V, J> {
    /// Sets the cache, where it is not the current one.
    #[must_use]
    pub fn cache(self, cache: &'k Cache) -> Lookup<'k, R, V, J> {
        Lookup { cache: Some(cache), ..self }
    }

    /// Encodes the key and looks in the request and local tiers. A hit ends here, before there is
    /// a fetch: what is not made is not moved about.
    ///
    /// # Errors
    /// The call that is to be answered otherwise.
    #[inline(always)]
    pub fn begin(self) -> Result<R, Call<R, V>>
    where
        J: Fn(&Value) -> Option<R>,
    {
        let Lookup { returns, join, asked, cache } = self;
        let mut hit = None;
        let mut serve = |value: &Value| {
            hit = join(value);
            hit.is_some()
        };
        match (look(cache, &asked, &mut serve), hit) {
            (None, Some(hit)) => Ok(hit),
            (Some(state), _) => Err(Call { returns, state }),
            (None, None) => unreachable!("a look serves a value, or says how the call goes on"),
        }
    }

    /// The entry, for the companion.
    pub fn entry<P>(self) -> CacheEntry<V, P> {
        let Lookup { returns, asked, cache, .. } = self;
        let cache = cache.cloned().unwrap_or_else(Cache::current);
        // What shares its name has no index, and is not cached.
        let index = asked.declaration.index().unwrap_or(usize::MAX);
        let key = encode(&mut Encoder::default(), index, &asked).map(Arc::from);
        CacheEntry::new(cache, asked.declaration, key, returns.value_type)
    }
}

/// What `if false { return … }` at the beginning of a body returns: it tells the compiler the
/// body's type, and is never run.
pub fn never<R>() -> R {
    unreachable!("it stands behind `if false`")
}

/// The cache given with `cache = …`.
pub fn cache<C: LendsCache + ?Sized>(cache: &C) -> &Cache {
    cache.lend()
}

/// `AsRef<Cache>`, with an error of its own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no cache",
    label = "expected a `Cache`, or a type that lends one (`AsRef<Cache>`)"
)]
pub trait LendsCache {
    /// The cache.
    fn lend(&self) -> &Cache;
}

#[diagnostic::do_not_recommend]
impl<C: AsRef<Cache> + ?Sized> LendsCache for C {
    fn lend(&self) -> &Cache {
        self.as_ref()
    }
}

/// The type and const arguments of a function and of the impl around it.
pub struct Types<'t> {
    site: &'static str,
    own: &'static str,
    constants: &'t [Part<'t>],
}

impl<'t> Types<'t> {
    /// Takes a closure of the function's body: its type's name shows the arguments of the impl,
    /// which the attribute does not see.
    #[inline]
    pub fn new<Closure>(_: &Closure) -> Types<'t> {
        Types { site: type_name::<Closure>(), own: "", constants: &[] }
    }

    /// Adds the function's own type arguments, as a tuple of `PhantomData`.
    #[must_use]
    pub fn of<Arguments>(self) -> Types<'t> {
        Types { own: type_name::<Arguments>(), ..self }
    }

    /// Adds the function's own const arguments.
    #[must_use]
    pub fn constants(self, constants: &'t [Part<'t>]) -> Types<'t> {
        Types { constants, ..self }
    }

    /// Adds what there is to the key; nothing where there are no arguments, so that such keys
    /// do not depend on how the compiler writes a type.
    #[inline(always)]
    fn encode(&self, declaration: &Declaration, encoder: &mut Encoder) -> Result<(), KeyError> {
        if self.own.is_empty() && self.constants.is_empty() {
            // An ordinary function has one site, and it is looked at once.
            let site = self.site.as_ptr().addr();
            if declaration.plain_site.load(Ordering::Relaxed) == site {
                return Ok(());
            }
            if is_plain(container(self.site)) {
                declaration.plain_site.store(site, Ordering::Relaxed);
                return Ok(());
            }
        }
        let container = container(self.site);
        encoder.str(if is_plain(container) { "" } else { container });
        encoder.str(self.own);
        encoder.parts(self.constants)
    }
}

/// The part of a closure's type name that stands before the function: its module, or its type.
/// `app::Client<A>::fetch<B>::{{closure}}` → `app::Client<A>`.
fn container(site: &str) -> &str {
    let mut path = site;
    while let Some(outer) = path.strip_suffix("::{{closure}}") {
        path = outer;
    }
    if path.ends_with('>') {
        let mut depth = 0usize;
        let open = path.char_indices().rev().find(|&(index, c)| {
            match c {
                // The arrow of a function pointer closes nothing.
                '>' if !path[..index].ends_with('-') => depth += 1,
                '<' => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0
        });
        path = open.map_or(path, |(open, _)| &path[..open]);
    }
    path.rsplit_once("::").map_or("", |(container, _)| container)
}

/// Whether a path names no type arguments. A method of a trait has its `Self` for one: a default
/// method runs for every type that implements the trait.
fn is_plain(container: &str) -> bool {
    container.chars().all(|c| c == ':' || c == '_' || c.is_alphanumeric())
}

/// Encodes the key into `encoder`, which stays where it is: moving a key costs a part of a hit.
#[inline(always)]
fn encode<'e>(
    encoder: &'e mut Encoder,
    index: usize,
    asked: &Asked<'_>,
) -> Result<&'e [u8], KeyError> {
    encoder.start(index as u32);
    encoder.parts(asked.identifier)?;
    encoder.version(asked.version)?;
    asked.types.encode(asked.declaration, encoder)?;
    Ok(encoder.finish())
}

/// A call of an annotated function: begun with a look at the tiers of this process, then answered.
pub struct Call<R, V> {
    returns: Returns<R, V>,
    state: State,
}

/// How a call goes on that was not served. Boxed, so that a look returns two words.
enum State {
    /// Served from the local tier, by an entry that may be due for a refresh.
    Due(Box<(Value, Site)>),
    Missed(Box<Missed>),
    /// Missed, and begun.
    Begun(Box<Begun>),
    /// The cache is off, the name is shared, or the arguments gave no key.
    Bypassed(Box<(Cache, &'static Declaration)>),
}

impl<R, V> Call<R, V> {
    /// Sets how long what this call fetches lives.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Call<R, V> {
        match &mut self.state {
            State::Missed(missed) => missed.site.ttl = Some(ttl),
            State::Due(due) => due.1.ttl = Some(ttl),
            State::Begun(_) | State::Bypassed(_) => {}
        }
        self
    }

    /// Sets which values are cached.
    #[must_use]
    pub fn cache_if(mut self, cache_if: fn(&V) -> bool) -> Call<R, V> {
        self.returns.rules.cache_if = Some(cache_if);
        self
    }

    /// Sets how long a value is cached, from the value.
    #[must_use]
    pub fn ttl_with(mut self, ttl_with: fn(&V) -> Duration) -> Call<R, V> {
        self.returns.rules.ttl_with = Some(ttl_with);
        self
    }

    /// Answers from another's fetch, from memcached, or by running `fetch`.
    pub async fn answer<F: Future<Output = R>>(self, mut fetch: Pin<&mut F>) -> R {
        let Call { returns, state } = self;
        let mut begun = match state {
            State::Due(due) => match (returns.join)(&due.0) {
                // What is returned need not be `Send`, so none of it is held across an await.
                Some(returned) => return returned,
                None => Begun::alone(None),
            },
            State::Bypassed(bypassed) => {
                let (cache, declaration) = *bypassed;
                Begun::alone(cache.counters(declaration))
            }
            // Boxed, so that the future of a function that is hit stays small.
            State::Missed(missed) => missed.begin().await,
            State::Begun(begun) => begun,
        };
        if let Some(returned) = begun.answer(&returns) {
            return returned;
        }
        let returned = begun.run(fetch.as_mut()).await;
        begun.settle(returned, &returns)
    }
}

impl<R: 'static, V: 'static> Call<R, V> {
    /// The same for a function that declares `refresh_ahead`, whose fetch may outlive the call.
    pub async fn answer_ahead<F>(self, mut fetch: Pin<Box<F>>) -> R
    where
        F: Future<Output = R> + Send + 'static,
    {
        let Call { returns, state } = self;
        let state = match state {
            State::Due(due) => {
                let (value, site) = *due;
                let Some(returned) = (returns.join)(&value) else { return fetch.await };
                Box::new(Missed { site, request: None }).refresh_local(returns, fetch);
                return returned;
            }
            State::Missed(missed) => {
                let begun = missed.begin().await;
                if let Some(returned) = begun.answer_to_refresh(&returns) {
                    begun.refresh(returns, fetch);
                    return returned;
                }
                State::Begun(begun)
            }
            other => other,
        };
        Call { returns, state }.answer(fetch.as_mut()).await
    }
}

/// Which entry is asked for, whatever the type of its value.
struct Asked<'k> {
    declaration: &'static Declaration,
    value_type: &'static ValueType,
    types: Types<'k>,
    identifier: &'k [Part<'k>],
    version: Option<Part<'k>>,
}

impl<'k> Asked<'k> {
    #[inline]
    fn new(
        declaration: &'static Declaration,
        value_type: &'static ValueType,
        types: Types<'k>,
        identifier: &'k [Part<'k>],
        version: Option<Part<'k>>,
    ) -> Asked<'k> {
        Asked { declaration, value_type, types, identifier, version }
    }
}

/// What has the value that the request or the local tier has; whether it took it.
type Serve<'s> = &'s mut dyn FnMut(&Value) -> bool;

/// Lets `serve` have the value that the request or the local tier has; `None` where it took it. The
/// way of a hit outside of a request is this one function, which calls few others.
fn look(cache: Option<&Cache>, asked: &Asked<'_>, serve: Serve<'_>) -> Option<State> {
    let Some(cache) = cache.or_else(current_of_process) else {
        return with_current(|cache| look(Some(cache), asked, serve));
    };
    let declaration = asked.declaration;
    let index = declaration.index().filter(|_| cache.is_enabled());
    let Some(index) = index else { return bypass(cache, declaration) };
    let mut encoder = Encoder::default();
    let key = match encode(&mut encoder, index, asked) {
        Ok(key) => key,
        Err(error) => return without_key(cache, declaration, &error),
    };
    let request = Request::current();
    if request.is_none()
        && declaration.is_plain()
        && let Some(served) = cache.local().serve(key, &mut *serve)
    {
        cache.counters_at(index).local_hits.add();
        return if served { None } else { bypass(cache, declaration) };
    }
    look_further(cache, asked, key, request, serve)
}

/// The way of every other call.
#[inline(never)]
fn look_further(
    cache: &Cache,
    asked: &Asked<'_>,
    key: &[u8],
    request: Option<Request>,
    serve: Serve<'_>,
) -> Option<State> {
    let Asked { declaration, value_type, .. } = *asked;
    let site = || Site::new(cache, declaration, Arc::from(key), value_type, None);
    let Some(counters) = cache.counters(declaration) else { return bypass(cache, declaration) };
    if let Some(served) = request.and_then(|request| request.serve(cache.id(), key, &mut *serve)) {
        counters.request_hits.add();
        return if served { None } else { bypass(cache, declaration) };
    }
    let force_miss = request.is_some_and(|request| request.force_miss());
    let looked = request.is_none() && declaration.is_plain();
    if !looked
        && !force_miss
        && declaration.uses_local()
        && let Some(value) = cache.local().get(key)
    {
        counters.local_hits.add();
        let value = match request {
            Some(request) => request.keep(cache.id(), &Arc::from(key), value),
            None => value,
        };
        if !declaration.refreshed_ahead().is_zero()
            && let Some(site) = site()
        {
            return Some(State::Due(Box::new((value, site))));
        }
        return if serve(&value) { None } else { bypass(cache, declaration) };
    }
    match site() {
        Some(site) => Some(State::Missed(Box::new(Missed { site, request }))),
        None => bypass(cache, declaration),
    }
}

#[cold]
fn without_key(
    cache: &Cache,
    declaration: &'static Declaration,
    error: &KeyError,
) -> Option<State> {
    log::warn!("`{}` is not cached for this call: {error}", declaration.name());
    bypass(cache, declaration)
}

#[cold]
fn bypass(cache: &Cache, declaration: &'static Declaration) -> Option<State> {
    Some(State::Bypassed(Box::new((cache.clone(), declaration))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_of_a_function_is_what_stands_before_it() {
        for (site, expected, plain) in [
            ("app::free::{{closure}}::{{closure}}", "app", true),
            ("app::free<alloc::vec::Vec<u8>, 3>::{{closure}}", "app", true),
            ("app::Client::fetch::{{closure}}", "app::Client", true),
            ("app::Client<u8>::fetch::{{closure}}", "app::Client<u8>", false),
            ("app::Client<u8>::fetch<fn(u8) -> u8>::{{closure}}", "app::Client<u8>", false),
            ("<app::P as app::Tr>::g::{{closure}}", "<app::P as app::Tr>", false),
            ("<app::P as app::Tr<u8>>::g::{{closure}}", "<app::P as app::Tr<u8>>", false),
            ("<&app::P as app::Tr>::g::{{closure}}", "<&app::P as app::Tr>", false),
            ("<(u8, u16) as app::Tr>::g<u8>::{{closure}}", "<(u8, u16) as app::Tr>", false),
        ] {
            assert_eq!(container(site), expected, "{site}");
            assert_eq!(is_plain(container(site)), plain, "{site}");
        }
    }
}
