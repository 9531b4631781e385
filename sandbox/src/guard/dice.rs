//! Chance with a seed, so that what was drawn can be drawn again.

/// Numbers after Steele, Lea and Flood, "Fast splittable pseudorandom number generators"
/// (SplitMix64). Good enough to spread calls over time; nothing secret is made of it.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same seed throws the same numbers.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number of 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A share from 0 up to, and without, 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are what a float holds")]
    pub const fn share(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_spread_evenly() {
        let mut dice = Dice::new(7);
        let mut tenths = [0_u32; 10];
        for _ in 0..10_000 {
            let share = dice.share();
            assert!((0.0..1.0).contains(&share));
            let tenth = (0..10).rev().find(|tenth| share >= f64::from(*tenth) / 10.0);
            tenths[usize::try_from(tenth.expect("at least 0")).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|count| (900..1_100).contains(count)), "{tenths:?}");
    }
}
