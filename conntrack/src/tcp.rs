//! What conntrack observes of TCP. The VNF owns the state; this only finds out when a session ends.

/// The flags byte of a TCP header (RFC 9293 section 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement field is significant.
    pub const ACK: u8 = 0x10;
    /// Urgent pointer is significant.
    pub const URG: u8 = 0x20;

    /// Whether any of `mask` is set.
    #[inline]
    pub const fn any(self, mask: u8) -> bool {
        self.0 & mask != 0
    }

    /// SYN, FIN or RST: the VNF must see it.
    #[inline]
    pub const fn is_control(self) -> bool {
        self.any(Self::SYN | Self::FIN | Self::RST)
    }

    /// Combinations no stack sends: none of SYN, ACK, RST; SYN with FIN or RST; FIN with RST; FIN without ACK.
    #[inline]
    pub const fn is_invalid(self) -> bool {
        Self::INVALID >> (self.0 & 0x1f) & 1 != 0
    }

    /// One bit for each value of the five lowest flags.
    const INVALID: u32 = {
        let mut invalid = 0;
        let mut flags = 0;
        while flags < 32 {
            let f = flags & (Self::FIN | Self::SYN | Self::RST | Self::ACK);
            if f & (Self::SYN | Self::RST | Self::ACK) == 0
                || f & (Self::SYN | Self::FIN) == Self::SYN | Self::FIN
                || f & (Self::SYN | Self::RST) == Self::SYN | Self::RST
                || f & (Self::FIN | Self::RST) == Self::FIN | Self::RST
            {
                invalid |= 1 << flags;
            }
            flags += 1;
        }
        invalid
    };
}

/// What was seen of a connection's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum TcpState {
    /// Nothing.
    #[default]
    Open = 0,
    /// A FIN in the request's own direction.
    FinForward = 1,
    /// A FIN in the reverse direction.
    FinReverse = 2,
    /// FINs both ways: over.
    Finished = 3,
    /// A RST: over.
    Reset = 4,
}

/// What a packet's flags mean for the end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Reset = 0,
    Fin = 1,
    Other = 2,
}

/// The whole of TCP observation: `NEXT[state][reverse][class]`. RFC 9293 section 3.5 for RST, 3.6 for FIN. What is over
/// stays over, as it ended first.
const NEXT: [[[TcpState; 3]; 2]; 5] = {
    use TcpState::*;
    [
        [[Reset, FinForward, Open], [Reset, FinReverse, Open]],
        [[Reset, FinForward, FinForward], [Reset, Finished, FinForward]],
        [[Reset, Finished, FinReverse], [Reset, FinReverse, FinReverse]],
        [[Finished, Finished, Finished], [Finished, Finished, Finished]],
        [[Reset, Reset, Reset], [Reset, Reset, Reset]],
    ]
};

impl TcpState {
    /// The state after a packet with `flags`; `reverse` = against the request's own direction.
    #[expect(clippy::indexing_slicing, reason = "the table has a cell for every value of the enums")]
    pub fn next(self, reverse: bool, flags: TcpFlags) -> Self {
        let class = if flags.any(TcpFlags::RST) {
            Class::Reset
        } else if flags.any(TcpFlags::FIN) {
            Class::Fin
        } else {
            Class::Other
        };
        NEXT[self as usize][usize::from(reverse)][class as usize]
    }

    /// Whether the session has ended.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Reset)
    }

    pub(crate) const fn from_bits(bits: u32) -> Self {
        match bits {
            1 => Self::FinForward,
            2 => Self::FinReverse,
            3 => Self::Finished,
            4 => Self::Reset,
            _ => Self::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_as_a_whole() {
        let mut table = String::new();
        for state in (0..5).map(TcpState::from_bits) {
            for (direction, reverse) in [("forward", false), ("reverse", true)] {
                for (class, flags) in [
                    ("rst", TcpFlags::RST),
                    ("rst+fin", TcpFlags::RST | TcpFlags::FIN),
                    ("fin", TcpFlags::FIN | TcpFlags::ACK),
                    ("syn", TcpFlags::SYN),
                    ("ack", TcpFlags::ACK),
                ] {
                    let next = state.next(reverse, TcpFlags(flags));
                    table += &format!("{state:?} {direction} {class} -> {next:?}\n");
                }
            }
        }
        assert_eq!(table, include_str!("../tests/snapshots/tcp.txt"));
    }

    #[test]
    fn invalid_combinations() {
        use TcpFlags as F;
        for valid in
            [F::SYN, F::SYN | F::ACK, F::ACK, F::ACK | F::FIN, F::RST, F::RST | F::ACK, F::ACK | F::PSH]
        {
            assert!(!TcpFlags(valid).is_invalid(), "{valid:#x}");
        }
        for invalid in [0, F::FIN, F::PSH, F::URG, F::SYN | F::FIN, F::SYN | F::RST, F::FIN | F::RST, 0x3f] {
            assert!(TcpFlags(invalid).is_invalid(), "{invalid:#x}");
        }
    }
}
