//! The Internet checksum over pieces of any length (RFC 1071), as packets in several segments need it.

/// A running sum.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    sum: u64,
    odd: bool,
}

impl Sum {
    /// Of a pseudo header over IPv4 (RFC 768) or IPv6 (RFC 8200 section 8.1): the addresses are 4 or 16 bytes.
    pub fn pseudo(source: &[u8], destination: &[u8], protocol: u8, len: u32) -> Self {
        let mut sum = Self::default();
        sum.add(source);
        sum.add(destination);
        sum.add(&len.to_be_bytes());
        sum.add(&[0, protocol]);
        sum
    }

    /// Goes on with `bytes`.
    pub fn add(&mut self, mut bytes: &[u8]) {
        if self.odd
            && let [first, rest @ ..] = bytes
        {
            self.sum += u64::from(*first);
            self.odd = false;
            bytes = rest;
        }
        let mut words = bytes.chunks_exact(2);
        for word in &mut words {
            if let [high, low] = *word {
                self.sum += u64::from(u16::from_be_bytes([high, low]));
            }
        }
        if let [last] = *words.remainder() {
            self.sum += u64::from(last) << 8;
            self.odd = true;
        }
    }

    /// The checksum: what belongs in a zeroed field; 0 over data whose checksum is right.
    pub fn checksum(self) -> u16 {
        let mut sum = self.sum;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_matter() {
        bolero::check!().with_type::<(Vec<u8>, u8, u8)>().for_each(|(bytes, a, b)| {
            let whole = conntrack::checksum::checksum(&[bytes]);
            let a = usize::from(*a).min(bytes.len());
            let b = (a + usize::from(*b)).min(bytes.len());
            let mut sum = Sum::default();
            sum.add(&bytes[..a]);
            sum.add(&bytes[a..b]);
            sum.add(&bytes[b..]);
            assert_eq!(sum.checksum(), whole);
        });
    }
}
