//! COPY and ADD (SPEC A6): file operations and their history entries.

use super::convert::{Converter, Progress};
use super::error::{FrontendError, Place};
use super::graph::NodeId;
use super::plan::Command;
use super::remote::{self, Remote, without_credentials};
use super::run::inline_file;
use super::state::State;
use super::text::{absolute, destination, has_wildcards};
use super::words::Mode;
use crate::dockerfile::ast::{Transfer, TransferSource, Word};
use crate::dockerfile::lint::Rule;
use crate::llb::op::{
    BuildInput, ChownOpt, FileAction, FileActionCopy, FileActionKind, FileOp, Kind, MergeOp, NamedUserOpt, OpMetadata,
    ProgressGroup, UserKind, UserOpt,
};

/// `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Chmod {
    Octal(i32),
    Symbolic(String),
}

/// One copy action and the tree it reads.
struct Piece {
    tree: Option<NodeId>,
    copy: FileActionCopy,
}

/// What the flags and the destination say, expanded.
struct Expanded {
    chown: Option<String>,
    chmod: Option<(String, Chmod)>,
    exclude: Vec<String>,
    dest: String,
    parents: bool,
    /// `--unpack`; what it is without the flag depends on the source.
    unpack: Option<bool>,
    /// The text, and where it stands.
    checksum: Option<(String, Place)>,
    keep_git_dir: Option<bool>,
}

impl Expanded {
    /// How the entry of history begins: the instruction and the flags that BuildKit writes there.
    fn history(&self, add: bool) -> String {
        let mut text = String::from(if add { "ADD" } else { "COPY" });
        if self.parents {
            text.push_str(" --parents");
        }
        if let Some(chown) = &self.chown {
            text.push_str(&format!(" --chown={chown}"));
        }
        if let Some((chmod, _)) = &self.chmod {
            text.push_str(&format!(" --chmod={chmod}"));
        }
        text
    }
}

