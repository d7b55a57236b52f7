use std::{
    env,
    ffi::{CStr, CString, OsString, c_char},
    fmt, fs, io, mem,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use dpdk_sys as sys;

use crate::{EalOptions, Error, Reason, SocketId, log};

/// DPDK's environment, started. Clones are handles to the same one; it is shut down when the last handle, pool, port
/// and ring is dropped.
#[derive(Clone)]
pub struct Eal {
    inner: Arc<Inner>,
}

struct Inner {
    /// Still to be removed at the end.
    runtime_dirs: Vec<PathBuf>,
    /// Ports now open, by DPDK's number.
    open_ports: Mutex<Vec<u16>>,
    /// Launching on lcores and changing devices is not thread-safe in DPDK.
    control: Mutex<()>,
}

impl Eal {
    /// Starts DPDK. Once per process: a second call fails, also if the first one did.
    ///
    /// Call it early, before other threads read the environment: an unprivileged process without `XDG_RUNTIME_DIR` gets one
    /// for the duration of the call.
    pub fn init(options: &EalOptions) -> Result<Self, Error> {
        let arguments = options.arguments();
        let mut argv = vec![c"dpdk".to_owned().into_raw()];
        for argument in &arguments {
            argv.push(c_string(argument)?.into_raw());
        }
        let argc = argv.len() as i32;
        argv.push(std::ptr::null_mut());
        // DPDK reorders the array and may keep pointers into it: it lives as long as the process.
        let argv: &'static mut [*mut c_char] = argv.leak();

        static STARTED: AtomicBool = AtomicBool::new(false);
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(Error::AlreadyInitialized);
        }
        let private = PrivateRuntimeDir::if_needed().map_err(Error::RuntimeDir)?;
        let alone = options.workers.iter().all(|lcore| *lcore == options.main_lcore);
        let ordinary = alone.then(OrdinaryThreads::if_needed).flatten();
        let affinity = (!options.pin_main).then(Affinity::of_this_thread);
        // SAFETY: `argv` holds `argc` NUL-terminated strings and a NULL, all alive for ever; STARTED makes this the first call.
        let started = Reason::check(|| unsafe { sys::rte_eal_init(argc, argv.as_mut_ptr()) });
        if let Some(affinity) = affinity {
            affinity.restore();
        }
        drop(ordinary);
        let mut runtime_dirs: Vec<PathBuf> =
            options.file_prefix.is_none().then(runtime_dir).flatten().into_iter().collect();
        runtime_dirs.extend(private.map(PrivateRuntimeDir::keep));
        if started.is_err() || !options.telemetry {
            // Only telemetry uses it once the EAL is up. A process that is killed then leaves nothing behind.
            remove_dirs(&runtime_dirs);
            runtime_dirs.clear();
        }
        match started {
            Ok(_) => Ok(Self {
                inner: Arc::new(Inner {
                    runtime_dirs,
                    open_ports: Mutex::default(),
                    control: Mutex::default(),
                }),
            }),
            Err(reason) => Err(Error::Eal { arguments: arguments.join(" "), reason }),
        }
    }

    /// True if memory is on hugepages.
    pub fn has_hugepages(&self) -> bool {
        // SAFETY: the EAL is initialised.
        unsafe { sys::rte_eal_has_hugepages() != 0 }
    }

    /// Bytes of DPDK's heap on `socket` that are in use, pools and tables included; 0 for a socket that is none of the machine's.
    pub fn heap_in_use(&self, socket: SocketId) -> usize {
        let mut stats = sys::rte_malloc_socket_stats::default();
        // SAFETY: the EAL is initialised, `stats` is writable; DPDK checks the socket and writes nothing for a wrong one.
        unsafe { sys::rte_malloc_get_socket_stats(socket.0, &mut stats) };
        stats.heap_allocsz_bytes
    }

    /// Runs `work` while no other thread changes devices or launches on lcores.
    pub(crate) fn control<T>(&self, work: impl FnOnce() -> T) -> T {
        let _guard = self.inner.control.lock().unwrap_or_else(PoisonError::into_inner);
        work()
    }

    /// Notes that a port is open; false if it was already.
    pub(crate) fn claim_port(&self, port: u16) -> bool {
        let mut open = self.inner.open_ports.lock().unwrap_or_else(PoisonError::into_inner);
        let free = !open.contains(&port);
        if free {
            open.push(port);
        }
        free
    }

    pub(crate) fn release_port(&self, port: u16) {
        self.inner.open_ports.lock().unwrap_or_else(PoisonError::into_inner).retain(|&open| open != port);
    }
}

impl fmt::Debug for Eal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Eal")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: whatever uses DPDK's memory holds an Eal, so nothing does any more.
        unsafe { sys::rte_eal_cleanup() };
        remove_dirs(&self.runtime_dirs);
    }
}

pub(crate) fn c_string(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Nul(text.into()))
}

