use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> Quantity {
    Quantity::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn quantities_are_read_exactly_and_rounded_up() {
    // text, value, milli-value
    for (text, value, millis) in [
        ("0", 0, 0),
        ("1", 1, 1000),
        ("100m", 1, 100),
        ("1500m", 2, 1500),
        ("64Mi", 64 << 20, (64 << 20) * 1000),
        ("1e3", 1000, 1_000_000),
        ("1E3", 1000, 1_000_000),
        ("1e-3", 1, 1),
        ("0.5Gi", 1 << 29, (1 << 29) * 1000),
        (".5", 1, 500),
        ("1.", 1, 1000),
        ("+2", 2, 2000),
        ("-1500m", -1, -1500),
        ("1k", 1000, 1_000_000),
        ("1Ki", 1024, 1_024_000),
        ("1n", 1, 1),
        ("1u", 1, 1),
        ("0.0000000001", 1, 1),
        ("1e-400", 1, 1),
        ("8Ei", i64::MAX, i64::MAX),
        ("1e400", i64::MAX, i64::MAX),
        ("99999999999999999999999999999999999999999", i64::MAX, i64::MAX),
        ("0e999", 0, 0),
        ("0.00000000000000000000000000000000000000001e41", 1, 1000),
        ("1000000000000000000000e-21", 1, 1000),
        ("100000000000000000000m", 100_000_000_000_000_000, i64::MAX),
    ] {
        assert_eq!((parsed(text).value(), parsed(text).milli_value()), (value, millis), "{text}");
    }
}

#[test]
fn a_quantity_is_written_in_its_canonical_form() {
    for (text, canonical) in [
        ("0", "0"),
        ("0Mi", "0"),
        ("1000m", "1"),
        ("1500m", "1500m"),
        ("1.5", "1500m"),
        ("0.5Gi", "512Mi"),
        ("1024Mi", "1Gi"),
        ("1000Mi", "1000Mi"),
        ("1023Ki", "1023Ki"),
        ("0.1Mi", "104857600m"),
        ("1000k", "1M"),
        ("1e3", "1e3"),
        ("12e4", "120e3"),
        ("1e0", "1"),
        ("100000000", "100M"),
        ("-1024Ki", "-1Mi"),
        ("0.5Ki", "512"),
        ("3n", "3n"),
    ] {
        assert_eq!(parsed(text).to_string(), canonical, "{text}");
    }
}

#[test]
fn what_is_no_quantity_says_why() {
    for text in ["", "Mi", "1 Mi", "1,5", "1.2.3", ".", "-", "--1", "abc", "1b", "0x10"] {
        assert_eq!(Quantity::parse(text), Err(QuantityError::Syntax), "{text}");
    }
    for text in ["1mi", "1e", "1e+", "1Gii", "1K", "1ki"] {
        assert_eq!(Quantity::parse(text), Err(QuantityError::Suffix), "{text}");
    }
}

proptest! {
    #[test]
    fn the_canonical_form_reads_back_as_the_same_amount(number in 0_u32.., fraction in 0_u32..1000, suffix in 0_usize..16) {
        let suffixes = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "e2", "e-5", "E7"];
        let quantity = parsed(&format!("{number}.{fraction:03}{}", suffixes[suffix]));
        let again = parsed(&quantity.to_string());
        prop_assert_eq!(quantity, again);
        prop_assert_eq!(quantity.to_string(), again.to_string());
    }

    #[test]
    fn quantities_are_ordered_as_their_amounts(a in any::<i32>(), b in any::<i32>()) {
        let (x, y) = (Quantity::from_millis(a.into()), Quantity::from_millis(b.into()));
        prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        prop_assert_eq!((x + y).milli_value(), i64::from(a) + i64::from(b));
        prop_assert_eq!(x + y - y, x);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[-+0-9.eEinumkKMGTP ]{0,40}|\\PC{0,20}") {
        let _ = Quantity::parse(&text);
    }
}
