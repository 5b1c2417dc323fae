//! Chance from a seed, and the distributions that a person writes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Random numbers of one thing: the same seed and stream give the same ones, whatever others draw.
#[derive(Debug)]
pub struct Chance {
    rng: StdRng,
}

impl Chance {
    /// The stream `stream` of `seed`.
    pub fn new(seed: u64, stream: u64) -> Self {
        // An odd multiplier (2^64 over the golden ratio) keeps neighbouring streams apart.
        Self { rng: StdRng::seed_from_u64(seed ^ stream.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) }
    }

    /// From 0 up to, and without, 1.
    pub fn unit(&mut self) -> f64 {
        self.rng.random::<f64>()
    }

    /// Of the standard normal distribution (Box and Muller).
    fn normal(&mut self) -> f64 {
        let (a, b) = (1.0 - self.unit(), self.unit());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    /// Of the exponential distribution with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }
}

/// How long something takes: `20ms`, `uniform(10ms,30ms)`, `exponential(20ms)`, `lognormal(20ms,0.5)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distribution {
    /// Always the same.
    Constant(Duration),
    /// Anything between two.
    Uniform(Duration, Duration),
    /// By its mean.
    Exponential(Duration),
    /// By its median and the standard deviation of its logarithm.
    LogNormal(Duration, f64),
}

impl Distribution {
    /// Draws one.
    pub fn draw(&self, chance: &mut Chance) -> Duration {
        let seconds = match self {
            Self::Constant(time) => return *time,
            Self::Uniform(from, to) => from.as_secs_f64() + chance.unit() * (to.as_secs_f64() - from.as_secs_f64()),
            Self::Exponential(mean) => mean.as_secs_f64() * chance.exponential(),
            Self::LogNormal(median, sigma) => median.as_secs_f64() * (sigma * chance.normal()).exp(),
        };
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || {
            format!(
                "{text:?} is no distribution: write 20ms, uniform(10ms,30ms), exponential(20ms) or lognormal(20ms,0.5)"
            )
        };
        let Some((name, arguments)) = text.split_once('(') else { return Ok(Self::Constant(duration(text)?)) };
        let arguments = arguments.strip_suffix(')').ok_or_else(bad)?;
        let arguments: Vec<_> = arguments.split(',').map(str::trim).collect();
        match (name.trim(), arguments.as_slice()) {
            ("uniform", [from, to]) => match (duration(from)?, duration(to)?) {
                (from, to) if from <= to => Ok(Self::Uniform(from, to)),
                _ => Err(format!("{text:?} begins after its end")),
            },
            ("exponential", [mean]) => Ok(Self::Exponential(duration(mean)?)),
            ("lognormal", [median, sigma]) => match sigma.parse::<f64>() {
                Ok(sigma) if (0.0..=10.0).contains(&sigma) => Ok(Self::LogNormal(duration(median)?, sigma)),
                _ => Err(format!("{sigma:?} is no deviation: write a number from 0 to 10")),
            },
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(time) => write!(f, "{time:?}"),
            Self::Uniform(from, to) => write!(f, "uniform({from:?},{to:?})"),
            Self::Exponential(mean) => write!(f, "exponential({mean:?})"),
            Self::LogNormal(median, sigma) => write!(f, "lognormal({median:?},{sigma})"),
        }
    }
}

/// `20ms`, `1.5s`, `5m`, `1h`.
///
/// # Errors
/// With what to write instead.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration: write it as 20ms, 1.5s, 5m or 1h");
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(bad)?;
    let number: f64 = text[..unit].parse().map_err(|_| bad())?;
    let seconds = match &text[unit..] {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(bad()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_reads_as_it_prints() {
        for text in ["20ms", "uniform(10ms,30ms)", "exponential(1.5s)", "lognormal(20ms,0.5)"] {
            assert_eq!(text.parse::<Distribution>().unwrap().to_string(), text);
        }
        for wrong in ["", "20", "ms", "uniform(30ms,10ms)", "lognormal(20ms)", "lognormal(20ms,-1)", "normal(1s,2)"] {
            assert!(wrong.parse::<Distribution>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn draws_have_the_median_that_was_asked_for() {
        for text in ["20ms", "uniform(10ms,30ms)", "lognormal(20ms,0.5)"] {
            let (distribution, mut chance) = (text.parse::<Distribution>().unwrap(), Chance::new(7, 0));
            let mut draws: Vec<_> = (0..10_001).map(|_| distribution.draw(&mut chance)).collect();
            draws.sort();
            let median = draws[5000].as_secs_f64() * 1e3;
            assert!((19.0..21.0).contains(&median), "{text}: {median} ms");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_and_another_stream_does_not() {
        let draw = |seed, stream| Chance::new(seed, stream).unit();
        assert_eq!(draw(7, 1).to_bits(), draw(7, 1).to_bits());
        assert_ne!(draw(7, 1).to_bits(), draw(7, 2).to_bits());
        assert_ne!(draw(8, 1).to_bits(), draw(7, 1).to_bits());
    }
}
