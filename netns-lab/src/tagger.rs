//! 802.1Q tags by two tc eBPF programs, for kernels without 8021q devices. See `bpf/tagger.c`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{SETUP_LIMIT, installed, run};
use crate::error::{Error, Result};
use crate::netns::Netns;

/// Index of the uplink's interface in the namespace with the tagger.
pub const UPLINK_INDEX: u32 = 2;
/// The interface of VLAN n has the index `VLAN_BASE` + n.
const VLAN_BASE: u32 = 10_000;

const SOURCE: &str = include_str!("../bpf/tagger.c");

/// The compiled programs.
#[derive(Debug)]
pub struct Tagger {
    object: PathBuf,
}

impl Tagger {
    /// Compiles the programs into `directory`.
    ///
    /// # Errors
    /// [`Error::Missing`] without clang, [`Error::Command`] if it refuses.
    pub fn compile(directory: &Path) -> Result<Self> {
        let (source, object) = (directory.join("tagger.c"), directory.join("tagger.o"));
        fs::write(&source, SOURCE).map_err(Error::io(format!("write {}", source.display())))?;
        let uplink = format!("-DUPLINK={UPLINK_INDEX}");
        let base = format!("-DVLAN_BASE={VLAN_BASE}");
        // Where Debian keeps <asm/types.h>; other systems have it in the default path.
        let include = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
        let (input, output) = (source.to_string_lossy(), object.to_string_lossy());
        let argv = [
            clang()?,
            "-O2",
            "-g",
            "-target",
            "bpf",
            &uplink,
            &base,
            "-idirafter",
            &include,
            "-c",
            &input,
            "-o",
            &output,
        ];
        run(&argv, SETUP_LIMIT)?;
        Ok(Tagger { object })
    }

    /// Index that the interface of VLAN `vid` must be made with.
    pub fn index(vid: u16) -> u32 {
        VLAN_BASE + u32::from(vid)
    }

    /// Makes `device`, with the index [`Tagger::index`], carry its VLAN of the uplink.
    ///
    /// # Errors
    /// [`Error::Command`] if tc refuses.
    pub fn attach_vlan(&self, netns: &Netns, device: &str) -> Result<()> {
        self.attach(netns, device, "tag")
    }

    /// Makes the uplink `device`, with the index [`UPLINK_INDEX`], deliver tagged frames to their VLAN's interface.
    ///
    /// # Errors
    /// [`Error::Command`] if tc refuses.
    pub fn attach_uplink(&self, netns: &Netns, device: &str) -> Result<()> {
        self.attach(netns, device, "untag")
    }

    fn attach(&self, netns: &Netns, device: &str, section: &str) -> Result<()> {
        let object = self.object.to_string_lossy();
        netns.run(&["tc", "qdisc", "add", "dev", device, "clsact"], SETUP_LIMIT)?;
        let filter =
            ["tc", "filter", "add", "dev", device, "ingress", "bpf", "da", "obj", &object, "sec", section];
        netns.run(&filter, SETUP_LIMIT)?;
        Ok(())
    }
}

/// clang, under whatever name Debian gives it.
fn clang() -> Result<&'static str> {
    const NAMES: [&str; 7] =
        ["clang", "clang-14", "clang-15", "clang-16", "clang-17", "clang-18", "clang-19"];
    NAMES
        .into_iter()
        .find(|name| installed(name))
        .ok_or(Error::Missing { program: "clang", package: "clang" })
}
