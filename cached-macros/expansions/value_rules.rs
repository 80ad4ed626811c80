impl Client {
    async fn payment(&self, number: &str, state: State) -> Result<Payment, Error> {
        let (call, fetch) = {
            ::cached_core::private::rebind!((number, state,) = (number, state,));
            #[allow(clippy::used_underscore_binding)]
            let call = ::cached_core::private::begin!(
                ::cached_core::private::lookup::<Result<Payment, Error>, _>(
                    ::cached_core::private::ErrorProbe::<Result<Payment, Error>>::NEW.sharing(),
                    ::cached_core::private::declare!(
                        "payment",
                        "payment",
                        1433229365,
                        "state",
                        computes("cache_if")
                    ),
                    (
                        (
                            ::cached_core::private::part(&self.region),
                            ::cached_core::private::part(&number)
                        ),
                        ::cached_core::private::part(&state)
                    ),
                ),
                begin as Result<Payment, Error>
            )
            .cache_if(::cached_core::private::with_copies!(
                (this, state,) = (
                    ::cached_core::private::clone_parameter(&self),
                    ::cached_core::private::clone_parameter(&state),
                ),
                |payment| payment.state == state && this.accepts(payment)
            ));
            (call, async move {
                ::cached_core::private::rebind!(used(number, state,) = (number, state,));
                :: cached_core :: private :: returns ! (Result < Payment , Error >);
                self.http.payment(number, state).await
            })
        };
        call.complete(::core::pin::pin!(fetch)).await
    }
    #[doc = "Returns the cache entry of `payment` for these arguments: reads, adds or invalidates it. Never fetches."]
    #[allow(unused_variables, unused_mut, clippy::all, clippy::pedantic)]
    fn payment_entry(
        &self,
        number: &str,
        state: State,
    ) -> ::cached_core::EntryOf<Result<Payment, Error>, ::cached_core::WriteOnce> {
        ::cached_core::private::lookup::<Result<Payment, Error>, _>(
            ::cached_core::private::ErrorProbe::<Result<Payment, Error>>::NEW.sharing(),
            ::cached_core::private::declared!("payment", "payment"),
            (
                (::cached_core::private::part(&self.region), ::cached_core::private::part(&number)),
                ::cached_core::private::part(&state),
            ),
        )
        .entry(:: cached_core :: private :: round_trip ! (Result < Payment , Error >))
        .cache_if(::cached_core::private::with_copies!(
            (this, state,) = (
                ::cached_core::private::own_parameter(&self),
                ::cached_core::private::clone_parameter(&state),
            ),
            |payment| payment.state == state && this.accepts(payment)
        ))
        .build()
    }
}
