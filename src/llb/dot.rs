//! A definition for Graphviz, as `buildctl debug dump-llb --dot` draws it (SPEC C1.16).

use std::fmt::Write as _;

use prost::Message as _;

use super::op::{FileAction, FileActionKind, Kind, Op};
use super::{Definition, DefinitionError};
use crate::base::Digest;
use crate::base::wording::quote;

/// A node for each operation, an edge for each input; edges of a step say where the input is mounted.
///
/// # Errors
/// [`DefinitionError::Decode`] for bytes that are no operation.
pub fn to_dot(definition: &Definition) -> Result<String, DefinitionError> {
    let (mut nodes, mut edges) = (String::new(), String::new());
    for (index, bytes) in definition.pb.def.iter().enumerate() {
        let op = Op::decode(bytes.as_slice()).map_err(|source| DefinitionError::Decode { index, source })?;
        let digest = Digest::sha256(bytes).to_string();
        let (label, shape) = look(&op, &digest);
        let own = quote(&digest);
        let _ = writeln!(nodes, "  {own} [label={} shape={}];", quote(&label), quote(shape));
        for (number, input) in op.inputs.iter().enumerate() {
            let _ = writeln!(edges, "  {} -> {own} [label={}];", quote(&input.digest), quote(mounted(&op, number)));
        }
    }
    Ok(format!("digraph {{\n{nodes}{edges}}}\n"))
}

/// Where a step has an input, if not as its root.
fn mounted(op: &Op, number: usize) -> &str {
    let Some(Kind::Exec(exec)) = &op.kind else { return "" };
    let mount = exec.mounts.iter().find(|mount| usize::try_from(mount.input) == Ok(number) && mount.dest != "/");
    mount.map_or("", |mount| &mount.dest)
}

fn look(op: &Op, digest: &str) -> (String, &'static str) {
    match &op.kind {
        None => (digest.to_owned(), "plaintext"),
        Some(Kind::Source(source)) => (source.identifier.clone(), "ellipse"),
        Some(Kind::Exec(exec)) => (exec.meta.as_ref().map(|meta| meta.args.join(" ")).unwrap_or_default(), "box"),
        Some(Kind::File(file)) => (file.actions.iter().map(action).collect::<Vec<_>>().join(","), "note"),
        Some(Kind::Build(_)) => ("build".into(), "box3d"),
        Some(Kind::Merge(_)) => ("merge".into(), "invtriangle"),
        Some(Kind::Diff(_)) => ("diff".into(), "doublecircle"),
        Some(Kind::Passthrough(pass)) => (format!("passthrough {}", pass.id), "cds"),
    }
}

fn action(action: &FileAction) -> String {
    match &action.action {
        None => "nothing".into(),
        Some(FileActionKind::Copy(copy)) => format!("copy{{src={}, dest={}}}", copy.src, copy.dest),
        Some(FileActionKind::Mkfile(file)) => format!("mkfile{{path={}}}", file.path),
        Some(FileActionKind::Mkdir(dir)) => format!("mkdir{{path={}}}", dir.path),
        Some(FileActionKind::Rm(rm)) => format!("rm{{path={}}}", rm.path),
        Some(FileActionKind::Symlink(link)) => format!("symlink{{oldpath={}, newpath={}}}", link.oldpath, link.newpath),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Builder;
    use super::super::op::{ExecOp, Input, Meta, Mount, OpMetadata, SourceOp};
    use super::*;

    #[test]
    fn c1_16_a_graph_is_drawn() {
        let mut builder = Builder::default();
        let source = |name: &str| SourceOp { identifier: name.into(), ..SourceOp::default() };
        let mut add = |kind: Kind, inputs: Vec<Input>| {
            builder.add(&Op { kind: Some(kind), inputs, ..Op::default() }, OpMetadata::named("x"), &[])
        };
        let base = add(Kind::Source(source("docker-image://a")), vec![]);
        let files = add(Kind::Source(source("local://context")), vec![]);
        let input = |edge: &super::super::Edge| Input { digest: edge.vertex.to_string(), index: 0 };
        let mount = |input, dest: &str| Mount { input, dest: dest.into(), ..Mount::default() };
        let step = add(
            Kind::Exec(ExecOp {
                meta: Some(Meta { args: vec!["echo".into(), "\"hi\"".into()], ..Meta::default() }),
                mounts: vec![mount(0, "/"), mount(1, "/src")],
                ..ExecOp::default()
            }),
            vec![input(&base), input(&files)],
        );
        let definition = builder.finish(Some(&step));
        let dot = to_dot(&definition).expect("valid");
        for line in [
            "digraph {\n".to_owned(),
            format!("  \"{}\" [label=\"docker-image://a\" shape=\"ellipse\"];\n", base.vertex),
            format!("  \"{}\" [label=\"echo \\\"hi\\\"\" shape=\"box\"];\n", step.vertex),
            format!("  \"{}\" -> \"{}\" [label=\"\"];\n", base.vertex, step.vertex),
            format!("  \"{}\" -> \"{}\" [label=\"/src\"];\n", files.vertex, step.vertex),
        ] {
            assert!(dot.contains(&line), "{line} in {dot}");
        }
        let lines = super::super::json::to_lines(&definition).expect("valid");
        let lines: Vec<serde_json::Value> = lines.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        assert_eq!(lines.len(), 4, "the terminal operation is one");
        assert_eq!(lines[0]["Digest"], base.vertex.to_string());
        assert_eq!(lines[0]["Op"]["source"]["identifier"], "docker-image://a");
        assert_eq!(lines[2]["OpMetadata"]["description"]["llb.customname"], "x");
    }
}
