//! Definitions from elsewhere, looked at closely: what nobody here knows the meaning of is refused by name, since reading a message
//! leaves out what it does not know (SPEC C1.02–C1.14).

use prost::Message as _;

use super::op::{ExecOp, Kind, MountType, NetMode, Op, SecurityMode};
use super::{Definition, op};

/// A message and the fields that it may have.
struct Shape {
    name: &'static str,
    fields: &'static [(u32, Option<&'static Shape>)],
}

static NUMBER: Shape = Shape { name: "Input", fields: &[(1, None), (2, None)] };
static PLATFORM: Shape = Shape { name: "Platform", fields: &[(1, None), (2, None), (3, None), (4, None), (5, None)] };
static PROXY: Shape = Shape { name: "ProxyEnv", fields: &[(1, None), (2, None), (3, None), (4, None), (5, None)] };
static ULIMIT: Shape = Shape { name: "Ulimit", fields: &[(1, None), (2, None), (3, None)] };
static META: Shape = Shape {
    name: "Meta",
    fields: &[
        (1, None),
        (2, None),
        (3, None),
        (4, None),
        (5, Some(&PROXY)),
        (6, Some(&NUMBER)),
        (7, None),
        (9, Some(&ULIMIT)),
        (10, None),
        (11, None),
        (12, None),
    ],
};
static SECRET: Shape = Shape { name: "SecretOpt", fields: &[(1, None), (2, None), (3, None), (4, None), (5, None)] };
static SIZE: Shape = Shape { name: "TmpfsOpt", fields: &[(1, None)] };
static CACHE: Shape = Shape { name: "CacheOpt", fields: &[(1, None), (2, None)] };
static MOUNT: Shape = Shape {
    name: "Mount",
    fields: &[
        (1, None),
        (2, None),
        (3, None),
        (4, None),
        (5, None),
        (6, None),
        (19, Some(&SIZE)),
        (20, Some(&CACHE)),
        (21, Some(&SECRET)),
        (22, Some(&SECRET)),
        (23, None),
        (24, None),
    ],
};
static SECRET_ENV: Shape = Shape { name: "SecretEnv", fields: &[(1, None), (2, None), (3, None)] };
static EXEC: Shape = Shape {
    name: "ExecOp",
    fields: &[(1, Some(&META)), (2, Some(&MOUNT)), (3, None), (4, None), (5, Some(&SECRET_ENV)), (6, Some(&NUMBER))],
};
static SOURCE: Shape = Shape { name: "SourceOp", fields: &[(1, None), (2, None)] };
static USER: Shape = Shape { name: "UserOpt", fields: &[(1, Some(&NUMBER)), (2, None)] };
static CHOWN: Shape = Shape { name: "ChownOpt", fields: &[(1, Some(&USER)), (2, Some(&USER))] };
static COPY: Shape = Shape {
    name: "FileActionCopy",
    fields: &[
        (1, None),
        (2, None),
        (3, Some(&CHOWN)),
        (4, None),
        (5, None),
        (6, None),
        (7, None),
        (8, None),
        (9, None),
        (10, None),
        (11, None),
        (12, None),
        (13, None),
        (14, None),
        (15, None),
        (16, None),
    ],
};
static MKFILE: Shape =
    Shape { name: "FileActionMkFile", fields: &[(1, None), (2, None), (3, None), (4, Some(&CHOWN)), (5, None)] };
static MKDIR: Shape =
    Shape { name: "FileActionMkDir", fields: &[(1, None), (2, None), (3, None), (4, Some(&CHOWN)), (5, None)] };
static RM: Shape = Shape { name: "FileActionRm", fields: &[(1, None), (2, None), (3, None)] };
static SYMLINK: Shape =
    Shape { name: "FileActionSymlink", fields: &[(1, None), (2, None), (3, Some(&CHOWN)), (4, None)] };
