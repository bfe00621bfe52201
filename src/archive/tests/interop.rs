//! Other programs must read what we write, and we what they write.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::super::entry::{Entry, EntryKind, Timestamp};
use super::super::{ArchiveFormat, LayerOptions, decompressor, detect_archive, extract_archive};
use super::support::{dir, file, layer, link, mine, native, owner, plain, raw_tar, skipped, temp, tree};
use crate::oci::media_type::Codec;

/// Whether the program is there; says so if not.
fn have(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        skipped(&format!("no {program} program"));
    }
    found
}

fn run(program: &str, arguments: &[&str], input: &[u8]) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("ends");
    writer.join().expect("writes");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn sample() -> Vec<(Entry, &'static [u8])> {
    let mut tagged = file("dir/tagged", b"x");
    tagged.xattrs.insert(b"user.tag".to_vec(), b"value".to_vec());
    tagged.mtime = Timestamp { secs: 1_600_000_000, nanos: 250_000_000 };
    let mut long = file(&format!("dir/{}", "ü".repeat(100)), b"long");
    long.mtime = Timestamp::seconds(1_600_000_001);
    vec![
        (dir("dir"), b""),
        (file("dir/plain", b"content\n"), b"content\n"),
        (mine(Entry { mode: 0o644, ..Entry::hardlink("dir/twin", "dir/plain") }), b""),
        (link("dir/link", "plain"), b""),
        (mine(Entry { mode: 0o600, ..Entry::new("dir/pipe", EntryKind::Fifo) }), b""),
        (tagged, b"x"),
        (long, b"long"),
    ]
}

#[test]
fn c6_10_gnu_tar_reads_our_layers() {
    if !have("tar") {
        return;
    }
    for codec in [Codec::Uncompressed, Codec::Gzip, Codec::Zstd] {
        let (bytes, _) = layer(&sample(), &LayerOptions { codec, ..plain() });
        let flag = match codec {
            Codec::Uncompressed => "-v",
            Codec::Gzip => "-z",
            Codec::Zstd if have("zstd") => "--zstd",
            Codec::Zstd => continue,
        };
        let listing = run("tar", &["--xattrs", flag, "-t", "-vv", "--numeric-owner", "--full-time", "-f", "-"], &bytes);
        let lines: Vec<&str> = listing.lines().collect();
        let (uid, gid) = owner();
        assert!(lines[0].starts_with(&format!("drwxr-xr-x  {uid}/{gid}")), "{listing}");
        assert!(lines[2].ends_with("dir/twin link to dir/plain"), "{listing}");
        assert!(lines[3].ends_with("dir/link -> plain"), "{listing}");
        assert!(lines[4].starts_with("prw"), "{listing}");
        assert!(listing.contains("2020-09-13 12:26:40.25 dir/tagged"), "{listing}");
        assert!(listing.contains("user.tag"), "{listing}");
        assert!(listing.contains(&format!("2020-09-13 12:26:41    dir/{}", "ü".repeat(100))), "{listing}");
    }
}

#[test]
fn gnu_tar_extracts_what_we_extract() {
    if !have("tar") {
        return;
    }
    let (ours, theirs) = (temp(), temp());
    let (bytes, _) = layer(&sample(), &plain());
    let there = theirs.path().to_str().expect("text");
    run("tar", &["--xattrs", "--xattrs-include=*", "-p", "-C", there, "-xf", "-"], &bytes);
    native(&bytes, ours.path());
    assert_eq!(tree(ours.path()), tree(theirs.path()));
}

