//! Rebuilds when a migration is added: the catalog compiles them in.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
