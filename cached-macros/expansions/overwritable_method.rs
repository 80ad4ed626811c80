impl Client {
    pub(crate) async fn profile(&self, id: u64) -> Result<Option<Profile>, Error> {
        let declaration = {
            #[::cached_core::private::linkme::distributed_slice(
                ::cached_core::private::DECLARATIONS
            )]
            # [linkme (crate = :: cached_core :: private :: linkme)]
            static DECLARATION: ::cached_core::private::Declaration =
                ::cached_core::private::Declaration::new(
                    "profile",
                    ::core::concat!(::core::module_path!(), "::profile"),
                    ::core::file!(),
                    ::core::line!(),
                    ::core::column!(),
                )
                .overwrite("users edit their profile and expect to see the edit");
            &DECLARATION
        };
        let returns = ::cached_core::private::returns::<
            ::cached_core::private::ByType,
            Result<Option<Profile>, Error>,
        >(
            ::cached_core::private::Sharing::<Result<Option<Profile>, Error>>::NEW.errors(),
        );
        let call = ::cached_core::private::Call::begin(
            declaration,
            returns,
            ::core::option::Option::Some(::cached_core::private::cache(&self.cache)),
            ::cached_core::private::Types::new(&|| ()),
            &[::cached_core::private::part(&self.region), ::cached_core::private::part(&id)],
            ::core::option::Option::None,
        )
        .ttl(self.lifetime);
        let fetch = async move {
            #[allow(unused_variables)]
            let (id,) = (id,);
            #[allow(unreachable_code, clippy::all)]
            if false {
                let returned: Result<Option<Profile>, Error> = loop {};
                return returned;
            }
            self.http.profile(id).await
        };
        call.answer(::core::pin::pin!(fetch)).await
    }
}
