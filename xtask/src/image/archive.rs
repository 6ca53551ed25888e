//! Container images as one archive, written without Docker.
//!
//! The file is an OCI image layout (image-spec 1.1, "Image Layout") and has Docker's `manifest.json` beside it, so that
//! `ctr images import`, `podman load`, `skopeo` and `docker load` all take it. Layers are not compressed. The same
//! inputs give the same bytes: times are 0 and owners root.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// One image.
pub(crate) struct Image {
    /// Full references, e.g. `registry.k8s.io/pause:3.10.1`.
    pub(crate) tags: Vec<String>,
    /// What is always run.
    pub(crate) entrypoint: Vec<String>,
    /// Arguments, or the command where there is no entrypoint.
    pub(crate) command: Vec<String>,
    /// From the lowest up.
    pub(crate) layers: Vec<PathBuf>,
}

/// One entry of a layer.
pub(crate) enum Entry {
    /// A copy of a file, executable by all if the flag is set.
    File(PathBuf, bool),
    /// A symbolic link.
    Link(String),
    /// A directory with these permissions.
    Directory(u32),
}

/// Writes a layer: a tar file with `entries`, each at its path without a leading slash.
pub(crate) fn write_layer(path: &Path, entries: &[(&str, Entry)]) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut tar = Builder::new(BufWriter::new(file));
    for (name, entry) in entries {
        append(&mut tar, name, entry).with_context(|| format!("cannot add {name} to {}", path.display()))?;
    }
    tar.into_inner()?.flush()?;
    Ok(())
}

fn append(tar: &mut Builder<BufWriter<File>>, name: &str, entry: &Entry) -> Result<()> {
    match entry {
        Entry::File(source, executable) => {
            let file = File::open(source).with_context(|| format!("cannot read {}", source.display()))?;
            let mut header = header(EntryType::Regular, if *executable { 0o755 } else { 0o644 });
            header.set_size(file.metadata()?.len());
            tar.append_data(&mut header, name, file)?;
        }
        Entry::Link(target) => tar.append_link(&mut header(EntryType::Symlink, 0o777), name, target)?,
        Entry::Directory(mode) => {
            tar.append_data(&mut header(EntryType::Directory, *mode), name, io::empty())?;
        }
    }
    Ok(())
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

/// The archive's writer; blobs are written once, however many images share them.
struct Archive {
    tar: Builder<BufWriter<File>>,
    blobs: Vec<String>,
}

/// Writes `images` to `path`; gives the archive's size in bytes.
pub(crate) fn write(path: &Path, images: &[Image]) -> Result<u64> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut archive = Archive { tar: Builder::new(BufWriter::new(file)), blobs: Vec::new() };
    archive.text("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
    let (mut index, mut docker) = (Vec::new(), Vec::new());
    for image in images {
        let (manifest, description) = archive.image(image)?;
        docker.push(description);
        for tag in &image.tags {
            let mut entry = manifest.clone();
            let version = tag.rsplit_once(':').map_or("latest", |(_, version)| version);
            entry["annotations"] = json!({
                "io.containerd.image.name": tag, "org.opencontainers.image.ref.name": version});
            index.push(entry);
        }
    }
    let media = "application/vnd.oci.image.index.v1+json";
    archive.text("index.json", &json!({"schemaVersion": 2, "mediaType": media, "manifests": index}))?;
    archive.text("manifest.json", &Value::Array(docker))?;
    archive.tar.into_inner()?.flush()?;
    Ok(path.metadata()?.len())
}

impl Archive {
    /// Adds an image's blobs; gives its OCI descriptor and its entry in Docker's manifest.
    fn image(&mut self, image: &Image) -> Result<(Value, Value)> {
        let mut layers = Vec::new();
        for layer in &image.layers {
            layers.push(self.file(layer)?);
        }
        let digests: Vec<String> = layers.iter().map(|(hex, _)| format!("sha256:{hex}")).collect();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": image.entrypoint,
                "Cmd": image.command,
            },
            "rootfs": {"type": "layers", "diff_ids": digests},
        });
        let (config_hex, config_size) = self.blob(config.to_string().as_bytes())?;
        let describe = |hex: &str, size: u64, kind: &str| {
            json!({"mediaType": format!("application/vnd.oci.image.{kind}"),
                   "digest": format!("sha256:{hex}"), "size": size})
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": describe(&config_hex, config_size, "config.v1+json"),
            "layers": layers.iter().map(|(hex, size)| describe(hex, *size, "layer.v1.tar")).collect::<Vec<_>>(),
        });
        let (manifest_hex, manifest_size) = self.blob(manifest.to_string().as_bytes())?;
        let docker = json!({
            "Config": blob_path(&config_hex),
            "RepoTags": image.tags,
            "Layers": layers.iter().map(|(hex, _)| blob_path(hex)).collect::<Vec<_>>(),
        });
        Ok((describe(&manifest_hex, manifest_size, "manifest.v1+json"), docker))
    }

    fn file(&mut self, path: &Path) -> Result<(String, u64)> {
        let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let (hex, size) = (digest(&mut file)?, file.metadata()?.len());
        if self.is_new(&hex) {
            file.rewind()?;
            self.append(&blob_path(&hex), size, file)?;
        }
        Ok((hex, size))
    }

    fn blob(&mut self, bytes: &[u8]) -> Result<(String, u64)> {
        let (hex, size) = (digest(&mut &*bytes)?, u64::try_from(bytes.len())?);
        if self.is_new(&hex) {
            self.append(&blob_path(&hex), size, bytes)?;
        }
        Ok((hex, size))
    }

    fn is_new(&mut self, hex: &str) -> bool {
        let known = self.blobs.iter().any(|blob| blob == hex);
        if !known {
            self.blobs.push(hex.to_owned());
        }
        !known
    }

    fn text(&mut self, name: &str, value: &Value) -> Result<()> {
        let text = value.to_string();
        self.append(name, u64::try_from(text.len())?, text.as_bytes())
    }

    fn append(&mut self, name: &str, size: u64, content: impl Read) -> Result<()> {
        let mut header = header(EntryType::Regular, 0o644);
        header.set_size(size);
        self.tar.append_data(&mut header, name, content).with_context(|| format!("cannot add {name}"))
    }
}

