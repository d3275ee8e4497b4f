//! Who is who: the backup CA, the identities it vouches for, enrolment tokens, credentials on disk, and what TLS checks.
//!
//! The *backup CA* is ours alone. It has nothing to do with PrexorCloud's *platform CA*, which is part of the files
//! artifact and is replaced by a restore; nothing in this crate lives where a restore writes.
//!
//! Deliberately absent: RPC (`prexor_transport` glues TLS to tonic), and any decision about what an identity may do.

pub mod authority;
pub mod credential;
mod files;
pub mod identity;
pub mod leaf;
pub mod passphrase;
mod pem;
pub mod tls;
pub mod token;

pub use authority::Authority;
pub use credential::{Credential, KeyPair};
pub use identity::{Identity, Role};
pub use leaf::Leaf;
pub use passphrase::Passphrase;
pub use rustls::pki_types::CertificateDer;
pub use token::EnrolmentToken;