static ACTION: Shape = Shape {
    name: "FileAction",
    fields: &[
        (1, None),
        (2, None),
        (3, None),
        (4, Some(&COPY)),
        (5, Some(&MKFILE)),
        (6, Some(&MKDIR)),
        (7, Some(&RM)),
        (8, Some(&SYMLINK)),
    ],
};
static FILE: Shape = Shape { name: "FileOp", fields: &[(2, Some(&ACTION))] };
static BUILD: Shape = Shape { name: "BuildOp", fields: &[(1, None), (2, None), (3, None), (4, None)] };
static MERGE: Shape = Shape { name: "MergeOp", fields: &[(1, Some(&SIZE))] };
static DIFF: Shape = Shape { name: "DiffOp", fields: &[(1, Some(&SIZE)), (2, Some(&SIZE))] };
static PASSTHROUGH: Shape = Shape { name: "PassthroughOp", fields: &[(1, None), (2, None)] };
static OP: Shape = Shape {
    name: "Op",
    fields: &[
        (1, Some(&NUMBER)),
        (2, Some(&EXEC)),
        (3, Some(&SOURCE)),
        (4, Some(&FILE)),
        (5, Some(&BUILD)),
        (6, Some(&MERGE)),
        (7, Some(&DIFF)),
        (8, Some(&PASSTHROUGH)),
        (10, Some(&PLATFORM)),
        (11, None),
    ],
};

/// What in a definition has no meaning here.
///
/// # Errors
/// Names the first thing. What cannot be read at all is told when the graph is.
pub fn check(definition: &Definition) -> Result<(), String> {
    if let Some((digest, _)) = definition.pb.metadata.iter().find(|(_, metadata)| !metadata.linux_resources.is_empty())
    {
        return Err(format!(
            "op {digest} of the definition has limits of its own (linux_resources), which are not known here"
        ));
    }
    let last = definition.pb.def.len().saturating_sub(1);
    for (index, bytes) in definition.pb.def.iter().enumerate() {
        if let Some((shape, field)) = unknown(bytes, &OP) {
            return Err(format!("op {index} of the definition: {shape} has a field {field} that is not known here"));
        }
        let Ok(op) = Op::decode(bytes.as_slice()) else { continue };
        let meaning = match &op.kind {
            None if index != last => Err("it is of no kind".to_owned()),
            Some(Kind::Exec(exec)) => exec_means(exec),
            Some(Kind::File(file)) => match file.actions.iter().any(|action| action.action.is_none()) {
                true => Err("FileOp: an action of no kind".into()),
                false => Ok(()),
            },
            _ => Ok(()),
        };
        meaning.map_err(|what| format!("op {index} of the definition: {what}"))?;
    }
    Ok(())
}

fn exec_means(exec: &ExecOp) -> Result<(), String> {
    let bad = |what: &str, value: i32| Err(format!("ExecOp: {what} {value} is not known here"));
    if NetMode::try_from(exec.network).is_err() {
        return bad("network", exec.network);
    }
    if SecurityMode::try_from(exec.security).is_err() {
        return bad("security", exec.security);
    }
    let Some(meta) = &exec.meta else { return Err("ExecOp: there is no process".into()) };
    if meta.args.is_empty() {
        return Err("ExecOp: the process has no arguments".into());
    }
    if let Some(op::Mount { dest, .. }) = exec.mounts.iter().find(|mount| !mount.result_id.is_empty()) {
        return Err(format!("ExecOp: the mount {dest} names a result, which only containers of front ends do"));
    }
    mounts_mean(&exec.mounts).map_err(|what| format!("ExecOp: {what}"))
}

/// What makes no sense in the mounts of a process.
///
/// # Errors
/// Names the first thing.
pub fn mounts_mean(mounts: &[op::Mount]) -> Result<(), String> {
    let bad = |what: &str, value: i32| Err(format!("{what} {value} is not known here"));
    if !mounts.iter().any(|mount| mount.dest == "/") {
        return Err("nothing is mounted at /".into());
    }
    for op::Mount { mount_type, dest, cache_opt, content_cache, .. } in mounts {
        let sharing = cache_opt.as_ref().map_or(0, |cache| cache.sharing);
        if MountType::try_from(*mount_type).is_err() {
            return bad(&format!("the type of the mount {dest},"), *mount_type);
        }
        if !(0..=2).contains(&sharing) {
            return bad(&format!("the sharing of the mount {dest},"), sharing);
        }
        if !(0..=2).contains(content_cache) {
            return bad(&format!("the contentCache of the mount {dest},"), *content_cache);
        }
    }
    Ok(())
}

