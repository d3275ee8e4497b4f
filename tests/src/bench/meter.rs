//! What processes use, from `/proc`: CPU time and peak memory of a phase.

use std::{collections::BTreeMap, fs};

use serde::Serialize;

use crate::cluster::Cluster;

/// Ticks of `/proc/PID/stat` per second: `USER_HZ`, 100 on every Linux that we run on.
const TICKS: f64 = 100.0;

/// Name and pid of what is watched.
#[derive(Debug)]
pub(super) struct Processes(Vec<(&'static str, u32)>);

impl Processes {
    pub(super) fn of(cluster: &Cluster) -> Self {
        let mut all = vec![("agent", cluster.agent_pid()), ("coordinator", cluster.coordinator_pid())];
        all.extend(cluster.mongod.pid().map(|pid| ("mongod", pid)));
        all.extend(cluster.valkey.as_ref().and_then(|v| v.pid()).map(|pid| ("valkey", pid)));
        Self(all)
    }
}

/// What one process used in one phase.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Usage {
    /// User and system time in seconds, with that of children that ended.
    pub(super) cpu: f64,
    /// Largest resident memory (VmHWM) in bytes.
    pub(super) peak: u64,
    /// Whether the peak is that of the phase alone; where the kernel cannot reset it, it is that of the process's life.
    pub(super) of_phase: bool,
}

/// A phase that goes on.
#[derive(Debug)]
pub(super) struct Meter(Vec<(&'static str, u32, f64, bool)>);

impl Meter {
    /// Begins: resets the peaks where the kernel can (`5` into `clear_refs`, see proc(5)).
    pub(super) fn start(processes: Processes) -> Self {
        let begin = |(name, pid)| {
            let reset = fs::write(format!("/proc/{pid}/clear_refs"), "5").is_ok();
            (name, pid, cpu(pid).unwrap_or_default(), reset)
        };
        Self(processes.0.into_iter().map(begin).collect())
    }

    /// Ends. A process that is gone, such as a server that a restore restarted, is left out.
    pub(super) fn finish(self) -> BTreeMap<&'static str, Usage> {
        let end =
            |(name, pid, before, of_phase)| Some((name, Usage { cpu: cpu(pid)? - before, peak: peak(pid)?, of_phase }));
        self.0.into_iter().filter_map(end).collect()
    }
}

fn cpu(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold spaces; utime, stime, cutime and cstime are fields 14 to 17.
    let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(4);
    Some(fields.filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / TICKS)
}

fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sees_the_time_and_memory_of_this_process() {
        let meter = Meter::start(Processes(vec![("this", std::process::id())]));
        let mut some = vec![1_u8; 64 << 20];
        let begun = std::time::Instant::now();
        while begun.elapsed().as_millis() < 60 {
            some.reverse();
        }
        let usage = meter.finish()["this"];
        assert!(usage.cpu > 0.0 && usage.peak > some.len() as u64, "{usage:?}");
    }
}
