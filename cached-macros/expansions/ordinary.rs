pub async fn fetch_payment(number: &str, state: PaymentState) -> Result<Payment, FetchError> {
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
    let returns =
        ::cached_core::private::returns::<
            ::cached_core::private::ByType,
            Result<Payment, FetchError>,
        >(::cached_core::private::Sharing::<Result<Payment, FetchError>>::NEW.errors());
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
        #[allow(unreachable_code, clippy::all)]
        if false {
            let returned: Result<Payment, FetchError> = loop {};
            return returned;
        }
        upstream(number, state).await
    };
    call.answer(::core::pin::pin!(fetch)).await
}
