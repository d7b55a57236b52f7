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
        let f = self.0 & (Self::FIN | Self::SYN | Self::RST | Self::ACK);
        f & (Self::SYN | Self::RST | Self::ACK) == 0
            || f & (Self::SYN | Self::FIN) == Self::SYN | Self::FIN
            || f & (Self::SYN | Self::RST) == Self::SYN | Self::RST
            || f & (Self::FIN | Self::RST) == Self::FIN | Self::RST
    }
}
