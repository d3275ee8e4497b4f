//! What stands for the controller's service: a file that is there while it runs, and a readiness URL.

use std::fs;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::Cluster;

impl Cluster {
    /// Lets the stand-in controller service count as running, or as stopped.
    pub fn set_controller_running(&self, running: bool) {
        let flag = self.dir().join("controller-runs");
        if running { fs::write(flag, "").expect("a flag") } else { fs::remove_file(flag).expect("a flag") }
    }

    /// Whether the stand-in controller service counts as running.
    pub fn controller_runs(&self) -> bool {
        self.dir().join("controller-runs").exists()
    }

    /// Answers the controller's readiness URL, with 200 while it counts as running, until this is aborted.
    pub async fn answer_readiness(&self) -> tokio::task::JoinHandle<()> {
        let listener = TcpListener::bind(("127.0.0.1", self.ready_port)).await.expect("the readiness URL's port");
        let flag = self.dir().join("controller-runs");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") && stream.read_buf(&mut asked).await.is_ok_and(|n| n > 0) {}
                let status = if flag.exists() { "200 OK" } else { "503 Service Unavailable" };
                // Whoever asked may have gone.
                let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await;
            }
        })
    }
}
