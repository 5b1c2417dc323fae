//! The clocks, and a moment as logs write it.
#![expect(unsafe_code, reason = "system calls with checked pointers")]

use crate::arch::call;

fn clock(which: i32) -> i64 {
    let mut now = [0_i64; 2];
    // SAFETY: the kernel writes a timespec: two numbers.
    let _ = unsafe { call!(SYS_clock_gettime, which, now.as_mut_ptr()) };
    now[0] * 1_000_000_000 + now[1]
}

/// Nanoseconds since 1970 (UTC).
pub fn unix_nanos() -> i64 {
    clock(libc::CLOCK_REALTIME)
}

/// Nanoseconds of a clock that never jumps.
pub fn monotonic_nanos() -> i64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// The length of what [`rfc3339`] writes.
pub const RFC3339_BYTES: usize = 30;

/// Writes `nanos` since 1970 as `2026-11-23T22:44:01.123456789Z`. Years 1970 to 9999.
pub fn rfc3339(nanos: i64) -> [u8; RFC3339_BYTES] {
    let seconds = nanos.div_euclid(1_000_000_000);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], of_day / 3600);
    digits(&mut text[14..16], of_day / 60 % 60);
    digits(&mut text[17..19], of_day % 60);
    digits(&mut text[20..29], nanos.rem_euclid(1_000_000_000));
    text
}

fn digits(place: &mut [u8], mut value: i64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

/// The date of a day since 1970, counted in 400-year eras that begin in March, so that leap days come last.
fn civil(days: i64) -> (i64, i64, i64) {
    let from_era = days + 719_468;
    let era = from_era.div_euclid(146_097);
    let day_of_era = from_era.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_with_nine_digits() {
        assert_eq!(&rfc3339(0), b"1970-01-01T00:00:00.000000000Z");
        assert_eq!(&rfc3339(951_782_400_000_000_001), b"2000-02-29T00:00:00.000000001Z");
        assert_eq!(&rfc3339(1_795_474_241_123_456_789), b"2026-11-23T22:50:41.123456789Z");
    }
}
