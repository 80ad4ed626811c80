async fn price(course: String) -> Price {
    let (call, fetch) = {
        ::cached_core::private::rebind!((course,) = (course,));
        #[allow(clippy::used_underscore_binding)]
        let call = ::cached_core::private::begin!(
            ::cached_core::private::lookup_whole::<Price, _>(
                ::cached_core::private::ErrorProbe::<Price>::NEW.infallible(),
                ::cached_core::private::declare!(
                    "price",
                    "price",
                    2243425222,
                    ttl(::core::time::Duration::from_millis(600000u64)),
                    refresh_ahead(::core::time::Duration::from_millis(120000u64)),
                    overwrite("the upstream has no versions of a price")
                ),
                (::cached_core::private::part(&course), ()),
            ),
            begin as Price
        );
        let fetch = {
            let rules = call.no_rules();
            move || {
                (
                    rules,
                    ::std::boxed::Box::pin(async move {
                        ::cached_core::private::rebind!(used(course,) = (course,));
                        ::cached_core::private::returns!(Price);
                        upstream(course).await
                    }),
                )
            }
        };
        (call, fetch)
    };
    call.complete_with_refresh(fetch).await
}
