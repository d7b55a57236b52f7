//! Frames as another client's library cuts them (RFC 9113 section 4.1). Calls count from 0.

use prost::Message;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn stream(call: u32) -> u32 {
    1 + 2 * call
}

/// What a connection begins with: the preface, and no settings.
pub fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..]].concat()
}

/// Takes the server's settings: until then, it holds calls to the windows of RFC 9113 section 6.9.2.
pub fn acknowledgment() -> Vec<u8> {
    frame(4, 1, 0, &[])
}

/// The headers of a call to `path`.
pub fn call(call: u32, path: &str) -> Vec<u8> {
    // RFC 7541: POST, http, then literals: path, authority, content type.
    let headers = [
        &[0x83, 0x86, 0x04, path.len() as u8][..],
        path.as_bytes(),
        b"\x01\x09localhost",
        b"\x0f\x10\x10application/grpc",
    ];
    frame(1, 4, stream(call), &headers.concat())
}

/// A message in a DATA frame of its own; the `last` one ends the call.
pub fn message(call: u32, message: &impl Message, last: bool) -> Vec<u8> {
    let message = message.encode_to_vec();
    let data = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    frame(0, last.into(), stream(call), &data)
}
