use std::{
    any::Any,
    ffi::{c_int, c_void},
    fmt,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
};

use dpdk_sys as sys;

use crate::{Eal, Error, Reason};

/// One of the EAL's threads, by DPDK's number: with the usual core list, the CPU it is pinned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LcoreId(pub u32);

impl fmt::Display for LcoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lcore {}", self.0)
    }
}

/// A NUMA node, or [`SocketId::ANY`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketId(pub i32);

impl SocketId {
    /// Wherever there is memory.
    pub const ANY: Self = Self(sys::SHIM_SOCKET_ID_ANY);
}

/// The calling thread's lcore: None if DPDK does not know the thread.
pub fn current_lcore() -> Option<LcoreId> {
    // SAFETY: reads a thread-local variable of DPDK's.
    let id = unsafe { sys::shim_lcore_id() };
    (id != sys::SHIM_LCORE_ID_ANY).then_some(LcoreId(id))
}

impl Eal {
    /// The lcore of the thread that started the EAL.
    pub fn main_lcore(&self) -> LcoreId {
        // SAFETY: the EAL is initialised.
        LcoreId(unsafe { sys::rte_get_main_lcore() })
    }

    /// The lcores [`launch`](Self::launch) takes, in order.
    pub fn worker_lcores(&self) -> Vec<LcoreId> {
        (0..sys::RTE_MAX_LCORE).map(LcoreId).filter(|&lcore| self.is_worker(lcore)).collect()
    }

    /// The NUMA node of an lcore.
    pub fn lcore_socket(&self, lcore: LcoreId) -> SocketId {
        if lcore.0 >= sys::RTE_MAX_LCORE {
            return SocketId::ANY;
        }
        // SAFETY: the EAL is initialised, and the number is within DPDK's table.
        SocketId(unsafe { sys::rte_lcore_to_socket_id(lcore.0) } as i32)
    }

    /// Runs `work` on a worker lcore. A panic in it is caught and reported by [`LcoreHandle::join`].
    pub fn launch<T, F>(&self, lcore: LcoreId, work: F) -> Result<LcoreHandle<T>, Error>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        if !self.is_worker(lcore) {
            return Err(Error::NotWorker(lcore));
        }
        let (sender, result) = mpsc::sync_channel(1);
        let work: Work = Box::new(move || {
            let outcome = catch_unwind(AssertUnwindSafe(work));
            // The receiver is gone only if the handle was leaked.
            let _ = sender.send(outcome);
        });
        let argument = Box::into_raw(Box::new(work));
        let launched = self.control(|| {
            // SAFETY: `run` takes the argument back exactly once, if the launch succeeds; the lcore is an EAL worker.
            unsafe { sys::rte_eal_remote_launch(Some(run), argument.cast::<c_void>(), lcore.0) }
        });
        if launched != 0 {
            // SAFETY: the launch failed, so the argument was not handed over.
            drop(unsafe { Box::from_raw(argument) });
            return Err(Error::LcoreBusy(lcore));
        }
        Ok(LcoreHandle { lcore, result, _eal: self.clone() })
    }

    fn is_worker(&self, lcore: LcoreId) -> bool {
        // SAFETY: the EAL is initialised; the number is within DPDK's table.
        lcore.0 < sys::RTE_MAX_LCORE
            && lcore != self.main_lcore()
            && unsafe { sys::rte_lcore_is_enabled(lcore.0) } == 1
    }
}

type Work = Box<dyn FnOnce() + Send>;

extern "C" fn run(argument: *mut c_void) -> c_int {
    // SAFETY: the argument is the Box<Work> that `launch` turned into a pointer, taken back once.
    let work = unsafe { Box::from_raw(argument.cast::<Work>()) };
    // The closure has caught its own panic; this holds back one from dropping what it captured.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(()) => 0,
        Err(_) => -1,
    }
}

/// What runs on a worker lcore. Dropping the handle waits for it to end.
#[derive(Debug)]
pub struct LcoreHandle<T> {
    lcore: LcoreId,
    result: mpsc::Receiver<Result<T, Box<dyn Any + Send>>>,
    _eal: Eal,
}

impl<T> LcoreHandle<T> {
    /// The lcore it runs on.
    pub fn lcore(&self) -> LcoreId {
        self.lcore
    }

    /// True once the lcore is idle again.
    pub fn is_finished(&self) -> bool {
        // SAFETY: the lcore is one of the EAL's workers.
        unsafe { sys::rte_eal_get_lcore_state(self.lcore.0) == sys::WAIT }
    }

    /// Waits, asleep, for the end and returns the result.
    pub fn join(self) -> Result<T, Error> {
        let outcome = self.result.recv();
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(panic)) => Err(Error::LcorePanic { lcore: self.lcore, message: panic_message(&*panic) }),
            Err(_) => Err(Error::LcorePanic { lcore: self.lcore, message: "no result".into() }),
        }
    }
}

impl<T> Drop for LcoreHandle<T> {
    fn drop(&mut self) {
        // Sleeps until the work is done: rte_eal_wait_lcore spins, and then has next to nothing left to wait for.
        let _ = self.result.recv();
        // SAFETY: the lcore is one of the EAL's workers, and not the calling one: a handle cannot be moved into its own work.
        unsafe { sys::rte_eal_wait_lcore(self.lcore.0) };
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").into()
}

/// Makes the calling thread known to DPDK, so that it gets an lcore number and mempool caches of its own. Undone when the
/// result is dropped. A thread that is known already stays as it is.
pub fn register_thread(eal: &Eal) -> Result<ThreadRegistration, Error> {
    let new = current_lcore().is_none();
    if new {
        // SAFETY: the EAL is initialised, and the thread is not registered.
        Reason::check(|| unsafe { sys::rte_thread_register() }).map_err(Error::RegisterThread)?;
    }
    Ok(ThreadRegistration { new, _eal: eal.clone(), _this_thread: PhantomData })
}

/// See [`register_thread`]. Bound to the thread.
#[derive(Debug)]
pub struct ThreadRegistration {
    new: bool,
    _eal: Eal,
    _this_thread: PhantomData<*const ()>,
}

impl Drop for ThreadRegistration {
    fn drop(&mut self) {
        if self.new {
            // SAFETY: this thread was registered by `register_thread`, and the value cannot have left it.
            unsafe { sys::rte_thread_unregister() };
        }
    }
}
