//! Mistakes in clusters: addresses, endpoints and where they are learned, routes.

use crate::{ORDERS, says};

says! {
    server_names_must_be_names_and_lead_to_one_cluster: r#"
service = "web"
timeouts = { tcp_idle = "0s", half_close = "0s" }
[[cluster]]
name = "db"
addresses = []
sni = ["db.example", "a.*.example", "10.0.0.1", "db.example:443", "*.", "two words"]
endpoints = ["10.0.0.1:443"]
[[cluster]]
name = "other"
addresses = []
sni = ["DB.example"]
endpoints = ["10.0.0.2:443"]
"#;
    a_cluster_learns_its_endpoints_from_one_source: r#"
service = "web"
[[cluster]]
name = "both"
addresses = ["10.96.0.1:80"]
endpoints = ["10.0.0.1:80"]
discovery = { file = "/etc/sidelab/both.toml" }
[[cluster]]
name = "two"
addresses = ["10.96.0.2:80"]
discovery = { file = "/etc/sidelab/two.toml", etcd = { endpoints = ["10.0.0.5:2379"], prefix = "/two/" } }
[[cluster]]
name = "none"
addresses = ["10.96.0.3:80"]
discovery = { empty_grace = "5s" }
[[cluster]]
name = "nowhere"
addresses = ["10.96.0.4:80"]
"#;
    names_are_asked_for_in_one_way: r#"
service = "web"
[[cluster]]
name = "nothing"
addresses = ["10.96.0.1:80"]
discovery = { dns = {} }
[[cluster]]
name = "both"
addresses = ["10.96.0.2:80"]
discovery = { dns = { name = "a.example", port = 80, srv = "_http._tcp.a.example" } }
[[cluster]]
name = "no-port"
addresses = ["10.96.0.3:80"]
discovery = { dns = { name = "a.example" } }
[[cluster]]
name = "two-ports"
addresses = ["10.96.0.4:80"]
discovery = { dns = { srv = "_http._tcp.a.example", port = 80 } }
[[cluster]]
name = "no-name"
addresses = ["10.96.0.5:80"]
discovery = { dns = { name = "a..example", port = 80, servers = ["resolver", "10.0.0.53"] } }
[[cluster]]
name = "bounds"
addresses = ["10.96.0.7:80"]
discovery = { dns = { name = "a.example", port = 80, min_ttl = "1m", max_ttl = "5s" } }
[[cluster]]
name = "hurry"
addresses = ["10.96.0.8:80"]
discovery = { dns = { name = "a.example", port = 80, min_ttl = "0s" } }
"#;
    registries_are_written_as_they_are_asked: r#"
service = "web"
[[cluster]]
name = "etcd"
addresses = ["10.96.0.4:80"]
[cluster.discovery.etcd]
endpoints = ["https://10.0.0.5:2379", "etcd:2379"]
prefix = "/services/orders"
[register]
address = "10.0.0.7:80"
ttl = "1s"
weight = 0
[register.etcd]
endpoints = []
prefix = "/services/web/"
"#;
    the_shape_of_discovery_and_registration_is_pointed_at: r#"
service = "web"
[[cluster]]
name = "bare"
addresses = ["10.96.0.5:80"]
discovery.etcd = { prefix = "/services/orders/" }
[[cluster]]
name = "grace"
addresses = ["10.96.0.6:80"]
discovery = { file = "/a", empty_grace = 5, stale_after = 5 }
[register]
ttl = 15
"#;
    an_endpoint_without_an_address_is_pointed_at: r#"
service = "web"
[[cluster]]
name = "orders"
addresses = ["10.96.0.1:80"]
endpoints = [{ zone = "a" }]
"#;
    one_virtual_address_in_two_clusters_shows_both_places: r#"
service = "web"

[[cluster]]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoints = ["10.0.0.11:8080"]

[[cluster]]
name = "stock"
addresses = ["10.96.0.11:80", "[::ffff:10.96.0.10]:80"]
endpoints = ["10.0.0.21:8080"]
"#;
    two_clusters_of_one_name_show_both_places: r#"
service = "web"

[[cluster]]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoints = ["10.0.0.11:8080"]

[[cluster]]
name = "orders"
addresses = ["10.96.0.11:80"]
endpoints = ["10.0.0.21:8080"]
"#;
    a_cluster_that_leads_nowhere_is_refused: r#"
service = "web"

[[cluster]]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoints = []

[[cluster]]
name = "stock"
addresses = ["10.96.0.11:80"]
endpoints = ["10.96.0.11:80", "10.0.0.21:8080", "10.0.0.21:8080"]
"#;
    an_unknown_protocol_comes_with_the_likely_one: r#"
service = "web"

[[inbound]]
port = 8080
protocol = "HTTP1"

[[inbound]]
port = 5432
protocol = "postgres"
"#;
    routes_lead_to_clusters_that_exist: &format!(r#"
service = "web"
{ORDERS}
[[cluster.route]]
to = [{{ cluster = "orders-next" }}, {{ cluster = "ordres", weight = 2000 }}]
mirror = {{ cluster = "shadow", share = "5" }}

[[cluster]]
name = "orders-nxt"
endpoints = ["10.0.0.21:8080"]

[[cluster]]
name = "db"
addresses = ["10.96.0.11:5432"]
protocol = "tcp"
endpoints = ["10.0.0.31:5432"]

[[cluster.route]]
name = "to itself"
to = []
"#);
    a_route_that_is_never_reached_shows_the_one_before_it: &format!(r#"
service = "web"
{ORDERS}
[[cluster.route]]
name = "api"
match = {{ prefix = "/api/" }}
[[cluster.route]]
match = {{ path = "/api/items", methods = ["GET"] }}
[[cluster.route]]
name = "rest"
[[cluster.route]]
name = "api"
match = {{ prefix = "/" }}
[[cluster.route]]
name = "late"
match = {{ authorities = ["late.example"] }}
respond = {{ status = 404 }}
"#);
    what_a_route_matches_must_be_what_requests_have: &format!(r#"
service = "web"
{ORDERS}
[[cluster.route]]
match = {{ path = "items", prefix = "/x" }}
[[cluster.route]]
match = {{ prefix = "/a?b", methods = ["get", "G T"], authorities = ["orders:80", "*", "a.*"] }}
[[cluster.route]]
match = {{ regex = "/(", headers = {{ host = "a", "x y" = "1", x-a = {{ prefix = "1", present = true }}, x-b = {{ }} }} }}
[[cluster.route]]
match = {{ path = "/a b", query = {{ v = {{ present = false, regex = "1" }} }} }}
"#);
    what_a_route_does_must_be_one_thing_and_possible: &format!(r#"
service = "web"
{ORDERS}
[[cluster.route]]
match = {{ path = "/1" }}
redirect = {{ }}
respond = {{ }}
fault = {{ abort = 200, delay_share = "5%" }}
[[cluster.route]]
match = {{ path = "/2" }}
rewrite = {{ prefix = "/x", path = "y", authority = "a b" }}
[[cluster.route]]
match = {{ path = "/3" }}
rewrite = {{ prefix = "/x" }}
mirror = {{ share = "5" }}
[[cluster.route]]
match = {{ path = "/4" }}
redirect = {{ scheme = "ftp", status = 200, authority = "new.example:99999" }}
[[cluster.route]]
match = {{ path = "/5" }}
fault = {{ delay = "200", abort_share = "2" }}
rewrite = {{ }}
[[cluster.route]]
match = {{ path = "/6" }}
request_headers = {{ set = {{ Host = "a", x-a = "1" }}, add = {{ x-a = "ü" }}, remove = ["x a"] }}
timeouts = {{ per_try = "2s", request = "1s" }}
to = [{{ }}, {{ weight = 0 }}]
"#);
    the_shape_of_a_route_is_checked_first: &format!(r#"
service = "web"
{ORDERS}
[[cluster.route]]
matches = {{ path = "/" }}
match = {{ headers = {{ x-a = {{ prefx = "1" }}, x-b = 1 }}, methods = "GET" }}
to = {{ cluster = "orders" }}
mirror = {{ cluster = "orders", share = 5 }}
fault = {{ delay = 200, abort = "503" }}
[cluster.route.rewrite]
prefix = 1
"#);
    an_endpoint_needs_an_address: "service = \"web\"\n[[cluster]]\nname = \"orders\"\naddresses = [\"10.96.0.10:80\"]\nendpoints = [{ zone = \"a\" }]\n";
    a_cluster_without_endpoints_or_addresses_needs_routes: r#"
service = "web"

[[cluster]]
name = "front"
addresses = ["10.96.0.10:80"]
endpoints = []

[[cluster.route]]
match = { path = "/a" }
rewrite = { path = "/b" }

[[cluster]]
name = "next"
endpoints = ["10.0.0.21:8080"]
"#;
}
