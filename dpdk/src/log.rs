//! DPDK's log: lines are attached to the error of the call that logged them, or handed to a sink.

use std::{
    cell::RefCell,
    ffi::c_char,
    sync::{Once, OnceLock},
};

use dpdk_sys as sys;

/// An error carries at most this many lines.
const MAX_LINES: usize = 8;

static SINK: OnceLock<fn(&str)> = OnceLock::new();

thread_local! {
    static CAPTURED: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Hands each line DPDK logs to `sink`, instead of stderr. Lines that became part of an [`Error`](crate::Error) are not
/// repeated. The first sink set stays; returns false if there was one already. The sink runs in the thread that logs, and
/// must not call DPDK.
pub fn set_log_sink(sink: fn(&str)) -> bool {
    SINK.set(sink).is_ok()
}

/// Makes DPDK log through this module.
pub(crate) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: `write` is a function for the life of the process, and the stream made here is never closed.
        if unsafe { sys::shim_log_to(Some(write)) } < 0 {
            eprintln!("DPDK's log cannot be redirected; it goes to its own default");
        }
    });
}

/// Runs `call`, and returns what the calling thread logged meanwhile if `failed` says so; else the lines go to the sink.
pub(crate) fn capture<T>(call: impl FnOnce() -> T, failed: impl FnOnce(&T) -> bool) -> (T, Vec<String>) {
    install();
    CAPTURED.set(Some(Vec::new()));
    let result = call();
    let mut lines = CAPTURED.take().unwrap_or_default();
    if failed(&result) {
        lines.drain(..lines.len().saturating_sub(MAX_LINES));
        return (result, lines);
    }
    lines.iter().for_each(|line| emit(line));
    (result, Vec::new())
}

extern "C" fn write(text: *const c_char, len: usize) {
    // SAFETY: DPDK passes `len` readable bytes at `text`, borrowed for this call.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
    for line in String::from_utf8_lossy(bytes).lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        let captured = CAPTURED.try_with(|captured| match captured.try_borrow_mut().as_deref_mut() {
            Ok(Some(lines)) => {
                lines.push(line.to_owned());
                true
            }
            _ => false,
        });
        if captured != Ok(true) {
            emit(line);
        }
    }
}

/// Hands a line to the sink, for what happens where no error can be returned.
pub(crate) fn emit(line: &str) {
    match SINK.get() {
        Some(sink) => sink(line),
        None => eprintln!("{line}"),
    }
}
