//! The image of a container: looked up, and pulled as its policy says.

use std::time::Instant;

use podbus_common::image_name;
use podbus_common::model::{Container, PullPolicy};
use podbus_common_cri::runtime as v1;
use podbus_node_agent_core::image::{ImageEvent, ImageStep, already_present_message, image_step, pulled_message};
use podbus_node_agent_core::memory::StartFailure;

use super::start::{NotStarted, Run};
use super::{Sight, Worker, now};
use crate::runtime::{Runtime, RuntimeError};

impl<R: Runtime> Worker<R> {
    /// The image that `run` starts from.
    pub(super) async fn ensure_image(&mut self, sight: &Sight, run: &Run<'_>) -> Result<v1::Image, NotStarted> {
        let container = run.container;
        let Ok(name) = image_name::normalise(&container.image) else { return Err(self.invalid_name(run)) };
        let present = match self.runtime.image_status(&name).await {
            Ok(present) => present,
            Err(error) if error.is_unavailable() => return Err(NotStarted::unavailable()),
            Err(error) => {
                let message = format!("Failed to inspect image \"\": {error}");
                self.tell(run, "Warning", "InspectFailed", &message);
                return Err(NotStarted::Failed(StartFailure::new("ImageInspectError", message)));
            }
        };
        let local = image_name::is_local(&container.image);
        let policy = pull_policy(container);
        match image_step(&container.image, policy, local, present.is_some(), &self.memory, now()) {
            ImageStep::Use => {
                self.tell(run, "Normal", "Pulled", &already_present_message(&container.image));
                present.ok_or_else(NotStarted::unavailable)
            }
            ImageStep::Pull => self.pull(sight, run, &name).await,
            ImageStep::Refuse { failure, events } => {
                self.tell_all(run, &events);
                Err(NotStarted::Failed(failure))
            }
        }
    }

    async fn pull(&mut self, sight: &Sight, run: &Run<'_>, name: &str) -> Result<v1::Image, NotStarted> {
        let image = &run.container.image;
        self.tell(run, "Normal", "Pulling", &format!("Pulling image \"{image}\""));
        let (runtime, started) = (self.runtime.clone(), Instant::now());
        let pulled = async {
            runtime.pull_image(name, Some(run.home.config.clone())).await?;
            runtime.image_status(name).await
        };
        match self.patiently(sight, pulled).await? {
            Ok(Some(pulled)) => {
                self.memory.pull_succeeded(image);
                let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.tell(run, "Normal", "Pulled", &pulled_message(image, took_ms, pulled.size));
                Ok(pulled)
            }
            Err(error) if error.is_unavailable() => Err(NotStarted::unavailable()),
            other => {
                let absent = "the runtime says that it pulled the image, and does not have it";
                let text = other.err().map_or_else(|| absent.to_owned(), |error: RuntimeError| error.message);
                let (failure, events) = self.memory.pull_failed(image, &text, now());
                self.tell_all(run, &events);
                Err(NotStarted::Failed(failure))
            }
        }
    }

    fn invalid_name(&mut self, run: &Run<'_>) -> NotStarted {
        let image = &run.container.image;
        let message = format!(
            "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference \
             format"
        );
        self.tell(run, "Warning", "InspectFailed", &message);
        self.tell(run, "Warning", "Failed", "Error: InvalidImageName");
        NotStarted::Failed(StartFailure::new("InvalidImageName", message))
    }

    fn tell_all(&mut self, run: &Run<'_>, events: &[ImageEvent]) {
        for event in events {
            let kind = if event.warning { "Warning" } else { "Normal" };
            self.tell(run, kind, event.reason, &event.message);
        }
    }
}

/// Kubernetes' default: what may be another image tomorrow is asked for at each start.
fn pull_policy(container: &Container) -> PullPolicy {
    let latest = image_name::ImageName::parse(&container.image).is_ok_and(|name| name.is_latest());
    let default = if latest { PullPolicy::Always } else { PullPolicy::IfNotPresent };
    container.image_pull_policy.unwrap_or(default)
}