impl Converter<'_> {
    pub(super) fn transfer(
        &mut self,
        state: &mut State,
        command: &Command,
        transfer: &Transfer,
        add: bool,
        progress: &mut Progress,
    ) -> Result<(), FrontendError> {
        let place = &command.place;
        let expanded = self.expand_flags(state, transfer, add, place)?;
        let tree = self.stage_of(command, transfer, progress)?;
        let mut created_by = expanded.history(add);
        let mut pieces = Vec::with_capacity(transfer.sources.len());
        for source in &transfer.sources {
            let TransferSource::Path(word) = source else { continue };
            let at = place.word(word);
            let path = self.expand_text(state, &word.text, Mode::Source, &at).map_err(|error| error.at(&at))?;
            created_by.push_str(&format!(" {}", if add { without_credentials(&path) } else { path.clone() }));
            let remote = Remote::of(&path)
                .map_err(|error| FrontendError::input(format!("{}: {error}", without_credentials(&path))).at(&at))?;
            if let Some(remote) = remote {
                let piece = self.remote(&path, &remote, &expanded, add, place);
                pieces.push(piece.map_err(|error| error.at(&at))?);
                continue;
            }
            let tree = match tree {
                Some(tree) => tree,
                None => {
                    self.check_ignored(&path, add, place);
                    Some(self.build_context())
                }
            };
            self.draft.needs(tree, &path, place.lines);
            pieces.push(Piece { tree, copy: local_copy(&path, &expanded, add) });
        }
        // Documents come after all paths, wherever they stand, as in BuildKit.
        for source in &transfer.sources {
            let TransferSource::Heredoc(document) = source else { continue };
            created_by.push_str(&format!(" <<{}", document.name));
            let mut text = document.content();
            if document.expand {
                text = self.expand_text(state, &text, Mode::Heredoc, place)?;
            }
            let path = absolute("/", &document.name);
            let tree = inline_file(&mut self.draft, &path, 0o644, text.into_bytes(), self.epoch, place.lines);
            let copy = FileActionCopy { src: path, create_dest_path: true, ..base_copy(&expanded) };
            pieces.push(Piece { tree: Some(tree), copy });
        }
        created_by.push_str(&format!(" {}", expanded.dest));

        let link = transfer.link.as_ref().is_some_and(|link| link.on) && expanded.chmod.is_none();
        let mut dest = destination(state.cwd(), &expanded.dest);
        // Several sources only make sense in a directory (SPEC A6.01). A wildcard may turn out to be none.
        let certain = pieces.iter().filter(|piece| !piece.copy.allow_wildcard || !has_wildcards(&piece.copy.src));
        if certain.count() > 1 && !dest.ends_with('/') {
            dest.push('/');
        }
        for piece in &mut pieces {
            piece.copy.dest.clone_from(&dest);
        }
        if link {
            self.link(state, command, pieces, expanded.chown.as_deref(), progress)?;
        } else {
            let variables = state.variables();
            let original = remote::redacted(&command.instruction.original);
            let caption = remote::redacted(&self.caption(&original, Mode::Word, &variables));
            let title = self.title(progress, &caption, &state.platform, &variables);
            let metadata = Self::metadata(progress, title, &original);
            self.draft.needs(state.node, "/", place.lines);
            let node = self.file_op(state.node, pieces, expanded.chown.as_deref(), metadata, place);
            state.node = Some(node);
        }
        state.layer(created_by);
        Ok(())
    }

    /// What `--from` names: the result of a stage, which may be an empty tree; `None` for the context.
    fn stage_of(
        &self,
        command: &Command,
        transfer: &Transfer,
        progress: &Progress,
    ) -> Result<Option<Option<NodeId>>, FrontendError> {
        let Some(id) = command.sources.first().copied().flatten() else { return Ok(None) };
        if let Some(source) = self.finished(id) {
            return Ok(Some(source.node));
        }
        let Some(from) = &transfer.from else {
            return Err(FrontendError::internal("a copy from a stage without a name"));
        };
        let message = format!(
            "cannot copy from stage \"{}\", it needs to be defined before current stage \"{}\"",
            from.text,
            progress.title()
        );
        Err(FrontendError::input(message).hint(self.plan.order_hint(id)).at(&command.place.word(from)))
    }

    /// A source that is not a path (SPEC A6.18–A6.22).
    fn remote(
        &mut self,
        text: &str,
        remote: &Remote,
        expanded: &Expanded,
        add: bool,
        place: &Place,
    ) -> Result<Piece, FrontendError> {
        let (source, copy, title) = match remote {
            Remote::Url | Remote::Git(_) if !add => {
                let what = if matches!(remote, Remote::Url) { "a URL" } else { "a git ref" };
                return Err(
                    FrontendError::input(format!("source can't be {what} for COPY")).hint("use ADD, which fetches it")
                );
            }
            Remote::Url => {
                if let Some((checksum, at)) = &expanded.checksum
                    && checksum.parse::<crate::base::Digest>().is_err()
                {
                    let what = match checksum.split_once(':') {
                        Some(("sha256" | "sha384" | "sha512", _)) | None => "invalid checksum digest format",
                        Some(_) => "unsupported digest algorithm",
                    };
                    return Err(FrontendError::input(format!("{what} \"{checksum}\" of a URL"))
                        .hint("it is a digest, for example sha256: and 64 hexadecimal digits")
                        .at(at));
                }
                let checksum = expanded.checksum.as_ref().map(|(text, _)| text.as_str());
                let name = remote::file_name(text);
                let copy = FileActionCopy {
                    src: absolute("/", &name),
                    attempt_unpack_docker_compatibility: expanded.unpack == Some(true),
                    create_dest_path: true,
                    ..base_copy(expanded)
                };
                let title = without_credentials(text);
                (remote::http(text, &name, checksum), copy, title)
            }
            Remote::Git(reference) => {
                let mut reference = (**reference).clone();
                if let Some((checksum, at)) = &expanded.checksum {
                    if let Some(other) = reference.checksum.as_ref().filter(|other| *other != checksum) {
                        let message = format!("checksum mismatch \"{checksum}\" != \"{other}\"");
                        return Err(FrontendError::input(message).at(at));
                    }
                    reference.checksum = Some(checksum.clone());
                }
                if let Some(keep) = expanded.keep_git_dir {
                    if reference.keep_git_dir.is_some_and(|other| other != keep) {
                        let message = "inconsistent keep-git-dir configuration: the flag and the query disagree";
                        return Err(FrontendError::input(message));
                    }
                    reference.keep_git_dir = Some(keep);
                }
                let copy = FileActionCopy {
                    src: "/".into(),
                    dir_copy_contents: true,
                    create_dest_path: true,
                    ..base_copy(expanded)
                };
                let title = format!("git {}", without_credentials(text));
                (remote::git(&reference, self.epoch.is_some()), copy, title)
            }
        };
        let metadata = OpMetadata::named(title);
        let tree = self.draft.add(Kind::Source(source), Vec::new(), None, metadata, vec![place.lines]);
        Ok(Piece { tree: Some(tree), copy })
    }

    /// `--link`: copies into an empty tree that is then stacked on the stage (SPEC A6.15).
    fn link(
        &mut self,
        state: &mut State,
        command: &Command,
        pieces: Vec<Piece>,
        chown: Option<&str>,
        progress: &mut Progress,
    ) -> Result<(), FrontendError> {
        if let Some(name) = chown.into_iter().flat_map(|text| text.splitn(2, ':')).find(|part| !is_number(part)) {
            return Err(FrontendError::input(format!(
                "cannot use the name \"{name}\" in --chown together with --link"
            ))
            .hint("with --link there is no /etc/passwd to look the name up in: give numbers, or leave --link out"));
        }
        let place = &command.place;
        let variables = state.variables();
        let original = remote::redacted(&command.instruction.original);
        let caption = remote::redacted(&self.caption(&original, Mode::Word, &variables));
        let title = self.title(progress, &caption, &state.platform, &variables);
        progress.again();
        let group = |weak: bool| {
            let id = crate::base::Digest::sha256(&title).to_string();
            Some(ProgressGroup { id, name: title.clone(), weak })
        };
        let mut metadata = Self::metadata(progress, title.clone(), &original);
        metadata.progress_group = group(true);
        let own = self.file_op(None, pieces, chown, metadata, place);
        let merged = self.title(progress, &format!("LINK {caption}"), &state.platform, &variables);
        let Some(base) = state.node else {
            // Nothing to stack it on.
            state.node = Some(own);
            return Ok(());
        };
        let mut metadata = Self::metadata(progress, merged, &original);
        metadata.progress_group = group(false);
        self.draft.needs(Some(base), "/", place.lines);
        let op = Kind::Merge(MergeOp { inputs: vec![BuildInput { input: 0 }, BuildInput { input: 1 }] });
        state.node = Some(self.draft.add(op, vec![base, own], None, metadata, vec![place.lines]));
        Ok(())
    }

    fn file_op(
        &mut self,
        base: Option<NodeId>,
        pieces: Vec<Piece>,
        chown: Option<&str>,
        metadata: OpMetadata,
        place: &Place,
    ) -> NodeId {
        let mut inputs: Vec<NodeId> = base.into_iter().collect();
        for tree in pieces.iter().filter_map(|piece| piece.tree) {
            if !inputs.contains(&tree) {
                inputs.push(tree);
            }
        }
        let index = |position: usize| i64::try_from(position).unwrap_or(i64::MAX);
        let last = pieces.len().saturating_sub(1);
        let actions = pieces
            .into_iter()
            .enumerate()
            .map(|(number, Piece { tree, mut copy })| {
                let input = match (number, base) {
                    (0, None) => -1,
                    (0, Some(_)) => 0,
                    (number, _) => index(inputs.len() + number - 1),
                };
                copy.owner = chown.map(|text| owner(text, input));
                FileAction {
                    input,
                    secondary_input: tree.and_then(|tree| inputs.iter().position(|id| *id == tree)).map_or(-1, index),
                    output: if number == last { 0 } else { -1 },
                    action: Some(FileActionKind::Copy(copy)),
                }
            })
            .collect();
        self.draft.add(Kind::File(FileOp { actions }), inputs, None, metadata, vec![place.lines])
    }

    fn expand_flags(
        &mut self,
        state: &State,
        transfer: &Transfer,
        add: bool,
        place: &Place,
    ) -> Result<Expanded, FrontendError> {
        let mut word = |word: &Option<Word>| match word {
            None => Ok(None),
            Some(word) => self.expand(state, word, place).map(|text| Some(text).filter(|text| !text.is_empty())),
        };
        let chown = word(&transfer.chown)?;
        let chmod = match (word(&transfer.chmod)?, &transfer.chmod) {
            (Some(text), Some(word)) => {
                let chmod = parse_chmod(&text).map_err(|error| error.at(&place.word(word)))?;
                Some((text, chmod))
            }
            _ => None,
        };
        let checksum = word(&transfer.checksum)?.zip(transfer.checksum.as_ref());
        let checksum = checksum.map(|(text, word)| (text, place.word(word)));
        let dest = word(&transfer.dest)?.unwrap_or_default();
        let mut exclude = Vec::with_capacity(transfer.exclude.len());
        for pattern in &transfer.exclude {
            exclude.push(self.expand(state, pattern, place)?);
        }
        if let Some((_, at)) = &checksum {
            self.check_checksum(state, transfer, add, place).map_err(|error| error.at(at))?;
        }
        let parents = transfer.parents.as_ref().is_some_and(|parents| parents.on);
        let unpack = transfer.unpack.as_ref().map(|unpack| unpack.on);
        let keep_git_dir = transfer.keep_git_dir.as_ref().map(|keep| keep.on);
        Ok(Expanded { chown, chmod, exclude, dest, parents, unpack, checksum, keep_git_dir })
    }

    fn check_checksum(
        &mut self,
        state: &State,
        transfer: &Transfer,
        add: bool,
        place: &Place,
    ) -> Result<(), FrontendError> {
        if !add {
            return Err(FrontendError::input("checksum can't be specified for COPY"));
        }
        let [TransferSource::Path(word)] = transfer.sources.as_slice() else {
            return Err(FrontendError::input("checksum can't be specified for multiple sources"));
        };
        let path = self.expand(state, word, place)?;
        match Remote::of(&path) {
            Ok(None) => Err(FrontendError::input("checksum requires HTTP(S) or Git sources")),
            // A broken reference is told of where it is used.
            _ => Ok(()),
        }
    }

    /// SPEC A6.23, A10.19.
    fn check_ignored(&mut self, path: &str, add: bool, place: &Place) {
        let clean = super::text::clean(path);
        if self.ignore.hides_all(clean.as_bytes()) {
            let verb = if add { "Add" } else { "Copy" };
            let message = Rule::copy_ignored_file(verb, &clean);
            self.checks.warn(Rule::CopyIgnoredFile, message, place);
        }
    }
}

