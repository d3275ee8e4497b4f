//! The contract: generated types and services, and what both ends need to speak it.
//!
//! The `.proto` files are in `prexorcloud/` beside this crate's `Cargo.toml`.

pub mod convert;
pub mod facts;
pub mod reason;
pub mod status;
pub mod trust;

pub use generated::prexorcloud::{agent::v1 as agent, backup::v1 as backup, enroll::v1 as enroll};

/// What tonic-prost-build makes of the `.proto` files, in modules like their packages.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod generated {
    pub mod prexorcloud {
        pub mod agent {
            pub mod v1 {
                tonic::include_proto!("prexorcloud.agent.v1");
            }
        }
        pub mod backup {
            pub mod v1 {
                tonic::include_proto!("prexorcloud.backup.v1");
            }
        }
        pub mod enroll {
            pub mod v1 {
                tonic::include_proto!("prexorcloud.enroll.v1");
            }
        }
    }
}

// These two carry a token: what is printed of them leaves it out.

impl std::fmt::Debug for enroll::EnrolRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for backup::CreateTokenResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreateTokenResponse").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}
