//! Mistakes in the shape of the file, its keys and values, and the ports of the sidecar.

use crate::says;

says! {
    opaque_ports_must_be_ports
    port_0_is_not_opaque_but_nothing
    a_value_without_an_end_is_pointed_at
    text_without_quotes_is_pointed_at
    a_repeated_table_is_pointed_at
    unknown_keys_come_with_the_likely_ones
    bare_numbers_are_asked_for_their_unit
    wrong_types_say_what_to_write
    single_brackets_are_recognised
    missing_keys_say_what_they_are_for
    addresses_must_be_addresses
    ports_of_the_sidecar_must_differ
}
