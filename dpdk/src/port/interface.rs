//! The MTU of the kernel interface behind a net_af_packet port. The driver says it takes frames of 1518 bytes at most, so that
//! DPDK refuses a larger MTU, though any frame passes that fits its ring (`framesz=`).

use std::{io, mem};

use super::{Inner, driver_name};
use crate::{Error, Reason};

use dpdk_sys as sys;

/// The ring's frame size where the device's arguments give none.
const DEFAULT_FRAME_SIZE: usize = 2048;

/// What comes before a packet in a frame of the ring: TPACKET2_HDRLEN, its alignment, and room for a tag put back.
const FRAME_HEADER: usize = 80;

/// Ethernet header and a VLAN tag.
const ETHERNET: usize = 14 + 4;

/// True if the port's MTU is the interface's, and nothing to DPDK.
pub(super) fn rules(info: &sys::rte_eth_dev_info) -> bool {
    info.if_index != 0 && driver_name(info) == "net_af_packet"
}

/// Sets the interface's MTU; a frame of that size must fit the ring.
pub(super) fn set_mtu(port: &Inner, info: &sys::rte_eth_dev_info, mtu: u16) -> Result<(), Error> {
    let needed = usize::from(mtu) + ETHERNET + FRAME_HEADER;
    let frame = port.argument("framesz").and_then(|value| value.parse().ok()).unwrap_or(DEFAULT_FRAME_SIZE);
    if needed > frame {
        return Err(Error::FrameSize { device: port.device.clone(), mtu, needed, frame });
    }
    request(info.if_index, libc::SIOCSIFMTU, i32::from(mtu))
        .map(drop)
        .map_err(|error| failed(port, "setting the MTU", &error))
}

/// The interface's MTU.
pub(super) fn mtu(port: &Inner, info: &sys::rte_eth_dev_info) -> Result<u16, Error> {
    let mtu = request(info.if_index, libc::SIOCGIFMTU, 0).map_err(|error| failed(port, "MTU", &error))?;
    Ok(mtu.clamp(0, i32::from(u16::MAX)) as u16)
}

fn failed(port: &Inner, operation: &'static str, error: &io::Error) -> Error {
    let reason = Reason { errno: error.raw_os_error().unwrap_or(0), log: Vec::new() };
    Error::Port { device: port.device.clone(), operation, reason }
}

fn request(if_index: u32, code: libc::Ioctl, mtu: i32) -> io::Result<i32> {
    // SAFETY: plain C data, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_ifru.ifru_mtu = mtu;
    // SAFETY: ifr_name has IF_NAMESIZE bytes. The socket is made, used and closed here; the ioctl reads and writes `request`.
    unsafe {
        if libc::if_indextoname(if_index, request.ifr_name.as_mut_ptr()).is_null() {
            return Err(io::Error::last_os_error());
        }
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        let result = if libc::ioctl(socket, code, &mut request) < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(request.ifr_ifru.ifru_mtu)
        };
        libc::close(socket);
        result
    }
}
