async fn page<T: Kind, const N: usize>(kind: T, edition: u8) -> Option<Page<N>>
where
    T: serde::Serialize,
{
    let (call, fetch) = {
        ::cached_core::private::rebind!((kind, edition,) = (kind, edition,));
        #[allow(clippy::used_underscore_binding)]
        let call = ::cached_core::private::begin!(
            ::cached_core::private::lookup::<Option<Page<N>>, _>(
                ::cached_core::private::ErrorProbe::<Option<Page<N>>>::NEW.sharing(),
                ::cached_core::private::declare!(
                    "page",
                    "page",
                    1181423030,
                    "edition",
                    computes("cache_if")
                ),
                (
                    ::cached_core::private::generic_part(&kind),
                    ::cached_core::private::part(&edition)
                ),
            )
            .type_arguments::<(::core::marker::PhantomData<T>,)>()
            .constants(::cached_core::private::part(&N)),
            begin as Option<Page<N>>
        )
        .cache_if(|page| page.is_final());
        (call, async move {
            ::cached_core::private::rebind!(used(kind, edition,) = (kind, edition,));
            ::cached_core::private::returns!(Option<Page<N>>);
            kind.page(edition).await
        })
    };
    call.complete(::core::pin::pin!(fetch)).await
}
