//! Which path answers what. Knows nothing of sockets.

use std::collections::BTreeMap;
use std::future::Future;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use prometheus_client::encoding::prometheus_text;
use prometheus_client::registry::Registry;

use crate::checks::{Checks, Verdict};
use crate::process::Process;

type Page = Box<dyn Fn() -> BoxFuture<'static, Result<String, String>> + Send + Sync>;

/// What a service answers.
pub struct Endpoints {
    registry: Registry,
    /// Brings the registry up to date before it is read.
    refresh: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
    pages: BTreeMap<&'static str, Page>,
    live: Checks,
    ready: Checks,
}

/// An answer, whatever carries it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Metrics.
    Metrics(String),
    /// Of checks.
    Verdict(Verdict),
    /// Metrics that cannot be had now, and why.
    Failed(String),
    /// No such path.
    NotFound,
}

impl Endpoints {
    /// `/metrics` with what `registry` holds and what is known of the process; alive, and ready.
    pub fn new(mut registry: Registry) -> Self {
        registry.register_collector(Box::new(Process));
        let mut live = Checks::default();
        live.add("ping", || Ok(()));
        Self {
            registry,
            refresh: Box::new(|| futures::future::ready(()).boxed()),
            pages: BTreeMap::new(),
            live,
            ready: Checks::default(),
        }
    }

    /// `refresh` runs before each look at `/metrics`.
    #[must_use]
    pub fn refreshed<F>(mut self, refresh: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.refresh = Box::new(move || refresh().boxed());
        self
    }

    /// One more page of metrics. An error says why they cannot be had now.
    #[must_use]
    pub fn page<F>(mut self, path: &'static str, page: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<String, String>> + Send + 'static,
    {
        self.pages.insert(path, Box::new(move || page().boxed()));
        self
    }

    /// A check of `/readyz`. An error says what is missing, for a person.
    #[must_use]
    pub fn ready(mut self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.ready.add(name, check);
        self
    }

    pub(crate) async fn answer(&self, path: &str, query: &str) -> Answer {
        if path == "/metrics" {
            (self.refresh)().await;
            return Answer::Metrics(encode(&self.registry));
        }
        if let Some(page) = self.pages.get(path) {
            return page().await.map_or_else(Answer::Failed, Answer::Metrics);
        }
        let checks = |path: &str| match path {
            "livez" | "healthz" => Some(&self.live),
            "readyz" => Some(&self.ready),
            _ => None,
        };
        let path = path.trim_start_matches('/');
        let verdict = match path.split_once('/') {
            None => checks(path).map(|checks| checks.all(path, query)),
            Some((path, name)) => checks(path).and_then(|checks| checks.one(name)),
        };
        verdict.map_or(Answer::NotFound, Answer::Verdict)
    }
}

/// What a registry holds, as Prometheus reads it.
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail, and no metric of ours refuses to be written.
    let _ = prometheus_text::encode(&mut text, registry);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counter, Family};

    type Pods = Family<[(&'static str, &'static str); 1], Counter>;

    fn endpoints() -> (Pods, Endpoints) {
        let (mut registry, pods) = (Registry::default(), Family::default());
        registry.register("pods", "Pods seen", Family::clone(&pods));
        let endpoints = Endpoints::new(registry)
            .page("/metrics/more", || async { Err("not now".to_owned()) })
            .ready("nats", || Err("not connected".to_owned()));
        (pods, endpoints)
    }

    #[tokio::test]
    async fn what_was_counted_is_in_the_text_of_prometheus() {
        let (pods, endpoints) = endpoints();
        pods.get_or_create(&[("result", "scheduled")]).inc_by(3);
        let Answer::Metrics(text) = endpoints.answer("/metrics", "").await else { panic!("no metrics") };
        assert!(text.contains("# HELP pods_total Pods seen.\n# TYPE pods_total counter\n"), "{text}");
        assert!(text.contains("\npods_total{result=\"scheduled\"} 3\n"), "{text}");
        assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
    }

    #[tokio::test]
    async fn a_service_may_live_without_being_ready() {
        let (_, endpoints) = endpoints();
        for path in ["/livez", "/healthz", "/livez/ping"] {
            let Answer::Verdict(verdict) = endpoints.answer(path, "").await else { panic!("{path}") };
            assert_eq!((verdict.passed, verdict.text.as_str()), (true, "ok"), "{path}");
        }
        for path in ["/readyz", "/readyz/nats"] {
            let Answer::Verdict(verdict) = endpoints.answer(path, "").await else { panic!("{path}") };
            assert!(!verdict.passed, "{path}");
        }
    }

    #[tokio::test]
    async fn a_page_that_fails_says_why_and_what_is_not_there_is_not_found() {
        let (_, endpoints) = endpoints();
        assert_eq!(endpoints.answer("/metrics/more", "").await, Answer::Failed("not now".to_owned()));
        for path in ["/", "/metrics/", "/readyz/disk", "/livez/", "//livez/x"] {
            assert_eq!(endpoints.answer(path, "").await, Answer::NotFound, "{path}");
        }
    }
}
