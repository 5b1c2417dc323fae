//! Which limits make sense at all. Pure: what the kernel then says of them is another matter.

use podbus_common_cri::runtime::LinuxContainerResources;

use crate::process::Invalid;

/// Microseconds, as the kernel has it.
const PERIODS: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
const QUOTA_MIN: i64 = 1_000;
const SHARES: std::ops::RangeInclusive<i64> = 2..=262_144;

/// Refuses limits that no cgroup can have. Zero and empty say nothing, -1 is no limit.
pub(super) fn check(resources: &LinuxContainerResources, is_v2: bool) -> Result<(), Invalid> {
    let refuse = |name: &str, value: String| Err(Invalid(format!("{name} cannot be {value}")));
    let number = |name: &str, value: i64, is_good: bool| {
        if value == 0 || is_good { Ok(()) } else { refuse(name, value.to_string()) }
    };
    let (memory, both) = (resources.memory_limit_in_bytes, resources.memory_swap_limit_in_bytes);
    number("cpu_period", resources.cpu_period, PERIODS.contains(&resources.cpu_period))?;
    number("cpu_quota", resources.cpu_quota, resources.cpu_quota == -1 || resources.cpu_quota >= QUOTA_MIN)?;
    // Kubernetes' own arithmetic may end at 1: the kernel takes it for the least.
    number("cpu_shares", resources.cpu_shares, resources.cpu_shares == 1 || SHARES.contains(&resources.cpu_shares))?;
    number("memory_limit_in_bytes", memory, memory >= -1)?;
    number("memory_swap_limit_in_bytes", both, both >= -1)?;
    if both > 0 && memory > both {
        return refuse(
            "memory_swap_limit_in_bytes",
            format!("{both}: it counts memory and swap, and memory is {memory}"),
        );
    }
    number("oom_score_adj", resources.oom_score_adj, (-1000..=1000).contains(&resources.oom_score_adj))?;
    for (name, list) in [("cpuset_cpus", &resources.cpuset_cpus), ("cpuset_mems", &resources.cpuset_mems)] {
        if !list.is_empty() && !is_list(list) {
            return refuse(name, format!("{list:?}"));
        }
    }
    for limit in &resources.hugepage_limits {
        if page_size(&limit.page_size).is_none() {
            return refuse("the page size of a hugepage limit", format!("{:?}", limit.page_size));
        }
    }
    if !is_v2 && !resources.unified.is_empty() {
        return Err(Invalid("unified limits are those of cgroup v2, and this node has v1".to_owned()));
    }
    match resources.unified.keys().find(|name| !is_file(name)) {
        Some(name) => refuse("a unified limit", format!("{name:?}")),
        None => Ok(()),
    }
}

/// `0-3,7`.
fn is_list(text: &str) -> bool {
    text.split(',').all(|part| {
        let mut ends = part.splitn(2, '-').map(|end| end.trim().parse::<u32>());
        matches!((ends.next(), ends.next()), (Some(Ok(_)), None | Some(Ok(_))))
    })
}

/// `2MB`, as the kernel names its files, of what Kubernetes may write as `2Mi` or `2MB`.
pub(super) fn page_size(text: &str) -> Option<String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "KB" | "Ki" => "KB",
        "MB" | "Mi" => "MB",
        "GB" | "Gi" => "GB",
        _ => return None,
    };
    digits.parse::<u32>().ok().map(|number| format!("{number}{unit}"))
}

/// A limit of a controller, and nothing that moves processes or lies elsewhere.
fn is_file(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_'));
    plain && !name.starts_with("cgroup.") && !name.starts_with('.') && name.contains('.')
}

#[cfg(test)]
mod tests {
    use podbus_common_cri::runtime::HugepageLimit;

    use super::*;

    type Change = fn(&mut LinuxContainerResources);

    fn with(change: Change) -> LinuxContainerResources {
        let mut resources = LinuxContainerResources::default();
        change(&mut resources);
        resources
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        let bad: [Change; 13] = [
            |it| it.cpu_period = 999,
            |it| it.cpu_quota = 10,
            |it| it.cpu_shares = -5,
            |it| it.memory_limit_in_bytes = -2,
            |it| (it.memory_limit_in_bytes, it.memory_swap_limit_in_bytes) = (100, 50),
            |it| it.oom_score_adj = 1001,
            |it| it.cpuset_cpus = "0-".into(),
            |it| it.cpuset_mems = "a".into(),
            |it| it.hugepage_limits = vec![HugepageLimit { page_size: "2/../x".into(), limit: 1 }],
            |it| drop(it.unified.insert("cgroup.procs".into(), "1".into())),
            |it| drop(it.unified.insert("../memory.max".into(), "1".into())),
            |it| drop(it.unified.insert("memory".into(), "1".into())),
            |it| drop(it.unified.insert(".x".into(), "1".into())),
        ];
        for (at, change) in bad.into_iter().enumerate() {
            assert!(check(&with(change), true).is_err(), "{at}");
        }
        let good: [Change; 4] = [
            |_| {},
            |it| (it.cpu_quota, it.cpu_period, it.cpu_shares) = (-1, 100_000, 2),
            |it| (it.memory_limit_in_bytes, it.memory_swap_limit_in_bytes) = (100, 100),
            |it| (it.cpuset_cpus, it.cpuset_mems) = ("0-3,7".into(), "0".into()),
        ];
        for (at, change) in good.into_iter().enumerate() {
            assert_eq!(check(&with(change), false), Ok(()), "{at}");
        }
        let unified = with(|it| drop(it.unified.insert("memory.high".into(), "1".into())));
        assert_eq!(check(&unified, true), Ok(()));
        assert!(check(&unified, false).is_err());
        assert_eq!(
            [page_size("2Mi"), page_size("1GB"), page_size("2")],
            [Some("2MB".into()), Some("1GB".into()), None]
        );
    }
}
