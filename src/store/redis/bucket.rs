//! Where things lie: each subject in one of 256 buckets, all keys of which have one hash tag. A tag for the whole would
//! put everything on one node of a cluster, and none would forbid a script to touch a trade and its backlog together.

/// The names of keys.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The hash of what is kept of a subject.
    pub(super) fn trade(&self, subject: &str) -> String {
        format!("{}:{{{:02x}}}:t:{subject}", self.prefix, bucket(subject))
    }

    /// How much waits in a bucket. The scripts find the bucket's other keys by it.
    pub(super) fn load(&self, bucket: u8) -> String {
        format!("{}:{{{bucket:02x}}}:load", self.prefix)
    }

    /// What matches the trades, and nothing else.
    pub(super) fn trades(&self) -> String {
        format!("{}:{{[0-9a-f][0-9a-f]}}:t:*", self.prefix)
    }

    /// The subject of a trade's key.
    pub(super) fn subject(&self, key: &str) -> Option<String> {
        let rest = key.strip_prefix(&self.prefix)?.strip_prefix(":{")?;
        let (_, subject) = rest.split_once("}:t:")?;
        Some(subject.to_owned())
    }
}

/// FNV-1a, folded. It is in the names of what is kept: never to be changed.
pub(super) fn bucket(subject: &str) -> u8 {
    let hash = subject
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.to_be_bytes().into_iter().fold(0, |folded, byte| folded ^ byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_its_bucket_and_its_subject() {
        let names = Names::new("alipay");
        let key = names.trade("2026112322001427340000000000");
        assert_eq!(key, "alipay:{4f}:t:2026112322001427340000000000", "never to be changed");
        assert_eq!(names.subject(&key).as_deref(), Some("2026112322001427340000000000"));
        assert_eq!(names.subject(&names.load(1)), None);
    }

    #[test]
    fn trades_are_spread_evenly() {
        let mut sizes = [0u32; 256];
        for n in 0..25_600 {
            sizes[usize::from(bucket(&format!("20261123220014273400{n:08}")))] += 1;
        }
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        assert!(*least > 50 && *most < 200, "{least} to {most}");
    }
}
