//! The highest load that loses no more than a goal says: NDR and PDR.
//!
//! As RFC 2544 section 26.1 searches, by halving, but with the ideas of MLRsearch (draft-ietf-bmwg-mlrsearch): short trials
//! first and long ones last, both bounds kept and verified again when trials get longer, and a load decided by the majority of
//! its trials (exceed ratio 0.5), so that one hiccup of a shared machine does not decide a search.

use serde::Serialize;
use std::time::Duration;

/// What is searched for.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// Loss up to this share is good: 0 for NDR.
    pub loss_ratio: f64,
    /// Upper and lower bound are this near in the end, as a share of the upper one.
    pub width: f64,
    /// Of the first trials.
    pub first: Duration,
    /// Of the last trials.
    pub last: Duration,
    /// Trials at most: then the bounds are what they are.
    pub trials: u32,
}

/// What was found, in packets a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bounds {
    /// The goal.
    pub loss_ratio: f64,
    /// The highest load that is good; None if not even the lowest one is.
    pub lower: Option<f64>,
    /// The lowest load that is not; None if the highest one is good.
    pub upper: Option<f64>,
    /// Trials that it took.
    pub trials: u32,
}

/// What a trial says.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Lost packets as a share of those sent.
    pub loss_ratio: f64,
    /// Packets a second that arrived.
    pub forwarded: f64,
}

/// Phases: trials get longer, bounds nearer, by this factor each.
const PHASES: u32 = 3;
const NARROWER: f64 = 2.0;
/// Trials of a load in the last phase, unless fewer decide.
const TRIALS: u32 = 3;

/// A search under way.
pub struct Search<'m, E> {
    goal: Goal,
    /// Lowest and highest load.
    range: (f64, f64),
    measure: &'m mut dyn FnMut(f64, Duration) -> Result<Measured, E>,
    trials: u32,
}

impl<'m, E> Search<'m, E> {
    /// Between two loads, the lower above 0, with trials by `measure`.
    pub fn new(
        goal: Goal,
        range: (f64, f64),
        measure: &'m mut dyn FnMut(f64, Duration) -> Result<Measured, E>,
    ) -> Self {
        Self { goal, range, measure, trials: 0 }
    }

    /// Searches.
    pub fn run(mut self) -> Result<Bounds, E> {
        // What comes through at the highest load is a good guess.
        let most = self.trial(self.range.1, self.goal.first)?;
        let guess = most.forwarded.clamp(self.range.0, self.range.1);
        let (mut lower, mut upper) = (guess, if self.good(most) { self.range.1 } else { guess });
        let mut found = (None, None);
        for phase in 0..PHASES {
            let growth = (self.goal.last.as_secs_f64() / self.goal.first.as_secs_f64()).max(1.0);
            let share = f64::from(phase) / f64::from(PHASES - 1);
            let duration = self.goal.first.mul_f64(growth.powf(share));
            let width = self.goal.width * NARROWER.powi((PHASES - 1 - phase) as i32);
            let (good, bad) = self.narrow(lower, upper, width, duration, phase + 1 == PHASES)?;
            if self.trials >= self.goal.trials {
                // Cut short: a bound that this phase has not come to is the former's, unless it was refuted.
                let former = found.0.filter(|former| bad.is_none_or(|bad| *former < bad));
                found = (good.or(former), bad.or(found.1));
                break;
            }
            found = (good, bad);
            lower = found.0.unwrap_or(self.range.0);
            upper = found.1.unwrap_or(self.range.1);
        }
        let (lower, upper) = found;
        Ok(Bounds { loss_ratio: self.goal.loss_ratio, lower, upper, trials: self.trials })
    }

    /// Bounds around two guesses, verified with trials of this duration.
    fn narrow(
        &mut self,
        lower: f64,
        upper: f64,
        width: f64,
        duration: Duration,
        last: bool,
    ) -> Result<(Option<f64>, Option<f64>), E> {
        let (mut good, mut bad) = (None, None);
        if self.decide(lower, duration, last)? {
            good = Some(lower);
        } else {
            bad = Some(lower);
        }
        if good.is_some() && upper > lower {
            if self.decide(upper, duration, last)? {
                good = Some(upper);
            } else {
                bad = Some(upper);
            }
        }
        // Outward in growing steps, until there is one of each, or the range ends.
        let mut step = width;
        while good.is_none() || bad.is_none() {
            let next = match (good, bad) {
                (None, Some(bad)) if bad > self.range.0 => (bad * (1.0 - step)).max(self.range.0),
                (Some(good), None) if good < self.range.1 => (good * (1.0 + step)).min(self.range.1),
                _ => return Ok((good, bad)),
            };
            if self.trials >= self.goal.trials {
                return Ok((good, bad));
            }
            if self.decide(next, duration, last)? {
                good = Some(next);
            } else {
                bad = Some(next);
            }
            step = (2.0 * step).min(0.5);
        }
        while let (Some(low), Some(high)) = (good, bad) {
            if high - low <= width * high || self.trials >= self.goal.trials {
                break;
            }
            let middle = (low * high).sqrt();
            if self.decide(middle, duration, last)? {
                good = Some(middle);
            } else {
                bad = Some(middle);
            }
        }
        Ok((good, bad))
    }

