//! Questions and answers of DNS as far as discovery cares (RFC 1035; SRV: RFC 2782). hickory reads
//! and writes the format; what an answer means is decided here. Pure.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// What was answered to a question for addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Those there are; none if the name has none of that kind, or does not exist.
    pub addresses: Vec<IpAddr>,
    /// For how many seconds that holds, if the answer says so.
    pub ttl: Option<u32>,
}

/// What was answered to a question for a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    /// Those there are.
    pub targets: Vec<Target>,
    /// Addresses of targets that the answer brought along.
    pub known: Vec<(Name, IpAddr)>,
    /// For how many seconds that holds, these addresses included, if the answer says so.
    pub ttl: Option<u32>,
}

/// One server of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Those with the lowest are used first.
    pub priority: u16,
    /// Its share among those of its priority.
    pub weight: u16,
    /// Its port.
    pub port: u16,
    /// Its name.
    pub name: Name,
}

/// The bytes of a question.
///
/// # Errors
/// If it cannot be written.
pub fn question(id: u16, name: &Name, kind: RecordType) -> Result<Vec<u8>, String> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), kind));
    message.to_vec().map_err(|error| error.to_string())
}

/// Reads the answer to a question. That a name does not exist is an answer; that the server could
/// not find out is not.
///
/// # Errors
/// In words: what the server says, or why its answer is none to this question.
pub fn answer(bytes: &[u8], id: u16, name: &Name, kind: RecordType) -> Result<Message, String> {
    let message =
        Message::from_vec(bytes).map_err(|error| format!("an answer that cannot be read ({error})"))?;
    let asked = |query: &Query| query.name.eq_ignore_root(name) && query.query_type() == kind;
    let is_answer = message.metadata.id == id
        && message.metadata.message_type == MessageType::Response
        && message.queries.len() == 1
        && message.queries.iter().all(asked);
    if !is_answer {
        return Err("an answer to something else".into());
    }
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain if message.metadata.truncation => {
            Err("an answer that is not whole".into())
        }
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(message),
        code => Err(format!("the name server says: {code}")),
    }
}

/// The addresses in an answer. A recursive server puts aliases (CNAME) before what they lead to;
/// all that is there counts, and the shortest time to live of them.
pub fn addresses(message: &Message) -> Addresses {
    let addresses = message.answers.iter().filter_map(address).map(|(_, address)| address).collect();
    Addresses { addresses, ttl: ttl(message) }
}

/// The servers in an answer. The target `.` says that there is no such service (RFC 2782).
pub fn services(message: &Message) -> Services {
    let target = |record: &Record| match &record.data {
        RData::SRV(srv) if !srv.target.is_root() => {
            let (priority, weight, port) = (srv.priority, srv.weight, srv.port);
            Some(Target { priority, weight, port, name: srv.target.clone() })
        }
        _ => None,
    };
    let brought = message.additionals.iter().filter_map(|record| Some((address(record)?, record.ttl)));
    let (known, brought): (_, Vec<u32>) = brought.unzip();
    Services {
        targets: message.answers.iter().filter_map(target).collect(),
        known,
        ttl: ttl(message).into_iter().chain(brought).min(),
    }
}

fn address(record: &Record) -> Option<(Name, IpAddr)> {
    match &record.data {
        RData::A(a) => Some((record.name.clone(), a.0.into())),
        RData::AAAA(aaaa) => Some((record.name.clone(), aaaa.0.into())),
        _ => None,
    }
}

