//! Law L14: which of those who are connected to a datastore is a controller.
//!
//! A false alarm would keep somebody from restoring in the middle of the night, so that only what a controller cannot help
//! saying of itself counts: PrexorCloud is a Java program, connects as `controller.yml` tells it to, and runs on a host of the
//! cluster where accounts tell nobody apart. Shells, exporters, replicas and our own agents are none.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What the drivers are called with which Java programs connect: MongoDB's own, and the usual ones for Valkey.
const JAVA: [&str; 4] = ["mongo-java-driver", "lettuce", "jedis", "redisson"];

/// Somebody who is connected to a datastore.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Address and port of the client: `10.0.0.7:51234`, `[::1]:51234`; something else for local sockets.
    pub address: String,
    /// What it calls itself; empty for nothing.
    pub application: String,
    /// Its driver, as that calls itself: `mongo-java-driver|sync 4.11.1`, `Lettuce 6.3.2`; empty where the server does not know.
    pub driver: String,
    /// Whether it is logged in as `controller.yml` says, and as nobody else need be: an account of its own.
    pub account: bool,
    /// Whether it calls itself what `controller.yml` tells controllers to, which most often is nothing.
    pub called_so: bool,
}

impl Session {
    /// Whether a Java program holds it: nobody else need be told of.
    #[must_use]
    pub fn is_of_java(&self) -> bool {
        let driver = self.driver.to_ascii_lowercase();
        driver.split(['|', ' ', '(']).any(|part| JAVA.contains(&part))
    }

    /// Whether it is a controller's beyond doubt. `hosts` are the addresses of hosts that have a controller, as the datastore
    /// sees them.
    #[must_use]
    pub fn is_controller(&self, hosts: &[IpAddr]) -> bool {
        let from_there = || self.ip().is_some_and(|ip| hosts.contains(&ip));
        self.is_of_java() && self.called_so && (self.account || from_there())
    }

    /// Where it comes from, where that is an address.
    fn ip(&self) -> Option<IpAddr> {
        let (host, _) = self.address.rsplit_once(':')?;
        let ip: IpAddr = host.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        Some(ip.to_canonical())
    }

    /// For people: `10.0.0.7:51234 (mongo-java-driver|sync 4.11.1)`.
    #[must_use]
    pub fn in_words(&self) -> String {
        let what: Vec<&str> = [self.application.as_str(), &self.driver].into_iter().filter(|s| !s.is_empty()).collect();
        if what.is_empty() { self.address.clone() } else { format!("{} ({})", self.address, what.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(address: &str, application: &str, driver: &str, account: bool) -> Session {
        let (address, driver) = (address.to_owned(), driver.to_owned());
        Session { address, application: application.to_owned(), driver, account, called_so: application.is_empty() }
    }

    #[test]
    fn only_what_a_controller_cannot_help_saying_counts() {
        let hosts = ["10.0.0.1", "127.0.0.1", "fd00::1"].map(|ip| ip.parse().unwrap());
        for (is_one, who) in [
            (true, session("10.9.9.9:1", "", "mongo-java-driver|sync 4.11.1", true)),
            (true, session("10.0.0.1:1", "", "mongo-java-driver|sync 4.11.1", false)),
            (true, session("[::ffff:10.0.0.1]:1", "", "Lettuce 6.3.2", false)),
            (true, session("[fd00::1]:1", "", "lettuce", false)),
            (true, session("127.0.0.1:1", "", "mongo-rust-driver|mongo-java-driver 3", false)),
            // Another Java program on a server without accounts, from a host of its own.
            (false, session("10.0.0.9:1", "", "mongo-java-driver|sync 4.11.1", false)),
            (false, session("[::1]:1", "", "mongo-java-driver|sync 4.11.1", false)),
            // One that says what it is: Compass, a report generator.
            (false, session("10.0.0.1:1", "reports", "mongo-java-driver|sync 4.11.1", true)),
            // A shell, an exporter, our agent, and something old that says nothing, with the controller's own account.
            (false, session("10.0.0.1:1", "mongosh 2.1.1", "nodejs|mongosh 6.3.0", true)),
            (false, session("10.0.0.1:1", "", "mongo-go-driver 1.13", true)),
            (false, session("10.0.0.1:1", "prexor-agent", "mongo-rust-driver", true)),
            (false, session("10.0.0.1:1", "", "", true)),
            (false, session("/run/valkey.sock:0", "", "redis-py", false)),
        ] {
            assert_eq!(who.is_controller(&hosts), is_one, "{who:?}");
        }
    }

    #[test]
    fn people_are_told_address_and_application() {
        let of = |application, driver| session("10.0.0.7:5", application, driver, false).in_words();
        assert_eq!(of("reports", "Lettuce 6"), "10.0.0.7:5 (reports, Lettuce 6)");
        assert_eq!((of("", "Lettuce 6").as_str(), of("", "").as_str()), ("10.0.0.7:5 (Lettuce 6)", "10.0.0.7:5"));
    }
}
