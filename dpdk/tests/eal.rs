//! The EAL's life: once per process, lcores, threads; nothing left behind.

mod common;

use std::{fs, path::Path, sync::mpsc, thread};

use dpdk::{Eal, EalOptions, Error, LcoreId, current_lcore, register_thread};

#[test]
fn eal() {
    let cpus = allowed_cpus();
    let Some(&worker) = cpus.iter().find(|&&cpu| cpu != cpus[0]) else {
        eprintln!("SKIPPED: a worker lcore needs a second CPU");
        return;
    };
    dpdk::set_log_sink(|_| {});
    let nul = EalOptions { extra: vec!["--vdev=\0".into()], ..common::options() };
    assert!(matches!(Eal::init(&nul), Err(Error::Nul(_))), "found before anything starts");
    let eal =
        Eal::init(&EalOptions { main_lcore: cpus[0], workers: vec![worker], ..common::options() }).unwrap();
    assert_eq!(allowed_cpus(), cpus, "the calling thread keeps its CPUs");
    assert!(!eal.has_hugepages() && dpdk::version().starts_with("DPDK "));
    assert!(matches!(Eal::init(&common::options()), Err(Error::AlreadyInitialized)));
    assert!(dpdk::tsc_hz(&eal) > 1_000_000 && dpdk::tsc() < dpdk::tsc());

    lcores(&eal, LcoreId(cpus[0]), LcoreId(worker));
    threads(&eal);
    shutdown(eal);
}

fn lcores(eal: &Eal, main: LcoreId, worker: LcoreId) {
    assert_eq!((eal.main_lcore(), eal.worker_lcores()), (main, vec![worker]));
    assert_eq!(current_lcore(), Some(main));
    for other in [main, LcoreId(127), LcoreId(u32::MAX)] {
        assert!(matches!(eal.launch(other, || ()), Err(Error::NotWorker(_))));
    }
    let (go, wait) = mpsc::channel::<()>();
    let running = eal.launch(worker, move || (wait.recv().is_ok(), current_lcore(), allowed_cpus())).unwrap();
    assert!(!running.is_finished());
    assert!(matches!(eal.launch(worker, || ()), Err(Error::LcoreBusy(lcore)) if lcore == worker));
    go.send(()).unwrap();
    assert_eq!(running.join().unwrap(), (true, Some(worker), vec![worker.0]));

    let panicking = eal.launch(worker, || -> u32 { panic!("on purpose: {}", 7) }).unwrap();
    let error = panicking.join().unwrap_err().to_string();
    assert_eq!(error, format!("lcore {} panicked: on purpose: 7", worker.0));
    let (done, finished) = mpsc::channel();
    drop(eal.launch(worker, move || done.send(()).unwrap()).unwrap());
    finished.try_recv().expect("dropping the handle waits");
    assert_eq!(eal.launch(worker, || 5).unwrap().join().unwrap(), 5, "the lcore is usable after a panic");
}

fn threads(eal: &Eal) {
    let eal = eal.clone();
    thread::spawn(move || {
        assert_eq!(current_lcore(), None);
        let registered = register_thread(&eal).unwrap();
        let lcore = current_lcore().expect("a number of its own");
        assert_ne!(lcore, eal.main_lcore());
        drop(register_thread(&eal).unwrap());
        assert_eq!(current_lcore(), Some(lcore), "a second registration changes nothing");
        drop(registered);
        assert_eq!(current_lcore(), None);
    })
    .join()
    .unwrap();
}

/// DPDK goes with the last of what uses it, and its files with it.
fn shutdown(eal: Eal) {
    let pool = common::pool(&eal, "last");
    drop(eal);
    assert!(pool.alloc().is_some(), "a pool keeps DPDK up");
    drop(pool);
    let leftover = format!("dpdk-{}", std::process::id());
    for dir in ["/var/run/dpdk", "/tmp/dpdk"] {
        assert!(!Path::new(dir).join(&leftover).exists());
    }
    assert!(matches!(Eal::init(&common::options()), Err(Error::AlreadyInitialized)));
}

fn allowed_cpus() -> Vec<u32> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.trim()
        .split(',')
        .flat_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            first.parse::<u32>().unwrap()..=last.parse().unwrap()
        })
        .collect()
}
