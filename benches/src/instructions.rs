//! Instructions per packet by stage, counted by callgrind: the same on every run and whatever else the machine does, so that
//! they can be a gate. Not a measure of time: a miss costs no instruction.

use crate::hotpath::{self, Bed, Flow, Frames};
use crate::report::Report;
use anyhow::{Context, Result, bail, ensure};
use dpdk::{Eal, EalOptions, Mempool, PoolOptions};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The argument that makes this process the one that is counted.
pub const CHILD: &str = "instructions-child";
/// What follows the number of packets: which flow they are of.
const FORWARD: &str = "forward";
const REVERSE: &str = "reverse";
const IPV6: &str = "ipv6";
const OVER_IPV6: &str = "over_ipv6";
const REVERSE_OVER_IPV6: &str = "reverse_over_ipv6";
/// Of this bench.
pub const NAME: &str = "instructions";
const SESSIONS: u32 = 1_000;
/// Packets of the two counted runs; what they differ by is free of start-up.
const PACKETS: [u64; 2] = [3_200, 16_000];
/// How far above the budget a count may be: compilers differ a little.
const TOLERANCE: f64 = 1.03;
/// What is counted, under the name of the report, of which flow, and whose instructions they are.
const FUNCTIONS: [(&str, &str, &str); 12] = [
    ("ingress", FORWARD, "pipeline::ingress::run"),
    ("classify", FORWARD, "pipeline::classify::run"),
    ("seek", FORWARD, "reader::seek_some"),
    ("lookup", FORWARD, "pipeline::lookup::run"),
    ("encap", FORWARD, "pipeline::encap::put_known"),
    ("egress", FORWARD, "pipeline::egress::run"),
    ("all", FORWARD, "hotpath::counted"),
    ("reverse_decap", REVERSE, "pipeline::decap::each"),
    ("reverse_all", REVERSE, "hotpath::counted"),
    ("ipv6_all", IPV6, "hotpath::counted"),
    ("over_ipv6_all", OVER_IPV6, "hotpath::counted"),
    ("reverse_over_ipv6_all", REVERSE_OVER_IPV6, "hotpath::counted"),
];

/// Instructions per packet that no stage may exceed.
pub struct Budget {
    file: PathBuf,
    allowed: BTreeMap<String, f64>,
}

impl Budget {
    /// From a file of `stage = instructions`, with all stages.
    pub fn load(file: &Path) -> Result<Self> {
        let name = || format!("--budget {}", file.display());
        let text = std::fs::read_to_string(file).with_context(name)?;
        let allowed: BTreeMap<String, f64> = toml::from_str(&text).with_context(name)?;
        for (stage, ..) in FUNCTIONS {
            ensure!(allowed.contains_key(stage), "{}: no budget for {stage}", name());
        }
        Ok(Self { file: file.to_owned(), allowed })
    }

    fn check(&self, figures: &BTreeMap<&str, f64>) -> Result<()> {
        let mut over = Vec::new();
        for (stage, figure) in figures {
            let allowed = self.allowed.get(*stage).with_context(|| format!("no budget for {stage}"))?;
            if *figure > allowed * TOLERANCE {
                over.push(format!("{stage}: {figure:.1} instructions per packet, budget {allowed:.1}"));
            }
        }
        if !over.is_empty() {
            bail!("over budget; if that is meant, change {}:\n{}", self.file.display(), over.join("\n"));
        }
        Ok(())
    }
}

/// In the child: takes `packets` packets of the flow named through a worker.
pub fn child(packets: u64, flow: &str) -> Result<()> {
    let eal = Eal::init(&EalOptions { hugepages: false, memory_mib: 64, ..EalOptions::default() })?;
    let pool = Mempool::new(
        &eal,
        &PoolOptions { name: "counted", count: 1_023, cache: 64, ..PoolOptions::default() },
    )?;
    let flow = match flow {
        REVERSE => Flow::Reverse,
        IPV6 => Flow::ForwardV6,
        OVER_IPV6 => Flow::ForwardOverV6,
        REVERSE_OVER_IPV6 => Flow::ReverseOverV6,
        _ => Flow::Forward,
    };
    let mut bed = Bed::of(&eal, flow, SESSIONS, 0, false, &pool)?;
    hotpath::counted_run(&pool, &mut bed, &mut Frames::of_flow(flow, 0..SESSIONS), packets)
}

