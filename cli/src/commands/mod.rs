//! One module a verb, each with its `Args` and a `run`; `process` is what `exec` and `attach` share,
//! `change` what those share that change what is stored.

pub(crate) mod apply;
pub(crate) mod attach;
mod change;
pub(crate) mod completion;
pub(crate) mod cordon;
pub(crate) mod cp;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod edit;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod image;
pub(crate) mod keys;
pub(crate) mod label;
pub(crate) mod load;
pub(crate) mod logs;
pub(crate) mod node;
pub(crate) mod patch;
pub(crate) mod plan;
pub(crate) mod port_forward;
mod process;
pub(crate) mod run;
pub(crate) mod taint;
pub(crate) mod top;
pub(crate) mod url;
pub(crate) mod version;
pub(crate) mod wait;
