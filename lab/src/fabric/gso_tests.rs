//! The frames that survive are compared with segments cut by hand, as RFC 793, 791 and 8200 would
//! have them.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;

/// A large frame in parts.
#[derive(Debug, Clone)]
struct Made {
    v6: bool,
    udp: bool,
    /// TCP options.
    options: Vec<u8>,
    flags: u8,
    sequence: u32,
    id: u16,
    mss: usize,
    payload: Vec<u8>,
}

fn made() -> impl Strategy<Value = Made> {
    let head = (any::<bool>(), any::<bool>(), 0..=10_usize, any::<u8>(), any::<u32>(), any::<u16>());
    (head, 1..1449_usize, vec(any::<u8>(), 1..30_000)).prop_map(|(head, mss, payload)| {
        let (v6, udp, words, flags, sequence, id) = head;
        Made { v6, udp, options: vec![1; words * 4], flags, sequence, id, mss, payload }
    })
}

impl Made {
    /// One frame from these parts that carries `payload`. `complete`: with a full checksum, else
    /// with the partial one.
    fn frame(&self, payload: &[u8], id: u16, sequence: u32, flags: u8, gso: bool, complete: bool) -> Vec<u8> {
        let l4 = self.l4(payload, sequence, flags, complete);
        let l3 = if self.v6 { 40 } else { 20 };
        let kind = match (gso, self.udp, self.v6) {
            (false, ..) => GSO_NONE,
            (true, true, _) => GSO_UDP_L4,
            (true, false, true) => GSO_TCPV6,
            (true, false, false) => GSO_TCPV4,
        };
        let mut frame = vec![if complete { 0 } else { NEEDS_CSUM }, kind];
        let fields = [
            (ETH_LEN + l3 + l4.len() - payload.len()) as u16,
            if gso { self.mss as u16 } else { 0 },
            (ETH_LEN + l3) as u16,
            if self.udp { 6 } else { 16 },
        ];
        fields.iter().for_each(|field| frame.extend(field.to_ne_bytes()));
        frame.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        if self.v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((l4.len() as u16).to_be_bytes());
            frame.extend([self.protocol(), 64]);
            frame.extend(self.addresses());
        } else {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((20 + l4.len() as u16).to_be_bytes());
            frame.extend(id.to_be_bytes());
            frame.extend([0x40, 0, 64, self.protocol(), 0, 0]);
            frame.extend(self.addresses());
            let checksum = !fold(sum(&frame[L3..L3 + 20]));
            put16(&mut frame, L3 + 10, checksum);
        }
        frame.extend(l4);
        frame
    }

    fn l4(&self, payload: &[u8], sequence: u32, flags: u8, complete: bool) -> Vec<u8> {
        let mut l4 = vec![0x1f, 0x90, 0xc0, 0x01];
        let checksum_at = if self.udp {
            l4.extend(((8 + payload.len()) as u16).to_be_bytes());
            l4.extend([0, 0]);
            6
        } else {
            l4.extend(sequence.to_be_bytes());
            l4.extend([0, 0, 0, 9, ((5 + self.options.len() / 4) as u8) << 4, flags, 1, 0, 0, 0, 0, 0]);
            l4.extend(&self.options);
            16
        };
        l4.extend(payload);
        let pseudo = sum(&self.addresses()) + u64::from(self.protocol()) + l4.len() as u64;
        let checksum = if complete { !fold(pseudo + sum(&l4)) } else { fold(pseudo) };
        put16(&mut l4, checksum_at, checksum);
        l4
    }

    fn protocol(&self) -> u8 {
        if self.udp { 17 } else { 6 }
    }

    fn addresses(&self) -> Vec<u8> {
        let one = if self.v6 {
            vec![0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 1]
        } else {
            vec![10, 77, 3, 1]
        };
        let mut two = one.clone();
        *two.last_mut().expect("not empty") = 2;
        [one, two].concat()
    }

    fn whole(&self) -> Vec<u8> {
        self.frame(&self.payload, self.id, self.sequence, self.flags, true, false)
    }

    /// What a network card would send for the segment `index`: the truth that runs are compared
    /// with.
    fn by_hand(&self, index: usize) -> Vec<u8> {
        let from = index * self.mss;
        let to = (from + self.mss).min(self.payload.len());
        let mut flags = self.flags;
        if to < self.payload.len() {
            flags &= !(TCP_FIN | TCP_PSH);
        }
        if index > 0 {
            flags &= !TCP_CWR;
        }
        let (id, sequence) = (self.id.wrapping_add(index as u16), self.sequence.wrapping_add(from as u32));
        self.frame(&self.payload[from..to], id, sequence, flags, false, true)
    }
}

/// Cuts one surviving frame into wire frames the way the kernel does: the partial checksum is
/// adjusted to the length of the segment and then completed over the bytes that `csum_start` names.
fn wire_frames(run: &[u8]) -> Vec<Vec<u8>> {
    let singles = match Super::parse(run) {
        None => vec![run.to_vec()],
        Some(large) => (0..large.segments()).map(|index| large.run(run, index, index + 1)).collect(),
    };
    singles.into_iter().map(complete).collect()
}

