/// How the EAL starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EalOptions {
    /// The lcore (CPU number) that the calling thread stands for.
    pub main_lcore: u32,
    /// The lcores that get a thread each, pinned, for [`Eal::launch`](crate::Eal::launch).
    pub workers: Vec<u32>,
    /// Memory on hugepages; leaves no files in hugetlbfs behind. False: ordinary pages, which needs no privileges, but leaves
    /// PCI devices out of reach.
    pub hugepages: bool,
    /// Memory taken at start, in MiB; all there will ever be without hugepages.
    pub memory_mib: u32,
    /// The NUMA node whose hugepages are taken at start. None: those of all lcores' nodes, by the number of lcores on each.
    pub numa: Option<u16>,
    /// The PCI addresses this process may use. Empty: the PCI bus is left alone.
    pub pci: Vec<String>,
    /// The name DPDK's run-time files go by; processes with the same one disturb each other. None: unique to the process.
    pub file_prefix: Option<String>,
    /// The least severe log level let through, as DPDK writes it: `error`, `warning`, `info`, `lib.eal:debug`.
    pub log_level: String,
    /// Serve DPDK's telemetry socket.
    pub telemetry: bool,
    /// Leave the calling thread pinned to the main lcore's CPU. False: it keeps the CPUs it had.
    pub pin_main: bool,
    /// Further EAL arguments, as they are. With `-l`, `-c` or `--lcores` among them, `main_lcore` and `workers` are not
    /// turned into arguments; with `-m` or `--socket-mem`, `memory_mib` and `numa` are not.
    pub extra: Vec<String>,
}

impl Default for EalOptions {
    /// Lcore 0 only, 512 MiB on hugepages, no PCI, warnings and errors logged.
    fn default() -> Self {
        Self {
            main_lcore: 0,
            workers: Vec::new(),
            hugepages: true,
            memory_mib: 512,
            numa: None,
            pci: Vec::new(),
            file_prefix: None,
            log_level: "warning".into(),
            telemetry: false,
            pin_main: false,
            extra: Vec::new(),
        }
    }
}

impl EalOptions {
    /// The command line these options stand for, without the program's name.
    pub fn arguments(&self) -> Vec<String> {
        let mut args = Vec::new();
        if !Self::has_core_list(&self.extra) {
            let mut lcores = vec![self.main_lcore];
            lcores.extend(self.workers.iter().filter(|&&lcore| lcore != self.main_lcore));
            let list = lcores.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            args.extend(["-l".into(), list, format!("--main-lcore={}", self.main_lcore)]);
        }
        if !self.extra.iter().any(|arg| arg.starts_with("-m") || arg.starts_with("--socket-mem")) {
            match self.numa.filter(|_| self.hugepages) {
                Some(node) => {
                    let others = "0,".repeat(node.into());
                    args.push(format!("--socket-mem={others}{}", self.memory_mib));
                }
                None => args.extend(["-m".into(), self.memory_mib.to_string()]),
            }
        }
        if self.hugepages {
            args.push("--in-memory".into());
        } else {
            args.extend(["--no-huge".into(), "--no-shconf".into()]);
        }
        if self.pci.is_empty() {
            args.push("--no-pci".into());
            if self.hugepages && !self.extra.iter().any(|arg| arg.starts_with("--iova-mode")) {
                // No device needs physical addresses, and net_af_xdp needs a pool in one piece.
                args.push("--iova-mode=va".into());
            }
        }
        for address in &self.pci {
            args.extend(["-a".into(), address.clone()]);
        }
        if !self.telemetry {
            args.push("--no-telemetry".into());
        }
        args.push(format!("--file-prefix={}", self.prefix()));
        args.push(format!("--log-level={}", self.log_level));
        args.extend(self.extra.iter().cloned());
        args
    }

    /// Whether EAL arguments name lcores themselves.
    pub fn has_core_list(arguments: &[String]) -> bool {
        arguments.iter().any(|arg| is_core_list(arg))
    }

    fn prefix(&self) -> String {
        self.file_prefix.clone().unwrap_or_else(|| format!("dpdk-{}", std::process::id()))
    }
}

fn is_core_list(arg: &str) -> bool {
    arg == "--lcores" || arg.starts_with("--lcores=") || arg.starts_with("-l") || arg.starts_with("-c")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_hugepages_nothing_is_shared() {
        let options = EalOptions { hugepages: false, workers: vec![1, 0], ..EalOptions::default() };
        let args = options.arguments();
        assert!(args.contains(&"--no-huge".into()) && args.contains(&"--no-shconf".into()));
        assert!(!args.contains(&"--in-memory".into()));
        assert_eq!(&args[..2], ["-l", "0,1"]);
        let with = EalOptions { hugepages: true, ..options }.arguments();
        assert!(with.contains(&"--in-memory".into()) && with.contains(&"--iova-mode=va".into()));
    }

    #[test]
    fn own_core_list_wins() {
        let options = EalOptions { extra: vec!["--lcores=0@0,1@0".into()], ..EalOptions::default() };
        assert!(!options.arguments().iter().any(|arg| arg == "-l" || arg.starts_with("--main-lcore")));
    }

    #[test]
    fn memory_of_one_node() {
        let options = EalOptions { numa: Some(2), ..EalOptions::default() };
        let args = options.arguments();
        assert!(args.contains(&"--socket-mem=0,0,512".into()) && !args.contains(&"-m".into()), "{args:?}");
        // Ordinary memory has no nodes for DPDK.
        let args = EalOptions { hugepages: false, ..options.clone() }.arguments();
        assert!(args.windows(2).any(|pair| pair == ["-m", "512"]), "{args:?}");
        let args = EalOptions { extra: vec!["--socket-mem=64,64".into()], ..options }.arguments();
        let memory = args.iter().filter(|arg| *arg == "-m" || arg.starts_with("--socket-mem"));
        assert_eq!(memory.collect::<Vec<_>>(), ["--socket-mem=64,64"]);
    }

    #[test]
    fn pci_devices_are_listed() {
        let options = EalOptions { pci: vec!["0000:01:00.0".into()], ..EalOptions::default() };
        let args = options.arguments();
        assert!(!args.contains(&"--no-pci".into()));
        assert!(args.windows(2).any(|pair| pair == ["-a", "0000:01:00.0"]));
    }
}
