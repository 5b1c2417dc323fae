//! What the scheduler knows of a node.

use std::collections::BTreeMap;

use podbus_common::model::Taint;

use crate::resources::Resources;

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints, those of its conditions too.
    pub taints: Vec<Taint>,
    /// Takes no new pods.
    pub unschedulable: bool,
    /// What its pods may have together.
    pub allocatable: Resources,
    /// Of resources that it names itself, such as `nvidia.com/gpu`.
    pub extended: BTreeMap<String, u64>,
    /// Images that it has: name -> bytes.
    pub images: BTreeMap<String, u64>,
}
