//! Where a replay's output goes.

use super::Sink;
use crate::capture::{CaptureError, PcapFile};
use crate::session::ClosedSession;
use conntrack::Closed;
use dpdk::Mbuf;
use pipeline::PortIndex;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Written in pieces of so many bytes.
const PIECE: usize = 4 << 20;

/// What cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// A capture.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// Another file or folder.
    #[error("{}: {source}", file.display())]
    Io {
        /// Its name.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

impl Sink for Discard {
    #[inline]
    fn sent(&mut self, _port: PortIndex, _nanos: u64, _mbuf: &Mbuf) -> Result<(), OutputError> {
        Ok(())
    }

    fn closed(&mut self, _closed: &Closed) -> Result<(), OutputError> {
        Ok(())
    }
}

/// A pcap file for each port, and one of JSON lines for closed sessions.
pub(crate) struct Files {
    ports: Vec<PcapFile>,
    closed: Option<(PathBuf, BufWriter<File>)>,
    spent: Duration,
}

impl Files {
    /// Makes `dir` if need be, and all files.
    pub(crate) fn create(
        dir: &Path,
        ports: &[pipeline::config::Port],
        closed: Option<&Path>,
    ) -> Result<Self, OutputError> {
        std::fs::create_dir_all(dir).map_err(|source| OutputError::Io { file: dir.to_owned(), source })?;
        let file = |port: &pipeline::config::Port| PcapFile::create(&dir.join(format!("{}.pcap", port.name)));
        let ports = ports.iter().map(file).collect::<Result<_, _>>()?;
        let closed = match closed {
            None => None,
            Some(path) => {
                let io = |source| OutputError::Io { file: path.to_owned(), source };
                Some((path.to_owned(), BufWriter::new(File::create(path).map_err(io)?)))
            }
        };
        Ok(Self { ports, closed, spent: Duration::ZERO })
    }

    /// Writes what waits.
    pub(crate) fn finish(mut self) -> Result<(), OutputError> {
        for port in &mut self.ports {
            port.flush()?;
        }
        match &mut self.closed {
            Some((path, file)) => {
                file.flush().map_err(|source| OutputError::Io { file: path.clone(), source })
            }
            None => Ok(()),
        }
    }
}

impl Sink for Files {
    fn sent(&mut self, port: PortIndex, nanos: u64, mbuf: &Mbuf) -> Result<(), OutputError> {
        let Some(file) = self.ports.get_mut(usize::from(port.0)) else { return Ok(()) };
        file.add(nanos, |piece| mbuf.segments().for_each(piece))?;
        if file.buffered() >= PIECE {
            let start = Instant::now();
            file.flush()?;
            self.spent += start.elapsed();
        }
        Ok(())
    }

    fn closed(&mut self, closed: &Closed) -> Result<(), OutputError> {
        let Some((path, file)) = &mut self.closed else { return Ok(()) };
        let written = serde_json::to_writer(&mut *file, &ClosedSession::from(closed)).map_err(Into::into);
        let written = written.and_then(|()| file.write_all(b"\n"));
        written.map_err(|source| OutputError::Io { file: path.clone(), source })
    }

    fn spent(&self) -> Duration {
        self.spent
    }
}