/// What all copies of an instruction have in common.
fn base_copy(expanded: &Expanded) -> FileActionCopy {
    let (mode, mode_str) = match &expanded.chmod {
        None => (-1, String::new()),
        Some((_, Chmod::Octal(mode))) => (*mode, String::new()),
        Some((_, Chmod::Symbolic(text))) => (-1, text.clone()),
    };
    FileActionCopy {
        mode,
        mode_str,
        timestamp: -1,
        exclude_patterns: expanded.exclude.clone(),
        ..FileActionCopy::default()
    }
}

/// A copy from a context, a stage or an image.
fn local_copy(path: &str, expanded: &Expanded, add: bool) -> FileActionCopy {
    let mut copy = FileActionCopy {
        src: absolute("/", path),
        follow_symlink: true,
        dir_copy_contents: true,
        attempt_unpack_docker_compatibility: expanded.unpack.unwrap_or(add),
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        ..base_copy(expanded)
    };
    if expanded.parents {
        // What stands before `/./` is not kept (SPEC A6.14).
        let (root, pattern) = path.split_once("/./").unwrap_or(("/", path));
        let pattern = absolute("/", pattern);
        copy.src = absolute("/", root);
        copy.include_patterns = vec![pattern.trim_start_matches('/').to_owned()];
        if !has_wildcards(root) && !has_wildcards(&pattern) {
            copy.required_paths = vec![absolute(&copy.src, pattern.trim_start_matches('/'))];
        }
    }
    copy
}

