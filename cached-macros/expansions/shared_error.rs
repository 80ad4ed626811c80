async fn fetch_payment(number: u32, state: State) -> anyhow::Result<Payment> {
    let (call, fetch) = {
        ::cached_core::private::rebind!((number, state,) = (number, state,));
        #[allow(clippy::used_underscore_binding)]
        let call = ::cached_core::private::begin!(
            ::cached_core::private::lookup::<anyhow::Result<Payment>, _>(
                ::cached_core::private::ErrorProbe::<anyhow::Result<Payment>>::NEW.sharing(),
                ::cached_core::private::declare!(
                    "payment",
                    "fetch_payment",
                    3986075940,
                    "state",
                    error_ttl(::core::time::Duration::from_millis(1000u64)),
                    computes("share_error")
                ),
                (::cached_core::private::part(&number), ::cached_core::private::part(&state)),
            ),
            begin as anyhow::Result<Payment>
        )
        .share_error(|returned| {
            ::cached_core::private::error_copier::<anyhow::Result<Payment>>()
                .copy(returned, |error| anyhow::anyhow!("{error:#}"))
        });
        (call, async move {
            ::cached_core::private::rebind!(used(number, state,) = (number, state,));
            ::cached_core::private::returns!(anyhow::Result<Payment>);
            upstream(number, state).await
        })
    };
    call.complete(::core::pin::pin!(fetch)).await
}
#[doc = "Returns the cache entry of `fetch_payment` for these arguments: reads, adds or invalidates it. Never fetches."]
#[allow(unused_variables, unused_mut, clippy::all, clippy::pedantic)]
fn payment_entry(
    number: u32,
    state: State,
) -> ::cached_core::EntryOf<anyhow::Result<Payment>, ::cached_core::WriteOnce> {
    ::cached_core::private::lookup::<anyhow::Result<Payment>, _>(
        ::cached_core::private::ErrorProbe::<anyhow::Result<Payment>>::NEW.sharing(),
        ::cached_core::private::declared!("payment", "fetch_payment"),
        (::cached_core::private::part(&number), ::cached_core::private::part(&state)),
    )
    .entry(::cached_core::private::round_trip!(anyhow::Result<Payment>))
    .build()
}
