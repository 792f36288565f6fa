//! The JSON of etcd's gateway. Numbers of 64 bits are text there, and what is zero or empty is left
//! out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Text as base64.
pub fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

/// The bytes behind base64.
fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}

/// A number that is text, or a number all the same: older gateways write those.
fn number<'de, D: Deserializer<'de>, T>(deserializer: D) -> Result<T, D::Error>
where
    T: std::str::FromStr + TryFrom<u64> + TryFrom<i64>,
    <T as std::str::FromStr>::Err: std::fmt::Display,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Unsigned(u64),
        Signed(i64),
    }
    let out_of_range = || serde::de::Error::custom("out of range");
    match Either::deserialize(deserializer)? {
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
        Either::Unsigned(number) => T::try_from(number).map_err(|_| out_of_range()),
        Either::Signed(number) => T::try_from(number).map_err(|_| out_of_range()),
    }
}

/// A lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct LeaseId(pub i64);

impl Serialize for LeaseId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for LeaseId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number(deserializer).map(LeaseId)
    }
}

/// The head of every answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub struct Header {
    /// Which etcd.
    #[serde(default, deserialize_with = "number")]
    pub cluster_id: u64,
    /// Its revision at the time of the answer.
    #[serde(default, deserialize_with = "number")]
    pub revision: i64,
}

/// An answer of which only the head matters.
#[derive(Debug, Deserialize)]
pub struct Reply {
    /// The head.
    #[serde(default)]
    pub header: Header,
}

/// Some keys, asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Span {
    pub(super) key: String,
    pub(super) range_end: String,
    /// Whether only their number is of interest.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub count_only: bool,
}

impl Span {
    /// All keys that begin with `prefix`.
    pub fn of_prefix(prefix: &str) -> Self {
        Span { key: base64(prefix), range_end: STANDARD.encode(end_of(prefix)), count_only: false }
    }
}

/// The first key after all that begin with `prefix`; one zero byte, which stands for the end of the
/// key space, if there is none.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// Some keys, told.
#[derive(Debug, Default, Deserialize)]
pub struct Range {
    /// The head.
    #[serde(default)]
    pub header: Header,
    /// The keys and their values.
    #[serde(default)]
    pub kvs: Vec<KeyValue>,
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct KeyValue {
    /// The key.
    #[serde(deserialize_with = "bytes")]
    pub key: Vec<u8>,
    /// The value; empty in a deletion.
    #[serde(default, deserialize_with = "bytes")]
    pub value: Vec<u8>,
    /// The revision that put or deleted it.
    #[serde(default, deserialize_with = "number")]
    pub mod_revision: i64,
}

#[derive(Debug, Serialize)]
pub(super) struct Put {
    pub key: String,
    pub value: String,
    pub lease: LeaseId,
}

#[derive(Debug, Serialize)]
pub(super) struct Grant {
    #[serde(rename = "TTL")]
    pub ttl: String,
}

/// A lease that was granted.
#[derive(Debug, Deserialize)]
pub struct Granted {
    /// Which.
    #[serde(rename = "ID")]
    pub id: LeaseId,
    /// For how many seconds.
    #[serde(rename = "TTL", deserialize_with = "number")]
    pub ttl: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct KeepAlive {
    #[serde(rename = "ID")]
    pub id: LeaseId,
}

/// A lease that was renewed, or not.
#[derive(Debug, Deserialize)]
pub struct Renewed {
    /// For how many seconds; 0: it has ended.
    #[serde(default, rename = "TTL", deserialize_with = "number")]
    pub ttl: u64,
}

/// One message of an endless answer.
#[derive(Debug, Deserialize)]
pub struct Streamed<T> {
    /// The message.
    pub result: Option<T>,
    /// Why there will be no other.
    pub error: Option<Failure>,
}

#[derive(Debug, Serialize)]
pub(super) struct WatchRequest {
    create_request: Create,
}

#[derive(Debug, Serialize)]
struct Create {
    #[serde(flatten)]
    span: Span,
    start_revision: String,
}

impl WatchRequest {
    pub fn of_prefix(prefix: &str, from: i64) -> Self {
        WatchRequest {
            create_request: Create { span: Span::of_prefix(prefix), start_revision: from.to_string() },
        }
    }
}

/// One message of a watch.
#[derive(Debug, Default, Deserialize)]
pub struct WatchMessage {
    /// The head.
    #[serde(default)]
    pub header: Header,
    /// Whether it says that the watch has begun.
    #[serde(default)]
    pub created: bool,
    /// Whether it says that the watch has ended.
    #[serde(default)]
    pub canceled: bool,
    /// If it has, because what it asked for was forgotten: the oldest revision that is still known.
    #[serde(default, deserialize_with = "number")]
    pub compact_revision: i64,
    /// Why it has ended.
    #[serde(default)]
    pub cancel_reason: String,
    /// What happened.
    #[serde(default)]
    pub events: Vec<Event>,
}

impl WatchMessage {
    /// Up to which revision nothing is missing. A watch that catches up is told a thousand
    /// revisions at a time, under a head that stands at the newest one already.
    pub fn revision(&self) -> i64 {
        self.events.last().map_or(self.header.revision, |event| event.kv.mod_revision)
    }
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Event {
    /// What kind of.
    #[serde(default, rename = "type")]
    pub kind: EventKind,
    /// The key, and its new value.
    pub kv: KeyValue,
}

/// A kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EventKind {
    /// It has this value now.
    #[default]
    Put,
    /// It is gone.
    Delete,
}

/// Why etcd did not do it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Failure {
    #[serde(default)]
    message: String,
    #[serde(default)]
    error: String,
    #[serde(default)]
    code: u32,
    #[serde(default)]
    grpc_code: u32,
}

impl Failure {
    /// A failure of which only the HTTP status is known.
    pub(super) fn of_status(status: u16) -> Self {
        // 429 and the 5xx are about now; gRPC's 14 is UNAVAILABLE.
        let code = if status == 429 || status >= 500 { 14 } else { 0 };
        Failure { message: format!("HTTP status {status}"), code, ..Failure::default() }
    }

