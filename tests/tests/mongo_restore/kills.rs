//! `kill -9` of the agent and of mongod under a restore: the end is all-old or all-new, never a mixture.
//!
//! A sample, unless PREXOR_KILLS says otherwise: `PREXOR_KILLS=all` kills at every command that changes the database, and
//! `PREXOR_KILLS=100` a hundred times at random moments.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use mongodb::{
    Client,
    bson::{Bson, Document, doc},
};
use prexor_tests::{
    cluster::Cluster,
    dataset::DATABASE,
    equality::{self, Things, differences},
    mongo::variety,
    servers::{PATIENCE, wait_for, wait_until},
};

const CHANGING: [&str; 7] = ["insert", "update", "create", "createIndexes", "collMod", "drop", "renameCollection"];

/// How long a command is held: longer than a kill takes. Taking the fail point away waits for it.
const BLOCKED_MS: i32 = 5_000;

#[derive(Debug, Clone, Copy)]
enum Victim {
    Agent,
    Mongod,
}

struct Scene {
    cluster: Cluster,
    client: Client,
    id: String,
    new: Things,
    old: Things,
}

impl Scene {
    async fn set() -> Self {
        let cluster = Cluster::empty().await;
        let client = cluster.mongod.client().await;
        let db = client.database(DATABASE);
        variety(&db, "new").await.expect("data");
        let new = equality::mongo(&client, DATABASE).await.expect("a snapshot");
        let said = cluster.ctl(&["backup", "create", "--scope", "mongo", "--json"]).ok();
        let id = said.json()["id"].as_str().expect("an id").to_owned();
        let mut scene = Self { cluster, client, id, new, old: Things::new() };
        scene.make_old().await;
        scene
    }

    /// Other data of the same kinds, that a restore replaces.
    async fn make_old(&mut self) {
        let db = self.client.database(DATABASE);
        db.drop().await.expect("a drop");
        variety(&db, "old").await.expect("data");
        self.old = self.now().await;
    }

    async fn now(&self) -> Things {
        wait_for("a snapshot", PATIENCE, async || equality::mongo(&self.client, DATABASE).await.ok()).await
    }

    fn restore(&self) -> Child {
        let mut command = self.cluster.ctl_command(&["restore", &self.id, "--ns", "*", "--yes"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("prexorctl can be started")
    }

    async fn kill(&mut self, victim: Victim) {
        match victim {
            Victim::Agent => {
                self.cluster.kill_agent();
                self.cluster.start_agent().await;
            }
            Victim::Mongod => {
                self.cluster.mongod.kill();
                self.cluster.mongod.start().await;
            }
        }
    }

    /// Waits for the job's end and says whether the new data is there.
    async fn ends_whole(&mut self, mut restore: Child, what: &str) -> bool {
        let ended = || {
            let jobs = self.cluster.ctl(&["job", "list", "--json"]).ok().json();
            !matches!(jobs[0]["state"].as_str(), Some("running" | "queued"))
        };
        wait_until("the job to end", PATIENCE * 2, async || ended()).await;
        drop(restore.wait());
        let now = self.now().await;
        let (to_old, to_new) = (differences("mongo", &self.old, &now), differences("mongo", &self.new, &now));
        assert!(to_old.is_empty() || to_new.is_empty(), "{what}: a mixture\n{to_old:?}\n{to_new:?}");
        if to_new.is_empty() {
            self.make_old().await;
        }
        to_new.is_empty()
    }

    async fn fail_point(&self, mode: impl Into<Bson>, data: Document) {
        let command = doc! { "configureFailPoint": "failCommand", "mode": mode.into(), "data": data };
        self.admin(command).await;
    }

    /// On a server that may only just be back, or a machine that is busy with other things.
    async fn admin(&self, command: Document) -> Document {
        let admin = self.client.database("admin");
        wait_for("an answer of mongod", PATIENCE, async || admin.run_command(command.clone()).await.ok()).await
    }

    /// How many commands have met the fail point since the server started.
    async fn met(&self) -> i64 {
        let command = doc! { "getParameter": 1, "failpoint.failCommand": 1 };
        let said = self.admin(command).await;
        let state = said.get_document("failpoint.failCommand").expect("it is known");
        state.get_i64("timesEntered").or_else(|_| state.get_i32("timesEntered").map(i64::from)).unwrap_or_default()
    }
}

fn kills() -> Option<String> {
    std::env::var("PREXOR_KILLS").ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_command_a_kill_meets_the_end_is_all_old_or_all_new() {
    let all = kills().is_some_and(|k| k == "all");
    let mut scene = Scene::set().await;
    for victim in [Victim::Agent, Victim::Mongod] {
        let (mut skip, mut ends) = (0, [0, 0]);
        loop {
            let held = doc! {
                "failCommands": CHANGING.as_slice(), "appName": "prexor-agent",
                "blockConnection": true, "blockTimeMS": BLOCKED_MS,
            };
            let before = scene.met().await;
            scene.fail_point(doc! { "skip": skip }, held).await;
            let mut restore = scene.restore();
            // Held at the command after so many, or at none: the restore has come to its end before.
            let mut over = false;
            wait_until("the restore to be held or to end", PATIENCE * 2, async || {
                over = matches!(restore.try_wait(), Ok(Some(_)));
                over || scene.met().await > before
            })
            .await;
            if over {
                scene.fail_point("off", doc! {}).await;
                assert!(scene.ends_whole(restore, "nothing was killed").await);
                break;
            }
            match victim {
                // The command that is held goes on when the fail point is gone, after the agent's end.
                Victim::Agent => {
                    scene.cluster.kill_agent();
                    scene.fail_point("off", doc! {}).await;
                    scene.cluster.start_agent().await;
                }
                Victim::Mongod => scene.kill(victim).await,
            }
            let new = scene.ends_whole(restore, &format!("{victim:?} killed at command {skip}")).await;
            ends[usize::from(new)] += 1;
            skip += if all { 1 } else { 17 };
        }
        assert!(skip > 30, "a restore takes more commands than {skip}");
        println!("{victim:?}: {} ended all-old, {} all-new", ends[0], ends[1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_moments_leave_no_mixture() {
    let count: u32 = kills().and_then(|k| k.parse().ok()).unwrap_or(4);
    let mut scene = Scene::set().await;
    let begun = std::time::Instant::now();
    let undisturbed = scene.restore();
    assert!(scene.ends_whole(undisturbed, "nothing was killed").await);
    let usual = begun.elapsed();
    let mut state = 0x9e37_79b9_u32;
    let mut ends = [0, 0];
    for n in 0..count {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let restore = scene.restore();
        tokio::time::sleep(usual * (state >> 16) / 65_536).await;
        let victim = if state & 0x8000 == 0 { Victim::Agent } else { Victim::Mongod };
        scene.kill(victim).await;
        let new = scene.ends_whole(restore, &format!("kill {n} of {victim:?}")).await;
        ends[usize::from(new)] += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("{} ended all-old, {} all-new", ends[0], ends[1]);
}
