//! Mistakes in the shape of the file, its keys and values, and the ports of the sidecar.

use crate::says;

says! {
    opaque_ports_must_be_ports: "service = \"web\"\nopaque_ports = [25, 70000]\n";
    port_0_is_not_opaque_but_nothing: "service = \"web\"\nopaque_ports = [25, 0]\n";
    a_value_without_an_end_is_pointed_at: "service = \"web\n\n[listen]\nadmin = 15000\n";
    text_without_quotes_is_pointed_at: "service = web\n";
    a_repeated_table_is_pointed_at: "service = \"web\"\n\n[timeouts]\nconnect = \"1s\"\n\n[timeouts]\ndrain = \"5s\"\n";
    unknown_keys_come_with_the_likely_ones: r#"
service = "web"
worker = 2
colour = "blue"

[timeouts]
conect = "250ms"

[[cluster]]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoint = ["10.0.0.11:8080"]
"#;
    bare_numbers_are_asked_for_their_unit: r#"
service = "web"

[timeouts]
connect = 250
drain = 0.5

[outlier_detection]
cap = 0.5
"#;
    wrong_types_say_what_to_write: r#"
service = 7
passthrough = "true"
workers = -1

[listen]
admin = "15000"
health = 70000

[[cluster]]
name = "orders"
addresses = "10.96.0.10:80"
endpoints = [8080]
"#;
    single_brackets_are_recognised: r#"
service = "web"

[cluster]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoints = ["10.0.0.11:8080"]
"#;
    missing_keys_say_what_they_are_for: r#"
# The storefront.
instance = "web-0"

[[cluster]]
name = "orders"

[[inbound]]
protocol = "http"
"#;
    addresses_must_be_addresses: r#"
service = "web"

[[cluster]]
name = "orders"
addresses = ["10.96.0.10", "orders:80", "http://10.96.0.10:80/", "10.96.0.10:0", "fd00::10"]
endpoints = ["10.0.0.11:99999", "10.0.0.0/24:80", "0.0.0.0:8080", "8080", "10.0.0.300:80"]
"#;
    ports_of_the_sidecar_must_differ: r#"
service = "web"

[listen]
outbound = 16000
inbound = 16000
admin = 15021
metrics = 0

[[inbound]]
port = 15021
"#;
}
