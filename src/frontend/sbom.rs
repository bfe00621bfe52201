//! A scanner for software as a step (SPEC C8.13): its image run over what was built, which is mounted read-only.

use std::collections::BTreeMap;

use crate::llb::op::{
    ExecOp, FileAction, FileActionKind, FileActionMkDir, FileOp, Kind, Meta, Mount, MountType, Op, OpMetadata,
    SourceOp, TmpfsOpt,
};
use crate::llb::{Builder, Definition, Edge};
use crate::oci::{ImageConfig, Platform};

/// Where the scanner finds the result.
const CORE: &str = "/run/src/core/sbom";
/// … and other trees that were asked for.
const EXTRAS: &str = "/run/src/extras/";
/// Where it leaves statements.
pub const STATEMENTS: &str = "/run/out";

/// What is scanned, and with what.
pub struct Scan<'a> {
    /// The scanner's image, `docker-image://…`.
    pub identifier: &'a str,
    /// What to call it.
    pub name: &'a str,
    /// Its config.
    pub config: &'a ImageConfig,
    /// Where it runs.
    pub platform: &'a Platform,
    /// Parameters, which it gets as variables.
    pub parameters: &'a BTreeMap<String, String>,
    /// The result.
    pub target: &'a Definition,
    /// Other trees by name.
    pub extras: &'a [(String, Definition)],
    /// What steps are titled with, for several platforms.
    pub title: String,
}

impl Scan<'_> {
    /// The graph whose result has the statements below [`STATEMENTS`]; `None` if the image says no program.
    #[must_use]
    pub fn definition(&self) -> Option<Definition> {
        let config = &self.config.config;
        let args: Vec<String> = [&config.entrypoint, &config.cmd].into_iter().flatten().flatten().cloned().collect();
        if args.is_empty() {
            return None;
        }
        let mut builder = Builder::default();
        let source = SourceOp { identifier: self.identifier.into(), ..SourceOp::default() };
        let platform = Some(self.platform.into());
        let source = Op { kind: Some(Kind::Source(source)), platform: platform.clone(), ..Op::default() };
        let title = |what: &str| OpMetadata::named(format!("[{}sbom] {what}", self.title));
        let image = builder.add(&source, title(&format!("load scanner {}", self.name)), &[]);
        let mkdir = FileActionMkDir {
            path: STATEMENTS.into(),
            mode: 0o755,
            make_parents: true,
            timestamp: -1,
            ..FileActionMkDir::default()
        };
        let action =
            FileAction { input: 0, secondary_input: -1, output: 0, action: Some(FileActionKind::Mkdir(mkdir)) };
        let place = Op {
            inputs: vec![Builder::input(&image)],
            kind: Some(Kind::File(FileOp { actions: vec![action] })),
            platform: platform.clone(),
            ..Op::default()
        };
        let place = builder.add(&place, title("make a place for statements"), &[]);
        let mut inputs = vec![place];
        let mut mounts = vec![Mount { dest: "/".into(), input: 0, output: 0, ..Mount::default() }];
        let mut add = |builder: &mut Builder, dest: String, tree: &Definition| {
            let input = builder.include(tree).map_or(-1, |edge: Edge| {
                inputs.push(edge);
                i64::try_from(inputs.len() - 1).unwrap_or(-1)
            });
            mounts.push(Mount { dest, input, output: -1, readonly: true, ..Mount::default() });
        };
        add(&mut builder, CORE.into(), self.target);
        for (name, tree) in self.extras {
            add(&mut builder, format!("{EXTRAS}sbom-{name}"), tree);
        }
        mounts.push(Mount {
            dest: "/tmp".into(),
            input: -1,
            output: -1,
            mount_type: MountType::Tmpfs as i32,
            tmpfs_opt: Some(TmpfsOpt::default()),
            ..Mount::default()
        });
        let exec = ExecOp {
            meta: Some(Meta {
                args,
                env: self.environment(),
                cwd: if config.working_dir.is_empty() { "/".into() } else { config.working_dir.clone() },
                user: config.user.clone(),
                remove_mount_stubs_recursive: true,
                ..Meta::default()
            }),
            mounts,
            ..ExecOp::default()
        };
        let scan = Op {
            inputs: inputs.iter().map(Builder::input).collect(),
            kind: Some(Kind::Exec(exec)),
            platform,
            ..Op::default()
        };
        let scan = builder.add(&scan, title(&format!("generating sbom using {}", self.name)), &[]);
        Some(builder.finish(Some(&scan)))
    }

    fn environment(&self) -> Vec<String> {
        let mut env = self.config.config.env.clone();
        env.push(format!("BUILDKIT_SCAN_DESTINATION={STATEMENTS}/"));
        env.push(format!("BUILDKIT_SCAN_SOURCE={CORE}"));
        if !self.extras.is_empty() {
            env.push(format!("BUILDKIT_SCAN_SOURCE_EXTRAS={EXTRAS}"));
        }
        env.extend(self.parameters.iter().map(|(key, value)| format!("BUILDKIT_SCAN_{}={value}", key.to_uppercase())));
        env
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llb::dump::to_text;

    // SPEC C8.13
    #[test]
    fn c8_13_a_scanner_sees_the_result_and_leaves_statements() {
        let mut builder = Builder::default();
        let mut tree = |name: &str| {
            let source =
                SourceOp { identifier: format!("docker-image://docker.io/library/{name}"), ..SourceOp::default() };
            let op = Op { kind: Some(Kind::Source(source)), ..Op::default() };
            let edge = builder.add(&op, OpMetadata::default(), &[]);
            builder.finish(Some(&edge))
        };
        let mut config = ImageConfig::default();
        let (target, stage) = (tree("target"), tree("stage"));
        let platform: Platform = "linux/amd64".parse().expect("valid");
        let parameters = BTreeMap::from([("depth".to_owned(), "3".to_owned())]);
        let extras = [("build".to_owned(), stage)];
        let scan = |config: &ImageConfig| {
            let scan = Scan {
                identifier: "docker-image://example.org/scan:1",
                name: "example.org/scan:1",
                config,
                platform: &platform,
                parameters: &parameters,
                target: &target,
                extras: &extras,
                title: String::new(),
            };
            scan.definition()
        };
        assert!(scan(&config).is_none(), "an image without a program");
        config.config.entrypoint = Some(vec!["/scan".into()]);
        config.config.cmd = Some(vec!["--all".into()]);
        config.config.env = vec!["PATH=/bin".into()];
        let definition = scan(&config).expect("a graph");
        insta::assert_snapshot!("scan", to_text(&definition).expect("valid"));
    }
}
