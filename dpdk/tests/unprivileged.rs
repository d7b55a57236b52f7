//! The EAL as an ordinary user without a runtime directory: the test runs itself again as nobody.

mod common;

use std::{
    env, fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

const INSIDE: &str = "DPDK_TEST_UNPRIVILEGED";
const NOBODY: u32 = 65534;

#[test]
fn unprivileged() {
    if env::var_os(INSIDE).is_some() {
        return works();
    }
    // A process owns its own /proc/self.
    let root = fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    if !root {
        return works();
    }
    // Nobody may not read the build's folder: run a copy.
    let dir = env::temp_dir().join(format!("dpdk-unprivileged-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let program = dir.join("test");
    fs::copy(env::current_exe().unwrap(), &program).unwrap();
    for runtime_dir in [None, Some("/nonexistent")] {
        let mut command = Command::new(&program);
        command.args(["--exact", "unprivileged", "--nocapture"]).env(INSIDE, "1").env("TMPDIR", &dir);
        command.env_remove("XDG_RUNTIME_DIR").env_remove("RUNTIME_DIRECTORY").current_dir("/");
        command.envs(runtime_dir.map(|dir| ("XDG_RUNTIME_DIR", dir)));
        let output = command.uid(NOBODY).gid(NOBODY).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["test"], "something was left behind");
    }
    fs::remove_dir_all(&dir).unwrap();
}

fn works() {
    let before = env::var_os("XDG_RUNTIME_DIR");
    let eal = common::eal();
    assert_eq!(env::var_os("XDG_RUNTIME_DIR"), before);
    let pool = common::pool(&eal, "nobody");
    let mut port = dpdk::Port::open(&eal, "net_null0").unwrap();
    port.configure(&dpdk::PortOptions::default(), &pool).unwrap();
    let (mut rx, _tx) = port.start().unwrap();
    let mut burst = arrayvec::ArrayVec::<dpdk::Mbuf, 32>::new();
    assert_eq!(rx[0].rx_burst(&mut burst), 32);
}
