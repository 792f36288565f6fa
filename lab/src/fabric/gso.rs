//! Large frames: how many MTU segments they stand for, and what is left of them when some of those
//! are lost.
//!
//! With segmentation offload the kernel hands on one frame of up to 64 KiB with a virtio header
//! that says how to cut it. A link that loses such a frame whole is far kinder to TCP than a link
//! that loses single segments (measured: 7.6 times the throughput at 1 % loss). So the wire draws
//! loss for every segment and, when it must, hands on the runs of survivors as smaller large
//! frames: lengths, IPv4 identification and checksum, TCP sequence number and flags and the partial
//! checksum become what the kernel itself would have written.
//!
//! Handles TCP and UDP segmentation over IPv4 and IPv6, without VLAN tags or tunnels; any other
//! frame counts as one segment. Pure: bytes in, bytes out. Frames start with the 10-byte
//! `virtio_net_hdr` in the machine's byte order, as packet sockets give and take them.

/// Bytes of the virtio header before each frame.
pub const VNET_LEN: usize = 10;
/// Bytes of an Ethernet header.
pub const ETH_LEN: usize = 14;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// Where the parts of a large frame are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Super {
    ip: Ip,
    transport: Transport,
    /// Offset of the transport header in the buffer, virtio header included.
    l4: usize,
    /// Offset of the payload.
    payload: usize,
    /// Bytes in the buffer.
    len: usize,
    /// Payload bytes in each segment but the last.
    mss: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ip {
    V4,
    V6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
}

/// Offset of the IP header in the buffer.
const L3: usize = VNET_LEN + ETH_LEN;

impl Super {
    /// Recognises a large frame that [`Super::survivors`] can cut. `None` for an ordinary frame and
    /// for one of a kind that is not handled.
    pub fn parse(buffer: &[u8]) -> Option<Super> {
        let kind = *buffer.get(1)? & !GSO_ECN;
        if kind == GSO_NONE || buffer[0] & NEEDS_CSUM == 0 {
            return None;
        }
        let mss = usize::from(native16(buffer, 4)?);
        let l4 = VNET_LEN + usize::from(native16(buffer, 6)?);
        let (ip, header) = match (big16(buffer, VNET_LEN + 12)?, *buffer.get(L3)? >> 4) {
            (0x0800, 4) => (Ip::V4, usize::from(buffer[L3] & 0x0f) * 4),
            (0x86dd, 6) => (Ip::V6, 40),
            _ => return None,
        };
        let (transport, header_len) = match (kind, ip) {
            (GSO_TCPV4, Ip::V4) | (GSO_TCPV6, Ip::V6) => {
                (Transport::Tcp, usize::from(*buffer.get(l4 + 12)? >> 4) * 4)
            }
            (GSO_UDP_L4, _) => (Transport::Udp, 8),
            _ => return None,
        };
        let payload = l4 + header_len;
        let minimum = if transport == Transport::Tcp { 20 } else { 8 };
        let whole = mss > 0 && l4 >= L3 + header && header_len >= minimum && payload < buffer.len();
        // A length that does not fit its field (jumbograms) would be cut wrongly.
        let length = match ip {
            Ip::V4 => usize::from(big16(buffer, L3 + 2)?),
            Ip::V6 => usize::from(big16(buffer, L3 + 4)?) + 40,
        };
        (whole && length == buffer.len() - L3).then_some(Super {
            ip,
            transport,
            l4,
            payload,
            len: buffer.len(),
            mss,
        })
    }

    /// How many segments the frame stands for: 1 or more.
    pub fn segments(&self) -> usize {
        (self.len - self.payload).div_ceil(self.mss)
    }

    /// The frames that carry what is left of `buffer` (the one that was parsed) without the
    /// segments in `lost`, which must be in rising order.
    pub fn survivors(&self, buffer: &[u8], lost: &[usize]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut start = 0;
        for end in lost.iter().copied().chain([self.segments()]) {
            if end > start {
                frames.push(self.run(buffer, start, end));
            }
            start = end + 1;
        }
        frames
    }

    /// The segments from `start` up to but not including `end` as one frame.
    fn run(&self, buffer: &[u8], start: usize, end: usize) -> Vec<u8> {
        let from = self.payload + start * self.mss;
        let to = (self.payload + end * self.mss).min(self.len);
        let (first, last) = (start == 0, end == self.segments());
        let mut frame = Vec::with_capacity(self.payload + to - from);
        frame.extend_from_slice(&buffer[..self.payload]);
        frame.extend_from_slice(&buffer[from..to]);
        if end - start == 1 {
            frame[1] = GSO_NONE;
            frame[4..6].fill(0);
        } else if !first {
            // Only the first segment of a frame tells that the window was reduced.
            frame[1] &= !GSO_ECN;
        }
        self.patch_ip(&mut frame, start);
        self.patch_transport(&mut frame, start, first, last);
        frame
    }

    fn patch_ip(&self, frame: &mut [u8], start: usize) {
        let length = frame.len() - L3;
        match self.ip {
            Ip::V4 => {
                let id = u16::from_be_bytes([frame[L3 + 4], frame[L3 + 5]]);
                put16(frame, L3 + 2, length as u16);
                put16(frame, L3 + 4, id.wrapping_add(start as u16));
                put16(frame, L3 + 10, 0);
                let header = usize::from(frame[L3] & 0x0f) * 4;
                let checksum = !fold(sum(&frame[L3..L3 + header]));
                put16(frame, L3 + 10, checksum);
            }
            Ip::V6 => put16(frame, L3 + 4, (length - 40) as u16),
        }
    }

    fn patch_transport(&self, frame: &mut [u8], start: usize, first: bool, last: bool) {
        let length = frame.len() - self.l4;
        let checksum_at = match self.transport {
            Transport::Tcp => {
                let sequence =
                    u32::from_be_bytes(frame[self.l4 + 4..self.l4 + 8].try_into().expect("four bytes"));
                let sequence = sequence.wrapping_add((start * self.mss) as u32);
                frame[self.l4 + 4..self.l4 + 8].copy_from_slice(&sequence.to_be_bytes());
                let flags = &mut frame[self.l4 + 13];
                if !last {
                    *flags &= !(TCP_FIN | TCP_PSH);
                }
                if !first {
                    *flags &= !TCP_CWR;
                }
                self.l4 + 16
            }
            Transport::Udp => {
                put16(frame, self.l4 + 4, length as u16);
                self.l4 + 6
            }
        };
        // The field holds the sum of the pseudo-header, whose only changed part is the length.
        let pseudo = u16::from_be_bytes([frame[checksum_at], frame[checksum_at + 1]]);
        let before = (self.len - self.l4) as u16;
        put16(frame, checksum_at, fold(u64::from(pseudo) + u64::from(!before) + length as u64));
    }
}

/// Destination hardware address of a frame with its virtio header; `None` if it is too short to be
/// one.
pub fn destination(buffer: &[u8]) -> Option<[u8; 6]> {
    if buffer.len() < L3 {
        return None;
    }
    buffer[VNET_LEN..VNET_LEN + 6].try_into().ok()
}

fn native16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn big16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Sum of 16-bit words, as the Internet checksum adds them.
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
#[path = "gso_tests.rs"]
mod tests;