    /// Whether most trials of a load are good; before the last phase one is enough.
    fn decide(&mut self, rate: f64, duration: Duration, last: bool) -> Result<bool, E> {
        let most = if last { TRIALS } else { 1 };
        let (mut good, mut bad) = (0, 0);
        while good * 2 < most && bad * 2 < most {
            let measured = self.trial(rate, duration)?;
            if self.good(measured) {
                good += 1;
            } else {
                bad += 1;
            }
        }
        Ok(good > bad)
    }

    fn trial(&mut self, rate: f64, duration: Duration) -> Result<Measured, E> {
        self.trials += 1;
        (self.measure)(rate, duration)
    }

    fn good(&self, measured: Measured) -> bool {
        measured.loss_ratio <= self.goal.loss_ratio
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    const NDR: Goal = Goal {
        loss_ratio: 0.0,
        width: 0.01,
        first: Duration::from_millis(100),
        last: Duration::from_millis(1000),
        trials: 100,
    };

    fn search(goal: Goal, mut device: impl FnMut(f64, Duration) -> f64) -> Bounds {
        let mut measure = |rate: f64, duration: Duration| {
            let loss_ratio = device(rate, duration);
            Ok::<_, Infallible>(Measured { loss_ratio, forwarded: rate * (1.0 - loss_ratio) })
        };
        Search::new(goal, (1e3, 20e6), &mut measure).run().unwrap_or_else(|never| match never {})
    }

    /// Loses what is over its capacity.
    fn capacity(capacity: f64) -> impl FnMut(f64, Duration) -> f64 {
        move |rate, _| (1.0 - capacity / rate).max(0.0)
    }

    #[test]
    fn the_bounds_hold_the_capacity_and_are_near() {
        for limit in [2e3, 123_456.0, 7.77e6, 19.9e6] {
            let found = search(NDR, capacity(limit));
            let (lower, upper) = (found.lower.unwrap(), found.upper.unwrap());
            assert!(lower <= limit && limit <= upper, "{lower} {limit} {upper}");
            assert!((upper - lower) / upper <= NDR.width, "{lower} {upper}");
            assert!(found.trials < 40, "{} trials", found.trials);
        }
    }

    #[test]
    fn a_partial_drop_rate_is_higher() {
        let found = search(Goal { loss_ratio: 0.005, ..NDR }, capacity(5e6));
        let limit = 5e6 / 0.995;
        assert!(found.lower.unwrap() <= limit && limit <= found.upper.unwrap(), "{found:?}");
    }

    #[test]
    fn beyond_the_range_one_bound_is_missing() {
        let found = search(NDR, capacity(1e9));
        assert_eq!((found.lower, found.upper), (Some(20e6), None));
        let found = search(NDR, |_, _| 0.5);
        assert_eq!((found.lower, found.upper), (None, Some(1e3)));
    }

    /// Buffers hide overload from short trials: the long ones at the end decide.
    #[test]
    fn long_trials_correct_what_short_ones_say() {
        let found = search(NDR, |rate, duration| {
            let over = (rate - 3e6) * duration.as_secs_f64() - 200_000.0;
            (over / (rate * duration.as_secs_f64())).max(0.0)
        });
        let limit = 3.2e6;
        assert!(found.lower.unwrap() <= limit && limit <= found.upper.unwrap(), "{found:?}");
    }

    #[test]
    fn a_limit_of_trials_ends_it_with_bounds_that_hold() {
        let found = search(Goal { trials: 5, ..NDR }, capacity(2e3));
        assert!(found.trials < 12, "{found:?}");
        assert!(found.lower.is_none_or(|lower| lower <= 2e3) && found.upper.unwrap() >= 2e3, "{found:?}");
    }

    /// Every seventh trial is spoilt by the machine.
    #[test]
    fn a_hiccup_does_not_decide() {
        let mut trials = 0;
        let found = search(NDR, |rate, duration| {
            trials += 1;
            if trials % 7 == 0 { 0.001 } else { capacity(4e6)(rate, duration) }
        });
        let lower = found.lower.unwrap();
        assert!((3.6e6..=4e6).contains(&lower), "{found:?}");
    }
}
