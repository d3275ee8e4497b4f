//! Who is connected to the server (law L14): the connections of Java programs, of which a controller is one. What a session is,
//! is `prexor_format::laws`' to say.

use std::collections::HashMap;

use prexor_format::laws::Session;
use url::Url;

use super::{SourceError, client::Connection};
use crate::connection::ConnectionString;

/// The account that everybody is without another, which tells nobody apart.
const DEFAULT_USER: &str = "default";
/// Connections that are told of: one that is too many is as good as a thousand.
const TOLD: usize = 1000;

/// How a controller logs in, as `controller.yml` says.
#[derive(Debug, Default)]
struct Login {
    user: String,
    name: String,
}

/// The connections of Java programs.
///
/// # Errors
/// `Denied` when the account may not see them, `Failed` where the server does not list any.
pub(super) async fn of(
    connection: &Connection,
    controllers: Option<&ConnectionString>,
) -> Result<Vec<Session>, SourceError> {
    let list: String = connection.must("CLIENT", &["LIST"]).await?;
    let login = controllers.map(Login::of).unwrap_or_default();
    Ok(login.sessions(&list))
}

impl Login {
    fn of(uri: &ConnectionString) -> Self {
        // One that cannot be understood is PrexorCloud's to complain of.
        let Ok(url) = Url::parse(uri.expose()) else { return Self::default() };
        let name = url.query_pairs().find(|(key, _)| key == "clientName").map(|(_, value)| value.into_owned());
        Self { user: url.username().to_owned(), name: name.unwrap_or_default() }
    }

    fn sessions(&self, list: &str) -> Vec<Session> {
        list.lines().filter_map(|line| self.session(line)).filter(Session::is_of_java).take(TOLD).collect()
    }

    /// `id=3 addr=127.0.0.1:52555 name= flags=N user=default lib-name=Lettuce lib-ver=6.3.2`; servers before 7.2 know no
    /// libraries.
    fn session(&self, line: &str) -> Option<Session> {
        let fields: HashMap<&str, &str> = line.split_whitespace().filter_map(|f| f.split_once('=')).collect();
        let field = |name| fields.get(name).copied().unwrap_or_default();
        // Replicas and primaries.
        if field("flags").contains(['S', 'M']) {
            return None;
        }
        let user = field("user");
        Some(Session {
            address: field("addr").to_owned(),
            application: field("name").to_owned(),
            driver: format!("{} {}", field("lib-name"), field("lib-ver")).trim().to_owned(),
            account: !user.is_empty() && user != DEFAULT_USER && user == self.user,
            called_so: field("name") == self.name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
        id=3 addr=10.0.0.7:5 laddr=10.0.0.1:6379 fd=8 name= age=1 idle=0 flags=N db=0 cmd=get user=prexor lib-name=Lettuce lib-ver=6.3.2\n\
        id=4 addr=10.0.0.8:5 fd=9 name= flags=S cmd=replconf user=default lib-name= lib-ver=\n\
        id=5 addr=10.0.0.9:5 fd=9 name= flags=N cmd=client|list user=prexor lib-name=redis-py lib-ver=5.0.1\n\
        id=6 addr=10.0.0.9:6 fd=9 name=reports flags=N cmd=get user=default lib-name=jedis lib-ver=5.1\n";

    #[test]
    fn connections_of_java_programs_are_compared_with_how_a_controller_logs_in() {
        let of = |uri: &str| Login::of(&uri.into()).sessions(LIST);
        let found = of("redis://prexor:p@h:6379");
        let told: Vec<_> = found.iter().map(|s| (s.in_words(), s.account, s.called_so)).collect();
        let lettuce = "10.0.0.7:5 (Lettuce 6.3.2)".to_owned();
        assert_eq!(told, [(lettuce, true, true), ("10.0.0.9:6 (reports, jedis 5.1)".to_owned(), false, false)]);
        let found = of("redis://:p@h:6379/?clientName=reports");
        assert_eq!(found.iter().map(|s| (s.account, s.called_so)).collect::<Vec<_>>(), [(false, false), (false, true)]);
    }
}
