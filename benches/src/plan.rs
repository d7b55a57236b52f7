//! Which benches there are, and which of them to run.

use crate::{
    Stand, agent, bad, hotpath, instructions, latency, memif, peers, replay, rings, rpc, soak, table, workers,
};
use anyhow::{Result, bail, ensure};

/// A bench.
pub struct Bench {
    /// Its figures' names begin with it.
    pub name: &'static str,
    /// It needs a second core.
    two_cores: bool,
    /// It takes long: only with --full.
    long: bool,
    /// Measures.
    pub run: fn(&mut Stand) -> Result<()>,
}

const fn bench(name: &'static str, two_cores: bool, run: fn(&mut Stand) -> Result<()>) -> Bench {
    Bench { name, two_cores, long: false, run }
}

/// The hot path, at one of several times of a report: a machine has quick and slow minutes.
const HOTPATH: Bench = bench("hotpath", false, |stand| hotpath::bench(stand, false));
/// All of it.
const WHOLE_HOTPATH: Bench = bench("hotpath", false, |stand| hotpath::bench(stand, true));

/// All, in the order in which they run.
const BENCHES: [Bench; 17] = [
    WHOLE_HOTPATH,
    bench(instructions::NAME, false, |stand| instructions::bench(&mut stand.report, stand.budget.as_ref())),
    Bench { long: true, ..bench("rings", true, rings::bench) },
    bench("memif", true, memif::bench),
    bench("latency", true, latency::bench),
    HOTPATH,
    bench("bad", false, bad::bench),
    Bench { long: true, ..bench("soak", true, soak::bench) },
    bench("peers", true, peers::bench),
    HOTPATH,
    bench("workers", true, workers::bench),
    bench("table", false, table::bench),
    HOTPATH,
    bench("replay", false, |stand| replay::bench(&mut stand.report, stand.runs)),
    bench("rpc", true, rpc::bench),
    bench("agent", false, |stand| agent::bench(&mut stand.report, stand.runs)),
    WHOLE_HOTPATH,
];

/// Names for people.
pub fn names() -> String {
    let mut names = Vec::new();
    for Bench { name, .. } in &BENCHES {
        if !names.contains(name) {
            names.push(*name);
        }
    }
    names.join(", ")
}

/// The benches whose names start with one of `only`, or all if there is none; those that cannot run here are left out, unless
/// they are all that is asked for.
pub fn plan(only: &[String], two_cores: bool, full: bool) -> Result<Vec<&'static Bench>> {
    const ALL: &[Bench] = &BENCHES;
    for name in only {
        let named: Vec<_> =
            ALL.iter().filter(|bench| !name.is_empty() && bench.name.starts_with(name.as_str())).collect();
        ensure!(!named.is_empty(), "--only {name:?}: no bench's name starts so; there are {}", names());
        if named.iter().all(|bench| bench.long && !full) {
            bail!("--only {name}: takes long; add --full");
        }
        if named.iter().all(|bench| bench.two_cores && !two_cores) {
            bail!("--only {name}: needs two cores, and this process may use one");
        }
    }
    let wanted =
        |bench: &&Bench| only.is_empty() || only.iter().any(|name| bench.name.starts_with(name.as_str()));
    let possible = |bench: &&Bench| (two_cores || !bench.two_cores) && (full || !bench.long);
    Ok(ALL.iter().filter(wanted).filter(possible).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(only: &[&str], two_cores: bool, full: bool) -> Result<Vec<&'static str>> {
        let only: Vec<_> = only.iter().copied().map(String::from).collect();
        Ok(plan(&only, two_cores, full)?.iter().map(|bench| bench.name).collect())
    }

    #[test]
    fn what_is_asked_for_runs_in_order() {
        assert_eq!(planned(&[], true, true).unwrap().len(), BENCHES.len());
        assert!(!planned(&[], true, false).unwrap().contains(&"soak"));
        let one_core = planned(&[], false, false).unwrap();
        assert!(one_core.contains(&"hotpath") && !one_core.contains(&"memif"), "{one_core:?}");
        assert_eq!(planned(&["peers", "mem"], true, false).unwrap(), ["memif", "peers"]);
    }

    #[test]
    fn what_cannot_run_is_refused() {
        let refused = |only: &[&str], two_cores| planned(only, two_cores, false).unwrap_err().to_string();
        for name in ["hotpaths", "", "Memif"] {
            let error = refused(&["memif", name], true);
            assert!(
                error.contains(&format!("{name:?}")) && error.contains("hotpath, instructions,"),
                "{error}"
            );
        }
        assert_eq!(refused(&["soak"], true), "--only soak: takes long; add --full");
        assert!(refused(&["memif"], false).contains("needs two cores"));
    }
}
