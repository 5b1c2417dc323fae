//! `get` and `list`, and the words of refusals. Pure.

use bytes::Bytes;
use podbus_common::api::{Detail, GetRequest, LIST_PAGE_OBJECTS_MAX, List, ListRequest, Status, VERSION_OF_NOTHING};
use podbus_common::model::{ListMeta, ObjectMeta};
use podbus_common::selector::{FieldSelector, LabelSelector};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::cluster::{Cluster, PodName, SeenPod};
use crate::record::BYTES_USUAL;

/// A page stays below the 1 MiB that nats-server takes by default.
const PAGE_BYTES_MAX: usize = 700 << 10;
/// Fields that objects are selected by.
const FIELDS: [&str; 4] = ["metadata.name", "metadata.namespace", "spec.nodeName", "status.phase"];

/// Kinds of objects that the API serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    Pods,
    Nodes,
}

impl Resource {
    /// By its token in a subject.
    pub(crate) fn parse(token: &str) -> Option<Self> {
        match token {
            "pods" => Some(Self::Pods),
            "nodes" => Some(Self::Nodes),
            _ => None,
        }
    }
}

/// kubectl's `pods "web" not found`.
pub(crate) fn not_found(resource: &str, name: &str) -> Status {
    Status::failure(404, "NotFound", format!("{resource} \"{name}\" not found"))
}

/// Refuses what is meant for a version of an object that is not the one that is stored; `None`: it is not there.
pub(crate) fn check_version(wanted: &str, resource: &str, name: &str, stored: Option<u64>) -> Result<(), Status> {
    match stored {
        _ if wanted.is_empty() => Ok(()),
        None if wanted == VERSION_OF_NOTHING => Ok(()),
        None => Err(not_found(resource, name)),
        Some(_) if wanted == VERSION_OF_NOTHING => {
            Err(Status::failure(409, "AlreadyExists", format!("{resource} \"{name}\" already exists")))
        }
        Some(stored) if wanted == stored.to_string() => Ok(()),
        Some(_) => {
            let message = format!(
                "Operation cannot be fulfilled on {resource} \"{name}\": the object has been modified; please apply \
                 your changes to the latest version and try again"
            );
            Err(Status::failure(409, "Conflict", message))
        }
    }
}

/// The request makes no sense.
pub(crate) fn bad_request(message: impl Into<String>) -> Status {
    Status::failure(400, "BadRequest", message)
}

/// Ours to repair.
pub(crate) fn internal(error: &dyn std::error::Error) -> Status {
    Status::failure(500, "InternalError", error.to_string())
}

/// Try again later.
pub fn unavailable(message: &str) -> Status {
    Status { retry_after_seconds: Some(1), ..Status::failure(503, "ServiceUnavailable", message) }
}

/// Reads a request; an empty payload is the empty request.
pub(crate) fn read<'a, Request: Deserialize<'a>>(payload: &'a [u8]) -> Result<Request, Status> {
    let payload = if payload.is_empty() { b"{}" } else { payload };
    serde_json::from_slice(payload).map_err(|error| bad_request(format!("this request cannot be read: {error}")))
}

/// Answers `get`.
pub(crate) fn get(
    cluster: &Cluster,
    resource: Resource,
    namespace: Option<&str>,
    request: &GetRequest,
) -> Result<Bytes, Status> {
    match resource {
        Resource::Pods => {
            let name = PodName::new(namespace_of(namespace)?, request.name.as_str());
            let pod = cluster.seen_pod(&name).ok_or_else(|| not_found("pods", &name.name))?;
            to_json(&pod.shown())
        }
        Resource::Nodes => {
            let node = cluster.shown_node(&request.name).ok_or_else(|| not_found("nodes", &request.name))?;
            to_json(&node)
        }
    }
}

/// The namespace of a subject that must have one.
pub(crate) fn namespace_of(namespace: Option<&str>) -> Result<&str, Status> {
    namespace.ok_or_else(|| bad_request("an empty namespace may not be set when a resource name is provided"))
}

/// An object as JSON.
pub(crate) fn to_json(object: &impl serde::Serialize) -> Result<Bytes, Status> {
    let mut json = Vec::with_capacity(BYTES_USUAL);
    serde_json::to_writer(&mut json, object).map_err(|error| internal(&error))?;
    Ok(json.into())
}

/// Which objects a list or a watch is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) namespace: Option<String>,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Filter {
    pub(crate) fn new(namespace: Option<&str>, labels: &str, fields: &str) -> Result<Self, Status> {
        let refuse = |error: &dyn std::error::Error| bad_request(error.to_string());
        let filter = Self {
            namespace: namespace.map(ToOwned::to_owned),
            labels: LabelSelector::parse(labels).map_err(|error| refuse(&error))?,
            fields: FieldSelector::parse(fields).map_err(|error| refuse(&error))?,
        };
        if let Some(field) = filter.fields.fields().find(|field| !FIELDS.contains(field)) {
            return Err(bad_request(format!("field label not supported: {field}")));
        }
        Ok(filter)
    }

    pub(crate) fn takes_pod(&self, seen: &SeenPod) -> bool {
        let PodName { namespace, name } = &seen.name;
        self.namespace.as_ref().is_none_or(|wanted| **wanted == **namespace)
            && self.labels.matches(&seen.pod.template().metadata.labels)
            && self.fields.matches(|field| match field {
                "metadata.name" => Some(name.to_string()),
                "metadata.namespace" => Some(namespace.to_string()),
                "spec.nodeName" => Some(seen.pod.node().to_owned()),
                "status.phase" => Some(seen.phase().as_str().to_owned()),
                _ => None,
            })
    }

    pub(crate) fn takes_node(&self, metadata: &ObjectMeta) -> bool {
        self.labels.matches(&metadata.labels)
            && self.fields.matches(|field| (field == "metadata.name").then(|| metadata.name.clone()))
    }
}

