//! The build that is deployed; see `deploy_old`.

cached_tests::build! {
    unchanged "unchanged": Payment = Payment { amount: 1, fee: 2 }; {
        struct Payment { amount: u32, fee: u32 }
    }

    field_added "field_added": Payment = Payment { amount: 1, fee: 2, tax: 0 }; {
        struct Payment { amount: u32, fee: u32, tax: u32 }
    }

    field_removed "field_removed": Payment = Payment { amount: 1 }; {
        struct Payment { amount: u32 }
    }

    field_renamed "field_renamed": Payment = Payment { amount: 1, charge: 3 }; {
        struct Payment { amount: u32, charge: u32 }
    }

    fields_reordered "fields_reordered": Payment = Payment { by: String::new(), amount: 1 }; {
        struct Payment { by: String, amount: u8 }
    }

    fields_swapped "fields_swapped": Payment = Payment { fee: 2, amount: 1 }; {
        struct Payment { fee: u32, amount: u32 }
    }

    struct_renamed "struct_renamed": Refund = Refund { amount: 3 }; {
        struct Refund { amount: u32 }
    }

    widened "widened": Payment = Payment { amount: 1 }; {
        struct Payment { amount: u64 }
    }

    signed "signed": Payment = Payment { amount: 2 }; {
        struct Payment { amount: i32 }
    }

    float_widened "float_widened": Vec<f64> = vec![1.0, 2.0]; {}

    bytes_of_text "bytes_of_text": Vec<u8> = b"eight".to_vec(); {}

    option_added "option_added": Payment = Payment { amount: Some(1), fee: 2 }; {
        struct Payment { amount: Option<u8>, fee: u8 }
    }

    variant_added "variant_added": State = State::Refunded; {
        enum State { Paid, Failed, Refunded }
    }

    variant_removed "variant_removed": State = State::Refunded; {
        enum State { Paid, Refunded }
    }

    variant_renamed "variant_renamed": State = State::Settled; {
        enum State { Settled, Refunded }
    }

    variants_reordered "variants_reordered": Vec<State> = vec![State::Paid, State::Refunded]; {
        enum State { Refunded, Paid }
    }

    variant_filled "variant_filled": State = State::Paid(7); {
        enum State { Paid(u8), Refunded }
    }

    newtype_wrapped "newtype_wrapped": Cents = Cents(8); {
        struct Cents(u32);
    }

    tuple_for_struct "tuple_for_struct": Payment = Payment(2, 1); {
        struct Payment(u32, u32);
    }

    nested "nested": BTreeMap<String, Vec<Order>> =
        BTreeMap::from([("7".into(), vec![Order { lines: vec![Line { count: 2, price: 1 }] }])]); {
        struct Order { lines: Vec<Line> }
        struct Line { count: u32, price: u32 }
    }

    array_grown "array_grown": [u8; 4] = [1, 2, 3, 4]; {}

    pairs_for_map "pairs_for_map": Vec<(u8, u8)> = vec![(1, 3)]; {}

    after_an_address "after_an_address": (std::net::IpAddr, i8) = ([127, 0, 0, 1].into(), 7); {}

    set_for_list "set_for_list": HashSet<u8> = HashSet::from([1, 3]); {}
}
