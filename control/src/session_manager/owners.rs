//! Who installed sessions: a number in the table, a name for people.

use hashbrown::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Of clients that are not told apart.
pub const ANONYMOUS: u16 = 0;
/// Of clients on the unix socket.
pub const LOCAL: u16 = 1;
/// Longest name, in bytes: so that 10,000 sessions fit into an answer.
pub const MAX_NAME: usize = 100;

/// The names of those who installed sessions. A name has the same number for as long as the process lives; there is room
/// for 65,534 names.
#[derive(Debug)]
pub struct Owners {
    names: RwLock<Names>,
    refused: AtomicU64,
}

#[derive(Debug)]
struct Names {
    by_number: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u16>,
}

impl Default for Owners {
    fn default() -> Self {
        let names = Names { by_number: vec!["".into(), "unix".into()], numbers: HashMap::new() };
        Self { names: RwLock::new(names), refused: AtomicU64::new(0) }
    }
}

impl Owners {
    /// The number of a client's name, a new one if it has none; None if all are given.
    pub fn enroll(&self, name: &Arc<str>) -> Option<u16> {
        if let Some(&number) = self.names.read().unwrap_or_else(PoisonError::into_inner).numbers.get(name) {
            return Some(number);
        }
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(&number) = names.numbers.get(name) {
            return Some(number);
        }
        let Ok(number) = u16::try_from(names.by_number.len()) else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        names.by_number.push(name.clone());
        names.numbers.insert(name.clone(), number);
        Some(number)
    }

    /// The number of a name; None if no client has had it.
    pub fn find(&self, name: &str) -> Option<u16> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let position = names.by_number.iter().position(|known| **known == *name)?;
        u16::try_from(position).ok()
    }

    /// The name of a session's owner; empty for [`ANONYMOUS`].
    pub fn name(&self, number: u16) -> Arc<str> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.by_number.get(usize::from(number)).cloned().unwrap_or_default()
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.read().unwrap_or_else(PoisonError::into_inner).numbers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often a name found no number left.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_numbers_and_are_bounded() {
        let owners = Owners::default();
        let name = |n: u32| Arc::<str>::from(format!("client-{n}"));
        for n in 0..65_534 {
            let number = owners.enroll(&name(n)).expect("there is room");
            assert!(number != ANONYMOUS && number != LOCAL);
            assert_eq!(owners.name(number), name(n));
        }
        assert_eq!(owners.enroll(&name(65_534)), None);
        assert_eq!(owners.enroll(&"unix".into()), None, "the local clients' name is not theirs");
        assert_eq!((owners.len(), owners.refused()), (65_534, 2));
        assert_eq!(owners.enroll(&name(3)), owners.enroll(&name(3)));
        assert_eq!((&*owners.name(ANONYMOUS), &*owners.name(LOCAL)), ("", "unix"));
    }
}
