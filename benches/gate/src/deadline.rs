//! When a comparison begins nothing new any more.

use std::io;

use benches::load::sliced::monotonic_ns;

/// A minute, in nanoseconds.
const MINUTE: u64 = 60_000_000_000;

/// The end of the time that a comparison may take, if it has one. What has begun is finished; so it
/// may take some minutes longer, above all to build.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Option<u64>);

impl Deadline {
    /// That of a comparison that begins now.
    ///
    /// # Errors
    /// If there is no clock.
    pub fn within(minutes: Option<u32>) -> io::Result<Deadline> {
        let begun = monotonic_ns()?;
        Ok(Deadline(minutes.map(|minutes| begun + u64::from(minutes) * MINUTE)))
    }

    /// Whether it is over.
    ///
    /// # Errors
    /// If there is no clock.
    pub fn is_over(self) -> io::Result<bool> {
        Ok(match self.0 {
            Some(end) => monotonic_ns()? >= end,
            None => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_bound_it_is_never_over() {
        assert!(!Deadline::within(None).unwrap().is_over().unwrap());
        assert!(!Deadline::within(Some(1)).unwrap().is_over().unwrap());
        assert!(Deadline::within(Some(0)).unwrap().is_over().unwrap());
    }
}
