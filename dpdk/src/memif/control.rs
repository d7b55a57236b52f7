//! The conversation over the socket: what a server is told of memory and rings before packets flow.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        eventfd::{EfdFlags, EventFd},
        socket::{
            AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, sendmsg,
            setsockopt, socket, sockopt::ReceiveTimeout,
        },
        time::TimeVal,
    },
};

use super::{Layout, MemifError, MemifOptions, Shared};

const VERSION: u16 = 2 << 8;
const ACK: u16 = 1;
const HELLO: u16 = 2;
const INIT: u16 = 3;
const ADD_REGION: u16 = 4;
const ADD_RING: u16 = 5;
const CONNECT: u16 = 6;
const CONNECTED: u16 = 7;
const DISCONNECT: u16 = 8;
/// The ring leads to the server.
const TO_SERVER: u16 = 1;
/// Bytes of every message: its type, then packed fields, then zeroes.
const MESSAGE: usize = 128;
const NAME: &[u8; 32] = b"openoffload-gateway memif client";

type Message = [u8; MESSAGE];

/// The connection. The server takes its end for the link's.
#[derive(Debug)]
pub(super) struct Control {
    name: String,
    socket: OwnedFd,
    /// What the server would ring to wake this end, which polls and masks that.
    bells: Vec<EventFd>,
}

impl Control {
    /// Connects, and checks that the server can have such rings.
    pub(super) fn connect(options: &MemifOptions<'_>) -> Result<Self, MemifError> {
        let name = options.socket.to_owned();
        let failed = |operation: &'static str| {
            let socket = name.clone();
            move |error: Errno| MemifError::Socket { socket, operation, source: error.into() }
        };
        let socket = dial(options).map_err(failed("connecting"))?;
        let patience = TimeVal::new(options.patience.as_secs().max(1) as i64, 0);
        setsockopt(&socket, ReceiveTimeout, &patience).map_err(failed("setting a time limit"))?;
        let control = Self { name, socket, bells: Vec::new() };
        let hello = control.expect(HELLO)?;
        let word = |at: usize| u16::from_ne_bytes([hello[at], hello[at + 1]]);
        let (least, most) = (word(34), word(36));
        if !(least..=most).contains(&VERSION) {
            let reason = format!("it speaks versions {least:#x} to {most:#x}, not {VERSION:#x}");
            return Err(MemifError::Refused { socket: control.name, reason });
        }
        let (rings, ring_bits) = (u32::from(word(40)) + 1, hello[44]);
        if u32::from(options.rx_rings) > rings || options.ring_bits > ring_bits {
            return Err(MemifError::Rings { socket: control.name, rings, ring_bits });
        }
        Ok(control)
    }

    /// Gives the server the memory and the rings; afterwards packets may flow.
    pub(super) fn hand_over(
        &mut self,
        options: &MemifOptions<'_>,
        shared: &Shared,
        layout: &Layout,
    ) -> Result<(), MemifError> {
        let id = options.id.to_ne_bytes();
        self.send(&message(INIT, &[&VERSION.to_ne_bytes(), &id, &[0], &[0; 24], NAME]), None)?;
        self.expect(ACK)?;
        let region = message(ADD_REGION, &[&[0; 2], &(layout.bytes as u64).to_ne_bytes()]);
        self.send(&region, Some(shared.file.as_fd()))?;
        self.expect(ACK)?;
        for number in 0..=options.rx_rings {
            let (flags, index) = if number == 0 { (TO_SERVER, 0) } else { (0, number - 1) };
            let offset = (usize::from(number) * layout.ring) as u32;
            let ring = message(
                ADD_RING,
                &[
                    &flags.to_ne_bytes(),
                    &index.to_ne_bytes(),
                    &[0; 2],
                    &offset.to_ne_bytes(),
                    &[layout.slots.trailing_zeros() as u8],
                    &[0; 2],
                ],
            );
            let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC);
            let bell = bell.map_err(|error| self.failed("making an event counter", error))?;
            self.send(&ring, Some(bell.as_fd()))?;
            self.bells.push(bell);
            self.expect(ACK)?;
        }
        self.send(&message(CONNECT, &[NAME]), None)?;
        self.expect(CONNECTED).map(drop)
    }

    fn send(&self, message: &Message, file: Option<BorrowedFd<'_>>) -> Result<(), MemifError> {
        let files = file.map(|file| [file.as_raw_fd()]);
        let rights: Vec<_> = files.iter().map(|files| ControlMessage::ScmRights(files)).collect();
        let parts = [IoSlice::new(message)];
        sendmsg::<UnixAddr>(self.socket.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None)
            .map(drop)
            .map_err(|error| self.failed("sending", error))
    }

    fn expect(&self, wanted: u16) -> Result<Message, MemifError> {
        let mut message = [0; MESSAGE];
        let len = recv(self.socket.as_raw_fd(), &mut message, MsgFlags::empty())
            .map_err(|error| self.failed("waiting for the server's word", error))?;
        let got = u16::from_ne_bytes([message[0], message[1]]);
        let socket = self.name.clone();
        match got {
            _ if len == 0 => Err(self.failed("waiting for the server's word", Errno::ECONNRESET)),
            DISCONNECT => {
                let text = message[6..102].split(|byte| *byte == 0).next().unwrap_or_default();
                Err(MemifError::Refused { socket, reason: String::from_utf8_lossy(text).into_owned() })
            }
            _ if got == wanted => Ok(message),
            _ => Err(MemifError::Unexpected { socket, got, wanted }),
        }
    }

    /// Whether the server is there still, and has not taken its leave.
    pub(super) fn is_open(&self) -> bool {
        let mut kind = [0; 2];
        match recv(self.socket.as_raw_fd(), &mut kind, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Ok(len) => len > 0 && u16::from_ne_bytes(kind) != DISCONNECT,
            Err(error) => matches!(error, Errno::EAGAIN | Errno::EINTR),
        }
    }

    fn failed(&self, operation: &'static str, error: Errno) -> MemifError {
        MemifError::Socket { socket: self.name.clone(), operation, source: io::Error::from(error) }
    }
}

/// Connects to the socket once somebody listens.
fn dial(options: &MemifOptions<'_>) -> nix::Result<OwnedFd> {
    let start = Instant::now();
    let address = match options.abstract_socket {
        true => UnixAddr::new_abstract(options.socket.as_bytes())?,
        false => UnixAddr::new(Path::new(options.socket))?,
    };
    loop {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        match connect(socket.as_raw_fd(), &address) {
            Ok(()) => return Ok(socket),
            Err(Errno::ECONNREFUSED | Errno::ENOENT) if start.elapsed() < options.patience => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
}

fn message(kind: u16, fields: &[&[u8]]) -> Message {
    let mut message = [0; MESSAGE];
    message[..2].copy_from_slice(&kind.to_ne_bytes());
    let mut at = 2;
    for field in fields {
        message[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    }
    message
}
