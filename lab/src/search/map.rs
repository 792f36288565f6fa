//! The map of a search: a row for each setting, a column for each load, and in each field how long
//! the mesh took to recover.

use std::collections::BTreeMap;

use super::{EJECTION, LOADS, MeshOutcome, RETRIES, Search, SearchPoint, TIMEOUTS};

/// Draws it.
pub fn draw(search: &Search, outcomes: &BTreeMap<SearchPoint, MeshOutcome>) -> String {
    let mut text = format!("{:<11} {:<10} {:<9}", "retries", "per try", "ejection");
    for load in 0..LOADS.len() {
        text += &format!(" {:>9}", format!("{:.0}/s", search.rate(load)));
    }
    text.push('\n');
    let mut points: Vec<SearchPoint> = outcomes.keys().copied().collect();
    points.dedup_by_key(|point| (point.retries, point.timeout, point.ejection));
    for row in points {
        text += &format!(
            "{:<11} {:<10} {:<9}",
            RETRIES[row.retries].0, TIMEOUTS[row.timeout].0, EJECTION[row.ejection].0
        );
        for load in 0..LOADS.len() {
            let field = outcomes
                .get(&SearchPoint { load, ..row })
                .map_or(String::new(), |mesh_outcome| field(*mesh_outcome));
            text += &format!(" {field:>9}");
        }
        text.push('\n');
    }
    text
}

fn field(mesh_outcome: MeshOutcome) -> String {
    match mesh_outcome {
        MeshOutcome::Overloaded => "too much".into(),
        MeshOutcome::Recovered(after) if after.is_zero() => "at once".into(),
        MeshOutcome::Recovered(after) => format!("{:.1} s", after.as_secs_f64()),
        MeshOutcome::Stuck(_) => "never".into(),
    }
}