/// Counts, adds the figures, and holds them against `budget` if there is one.
pub fn bench(report: &mut Report, budget: Option<&Budget>) -> Result<()> {
    let [fewer, more] = PACKETS;
    let counts = |flow| anyhow::Ok((flow, (count(fewer, flow)?, count(more, flow)?)));
    let flows: BTreeMap<_, _> = [FORWARD, REVERSE, IPV6, OVER_IPV6, REVERSE_OVER_IPV6]
        .into_iter()
        .map(counts)
        .collect::<Result<_>>()?;
    let mut figures = BTreeMap::new();
    for (stage, flow, function) in FUNCTIONS {
        let (before, after) = flows.get(flow).context("it was counted")?;
        let total = |counts: &BTreeMap<String, u64>| -> u64 {
            counts.iter().filter(|(name, _)| name.contains(function)).map(|(_, cost)| cost).sum()
        };
        let difference = total(after).checked_sub(total(before)).filter(|cost| *cost > 0);
        let difference =
            difference.with_context(|| format!("no instructions of {function}: was it renamed?"))?;
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        let figure = difference as f64 / (more - fewer) as f64;
        figures.insert(stage, figure);
        report.add(
            format!("instructions.{stage}"),
            "instructions",
            vec![figure],
            match flow {
                REVERSE => "per packet, VXLAN to VLAN, 64 B, bursts of 32, callgrind",
                OVER_IPV6 => "per packet, VLAN to VXLAN over IPv6, 64 B, bursts of 32, callgrind",
                REVERSE_OVER_IPV6 => "per packet, VXLAN over IPv6 to VLAN, 64 B, bursts of 32, callgrind",
                IPV6 => "per packet, IPv6, VLAN to VXLAN, 84 B, bursts of 32, callgrind",
                _ => "per packet, VLAN to VXLAN, 64 B, bursts of 32, callgrind",
            },
        );
    }
    match budget {
        Some(budget) => budget.check(&figures),
        None => Ok(()),
    }
}

/// Instructions by function, what it calls included, of a child that takes `packets` of that flow.
fn count(packets: u64, flow: &str) -> Result<BTreeMap<String, u64>> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("callgrind.out");
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args([CHILD, &packets.to_string(), flow])
        .env("XDG_RUNTIME_DIR", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("valgrind: install it (make setup does)")?;
    ensure!(status.success(), "the counted process failed: {status}");
    inclusive(&std::fs::read_to_string(out)?)
}

/// Reads callgrind's profile format: a function's own lines, and after each `calls=` line what that call cost.
fn inclusive(profile: &str) -> Result<BTreeMap<String, u64>> {
    let mut costs: BTreeMap<String, u64> = BTreeMap::new();
    let mut function = String::new();
    for line in profile.lines() {
        if let Some(name) = line.strip_prefix("fn=") {
            function = name.to_owned();
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            let cost = line.split_whitespace().nth(1).context("a line without a cost")?;
            *costs.entry(function.clone()).or_default() += cost.parse::<u64>()?;
        }
    }
    Ok(costs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_count_for_the_caller() {
        let profile = "events: Ir\n\nfn=a\n1 10\ncfn=b\ncalls=2 5\n3 40\n\nfn=b\n5 40\n";
        let costs = inclusive(profile).unwrap();
        assert_eq!((costs["a"], costs["b"]), (50, 40));
    }

    #[test]
    fn over_budget_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = FUNCTIONS.map(|(stage, ..)| format!("{stage} = 50.0\n")).concat();
        std::fs::write(&file, &text).unwrap();
        let budget = Budget::load(file.path()).unwrap();
        assert!(budget.check(&BTreeMap::from([("encap", 51.0)])).is_ok());
        let error = budget.check(&BTreeMap::from([("encap", 60.0)])).unwrap_err();
        assert!(error.to_string().contains("encap: 60.0"), "{error}");
        for (text, message) in [(text.replace("encap", "decap"), "no budget for encap"), ("x".into(), "TOML")]
        {
            std::fs::write(&file, text).unwrap();
            let error = format!("{:#}", Budget::load(file.path()).err().unwrap());
            let name = format!("--budget {}: ", file.path().display());
            assert!(error.starts_with(&name) && error.contains(message), "{error}");
        }
    }
}
