//! Which metadata server to ask.

/// Whom to ask, and how.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Via<'a> {
    /// The server.
    pub address: &'a str,
    /// It shall pass the request on, if it does not lead.
    pub forward: bool,
}

/// The metadata servers' addresses and the one believed to lead.
#[derive(Clone, Debug)]
pub struct Leader {
    addresses: Vec<String>,
    current: usize,
    /// Failures since somebody answered.
    failures: u32,
    /// Who failed last without naming another one. Servers cut off together with a former leader
    /// name it for ever.
    doubted: Option<usize>,
    /// The current one named the doubted one: it may reach it.
    forwards: bool,
}

impl Leader {
    /// Starts with the first address.
    #[must_use]
    pub const fn new(addresses: Vec<String>) -> Self {
        Self {
            addresses,
            current: 0,
            failures: 0,
            doubted: None,
            forwards: false,
        }
    }

    /// Whom to ask now; none if there are no addresses. Nobody is asked to pass requests on to a
    /// server that is reached again.
    pub fn ask(&mut self, is_reached: impl Fn(&str) -> bool) -> Option<Via<'_>> {
        if self.forwards
            && let Some(doubted) = self.doubted
            && self.addresses.get(doubted).is_some_and(|it| is_reached(it))
        {
            self.current = doubted;
            self.doubted = None;
            self.forwards = false;
        }
        let forward = self.forwards;
        let address = self.addresses.get(self.current)?;
        Some(Via { address, forward })
    }

    /// All addresses known.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// These are all servers that can lead now: nobody else is asked any more, unless a hint names it.
    pub fn told(&mut self, addresses: &[String]) {
        if addresses.is_empty() || self.addresses == addresses {
            return;
        }
        let current = self.current().map(str::to_owned);
        addresses.clone_into(&mut self.addresses);
        let kept = self
            .addresses
            .iter()
            .position(|it| Some(it) == current.as_ref());
        self.current = kept.unwrap_or(0);
        self.doubted = None;
        self.forwards = false;
    }

    /// The one asked did it, or had it done.
    pub const fn answered(&mut self) {
        self.failures = 0;
        if !self.forwards {
            self.doubted = None;
        }
    }

    /// `asked` did not answer or does not lead; `hint` may say who does. That one is asked next, or if
    /// it failed just before, `asked` is asked to pass the request on. `forwarded`: it was. Returns
    /// whether to wait before the next try: only once everybody was asked in vain.
    pub fn failed(&mut self, asked: &str, hint: Option<&str>, forwarded: bool) -> bool {
        self.failures = self.failures.saturating_add(1);
        // Of many requests that fail together the first one moves on; the others follow.
        if self.current() == Some(asked) && forwarded == self.forwards {
            self.move_on(asked, hint);
        }
        self.failures as usize >= self.addresses.len().max(2)
    }

    fn move_on(&mut self, asked: &str, hint: Option<&str>) {
        let hinted = hint
            .filter(|hint| *hint != asked)
            .map(|hint| self.position(hint));
        if hinted.is_some() && hinted == self.doubted && !self.forwards {
            self.forwards = true;
            return;
        }
        self.forwards = false;
        if hint.is_none() {
            self.doubted = Some(self.current);
        }
        let hinted = hinted.filter(|hinted| Some(*hinted) != self.doubted);
        self.current = hinted
            .or_else(|| (self.current + 1).checked_rem(self.addresses.len()))
            .unwrap_or(0);
    }

    fn current(&self) -> Option<&str> {
        self.addresses.get(self.current).map(String::as_str)
    }

    /// Index of an address; one not known yet (a member added later) is remembered.
    fn position(&mut self, address: &str) -> usize {
        match self.addresses.iter().position(|known| known == address) {
            Some(index) => index,
            None => {
                self.addresses.push(address.to_owned());
                self.addresses.len() - 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader() -> Leader {
        Leader::new(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()])
    }

    #[test]
    fn hint_is_followed_and_an_unknown_one_remembered() {
        let mut leader = leader();

        assert!(!leader.failed("a", Some("c"), false));
        assert_eq!(leader.current(), Some("c"));
        leader.failed("c", Some("d"), false);
        assert_eq!(leader.current(), Some("d"));
        assert_eq!(leader.addresses().len(), 4);
    }

    #[test]
    fn servers_told_replace_those_known_and_the_leader_stays() {
        let mut leader = leader();
        leader.failed("a", Some("c"), false);

        leader.told(&[]);
        assert_eq!(
            leader.addresses().len(),
            3,
            "an older release tells nothing"
        );
        leader.told(&["b".to_owned(), "c".to_owned(), "d".to_owned()]);
        assert_eq!(leader.current(), Some("c"));
        leader.told(&["d".to_owned(), "e".to_owned()]);
        assert_eq!(leader.current(), Some("d"));
        leader.failed("d", None, false);
        assert_eq!(leader.current(), Some("e"));
    }

    #[test]
    fn late_failures_of_a_server_already_left_move_nothing() {
        let mut leader = leader();

        leader.failed("a", None, false);
        leader.failed("a", None, false);

        assert_eq!(leader.current(), Some("b"));
    }

    #[test]
    fn hint_to_a_former_leader_is_not_followed_in_circles() {
        let mut leader = leader();

        leader.failed("a", None, false);
        leader.failed("b", Some("a"), false);
        // It does not reach it either.
        leader.failed("b", None, true);
        assert_eq!(leader.current(), Some("c"));
        leader.answered();
        leader.failed("c", Some("a"), false);

        assert_eq!(leader.current(), Some("a"));
    }

    #[test]
    fn leader_that_is_not_reached_is_asked_through_who_names_it() {
        let mut leader = leader();
        let cut = |address: &str| address != "a";
        let via = |address, forward| Some(Via { address, forward });

        leader.failed("a", None, false);
        assert_eq!(leader.ask(cut), via("b", false));
        assert!(!leader.failed("b", Some("a"), false), "at once");
        assert_eq!(leader.ask(cut), via("b", true));
        // Asked before it was known.
        leader.failed("b", Some("a"), false);
        leader.answered();
        assert_eq!(leader.ask(cut), via("b", true), "as long as it is cut off");

        assert_eq!(leader.ask(|_| true), via("a", false));
        leader.answered();
        assert_eq!(leader.ask(cut), via("a", false));
    }

    #[test]
    fn waits_only_after_everybody_was_asked() {
        let mut leader = leader();

        assert!(!leader.failed("a", None, false));
        assert!(!leader.failed("b", None, false));
        assert!(leader.failed("c", None, false));
        leader.answered();
        assert!(!leader.failed("a", None, false));
    }
}
