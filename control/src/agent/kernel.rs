//! The sockets to the kernel's connection table, and the settings it must have.

use super::entry::{Entry, TcpState, protocol};
use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkMessage};
use netlink_packet_netfilter::NetfilterMessage;
use netlink_packet_netfilter::conntrack::Status;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, send,
    setsockopt, socket, sockopt,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// NFNLGRP_CONNTRACK_NEW, _UPDATE and _DESTROY as bits of a bind.
const EVENT_GROUPS: u32 = 0b111;
/// Message types: NFNL_SUBSYS_CTNETLINK with IPCTNL_MSG_CT_NEW, _DELETE.
const CT_NEW: u16 = 1 << 8;
const CT_DELETE: u16 = 1 << 8 | 2;
const RECEIVE_BYTES: usize = 64 * 1024;
/// Requests per send: the answers must fit the socket's receive buffer, since they all come before the send returns.
const REQUESTS_PER_SEND: usize = 64;
const REQUEST_BUFFER: usize = 1 << 20;

/// What a socket of ours tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KernelEvent {
    /// New, or changed; partial, as events are.
    Changed(Entry),
    /// Gone.
    Destroyed(Entry),
    /// The kernel could not queue events for us: some are lost.
    Overrun,
    /// So many messages could not be read.
    Undecodable(u64),
}

/// A netlink socket to ctnetlink.
pub struct ConntrackSocket {
    fd: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
    sequence: u32,
    /// Changes made through this socket are not told.
    ignored: Option<u32>,
}

impl ConntrackSocket {
    /// One that hears of every change but those made through `requests`, with a receive buffer of `bytes`.
    pub fn events(bytes: usize, requests: &Self) -> io::Result<Self> {
        let own = getsockname::<NetlinkAddr>(requests.fd.as_raw_fd())?.pid();
        Ok(Self { ignored: Some(own), ..Self::open(EVENT_GROUPS, bytes)? })
    }

    /// One for requests.
    pub fn requests() -> io::Result<Self> {
        Self::open(0, REQUEST_BUFFER)
    }