/// `user[:group]`; names are looked up in the tree numbered `input` (SPEC A6.04).
pub(super) fn owner(text: &str, input: i64) -> ChownOpt {
    let one = |part: &str| -> Option<UserOpt> {
        let user = match part {
            "" => return None,
            "root" => UserKind::ById(0),
            name => match name.parse() {
                Ok(id) => UserKind::ById(id),
                Err(_) => UserKind::ByName(NamedUserOpt { name: name.into(), input }),
            },
        };
        Some(UserOpt { user: Some(user) })
    };
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    ChownOpt { user: one(user), group: group.and_then(one) }
}

fn is_number(part: &str) -> bool {
    part.is_empty() || part == "root" || part.parse::<u32>().is_ok()
}

/// SPEC A6.05.
fn parse_chmod(text: &str) -> Result<Chmod, FrontendError> {
    let octal = u32::from_str_radix(text, 8).ok().filter(|_| !text.starts_with('+'));
    match octal {
        Some(mode) if mode <= 0o7777 => return Ok(Chmod::Octal(i32::try_from(mode).unwrap_or_default())),
        None if is_symbolic(text) => return Ok(Chmod::Symbolic(text.into())),
        _ => {}
    }
    Err(FrontendError::input(format!(
        "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
    ))
    .hint("write an octal mode, e.g. 0644, or a symbolic one, e.g. u=rwX,go=rX"))
}

