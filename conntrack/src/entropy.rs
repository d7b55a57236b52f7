//! The outer UDP source port of tunnel packets (RFC 7348 section 5): the same for all packets of a flow, so that they stay in
//! order, and spread over flows, so that the underlay balances them. Always from the dynamic range, so never 0.

/// The dynamic range (RFC 6335 section 6) begins here, and has 2^14 ports.
const FIRST: u16 = 49_152;

/// For an IPv4 flow as it is inside the tunnel; `ports` are those of TCP and UDP, and 0 of what has none.
#[inline]
pub fn outer_port_v4(source: [u8; 4], destination: [u8; 4], ports: [u8; 4], protocol: u8) -> u16 {
    let addresses = u64::from(u32::from_ne_bytes(source)) << 32 | u64::from(u32::from_ne_bytes(destination));
    port(addresses ^ mix(u64::from(u32::from_ne_bytes(ports)) << 8 | u64::from(protocol)))
}

/// For an IPv6 flow; `next_header` is that of the fixed header.
#[inline]
pub fn outer_port_v6(source: [u8; 16], destination: [u8; 16], ports: [u8; 4], next_header: u8) -> u16 {
    let addresses = u128::from_ne_bytes(source) ^ u128::from_ne_bytes(destination).rotate_left(32);
    let ports = u64::from(u32::from_ne_bytes(ports)) << 8 | u64::from(next_header);
    port((addresses >> 64) as u64 ^ mix(addresses as u64) ^ mix(ports))
}

/// For frames without IP.
#[inline]
pub fn outer_port_l2(source: [u8; 6], destination: [u8; 6]) -> u16 {
    let [a, b, c, d, e, f] = source;
    let [g, h, i, j, k, l] = destination;
    port(u64::from_ne_bytes([a, b, c, d, e, f, g, h]) ^ u64::from_ne_bytes([i, j, k, l, 0, 0, 0, 0]))
}

#[inline]
fn port(sum: u64) -> u16 {
    FIRST | (mix(sum) >> 48) as u16
}

#[inline]
fn mix(x: u64) -> u64 {
    let x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ x >> 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use bolero::check;

    #[test]
    fn ports_are_dynamic_and_spread() {
        check!().with_type::<([u8; 16], [u8; 16], [u8; 4], u8)>().for_each(
            |&(source, destination, ports, next)| {
                let first = |bytes: [u8; 16]| [bytes[0], bytes[1], bytes[2], bytes[3]];
                assert!(outer_port_v6(source, destination, ports, next) >= FIRST);
                assert!(outer_port_v4(first(source), first(destination), ports, next) >= FIRST);
            },
        );
        let mut seen = [false; 1 << 14];
        for n in 0..1u16 << 14 {
            let [a, b] = n.to_be_bytes();
            seen[usize::from(outer_port_v4([10, 0, 0, 1], [10, 0, 0, 2], [a, b, 1, 187], 6) - FIRST)] = true;
        }
        // As many as chance would hit: 1 - 1/e of them.
        let hit = seen.iter().filter(|&&hit| hit).count();
        assert!(hit > 9500, "{hit}");
    }
}
