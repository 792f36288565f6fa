//! The map of a hunt: a row for each way to set the mesh, a column for each load, and in each field how long the mesh took to
//! be well again.

use std::collections::BTreeMap;

use super::{Course, EJECTION, Hunt, LOADS, Point, RETRIES, TIMEOUTS};

/// Draws it.
pub fn draw(hunt: &Hunt, courses: &BTreeMap<Point, Course>) -> String {
    let mut text = format!("{:<11} {:<10} {:<9}", "retries", "per try", "ejection");
    for load in 0..LOADS.len() {
        text += &format!(" {:>9}", format!("{:.0}/s", hunt.rate(load)));
    }
    text.push('\n');
    let mut points: Vec<Point> = courses.keys().copied().collect();
    points.dedup_by_key(|point| (point.retries, point.timeout, point.ejection));
    for row in points {
        text += &format!(
            "{:<11} {:<10} {:<9}",
            RETRIES[row.retries].0, TIMEOUTS[row.timeout].0, EJECTION[row.ejection].0
        );
        for load in 0..LOADS.len() {
            let field = courses.get(&Point { load, ..row }).map_or(String::new(), |course| field(*course));
            text += &format!(" {field:>9}");
        }
        text.push('\n');
    }
    text
}

fn field(course: Course) -> String {
    match course {
        Course::Overloaded => "too much".into(),
        Course::Recovered(after) if after.is_zero() => "at once".into(),
        Course::Recovered(after) => format!("{:.1} s", after.as_secs_f64()),
        Course::Stuck(_) => "never".into(),
    }
}