fn blob_path(hex: &str) -> String {
    format!("blobs/sha256/{hex}")
}

/// Go's word for this machine's architecture, which images use.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// SHA-256 in hexadecimal.
fn digest(reader: &mut impl Read) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&buffer[..count]);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    fn read(path: &Path) -> Vec<(String, Vec<u8>)> {
        let mut tar = tar::Archive::new(File::open(path).unwrap());
        let mut found = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            found.push((entry.path().unwrap().display().to_string(), content));
        }
        found
    }

    #[test]
    fn a_shared_layer_is_stored_once_and_every_digest_is_true() {
        let dir = tempfile::tempdir().unwrap();
        let (layer, out) = (dir.path().join("layer.tar"), dir.path().join("out.tar"));
        std::fs::write(dir.path().join("program"), "#!").unwrap();
        let entries = [
            ("bin", Entry::Directory(0o755)),
            ("bin/program", Entry::File(dir.path().join("program"), true)),
            ("bin/other", Entry::Link("program".into())),
        ];
        write_layer(&layer, &entries).unwrap();
        let image = |tag: &str| Image {
            tags: vec![tag.to_owned()],
            entrypoint: vec!["/bin/program".into()],
            command: Vec::new(),
            layers: vec![layer.clone()],
        };
        let two = [image("example.org/a:1"), image("example.org/b:2")];
        let size = write(&out, &two).unwrap();
        assert_eq!(size, out.metadata().unwrap().len());
        let files = read(&out);
        let blobs: Vec<_> = files.iter().filter(|(name, _)| name.starts_with("blobs/")).collect();
        // The layer, and one configuration and one manifest, which are equal for both.
        assert_eq!(blobs.len(), 3);
        for (name, content) in blobs {
            assert_eq!(*name, blob_path(&digest(&mut content.as_slice()).unwrap()));
        }
        let index = files.iter().find(|(name, _)| name == "index.json").unwrap();
        let index: Value = serde_json::from_slice(&index.1).unwrap();
        assert_eq!(index["manifests"][1]["annotations"]["io.containerd.image.name"], "example.org/b:2");
        let first = std::fs::read(&out).unwrap();
        write(&out, &two).unwrap();
        assert_eq!(first, std::fs::read(&out).unwrap(), "the same inputs give the same bytes");
    }
}
