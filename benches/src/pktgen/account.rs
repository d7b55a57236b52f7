//! Loss, duplicates and order of a flow, from the sequence numbers that arrive.

/// Numbers before the highest that are remembered one by one.
pub const WINDOW: u32 = 32;

/// What one packet says about its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The next one, or one after a gap.
    InOrder,
    /// Later than one with a higher number (RFC 4737: reordered).
    Reordered,
    /// Was here before.
    Duplicate,
    /// So late that nobody remembers whether it was here before.
    TooLate,
}

/// What has arrived of a flow, its numbers counted from 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// The highest that has arrived, plus one.
    next: u32,
    /// The numbers before `next`, the nearest in the lowest bit.
    seen: u32,
}

impl Window {
    /// Takes a number.
    #[inline]
    pub fn arrive(&mut self, sequence: u32) -> Arrival {
        if sequence == self.next {
            self.next = sequence.wrapping_add(1);
            self.seen = self.seen << 1 | 1;
            return Arrival::InOrder;
        }
        self.arrive_late(sequence)
    }

    fn arrive_late(&mut self, sequence: u32) -> Arrival {
        if sequence > self.next {
            let distance = sequence - self.next + 1;
            self.seen = self.seen.checked_shl(distance).unwrap_or(0) | 1;
            self.next = sequence.wrapping_add(1);
            return Arrival::InOrder;
        }
        let age = self.next - sequence - 1;
        if age >= WINDOW {
            return Arrival::TooLate;
        }
        let bit = 1 << age;
        if self.seen & bit != 0 {
            return Arrival::Duplicate;
        }
        self.seen |= bit;
        Arrival::Reordered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn arrivals(sequences: &[u32]) -> Vec<Arrival> {
        let mut window = Window::default();
        sequences.iter().map(|sequence| window.arrive(*sequence)).collect()
    }

    #[test]
    fn each_kind_is_told_from_the_others() {
        use Arrival::{Duplicate, InOrder, Reordered, TooLate};
        assert_eq!(arrivals(&[0, 1, 2]), [InOrder; 3]);
        assert_eq!(arrivals(&[0, 2, 1, 3]), [InOrder, InOrder, Reordered, InOrder]);
        assert_eq!(arrivals(&[0, 0, 1, 0]), [InOrder, Duplicate, InOrder, Duplicate]);
        assert_eq!(arrivals(&[5, 5, 0, 0]), [InOrder, Duplicate, Reordered, Duplicate]);
        assert_eq!(arrivals(&[32, 0, 1, 1]), [InOrder, TooLate, Reordered, Duplicate]);
        assert_eq!(arrivals(&[100, 69, 68, 31, 69]), [InOrder, Reordered, TooLate, TooLate, Duplicate]);
    }

    /// Against a set that forgets nothing.
    #[test]
    fn a_long_disorder_is_counted_as_by_a_set() {
        let (mut window, mut set, mut highest) = (Window::default(), HashSet::new(), None);
        let mut random = 1_u64;
        for step in 0..100_000_u32 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let sequence = step + (random >> 60) as u32;
            let expected = match (set.insert(sequence), highest) {
                (false, _) => Arrival::Duplicate,
                (true, Some(highest)) if sequence < highest => Arrival::Reordered,
                (true, _) => Arrival::InOrder,
            };
            highest = highest.max(Some(sequence));
            assert_eq!(window.arrive(sequence), expected, "{sequence}");
        }
    }
}
