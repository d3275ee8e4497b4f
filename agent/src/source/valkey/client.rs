//! The connection: commands and INFO, with the server's errors turned into ours.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use fred::{
    prelude::{Builder, Client, ClientLike, Config, Error, ErrorKind, FromValue, ServerConfig, TlsConnector},
    types::{ClusterHash, ConnectHandle, CustomCommand, RespVersion, Value},
};
use secrecy::ExposeSecret as _;
use tokio::net::{TcpStream, UnixStream};

use super::{
    SourceError,
    address::{Address, CONNECT, Place},
};

/// A server that is forking for a save may need a while for an answer.
const ANSWER: Duration = Duration::from_secs(60);

/// A command and its arguments.
pub(super) type Command = (&'static str, Vec<Bytes>);

impl Address {
    fn client_config(&self) -> Config {
        let server = match &self.place {
            Place::Tcp { host, port } => ServerConfig::new_centralized(host.as_str(), *port),
            Place::Unix(path) => ServerConfig::new_unix_socket(path),
        };
        // HELLO and AUTH, unlike PING, are answered while the server loads. The library sends HELLO as a line, in which a
        // password with a space would be two words, so that passwords need the older protocol's AUTH. Nothing here depends
        // on the selected database.
        let version = if self.password.is_some() { RespVersion::RESP2 } else { RespVersion::RESP3 };
        Config {
            server,
            username: self.username.clone(),
            password: self.password.as_ref().map(|p| p.expose_secret().to_owned()),
            version,
            tls: self.tls.as_ref().map(|tls| TlsConnector::from(tls.as_ref().clone()).into()),
            ..Config::default()
        }
    }

    /// Connects and logs in.
    pub(super) async fn connect(&self) -> Result<Connection, SourceError> {
        let client = Builder::from_config(self.client_config())
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
        Ok(Connection(Arc::new(Open { client, handle, address: self.clone() })))
    }

    /// Whether anything listens there.
    pub(super) async fn listens(&self) -> bool {
        let connect = async {
            match &self.place {
                Place::Tcp { host, port } => TcpStream::connect((host.as_str(), *port)).await.map(drop),
                Place::Unix(path) => UnixStream::connect(path).await.map(drop),
            }
        };
        matches!(tokio::time::timeout(CONNECT, connect).await, Ok(Ok(())))
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

/// A connection; closed when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Connection(Arc<Open>);

struct Open {
    client: Client,
    handle: ConnectHandle,
    address: Address,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Connection {
    pub(super) fn address(&self) -> &Address {
        &self.0.address
    }

    /// Sends a command. The outer error is ours (no connection, no answer); the inner is what the server refused with.
    pub(super) async fn ask<T: FromValue>(
        &self,
        command: &'static str,
        args: &[&str],
    ) -> Result<Result<T, String>, SourceError> {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let name = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
        match self.0.client.custom(name, args).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(e) => match self.0.address.error(command, &e) {
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
        let pipeline = self.0.client.pipeline();
        for (command, args) in commands {
            let name = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
            let queued: Result<(), Error> = pipeline.custom(name, args).await;
            queued.map_err(|e| self.0.address.error(command, &e))?;
        }
        let understood = |answer: Result<Value, Error>| match answer {
            Ok(value) => Ok(Ok(value)),
            Err(e) => match self.0.address.error("a command", &e) {
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
        self.0.address.refusal(command, said)
    }

    /// All of the server's own figures.
    pub(super) async fn info(&self) -> Result<Info, SourceError> {
        let text: String = self
            .ask("INFO", &[])
            .await?
            .map_err(|said| SourceError::Failed(format!("Valkey at {}: INFO failed: {said}", self.0.address)))?;
        Ok(Info::parse(&text))
    }

    /// How many modules are loaded; `None` where the server does not say so to this account.
    pub(super) async fn modules(&self) -> Result<Option<usize>, SourceError> {
        match self.ask::<Value>("MODULE", &["LIST"]).await {
            Ok(Ok(Value::Array(all))) => Ok(Some(all.len())),
            Ok(_) | Err(SourceError::Denied(_)) => Ok(None),
            Err(e) => Err(e),
        }
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

    /// Of a replica that has lost it: its primary.
    pub(super) fn primary_out_of_reach(&self) -> Option<String> {
        let lost = self.text("role") == "slave" && self.text("master_link_status") != "up";
        lost.then(|| format!("{}:{}", self.text("master_host"), self.text("master_port")))
    }

    /// Seconds by which the slowest replica is behind: of a primary by what its replicas acknowledged (once a second), of
    /// a replica by what it last heard of its primary.
    pub(super) fn lag(&self) -> Option<u64> {
        if self.text("role") == "slave" {
            return self.number("master_last_io_seconds_ago");
        }
        let lag = |of: &str| of.split(',').find_map(|field| field.strip_prefix("lag=")?.parse::<u64>().ok());
        let connected = self.number("connected_slaves").unwrap_or_default();
        (0..connected).filter_map(|n| lag(self.text(&format!("slave{n}")))).max()
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
    fn info_is_understood() {
        let info = Info::parse(
            "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n\r\n# Keyspace\r\n\
             db0:keys=3,expires=1,avg_ttl=0\r\ndb12:keys=4,expires=0,avg_ttl=0\r\n",
        );
        assert_eq!((info.server_name(), info.server_version(), info.keys()), ("valkey", "8.0.1", 7));
        assert_eq!(info.databases(), [0, 12]);
        assert_eq!(Info::parse("redis_version:6.2.0").server_name(), "redis");
    }

    #[test]
    fn replication_is_understood() {
        let primary = Info::parse(
            "role:master\r\nconnected_slaves:2\r\nslave0:ip=10.0.0.2,port=6379,state=online,offset=14,lag=0\r\n\
             slave1:ip=10.0.0.3,port=6379,state=online,offset=9,lag=4\r\n",
        );
        assert_eq!((primary.role(), primary.lag(), primary.primary_out_of_reach()), ("primary", Some(4), None));
        let replica = Info::parse(
            "role:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\nmaster_link_status:down\r\n\
             master_last_io_seconds_ago:-1\r\n",
        );
        assert_eq!((replica.role(), replica.lag()), ("replica", None));
        assert_eq!(replica.primary_out_of_reach().as_deref(), Some("10.0.0.1:6379"));
        assert_eq!(Info::parse("role:master\r\nconnected_slaves:0\r\n").lag(), None);
    }
}
