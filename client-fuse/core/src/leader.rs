//! Which metadata server to ask.

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
        }
    }

    /// Whom to ask now; none if there are no addresses.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        self.addresses.get(self.current).map(String::as_str)
    }

    /// All addresses known.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// `asked` did it.
    pub const fn answered(&mut self) {
        self.failures = 0;
        self.doubted = None;
    }

    /// `asked` did not answer or does not lead; `hint` may say who does, and is followed unless that
    /// one failed just before. Returns whether to wait before the next try: only once everybody was
    /// asked in vain.
    pub fn failed(&mut self, asked: &str, hint: Option<&str>) -> bool {
        self.failures = self.failures.saturating_add(1);
        // Of many requests that fail together the first one moves on; the others follow.
        if self.address() == Some(asked) {
            let hinted = hint
                .filter(|hint| *hint != asked)
                .map(|hint| self.position(hint))
                .filter(|hinted| Some(*hinted) != self.doubted);
            if hint.is_none() {
                self.doubted = Some(self.current);
            }
            self.current = hinted
                .or_else(|| (self.current + 1).checked_rem(self.addresses.len()))
                .unwrap_or(0);
        }
        self.failures as usize >= self.addresses.len().max(2)
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

        assert!(!leader.failed("a", Some("c")));
        assert_eq!(leader.address(), Some("c"));
        leader.failed("c", Some("d"));
        assert_eq!(leader.address(), Some("d"));
        assert_eq!(leader.addresses().len(), 4);
    }

    #[test]
    fn late_failures_of_a_server_already_left_move_nothing() {
        let mut leader = leader();

        leader.failed("a", None);
        leader.failed("a", None);

        assert_eq!(leader.address(), Some("b"));
    }

    #[test]
    fn hint_to_a_former_leader_is_not_followed_in_circles() {
        let mut leader = leader();

        leader.failed("a", None);
        leader.failed("b", Some("a"));
        assert_eq!(leader.address(), Some("c"));
        leader.answered();
        leader.failed("c", Some("a"));

        assert_eq!(leader.address(), Some("a"));
    }

    #[test]
    fn waits_only_after_everybody_was_asked() {
        let mut leader = leader();

        assert!(!leader.failed("a", None));
        assert!(!leader.failed("b", None));
        assert!(leader.failed("c", None));
        leader.answered();
        assert!(!leader.failed("a", None));
    }
}