#[test]
fn we_extract_every_dialect_of_gnu_tar() {
    if !have("tar") {
        return;
    }
    let source = temp();
    let (bytes, _) = layer(&sample(), &plain());
    native(&bytes, source.path());
    // A file with holes at both ends and in the middle.
    let sparse = File::create(source.path().join("sparse")).expect("creates");
    use std::os::unix::fs::FileExt;
    sparse.write_all_at(b"in the middle", 1 << 20).expect("writes");
    sparse.write_all_at(&[9; 10_000], 3 << 20).expect("writes");
    sparse.set_len(5 << 20).expect("extends");
    fs::write(source.path().join("n".repeat(150)), "x").expect("writes");
    let from = source.path().to_str().expect("text");
    for arguments in [
        &["--format=gnu"][..],
        &["--format=gnu", "-S"],
        &["--format=pax", "--xattrs"],
        &["--format=pax", "-S", "--sparse-version=0.0"],
        &["--format=pax", "-S", "--sparse-version=0.1"],
        &["--format=pax", "-S", "--sparse-version=1.0"],
        &["--format=oldgnu", "-S"],
    ] {
        let archive = temp();
        let at = archive.path().join("a.tar");
        let mut all = vec!["-C", from, "--sort=name", "-cf", at.to_str().expect("text")];
        all.extend_from_slice(arguments);
        all.push(".");
        run("tar", &all, b"");
        let target = temp();
        let summary = native(&fs::read(&at).expect("reads"), target.path());
        assert!(summary.notes.is_empty(), "{:?}", summary.notes);
        let (mut found, mut expected) = (tree(target.path()), tree(source.path()));
        // GNU's own formats have neither fractions of seconds nor attributes.
        if !arguments.contains(&"--xattrs") {
            for seen in found.values_mut().chain(expected.values_mut()) {
                seen.xattrs.clear();
                seen.mtime.1 = 0;
            }
        }
        assert!(found == expected, "{arguments:?}");
        if arguments.contains(&"-S") {
            let blocks = fs::metadata(target.path().join("sparse")).expect("exists").blocks();
            assert!(blocks * 512 < 1 << 20, "holes stay holes");
        }
    }
}

#[test]
fn pax_global_records_apply_to_what_follows() {
    let mut tar = Vec::new();
    super::super::header::encode(&file("x", b""), &mut tar);
    let record = b"22 mtime=1234567890.5\n";
    let mut global = vec![0; 512];
    global.copy_from_slice(&tar[..512]);
    global[156] = b'g';
    global[124..136].copy_from_slice(format!("{:011o}\0", record.len()).as_bytes());
    global[148..156].fill(b' ');
    let sum: u32 = global.iter().map(|b| u32::from(*b)).sum();
    global[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut all = global;
    all.extend_from_slice(record);
    all.resize(1024, 0);
    all.extend_from_slice(&raw_tar(&[(file("x", b""), b"")]));
    let target = temp();
    let summary = native(&all, target.path());
    let found = summary.index.lookup(Path::new("x")).expect("there");
    assert_eq!(found.entry.mtime, Timestamp { secs: 1_234_567_890, nanos: 500_000_000 });
    assert_eq!((found.offset, found.data_offset), (0, 1536));
}

#[test]
fn our_gzip_is_one_member_for_gzip() {
    if !have("gzip") {
        return;
    }
    let noise: Vec<u8> = (0..2_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 22) as u8).collect();
    let entries = [(file("noise", &noise), noise.as_slice()), (file("z", b"z"), b"z")];
    let (bytes, summary) = layer(&entries, &LayerOptions { threads: 3, ..LayerOptions::default() });
    let listing = run("gzip", &["-l", "-v"], &bytes);
    run("gzip", &["-t"], &bytes);
    assert!(listing.contains(&(summary.tar_size).to_string()), "the last member's length is the whole: {listing}");
}

