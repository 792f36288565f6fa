//! Mistakes planted on purpose, which prove that the simulator's invariants can fail.
//!
//! All of them are listed here. Where one does its harm, the code asks for it:
//!
//! ```ignore
//! let most = retry.attempts + u32::from(Mutant::OneRetryTooMany.is_planted());
//! ```
//! `lab sim --faults swarm --seeds 100 --mutant one-retry-too-many` looks for it among random runs,
//! and the list in `tests/tests/swarm.rs` says which ones must be found for ever after.
//!
//! Only builds with the feature `mutants` and with debug assertions contain any of this: in every
//! other [`Mutant::is_planted`] is the constant `false`.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this build contains mutants.
pub const AVAILABLE: bool = cfg!(all(feature = "mutants", debug_assertions));

thread_local! {
    static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
}

static REACHED: AtomicBool = AtomicBool::new(false);

/// Declares the mutants, with their names on the command line.
macro_rules! mutants {
    ($($(#[$about:meta])+ $mutant:ident = $name:literal,)+) => {
        /// A mistake that can be planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutant {
            $($(#[$about])+ $mutant,)+
        }

        impl Mutant {
            /// All of them, in the order of their names.
            pub const ALL: &[Mutant] = &[$(Mutant::$mutant,)+];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(Mutant::$mutant => $name,)+
                }
            }
        }
    };
}

mutants! {
    /// An `allow` policy counts before a `deny` policy.
    AllowsBeforeItDenies = "allows-before-it-denies",
    /// What no policy says anything about passes, although some allow.
    AllowsWhatNobodyAllows = "allows-what-nobody-allows",
    /// The balancer always picks the first endpoint.
    AlwaysTheFirst = "always-the-first",
    /// Any outcome ends a probe, also of a request that was sent before it.
    AnythingEndsAProbe = "anything-ends-a-probe",
    /// A peer's certificate counts after its end.
    BelievesTheExpired = "believes-the-expired",
    /// A request is bound to a connection that has no room for its stream.
    BindsWhereThereIsNoRoom = "binds-where-there-is-no-room",
    /// A client that half-closes has its request cancelled.
    CancelsAtHalfClose = "cancels-at-half-close",
    /// An active check may take twenty times its timeout.
    ChecksTakeTheirTime = "checks-take-their-time",
    /// An endpoint is never checked again once a check has failed.
    ChecksUntilOneFails = "checks-until-one-fails",
    /// A drain closes idle connections of clients at once.
    ClosesAtOnce = "closes-at-once",
    /// Checks need not agree in a row to turn an endpoint.
    CountsChecksNotInARow = "counts-checks-not-in-a-row",
    /// The lab counts results from before the window of a condition.
    CountsFromBeforeTheWindow = "counts-from-before-the-window",
    /// Latency is measured at half of what it was.
    CountsHalfTheLatency = "counts-half-the-latency",
    /// Retries have no back-off.
    DoesNotBackOff = "does-not-back-off",
    /// An endpoint that is in doubt is not checked more often.
    DoesNotHurryInDoubt = "does-not-hurry-in-doubt",
    /// A drain takes no time.
    DrainsInNoTime = "drains-in-no-time",
    /// A drain is not announced to clients.
    DrainsWithoutAWord = "drains-without-a-word",
    /// The certificate in force is given up before another one is asked for.
    DropsItsCertificate = "drops-its-certificate",
    /// An endpoint is ejected one failure too late.
    EjectsOneLate = "ejects-one-late",
    /// More endpoints are ejected than the cap allows.
    EjectsPastTheCap = "ejects-past-the-cap",
    /// A connection that was reset ends with a FIN.
    EndsWhatWasReset = "ends-what-was-reset",
    /// Quick failures count as low latency.
    FailuresEnterTheLatency = "failures-enter-the-latency",
    /// Connections that other policies do not allow stay open.
    ForgetsOpenConnections = "forgets-open-connections",
    /// A retry may go to the endpoint that has just failed.
    ForgetsWhereItTried = "forgets-where-it-tried",
    /// A stream counts as free when its answer has ended, although its upload has not.
    FreesAStreamWithItsAnswer = "frees-a-stream-with-its-answer",
    /// A connection is given up with a FIN instead of a reset.
    GivesUpWithAFin = "gives-up-with-a-fin",
    /// A retry holds its slot and that of the retry before it.
    HoldsTwoSlots = "holds-two-slots",
    /// Other roots and revocations than the first are ignored.
    IgnoresNewBundles = "ignores-new-bundles",
    /// New configurations are ignored.
    IgnoresReloads = "ignores-reloads",
    /// Revoked certificates count.
    IgnoresRevocations = "ignores-revocations",
    /// A request body is kept for retries however long it is.
    KeepsAnyBody = "keeps-any-body",
    /// A connection with an unread response goes back to the pool.
    KeepsWhatIsHalfRead = "keeps-what-is-half-read",
    /// An attempt may take as long as the request.
    KnowsNoAttemptLimit = "knows-no-attempt-limit",
    /// A request may take for ever.
    KnowsNoDeadline = "knows-no-deadline",
    /// A request that failed stays active at its endpoint.
    LeaksAnActiveRequest = "leaks-an-active-request",
    /// A check that passes ends an ejection for the success rate.
    LetsAnyCheckRestore = "lets-any-check-restore",
    /// The lease of the registration is not renewed.
    LetsItsLeaseRunOut = "lets-its-lease-run-out",
    /// An ejection lasts for a quarter of its time.
    LetsTheEjectedBackEarly = "lets-the-ejected-back-early",
    /// One check that passes makes an endpoint healthy.
    OneCheckMakesHealthy = "one-check-makes-healthy",
    /// One request more is admitted than the limit allows.
    OneRequestTooMany = "one-request-too-many",
    /// One more attempt is made than `retry.attempts` allows.
    OneRetryTooMany = "one-retry-too-many",
    /// The next hop is told the whole deadline instead of what is left of it.
    PassesOnTheWholeDeadline = "passes-on-the-whole-deadline",
    /// Ejected endpoints are picked.
    PicksTheEjected = "picks-the-ejected",
    /// A malformed request is refused before the answers that are due have been written.
    RefusesBeforeItsTurn = "refuses-before-its-turn",
    /// A reload fills the retry budget.
    ReloadFillsTheBudget = "reload-fills-the-budget",
    /// A reload closes all connections to endpoints.
    ReloadForgetsConnections = "reload-forgets-connections",
    /// A reload forgets what is known of endpoints.
    ReloadForgetsEndpoints = "reload-forgets-endpoints",
    /// The certificate is not renewed before it has ended.
    RenewsTooLate = "renews-too-late",
    /// A request that the app refused unprocessed is not repeated.
    RepeatsNothingRefused = "repeats-nothing-refused",
    /// A request that is not idempotent is repeated.
    RepeatsWhatIsNotIdempotent = "repeats-what-is-not-idempotent",
    /// The peer of a session that is resumed is not judged again.
    ResumesUnjudged = "resumes-unjudged",
    /// Retries go on when the budget is spent.
    RetriesOnCredit = "retries-on-credit",
    /// All streams of a connection share the window of one.
    SharesOneWindow = "shares-one-window",
    /// Failures do not make an endpoint dearer, so it draws all requests.
    Sinkhole = "sinkhole",
    /// The protocol is decided by the first bytes that arrive, however few.
    SniffsOnePortion = "sniffs-one-portion",
    /// The success of a request from before the probe ends an ejection.
    StaleSuccessRestores = "stale-success-restores",
    /// RST_STREAM is taken for the end of a message.
    TakesAResetForAnEnd = "takes-a-reset-for-an-end",
    /// Plaintext gets in where only the mesh's TLS should.
    TakesPlaintext = "takes-plaintext",
    /// A server may be any workload of the mesh.
    TalksToAnybody = "talks-to-anybody",
    /// Plaintext is spoken as long as there is no certificate.
    TalksWithoutACertificate = "talks-without-a-certificate",
    /// All attempts share the time of one.
    TimesAttemptsTogether = "times-attempts-together",
    /// Connections from before an endpoint was in doubt are used.
    TrustsOldConnections = "trusts-old-connections",
    /// A response may upgrade a connection without having been asked to.
    TunnelsUnasked = "tunnels-unasked",
    /// Retries are not counted.
    UncountedRetry = "uncounted-retry",
    /// Connections are not used again.
    UsesNothingAgain = "uses-nothing-again",
    /// A request waits for a dial that began before the endpoint was in doubt.
    WaitsForAnOldDial = "waits-for-an-old-dial",
    /// A retry is waited for although the request will be over by then.
    WaitsPastTheEnd = "waits-past-the-end",
}

impl Mutant {
    /// The one of this name.
    pub fn named(name: &str) -> Option<Mutant> {
        Mutant::ALL.iter().copied().find(|mutant| mutant.name() == name)
    }

    /// Whether it is to do its harm now.
    #[inline(always)]
    pub fn is_planted(self) -> bool {
        let planted = AVAILABLE && PLANTED.get() == Some(self);
        if planted {
            REACHED.store(true, Ordering::Relaxed);
        }
        planted
    }
}

/// Whether any thread came to where a planted mutant does its harm. If none did, nothing was tried.
pub fn was_reached() -> bool {
    REACHED.load(Ordering::Relaxed)
}

/// Plants a mutant in all sidecars that this thread runs from now on, instead of the one before;
/// `None`: none. Does nothing in a build without mutants.
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.set(mutant);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_sorted_and_found() {
        assert!(Mutant::ALL.is_sorted_by(|a, b| a.name() < b.name()));
        assert!(Mutant::ALL.iter().all(|mutant| Mutant::named(mutant.name()) == Some(*mutant)));
        assert_eq!(Mutant::named("no-such-mutant"), None);
    }

    #[test]
    fn a_mutant_does_harm_where_it_is_named_and_on_its_own_thread() {
        plant(Some(Mutant::Sinkhole));
        assert!(!Mutant::AlwaysTheFirst.is_planted() && !was_reached());
        assert_eq!((Mutant::Sinkhole.is_planted(), was_reached()), (AVAILABLE, AVAILABLE));
        std::thread::spawn(|| assert!(!Mutant::Sinkhole.is_planted())).join().expect("the other thread");
        plant(None);
        assert!(!Mutant::Sinkhole.is_planted());
    }
}
