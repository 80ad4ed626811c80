async fn page<T: Kind, const N: usize>(kind: T, edition: u8) -> Option<Page<N>>
where
    T: serde::Serialize,
{
    let declaration = {
        #[::cached_core::private::linkme::distributed_slice(::cached_core::private::DECLARATIONS)]
        # [linkme (crate = :: cached_core :: private :: linkme)]
        static DECLARATION: ::cached_core::private::Declaration =
            ::cached_core::private::Declaration::new(
                "page",
                ::core::concat!(::core::module_path!(), "::page"),
                ::core::file!(),
                ::core::line!(),
                ::core::column!(),
            );
        &DECLARATION
    };
    let returns = ::cached_core::private::returns::<::cached_core::private::ByType, Option<Page<N>>>(
        ::cached_core::private::Sharing::<Option<Page<N>>>::NEW.errors(),
    );
    let call = ::cached_core::private::Call::begin(
        declaration,
        returns,
        ::core::option::Option::None,
        ::cached_core::private::Types::new(&|| ())
            .of::<(::core::marker::PhantomData<T>,)>()
            .constants(&[::cached_core::private::part(&N)]),
        &[::cached_core::private::part(&kind)],
        ::core::option::Option::Some(::cached_core::private::part(&edition)),
    )
    .cache_if(|page| page.is_final());
    let fetch = async move {
        #[allow(unused_variables)]
        let (kind, edition) = (kind, edition);
        #[allow(unreachable_code, clippy::all)]
        if false {
            let returned: Option<Page<N>> = loop {};
            return returned;
        }
        kind.page(edition).await
    };
    call.answer(::core::pin::pin!(fetch)).await
}