/// Completes the checksum as the receiving kernel would, and clears what the wire does not carry:
/// the virtio header.
fn complete(mut frame: Vec<u8>) -> Vec<u8> {
    let start = VNET_LEN + usize::from(native16(&frame, 6).expect("a header"));
    let at = start + usize::from(native16(&frame, 8).expect("a header"));
    assert_eq!((frame[0], frame[1], native16(&frame, 4)), (NEEDS_CSUM, GSO_NONE, Some(0)));
    let checksum = !fold(sum(&frame[start..]));
    put16(&mut frame, at, checksum);
    frame[VNET_LEN..].to_vec()
}

/// All zeros and all ones are the same number to the Internet checksum, so compare frames up to
/// that.
fn same(one: &[u8], other: &[u8], checksum_at: usize) -> bool {
    let normal = |frame: &[u8]| {
        let mut frame = frame.to_vec();
        if frame[checksum_at..checksum_at + 2] == [0xff, 0xff] {
            frame[checksum_at..checksum_at + 2].fill(0);
        }
        frame
    };
    normal(one) == normal(other)
}

fn with_losses() -> impl Strategy<Value = (Made, Vec<usize>)> {
    made().prop_flat_map(|made| {
        let segments = made.payload.len().div_ceil(made.mss);
        let lost = btree_set(0..segments, 0..=segments.min(40));
        (Just(made), lost.prop_map(|lost| lost.into_iter().collect()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn what_survives_is_byte_for_byte_what_was_sent_without_the_lost_segments((made, lost) in with_losses()) {
        let whole = made.whole();
        let large = Super::parse(&whole).expect("a large frame");
        prop_assert_eq!(large.segments(), made.payload.len().div_ceil(made.mss));
        let frames = large.survivors(&whole, &lost);
        let arrived = frames.iter().flat_map(|run| wire_frames(run)).collect::<Vec<_>>();
        let kept = (0..large.segments()).filter(|index| !lost.contains(index)).collect::<Vec<_>>();
        prop_assert_eq!(arrived.len(), kept.len());
        let at = large.l4 - VNET_LEN + if made.udp { 6 } else { 16 };
        for (arrived, index) in arrived.iter().zip(kept) {
            let truth = &made.by_hand(index)[VNET_LEN..];
            prop_assert!(same(arrived, truth, at), "segment {}:\n{:x?}\n{:x?}", index, arrived, truth);
        }
    }

    #[test]
    fn survivors_are_as_few_frames_as_there_are_gaps((made, lost) in with_losses()) {
        let whole = made.whole();
        let large = Super::parse(&whole).expect("a large frame");
        let gone = |index: usize| lost.contains(&index);
        let runs = (0..large.segments()).filter(|&i| !gone(i) && (i == 0 || gone(i - 1))).count();
        prop_assert_eq!(large.survivors(&whole, &lost).len(), runs);
    }

    #[test]
    fn a_frame_without_losses_is_left_as_it_is(made in made()) {
        let whole = made.whole();
        let frames = Super::parse(&whole).expect("a large frame").survivors(&whole, &[]);
        let mut expected = whole;
        if made.payload.len() <= made.mss {
            // One segment needs no cutting, and says so.
            expected[1] = GSO_NONE;
            expected[4..6].fill(0);
        }
        prop_assert_eq!(frames.len(), 1);
        prop_assert!(same(&frames[0], &expected, VNET_LEN + usize::from(native16(&expected, 6).expect("a header"))
            + usize::from(native16(&expected, 8).expect("a header"))));
    }

    #[test]
    fn no_bytes_at_all_make_the_parser_panic(bytes in vec(any::<u8>(), 0..200)) {
        if let Some(large) = Super::parse(&bytes) {
            large.survivors(&bytes, &[0]);
        }
    }

    #[test]
    fn a_damaged_large_frame_does_not_panic(made in made(), at in 0..80_usize, to: u8, keep in 0..200_usize) {
        let mut frame = made.whole();
        let at = at.min(frame.len() - 1);
        frame[at] = to;
        if let Some(large) = Super::parse(&frame) {
            large.survivors(&frame, &[0]);
        }
        frame.truncate(keep);
        prop_assert!(Super::parse(&frame).is_none_or(|large| large.segments() > 0));
    }
}

#[test]
fn an_ordinary_frame_and_an_unknown_kind_are_one_piece() {
    let made = Made {
        v6: false,
        udp: false,
        options: vec![],
        flags: TCP_PSH,
        sequence: 1,
        id: 1,
        mss: 100,
        payload: vec![7; 250],
    };
    assert_eq!(Super::parse(&made.whole()).map(|large| large.segments()), Some(3));
    assert_eq!(Super::parse(&made.by_hand(0)), None);
    let mut fragments = made.whole();
    fragments[1] = 3;
    assert_eq!(Super::parse(&fragments), None);
    assert_eq!(Super::parse(&[]), None);
    assert_eq!(destination(&made.whole()), Some([2, 0, 0, 0, 0, 1]));
    assert_eq!(destination(&[0; 23]), None);
}