/// `[ugoa]*([-+=][rwxXst]*|[-+=][ugo])+`, separated by commas.
fn is_symbolic(text: &str) -> bool {
    !text.is_empty()
        && text.split(',').all(|clause| {
            let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
            if !actions.starts_with(['+', '-', '=']) {
                return false;
            }
            actions.split(['+', '-', '=']).skip(1).all(|permissions| {
                matches!(permissions, "u" | "g" | "o") || permissions.chars().all(|c| "rwxXst".contains(c))
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a6_05_modes() {
        assert_eq!(parse_chmod("0755").ok(), Some(Chmod::Octal(0o755)));
        assert_eq!(parse_chmod("7777").ok(), Some(Chmod::Octal(0o7777)));
        for text in ["u=rwX,go=rX", "+x", "a-w", "g=u", "u+s,o=", "ug+rw-x"] {
            assert_eq!(parse_chmod(text).ok(), Some(Chmod::Symbolic(text.into())), "{text}");
        }
        for text in ["10000", "99", "x", "u", "u=q", "", "-1", "u=r,"] {
            let error = parse_chmod(text).expect_err(text);
            assert_eq!(
                error.message,
                format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")
            );
        }
    }

    #[test]
    fn a6_04_owners() {
        let by_id = |id| Some(UserOpt { user: Some(UserKind::ById(id)) });
        let by_name =
            |name: &str| Some(UserOpt { user: Some(UserKind::ByName(NamedUserOpt { name: name.into(), input: 3 })) });
        assert_eq!(owner("1000", 3), ChownOpt { user: by_id(1000), group: None });
        assert_eq!(owner("root:adm", 3), ChownOpt { user: by_id(0), group: by_name("adm") });
        assert_eq!(owner("app:5", 3), ChownOpt { user: by_name("app"), group: by_id(5) });
    }
}
