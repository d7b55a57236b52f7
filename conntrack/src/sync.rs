//! Atomics and locks of the table: the standard library's, or shuttle's under the feature `shuttle`, whose scheduler then
//! tries the interleavings.

#[cfg(not(feature = "shuttle"))]
pub(crate) use std::sync::{
    Mutex, MutexGuard, TryLockError,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
};

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
};
#[cfg(feature = "shuttle")]
pub(crate) use std::sync::TryLockError;
