//! Counts a flow's packets where the kernel's network function forwards them.

use crate::command::SETUP_LIMIT;
use crate::demo::flows::Flow;
use crate::error::{Error, Result};
use crate::netns::Netns;

const TABLE: &str = "lab_counter";

/// A counter in a VNF's namespace, there until dropped.
pub(super) struct Counter<'a> {
    netns: &'a Netns,
}

impl<'a> Counter<'a> {
    /// Counts the packets of `flow`, both ways, from now on.
    pub(super) fn new(netns: &'a Netns, flow: &Flow) -> Result<Self> {
        let ruleset = format!(
            "add table inet {TABLE}; \
             add counter inet {TABLE} seen; \
             add chain inet {TABLE} forward {{ type filter hook forward priority mangle; }}; \
             add rule inet {TABLE} forward {} counter name seen",
            flow.nft_match()
        );
        netns.run(&["nft", &ruleset], SETUP_LIMIT)?;
        Ok(Counter { netns })
    }

    /// How many there were so far.
    pub(super) fn packets(&self) -> Result<u64> {
        let text = self.netns.run(&["nft", "-j", "list", "counter", "inet", TABLE, "seen"], SETUP_LIMIT)?;
        let json: Option<serde_json::Value> = serde_json::from_str(&text).ok();
        let packets = json.as_ref().and_then(|json| {
            let objects = json.get("nftables")?.as_array()?;
            objects.iter().find_map(|object| object.pointer("/counter/packets")?.as_u64())
        });
        packets.ok_or(Error::Output { program: "nft".to_owned(), output: text })
    }
}

impl Drop for Counter<'_> {
    fn drop(&mut self) {
        let _ = self.netns.run(&["nft", "delete", "table", "inet", TABLE], SETUP_LIMIT);
    }
}
