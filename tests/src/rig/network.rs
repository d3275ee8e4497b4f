//! The hosts' network: one bridge in a namespace without a way out, and a packet filter that loses what is cut.

use std::{
    fs::{self, File},
    io::Write as _,
    os::fd::{AsFd as _, BorrowedFd},
    process::{Command, Stdio},
};

use super::{run, run_quietly};

/// The first three bytes of all addresses; 1 is the seat of whoever tests, 10 + n is host n.
const NET: &str = "10.78.0";

/// See the module's text.
#[derive(Debug)]
pub(super) struct Network {
    name: String,
    namespace: File,
    /// Pairs of hosts that do not hear each other; `None` is everybody.
    cuts: Vec<(usize, Option<usize>)>,
}

impl Network {
    pub(super) fn create(name: &str) -> Self {
        let name = name.to_owned();
        run(ip().args(["netns", "add", &name]));
        let namespace = File::open(format!("/run/netns/{name}")).expect("the namespace that was just made");
        let network = Self { name, namespace, cuts: Vec::new() };
        network.inside(&["link", "set", "lo", "up"]);
        network.inside(&["link", "add", "br0", "type", "bridge"]);
        network.inside(&["link", "set", "br0", "up"]);
        network.inside(&["addr", "add", &format!("{}/24", Self::address_of_seat()), "dev", "br0"]);
        network
    }

    pub(super) fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    pub(super) fn address_of_seat() -> String {
        format!("{NET}.1")
    }

    pub(super) fn address(number: usize) -> String {
        format!("{NET}.{}", 10 + number)
    }

    /// The lines of `/etc/hosts`.
    pub(super) fn names() -> String {
        let hosts = (1..=20).map(|n| format!("{} h{n}\n", Self::address(n)));
        std::iter::once("127.0.0.1 localhost\n".to_owned()).chain(hosts).collect()
    }

    /// The name of the namespace of a host's own network stack.
    pub(super) fn namespace_of(&self, number: usize) -> String {
        format!("{}-h{number}", self.name)
    }

    /// Gives a host a network stack and plugs it in.
    pub(super) fn plug(&self, number: usize) {
        let (own, port) = (self.namespace_of(number), format!("h{number}"));
        run(ip().args(["netns", "add", &own]));
        let mac = format!("02:00:0a:4e:00:{:02x}", 10 + number);
        self.inside(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "address", &mac, "netns", &own]);
        let host = |args: &[&str]| run(ip().args(["-n", &own]).args(args));
        host(&["link", "set", "lo", "up"]);
        host(&["link", "set", "eth0", "up"]);
        host(&["addr", "add", &format!("{}/24", Self::address(number)), "dev", "eth0"]);
        self.inside(&["link", "set", &port, "master", "br0", "up"]);
    }

    /// Takes a host's link and network stack away, as a power cut does.
    pub(super) fn unplug(&self, number: usize) {
        run_quietly(ip().args(["-n", &self.name, "link", "del", &format!("h{number}")]));
        run_quietly(ip().args(["netns", "del", &self.namespace_of(number)]));
    }

    pub(super) fn cut(&mut self, host: usize, peer: Option<usize>) {
        self.cuts.push((host, peer));
        self.load();
    }

    pub(super) fn heal(&mut self) {
        self.cuts.clear();
        self.load();
    }

    fn load(&self) {
        let (mut input, mut forward, mut output) = (String::new(), String::new(), String::new());
        for (host, peer) in &self.cuts {
            if let Some(peer) = peer {
                forward += &format!("iifname h{host} oifname h{peer} drop; iifname h{peer} oifname h{host} drop; ");
            } else {
                input += &format!("iifname h{host} drop; ");
                output += &format!("oifname h{host} drop; ");
                forward += &format!("iifname h{host} drop; oifname h{host} drop; ");
            }
        }
        let chain =
            |hook: &str, rules: &str| format!("chain {hook} {{ type filter hook {hook} priority 0; {rules} }}\n");
        let rules = format!(
            "table bridge cuts\ndelete table bridge cuts\ntable bridge cuts {{\n{}{}{}}}\n",
            chain("input", &input),
            chain("forward", &forward),
            chain("output", &output)
        );
        let mut nft = Command::new("nsenter");
        nft.arg(format!("--net=/run/netns/{}", self.name)).args(["nft", "-f", "-"]).stdin(Stdio::piped());
        let mut child = nft.spawn().expect("nft");
        child.stdin.take().expect("a pipe").write_all(rules.as_bytes()).expect("the rules");
        assert!(child.wait().expect("nft").success(), "nft refused:\n{rules}");
    }

    fn inside(&self, args: &[&str]) {
        run(ip().args(["-n", &self.name]).args(args));
    }

    /// Removes the namespaces of a rack, and all that is in them.
    pub(super) fn remove_all(rack: &str) {
        let Ok(namespaces) = fs::read_dir("/run/netns") else { return };
        for name in namespaces.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            if name.strip_prefix(rack).is_some_and(|rest| rest.is_empty() || rest.starts_with("-h")) {
                run_quietly(ip().args(["netns", "del", &name]));
            }
        }
    }
}

fn ip() -> Command {
    Command::new("ip")
}
