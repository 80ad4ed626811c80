impl Client {
    pub(crate) async fn profile(&self, id: u64) -> Result<Option<Profile>, Error> {
        let (call, fetch) = {
            ::cached_core::private::rebind!((id,) = (id,));
            #[allow(clippy::used_underscore_binding)]
            let call = ::cached_core::private::begin!(
                ::cached_core::private::lookup::<Result<Option<Profile>, Error>, _>(
                    ::cached_core::private::ErrorProbe::<Result<Option<Profile>, Error>>::NEW
                        .sharing(),
                    ::cached_core::private::declare!(
                        "profile",
                        "profile",
                        4234631397,
                        overwrite("users edit their profile and expect to see the edit"),
                        computes("ttl")
                    ),
                    (
                        (
                            ::cached_core::private::part(&self.region),
                            ::cached_core::private::part(&id)
                        ),
                        ()
                    ),
                )
                .cache(::cached_core::private::cache(&self.cache)),
                begin as Result<Option<Profile>, Error>
            )
            .ttl(self.lifetime);
            (call, async move {
                ::cached_core::private::rebind!(used(id,) = (id,));
                ::cached_core::private::returns!(Result<Option<Profile>, Error>);
                self.http.profile(id).await
            })
        };
        call.complete(::core::pin::pin!(fetch)).await
    }
}