#[test]
fn e4_09_layers_are_decompressed_by_what_they_are() {
    let (tar, summary) = layer(&sample(), &plain());
    for codec in [Codec::Uncompressed, Codec::Gzip, Codec::Zstd] {
        let (blob, other) = layer(&sample(), &LayerOptions { codec, ..plain() });
        assert_eq!(other.diff_id, summary.diff_id);
        for claimed in [Codec::Uncompressed, Codec::Gzip, Codec::Zstd] {
            let mut plain = Vec::new();
            let reader = decompressor(std::io::Cursor::new(blob.clone()), claimed).expect("starts");
            { reader }.read_to_end(&mut plain).expect("decompresses");
            assert!(plain == tar, "{codec:?} claimed to be {claimed:?}");
        }
        if codec != Codec::Uncompressed {
            let half = blob[..blob.len() / 2].to_vec();
            let reader = decompressor(std::io::Cursor::new(half), codec).expect("starts");
            { reader }.read_to_end(&mut Vec::new()).expect_err("truncated");
        }
    }
    // No media type names these two, but there are layers of them.
    for format in [ArchiveFormat::Bzip2, ArchiveFormat::Xz] {
        let mut unpacked = Vec::new();
        let reader = decompressor(std::io::Cursor::new(compressed(&tar, format)), Codec::Gzip).expect("starts");
        { reader }.read_to_end(&mut unpacked).expect("decompresses");
        assert!(unpacked == tar, "{format:?}");
    }
    assert!(decompressor(std::io::empty(), Codec::Gzip).is_err());
}

fn compressed(tar: &[u8], format: ArchiveFormat) -> Vec<u8> {
    let mut out = Vec::new();
    match format {
        ArchiveFormat::Tar => out.extend_from_slice(tar),
        ArchiveFormat::Gzip => out = layer(&sample(), &LayerOptions::default()).0,
        ArchiveFormat::Bzip2 => {
            bzip2::read::BzEncoder::new(tar, bzip2::Compression::fast())
                .read_to_end(&mut out)
                .map(drop)
                .expect("compresses");
        }
        ArchiveFormat::Xz => {
            liblzma::read::XzEncoder::new(tar, 1).read_to_end(&mut out).map(drop).expect("compresses");
        }
        ArchiveFormat::Zstd => out = zstd::encode_all(tar, 1).expect("compresses"),
    }
    out
}

fn stored(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("writes");
    file
}

#[test]
fn a6_17_archives_are_recognised_and_unpacked_whatever_their_name() {
    let (tar, _) = layer(&sample(), &plain());
    let expected = temp();
    native(&tar, expected.path());
    for format in
        [ArchiveFormat::Tar, ArchiveFormat::Gzip, ArchiveFormat::Bzip2, ArchiveFormat::Xz, ArchiveFormat::Zstd]
    {
        let file = stored(&compressed(&tar, format));
        assert_eq!(detect_archive(&file).expect("reads"), Some(format));
        let root = temp();
        extract_archive(file, format, root.path(), Path::new("/new/place"), None).expect("extracts");
        assert_eq!(tree(&root.path().join("new/place")), tree(expected.path()), "{format:?}");
    }
}

#[test]
fn a6_17_what_is_no_archive_is_none() {
    let gzip = |bytes: &[u8]| {
        let mut out = Vec::new();
        flate2::read::GzEncoder::new(bytes, flate2::Compression::fast())
            .read_to_end(&mut out)
            .map(drop)
            .expect("compresses");
        out
    };
    let text = b"just text".repeat(200);
    for bytes in [
        &b""[..],
        b"short",
        &text,
        &gzip(&text),
        &gzip(b""),
        // An empty archive has no header to recognise it by, for docker neither.
        &[0; 10_240],
        &[0x1f, 0x8b, 8],
        b"BZh9 is how this text begins",
        b"\xfd7zXZ\0 nothing",
        b"\x28\xb5\x2f\xfd nothing",
    ] {
        assert_eq!(detect_archive(&stored(bytes)).expect("reads"), None, "{bytes:?}");
    }
}

#[test]
fn a6_17_chown_overrides_owners() {
    if !super::support::is_root() {
        skipped("giving files away needs root");
        return;
    }
    let (tar, _) = layer(&sample(), &plain());
    let root = temp();
    extract_archive(stored(&tar), ArchiveFormat::Tar, root.path(), Path::new("."), Some((7, 8))).expect("extracts");
    assert!(tree(root.path()).values().all(|seen| seen.owner == (7, 8)));
}