/// The first field of a message that is not in its shape; nothing for what is no message.
fn unknown(mut bytes: &[u8], shape: &'static Shape) -> Option<(&'static str, u32)> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let field = u32::try_from(key >> 3).ok()?;
        let Some((_, inner)) = shape.fields.iter().find(|(known, _)| *known == field) else {
            return Some((shape.name, field));
        };
        match key & 7 {
            0 => drop(varint(&mut bytes)?),
            1 => bytes = bytes.get(8..)?,
            5 => bytes = bytes.get(4..)?,
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (content, rest) = bytes.split_at_checked(length)?;
                if let Some(found) = inner.and_then(|inner| unknown(content, inner)) {
                    return Some(found);
                }
                bytes = rest;
            }
            _ => return None,
        }
    }
    None
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llb::definition::PbDefinition;
    use crate::llb::op::{
        CacheOpt, FileAction, FileActionCopy, FileActionKind, FileOp, Meta, Mount, OpMetadata, ProxyEnv,
    };

    fn exec() -> ExecOp {
        let meta = Meta { args: vec!["x".into()], proxy_env: Some(ProxyEnv::default()), ..Meta::default() };
        ExecOp { meta: Some(meta), mounts: vec![Mount { dest: "/".into(), ..Mount::default() }], ..ExecOp::default() }
    }

    fn checked(ops: Vec<Vec<u8>>) -> Result<(), String> {
        let def = ops.into_iter().chain([Op::default().encode_to_vec()]).collect();
        check(&Definition { pb: PbDefinition { def, ..PbDefinition::default() } })
    }

    fn of(exec: ExecOp) -> Vec<u8> {
        Op { kind: Some(Kind::Exec(exec)), ..Op::default() }.encode_to_vec()
    }

    // SPEC C1.02–C1.11
    #[test]
    fn c1_02_what_is_known_passes() {
        let copy = FileActionCopy {
            src: "a".into(),
            mode: -1,
            timestamp: -1,
            required_paths: vec!["r".into()],
            ..FileActionCopy::default()
        };
        let action = FileAction { action: Some(FileActionKind::Copy(copy)), ..FileAction::default() };
        let file = Op { kind: Some(Kind::File(FileOp { actions: vec![action] })), ..Op::default() };
        assert_eq!(checked(vec![of(exec()), file.encode_to_vec()]), Ok(()));
    }

    // SPEC C1.04
    #[test]
    fn c1_04_limits_of_single_ops_are_refused() {
        let limited = OpMetadata { linux_resources: vec![8, 1], ..OpMetadata::default() };
        let metadata = [("sha256:1".to_owned(), limited)].into();
        let error =
            check(&Definition { pb: PbDefinition { metadata, ..PbDefinition::default() } }).expect_err("limits");
        assert!(error.contains("sha256:1") && error.contains("linux_resources"), "{error}");
    }

    // SPEC C1.05–C1.07
    #[test]
    fn c1_05_what_is_not_known_is_named() {
        let appended = |mut bytes: Vec<u8>, more: &[u8]| {
            bytes.extend_from_slice(more);
            bytes
        };
        for (bytes, expected) in [
            (appended(of(exec()), &[0x60, 1]), "Op has a field 12 "),
            // An exec whose message has a field 15.
            (vec![0x12, 2, 0x78, 1], "ExecOp has a field 15 "),
            (vec![0x22, 7, 0x12, 5, 0x22, 3, 0x88, 1, 5], "FileActionCopy has a field 17 "),
            (Op::default().encode_to_vec(), "it is of no kind"),
            (of(ExecOp { network: 7, ..exec() }), "network 7 is not known"),
            (of(ExecOp { security: 2, ..exec() }), "security 2 is not known"),
            (of(ExecOp { meta: None, ..exec() }), "no process"),
            (of(ExecOp { meta: Some(Meta::default()), ..exec() }), "no arguments"),
            (of(ExecOp { mounts: Vec::new(), ..exec() }), "nothing is mounted at /"),
        ] {
            let error = checked(vec![bytes]).expect_err(expected);
            assert!(error.starts_with("op 0 of the definition: ") && error.contains(expected), "{error}");
        }
        for (change, expected) in [
            (Mount { mount_type: 5, dest: "/m".into(), ..Mount::default() }, "the type of the mount /m, 5"),
            (
                Mount {
                    cache_opt: Some(CacheOpt { sharing: 3, ..CacheOpt::default() }),
                    dest: "/m".into(),
                    ..Mount::default()
                },
                "the sharing of the mount /m, 3",
            ),
            (Mount { result_id: "r".into(), dest: "/m".into(), ..Mount::default() }, "/m names a result"),
        ] {
            let mut exec = exec();
            exec.mounts.push(change);
            let error = checked(vec![of(exec)]).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }
}
