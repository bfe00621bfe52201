//! Reads images as any other tool would: from the OCI layout, layer by layer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

/// One file of an image's merged tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `-`, `d`, `l`, `c`, `b` or `p`.
    pub kind: char,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
    pub content: Vec<u8>,
    pub link: String,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// In a merged tree: the name under which a hard-linked file came first, at all its names but that one.
    pub twin: String,
}

/// A layer: entries in order, whiteouts included, hard links as `h`.
pub type Layer = Vec<(String, Node)>;

/// An image read back.
pub struct Image {
    pub index: Value,
    pub manifest: Value,
    pub config: Value,
    pub layers: Vec<Layer>,
    /// Blobs by digest.
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// Digest of the manifest.
    pub digest: String,
}

impl Image {
    /// Opens an OCI archive with one image.
    #[track_caller]
    pub fn open_tar(path: &Path) -> Self {
        Self::from_files(&tar_files(path), None)
    }

    /// Opens one platform's image of an OCI archive.
    #[track_caller]
    pub fn open_platform(path: &Path, platform: &str) -> Self {
        Self::from_files(&tar_files(path), Some(platform))
    }

    /// Opens an OCI layout directory with one image.
    #[track_caller]
    pub fn open_dir(path: &Path) -> Self {
        let mut files = BTreeMap::new();
        for name in ["index.json", "oci-layout"] {
            files.insert(name.to_owned(), std::fs::read(path.join(name)).unwrap());
        }
        for entry in std::fs::read_dir(path.join("blobs/sha256")).unwrap() {
            let entry = entry.unwrap();
            files.insert(format!("blobs/sha256/{}", entry.file_name().display()), std::fs::read(entry.path()).unwrap());
        }
        Self::from_files(&files, None)
    }

    /// Opens what containers tools write as `dir:`: manifest and blobs side by side.
    #[track_caller]
    pub fn open_blobs(path: &Path) -> Self {
        let manifest: Value = serde_json::from_slice(&std::fs::read(path.join("manifest.json")).unwrap()).unwrap();
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap().to_owned();
            let bytes = std::fs::read(path.join(digest.trim_start_matches("sha256:"))).unwrap();
            (digest, bytes)
        };
        let config = serde_json::from_slice(&blob(&manifest["config"]).1).unwrap();
        let blobs: BTreeMap<_, _> = manifest["layers"].as_array().unwrap().iter().map(blob).collect();
        let order = manifest["layers"].as_array().unwrap().iter();
        let layers = order.map(|l| read_layer(&decompress(&blobs[l["digest"].as_str().unwrap()]))).collect();
        Self { index: Value::Null, manifest, config, layers, blobs, digest: String::new() }
    }

    #[track_caller]
    fn from_files(files: &BTreeMap<String, Vec<u8>>, platform: Option<&str>) -> Self {
        let layout: Value = serde_json::from_slice(&files["oci-layout"]).unwrap();
        assert_eq!(layout["imageLayoutVersion"], "1.0.0");
        let blob = |digest: &str| {
            let bytes = files
                .get(&format!("blobs/{}", digest.replace(':', "/")))
                .unwrap_or_else(|| panic!("blob {digest} is missing"));
            assert_eq!(digest, format!("sha256:{}", sha256(bytes)), "blob does not match its digest");
            bytes.clone()
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let mut digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
        if let Some(platform) = platform {
            let list: Value = serde_json::from_slice(&blob(&digest)).unwrap();
            let found = list["manifests"].as_array().unwrap().iter().find(|m| name_of(&m["platform"]) == platform);
            let found = found.unwrap_or_else(|| panic!("no {platform} in {list}"));
            found["digest"].as_str().unwrap().clone_into(&mut digest);
        }
        let manifest: Value = serde_json::from_slice(&blob(&digest)).unwrap();
        let config: Value = serde_json::from_slice(&blob(manifest["config"]["digest"].as_str().unwrap())).unwrap();
        let mut layers = Vec::new();
        let mut blobs = BTreeMap::new();
        for (i, layer) in manifest["layers"].as_array().unwrap().iter().enumerate() {
            let name = layer["digest"].as_str().unwrap();
            let bytes = blob(name);
            assert_eq!(layer["size"].as_u64(), Some(bytes.len() as u64), "size of layer {i}");
            let tar = decompress(&bytes);
            let diff_id = format!("sha256:{}", sha256(&tar));
            assert_eq!(config["rootfs"]["diff_ids"][i], diff_id.as_str(), "diff ID of layer {i}");
            layers.push(read_layer(&tar));
            blobs.insert(name.to_owned(), bytes);
        }
        assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(layers.len()));
        Self { index, manifest, config, layers, blobs, digest }
    }

    /// The merged tree, by path without a leading slash.
    pub fn tree(&self) -> BTreeMap<String, Node> {
        let mut tree: BTreeMap<String, Node> = BTreeMap::new();
        for layer in &self.layers {
            for (path, node) in layer {
                let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
                let at = |name: &str| if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
                let below = |tree: &mut BTreeMap<String, Node>, top: &str, itself: bool| {
                    let prefix = if top.is_empty() { String::new() } else { format!("{top}/") };
                    let inside = tree.range(prefix.clone()..).map(|(p, _)| p).take_while(|p| p.starts_with(&prefix));
                    let gone: Vec<String> = inside.cloned().chain(itself.then(|| top.to_owned())).collect();
                    gone.iter().for_each(|p| drop(tree.remove(p)));
                };
                if name == ".wh..wh..opq" {
                    below(&mut tree, dir, false);
                } else if let Some(gone) = name.strip_prefix(".wh.") {
                    below(&mut tree, &at(gone), true);
                } else if node.kind == 'h' {
                    let mut target =
                        tree.get(&node.link).unwrap_or_else(|| panic!("hard link to {}", node.link)).clone();
                    if target.twin.is_empty() {
                        target.twin.clone_from(&node.link);
                    }
                    tree.insert(path.clone(), target);
                } else {
                    if node.kind != 'd' {
                        below(&mut tree, path, true);
                    }
                    tree.insert(path.clone(), node.clone());
                }
            }
        }
        tree
    }

    /// One file of the merged tree.
    #[track_caller]
    pub fn node(&self, path: &str) -> Node {
        let tree = self.tree();
        tree.get(path).unwrap_or_else(|| panic!("no {path} in {:?}", tree.keys().collect::<Vec<_>>())).clone()
    }

    /// Content of a file as text.
    #[track_caller]
    pub fn text(&self, path: &str) -> String {
        String::from_utf8(self.node(path).content).unwrap()
    }

    pub fn has(&self, path: &str) -> bool {
        self.tree().contains_key(path)
    }

    /// Paths of the last layer, in order.
    pub fn top(&self) -> Vec<String> {
        self.layers.last().map(|l| l.iter().map(|(p, _)| p.clone()).collect()).unwrap_or_default()
    }
}

