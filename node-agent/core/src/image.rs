//! Whether an image is pulled before a container starts, and the words when it cannot be had.

use podbus_common::model::{PullPolicy, Timestamp};

use crate::memory::{Memory, PullFailure, RETRY_SECONDS, StartFailure};

/// How soon after a failed pull the container shows ImagePullBackOff instead of ErrImagePull, seconds.
const PULL_ERROR_SHOWN_SECONDS: i64 = 2;

/// What to do about a container's image before it is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageStep {
    /// It is here: event Pulled with [`already_present_message`].
    Use,
    /// Pull it: event Pulling; then [`Memory::pull_succeeded`] or [`Memory::pull_failed`].
    Pull,
    /// Not now.
    Refuse {
        /// For [`Memory::start_failed`].
        failure: StartFailure,
        /// What to say.
        events: Vec<ImageEvent>,
    },
}

/// An event about an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEvent {
    /// Whether it is bad news.
    pub warning: bool,
    /// Failed, BackOff, ErrImageNeverPull.
    pub reason: &'static str,
    /// For a person.
    pub message: String,
}

/// What to do about `image`, given whether the runtime has it. `local`: of the registry `localhost`, which is never
/// pulled whatever the policy.
pub fn image_step(
    image: &str,
    policy: PullPolicy,
    local: bool,
    present: bool,
    memory: &Memory,
    now: Timestamp,
) -> ImageStep {
    match (policy, present) {
        (PullPolicy::Never | PullPolicy::IfNotPresent, true) => ImageStep::Use,
        (PullPolicy::Always, true) if local => ImageStep::Use,
        (PullPolicy::Never, false) => never_pull(image),
        (_, false) if local => never_pull(image),
        _ => memory.may_pull(image, now),
    }
}

/// The message of the event Pulled when nothing had to be pulled.
pub fn already_present_message(image: &str) -> String {
    format!("Container image \"{image}\" already present on machine and can be accessed by the pod")
}

/// The message of the event Pulled after a pull of `took_ms` of an image of `bytes`.
pub fn pulled_message(image: &str, took_ms: u64, bytes: u64) -> String {
    let took = match took_ms {
        ms if ms < 1000 => format!("{ms}ms"),
        ms => format!("{}.{:03}s", ms / 1000, ms % 1000),
    };
    format!("Successfully pulled image \"{image}\" in {took} ({took} including waiting). Image size: {bytes} bytes.")
}

fn never_pull(image: &str) -> ImageStep {
    let message = format!("Container image \"{image}\" is not present with pull policy of Never");
    let events = vec![
        ImageEvent { warning: true, reason: "ErrImageNeverPull", message: message.clone() },
        ImageEvent { warning: true, reason: "Failed", message: "Error: ErrImageNeverPull".to_owned() },
    ];
    ImageStep::Refuse { failure: StartFailure::new("ErrImageNeverPull", message), events }
}

impl Memory {
    /// A pull went well.
    pub fn pull_succeeded(&mut self, image: &str) {
        self.pulls.reset(image);
        self.pull_failures.remove(image);
    }

    /// A pull failed with the runtime's words `text`: the container's failure, and what to say.
    pub fn pull_failed(&mut self, image: &str, text: &str, now: Timestamp) -> (StartFailure, Vec<ImageEvent>) {
        self.pulls.step(image, now, now);
        let (reason, message) = pull_error(image, text);
        let failure = PullFailure { at: now, reason: reason.to_owned(), text: message.clone() };
        self.pull_failures.insert(image.to_owned(), failure);
        let events = vec![
            ImageEvent {
                warning: true,
                reason: "Failed",
                message: format!("Failed to pull image \"{image}\": {text}"),
            },
            ImageEvent { warning: true, reason: "Failed", message: format!("Error: {reason}") },
        ];
        let failure = StartFailure { reason: reason.to_owned(), message, retry_seconds: PULL_ERROR_SHOWN_SECONDS };
        (failure, events)
    }

    fn may_pull(&self, image: &str, now: Timestamp) -> ImageStep {
        let Some(last) = self.pull_failures.get(image) else { return ImageStep::Pull };
        let Err(refused) = self.pulls.check(image, last.at, now) else { return ImageStep::Pull };
        // Look again soon: somebody may load the image meanwhile.
        let retry_seconds = refused.until.seconds_since(now).clamp(1, RETRY_SECONDS);
        let message = format!("Back-off pulling image \"{image}\": {}: {}", last.reason, last.text);
        let failure = StartFailure { reason: "ImagePullBackOff".to_owned(), message, retry_seconds };
        let events = vec![
            ImageEvent { warning: false, reason: "BackOff", message: format!("Back-off pulling image \"{image}\"") },
            ImageEvent { warning: true, reason: "Failed", message: "Error: ImagePullBackOff".to_owned() },
        ];
        ImageStep::Refuse { failure, events }
    }
}