/// The shortest time to live of what was answered; for nothing, what the zone says of nothing (RFC
/// 2308 section 5).
fn ttl(message: &Message) -> Option<u32> {
    let nothing = message.authorities.iter().filter_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    message.answers.iter().map(|record| record.ttl).min().or_else(|| nothing.min())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::names::absolute as name;
    use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA, SRV};
    use proptest::prelude::*;

    fn answered(records: Vec<Record>, change: impl FnOnce(&mut Message)) -> Vec<u8> {
        let orders = name("orders.example").unwrap();
        let mut message = Message::response(7, OpCode::Query);
        message.add_query(Query::query(orders, RecordType::A));
        message.insert_answers(records);
        change(&mut message);
        message.to_vec().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Message, String> {
        answer(bytes, 7, &name("orders.example").unwrap(), RecordType::A)
    }

    fn a(owner: &str, ttl: u32, last: u8) -> Record {
        Record::from_rdata(name(owner).unwrap(), ttl, RData::A(A::new(10, 0, 0, last)))
    }

    #[test]
    fn aliases_lead_to_addresses_and_the_shortest_time_counts() {
        let alias = CNAME(name("a.example").unwrap());
        let alias = Record::from_rdata(name("orders.example").unwrap(), 20, RData::CNAME(alias));
        let bytes = answered(vec![alias, a("a.example", 60, 1), a("a.example", 60, 2)], |_| {});
        let found = addresses(&read(&bytes).unwrap());
        assert_eq!(found.addresses, [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])]);
        assert_eq!(found.ttl, Some(20));
    }

    #[test]
    fn both_families_are_addresses_and_nothing_is_known_for_as_long_as_the_zone_says() {
        let owner = || name("orders.example").unwrap();
        let six = RData::AAAA(AAAA::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
        let bytes = answered(vec![a("orders.example", 9, 1), Record::from_rdata(owner(), 9, six)], |_| {});
        let found = addresses(&read(&bytes).unwrap()).addresses;
        assert_eq!(found, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        for (ttl, minimum) in [(60, 5), (5, 60)] {
            let zone = RData::SOA(SOA::new(owner(), owner(), 1, 2, 3, 4, minimum));
            let zone = Record::from_rdata(name("example").unwrap(), ttl, zone);
            let nothing = answered(vec![], |message| message.insert_authorities(vec![zone]));
            assert_eq!(
                addresses(&read(&nothing).unwrap()),
                Addresses { ttl: Some(5), ..Addresses::default() }
            );
        }
    }

    #[test]
    fn a_name_that_does_not_exist_is_an_answer_and_a_failure_is_none() {
        let code = |code| answered(vec![], move |message| message.metadata.response_code = code);
        assert_eq!(addresses(&read(&code(ResponseCode::NXDomain)).unwrap()), Addresses::default());
        for failure in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp] {
            assert!(read(&code(failure)).unwrap_err().starts_with("the name server says: "));
        }
        let cut = answered(vec![a("orders.example", 1, 1)], |message| message.metadata.truncation = true);
        assert_eq!(read(&cut).unwrap_err(), "an answer that is not whole");
    }

    #[test]
    fn an_answer_to_something_else_is_not_taken() {
        for change in [
            (|message: &mut Message| message.metadata.id = 8) as fn(&mut Message),
            |message| message.metadata.message_type = MessageType::Query,
            |message| message.queries.clear(),
            |message| message.queries[0].name = name("other.example").unwrap(),
        ] {
            let bytes = answered(vec![a("orders.example", 1, 1)], change);
            assert_eq!(read(&bytes).unwrap_err(), "an answer to something else");
        }
        // Servers may write the name as they like.
        let loud = answered(vec![], |message| message.queries[0].name = name("ORDERS.Example").unwrap());
        assert!(read(&loud).is_ok());
    }

    #[test]
    fn a_service_is_where_its_records_say_and_a_dot_is_nowhere() {
        let srv = |priority, target: Name| {
            let data = RData::SRV(SRV::new(priority, 5, 8080, target));
            Record::from_rdata(name("orders.example").unwrap(), 30, data)
        };
        let bytes = answered(vec![srv(1, name("a.example").unwrap()), srv(0, Name::root())], |message| {
            message.insert_additionals(vec![a("a.example", 9, 1)]);
        });
        let found = services(&read(&bytes).unwrap());
        assert_eq!(found.targets.len(), 1);
        assert_eq!((found.targets[0].priority, found.targets[0].weight, found.targets[0].port), (1, 5, 8080));
        assert_eq!(found.known, [(name("a.example").unwrap(), IpAddr::from([10, 0, 0, 1]))]);
        assert_eq!(found.ttl, Some(9), "the address holds for less long than the service");
    }

    proptest! {
        #[test]
        fn no_bytes_bring_the_reader_down(
            noise in proptest::collection::vec(any::<u8>(), 0..300),
            at in 0..100_usize,
        ) {
            let _ = read(&noise);
            let mut bytes = answered(vec![a("orders.example", 1, 1), a("orders.example", 1, 2)], |_| {});
            let from = at.min(bytes.len());
            for (byte, noise) in bytes[from..].iter_mut().zip(&noise) {
                *byte ^= noise;
            }
            if let Ok(message) = read(&bytes) {
                let _ = (addresses(&message), services(&message));
            }
        }
    }
}
