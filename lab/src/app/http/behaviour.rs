//! How the HTTP echo answers: as its scenario says, and otherwise while a timeline entry is in
//! force.
//!
//! The keys are the same in both tables, and in the query of the app's control page. To add one,
//! add its row to each list of this file.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use crate::readable;
use crate::syntax::diagnose::Mistake;
use crate::syntax::units::Percent;

/// The path of an app's control page. Without a query it puts back what the scenario says.
pub const CONTROL: &str = "/behave";

/// How the HTTP echo answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Behaviour {
    /// How long it works on a request.
    #[serde(with = "crate::readable")]
    pub work: Duration,
    /// Share of requests that fail, 0 to 1.
    #[serde(default, skip_serializing_if = "readable::is_default")]
    pub fail: f64,
    /// The status of those.
    #[serde(default = "unavailable", skip_serializing_if = "is_unavailable")]
    pub status: u16,
    /// Share of answers that break HTTP, 0 to 1.
    #[serde(default, skip_serializing_if = "readable::is_default")]
    pub malformed: f64,
    /// Share of questions after its health that it answers with 503, 0 to 1.
    #[serde(default, skip_serializing_if = "readable::is_default")]
    pub unhealthy: f64,
    /// Share of HTTP/2 streams that it refuses, 0 to 1.
    #[serde(default, skip_serializing_if = "readable::is_default")]
    pub refuse_streams: f64,
    /// Share of gRPC calls with which it ends their connection by a GOAWAY, 0 to 1.
    #[serde(default, skip_serializing_if = "readable::is_default")]
    pub goaway: f64,
    /// Share of gRPC calls whose answer it breaks off by RST_STREAM, 0 to 1.
    #[serde(default, skip_serializing_if = "readable::is_default")]
    pub reset_streams: f64,
}

/// What changes of how an app answers; the fields are those of [`Behaviour`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct BehaviourChange {
    /// See [`Behaviour::work`].
    #[serde(serialize_with = "crate::readable::option::serialize", skip_serializing_if = "Option::is_none")]
    pub work: Option<Duration>,
    /// See [`Behaviour::fail`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail: Option<f64>,
    /// See [`Behaviour::status`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// See [`Behaviour::malformed`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub malformed: Option<f64>,
    /// See [`Behaviour::unhealthy`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<f64>,
    /// See [`Behaviour::refuse_streams`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refuse_streams: Option<f64>,
    /// See [`Behaviour::goaway`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goaway: Option<f64>,
    /// See [`Behaviour::reset_streams`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_streams: Option<f64>,
}

