//! Names of things. Each is its own type, so that one cannot be passed for another.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const LENGTH: usize = 27;

/// The text is not an id of the kind that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an id: `{letter}` and 26 characters of a-z and 0-9")]
pub struct NotAnId {
    text: String,
    letter: char,
}

/// What is written the same everywhere: text in logs and in every codec, because JavaScript loses
/// integers past 2^53.
macro_rules! text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": Self::PATTERN })
            }
        }
    };
}

/// Defines an id: a letter that says of what, then 26 characters of `a-z` and `0-9`. Written the
/// same on the wire, in logs, as a word of a subject and as a DNS label.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $letter:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; LENGTH]);

        impl $name {
            const PATTERN: &str = concat!("^", $letter, "[a-z0-9]{26}$");
            const LETTER: u8 = $letter.as_bytes()[0];

            /// The id that ends in this number. For tests and fakes, which count; a node mints
            /// ids from its own name and random characters.
            pub const fn numbered(mut number: u64) -> Self {
                let mut text = [b'0'; LENGTH];
                text[0] = Self::LETTER;
                let mut at = LENGTH;
                while number > 0 {
                    at -= 1;
                    text[at] = b"0123456789"[(number % 10) as usize];
                    number /= 10;
                }
                Self(text)
            }

            /// As it is written.
            pub fn as_str(&self) -> &str {
                std::str::from_utf8(&self.0).expect("made of letters and digits")
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                <[u8; LENGTH]>::try_from(text.as_bytes())
                    .ok()
                    .filter(|bytes| bytes[0] == Self::LETTER)
                    .filter(|bytes| bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
                    .map(Self)
                    .ok_or_else(|| NotAnId {
                        text: text.chars().take(64).collect(),
                        letter: char::from(Self::LETTER),
                    })
            }
        }

        text!($name);
    };
}

id! {
    /// One sandbox, from boot to destruction. Never reused.
    SandboxId, "i"
}
id! {
    /// One execution in a sandbox.
    ExecId, "x"
}
id! {
    /// One request, for logs and progress.
    RequestId, "r"
}
id! {
    /// One agent, however often its sandbox is replaced.
    AgentId, "a"
}
id! {
    /// One deployment.
    DeploymentId, "d"
}
id! {
    /// One swarm.
    SwarmId, "s"
}
id! {
    /// One rise that waits for an operator.
    ApprovalId, "p"
}

const NODE_LENGTH: usize = 6;

/// One node: six characters of lower-case Crockford base32, minted once per data directory and
/// readable from the id of every sandbox it owns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; NODE_LENGTH]);

/// The text is not the id of a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a node: six characters of 0-9 and a-z without i, l, o and u")]
pub struct NotANode {
    text: String,
}

/// Crockford's alphabet: no letter that is easily taken for another.
const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl NodeId {
    const PATTERN: &str = "^[0-9a-hj-km-np-tv-z]{6}$";

    /// The node of the lowest 30 bits of a random number.
    pub const fn of_bits(mut bits: u32) -> Self {
        let mut text = [b'0'; NODE_LENGTH];
        let mut at = NODE_LENGTH;
        while at > 0 {
            at -= 1;
            text[at] = CROCKFORD[(bits & 31) as usize];
            bits >>= 5;
        }
        Self(text)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("made of letters and digits")
    }
}

text!(NodeId);

impl FromStr for NodeId {
    type Err = NotANode;

    fn from_str(text: &str) -> Result<Self, NotANode> {
        <[u8; NODE_LENGTH]>::try_from(text.as_bytes())
            .ok()
            .filter(|bytes| bytes.iter().all(|byte| CROCKFORD.contains(byte)))
            .map(Self)
            .ok_or_else(|| NotANode { text: text.chars().take(64).collect() })
    }
}

impl SandboxId {
    /// A sandbox of `node`, from 128 random bits (20 characters hold 103 of them).
    pub fn minted(node: NodeId, random: u128) -> Self {
        let mut text = [b'i'; LENGTH];
        text[1..=NODE_LENGTH].copy_from_slice(&node.0);
        fill(&mut text[1 + NODE_LENGTH..], random);
        Self(text)
    }

    /// The node that owns it.
    pub fn node(&self) -> NodeId {
        let mut node = [b'0'; NODE_LENGTH];
        node.copy_from_slice(&self.0[1..=NODE_LENGTH]);
        NodeId(node)
    }
}

impl ExecId {
    /// A new execution, from 128 random bits.
    pub fn minted(random: u128) -> Self {
        let mut text = [b'x'; LENGTH];
        fill(&mut text[1..], random);
        Self(text)
    }
}

impl RequestId {
    /// A new request, from 128 random bits.
    pub fn minted(random: u128) -> Self {
        let mut text = [b'r'; LENGTH];
        fill(&mut text[1..], random);
        Self(text)
    }
}

impl AgentId {
    /// A new agent, from 128 random bits.
    pub fn minted(random: u128) -> Self {
        let mut text = [b'a'; LENGTH];
        fill(&mut text[1..], random);
        Self(text)
    }
}

impl DeploymentId {
    /// A new deployment, from 128 random bits.
    pub fn minted(random: u128) -> Self {
        let mut text = [b'd'; LENGTH];
        fill(&mut text[1..], random);
        Self(text)
    }
}

impl SwarmId {
    /// A new swarm, from 128 random bits.
    pub fn minted(random: u128) -> Self {
        let mut text = [b's'; LENGTH];
        fill(&mut text[1..], random);
        Self(text)
    }
}

impl ApprovalId {
    /// A new approval, from 128 random bits.
    pub fn minted(random: u128) -> Self {
        let mut text = [b'p'; LENGTH];
        fill(&mut text[1..], random);
        Self(text)
    }
}

/// Writes `number` in base 36, lowest digit first.
fn fill(text: &mut [u8], mut number: u128) {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    /// Digits that fit a machine word: dividing 128 bits once per digit takes a microsecond.
    const AT_ONCE: usize = 12;
    const STEP: u128 = 36_u128.pow(12);
    for digits in text.chunks_mut(AT_ONCE) {
        let mut word = u64::try_from(number % STEP).expect("below 36 to the 12th");
        number /= STEP;
        for byte in digits {
            *byte = DIGITS[usize::try_from(word % 36).expect("below 36")];
            word /= 36;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_what_it_wrote() {
        let id = SandboxId::numbered(42);
        assert_eq!(id.as_str(), "i00000000000000000000000042");
        assert_eq!(id.as_str().parse(), Ok(id));
    }

    #[test]
    fn the_owner_is_readable_from_a_sandbox() {
        let node = NodeId::of_bits(0x2345_6789);
        let sandbox = SandboxId::minted(node, u128::MAX);
        assert_eq!(sandbox.node(), node);
        assert_eq!(sandbox.as_str().parse(), Ok(sandbox));
        assert_eq!(node.as_str().parse(), Ok(node));
        assert_ne!(SandboxId::minted(node, 1), SandboxId::minted(node, 2));
    }

    #[test]
    fn random_numbers_become_digits_lowest_first() {
        assert_eq!(ExecId::minted(35 + 36).as_str(), "xz1000000000000000000000000");
        let twelve = 36_u128.pow(12);
        assert_eq!(ExecId::minted(2 * twelve + 1).as_str(), "x10000000000020000000000000");
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        assert!(ExecId::numbered(7).as_str().parse::<SandboxId>().is_err());
        assert!("i0000000000000000000000000A".parse::<SandboxId>().is_err());
    }
}
