//! ECN from the outer header into the inner one at decapsulation (RFC 6040 section 4.2, figure 4). The inner DSCP stays.

use crate::wire::ethernet::{self, ethertype};
use crate::wire::{Ethernet, Ipv4, Ipv6, view, view_mut};
use conntrack::checksum::ChecksumDelta;
use zerocopy::byteorder::network_endian::U16;

/// Nothing to be said: the inner packet's bits stay.
pub const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// The ECN bits to forward; None: drop it.
#[inline]
pub const fn combine(inner: u8, outer: u8) -> Option<u8> {
    match (inner & 3, outer & 3) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (CE, _) | (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

/// Brings the outer ECN bits into `frame`; false if it must be dropped. The IPv4 header checksum follows incrementally.
#[inline]
pub fn decapsulate(frame: &mut [u8], outer: u8) -> bool {
    if outer & 3 == NOT_ECT {
        return true;
    }
    let ethertype = view::<Ethernet>(frame).map(|ethernet| ethernet.ethertype.get());
    match ethertype {
        Some(ethertype::IPV4) => {
            let Some(ip) = view_mut::<Ipv4>(frame, ethernet::LEN) else { return true };
            let Some(ecn) = combine(ip.tos, outer) else { return false };
            let tos = ip.tos & !3 | ecn;
            if tos != ip.tos && ip.version() == 4 {
                let delta = ChecksumDelta::replace(&[ip.version_ihl, ip.tos], &[ip.version_ihl, tos]);
                ip.tos = tos;
                ip.checksum = U16::from_bytes(delta.apply(ip.checksum.to_bytes()));
            }
            true
        }
        Some(ethertype::IPV6) => {
            let Some(ip) = view_mut::<Ipv6>(frame, ethernet::LEN) else { return true };
            let Some(ecn) = combine(ip.traffic_class(), outer) else { return false };
            let word = ip.version_class_flow.get();
            if ip.version() == 6 {
                ip.version_class_flow.set(word & !(3 << 20) | u32::from(ecn) << 20);
            }
            true
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc6040_figure_4() {
        let table = [
            [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None],
            [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)],
            [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)],
            [Some(CE), Some(CE), Some(CE), Some(CE)],
        ];
        for (inner, row) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(table) {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                assert_eq!(combine(inner, outer), expected, "inner {inner}, outer {outer}");
            }
        }
    }
}