    fn open(groups: u32, bytes: usize) -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        // Beyond net.core.rmem_max only with CAP_NET_ADMIN in the initial user namespace.
        if setsockopt(&fd, sockopt::RcvBufForce, &bytes).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &bytes)?;
        }
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        #[expect(deprecated, reason = "an OwnedFd is one descriptor for life; what replaces this is unsafe")]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd, buffer: vec![0; RECEIVE_BYTES], sequence: 0, ignored: None })
    }

    /// Waits for events, then takes those that are there, `limit` or a few more.
    pub async fn next_events(&mut self, out: &mut Vec<KernelEvent>, limit: usize) -> io::Result<()> {
        let mut received = Some(self.receive().await);
        while let Some(result) = received {
            match result {
                Ok(length) => self.decode_events(length, out),
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    out.push(KernelEvent::Overrun)
                }
                Err(error) => return Err(error),
            }
            received = if out.len() < limit { self.receive_more() } else { None };
        }
        Ok(())
    }

    fn decode_events(&self, length: usize, out: &mut Vec<KernelEvent>) {
        let mut undecodable = 0;
        let broken = for_each(&self.buffer[..length], |message| {
            if self.ignored == Some(message.port_number()) {
                return;
            }
            let event = match message.message_type() {
                CT_NEW => Entry::parse(message.payload()).map(KernelEvent::Changed),
                CT_DELETE => Entry::parse(message.payload()).map(KernelEvent::Destroyed),
                _ => return,
            };
            match event {
                Some(event) => out.push(event),
                None => undecodable += 1,
            }
        });
        if broken + undecodable > 0 {
            out.push(KernelEvent::Undecodable(broken + undecodable));
        }
    }

    /// Asks for the whole table, which [`Self::dump_part`] then reads.
    pub async fn start_dump(&mut self) -> io::Result<()> {
        let mut request = Entry::dump();
        self.send(std::slice::from_mut(&mut request)).await.map(drop)
    }

    /// Reads the next part of the table into `out`; whether there is more. Entries may be missing or twice where it changed
    /// meanwhile; events tell.
    pub async fn dump_part(&mut self, out: &mut Vec<Entry>) -> io::Result<bool> {
        let received = self.receive().await?;
        let mut result = Ok(true);
        for_each(&self.buffer[..received], |message| match message.message_type() {
            CT_NEW => out.extend(Entry::parse(message.payload())),
            NLMSG_DONE => result = Ok(false),
            NLMSG_ERROR => result = error_of(message.payload()).map(|()| false),
            _ => {}
        });
        Ok(result?)
    }

    /// Sends requests and collects each one's result, and the entry where the request asked for it.
    pub(super) async fn execute(
        &mut self,
        mut requests: Vec<NetlinkMessage<NetfilterMessage>>,
    ) -> io::Result<Vec<Result<Option<Entry>, Errno>>> {
        let mut results = Vec::with_capacity(requests.len());
        for chunk in requests.chunks_mut(REQUESTS_PER_SEND) {
            let first = self.send(chunk).await?;
            let mut answers: Vec<Option<Result<Option<Entry>, Errno>>> = vec![None; chunk.len()];
            let mut entries: Vec<Option<Entry>> = vec![None; chunk.len()];
            let mut missing = chunk.len();
            while missing > 0 {
                let received = self.receive().await?;
                for_each(&self.buffer[..received], |message| {
                    let index = message.sequence_number().wrapping_sub(first) as usize;
                    match message.message_type() {
                        NLMSG_ERROR => {
                            let Some(answer) = answers.get_mut(index) else { return };
                            if answer.is_none() {
                                missing -= 1;
                            }
                            *answer = Some(error_of(message.payload()).map(|()| entries[index].take()));
                        }
                        CT_NEW => {
                            if let Some(slot) = entries.get_mut(index) {
                                *slot = Entry::parse(message.payload());
                            }
                        }
                        _ => {}
                    }
                });
            }
            results.extend(answers.into_iter().map(|answer| answer.unwrap_or(Err(Errno::EIO))));
        }
        Ok(results)
    }

    /// Numbers and sends `messages`; the first one's number.
    async fn send(&mut self, messages: &mut [NetlinkMessage<NetfilterMessage>]) -> io::Result<u32> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.header.sequence_number = self.sequence;
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..start + message.buffer_len()]);
        }
        loop {
            let mut guard = self.fd.writable().await?;
            let sent = guard.try_io(|fd| Ok(send(fd.as_raw_fd(), &bytes, MsgFlags::empty())?));
            match sent {
                Ok(result) => return result.map(|_| first),
                Err(_would_block) => continue,
            }
        }
    }

    /// What is there already; `None` when nothing is.
    fn receive_more(&mut self) -> Option<io::Result<usize>> {
        match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
            Err(Errno::EAGAIN) => None,
            result => Some(result.map_err(io::Error::from)),
        }
    }

    async fn receive(&mut self) -> io::Result<usize> {
        loop {
            let mut guard = self.fd.readable().await?;
            match guard.try_io(|fd| Ok(recv(fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?)) {
                Ok(result) => return result,
                Err(_would_block) => continue,
            }
        }
    }
}

/// Calls `visit` for each message in a datagram; the number that are no messages.
fn for_each(mut bytes: &[u8], mut visit: impl FnMut(NetlinkBuffer<&[u8]>)) -> u64 {
    while !bytes.is_empty() {
        let Ok(header) = NetlinkBuffer::new_checked(bytes) else { return 1 };
        let length = header.length() as usize;
        visit(header);
        bytes = &bytes[length.next_multiple_of(4).clamp(1, bytes.len())..];
    }
    0
}

/// What a message of type NLMSG_ERROR says: struct nlmsgerr begins with the negative error, or 0.
fn error_of(payload: &[u8]) -> Result<(), Errno> {
    match payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(0) => Ok(()),
        Some(error) => Err(Errno::from_raw(error.saturating_neg())),
        None => Err(Errno::EBADMSG),
    }
}

