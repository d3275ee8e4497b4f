//! Runs the crash matrix of restores on several hosts and prints its table: a line for each case as it ends, then the steps with
//! how each fault ended. Ends with 1 when a case ended in between. Needs root; `tests/run ha-matrix` builds what it needs and runs
//! it.
#![allow(clippy::print_stdout, reason = "the table is what it is for")]

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use clap::Parser;
use prexor_tests::fleet::matrix::{self, Case, Fault, Matrix, Step};

const FAILED: &str = "FAILED";

/// Crash matrix of restores: something dies at each step.
#[derive(Debug, Parser)]
struct Args {
    /// How many fleets of hosts share the work.
    #[arg(long, default_value_t = 1)]
    fleets: usize,
    /// Takes every Nth case.
    #[arg(long, default_value_t = 1, value_name = "N")]
    every: usize,
    /// Begins with this one.
    #[arg(long, default_value_t = 0, value_name = "CASE")]
    from: usize,
    /// Takes these cases alone, by their numbers.
    cases: Vec<usize>,
}

/// How cases ended, by their numbers.
type Ends = BTreeMap<usize, String>;

fn main() -> ExitCode {
    let (args, begun) = (Args::parse(), Instant::now());
    let first = Matrix::start();
    let steps = first.steps();
    let mut cases = matrix::cases(&steps);
    cases.retain(|case| match args.cases.as_slice() {
        [] => case.number >= args.from && (case.number - args.from).is_multiple_of(args.every),
        these => these.contains(&case.number),
    });
    let (queue, ends) = (Mutex::new(cases.into_iter()), Mutex::new(Ends::new()));
    std::thread::scope(|scope| {
        for _ in 1..args.fleets {
            scope.spawn(|| work(None, &queue, &ends));
        }
        work(Some(first), &queue, &ends);
    });
    let ends = ends.into_inner().unwrap_or_else(PoisonError::into_inner);
    print_table(&steps, &ends);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    ends.values().for_each(|end| *counts.entry(end).or_default() += 1);
    let words: Vec<String> = counts.iter().map(|(end, n)| format!("{n} {end}")).collect();
    println!("\n{} cases in {:.0?}: {}", ends.len(), begun.elapsed(), words.join("; "));
    if counts.contains_key(FAILED) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Takes cases until there are none left, on this fleet, or one of its own.
fn work(mut matrix: Option<Matrix>, queue: &Mutex<impl Iterator<Item = Case>>, ends: &Mutex<Ends>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(case) = next else { return };
        let begun = Instant::now();
        let end = matrix.get_or_insert_with(Matrix::start).run(&case);
        let word = end.as_ref().map_or_else(|_| FAILED.to_owned(), ToString::to_string);
        let (number, step, failing) = (case.number, &case.step, if case.hold { "hold" } else { "roll back" });
        println!(
            "{number:>3}  {:>2} {:<62}  {:<23}  {failing:<9}  {word:<11}  {:>4.0?}",
            step.number,
            step.title,
            case.fault.to_string(),
            begun.elapsed()
        );
        ends.lock().unwrap_or_else(PoisonError::into_inner).insert(number, word);
        if let Err(why) = end {
            println!("{why}\n");
            // What it left must not be the next one's.
            matrix = None;
        }
    }
}

/// The faults in columns.
fn print_table(steps: &[Step], ends: &Ends) {
    let heads = [
        "coordinator",
        "agent on h1",
        "agent on h2",
        "agent on h3",
        "primary",
        "Valkey",
        "power of a host",
        "link of a host",
    ];
    let columns: String = heads.iter().map(|head| format!("  {head:<15}")).collect();
    println!("\nThe host is that of the step; of the coordinator's steps h1 loses power and h3 is cut off.");
    println!("\n{:<65}{columns}", "step");
    for (row, step) in steps.iter().enumerate() {
        let cell = |(column, _): (usize, &Fault)| ends.get(&(row * heads.len() + column)).map_or("", String::as_str);
        let cells: String =
            matrix::faults(step).iter().enumerate().map(cell).map(|end| format!("  {end:<15}")).collect();
        println!("{}", format!("{:>2} {:<62}{cells}", step.number, step.title).trim_end());
    }
}
