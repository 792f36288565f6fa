//! Mistakes in policies about callers, and in what is said of issuers of tokens.

use crate::says;

says! {
    the_shape_of_policies_about_callers_is_pointed_at
    policies_about_callers_are_pointed_at
    values_of_policies_that_never_match_are_pointed_at
    issuers_that_nobody_could_believe_are_pointed_at
}
