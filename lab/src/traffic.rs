//! What load generators and built-in apps log of the traffic, for those who judge a run by it.

use proxy::log_events;

log_events! {
    $
    /// What programs read in the log of load generators and apps.
    pub enum TrafficEvent;

    /// A load generator sends a request.
    debug RequestSent = "request sent" { id: Shown };
    /// It will learn no more of it.
    debug RequestEnded = "request ended" { id: Shown, outcome: Debugged };
    /// It has the whole answer; `by`: who says to have sent it.
    debug AnswerComplete = "answer is complete" { id: Text, length: Number, by: Text };

    /// An app got the head of a request; `nth`: which attempt it is by its own header; `left`:
    /// microseconds that its caller still waits.
    debug RequestArrived = "request arrived"
        { id: Text, nth: Text, method: Text, left: OptionalNumber };
    /// It got the rest.
    debug RequestComplete = "request is complete" { id: Text, nth: Text, length: Number };
    /// It answers with valid HTTP.
    debug Answers = "answers" { id: Text, nth: Text, status: Number };
    /// It answers, or does not, in a way that breaks HTTP.
    debug BreaksHttp = "breaks HTTP" { id: Text, nth: Text, malformation: Debugged };
    /// It refuses a request before it looks at it.
    debug RefusesStream = "refuses a stream" { id: Text, nth: Text };
    /// It breaks its answer off.
    debug ResetsStream = "resets a stream" { id: Text, nth: Text, code: Debugged };
    /// It takes no more requests over the connection on which this one came.
    debug SaysGoaway = "says GOAWAY" { id: Text };

    /// The registry has other keys than before, so many.
    debug RegistryChanged = "registry changed" { keys: Number };
}

impl TrafficEvent {
    /// What the load generator calls the request that it is about.
    pub fn id(&self) -> Option<&str> {
        match self {
            TrafficEvent::RegistryChanged { .. } => None,
            TrafficEvent::RequestSent { id }
            | TrafficEvent::RequestEnded { id, .. }
            | TrafficEvent::AnswerComplete { id, .. }
            | TrafficEvent::RequestArrived { id, .. }
            | TrafficEvent::RequestComplete { id, .. }
            | TrafficEvent::Answers { id, .. }
            | TrafficEvent::BreaksHttp { id, .. }
            | TrafficEvent::RefusesStream { id, .. }
            | TrafficEvent::ResetsStream { id, .. }
            | TrafficEvent::SaysGoaway { id } => Some(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The compiler warns of an event of the sidecar that nothing emits, but not across crates.
    #[test]
    fn each_event_is_emitted_somewhere() {
        let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        for event in TrafficEvent::emit_each() {
            let shown = format!("{event:?}");
            let name = shown.split_whitespace().next().expect("a name");
            assert!(sources.contains(&format!("emit!({name} {{")), "nothing emits {name}");
        }
    }

    fn sources(folder: &Path) -> String {
        let entries =
            std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        let text = |path: std::path::PathBuf| match path.is_dir() {
            true => sources(&path),
            false => std::fs::read_to_string(&path).expect("a source"),
        };
        entries.map(text).collect()
    }
}
