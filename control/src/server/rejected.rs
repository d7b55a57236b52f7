//! Why sessions were not installed, counted.

use super::admission::Refusal;
use crate::session_manager::SpecError;
use conntrack::InsertError;
use std::sync::atomic::{AtomicU64, Ordering};

const NAMES: [&str; 7] = [
    "rejected_full",
    "rejected_l2_full",
    "rejected_exists",
    "rejected_invalid",
    "rejected_unknown_lif",
    "rejected_unsupported",
    "rejected_inactive",
];

/// By reason.
#[derive(Debug, Default)]
pub(super) struct Rejected([AtomicU64; NAMES.len()]);

impl Rejected {
    pub(super) fn count(&self, refusal: &Refusal) {
        let reason = match refusal {
            Refusal::Table(InsertError::Full) => 0,
            Refusal::Table(InsertError::L2Full) => 1,
            Refusal::Table(InsertError::IdExists(_) | InsertError::FlowExists(_)) => 2,
            Refusal::Table(InsertError::Invalid(_)) | Refusal::Spec(SpecError::Field { .. }) => 3,
            Refusal::Spec(SpecError::UnknownLif { .. }) => 4,
            Refusal::Spec(SpecError::NoCopies | SpecError::CollectorFamily { .. }) => 5,
            Refusal::Inactive => 6,
        };
        self.0[reason].fetch_add(1, Ordering::Relaxed);
    }

    /// Each reason with its number.
    pub(super) fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.into_iter().zip(self.0.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}
