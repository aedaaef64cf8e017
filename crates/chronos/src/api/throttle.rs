//! Wrong passwords, counted by the address that they come from: after some of them each further attempt, also one with the
//! right password, waits its turn, and where too many wait they are told to come again. So nobody guesses fast; whoever
//! knows the password waits as long as somebody at the same address goes on guessing, and no longer. The same wrong
//! password once more is no guess, and is not counted: a program whose password was changed keeps nobody else waiting.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::tls::listener::household;

/// By which a wrong password is known again.
pub(super) type Mark = [u8; 16];

/// Counts wrong passwords by the address that they come from.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// When the attempts of each address will have been paid for, at one for each [`Throttle::EVERY`], and the last wrong
    /// one that was.
    paid: Mutex<BTreeMap<IpAddr, (Instant, Option<Mark>)>>,
}

/// When an attempt is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    /// Right or wrong, after this.
    After(Duration),
    /// Not at all, and neither is one that comes before this has passed.
    Never(Duration),
}

impl Throttle {
    /// So many wrong passwords are answered at once: nobody who mistypes notices.
    const FREE: u32 = 10;
    /// Then one in this time.
    const EVERY: Duration = Duration::from_secs(1);
    /// An attempt that would have to wait longer is not taken: each holds a connection.
    const WAIT_MAX: Duration = Duration::from_secs(5);
    /// Addresses that are counted, some hundred kilobytes. When there are more, the one that owes least is forgotten.
    const ADDRESSES_MAX: usize = 4096;

    /// What comes of an attempt, of which `wrong` is the mark if it is wrong.
    pub(super) fn judge(&self, peer: IpAddr, wrong: Option<Mark>, now: Instant) -> Turn {
        let peer = household(peer);
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let known = paid.get(&peer).copied();
        let owed = known.map_or(Duration::ZERO, |(at, _)| at.saturating_duration_since(now));
        let wait = owed.saturating_sub(Self::EVERY * Self::FREE.saturating_sub(1));
        if wrong.is_some() && known.is_some_and(|(_, last)| last == wrong) {
            // It is answered as before, which tells nobody anything.
            return Turn::Now;
        }
        if wait > Self::WAIT_MAX {
            return Turn::Never(wait);
        }
        // As long as nobody has to wait, who is right owes nothing.
        if wait.is_zero() && wrong.is_none() {
            return Turn::Now;
        }
        if paid.len() >= Self::ADDRESSES_MAX && !paid.contains_key(&peer) {
            paid.retain(|_, (at, _)| *at > now);
            if paid.len() >= Self::ADDRESSES_MAX {
                let least = paid.iter().min_by_key(|(_, (at, _))| *at).map(|(peer, _)| *peer);
                least.map(|peer| paid.remove(&peer));
            }
        }
        paid.insert(peer, (now + owed + Self::EVERY, wrong.or(known.and_then(|(_, last)| last))));
        if wait.is_zero() { Turn::Now } else { Turn::After(wait) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    /// Another wrong password each time.
    fn guess(n: u64) -> Option<Mark> {
        Some(u128::from(n + 1).to_be_bytes())
    }

    #[test]
    fn wrong_passwords_become_slow_and_so_does_the_right_one_beside_them() {
        let (throttle, begin) = (Throttle::default(), Instant::now());
        for n in 0..u64::from(Throttle::FREE) {
            assert_eq!(throttle.judge(peer(1), guess(n), begin), Turn::Now);
        }
        // Now everyone at this address waits, one after the other.
        for n in 1..=5 {
            let wrong = guess(100 + n).filter(|_| n % 2 == 0);
            assert_eq!(throttle.judge(peer(1), wrong, begin), Turn::After(Duration::from_secs(n)), "{n}");
        }
        assert_eq!(throttle.judge(peer(1), None, begin), Turn::Never(Duration::from_secs(6)));
        assert_eq!(throttle.judge(peer(2), guess(7), begin), Turn::Now, "others do not");
        let later = begin + Duration::from_secs(6);
        assert_eq!(throttle.judge(peer(1), None, later), Turn::Now);
        // Whoever goes on guessing gets one answer in a second.
        let mut answered = 0;
        for tenth in 0..1000 {
            let now = later + Duration::from_millis(tenth * 100);
            let turn = throttle.judge(peer(1), guess(1000 + tenth), now);
            answered += u32::from(!matches!(turn, Turn::Never(_)));
        }
        assert!((95..=110).contains(&answered), "{answered} in 100 s");
    }

    #[test]
    fn one_wrong_password_again_and_again_keeps_nobody_waiting() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        assert!((0..10_000).all(|_| throttle.judge(peer(1), guess(1), now) == Turn::Now));
        assert_eq!(throttle.judge(peer(1), None, now), Turn::Now);
        // Two in turn are guesses.
        let turns: Vec<_> = (0..30).map(|n| throttle.judge(peer(1), guess(n % 2), now)).collect();
        assert!(turns.iter().any(|turn| matches!(turn, Turn::Never(_))), "{turns:?}");
    }

    #[test]
    fn the_right_password_is_never_slow_by_itself() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        assert!((0..10_000).all(|_| throttle.judge(peer(1), None, now) == Turn::Now));
        assert!(throttle.paid.lock().expect("nobody panicked").is_empty());
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for n in 0..20 {
            throttle.judge(peer(1), guess(n), now);
        }
        for n in 0..10_000_u32 {
            throttle.judge(IpAddr::from(n.to_be_bytes()), guess(0), now);
        }
        let paid = throttle.paid.lock().expect("nobody panicked");
        assert_eq!(paid.len(), Throttle::ADDRESSES_MAX);
        assert!(paid.contains_key(&peer(1)), "who owes most is not forgotten");
    }
}
