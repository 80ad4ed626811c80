#[doc = r" Fetches a payment."]
#[doc(hidden)]
#[expect(clippy::too_many_lines)]
#[deprecated]
async fn fetch_payment(client: &Http, number: &str, state: State) -> Result<Payment, Error> {
    let (call, fetch) = {
        ::cached_core::private::rebind!((client, number, state,) = (client, number, state,));
        #[allow(clippy::used_underscore_binding)]
        let call = ::cached_core::private::begin!(
            ::cached_core::private::lookup::<Result<Payment, Error>, _>(
                ::cached_core::private::ErrorProbe::<Result<Payment, Error>>::NEW.sharing(),
                ::cached_core::private::declare!("payment", "fetch_payment", 4274391003, "state"),
                (::cached_core::private::part(&number), ::cached_core::private::part(&state)),
            ),
            begin as Result<Payment, Error>
        );
        (call, async move {
            ::cached_core::private::rebind!(used(number, state,) = (number, state,));
            ::cached_core::private::rebind!((client,) = (client,));
            :: cached_core :: private :: returns ! (Result < Payment , Error >);
            client.get(number, state).await
        })
    };
    call.complete(::core::pin::pin!(fetch)).await
}
#[doc(hidden)]
#[allow(clippy::too_many_lines)]
#[deprecated]
#[doc = "Returns the cache entry of `fetch_payment` for these arguments: reads, adds or invalidates it. Never fetches."]
#[allow(unused_variables, unused_mut, clippy::all, clippy::pedantic)]
fn payment_entry(
    number: &str,
    state: State,
) -> ::cached_core::EntryOf<Result<Payment, Error>, ::cached_core::WriteOnce> {
    ::cached_core::private::lookup::<Result<Payment, Error>, _>(
        ::cached_core::private::ErrorProbe::<Result<Payment, Error>>::NEW.sharing(),
        ::cached_core::private::declared!("payment", "fetch_payment"),
        (::cached_core::private::part(&number), ::cached_core::private::part(&state)),
    )
    .entry(:: cached_core :: private :: round_trip ! (Result < Payment , Error >))
    .build()
}
