//! The build that runs before the deploy; `deploy_new` has the same functions with other types.

cached_tests::build! {
    unchanged "unchanged": Payment = Payment { amount: 1, fee: 2 }; {
        struct Payment { amount: u32, fee: u32 }
    }

    field_added "field_added": Payment = Payment { amount: 1, fee: 2 }; {
        struct Payment { amount: u32, fee: u32 }
    }

    field_removed "field_removed": Payment = Payment { amount: 1, fee: 2 }; {
        struct Payment { amount: u32, fee: u32 }
    }

    field_renamed "field_renamed": Payment = Payment { amount: 1, fee: 2 }; {
        struct Payment { amount: u32, fee: u32 }
    }

    fields_reordered "fields_reordered": Payment = Payment { amount: 1, by: String::new() }; {
        struct Payment { amount: u8, by: String }
    }

    fields_swapped "fields_swapped": Payment = Payment { amount: 1, fee: 2 }; {
        struct Payment { amount: u32, fee: u32 }
    }

    struct_renamed "struct_renamed": Payment = Payment { amount: 1 }; {
        struct Payment { amount: u32 }
    }

    widened "widened": Payment = Payment { amount: 1 }; {
        struct Payment { amount: u32 }
    }

    signed "signed": Payment = Payment { amount: 2 }; {
        struct Payment { amount: u32 }
    }

    float_widened "float_widened": Vec<f32> = vec![1.0, 2.0]; {}

    bytes_of_text "bytes_of_text": String = "seven".into(); {}

    option_added "option_added": Payment = Payment { amount: 1, fee: 2 }; {
        struct Payment { amount: u8, fee: u8 }
    }

    variant_added "variant_added": State = State::Refunded; {
        enum State { Paid, Refunded }
    }

    variant_removed "variant_removed": State = State::Refunded; {
        enum State { Paid, Failed, Refunded }
    }

    variant_renamed "variant_renamed": State = State::Paid; {
        enum State { Paid, Refunded }
    }

    variants_reordered "variants_reordered": Vec<State> = vec![State::Paid, State::Refunded]; {
        enum State { Paid, Refunded }
    }

    variant_filled "variant_filled": State = State::Paid; {
        enum State { Paid, Refunded }
    }

    newtype_wrapped "newtype_wrapped": u32 = 7; {}

    tuple_for_struct "tuple_for_struct": Payment = Payment { amount: 1, fee: 2 }; {
        struct Payment { amount: u32, fee: u32 }
    }

    nested "nested": BTreeMap<String, Vec<Order>> =
        BTreeMap::from([("7".into(), vec![Order { lines: vec![Line { price: 1, count: 2 }] }])]); {
        struct Order { lines: Vec<Line> }
        struct Line { price: u32, count: u32 }
    }

    array_grown "array_grown": [u8; 3] = [1, 2, 3]; {}

    pairs_for_map "pairs_for_map": BTreeMap<u8, u8> = BTreeMap::from([(1, 2)]); {}

    after_an_address "after_an_address": (std::net::IpAddr, u8) = ([127, 0, 0, 1].into(), 7); {}

    set_for_list "set_for_list": Vec<u8> = vec![3, 1, 1]; {}
}
