//! Captures in and out: pcap and pcapng files read into memory and merged by time, and pcap files written.

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapParser, PcapWriter};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgParser};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};
use pipeline::PortIndex;
use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// Largest frame taken: an IP packet of 64 KiB behind Ethernet, tags and tunnel headers.
pub const LONGEST_FRAME: usize = 65_535 + 256;

/// Frames of all inputs in memory, in the order they enter the gateway.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    list: Vec<Entry>,
    cut: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    nanos: u64,
    offset: usize,
    len: u32,
    port: PortIndex,
}

/// A frame as captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// When, in nanoseconds since 1970.
    pub nanos: u64,
    /// Where it arrived.
    pub port: PortIndex,
    /// From the Ethernet header on, without FCS.
    pub bytes: &'a [u8],
}

/// Why a capture cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be read or written.
    #[error("{}: {source}", file.display())]
    Io {
        /// Its name.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no capture, or not one of Ethernet frames.
    #[error("{}: frame {frame}: {message}", file.display())]
    Format {
        /// Its name.
        file: PathBuf,
        /// Frames read before, plus one.
        frame: usize,
        /// What is wrong.
        message: String,
    },
}

impl Frames {
    /// Adds a frame behind all others of the same time.
    pub fn push(&mut self, nanos: u64, port: PortIndex, bytes: &[u8]) {
        let entry = Entry { nanos, offset: self.bytes.len(), len: bytes.len() as u32, port };
        self.bytes.extend_from_slice(bytes);
        let sorted = self.list.last().is_none_or(|last| last.nanos <= nanos);
        self.list.push(entry);
        if !sorted {
            self.list.sort_by_key(|entry| entry.nanos);
        }
    }

    /// Adds all frames of a pcap or pcapng file.
    pub fn read(&mut self, file: &Path, port: PortIndex) -> Result<(), CaptureError> {
        let content =
            std::fs::read(file).map_err(|source| CaptureError::Io { file: file.to_owned(), source })?;
        let before = self.list.len();
        let parsed = match content.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
            true => self.pcapng(&content, port),
            false => self.pcap(&content, port),
        };
        let frame = self.list.len() - before + 1;
        self.list.sort_by_key(|entry| entry.nanos);
        parsed.map_err(|message| CaptureError::Format { file: file.to_owned(), frame, message })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Frames that the capture holds only the beginning of.
    pub fn cut(&self) -> usize {
        self.cut
    }

