//! Runs the crash matrix of restores on three hosts and prints its table: a line for each case as it ends, then the steps with
//! how each fault ended. `ha-matrix [EVERY [FIRST]]` takes every EVERYth case from the FIRST on, numbered from 0; without, all of them.
//! Ends with 1 when a case ended in between. Needs root; `tests/run ha-matrix` builds what it needs and runs it.
#![allow(clippy::print_stdout, reason = "the table is what it is for")]

use std::{collections::BTreeMap, process::ExitCode, time::Instant};

use prexor_tests::fleet::matrix::{Fault, Matrix};

const FAILED: &str = "FAILED";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).map(|n| n.parse::<usize>().expect("a number"));
    let (every, first) = (args.next().unwrap_or(1), args.next().unwrap_or(0));
    let begun = Instant::now();
    let mut matrix = Some(Matrix::start());
    let steps = matrix.as_ref().map(Matrix::steps).unwrap_or_default();
    let cases = steps.iter().flat_map(|step| Fault::ALL.map(|fault| (step, fault))).enumerate();
    let mut ends: BTreeMap<(u64, usize), String> = BTreeMap::new();
    for (case, ((number, title), fault)) in cases.skip(first).step_by(every) {
        let begun = Instant::now();
        let end = matrix.get_or_insert_with(Matrix::start).run(*number, fault);
        let word = end.as_ref().map_or_else(|_| FAILED.to_owned(), ToString::to_string);
        println!(
            "{case:>3}  {number:>2} {title:<62}  {:<18}  {word:<11}  {:>4.0?}",
            fault.to_string(),
            begun.elapsed()
        );
        if let Err(why) = end {
            println!("{why}\n");
            // What it left must not be the next one's.
            matrix = None;
        }
        ends.insert((*number, case % Fault::ALL.len()), word);
    }
    print_table(&steps, &ends);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    ends.values().for_each(|end| *counts.entry(end).or_default() += 1);
    let words: Vec<String> = counts.iter().map(|(end, n)| format!("{n} {end}")).collect();
    println!("\n{} cases in {:.0?}: {}", ends.len(), begun.elapsed(), words.join(", "));
    if counts.contains_key(FAILED) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The faults in columns.
fn print_table(steps: &[(u64, String)], ends: &BTreeMap<(u64, usize), String>) {
    println!();
    for (column, fault) in Fault::ALL.iter().enumerate() {
        println!("({}) {fault}", column + 1);
    }
    let heads: String = (1..=Fault::ALL.len()).map(|n| format!("  {:<11}", format!("({n})"))).collect();
    println!("\n{:<65}{heads}", "step");
    for (number, title) in steps {
        let cell = |n| ends.get(&(*number, n)).map_or("", String::as_str);
        let cells: String = (0..Fault::ALL.len()).map(|n| format!("  {:<11}", cell(n))).collect();
        println!("{}", format!("{number:>2} {title:<62}{cells}").trim_end());
    }
}