/// The kernel's own timeouts, seconds (net.netfilter.nf_conntrack_*).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelTimeouts {
    tcp_established: u32,
    tcp_fin_wait: u32,
    tcp_close_wait: u32,
    tcp_last_ack: u32,
    tcp_time_wait: u32,
    tcp_close: u32,
    udp: u32,
    udp_stream: u32,
    icmp: u32,
    icmpv6: u32,
    generic: u32,
}

impl KernelTimeouts {
    /// Reads this namespace's settings; the kernel's defaults where one cannot be read.
    pub fn read() -> Self {
        let seconds = |name: &str, default| setting(name).unwrap_or(default);
        Self {
            tcp_established: seconds("tcp_timeout_established", 432_000),
            tcp_fin_wait: seconds("tcp_timeout_fin_wait", 120),
            tcp_close_wait: seconds("tcp_timeout_close_wait", 60),
            tcp_last_ack: seconds("tcp_timeout_last_ack", 30),
            tcp_time_wait: seconds("tcp_timeout_time_wait", 120),
            tcp_close: seconds("tcp_timeout_close", 10),
            udp: seconds("udp_timeout", 30),
            udp_stream: seconds("udp_timeout_stream", 120),
            icmp: seconds("icmp_timeout", 30),
            icmpv6: seconds("icmpv6_timeout", 30),
            generic: seconds("generic_timeout", 600),
        }
    }

    /// What the kernel gives a TCP entry in `state`.
    pub fn of_state(&self, state: TcpState) -> u32 {
        match state {
            TcpState::Established | TcpState::Opening => self.tcp_established,
            TcpState::FinWait => self.tcp_fin_wait,
            TcpState::CloseWait => self.tcp_close_wait,
            TcpState::LastAck => self.tcp_last_ack,
            TcpState::TimeWait => self.tcp_time_wait,
            TcpState::Closed => self.tcp_close,
        }
    }

    /// What the kernel would give `entry` after a packet. `streaming`: packets went on after the first answer, which the
    /// kernel itself no longer sees.
    pub fn of(&self, entry: &Entry, streaming: bool) -> u32 {
        match entry.protocol {
            protocol::TCP => self.of_state(entry.tcp_state.unwrap_or(TcpState::Established)),
            protocol::UDP if streaming || entry.status.contains(Status::Assured) => self.udp_stream,
            protocol::UDP => self.udp,
            protocol::ICMP => self.icmp,
            protocol::ICMPV6 => self.icmpv6,
            _ => self.generic,
        }
    }
}

/// What is missing in this namespace for the agent to work, each with its remedy.
pub fn missing_settings(accounting_needed: bool) -> Vec<&'static str> {
    let mut missing = Vec::new();
    match setting("events") {
        None => missing.push(
            "connection tracking is not active in this namespace: load an nftables ruleset with ct or nat",
        ),
        Some(0) => missing.push("conntrack events are off: sysctl -w net.netfilter.nf_conntrack_events=1"),
        Some(_) => {}
    }
    if setting("acct") == Some(0) {
        missing.push(if accounting_needed {
            "min_packets needs accounting: sysctl -w net.netfilter.nf_conntrack_acct=1 before the connections begin"
        } else {
            "conntrack accounting is off, `conntrack -L` will show no counters: sysctl -w net.netfilter.nf_conntrack_acct=1"
        });
    }
    if setting("tcp_ignore_invalid_rst") == Some(0) {
        missing.push(
            "after 2 GiB offloaded, rules that drop invalid packets may drop an RST: \
             sysctl -w net.netfilter.nf_conntrack_tcp_ignore_invalid_rst=1",
        );
    }
    for (path, remedy) in [
        ("/proc/sys/net/ipv4/ip_forward", "IPv4 forwarding is off: sysctl -w net.ipv4.ip_forward=1"),
        (
            "/proc/sys/net/ipv6/conf/all/forwarding",
            "IPv6 forwarding is off: sysctl -w net.ipv6.conf.all.forwarding=1",
        ),
    ] {
        if std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "0") {
            missing.push(remedy);
        }
    }
    missing
}

fn setting(name: &str) -> Option<u32> {
    let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