    /// The frame at a position.
    #[inline]
    pub fn get(&self, position: usize) -> Option<Frame<'_>> {
        let entry = self.list.get(position)?;
        let bytes = self.bytes.get(entry.offset..entry.offset + entry.len as usize)?;
        Some(Frame { nanos: entry.nanos, port: entry.port, bytes })
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = Frame<'_>> {
        (0..self.len()).filter_map(|position| self.get(position))
    }

    fn pcap(&mut self, content: &[u8], port: PortIndex) -> Result<(), String> {
        let (mut rest, parser) = PcapParser::new(content).map_err(|error| match error {
            PcapError::IncompleteBuffer | PcapError::InvalidField(_) => "neither pcap nor pcapng".to_owned(),
            other => other.to_string(),
        })?;
        let header = parser.header();
        ethernet(header.datalink)?;
        let unit = if header.ts_resolution == TsResolution::NanoSecond { 1 } else { 1000 };
        while !rest.is_empty() {
            let (next, packet) = parser.next_raw_packet(rest).map_err(truncated)?;
            rest = next;
            let nanos = u64::from(packet.ts_sec) * 1_000_000_000 + u64::from(packet.ts_frac) * unit;
            self.add(nanos, port, &packet.data, packet.orig_len)?;
        }
        Ok(())
    }

    fn pcapng(&mut self, content: &[u8], port: PortIndex) -> Result<(), String> {
        let (mut rest, mut parser) = PcapNgParser::new(content).map_err(truncated)?;
        while !rest.is_empty() {
            let (next, block) = parser.next_block(rest).map_err(truncated)?;
            rest = next;
            match block {
                Block::EnhancedPacket(packet) => {
                    let interface = parser
                        .packet_interface(&packet)
                        .ok_or_else(|| format!("no interface {} is described", packet.interface_id))?;
                    ethernet(interface.linktype)?;
                    // The parser takes ticks for nanoseconds, whatever the interface's resolution.
                    let nanos = nanos(packet.timestamp.as_nanos(), interface)?;
                    self.add(nanos, port, &packet.data, packet.original_len)?;
                }
                Block::SimplePacket(_) | Block::Packet(_) => {
                    return Err(
                        "a packet block without time, or of an obsolete kind: convert it with editcap".into(),
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, nanos: u64, port: PortIndex, data: &[u8], original_len: u32) -> Result<(), String> {
        if data.len() > LONGEST_FRAME {
            return Err(format!("{} bytes; at most {LONGEST_FRAME}", data.len()));
        }
        self.cut += usize::from(data.len() < original_len as usize);
        let entry = Entry { nanos, offset: self.bytes.len(), len: data.len() as u32, port };
        self.bytes.extend_from_slice(data);
        self.list.push(entry);
        Ok(())
    }
}

fn ethernet(datalink: DataLink) -> Result<(), String> {
    match datalink {
        DataLink::ETHERNET => Ok(()),
        other => Err(format!("link type {other:?}: only Ethernet frames can be replayed")),
    }
}

fn truncated(error: PcapError) -> String {
    match error {
        PcapError::IncompleteBuffer => "the file ends in the middle of it".to_owned(),
        other => other.to_string(),
    }
}

/// An interface's ticks as nanoseconds (pcapng: if_tsresol and if_tsoffset; microseconds unless told).
fn nanos(ticks: u128, interface: &InterfaceDescriptionBlock<'_>) -> Result<u64, String> {
    let (mut per_second, mut offset) = (1_000_000_u128, 0);
    for option in &interface.options {
        match option {
            InterfaceDescriptionOption::IfTsResol(power) if power & 0x80 != 0 => {
                per_second = 1_u128.checked_shl(u32::from(power & 0x7f)).unwrap_or(u128::MAX);
            }
            InterfaceDescriptionOption::IfTsResol(power) => {
                per_second = 10_u128.checked_pow(u32::from(*power)).unwrap_or(u128::MAX);
            }
            InterfaceDescriptionOption::IfTsOffset(seconds) => offset = *seconds,
            _ => {}
        }
    }
    // Ticks are 64 bits, so that neither product overflows.
    let seconds = u128::from(offset) + ticks / per_second;
    let rest = (ticks % per_second).saturating_mul(1_000_000_000) / per_second;
    u64::try_from(seconds * 1_000_000_000 + rest).map_err(|_| "its time is beyond the year 2554".to_owned())
}

/// A pcap file with times in nanoseconds.
pub struct PcapFile {
    path: PathBuf,
    file: File,
    buffer: Buffer,
    writer: PcapWriter<Buffer>,
    scratch: Vec<u8>,
}

/// What waits to be written. The writer has one handle, the file the other.
#[derive(Clone, Default)]
struct Buffer(Rc<RefCell<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl PcapFile {
    /// Makes the file, or empties it.
    pub fn create(path: &Path) -> Result<Self, CaptureError> {
        let io = |source| CaptureError::Io { file: path.to_owned(), source };
        let file = File::create(path).map_err(io)?;
        let header = PcapHeader {
            snaplen: 262_144,
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::NanoSecond,
            endianness: Endianness::Little,
            ..PcapHeader::default()
        };
        let buffer = Buffer::default();
        let writer = PcapWriter::with_header(buffer.clone(), header)
            .map_err(|error| io(std::io::Error::other(error.to_string())))?;
        Ok(Self { path: path.to_owned(), file, buffer, writer, scratch: Vec::new() })
    }

    /// Adds a frame, given in pieces; in memory until the next [`Self::flush`].
    pub fn add(
        &mut self,
        nanos: u64,
        gather: impl FnOnce(&mut dyn FnMut(&[u8])),
    ) -> Result<(), CaptureError> {
        self.scratch.clear();
        gather(&mut |piece| self.scratch.extend_from_slice(piece));
        let len = self.scratch.len() as u32;
        let packet = PcapPacket::new(Duration::from_nanos(nanos), len, &self.scratch);
        let written = self.writer.write_packet(&packet);
        written.map(drop).map_err(|error| self.error(std::io::Error::other(error.to_string())))
    }

    /// Bytes that wait for [`Self::flush`].
    pub fn buffered(&self) -> usize {
        self.buffer.0.borrow().len()
    }

    /// Writes what waits.
    pub fn flush(&mut self) -> Result<(), CaptureError> {
        let mut buffer = self.buffer.0.borrow_mut();
        let outcome = self.file.write_all(&buffer);
        buffer.clear();
        drop(buffer);
        outcome.map_err(|source| self.error(source))
    }

    fn error(&self, source: std::io::Error) -> CaptureError {
        CaptureError::Io { file: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: PortIndex = PortIndex(1);

    fn pcap(order: Endianness, resolution: TsResolution, frames: &[(u64, &[u8])]) -> Vec<u8> {
        let header = PcapHeader { endianness: order, ts_resolution: resolution, ..PcapHeader::default() };
        let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
        for (nanos, bytes) in frames {
            let packet = PcapPacket::new(Duration::from_nanos(*nanos), bytes.len() as u32, bytes);
            writer.write_packet(&packet).unwrap();
        }
        writer.into_writer()
    }

    fn read(content: &[u8]) -> Result<Frames, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let mut frames = Frames::default();
        let outcome = frames.read(file.path(), PORT);
        let name = format!("{}: ", file.path().display());
        outcome.map(|()| frames).map_err(|error| error.to_string().replace(&name, ""))
    }

    #[test]
    fn all_kinds_of_pcap() {
        for order in [Endianness::Big, Endianness::Little] {
            for (resolution, nanos) in
                [(TsResolution::MicroSecond, 1_500_000_001_000), (TsResolution::NanoSecond, 1_500_000_001)]
            {
                let frames = read(&pcap(order, resolution, &[(nanos, b"abc"), (nanos + 1000, b"")])).unwrap();
                assert_eq!(frames.get(0), Some(Frame { nanos, port: PORT, bytes: b"abc" }));
                assert_eq!(frames.get(1), Some(Frame { nanos: nanos + 1000, port: PORT, bytes: b"" }));
                assert_eq!(frames.len(), 2);
            }
        }
    }

    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let mut body = body.to_vec();
        body.resize(body.len().next_multiple_of(4), 0);
        let len = (body.len() as u32 + 12).to_le_bytes();
        [&kind.to_le_bytes()[..], &len, &body, &len].concat()
    }

    fn pcapng(options: &[u8], ticks: u64, data: &[u8]) -> Vec<u8> {
        let header = [&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
        let interface = [&[1, 0, 0, 0, 0, 0, 0, 0][..], options].concat();
        let len = (data.len() as u32).to_le_bytes();
        let (high, low) = (((ticks >> 32) as u32).to_le_bytes(), (ticks as u32).to_le_bytes());
        let packet = [&[0; 4][..], &high, &low, &len, &len, data].concat();
        [block(0x0a0d_0d0a, &header), block(1, &interface), block(6, &packet)].concat()
    }

    #[test]
    fn pcapng_resolutions() {
        const END: [u8; 4] = [0; 4];
        let cases: [(&[u8], u64, u64); 4] = [
            (&[], 1_500_000, 1_500_000_000),
            (&[9, 0, 1, 0, 9, 0, 0, 0], 1_500_000_001, 1_500_000_001),
            (&[9, 0, 1, 0, 3, 0, 0, 0], 1_500, 1_500_000_000),
            (&[9, 0, 1, 0, 0x82, 0, 0, 0], 6, 1_500_000_000),
        ];
        for (options, ticks, nanos) in cases {
            let options = if options.is_empty() { Vec::new() } else { [options, &END].concat() };
            let frames = read(&pcapng(&options, ticks, b"abcde")).unwrap();
            assert_eq!(frames.get(0), Some(Frame { nanos, port: PORT, bytes: b"abcde" }));
        }
    }

    #[test]
    fn files_that_are_no_use() {
        let good = pcap(Endianness::Little, TsResolution::NanoSecond, &[(1, b"abc"), (2, b"defg")]);
        assert_eq!(read(b"").unwrap_err(), "frame 1: neither pcap nor pcapng");
        assert_eq!(
            read(b"once upon a time there was no capture").unwrap_err(),
            "frame 1: neither pcap nor pcapng"
        );
        assert_eq!(read(&good[..good.len() - 1]).unwrap_err(), "frame 2: the file ends in the middle of it");
        let mut raw_ip = good;
        raw_ip[20] = 101;
        assert_eq!(
            read(&raw_ip).unwrap_err(),
            "frame 1: link type RAW: only Ethernet frames can be replayed"
        );
        let mut frames = Frames::default();
        assert!(
            frames
                .read(Path::new("/nonexistent.pcap"), PORT)
                .unwrap_err()
                .to_string()
                .starts_with("/nonexistent.pcap: No such")
        );
    }

    #[test]
    fn frames_are_sorted_and_ties_keep_their_order() {
        let mut frames = Frames::default();
        for (nanos, byte) in [(5, 1), (3, 2), (5, 3), (4, 4), (3, 5)] {
            frames.push(nanos, PORT, &[byte]);
        }
        let order = frames.iter().map(|frame| frame.bytes[0]).collect::<Vec<_>>();
        assert_eq!(order, [2, 5, 4, 1, 3]);
    }

    #[test]
    fn arbitrary_files_never_panic() {
        bolero::check!().for_each(|content: &[u8]| {
            let mut frames = Frames::default();
            let _ = frames.pcap(content, PORT);
            let _ = frames.pcapng(content, PORT);
            let mut pcapng = pcapng(&[], 1, b"abcdefgh");
            for (to, from) in pcapng[28..].iter_mut().zip(content) {
                *to ^= from;
            }
            let _ = frames.pcapng(&pcapng, PORT);
        });
    }
}
