//! Kubernetes' quantities, exact: `100m`, `64Mi`, `1e3`, `0.5Gi`.
//!
//! A quantity is a whole number of billionths, as Kubernetes' finest unit is `n`. What is finer is rounded away from
//! zero, so that a request for something never becomes a request for nothing.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;

/// Billionths in one.
const NANO: i128 = 1_000_000_000;
const MILLI_NANO: i128 = NANO / 1_000;
/// Kubernetes caps at 2^63 - 1.
const NANO_MAX: i128 = i64::MAX as i128 * NANO;
const DECIMAL_SUFFIXES: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY_SUFFIXES: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// An amount of a resource: CPUs, bytes, pods. Two are equal when their amounts are, however they were written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// Which suffixes a quantity is written with; kept from how it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Format {
    /// `k`, `M`, `G`...
    #[default]
    Decimal,
    /// `Ki`, `Mi`, `Gi`...
    Binary,
    /// `e3`, `e6`...
    Exponent,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It has no number, or what follows is no suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Syntax,
    /// The number is fine, the suffix is none that Kubernetes knows.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nano: 0, format: Format::Decimal };

    /// Reads a quantity as Kubernetes does.
    ///
    /// # Errors
    /// When it has another shape, or an unknown suffix.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Syntax);
        }
        let (scale, format) = Scale::parse(suffix)?;
        let nano = scale.nanos(whole, fraction);
        Ok(Self { nano: if negative { -nano } else { nano }, format })
    }

    /// So many thousandths, as of CPUs.
    pub const fn from_millis(millis: i64) -> Self {
        Self { nano: millis as i128 * MILLI_NANO, format: Format::Decimal }
    }

    /// So many bytes, written with `Ki`, `Mi`, `Gi`.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self { nano: bytes as i128 * NANO, format: Format::Binary }
    }

    /// In whole ones, rounded up.
    pub fn value(&self) -> i64 {
        clamp(ceil_div(self.nano, NANO))
    }

    /// In thousandths, rounded up.
    pub fn milli_value(&self) -> i64 {
        clamp(ceil_div(self.nano, MILLI_NANO))
    }

    /// Rounded up to whole thousandths, the finest that Kubernetes stores for a container's resources.
    #[must_use]
    pub(crate) fn rounded_up_to_millis(self) -> Self {
        Self { nano: ceil_div(self.nano, MILLI_NANO) * MILLI_NANO, ..self }
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// Whether it is less than nothing.
    pub(crate) fn is_negative(&self) -> bool {
        self.nano < 0
    }

    /// Whether it has no fraction.
    pub(crate) fn is_integer(&self) -> bool {
        self.nano % NANO == 0
    }
}

fn ceil_div(n: i128, by: i128) -> i128 {
    n.div_euclid(by) + i128::from(n.rem_euclid(by) != 0)
}

fn clamp(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

/// What a suffix multiplies by.
#[derive(Debug, Clone, Copy)]
enum Scale {
    Ten(i32),
    Two(u32),
}

impl Scale {
    fn parse(suffix: &str) -> Result<(Self, Format), QuantityError> {
        if let Some((_, exponent)) = DECIMAL_SUFFIXES.iter().find(|(name, _)| *name == suffix) {
            return Ok((Self::Ten(*exponent), Format::Decimal));
        }
        if let Some((_, exponent)) = BINARY_SUFFIXES.iter().find(|(name, _)| *name == suffix) {
            return Ok((Self::Two(*exponent), Format::Binary));
        }
        if let Some(exponent) = suffix.strip_prefix(['e', 'E']) {
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
                // Beyond three digits every amount is the cap or the smallest one anyway.
                let exponent = exponent.parse().unwrap_or(if exponent.starts_with('-') { -999 } else { 999 });
                return Ok((Self::Ten(exponent), Format::Exponent));
            }
        }
        let known = |c: char| "eEinumkKMGTP+-".contains(c) || c.is_ascii_digit();
        Err(if suffix.chars().all(known) { QuantityError::Suffix } else { QuantityError::Syntax })
    }

    /// `whole.fraction` times this, in billionths, rounded up and capped.
    fn nanos(self, whole: &str, fraction: &str) -> i128 {
        match self {
            Self::Ten(exponent) => {
                let (integer, rest) = move_point(whole, fraction, exponent + 9);
                integer.saturating_add(i128::from(rest.bytes().any(|digit| digit != b'0')))
            }
            Self::Two(bits) => {
                let (integer, rest) = move_point(whole, fraction, 9);
                // Eighteen digits times 2^60 fit in 128 bits; what is finer changes nothing that is a byte.
                let rest = &rest[..rest.len().min(18)];
                let digits = u32::try_from(rest.len()).unwrap_or(18);
                let part = ceil_div(number(rest) << bits, 10_i128.pow(digits));
                integer.saturating_mul(1 << bits).saturating_add(part)
            }
        }
        .min(NANO_MAX)
    }
}

/// The decimal point of `whole.fraction` moved right by `by` digits: the integer before it and the digits behind.
fn move_point(whole: &str, fraction: &str, by: i32) -> (i128, String) {
    let places = by.unsigned_abs() as usize;
    if by < 0 {
        let (before, behind) = whole.split_at(whole.len().saturating_sub(places));
        let zeros = "0".repeat(places.saturating_sub(whole.len()));
        (number(before), format!("{zeros}{behind}{fraction}"))
    } else {
        let (before, behind) = fraction.split_at(fraction.len().min(places));
        let zeros = "0".repeat(places.saturating_sub(fraction.len()));
        (number(&format!("{whole}{before}{zeros}")), behind.to_owned())
    }
}

/// Digits as a number, the largest one when it does not fit.
fn number(digits: &str) -> i128 {
    digits.bytes().fold(0_i128, |n, digit| n.saturating_mul(10).saturating_add(i128::from(digit - b'0')))
}

/// The canonical form: no fraction, the largest suffix that needs none.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        // Below 1024, and with a fraction, binary suffixes would need a fraction or say nothing.
        if self.format == Format::Binary && self.is_integer() && self.nano.abs() >= 1024 * NANO {
            let units = self.nano / NANO;
            let (suffix, bits) =
                BINARY_SUFFIXES.iter().rev().find(|(_, bits)| units % (1 << bits) == 0).unwrap_or(&("", 0));
            return write!(f, "{}{suffix}", units >> bits);
        }
        let (mut number, mut exponent) = (self.nano, -9);
        while exponent < 18 && number % 1000 == 0 {
            (number, exponent) = (number / 1000, exponent + 3);
        }
        match (self.format, exponent) {
            (Format::Exponent, 0) => write!(f, "{number}"),
            (Format::Exponent, _) => write!(f, "{number}e{exponent}"),
            _ => {
                let suffix = DECIMAL_SUFFIXES.iter().find(|(_, e)| *e == exponent).map_or("", |(name, _)| name);
                write!(f, "{number}{suffix}")
            }
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

/// Saturates; keeps the way of writing of the first that is not zero.
impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nano: self.nano.saturating_add(other.nano), format }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + Self { nano: -other.nano, ..other }
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(quantities: I) -> Self {
        quantities.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests;
