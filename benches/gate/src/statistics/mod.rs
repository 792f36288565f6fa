//! What can be said of two revisions after so many paired measurements. Pure: chance is passed in.
//!
//! A *block* measures both revisions in turn and gives one number, the logarithm of how many times
//! the head costs what the base costs. Blocks are independent of each other, because each has
//! processes of its own: where a process's memory lies costs or saves it a percent or more for as
//! long as it lives, and only other processes average that out.
//!
//! [`interval()`] says between which bounds the true ratio lies, [`verdict`] compares that with a
//! threshold. [`quantile`], [`median`] and [`schedule`] serve the measurements themselves.

pub mod interval;
pub mod schedule;
pub mod verdict;

pub use interval::{Interval, interval};
pub use verdict::{Verdict, judge};

/// The value that a share `q` (0 to 1) of `sorted` does not exceed (nearest rank). `sorted` is not
/// empty.
pub fn quantile<T: Copy>(sorted: &[T], q: f64) -> T {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// The middle value, or the mean of the two in the middle. `values` is not empty.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_value_of_the_nearest_rank() {
        let all: Vec<u32> = (1..=100).collect();
        for (q, value) in [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)] {
            assert_eq!(quantile(&all, q), value, "{q}");
        }
        assert_eq!(quantile(&[7], 0.99), 7);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![9.0, 1.0, 2.0, 4.0]), 3.0);
    }
}
