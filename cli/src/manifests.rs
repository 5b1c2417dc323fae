//! `-f FILE|DIR|-`: manifests from where a person keeps them, with all faults of all files at once.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use podbus_common::manifest::{self, Manifest};

use crate::failure::{Failure, Outcome};

/// `-f`, for verbs that read manifests.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct FileArgs {
    /// A manifest, a folder of them, or - for stdin; may be repeated
    #[arg(short, long = "filename", value_name = "FILE|DIR|-")]
    pub(crate) filename: Vec<String>,
    /// Folders inside folders too
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
}

/// Reads all manifests.
///
/// # Errors
/// When a file cannot be read, or with every fault of every file.
pub(crate) fn read(args: &FileArgs) -> Outcome<Vec<Manifest>> {
    let (mut pods, mut faulty, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    for source in sources(args)? {
        let (name, bytes) = source.read()?;
        match manifest::parse_bytes(&name, &bytes) {
            Ok(manifests) => pods.extend(manifests),
            Err(found) => {
                faulty.push(name);
                faults.extend(found.iter().map(ToString::to_string));
            }
        }
    }
    let failure = match faulty.as_slice() {
        [] if pods.is_empty() => {
            return Err(Failure::local("no objects passed to apply").because(args.filename.join(" ")));
        }
        [] => return Ok(pods),
        [one] => Failure::local(format!("{one} is not a valid manifest")),
        several => Failure::local(format!("{} of the files are not valid manifests", several.len())),
    };
    Err(faults.into_iter().fold(failure, Failure::because))
}

enum Source {
    Stdin,
    File(PathBuf),
}

impl Source {
    fn read(self) -> Outcome<(String, Vec<u8>)> {
        match self {
            Self::Stdin => {
                let mut bytes = Vec::new();
                std::io::stdin().lock().read_to_end(&mut bytes)?;
                Ok(("stdin".to_owned(), bytes))
            }
            Self::File(path) => {
                let name = path.display().to_string();
                let bytes = std::fs::read(&path).map_err(|error| cannot_read(&name, &error))?;
                Ok((name, bytes))
            }
        }
    }
}

fn sources(args: &FileArgs) -> Outcome<Vec<Source>> {
    let mut sources = Vec::new();
    for name in &args.filename {
        if name == "-" {
            sources.push(Source::Stdin);
        } else if name.starts_with("http://") || name.starts_with("https://") {
            return Err(Failure::local(format!("podbus reads no manifests from the web: {name}"))
                .hint(format!("curl -fsSL {name} | podbus apply -f -")));
        } else {
            let path = Path::new(name);
            let kind = std::fs::metadata(path).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Failure::local(format!("the path \"{name}\" does not exist")),
                _ => cannot_read(name, &error),
            })?;
            if kind.is_dir() {
                let mut files = Vec::new();
                manifests_in(path, args.recursive, &mut files)?;
                if files.is_empty() {
                    return Err(Failure::local(format!("no *.yaml, *.yml or *.json in the folder \"{name}\"")));
                }
                sources.extend(files.into_iter().map(Source::File));
            } else {
                sources.push(Source::File(path.to_owned()));
            }
        }
    }
    Ok(sources)
}

/// Manifests of a folder, by name.
fn manifests_in(dir: &Path, recursive: bool, files: &mut Vec<PathBuf>) -> Outcome {
    let name = dir.display().to_string();
    let entries = std::fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut paths: Vec<PathBuf> = entries.map_err(|e| cannot_read(&name, &e))?.into_iter().map(|e| e.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if recursive {
                manifests_in(&path, recursive, files)?;
            }
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            files.push(path);
        }
    }
    Ok(())
}

fn cannot_read(name: &str, error: &std::io::Error) -> Failure {
    Failure::local(format!("cannot read {name}")).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_its_manifests_by_name_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.json", "notes.txt", "c.yml"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("deeper")).unwrap();
        std::fs::write(dir.path().join("deeper/d.yaml"), "").unwrap();
        let names = |recursive| {
            let mut files = Vec::new();
            manifests_in(dir.path(), recursive, &mut files).unwrap();
            files.iter().map(|f| f.file_name().unwrap().to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(false), ["a.json", "b.yaml", "c.yml"]);
        assert_eq!(names(true), ["a.json", "b.yaml", "c.yml", "d.yaml"]);
    }

    #[test]
    fn the_faults_of_all_files_come_at_once() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.yaml", "b.yaml"] {
            std::fs::write(dir.path().join(name), "apiVersion: v1\nkind: Pod\nmetadata: {nam: x}\nspec: {}\n").unwrap();
        }
        let args = FileArgs { filename: vec![dir.path().display().to_string()], recursive: false };
        let text = read(&args).unwrap_err().text();
        assert!(text.starts_with("error: 2 of the files are not valid manifests\n"), "{text}");
        assert!(text.contains("a.yaml:3:") && text.contains("b.yaml:3:"), "{text}");
    }
}
