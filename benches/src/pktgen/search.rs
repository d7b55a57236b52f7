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
    /// Trials: after them no other load is tried, and the bounds are what they are. With [`LEAST_TRIALS`] or more, the load tried
    /// then takes two more at most.
    pub trials: u32,
}

/// What was found, in packets a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bounds {
    /// The goal.
    pub loss_ratio: f64,
    /// The highest load found good; None if there is none: unless cut short, not even the lowest one is.
    pub lower: Option<f64>,
    /// The lowest load found not to be; None if there is none: unless cut short, the highest one is good.
    pub upper: Option<f64>,
    /// The trials were used up before the bounds were near, or at the end of the range.
    pub cut_short: bool,
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
/// Trials of a load in the last phase, unless fewer decide; before it one is enough.
const TRIALS: u32 = 3;

/// With fewer trials, the last third would not be enough to verify both bounds.
pub const LEAST_TRIALS: u32 = PHASES * 2 * TRIALS;

/// A phase.
struct Phase {
    width: f64,
    duration: Duration,
    /// Trials of a load, unless fewer decide.
    votes: u32,
    /// Trials of the search at the end of which the phase ends: no phase lives on those that come after it.
    until: u32,
}

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
            let step = Phase {
                width: self.goal.width * NARROWER.powi((PHASES - 1 - phase) as i32),
                duration: self.goal.first.mul_f64(growth.powf(share)),
                votes: if phase + 1 == PHASES { TRIALS } else { 1 },
                until: self.goal.trials * (phase + 1) / PHASES,
            };
            found = self.narrow(lower, upper, &step)?;
            lower = found.0.unwrap_or(self.range.0);
            upper = found.1.unwrap_or(self.range.1);
        }
        let (lower, upper) = found;
        let cut_short = match found {
            (Some(lower), Some(upper)) => !near(lower, upper, self.goal.width),
            (Some(lower), None) => lower < self.range.1,
            (None, upper) => upper.is_none_or(|upper| upper > self.range.0),
        };
        Ok(Bounds { loss_ratio: self.goal.loss_ratio, lower, upper, cut_short, trials: self.trials })
    }

    /// Bounds around two guesses, verified.
    fn narrow(&mut self, lower: f64, upper: f64, phase: &Phase) -> Result<(Option<f64>, Option<f64>), E> {
        let (mut good, mut bad) = (None, None);
        if self.decide(lower, phase)? {
            good = Some(lower);
        } else {
            bad = Some(lower);
        }
        if good.is_some() && upper > lower {
            if self.decide(upper, phase)? {
                good = Some(upper);
            } else {
                bad = Some(upper);
            }
        }
        // Outward in growing steps, until there is one of each, or the range ends.
        let mut step = phase.width;
        while good.is_none() || bad.is_none() {
            let next = match (good, bad) {
                (None, Some(bad)) if bad > self.range.0 => self.below(bad, step, phase),
                (Some(good), None) if good < self.range.1 => (good * (1.0 + step)).min(self.range.1),
                _ => return Ok((good, bad)),
            };
            if self.trials >= phase.until {
                return Ok((good, bad));
            }
            if self.decide(next, phase)? {
                good = Some(next);
            } else {
                bad = Some(next);
            }
            step = (2.0 * step).min(0.5);
        }
        while let (Some(low), Some(high)) = (good, bad) {
            if near(low, high, phase.width) || self.trials >= phase.until {
                break;
            }
            let middle = (low * high).sqrt();
            if self.decide(middle, phase)? {
                good = Some(middle);
            } else {
                bad = Some(middle);
            }
        }
        Ok((good, bad))
    }

    /// The next load to try below `bad`: a step down, or as many at once as bring the lowest load within the trials that are left. So
    /// a search that has found nothing good ends there, and not somewhere above it.
    fn below(&self, bad: f64, step: f64, phase: &Phase) -> f64 {
        let decisions = (phase.until.saturating_sub(self.trials) / phase.votes).max(1);
        let even = bad * (self.range.0 / bad).powf(1.0 / f64::from(decisions));
        let next = if decisions == 1 { self.range.0 } else { even.min(bad * (1.0 - step)) };
        next.max(self.range.0)
    }

    /// Whether most trials of a load are good.
    fn decide(&mut self, rate: f64, phase: &Phase) -> Result<bool, E> {
        let most = phase.votes;
        let (mut good, mut bad) = (0, 0);
        while good * 2 < most && bad * 2 < most {
            let measured = self.trial(rate, phase.duration)?;
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

/// Whether two bounds are within a share of the upper one.
fn near(low: f64, high: f64, width: f64) -> bool {
    high - low <= width * high
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

    /// Loads that were tried, lowest first, too.
    fn tried(goal: Goal, mut device: impl FnMut(f64, Duration) -> f64) -> (Bounds, Vec<f64>) {
        let mut loads = Vec::new();
        let found = search(goal, |rate, duration| {
            loads.push(rate);
            device(rate, duration)
        });
        loads.sort_by(f64::total_cmp);
        (found, loads)
    }

    /// Whatever the capacity and however few the trials: bounds hold, and none is told that no trial has shown.
    #[test]
    fn bounds_have_evidence_when_trials_run_out() {
        for trials in [1, 3, 5, 8, 12, 16, LEAST_TRIALS, 19, 20, 25, 40] {
            for limit in [5e2, 1e3, 2e3, 9e4, 0.8e6, 4.4e6, 19e6, 30e6] {
                let (found, loads) = tried(Goal { trials, ..NDR }, capacity(limit));
                let context = format!("{trials} trials, {limit}: {found:?} of {loads:?}");
                let over = if trials < LEAST_TRIALS { 2 * TRIALS + 4 } else { 2 };
                assert!(found.trials <= trials + over, "{context}");
                assert!(
                    found.lower.is_none_or(|lower| lower <= limit && loads.contains(&lower)),
                    "{context}"
                );
                assert!(found.upper.is_none_or(|upper| upper > limit && loads.contains(&upper)), "{context}");
                assert!(found.lower.is_some() || found.cut_short || loads[0] <= 1e3, "{context}");
                assert!(found.upper.is_some() || found.cut_short || limit >= 20e6, "{context}");
            }
        }
    }

    #[test]
    fn the_last_trials_are_spent_downwards() {
        // Good only far below what its first trial forwards; few trials to come there.
        for trials in [25, 20, 15] {
            let found = search(Goal { trials, ..NDR }, |rate, _| if rate > 2e3 { 0.1 } else { 0.0 });
            assert!(found.lower.is_some_and(|lower| (1e3..=2e3).contains(&lower)), "{found:?}");
        }
        let (found, loads) = tried(Goal { trials: 25, ..NDR }, |_, _| 0.1);
        assert_eq!((found.lower, found.upper, found.cut_short), (None, Some(1e3), false), "{loads:?}");
    }

    #[test]
    fn what_is_refuted_late_leaves_trials_to_look_below() {
        // Short trials show nothing wrong; all long ones do, above a hundredth of what short ones say.
        let found = search(Goal { trials: 25, ..NDR }, changing(4e6, 4e4));
        assert!(found.lower.is_some_and(|lower| lower <= 4e4), "{found:?}");
        assert!(found.upper.is_some_and(|upper| upper >= 4e4) && found.cut_short, "{found:?}");
    }

    /// Short trials know one capacity, the long ones another.
    fn changing(short: f64, long: f64) -> impl FnMut(f64, Duration) -> f64 {
        move |rate, duration| {
            let limit = if duration < NDR.last { short } else { long };
            (1.0 - limit / rate).max(0.0)
        }
    }

    #[test]
    fn each_phase_has_trials_of_its_own() {
        for trials in 9..40 {
            // What comes through at most is no guide: short trials have far to go.
            let lossy = |rate, duration| if duration < NDR.last && rate < 1e5 { 0.0 } else { 0.05 };
            let found = search(Goal { trials, ..NDR }, lossy);
            assert_eq!((found.lower, found.upper, found.cut_short), (None, Some(1e3), false), "{found:?}");
        }
    }

    #[test]
    fn cut_short_is_said_whatever_bound_is_missing() {
        assert!(!search(NDR, capacity(4e6)).cut_short);
        assert!(!search(NDR, capacity(1e9)).cut_short);
        let neither_near = search(Goal { trials: 4, ..NDR }, capacity(2e3));
        assert!(neither_near.cut_short, "{neither_near:?}");
        let no_lower = search(Goal { trials: 3, ..NDR }, changing(2.2e6, 10.0));
        assert!(no_lower.lower.is_none() && no_lower.cut_short, "{no_lower:?}");
        let no_upper = search(Goal { trials: 9, ..NDR }, changing(1e4, 1e9));
        assert!(no_upper.upper.is_none() && no_upper.cut_short, "{no_upper:?}");
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
