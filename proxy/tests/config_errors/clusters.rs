//! Mistakes in clusters: addresses, endpoints and where they are learned, routes.

use crate::says;

says! {
    server_names_must_be_names_and_lead_to_one_cluster
    a_cluster_learns_its_endpoints_from_one_source
    names_are_asked_for_in_one_way
    registries_are_written_as_they_are_asked
    the_shape_of_discovery_and_registration_is_pointed_at
    an_endpoint_without_an_address_is_pointed_at
    one_virtual_address_in_two_clusters_shows_both_places
    two_clusters_of_one_name_show_both_places
    a_cluster_that_leads_nowhere_is_refused
    an_unknown_protocol_comes_with_the_likely_one
    routes_lead_to_clusters_that_exist
    a_route_that_is_never_reached_shows_the_one_before_it
    what_a_route_matches_must_be_what_requests_have
    what_a_route_does_must_be_one_thing_and_possible
    the_shape_of_a_route_is_checked_first
    an_endpoint_needs_an_address
    a_cluster_without_endpoints_or_addresses_needs_routes
}
