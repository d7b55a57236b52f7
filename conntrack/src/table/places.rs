//! Where a session is in the indices, for those who take it out: three lines of memory, or up to six.

use super::entry::Entry;
use super::index::{Index, Place};
use super::record::{Record, V6};
use super::writer::Writer;
use super::{Family, SessionTable};

/// A place for the id and each flow, of the two that each may be in.
pub(super) struct Places {
    id: Place,
    flows: [Place; 2],
}

impl SessionTable {
    /// Where the session in `slot` is in the indices, if it is in its first places.
    pub(super) fn places(&self, slot: u32, record: &Record) -> Places {
        fn flows<E: Entry>(table: &SessionTable, family: &Family<E>, slot: u32) -> (u64, [Place; 2]) {
            let Some((first, second)) = family.pair(slot) else { return Default::default() };
            let place = |entry: &E| family.index.first(E::hash(&table.hasher, &entry.key()));
            (first.origin(), [place(first), place(second)])
        }
        let is_v6 = record.state().has(V6);
        let (id, flows) = if is_v6 { flows(self, &self.v6, slot) } else { flows(self, &self.v4, slot) };
        Places { id: self.ids.first(self.hasher.hash_1(id)), flows }
    }

    /// The index of its flows.
    fn flow_index(&self, record: &Record) -> &Index {
        if record.state().has(V6) { &self.v6.index } else { &self.v4.index }
    }

    /// Asks for the memory of `places`.
    pub(super) fn prefetch_places(&self, record: &Record, places: &Places) {
        let buckets = self.flow_index(record).buckets();
        places.flows.into_iter().for_each(|place| buckets.prefetch(place));
        self.ids.buckets().prefetch(places.id);
    }

    /// Moves on to the other places of what is not in its first, and asks for them.
    pub(super) fn locate(&self, slot: u32, record: &Record, Places { id, flows }: &mut Places) {
        let [forward, reverse] = flows;
        let index = self.flow_index(record);
        index.locate(forward, slot * 2);
        index.locate(reverse, slot * 2 + 1);
        self.ids.locate(id, slot);
    }

    /// Takes the flows and the id of the session in `slot` out of the indices.
    pub(super) fn unlink(&self, writer: &mut Writer, slot: u32, record: &Record, places: &Places) {
        let [forward, reverse] = places.flows;
        let index = self.flow_index(record);
        index.remove(&mut writer.search, forward, slot * 2);
        index.remove(&mut writer.search, reverse, slot * 2 + 1);
        self.ids.remove(&mut writer.search, places.id, slot);
        if let Some(flows) = self.hot(slot, record) {
            flows.iter().for_each(|flow| flow.bury());
        }
    }
}
