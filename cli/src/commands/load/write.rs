//! Reports on the disk.

use std::path::Path;

use podbus_load::{Report, page};

use crate::failure::{Failure, Outcome};
use crate::terminal::Terminal;

/// Writes a file.
pub(super) fn file(path: &Path, text: &str) -> Outcome {
    std::fs::write(path, text)
        .map_err(|error| Failure::local(format!("cannot write {}", path.display())).because(error))
}

/// Writes a report as JSON and as a page that opens from the disk.
pub(super) fn report(directory: &Path, report: &Report, terminal: &Terminal) -> Outcome {
    std::fs::create_dir_all(directory)
        .map_err(|error| Failure::local(format!("cannot make {}", directory.display())).because(error))?;
    let json = serde_json::to_string(report).map_err(Failure::local)?;
    let (json_path, page_path) =
        (directory.join(format!("{}.json", report.name)), directory.join(format!("{}.html", report.name)));
    file(&json_path, &json)?;
    file(&page_path, &page::render(&[report]))?;
    terminal.note(&format!("\nwritten to {} and {}", json_path.display(), page_path.display()));
    Ok(())
}
