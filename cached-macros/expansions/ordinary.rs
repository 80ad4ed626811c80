pub async fn fetch_payment(number: &str, state: PaymentState) -> Result<Payment, FetchError> {
    let (call, fetch) = {
        ::cached_core::private::rebind!((number, state,) = (number, state,));
        #[allow(clippy::used_underscore_binding)]
        let call = ::cached_core::private::begin!(
            ::cached_core::private::lookup::<Result<Payment, FetchError>, _>(
                ::cached_core::private::ErrorProbe::<Result<Payment, FetchError>>::NEW.sharing(),
                ::cached_core::private::declare!("payment", "fetch_payment", 4155255810, "state"),
                (::cached_core::private::part(&number), ::cached_core::private::part(&state)),
            ),
            begin as Result<Payment, FetchError>
        );
        (call, async move {
            ::cached_core::private::rebind!(used(number, state,) = (number, state,));
            :: cached_core :: private :: returns ! (Result < Payment , FetchError >);
            upstream(number, state).await
        })
    };
    call.complete(::core::pin::pin!(fetch)).await
}