/// Answers `list`: one page. `revision` is the last that was applied in order.
pub(crate) fn list(
    cluster: &Cluster,
    resource: Resource,
    namespace: Option<&str>,
    request: &ListRequest,
    revision: u64,
) -> Result<Bytes, Status> {
    let namespace = namespace.filter(|_| resource == Resource::Pods);
    let filter = Filter::new(namespace, &request.label_selector, &request.field_selector)?;
    let (kind, page) = match resource {
        Resource::Pods => ("PodList", pods_page(cluster, &filter, request)?),
        Resource::Nodes => ("NodeList", nodes_page(cluster, &filter, &request.continue_token)?),
    };
    to_json(&List {
        api_version: "v1".to_owned(),
        kind: kind.to_owned(),
        metadata: ListMeta { resource_version: revision.to_string(), continue_token: page.continue_token },
        items: page.items,
    })
}

#[derive(Default)]
struct Page {
    items: Vec<Box<RawValue>>,
    bytes: usize,
    continue_token: String,
}

impl Page {
    /// Takes an object in; `false`: it is full, and `last` is where the next one begins after.
    fn push(&mut self, object: &impl serde::Serialize, last: &str) -> Result<bool, Status> {
        let json = to_raw_value(object).map_err(|error| internal(&error))?;
        self.bytes += json.get().len();
        self.items.push(json);
        let full = self.items.len() == LIST_PAGE_OBJECTS_MAX || self.bytes > PAGE_BYTES_MAX;
        if full {
            last.clone_into(&mut self.continue_token);
        }
        Ok(!full)
    }
}

fn pods_page(cluster: &Cluster, filter: &Filter, request: &ListRequest) -> Result<Page, Status> {
    let after = request.continue_token.split_once('/').map(|(namespace, name)| PodName::new(namespace, name));
    // Pods are sorted by namespace: begin where the wanted one does.
    let from = filter.namespace.as_ref().map(|namespace| PodName::new(namespace.as_str(), ""));
    let mut page = Page::default();
    for name in cluster.pods_after(after.or(from).as_ref()) {
        if filter.namespace.as_ref().is_some_and(|namespace| **namespace != *name.namespace) {
            break;
        }
        let Some(seen) = cluster.seen_pod(name).filter(|seen| filter.takes_pod(seen)) else { continue };
        let last = format!("{}/{}", name.namespace, name.name);
        let room = match request.detail {
            Detail::Full => page.push(&seen.shown(), &last)?,
            Detail::Brief => page.push(&seen.brief(), &last)?,
        };
        if !room {
            break;
        }
    }
    Ok(page)
}

fn nodes_page(cluster: &Cluster, filter: &Filter, after: &str) -> Result<Page, Status> {
    let mut page = Page::default();
    for (name, _) in cluster.nodes().filter(|(name, _)| *name > after) {
        if let Some(node) = cluster.shown_node(name).filter(|node| filter.takes_node(&node.metadata))
            && !page.push(&node, name)?
        {
            break;
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::record::Record;

    fn cluster(pods: usize) -> Cluster {
        let mut cluster = Cluster::default();
        for n in 0..pods {
            for namespace in ["a", "b"] {
                let name = format!("p-{n:04}");
                let pod = json!({"metadata": {"namespace": namespace, "name": name, "uid": format!("{namespace}{n}")}, "spec": {}});
                let record = Record::Pod(Arc::new(serde_json::from_value(pod).unwrap()));
                let revision = cluster.revision() + 1;
                cluster.apply(&PodName::new(namespace, name.as_str()).key(), Some(record), revision);
            }
        }
        cluster
    }

    #[test]
    fn pages_together_are_the_whole_list_in_order() {
        let cluster = cluster(700);
        for (namespace, expected) in [(Some("a"), 700), (Some("b"), 700), (None, 1400), (Some("c"), 0)] {
            let (mut request, mut names) = (ListRequest::default(), Vec::new());
            loop {
                let page = list(&cluster, Resource::Pods, namespace, &request, 9).unwrap();
                let page: Value = serde_json::from_slice(&page).unwrap();
                let items = page["items"].as_array().unwrap();
                assert!(items.len() <= LIST_PAGE_OBJECTS_MAX);
                names.extend(
                    items.iter().map(|p| (p["metadata"]["namespace"].to_string(), p["metadata"]["name"].to_string())),
                );
                request.continue_token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
                if request.continue_token.is_empty() {
                    break;
                }
            }
            assert_eq!(names.len(), expected, "{namespace:?}");
            assert!(names.is_sorted());
        }
    }

    #[test]
    fn a_field_that_nothing_is_selected_by_is_refused() {
        assert!(Filter::new(None, "", "status.phase=Running").is_ok());
        assert_eq!(Filter::new(None, "", "spec.x=1").unwrap_err().code, 400);
        assert_eq!(Filter::new(None, "a in", "").unwrap_err().code, 400);
    }

    #[test]
    fn what_is_not_there_is_not_found_in_kubectls_words() {
        let refused = get(&cluster(1), Resource::Pods, Some("a"), &GetRequest { name: "x".into() }).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (404, "pods \"x\" not found"));
        assert_eq!(get(&cluster(1), Resource::Pods, None, &GetRequest { name: "x".into() }).unwrap_err().code, 400);
    }
}