/// Makes a table of a scenario that has the keys of a behaviour between others of its own. (Serde's
/// `flatten` would lose the places of the values.)
macro_rules! behaviour_table {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[$before_meta:meta])* pub $before:ident: $before_type:ty,)*
            ..behaviour,
            $($(#[$after_meta:meta])* pub $after:ident: $after_type:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$before_meta])* pub $before: $before_type,)*
            /// How long it works on a request. Default 0.
            pub work: Option<serde_spanned::Spanned<crate::syntax::units::Span>>,
            /// Share of requests that it fails. Default 0.
            pub fail: Option<serde_spanned::Spanned<crate::syntax::units::Percent>>,
            /// With which status. Default 503.
            pub status: Option<serde_spanned::Spanned<u16>>,
            /// Share of its answers that break HTTP. Default 0.
            pub malformed: Option<serde_spanned::Spanned<crate::syntax::units::Percent>>,
            /// Share of questions after its health (`/healthz`) that it answers with 503. Default
            /// 0.
            pub unhealthy: Option<serde_spanned::Spanned<crate::syntax::units::Percent>>,
            /// Share of HTTP/2 streams that it refuses without a look at them. Default 0.
            pub refuse_streams: Option<serde_spanned::Spanned<crate::syntax::units::Percent>>,
            /// Share of gRPC calls with which it ends their connection by a GOAWAY. Default 0.
            pub goaway: Option<serde_spanned::Spanned<crate::syntax::units::Percent>>,
            /// Share of gRPC calls whose answer it breaks off by RST_STREAM. Default 0.
            pub reset_streams: Option<serde_spanned::Spanned<crate::syntax::units::Percent>>,
            $($(#[$after_meta])* pub $after: $after_type,)*
        }

        impl $name {
            /// What it says of a behaviour.
            pub fn change(
                &self,
                mistakes: &mut Vec<crate::syntax::diagnose::Mistake>,
            ) -> crate::app::http::behaviour::BehaviourChange {
                use crate::app::http::behaviour::{share, status};
                crate::app::http::behaviour::BehaviourChange {
                    work: self.work.as_ref().map(|work| work.get_ref().0),
                    fail: share(&self.fail),
                    status: self.status.as_ref().map(|word| status(word, mistakes)),
                    malformed: share(&self.malformed),
                    unhealthy: share(&self.unhealthy),
                    refuse_streams: share(&self.refuse_streams),
                    goaway: share(&self.goaway),
                    reset_streams: share(&self.reset_streams),
                }
            }
        }
    };
}

pub(crate) use behaviour_table;

/// The share that a table says, 0 to 1.
pub(crate) fn share(share: &Option<Spanned<Percent>>) -> Option<f64> {
    share.as_ref().map(|share| share.get_ref().0)
}

/// The status of requests that an app is to fail.
pub(crate) fn status(word: &Spanned<u16>, mistakes: &mut Vec<Mistake>) -> u16 {
    if !(200..=599).contains(word.get_ref()) {
        let mistake = Mistake::new(word.span(), format!("{word} is no final HTTP status"), "this status");
        mistakes.push(mistake.help("from 200 to 599, such as 503, which is the default"));
    }
    *word.get_ref()
}

impl BehaviourChange {
    /// The path and query of the app's control page that makes it.
    pub fn query(&self) -> String {
        let mut words = Vec::new();
        words.extend(self.work.map(|work| format!("work={}", readable::text(work))));
        words.extend(self.fail.map(|fail| format!("fail={fail}")));
        words.extend(self.status.map(|status| format!("status={status}")));
        words.extend(self.malformed.map(|share| format!("malformed={share}")));
        words.extend(self.unhealthy.map(|share| format!("unhealthy={share}")));
        words.extend(self.refuse_streams.map(|share| format!("refuse_streams={share}")));
        words.extend(self.goaway.map(|share| format!("goaway={share}")));
        words.extend(self.reset_streams.map(|share| format!("reset_streams={share}")));
        format!("{CONTROL}?{}", words.join("&"))
    }

    /// What such a query asks for.
    ///
    /// # Errors
    /// If a word of it means nothing.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut change = BehaviourChange::default();
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let wrong = || format!("{key} cannot be {value}");
            let share = || value.parse().map(Some).map_err(|_| wrong());
            match key {
                "work" => change.work = Some(readable::parse(value).ok_or_else(wrong)?),
                "fail" => change.fail = share()?,
                "status" => change.status = Some(value.parse().map_err(|_| wrong())?),
                "malformed" => change.malformed = share()?,
                "unhealthy" => change.unhealthy = share()?,
                "refuse_streams" => change.refuse_streams = share()?,
                "goaway" => change.goaway = share()?,
                "reset_streams" => change.reset_streams = share()?,
                _ => return Err(format!("there is no {key}")),
            }
        }
        Ok(change)
    }

    /// The behaviour of an app that answers as `usual`, with the change.
    pub fn of(&self, usual: Behaviour) -> Behaviour {
        Behaviour {
            work: self.work.unwrap_or(usual.work),
            fail: self.fail.unwrap_or(usual.fail),
            status: self.status.unwrap_or(usual.status),
            malformed: self.malformed.unwrap_or(usual.malformed),
            unhealthy: self.unhealthy.unwrap_or(usual.unhealthy),
            refuse_streams: self.refuse_streams.unwrap_or(usual.refuse_streams),
            goaway: self.goaway.unwrap_or(usual.goaway),
            reset_streams: self.reset_streams.unwrap_or(usual.reset_streams),
        }
    }
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            work: Duration::ZERO,
            fail: 0.0,
            status: unavailable(),
            malformed: 0.0,
            unhealthy: 0.0,
            refuse_streams: 0.0,
            goaway: 0.0,
            reset_streams: 0.0,
        }
    }
}

/// Default of [`Behaviour::status`].
const fn unavailable() -> u16 {
    503
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_unavailable(status: &u16) -> bool {
    *status == unavailable()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_understands_the_query_of_a_change() {
        let change = BehaviourChange {
            work: Some(Duration::from_millis(200)),
            fail: Some(0.3),
            status: Some(500),
            malformed: Some(0.1),
            unhealthy: Some(1.0),
            refuse_streams: Some(0.25),
            goaway: Some(0.5),
            reset_streams: Some(0.0),
        };
        let query = change.query();
        assert_eq!(query.strip_prefix("/behave?").map(BehaviourChange::parse), Some(Ok(change)));
        assert_eq!(BehaviourChange::parse(""), Ok(BehaviourChange::default()));
    }

    #[test]
    fn an_app_says_which_word_of_a_query_means_nothing() {
        for (query, why) in [
            ("work=soon", "work cannot be soon"),
            ("fail=often", "fail cannot be often"),
            ("x=1", "there is no x"),
        ] {
            assert_eq!(BehaviourChange::parse(query), Err(why.to_owned()), "{query}");
        }
    }
}
