//! Mistakes planted on purpose, which prove that the simulator's laws can fail.
//!
//! A mutant is a name, and one line where it does harm:
//!
//! ```ignore
//! if mutant::is_planted("one-retry-too-many") { most += 1 }
//! ```
//! That line is all there is to adding one. `lab sim --faults swarm --seeds 100 --mutant
//! one-retry-too-many` looks for it among random histories, and the list in `tests/tests/swarm.rs`
//! says which ones must be found for ever after. Only builds with debug assertions contain any of
//! this: in a release build [`is_planted`] is the constant `false`.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    static PLANTED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

static REACHED: AtomicBool = AtomicBool::new(false);

/// Whether the mutant of this name is to do its harm now.
#[inline(always)]
pub fn is_planted(name: &str) -> bool {
    let planted = cfg!(debug_assertions) && PLANTED.get().is_some_and(|planted| planted == name);
    if planted {
        REACHED.store(true, Ordering::Relaxed);
    }
    planted
}

/// Whether any thread came to where a planted mutant does its harm. If none did, nothing was tried.
pub fn was_reached() -> bool {
    REACHED.load(Ordering::Relaxed)
}

/// Plants a mutant in all sidecars that this thread runs from now on, instead of the one before;
/// `None`: none. Does nothing in a release build.
pub fn plant(name: Option<&'static str>) {
    PLANTED.set(name);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_does_harm_where_it_is_named_and_on_its_own_thread() {
        plant(Some("a"));
        assert!(!is_planted("b") && !was_reached());
        assert!(is_planted("a") && was_reached());
        std::thread::spawn(|| assert!(!is_planted("a"))).join().expect("the other thread");
        plant(None);
        assert!(!is_planted("a"));
    }
}
