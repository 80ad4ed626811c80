impl Client {
    async fn price(&self, course: &str) -> Result<u64, Error> {
        let (call, fetch) = {
            ::cached_core::private::rebind!((course,) = (course,));
            #[allow(clippy::used_underscore_binding)]
            let call = ::cached_core::private::begin!(
                ::cached_core::private::lookup::<Result<u64, Error>, _>(
                    ::cached_core::private::ErrorProbe::<Result<u64, Error>>::NEW.sharing(),
                    ::cached_core::private::declare!(
                        "price",
                        "price",
                        331440853,
                        refresh_ahead(::core::time::Duration::from_millis(120000u64)),
                        overwrite("the upstream has no versions of a price")
                    ),
                    (
                        (
                            ::cached_core::private::part(&self.region),
                            ::cached_core::private::part(&course)
                        ),
                        ()
                    ),
                ),
                begin as Result<u64, Error>
            );
            let fetch = {
                let rules = call.no_rules();
                move || {
                    ::cached_core::private::rebind!(
                        (this, course,) = (
                            ::cached_core::private::own_receiver::<Self, _>(self.clone()),
                            ::cached_core::private::own_parameter(&course),
                        )
                    );
                    (
                        rules,
                        ::std::boxed::Box::pin(async move {
                            ::cached_core::private::rebind!(
                                used(this, course,) = (this.get(), course.get(),)
                            );
                            ::cached_core::private::rebind!(used(course,) = (course,));
                            :: cached_core :: private :: returns ! (Result < u64 , Error >);
                            this.http.price(course).await
                        }),
                    )
                }
            };
            (call, fetch)
        };
        call.complete_with_refresh(fetch).await
    }
}
