//! The same links as a script for `tc -batch`: the kernel's own netem, where it exists.
//!
//! Each outer veth end gets an HTB root whose default class does nothing, and one class with a
//! netem leaf for each instance whose packets to this receiver any base link or timeline entry ever
//! touches; u32 filters choose it by source address, IPv4 and IPv6. A change is `qdisc change` on
//! the leaf, so nothing in flight is lost.
//!
//! Where netem differs from `fabric::decide`, and what the script does about it:
//!
//! - netem drops a large frame whole, which is far too kind to TCP; [`without_large_frames`] keeps
//!   senders from making them;
//! - jitter reorders packets unless a rate is set, so a leaf with jitter has a rate that is never
//!   reached;
//! - its queue holds 1000 packets unless told otherwise, so a limit is always given;
//! - it takes no seed here, so its luck is its own.
//!
//! The text is tested everywhere. What netem makes of it can be tested only where the kernel has
//! `sch_netem`.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::LinkProfile;

/// Packets that a leaf can hold: a second of 100 000 small packets, so that the limit is never part
/// of the model.
const LIMIT: u32 = 100_000;
/// A rate that no veth pair reaches, for what must have a rate.
const UNREACHED: &str = "100gbit";
/// The class of all packets that no profile touches.
const UNTOUCHED: usize = 1;

/// An instance whose packets to the receiver may be impaired.
#[derive(Debug, Clone, PartialEq)]
pub struct Sender {
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its address.
    pub v6: Ipv6Addr,
    /// The profile in force from the start.
    pub profile: LinkProfile,
}

/// The script that prepares `dev`, the outer end of a receiver's veth pair. At most 65 000 senders:
/// positions become class numbers of 16 bits.
pub fn setup(dev: &str, senders: &[Sender]) -> String {
    let mut script = format!(
        "qdisc replace dev {dev} root handle 1: htb default {UNTOUCHED}\n\
         class add dev {dev} parent 1: classid 1:{UNTOUCHED:x} htb rate {UNREACHED} quantum 60000\n"
    );
    for (position, sender) in senders.iter().enumerate() {
        let (minor, leaf) = (minor(position), leaf(&sender.profile));
        let Sender { v4, v6, .. } = sender;
        write!(
            script,
            "class add dev {dev} parent 1: classid 1:{minor:x} htb rate {UNREACHED} quantum 60000\n\
             qdisc add dev {dev} parent 1:{minor:x} handle {minor:x}: {leaf}\n\
             filter add dev {dev} parent 1: protocol ip prio 1 u32 match ip src {v4}/32 flowid 1:{minor:x}\n\
             filter add dev {dev} parent 1: protocol ipv6 prio 2 u32 match ip6 src {v6}/128 flowid 1:{minor:x}\n"
        )
        .expect("writing to a string does not fail");
    }
    script
}

/// The script that gives the packets of the sender at `position` (in [`setup`]'s list) a new
/// profile.
pub fn change(dev: &str, position: usize, profile: &LinkProfile) -> String {
    let minor = minor(position);
    format!("qdisc change dev {dev} parent 1:{minor:x} handle {minor:x}: {}\n", leaf(profile))
}

/// The script for `ip -batch` that keeps the inner end `dev` of an instance's veth pair from
/// sending large frames.
pub fn without_large_frames(dev: &str) -> String {
    format!("link set dev {dev} gso_max_segs 1\n")
}

/// The class and leaf of a sender; 0 and 1 are taken by the root and the untouched.
fn minor(position: usize) -> usize {
    position + UNTOUCHED + 1
}

fn leaf(profile: &LinkProfile) -> String {
    // Every part every time: a change leaves alone what it does not name.
    let rate = match profile.bandwidth {
        0 if profile.jitter.is_zero() => "0bit".to_owned(),
        0 => UNREACHED.to_owned(),
        bits => format!("{bits}bit"),
    };
    format!(
        "netem delay {} {} loss {}% limit {LIMIT} rate {rate}",
        microseconds(profile.delay),
        microseconds(profile.jitter),
        (profile.loss.clamp(0.0, 1.0) * 1e8).round() / 1e6,
    )
}

fn microseconds(duration: Duration) -> String {
    format!("{}us", duration.as_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(last: u8, profile: LinkProfile) -> Sender {
        let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(last));
        Sender { v4: Ipv4Addr::new(10, 77, 0, last), v6, profile }
    }

    #[test]
    fn the_script_has_a_class_and_two_filters_for_each_sender() {
        let slow = LinkProfile {
            delay: Duration::from_millis(20),
            jitter: Duration::from_micros(1500),
            loss: 0.015,
            bandwidth: 0,
        };
        let script = setup("v-web", &[sender(2, slow), sender(3, LinkProfile::default())]);
        insta::assert_snapshot!(script, @r"
        qdisc replace dev v-web root handle 1: htb default 1
        class add dev v-web parent 1: classid 1:1 htb rate 100gbit quantum 60000
        class add dev v-web parent 1: classid 1:2 htb rate 100gbit quantum 60000
        qdisc add dev v-web parent 1:2 handle 2: netem delay 20000us 1500us loss 1.5% limit 100000 rate 100gbit
        filter add dev v-web parent 1: protocol ip prio 1 u32 match ip src 10.77.0.2/32 flowid 1:2
        filter add dev v-web parent 1: protocol ipv6 prio 2 u32 match ip6 src fd77::2/128 flowid 1:2
        class add dev v-web parent 1: classid 1:3 htb rate 100gbit quantum 60000
        qdisc add dev v-web parent 1:3 handle 3: netem delay 0us 0us loss 0% limit 100000 rate 0bit
        filter add dev v-web parent 1: protocol ip prio 1 u32 match ip src 10.77.0.3/32 flowid 1:3
        filter add dev v-web parent 1: protocol ipv6 prio 2 u32 match ip6 src fd77::3/128 flowid 1:3
        ");
    }

    #[test]
    fn class_numbers_are_hexadecimal() {
        let senders = (0..12).map(|n| sender(n, LinkProfile::default())).collect::<Vec<_>>();
        let script = setup("v", &senders);
        assert!(script.contains("classid 1:a "));
        assert!(!script.contains("classid 1:10 "));
    }

    #[test]
    fn a_change_names_every_part_so_that_nothing_of_the_old_profile_stays() {
        let cut = "qdisc change dev v-web parent 1:3 handle 3: netem delay 0us 0us loss 100% limit 100000 rate 0bit\n";
        let healed = "qdisc change dev v-web parent 1:3 handle 3: netem delay 0us 0us loss 0% limit 100000 rate 0bit\n";
        assert_eq!(change("v-web", 1, &LinkProfile::CUT), cut);
        assert_eq!(change("v-web", 1, &LinkProfile::default()), healed);
    }
}
