//! The connection: commands and INFO, with the server's errors turned into ours. No password leaves this file.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use fred::{
    prelude::{Builder, Client, ClientLike, Config, Error, ErrorKind, FromValue},
    types::{ClusterHash, ConnectHandle, CustomCommand, RespVersion, Value, config::TlsConnector},
};
use tokio_rustls::rustls::ClientConfig;

use super::SourceError;

/// A server that is forking for a save may need a while for an answer.
const ANSWER: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(10);

/// Where to connect, and as whom. It has no `Debug`: it holds the password.
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) tls: Option<Arc<ClientConfig>>,
}

/// A command and its arguments.
pub(super) type Command = (&'static str, Vec<Bytes>);

/// A server's address with its credentials; only host and port are ever shown.
#[derive(Clone)]
pub(super) struct Address {
    config: Config,
    shown: String,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Address {
    pub(super) fn parse(uri: &str) -> Result<Self, SourceError> {
        // The parser's own message may quote the URI, and with it the password.
        let wrong = || {
            SourceError::Invalid(
                "valkey.uri cannot be used: it looks like redis://[user]:[password]@host:6379, or rediss:// for TLS"
                    .to_owned(),
            )
        };
        let uri = match uri.strip_prefix("valkey") {
            Some(rest) => format!("redis{rest}"),
            None => uri.to_owned(),
        };
        if !(uri.starts_with("redis://") || uri.starts_with("rediss://")) {
            return Err(wrong());
        }
        let mut config = Config::from_url(&uri).map_err(|_| wrong())?;
        let hosts = config.server.hosts();
        let shown = hosts.first().map(|s| format!("{}:{}", s.host, s.port)).ok_or_else(wrong)?;
        // HELLO, unlike PING, is answered while the server loads. Nothing here depends on the selected database.
        config.version = RespVersion::RESP3;
        config.database = None;
        Ok(Self { config, shown })
    }

    /// Connects and logs in.
    pub(super) async fn connect(&self) -> Result<Connection, SourceError> {
        let client = Builder::from_config(self.config.clone())
            .with_connection_config(|c| {
                c.connection_timeout = CONNECT;
                c.internal_command_timeout = ANSWER;
                c.max_command_attempts = 1;
                c.disable_cluster_health_check = true;
            })
            .with_performance_config(|p| p.default_command_timeout = ANSWER)
            .build()
            .map_err(|e| self.error("connecting", &e))?;
        let handle = client.init().await.map_err(|e| self.error("connecting", &e))?;
        Ok(Connection { client, handle, address: self.clone() })
    }

    /// Where to connect by other means, with the credentials.
    pub(super) fn endpoint(&self) -> Result<Endpoint, SourceError> {
        let server = self.config.server.hosts().into_iter().next();
        let server = server.ok_or_else(|| SourceError::Invalid("valkey.uri names no host".to_owned()))?;
        let tls = self.config.tls.as_ref().map(|tls| match &tls.connector {
            TlsConnector::Rustls(connector) => connector.config().clone(),
        });
        Ok(Endpoint {
            host: server.host.to_string(),
            port: server.port,
            username: self.config.username.clone(),
            password: self.config.password.clone(),
            tls,
        })
    }

    /// Whether anything listens there.
    pub(super) async fn listens(&self) -> bool {
        let connect = tokio::net::TcpStream::connect(&self.shown);
        matches!(tokio::time::timeout(CONNECT, connect).await, Ok(Ok(_)))
    }

    /// What to say when the server is loading its data.
    pub(super) fn loading(&self) -> SourceError {
        SourceError::Unavailable(format!("Valkey at {self} is still loading its data: try again when it is done"))
    }

    /// What a server's own words mean that are the same for every command; `None` for all others.
    fn known(&self, doing: &str, said: &str) -> Option<SourceError> {
        Some(match said.split(' ').next().unwrap_or_default() {
            "NOAUTH" | "WRONGPASS" => SourceError::Denied(format!(
                "Valkey at {self} refuses the credentials ({said}): correct valkey.uri in the agent's configuration, or redis.uri in \
                 controller.yml"
            )),
            "NOPERM" => {
                SourceError::Denied(format!("Valkey at {self} forbids {doing} ({said}): allow it to this account"))
            }
            "LOADING" => self.loading(),
            "BUSY" => SourceError::Unavailable(format!("Valkey at {self} is busy with a script ({said})")),
            "MISCONF" => SourceError::Unavailable(format!(
                "Valkey at {self} takes no writes because it cannot save to its disk ({said}): make room there or correct its \
                 rights, and try again"
            )),
            "READONLY" => SourceError::Invalid(format!(
                "Valkey at {self} is a replica and takes no writes ({said}): set valkey.uri to the primary"
            )),
            "OOM" => SourceError::NoSpace(format!(
                "Valkey at {self} has no memory left ({said}): raise maxmemory, or restore fewer keys"
            )),
            "NOREPLICAS" => SourceError::Unavailable(format!(
                "Valkey at {self} takes no writes without its replicas ({said}): bring them back"
            )),
            "MOVED" | "ASK" | "CLUSTERDOWN" => SourceError::Invalid(format!(
                "Valkey at {self} is a node of a cluster, whose keys are spread over all nodes ({said}): that cannot be restored"
            )),
            _ => return None,
        })
    }

    /// The error for a command that the server refused.
    pub(super) fn refusal(&self, command: &str, said: &str) -> SourceError {
        let other = || SourceError::Failed(format!("Valkey at {self} refuses {command}: {said}"));
        self.known(command, said).unwrap_or_else(other)
    }

    /// The error for a server that is not there, or not any more.
    pub(super) fn unreachable(&self, doing: &str, why: &str) -> SourceError {
        SourceError::Unavailable(format!(
            "Valkey at {self} cannot be reached ({doing}: {why}): see that it runs, and that valkey.uri is right"
        ))
    }

    fn error(&self, doing: &str, e: &Error) -> SourceError {
        let said = e.details();
        self.known(doing, said).unwrap_or_else(|| match e.kind() {
            ErrorKind::Auth => SourceError::Denied(format!("Valkey at {self} refuses the credentials: {said}")),
            ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled | ErrorKind::Tls | ErrorKind::Routing => {
                self.unreachable(doing, said)
            }
            _ => SourceError::Failed(format!("Valkey at {self}: {doing} failed: {said}")),
        })
    }
}

/// A connection; closed when dropped.
pub(super) struct Connection {
    client: Client,
    handle: ConnectHandle,
    address: Address,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Connection {
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Sends a command. The outer error is ours (no connection, no answer); the inner is what the server refused with.
    pub(super) async fn ask<T: FromValue>(
        &self,
        command: &'static str,
        args: &[&str],
    ) -> Result<Result<T, String>, SourceError> {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let name = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
        match self.client.custom(name, args).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(e) => match self.address.error(command, &e) {
                SourceError::Failed(_) => Ok(Err(e.details().to_owned())),
                ours => Err(ours),
            },
        }
    }

    /// As [`Connection::ask`], where a refusal is an error.
    pub(super) async fn must<T: FromValue>(&self, command: &'static str, args: &[&str]) -> Result<T, SourceError> {
        self.ask(command, args).await?.map_err(|said| self.refused(command, &said))
    }

    /// Sends commands in one go; tells for each what the server answered or refused with.
    pub(super) async fn many(&self, commands: Vec<Command>) -> Result<Vec<Result<Value, String>>, SourceError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let pipeline = self.client.pipeline();
        for (command, args) in commands {
            let name = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
            let queued: Result<(), Error> = pipeline.custom(name, args).await;
            queued.map_err(|e| self.address.error(command, &e))?;
        }
        let understood = |answer: Result<Value, Error>| match answer {
            Ok(value) => Ok(Ok(value)),
            Err(e) => match self.address.error("a command", &e) {
                SourceError::Failed(_) => Ok(Err(e.details().to_owned())),
                ours => Err(ours),
            },
        };
        pipeline.try_all::<Value>().await.into_iter().map(understood).collect()
    }

    /// As [`Connection::many`], where a refusal is an error.
    pub(super) async fn all(&self, commands: Vec<Command>) -> Result<(), SourceError> {
        let name = commands.first().map_or("", |(name, _)| *name);
        let refused = |said: String| self.refused(name, &said);
        self.many(commands).await?.into_iter().try_for_each(|answer| answer.map(drop).map_err(refused))
    }

    /// The error for a command that the server refused.
    pub(super) fn refused(&self, command: &str, said: &str) -> SourceError {
        self.address.refusal(command, said)
    }

    /// All of the server's own figures.
    pub(super) async fn info(&self) -> Result<Info, SourceError> {
        let text: String = self
            .ask("INFO", &[])
            .await?
            .map_err(|said| SourceError::Failed(format!("Valkey at {}: INFO failed: {said}", self.address)))?;
        Ok(Info::parse(&text))
    }

    /// A setting; `None` where the server has no such setting or does not show it to this account.
    pub(super) async fn setting(&self, name: &str) -> Result<Option<String>, SourceError> {
        match self.ask::<BTreeMap<String, String>>("CONFIG", &["GET", name]).await {
            Ok(Ok(mut found)) => Ok(found.remove(name)),
            Ok(Err(_)) | Err(SourceError::Denied(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// What INFO says.
#[derive(Debug, Clone, Default)]
pub(super) struct Info(BTreeMap<String, String>);

impl Info {
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.trim_end().split_once(':'));
        Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// A field as it is; empty where the server has none.
    pub(super) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A field as a number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.text(name).parse().ok()
    }

    /// `valkey` or `redis`.
    pub(super) fn server_name(&self) -> &str {
        match self.text("server_name") {
            "" => "redis",
            name => name,
        }
    }

    /// Valkey's own version, not the one of Redis that it claims for old clients.
    pub(super) fn server_version(&self) -> &str {
        match self.text("valkey_version") {
            "" => self.text("redis_version"),
            version => version,
        }
    }

    /// `primary` or `replica`.
    pub(super) fn role(&self) -> &'static str {
        if self.text("role") == "slave" { "replica" } else { "primary" }
    }

    /// Keys in all logical databases.
    pub(super) fn keys(&self) -> u64 {
        let of = |value: &str| value.strip_prefix("keys=")?.split(',').next()?.parse::<u64>().ok();
        self.keyspace().filter_map(|(_, value)| of(value)).sum()
    }

    /// The logical databases that have keys.
    pub(super) fn databases(&self) -> Vec<u64> {
        self.keyspace().map(|(db, _)| db).collect()
    }

    fn keyspace(&self) -> impl Iterator<Item = (u64, &str)> {
        self.0.iter().filter_map(|(name, value)| Some((name.strip_prefix("db")?.parse().ok()?, value.as_str())))
    }

    pub(super) fn append_only(&self) -> bool {
        self.text("aof_enabled") == "1"
    }

    pub(super) fn loading(&self) -> bool {
        self.text("loading") == "1"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_show_no_password() {
        for uri in ["redis://:hunter2@h:7000", "valkey://user:hunter2@h:7000/3"] {
            let address = Address::parse(uri).unwrap();
            assert_eq!(address.to_string(), "h:7000");
        }
        for uri in ["", "hunter2", "http://:hunter2@h", "redis://:hunter2@", "redis-cluster://:hunter2@h"] {
            let e = Address::parse(uri).err().unwrap_or_else(|| panic!("{uri}")).to_string();
            assert!(!e.contains("hunter2") && e.contains("valkey.uri"), "{e}");
        }
    }

    #[test]
    fn info_is_understood() {
        let info = Info::parse(
            "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n\r\n# Keyspace\r\n\
             db0:keys=3,expires=1,avg_ttl=0\r\ndb12:keys=4,expires=0,avg_ttl=0\r\n",
        );
        assert_eq!((info.server_name(), info.server_version(), info.keys()), ("valkey", "8.0.1", 7));
        assert_eq!(Info::parse("redis_version:6.2.0").server_name(), "redis");
    }
}
