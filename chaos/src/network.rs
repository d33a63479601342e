//! A network namespace for every node, joined by a bridge, and packet filters in each.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::command::{fed, run};
use crate::fault::Fault;
use crate::node::Node;

/// Table and chain of the filters.
const CHAIN: &str = "ip chaos in";

/// The namespaces; they end with the value, whose processes must have ended before.
#[derive(Debug)]
pub(crate) struct Network {
    prefix: String,
    made: Vec<String>,
    /// What each node's filter holds now.
    rules: BTreeMap<Node, Vec<String>>,
}

impl Network {
    /// Makes all namespaces; their names begin with the prefix.
    ///
    /// # Errors
    ///
    /// What `ip` or `nft` said.
    pub(crate) fn new(prefix: &str) -> Result<Self> {
        let mut network = Self {
            prefix: prefix.to_owned(),
            made: Vec::new(),
            rules: BTreeMap::new(),
        };
        let hub = network.add("hub")?;
        run(&format!("ip -n {hub} link set lo up"))?;
        run(&format!("ip -n {hub} link add bridge type bridge"))?;
        run(&format!("ip -n {hub} addr add 10.77.0.1/24 dev bridge"))?;
        run(&format!("ip -n {hub} link set bridge up"))?;
        for node in Node::all() {
            let space = network.add(&node.to_string())?;
            for line in [
                format!("ip -n {hub} link add {node} type veth peer name eth0 netns {space}"),
                format!("ip -n {hub} link set {node} master bridge up"),
                format!("ip -n {space} addr add {}/24 dev eth0", node.ip()),
                format!("ip -n {space} link set eth0 up"),
                format!("ip -n {space} link set lo up"),
            ] {
                run(&line)?;
            }
            network.filter(
                node,
                "add table ip chaos\n\
                 add chain ip chaos in { type filter hook input priority 0; }\n",
            )?;
        }
        Ok(network)
    }

    /// The words that make a command run where a node lives; without one, where all can be reached.
    pub(crate) fn inside(&self, node: Option<Node>) -> Vec<String> {
        let name = node.map_or_else(|| "hub".to_owned(), |node| node.to_string());
        vec![
            "nsenter".to_owned(),
            format!("--net=/run/netns/{}{name}", self.prefix),
        ]
    }

    /// Makes the filters say what these faults together say.
    ///
    /// # Errors
    ///
    /// What `nft` said.
    pub(crate) fn apply(&mut self, faults: &[&Fault]) -> Result<()> {
        for node in Node::all() {
            let rules = rules(node, faults);
            if self.rules.get(&node).map_or(&[][..], Vec::as_slice) == rules {
                continue;
            }
            let mut script = format!("flush chain {CHAIN}\n");
            for rule in &rules {
                script.push_str(&format!("add rule {CHAIN} {rule}\n"));
            }
            self.filter(node, &script)?;
            self.rules.insert(node, rules);
        }
        Ok(())
    }

    fn filter(&self, node: Node, script: &str) -> Result<()> {
        let mut words = self.inside(Some(node));
        words.extend(["nft", "-f", "-"].map(str::to_owned));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // One transaction: there is no moment with half the rules.
        fed(&words, script).map(drop)
    }

    fn add(&mut self, name: &str) -> Result<String> {
        let name = format!("{}{name}", self.prefix);
        run(&format!("ip netns add {name}"))?;
        self.made.push(name.clone());
        Ok(name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in self.made.drain(..).rev() {
            if let Err(error) = run(&format!("ip netns del {name}")) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// The packets that a node must not get. What it must not send is dropped where it arrives: a drop
/// on the way out would be told to the sender, which no network does.
fn rules(node: Node, faults: &[&Fault]) -> Vec<String> {
    let from = |other: &Node| format!("ip saddr {} drop", other.ip());
    let mut rules = Vec::new();
    for fault in faults {
        match fault {
            Fault::Isolate(victim) if *victim == node => {
                rules.push("iifname eth0 drop".to_owned());
            }
            Fault::Isolate(victim) => rules.push(from(victim)),
            Fault::Cut(one, other) if *one == node => rules.push(from(other)),
            Fault::Cut(one, other) if *other == node => rules.push(from(one)),
            Fault::CutOneWay(sender, hearer) if *hearer == node => rules.push(from(sender)),
            Fault::Loss(victim, percent) => {
                let lossy = format!("numgen random mod 100 < {percent} drop");
                rules.push(if *victim == node {
                    format!("iifname eth0 {lossy}")
                } else {
                    format!("ip saddr {} {lossy}", victim.ip())
                });
            }
            _ => {}
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_cut_stops_packets_at_one_end_only() {
        let (one, other) = (Node::osd(1), Node::osd(2));

        let faults = [&Fault::CutOneWay(one, other)];

        assert_eq!(rules(other, &faults), ["ip saddr 10.77.0.21 drop"]);
        assert!(rules(one, &faults).is_empty());
        assert!(rules(Node::mrc(1), &faults).is_empty());
    }

    #[test]
    fn isolated_node_neither_hears_nor_is_heard() {
        let faults = [&Fault::Isolate(Node::mrc(2))];

        assert_eq!(rules(Node::mrc(2), &faults), ["iifname eth0 drop"]);
        for other in Node::all().into_iter().filter(|it| *it != Node::mrc(2)) {
            assert_eq!(rules(other, &faults), ["ip saddr 10.77.0.12 drop"]);
        }
    }

    #[test]
    fn several_faults_add_up() {
        let cut = Fault::Cut(Node::mount(1), Node::osd(1));
        let loss = Fault::Loss(Node::mount(1), 20);

        let rules = rules(Node::mount(1), &[&cut, &loss]);

        assert_eq!(rules.len(), 2);
    }
}
