//! Mistakes in policies: retries, limits, time limits, balancing, outlier detection, checks.

use crate::says;

says! {
    a_mode_of_the_wrong_type_shows_the_modes
    retries_that_cannot_be_are_explained
    bare_numbers_of_retries_are_asked_for_their_unit
    windows_streams_and_time_for_a_head_are_within_what_can_be
    limits_out_of_range_say_what_they_may_be
    shares_and_factors_of_the_wrong_type_say_what_to_write
    what_a_policy_makes_nothing_of_is_pointed_at
    an_identity_has_one_source_that_can_be_asked
    an_identity_names_a_workload
    an_agent_listens_on_a_socket
    an_authority_can_be_asked
    an_access_log_says_what_can_be_said
    an_audit_log_has_a_place_and_can_be_kept
    an_audit_log_keeps_so_many_files_and_shares_none
    a_subset_of_nobody_shows_what_the_endpoints_have
    contradictory_limits_show_both_sides
    outlier_detection_must_be_able_to_see_something
    a_success_rate_is_a_share_of_a_window
    a_check_asks_one_thing
    a_probe_needs_an_address
    limits_that_limit_nothing_are_refused
    a_bare_size_is_asked_for_its_unit
    limits_and_versions_that_contradict_each_other_show_both_sides
}
