//! A pod whose containers another program makes.

use std::fs;
use std::path::Path;

use crate::cluster::Cluster;
use crate::life::sleeper;

#[test]
fn a_runtime_class_names_the_handler_that_makes_a_pods_containers() {
    let directory = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/handlers/chroot.sh").canonicalize().unwrap();
    let file = directory.path().join("handlers.yaml");
    fs::write(&file, format!("handlers: {{chroot: {{binary: {}, inheritsCgroup: true}}}}", script.display())).unwrap();
    let cluster = Cluster::start_in(("PODBUS_HANDLERS", file), 1);

    let of_class = |name: &str, class: &str| {
        sleeper(name, "Always", "sleep 5004").replace("spec:\n", &format!("spec:\n  runtimeClassName: {class}\n"))
    };
    cluster.apply(&of_class("theirs", "chroot"));
    cluster.wait_running("theirs");
    let said = cluster.exec("theirs", "main", &["sh", "-c", "echo of the container"]);
    assert_eq!(said, "of the container");
    let made_by = fs::read_dir(format!("/run/podbus-{}/handlers/chroot", cluster.instances[0])).unwrap().count();
    assert_eq!(made_by, 1, "the container is the handler's");

    cluster.apply(&of_class("nobodys", "kata"));
    cluster.wait_until("the missing handler is named", || {
        let events = cluster.ok(&["events", "--for", "pod/nobodys"]);
        events.contains("no runtime handler \"kata\": there are native, chroot")
    });
    cluster.ok(&["delete", "pods", "--all"]);
}