/// The waiting reason and message of a pull that the runtime refused with `text`.
fn pull_error(image: &str, text: &str) -> (&'static str, String) {
    let rest = |word: &str| text.strip_prefix(word).map(|rest| rest.trim_start_matches([':', ' ']));
    if let Some(rest) = rest("RegistryUnavailable") {
        let message = format!("image pull failed for {image} because the registry is unavailable: {rest}");
        return ("RegistryUnavailable", message);
    }
    if let Some(rest) = rest("SignatureValidationFailed") {
        let message = format!("image pull failed for {image} because the signature validation failed: {rest}");
        return ("SignatureValidationFailed", message);
    }
    ("ErrImagePull", text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use PullPolicy::{Always, IfNotPresent, Never};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::default().plus_seconds(seconds)
    }

    fn reason(step: &ImageStep) -> &str {
        match step {
            ImageStep::Use => "use",
            ImageStep::Pull => "pull",
            ImageStep::Refuse { failure, .. } => &failure.reason,
        }
    }

    #[test]
    fn the_policy_decides_and_local_images_are_never_pulled() {
        let cases = [
            // policy, local, present, what happens
            (Always, false, true, "pull"),
            (Always, false, false, "pull"),
            (IfNotPresent, false, true, "use"),
            (IfNotPresent, false, false, "pull"),
            (Never, false, true, "use"),
            (Never, false, false, "ErrImageNeverPull"),
            (Always, true, true, "use"),
            (Always, true, false, "ErrImageNeverPull"),
            (IfNotPresent, true, false, "ErrImageNeverPull"),
        ];
        for (policy, local, present, expected) in cases {
            let step = image_step("i", policy, local, present, &Memory::default(), at(0));
            assert_eq!(reason(&step), expected, "{policy:?} local={local} present={present}");
        }
    }

    #[test]
    fn after_a_failed_pull_the_next_waits_and_says_what_was_wrong() {
        let mut memory = Memory::default();
        let (failure, events) = memory.pull_failed("i", "not found", at(100));
        assert_eq!((failure.reason.as_str(), failure.message.as_str()), ("ErrImagePull", "not found"));
        assert_eq!(events[0].message, "Failed to pull image \"i\": not found");
        assert_eq!(events[1].message, "Error: ErrImagePull");

        let ImageStep::Refuse { failure, events } = image_step("i", Always, false, false, &memory, at(102)) else {
            panic!("pulled within the window");
        };
        assert_eq!(failure.reason, "ImagePullBackOff");
        assert_eq!(failure.message, "Back-off pulling image \"i\": ErrImagePull: not found");
        assert_eq!(failure.retry_seconds, 8);
        assert!(!events[0].warning && events[0].reason == "BackOff");
        assert_eq!(reason(&image_step("i", Always, false, false, &memory, at(110))), "pull");

        memory.pull_failed("i", "not found", at(111));
        assert_eq!(reason(&image_step("i", Always, false, false, &memory, at(130))), "ImagePullBackOff");
        assert_eq!(reason(&image_step("i", Always, false, false, &memory, at(131))), "pull");
        assert_eq!(reason(&image_step("i", IfNotPresent, false, true, &memory, at(112))), "use", "loaded meanwhile");
        memory.pull_succeeded("i");
        assert_eq!(reason(&image_step("i", Always, false, false, &memory, at(112))), "pull");
    }

    #[test]
    fn a_runtime_may_name_the_kind_of_failure() {
        let (failure, _) = Memory::default().pull_failed("i", "RegistryUnavailable: no route", at(0));
        assert_eq!(failure.reason, "RegistryUnavailable");
        assert_eq!(failure.message, "image pull failed for i because the registry is unavailable: no route");
    }

    #[test]
    fn durations_read_as_go_prints_them() {
        assert!(pulled_message("i", 1234, 5).contains("in 1.234s (1.234s including waiting). Image size: 5 bytes."));
        assert!(pulled_message("i", 12, 5).contains("in 12ms"));
    }
}
