impl Client {
    fn payment<'life0, 'async_trait>(
        &'life0 self,
        number: u32,
        state: State,
    ) -> ::core::pin::Pin<
        Box<dyn ::core::future::Future<Output = Answer> + ::core::marker::Send + 'async_trait>,
    >
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let (call, fetch) = {
                ::cached_core::private::rebind!((number, state,) = (number, state,));
                #[allow(clippy::used_underscore_binding)]
                let call = ::cached_core::private::begin!(
                    ::cached_core::private::lookup::<Answer, _>(
                        ::cached_core::private::ErrorProbe::<Answer>::NEW.sharing(),
                        ::cached_core::private::declare!("payment", "payment", 3593513369, "state"),
                        (
                            (
                                ::cached_core::private::part(&self.region),
                                ::cached_core::private::part(&number)
                            ),
                            ::cached_core::private::part(&state)
                        ),
                    ),
                    begin as Answer
                );
                (call, async move {
                    ::cached_core::private::rebind!(used(number, state,) = (number, state,));
                    ::cached_core::private::returns!(Answer);
                    let __self = self;
                    let number = number;
                    let __ret: Answer = { __self.http.payment(number, state).await };
                    __ret
                })
            };
            call.complete(::core::pin::pin!(fetch)).await
        })
    }
}