/// Where DPDK put this process's run-time files.
fn runtime_dir() -> Option<PathBuf> {
    // SAFETY: returns a pointer to a static buffer, empty if the EAL did not get that far.
    let dir = unsafe { CStr::from_ptr(sys::rte_eal_get_runtime_dir()) }.to_str().ok()?;
    (!dir.is_empty()).then(|| dir.into())
}

fn remove_dirs(dirs: &[PathBuf]) {
    for dir in dirs {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::emit(&format!("cannot remove {}: {error}", dir.display()));
            }
            _ => {}
        }
    }
}

/// A run-time directory of the process's own, for an unprivileged user whose `XDG_RUNTIME_DIR` is missing or unusable: DPDK
/// would use a directory in /tmp that the first user of it owns.
struct PrivateRuntimeDir {
    path: PathBuf,
    before: Option<OsString>,
}

const RUNTIME_DIR_VARIABLE: &str = "XDG_RUNTIME_DIR";

impl PrivateRuntimeDir {
    fn if_needed() -> io::Result<Option<Self>> {
        // SAFETY: getuid has no preconditions.
        let root = unsafe { libc::getuid() } == 0;
        let before = env::var_os(RUNTIME_DIR_VARIABLE);
        // systemd's, with RuntimeDirectory= in the unit; DPDK prefers it.
        let given = env::var_os("RUNTIME_DIRECTORY").is_some();
        if root || given || before.as_deref().is_some_and(|dir| is_writable(Path::new(dir))) {
            return Ok(None);
        }
        let path = env::temp_dir().join(format!("dpdk-runtime-{}", std::process::id()));
        // Fails if somebody else made it first, which in a shared directory is the safe thing to do.
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        // SAFETY: `Eal::init` asks to be called before other threads read the environment.
        unsafe { env::set_var(RUNTIME_DIR_VARIABLE, &path) };
        Ok(Some(Self { path, before }))
    }

    /// Puts the environment back; the directory is the caller's to remove.
    fn keep(mut self) -> PathBuf {
        mem::take(&mut self.path)
    }
}

impl Drop for PrivateRuntimeDir {
    fn drop(&mut self) {
        // SAFETY: as in `if_needed`; DPDK reads the variable only while it starts.
        unsafe {
            match &self.before {
                Some(value) => env::set_var(RUNTIME_DIR_VARIABLE, value),
                None => env::remove_var(RUNTIME_DIR_VARIABLE),
            }
        }
    }
}

fn is_writable(dir: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: the path is NUL-terminated and alive for the call.
    CString::new(dir.as_os_str().as_bytes())
        .is_ok_and(|path| unsafe { libc::access(path.as_ptr(), libc::W_OK) } == 0)
}

/// While this lives, threads that a real-time thread starts are ordinary ones.
///
/// DPDK's control threads inherit the class of the thread that starts it, and are put on the other cores. Where a worker of
/// another process polls with the same priority they would never run; then DPDK waits for them for ever, when it starts, and the
/// kernel when the process ends. (Not for processes with workers, which are to inherit it: a process without privileges could not
/// give it to them later.)
struct OrdinaryThreads {
    policy: i32,
    parameters: libc::sched_param,
}

impl OrdinaryThreads {
    fn if_needed() -> Option<Self> {
        // SAFETY: pid 0 is the calling thread.
        let policy = unsafe { libc::sched_getscheduler(0) };
        // SAFETY: an all-zero sched_param is a valid one.
        let mut parameters = unsafe { mem::zeroed() };
        // SAFETY: `parameters` is writable.
        unsafe { libc::sched_getparam(0, &mut parameters) };
        let ordinary = Self { policy, parameters };
        let needed = matches!(policy, libc::SCHED_FIFO | libc::SCHED_RR);
        needed.then(|| {
            ordinary.set(policy | libc::SCHED_RESET_ON_FORK);
            ordinary
        })
    }

    fn set(&self, policy: i32) {
        // SAFETY: as above; what the kernel refuses changes nothing. Taking the flag away takes a privilege: without it, threads
        // that this one starts later are ordinary ones too.
        unsafe { libc::sched_setscheduler(0, policy, &self.parameters) };
    }
}

impl Drop for OrdinaryThreads {
    fn drop(&mut self) {
        self.set(self.policy);
    }
}

/// The CPUs a thread may run on: rte_eal_init pins its caller.
struct Affinity(libc::cpu_set_t);

impl Affinity {
    fn of_this_thread() -> Self {
        // SAFETY: an all-zero cpu_set_t is a valid, empty set.
        let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
        // SAFETY: `set` is writable and its size is given; pid 0 is the calling thread.
        unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
        Self(set)
    }

    fn restore(&self) {
        // SAFETY: as above; an empty set (the read had failed) is refused by the kernel and changes nothing.
        unsafe { libc::sched_setaffinity(0, size_of_val(&self.0), &self.0) };
    }
}
