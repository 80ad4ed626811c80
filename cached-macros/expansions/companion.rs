async fn fetch_payment(client: &Http, number: &str, state: State) -> Result<Payment, Error> {
    let declaration = {
        #[::cached_core::private::linkme::distributed_slice(::cached_core::private::DECLARATIONS)]
        # [linkme (crate = :: cached_core :: private :: linkme)]
        static DECLARATION: ::cached_core::private::Declaration =
            ::cached_core::private::Declaration::new(
                "payment",
                ::core::concat!(::core::module_path!(), "::fetch_payment"),
                ::core::file!(),
                ::core::line!(),
                ::core::column!(),
            );
        &DECLARATION
    };
    let returns = ::cached_core::private::returns::<
        ::cached_core::private::ByType,
        Result<Payment, Error>,
    >(::cached_core::private::Sharing::<Result<Payment, Error>>::NEW.errors());
    let call = ::cached_core::private::Call::begin(
        declaration,
        returns,
        ::core::option::Option::None,
        ::cached_core::private::Types::new(&|| ()),
        &[::cached_core::private::part(&number)],
        ::core::option::Option::Some(::cached_core::private::part(&state)),
    );
    let fetch = async move {
        #[allow(unused_variables)]
        let (number, state) = (number, state);
        let (client,) = (client,);
        #[allow(unreachable_code, clippy::all)]
        if false {
            let returned: Result<Payment, Error> = loop {};
            return returned;
        }
        client.get(number, state).await
    };
    call.answer(::core::pin::pin!(fetch)).await
}
#[doc = "The cache entry of `fetch_payment` for these arguments: looks at it, adds or invalidates it. Fetches nothing."]
#[must_use = "an entry does nothing by itself; call one of its methods"]
#[allow(unused_variables, unused_mut, clippy::all, clippy::pedantic)]fn payment_entry (number : & str , state : State) -> :: cached_core :: CacheEntry < < Result < Payment , Error > as :: cached_core :: private :: Returned < :: cached_core :: private :: ByType >> :: Value , :: cached_core :: WriteOnce >{
    let declaration = {
        static DECLARED: ::cached_core::private::Declared = ::cached_core::private::Declared::new(
            "payment",
            ::core::concat!(::core::module_path!(), "::fetch_payment"),
        );
        DECLARED.get()
    };
    let returns = ::cached_core::private::returns::<
        ::cached_core::private::ByType,
        Result<Payment, Error>,
    >(::cached_core::private::Sharing::<Result<Payment, Error>>::NEW.errors());
    ::cached_core::private::entry(
        declaration,
        returns,
        ::core::option::Option::None,
        ::cached_core::private::Types::new(&|| ()),
        &[::cached_core::private::part(&number)],
        ::core::option::Option::Some(::cached_core::private::part(&state)),
    )
}