/// `linux/arm/v7`.
pub fn name_of(platform: &Value) -> String {
    let parts = ["os", "architecture", "variant"].iter().filter_map(|key| platform[key].as_str());
    parts.collect::<Vec<_>>().join("/")
}

/// The files of a tar, by name.
#[track_caller]
pub fn tar_files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(File::open(path).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.insert(name.trim_start_matches("./").to_owned(), bytes);
    }
    files
}

fn sha256(bytes: &[u8]) -> String {
    rbuild::base::Digest::sha256(bytes).hex().to_owned()
}

fn decompress(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match bytes {
        // An eStargz ends with a footer that says so, and has many members.
        [0x1f, 0x8b, ..] if bytes.len() > 51 && &bytes[bytes.len() - 19..bytes.len() - 13] == b"STARGZ" => {
            flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out).unwrap();
        }
        // Not the multi-member reader: any other layer must be one gzip member.
        [0x1f, 0x8b, ..] => {
            let mut reader = flate2::bufread::GzDecoder::new(bytes);
            reader.read_to_end(&mut out).unwrap();
            assert!(reader.into_inner().is_empty(), "a layer is one gzip member");
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => out = zstd::decode_all(bytes).unwrap(),
        _ => out = bytes.to_vec(),
    }
    out
}

/// A name; one that is not UTF-8 in a form that is.
fn text(name: &[u8]) -> String {
    String::from_utf8(name.to_vec()).unwrap_or_else(|_| name.escape_ascii().to_string())
}

fn read_layer(tar: &[u8]) -> Layer {
    let mut layer = Vec::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        // Base images are made by tar, with ./ in front; our own layers must not have it.
        let path = text(&entry.path_bytes()).trim_end_matches('/').to_owned();
        let path = path.strip_prefix("./").unwrap_or(&path).to_owned();
        let mut xattrs = BTreeMap::new();
        if let Some(extensions) = entry.pax_extensions().unwrap() {
            for extension in extensions {
                let extension = extension.unwrap();
                if let Some(name) = extension.key().unwrap().strip_prefix("SCHILY.xattr.") {
                    xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
                }
            }
        }
        let header = entry.header().clone();
        let kind = match header.entry_type() {
            tar::EntryType::Directory => 'd',
            tar::EntryType::Symlink => 'l',
            tar::EntryType::Link => 'h',
            tar::EntryType::Char => 'c',
            tar::EntryType::Block => 'b',
            tar::EntryType::Fifo => 'p',
            _ => '-',
        };
        let mut link = entry.link_name_bytes().map(|l| text(&l)).unwrap_or_default();
        if header.entry_type() == tar::EntryType::Link {
            link = link.strip_prefix("./").unwrap_or(&link).to_owned();
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let node = Node {
            kind,
            mode: header.mode().unwrap() & 0o7777,
            uid: header.uid().unwrap(),
            gid: header.gid().unwrap(),
            mtime: header.mtime().unwrap(),
            content,
            link,
            xattrs,
            device: (
                header.device_major().ok().flatten().unwrap_or(0),
                header.device_minor().ok().flatten().unwrap_or(0),
            ),
            twin: String::new(),
        };
        layer.push((path, node));
    }
    layer
}
