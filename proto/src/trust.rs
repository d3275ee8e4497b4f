//! What an agent is told to trust, in one digest: equal on both ends when nothing has to be said.

use prexor_format::digest::Sha256Digest;

use crate::agent::TrustRequest;

/// Names the metadata of every answer of the client API that says which root signs for operators, and which roots there
/// are; as [`mark`] writes it.
pub const MARK: &str = "prexor-trust";

/// What an operator's credential should be like: the SHA-256 of the root that it is signed by, and of those to trust.
pub fn mark(issuer: &[u8], roots: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
    let roots: Vec<_> = roots.into_iter().map(|r| Sha256Digest::of(r.as_ref()).to_string()).collect();
    format!("{} {}", Sha256Digest::of(issuer), roots.join(" "))
}

/// The digest of the roots and the revoked serial numbers of a request, in their order.
pub fn digest(request: &TrustRequest) -> Sha256Digest {
    let mut bytes = Vec::new();
    for part in request
        .roots_der
        .iter()
        .map(Vec::as_slice)
        .chain([&[][..]])
        .chain(request.revoked_serials.iter().map(String::as_bytes))
    {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend(part);
    }
    Sha256Digest::of(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_and_serials_are_not_confused() {
        let of = |roots: &[&str], serials: &[&str]| {
            digest(&TrustRequest {
                roots_der: roots.iter().map(|r| r.as_bytes().to_vec()).collect(),
                revoked_serials: serials.iter().map(|s| (*s).to_owned()).collect(),
                ..TrustRequest::default()
            })
        };
        let all = [of(&["a"], &[]), of(&[], &["a"]), of(&["a", "b"], &[]), of(&["ab"], &[]), of(&["a"], &["b"])];
        for (i, a) in all.iter().enumerate() {
            assert_eq!(all.iter().filter(|b| a == *b).count(), 1, "{i}");
        }
    }
}