    /// What it said.
    pub fn said(&self) -> String {
        if self.message.is_empty() { self.error.clone() } else { self.message.clone() }
    }

    /// Its gRPC status.
    pub fn grpc_status(&self) -> u32 {
        self.code.max(self.grpc_code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_its_last_byte_is_one_more() {
        for (prefix, end) in [("/a/", &b"/a0"[..]), ("a", b"b"), ("", b"\0")] {
            assert_eq!(end_of(prefix), end);
        }
    }

    #[test]
    fn a_failure_says_why_in_the_words_of_either_version_and_a_bare_status_whether_to_ask_another() {
        for (status, code) in [(400, 0), (428, 0), (429, 14), (430, 0), (499, 0), (500, 14), (503, 14)] {
            let failure = Failure::of_status(status);
            let said = format!("HTTP status {status}");
            assert_eq!((failure.grpc_status(), failure.said()), (code, said), "{status}");
        }
        let read = |text| serde_json::from_str::<Failure>(text).unwrap();
        let old = read(r#"{"error":"etcdserver: requested lease not found","code":5}"#);
        assert_eq!((old.grpc_status(), &*old.said()), (5, "etcdserver: requested lease not found"));
        let streamed = read(r#"{"grpc_code":11,"http_code":400,"message":"compacted"}"#);
        assert_eq!((streamed.grpc_status(), &*streamed.said()), (11, "compacted"));
    }

    // The texts below are what etcd 3.4.23 answered.

    #[test]
    fn a_range_is_read_as_etcd_writes_it() {
        let text = r#"{"header":{"cluster_id":"14841639068965178418","member_id":"10276657743932975437","revision":"2","raft_term":"2"},"kvs":[{"key":"L2EveA==","create_revision":"2","mod_revision":"2","version":"1","value":"eyJhZGRyZXNzIjoiMSJ9","lease":"7587899157595168776"}],"count":"1"}"#;
        let range: Range = serde_json::from_str(text).unwrap();
        assert_eq!(range.header, Header { cluster_id: 14841639068965178418, revision: 2 });
        let value = br#"{"address":"1"}"#.to_vec();
        let expected = KeyValue { key: b"/a/x".to_vec(), value, mod_revision: 2 };
        assert_eq!(range.kvs, [expected]);
        let empty: Range = serde_json::from_str(r#"{"header":{"revision":1}}"#).unwrap();
        assert_eq!((empty.header.revision, empty.kvs.len()), (1, 0));
    }

    #[test]
    fn a_watch_is_read_as_etcd_writes_it() {
        let read = |text| serde_json::from_str::<Streamed<WatchMessage>>(text).unwrap().result.unwrap();
        let created = read(
            r#"{"result":{"header":{"cluster_id":"14841639068965178418","revision":"1"},"created":true}}"#,
        );
        assert!(created.created && created.events.is_empty() && created.revision() == 1);
        let deleted = read(
            r#"{"result":{"header":{"cluster_id":"1","revision":"3"},"events":[{"type":"DELETE","kv":{"key":"L2EveA==","mod_revision":"3"}}]}}"#,
        );
        let kv = KeyValue { key: b"/a/x".to_vec(), value: vec![], mod_revision: 3 };
        assert_eq!(deleted.events, [Event { kind: EventKind::Delete, kv }]);
        let compacted =
            read(r#"{"result":{"header":{"cluster_id":"1"},"canceled":true,"compact_revision":"2"}}"#);
        assert!(compacted.canceled && compacted.compact_revision == 2);
    }

    #[test]
    fn a_lease_is_read_as_etcd_writes_it() {
        let granted: Granted =
            serde_json::from_str(r#"{"header":{},"ID":"7587899157595168774","TTL":"5"}"#).unwrap();
        assert_eq!((granted.id, granted.ttl), (LeaseId(7587899157595168774), 5));
        let renewed = |text| serde_json::from_str::<Streamed<Renewed>>(text).unwrap().result.unwrap().ttl;
        assert_eq!(renewed(r#"{"result":{"header":{},"ID":"7","TTL":"5"}}"#), 5);
        assert_eq!(renewed(r#"{"result":{"header":{},"ID":"12345"}}"#), 0);
    }

    #[test]
    fn requests_are_written_as_etcd_reads_them() {
        let watch = serde_json::to_string(&WatchRequest::of_prefix("/a/", 7)).unwrap();
        assert_eq!(watch, r#"{"create_request":{"key":"L2Ev","range_end":"L2Ew","start_revision":"7"}}"#);
        let put = Put { key: base64("/a/x"), value: base64("v"), lease: LeaseId(9) };
        let put = serde_json::to_string(&put).unwrap();
        assert_eq!(put, r#"{"key":"L2EveA==","value":"dg==","lease":"9"}"#);
    }
}
