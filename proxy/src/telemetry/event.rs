//! Events that programs read in a log. An event is declared in one row, which has its level, its
//! message and its fields. Both sides come from that row: `emit!` writes the line, and
//! [`LogEvent::read`] finds it again. So nobody can reword a line for one side only.
//!
//! `emit!` is a macro of `tracing` with the row filled in. It costs the same: no field is evaluated
//! while the level is off, and the line belongs to the module that emits it. An event of the sidecar
//! that nothing emits is a warning of the compiler (`unused_macro_rules`).
//!
//! Left out: lines that only people read. They are written with `tracing` itself.

use std::fmt::{Debug, Display};
use std::time::Duration;

use tracing::Value;
use tracing::field::{self, DebugValue, DisplayValue};

/// Declares an enum of events, one a row, and the macro `emit` that logs them. The first token is
/// `$`, which a macro cannot write into the macro that it defines.
#[macro_export]
macro_rules! log_events {
    (
        $d:tt
        $(#[$about:meta])*
        $visibility:vis enum $table:ident;
        $(
            $(#[$doc:meta])*
            $level:ident $name:ident = $message:literal $({ $($field:ident: $kind:ident),+ $(,)? })?;
        )+
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq)]
        $visibility enum $table {
            $(
                $(#[$doc])*
                $name $({
                    $(
                        #[doc = concat!("The field `", stringify!($field), "`.")]
                        $field: <$crate::telemetry::event::$kind as $crate::telemetry::event::FieldKind>::Read,
                    )+
                })?,
            )+
        }

        impl $table {
            /// The event that a line with this message and these fields tells of, if it does.
            pub fn read(message: &str, fields: &impl $crate::telemetry::event::Fields) -> Option<Self> {
                use $crate::telemetry::event::FieldKind as _;
                match message {
                    $($message => Some($table::$name $({
                        $($field: $crate::telemetry::event::$kind::read(fields, stringify!($field))?,)+
                    })?),)+
                    _ => None,
                }
            }

            /// Emits one of each with empty fields, and gives what a reader must find.
            #[cfg(test)]
            pub(crate) fn emit_each() -> Vec<Self> {
                $(emit!($name $({
                    $($field: <$crate::telemetry::event::$kind as $crate::telemetry::event::FieldKind>::Read::default()),+
                })?);)+
                vec![$($table::$name $({ $($field: Default::default()),+ })?,)+]
            }
        }

        /// Logs an event of the table. It is written as the variant of the enum would be.
        macro_rules! emit {
            ($d event:ident $d({ $d($d field:ident $d(: $d value:expr)?),+ $d(,)? })?) => {
                emit!(@event $d event $d({ $d($d field: emit!(@value $d field $d(, $d value)?)),+ })?)
            };
            (@value $d field:ident) => { $d field };
            (@value $d field:ident, $d value:expr) => { $d value };
            $(
                (@event $name $({ $($field: $d $field:expr),+ })?) => {
                    ::tracing::$level!(
                        $($($field = $crate::telemetry::event::$kind::logged(&$d $field),)+)?
                        $message
                    )
                };
            )+
        }
        pub(crate) use emit;
    };
}

/// The fields of a line, by name.
pub trait Fields {
    /// One that is a whole number.
    fn number(&self, name: &str) -> Option<u64>;
    /// One that is true or false.
    fn flag(&self, name: &str) -> Option<bool>;
    /// Any other, as the log shows it.
    fn text(&self, name: &str) -> Option<&str>;
}

/// What a field holds. Each kind also has a function `logged`, which takes the types that may be
/// logged as this kind.
pub trait FieldKind {
    /// What a reader gets.
    type Read: Default;

    /// Reads the field `name`; `None` if there is none of this kind.
    fn read(fields: &impl Fields, name: &str) -> Option<Self::Read>;
}

/// A whole number.
#[derive(Debug)]
pub struct Number;

impl Number {
    /// As a value of `tracing`.
    pub fn logged<T: Value + TryInto<u64>>(value: &T) -> &T {
        value
    }
}

impl FieldKind for Number {
    type Read = u64;

    fn read(fields: &impl Fields, name: &str) -> Option<u64> {
        fields.number(name)
    }
}

/// A whole number, or no field.
#[derive(Debug)]
pub struct OptionalNumber;

impl OptionalNumber {
    /// As a value of `tracing`.
    pub fn logged<T: Value + TryInto<u64>>(value: &Option<T>) -> &Option<T> {
        value
    }
}

impl FieldKind for OptionalNumber {
    type Read = Option<u64>;

    fn read(fields: &impl Fields, name: &str) -> Option<Option<u64>> {
        Some(fields.number(name))
    }
}

/// True or false.
#[derive(Debug)]
pub struct Flag;

impl Flag {
    /// As a value of `tracing`.
    pub fn logged(value: &bool) -> &bool {
        value
    }
}

impl FieldKind for Flag {
    type Read = bool;

    fn read(fields: &impl Fields, name: &str) -> Option<bool> {
        fields.flag(name)
    }
}

/// Text, which the log puts in quotation marks.
#[derive(Debug)]
pub struct Text;

impl Text {
    /// As a value of `tracing`.
    pub fn logged<T: AsRef<str> + ?Sized>(value: &T) -> &str {
        value.as_ref()
    }
}

impl FieldKind for Text {
    type Read = String;

    fn read(fields: &impl Fields, name: &str) -> Option<String> {
        fields.text(name).map(str::to_owned)
    }
}

/// [`Text`], or no field.
#[derive(Debug)]
pub struct OptionalText;

impl OptionalText {
    /// As a value of `tracing`.
    pub fn logged<T: AsRef<str>>(value: &Option<T>) -> Option<&str> {
        value.as_ref().map(T::as_ref)
    }
}

impl FieldKind for OptionalText {
    type Read = Option<String>;

    fn read(fields: &impl Fields, name: &str) -> Option<Option<String>> {
        Some(fields.text(name).map(str::to_owned))
    }
}

/// Anything that is written with `{}`.
#[derive(Debug)]
pub struct Shown;

impl Shown {
    /// As a value of `tracing`.
    pub fn logged<T: Display>(value: &T) -> DisplayValue<&T> {
        field::display(value)
    }
}

impl FieldKind for Shown {
    type Read = String;

    fn read(fields: &impl Fields, name: &str) -> Option<String> {
        Text::read(fields, name)
    }
}

/// [`Shown`], or no field.
#[derive(Debug)]
pub struct OptionalShown;

impl OptionalShown {
    /// As a value of `tracing`.
    pub fn logged<T: Display>(value: &Option<T>) -> Option<DisplayValue<&T>> {
        value.as_ref().map(field::display)
    }
}

impl FieldKind for OptionalShown {
    type Read = Option<String>;

    fn read(fields: &impl Fields, name: &str) -> Option<Option<String>> {
        OptionalText::read(fields, name)
    }
}

/// Anything that is written with `{:?}`.
#[derive(Debug)]
pub struct Debugged;

impl Debugged {
    /// As a value of `tracing`.
    pub fn logged<T: Debug>(value: &T) -> DebugValue<&T> {
        field::debug(value)
    }
}

impl FieldKind for Debugged {
    type Read = String;

    fn read(fields: &impl Fields, name: &str) -> Option<String> {
        Text::read(fields, name)
    }
}

/// A duration, as `{:?}` writes it: `1.5ms`, `250.25µs`.
#[derive(Debug)]
pub struct Time;

impl Time {
    /// As a value of `tracing`.
    pub fn logged(value: &Duration) -> DebugValue<&Duration> {
        field::debug(value)
    }

    /// Exact, as long as nobody asked for fewer digits.
    fn parse(text: &str) -> Option<Duration> {
        let (number, unit) = [("ms", 1_000_000), ("µs", 1_000), ("ns", 1), ("s", 1_000_000_000)]
            .iter()
            .find_map(|(unit, nanos)| Some((text.strip_suffix(unit)?, *nanos)))?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = u32::try_from(fraction.len()).ok()?;
        let parts = match fraction {
            "" => 0,
            _ => fraction.parse::<u64>().ok()? * unit / 10_u64.checked_pow(digits)?,
        };
        Some(Duration::from_nanos(whole.parse::<u64>().ok()?.checked_mul(unit)? + parts))
    }
}

impl FieldKind for Time {
    type Read = Duration;

    fn read(fields: &impl Fields, name: &str) -> Option<Duration> {
        Time::parse(fields.text(name)?)
    }
}

log_events! {
    $
    /// What programs read in the sidecar's log.
    pub enum LogEvent;

    /// The sidecar got a request of its app.
    debug RequestBegins = "request begins" { request: Number, cluster: Shown, peer: Shown };
    /// An endpoint was chosen for an attempt; with `panic`, regardless of its availability.
    debug EndpointPicked = "endpoint picked"
        { request: Number, cluster: Shown, endpoint: Shown, panic: Flag };
    /// The head of an endpoint's response has come. `last`: it is the last one of its connection.
    debug EndpointAnswered = "endpoint answered" {
        request: Number,
        endpoint: Shown,
        status: Number,
        last: Flag,
        grpc: OptionalText,
        average_us: Number,
    };
    /// An attempt ended without a response. `unsent`: not a byte of the request was sent.
    debug AttemptFailed = "attempt failed"
        { request: Number, endpoint: Shown, error: Text, unsent: Flag, reused: Flag };
    /// There will be another attempt; `budget`: whole tokens that are left for others.
    debug TryingAgain = "trying again"
        { request: Number, reason: Text, wait: Time, nth: Number, budget: Number };
    /// There will not, although the last one failed.
    debug NotTryingAgain = "not trying again" { request: Number, why: Text };
    /// The sidecar answers the request itself, with a failure.
    debug NoAnswer = "no answer" { request: Number, error: Text };
    /// The app gets a response. `endpoint`: where the last attempt went. Before the first attempt
    /// it was routed, limited and held up on purpose.
    debug RequestAnswered = "request answered" {
        request: Number,
        status: Number,
        attempts: Number,
        endpoint: OptionalShown,
        duration_us: Number,
        since_first_attempt_us: OptionalNumber,
        since_last_attempt_us: OptionalNumber,
    };

    /// A connection to an endpoint is open; `open`: how many of the cluster are.
    debug Connected = "connected" { endpoint: Shown, open: Number };
    /// A shared one broke.
    debug ConnectionEnded = "connection ended" { endpoint: Shown, error: Shown };
    /// A request waits for a connection; `waiting`: how many of the cluster do.
    debug WaitingForConnection = "waiting for a connection" { endpoint: Shown, waiting: Number };
    /// A request waits for a stream of a connection; `waiting`: how many of the cluster do.
    debug WaitingForStream = "waiting for a stream" { endpoint: Shown, waiting: Number };

    /// The handshake with a server has succeeded: who it is, and from when until when its
    /// certificate is valid, seconds of Unix time.
    debug ServerProved = "the server has proved who it is"
        { address: Shown, identity: Shown, not_before: Number, not_after: Number, resumed: Flag };
    /// The handshake with a client has.
    debug ClientProved = "the client has proved who it is"
        { identity: Shown, not_before: Number, not_after: Number, resumed: Flag };
    /// This workload has a new certificate, valid until then, seconds of Unix time.
    info CertificateInForce = "new certificate in force" { id: Shown, not_after: Number };
    /// It has not; `kept`: the one before stays.
    warn NoNewCertificate = "no new certificate" { why: Shown, kept: Flag };
    /// It trusts others than before.
    info TrustChanged = "roots or revocations have changed" { version: Number };

    /// Outlier detection has ejected an endpoint for so long.
    warn EndpointEjected = "endpoint ejected"
        { cluster: Shown, endpoint: Shown, time: Time, reason: Text };
    /// A request probes whether an ejected endpoint is back.
    debug Probing = "probing" { cluster: Shown, endpoint: Shown };
    /// Its probe ended without a result that says anything about it.
    debug ProbeTaughtNothing = "the probe has taught nothing" { cluster: Shown, endpoint: Shown };
    /// Its probe succeeded.
    info EndpointRestored = "endpoint back in use" { cluster: Shown, endpoint: Shown };
    /// An active check of it passed.
    info EndpointRestoredByCheck = "endpoint back in use: its check passed"
        { cluster: Shown, endpoint: Shown };
    /// Active checks of an endpoint turned.
    warn EndpointUnhealthy = "endpoint unhealthy" { cluster: Shown, endpoint: Shown, why: Shown };
    /// Active checks of an endpoint turned.
    info EndpointHealthy = "endpoint healthy" { cluster: Shown, endpoint: Shown };
    /// An active check failed, and turned nothing.
    debug CheckFailed = "check failed" { cluster: Shown, endpoint: Shown, why: Shown };
    /// An active check passed, and turned nothing.
    debug CheckPassed = "check passed" { cluster: Shown, endpoint: Shown };

    /// A cluster has other endpoints than before.
    info EndpointsDiscovered = "endpoints discovered"
        { cluster: Shown, count: Number, version: Number };
    /// One that it has.
    debug EndpointFound = "endpoint found" { cluster: Text, endpoint: Shown };
    /// One that it does not have any more.
    debug EndpointGone = "endpoint gone" { cluster: Text, endpoint: Shown };
    /// The source of a cluster's endpoints does not answer.
    warn EndpointsStale = "endpoints may be stale; the last ones are kept"
        { cluster: Shown, why: Shown };
    /// It answers again, and nothing has changed.
    info EndpointsFresh = "endpoints are fresh again" { cluster: Shown };
    /// The app is in the registry.
    info Registered = "registered" { key: Shown };
    /// It was, and is not.
    info NotRegistered = "not registered any more" { key: Shown };

    /// Requests are served by another configuration from now on.
    info ConfigurationInForce = "the new configuration is in force";
    /// The sidecar takes nothing more on.
    info Draining = "draining";
    /// It has finished what it had.
    info Drained = "drained";
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    use tracing::field::{Field, Visit};
    use tracing::{Event, Subscriber};
    use tracing_subscriber::layer::{self, Layer, SubscriberExt};

    use super::*;

    thread_local! {
        static READ: RefCell<Vec<LogEvent>> = const { RefCell::new(Vec::new()) };
    }

    /// Reads each line at once.
    struct Reader;

    impl<S: Subscriber> Layer<S> for Reader {
        fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
            let mut line = Line::default();
            event.record(&mut line);
            let message = line.0.remove("message").expect("a message");
            READ.with_borrow_mut(|read| read.extend(LogEvent::read(&message, &line)));
        }
    }

    #[derive(Default)]
    struct Line(BTreeMap<&'static str, String>);

    impl Visit for Line {
        fn record_str(&mut self, field: &Field, value: &str) {
            self.0.insert(field.name(), value.to_owned());
        }

        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            self.0.insert(field.name(), format!("{value:?}"));
        }
    }

    impl Fields for Line {
        fn number(&self, name: &str) -> Option<u64> {
            self.text(name)?.parse().ok()
        }

        fn flag(&self, name: &str) -> Option<bool> {
            self.text(name)?.parse().ok()
        }

        fn text(&self, name: &str) -> Option<&str> {
            self.0.get(name).map(String::as_str)
        }
    }

    #[test]
    fn a_reader_finds_each_event_as_it_was_emitted() {
        let subscriber = tracing_subscriber::registry().with(Reader);
        let emitted = tracing::subscriber::with_default(subscriber, LogEvent::emit_each);
        assert_eq!(READ.take(), emitted);
    }

    #[test]
    fn nothing_is_evaluated_while_the_level_is_off() {
        let evaluated = Rc::new(RefCell::new(false));
        let key = || {
            evaluated.replace(true);
            "key"
        };
        emit!(Registered { key: key() });
        assert!(!*evaluated.borrow());
    }

    #[test]
    fn durations_are_read_as_they_are_written() {
        for nanos in [0, 1, 999, 1_500, 1_234_567, 250_000_000, 1_023_456_789, 61_000_000_000] {
            let time = Duration::from_nanos(nanos);
            assert_eq!(Time::parse(&format!("{time:?}")), Some(time));
        }
        assert_eq!(Time::parse("soon"), None);
    }
}
