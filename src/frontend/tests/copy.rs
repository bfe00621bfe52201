//! COPY and ADD (SPEC A6, A9.06).

use super::*;
use crate::dockerfile::gitref::GitRef;
use crate::frontend::remote::RemoteContext;

fn with_ignore(text: &str, ignore: &str) -> FrontendResult {
    convert_with(text, options(), Some(ignore), &Host::default()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a6_shapes_of_file_operations() {
    let result = convert(
        r#"FROM alpine
WORKDIR /w
COPY a b/ *.txt dir/
COPY --chown=app:5 --chmod=644 ../x/ .
COPY --chmod=u=rwX,go=rX x /abs
COPY --exclude=*.md --exclude=docs src/ /src/.
COPY --parents ./top/./sub/*.go lib/x /p/
ADD --unpack=false one.tar /t/
ADD two.tar /t
COPY ["with space", "/to here/"]
"#,
    );
    insta::assert_snapshot!("file_operations", graph(&result));
    insta::assert_snapshot!("file_operations_history", history(&result).join("\n"));
}

#[test]
fn a6_15_link_is_a_layer_of_its_own() {
    let result = convert("FROM alpine\nCOPY --link --chown=1:2 a /b/\nCOPY --link --chmod=755 a /c\nRUN x\n");
    insta::assert_snapshot!("link", graph(&result));
    let on_nothing = convert("FROM scratch\nCOPY --link a /\n");
    assert!(!graph(&on_nothing).contains("merge"));
    insta::assert_snapshot!(error_of("FROM alpine\nCOPY --link --chown=app a /\n"), @r#"2-2: cannot use the name "app" in --chown together with --link [hint: with --link there is no /etc/passwd to look the name up in: give numbers, or leave --link out]"#);
}

#[test]
fn a2_08_inline_files() {
    let result = convert(
        "FROM alpine\nARG NAME=you\nCOPY <<a.txt <<\"b.txt\" more /d/\nhello $NAME \"quoted\" \\$x\na.txt\nhello $NAME\nb.txt\nADD <<-EOF /file\n\ttabs\n\tEOF\n",
    );
    insta::assert_snapshot!("inline_files", graph(&result));
    insta::assert_snapshot!("inline_files_history", history(&result).join("\n"));
}

#[test]
fn a9_06_the_context_is_the_union_of_what_reachable_stages_read() {
    let text = "FROM alpine AS a\nCOPY a/ /\nRUN --mount=target=/m,source=mounted x\nFROM alpine AS unused\nCOPY secret /\nFROM a\nADD ./b /\nCOPY <<E /e\nE\n";
    let result = with_ignore(text, "# comment\n*.log\n!keep.log\n");
    let text = graph(&result);
    assert!(text.contains(r#"local.followpaths = ["a","b","mounted"]"#), "{text}");
    assert!(text.contains(r#"local.excludepatterns = ["*.log","!keep.log"]"#), "{text}");
    assert!(text.contains("#") && text.contains("[internal] load build context\n   at Dockerfile:2,3,7"), "{text}");
    assert!(!graph(&convert("FROM alpine\nCOPY x /\nCOPY . /all\n")).contains("followpaths"));
    assert!(!graph(&convert("FROM alpine\nRUN --mount=target=/m x\n")).contains("followpaths"));
    assert!(!graph(&convert("FROM alpine\nRUN x\n")).contains("local://"));
}

#[test]
fn a6_23_copying_what_is_ignored() {
    let text = "FROM alpine\nCOPY a.log dir/x /\nADD . /\n";
    assert_eq!(
        warnings(&with_ignore(text, "*.log\ndir\n")),
        [
            "CopyIgnoredFile: Attempting to Copy file \"a.log\" that is excluded by .dockerignore (line 2)",
            "CopyIgnoredFile: Attempting to Copy file \"dir/x\" that is excluded by .dockerignore (line 2)"
        ]
    );
    assert_eq!(warnings(&with_ignore(text, "*.log\n!x\n")).len(), 1);
    assert_eq!(warnings(&with_ignore(text, "*.log\n!a.*\n")).len(), 0);
    assert_eq!(warnings(&with_ignore("FROM alpine\nCOPY . /\n", "**\n")).len(), 1);
}

// SPEC A6.18–A6.22, A7.01–A7.03
#[test]
fn a6_18_a6_21_remote_sources() {
    let result = convert(
        "FROM alpine\nADD --chmod=755 --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://user:secret@h.example/x.tgz /d/\nADD --unpack https://h.example /d/\nADD --exclude=*.md https://h.example/r.git#v1:sub /src\nADD --keep-git-dir=true --checksum=abc git@h.example:a/b.git /src2\n",
    );
    insta::assert_snapshot!("remote_sources", graph(&result));
    let context = RemoteContext::git(&GitRef::parse("https://h.example/r.git").expect("one").expect("valid"), false);
    let input = FrontendInput {
        filename: "Dockerfile",
        source: b"FROM alpine\nCOPY a /a\nCOPY b /b\nRUN --mount=target=/m x\n",
        context: Some(context),
        options: options(),
        ..FrontendInput::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let result = runtime.block_on(dockerfile_to_llb(input, &Host::default())).expect("valid");
    let text = graph(&result);
    assert_eq!(text.matches("git://h.example/r.git").count(), 1, "{text}");
    assert!(!text.contains("local://"), "{text}");
}

#[test]
fn a6_errors() {
    let all: Vec<String> = [
        "FROM alpine\nADD --checksum=sha256:12 https://example.com/x.tgz /\n",
        "FROM alpine\nADD https://user:secret@example.com/b.git?foo=1 /\n",
        "FROM alpine\nADD --keep-git-dir=false https://example.com/b.git?keep-git-dir /\n",
        "FROM alpine\nADD --checksum=abc https://example.com/b.git?checksum=def /\n",
        "FROM alpine\nCOPY https://example.com/x /\n",
        "FROM alpine\nCOPY https://example.com/x.git /\n",
        "FROM alpine\nCOPY --chmod=888 a /\n",
        "FROM alpine\nADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d a /\n",
        "FROM alpine\nADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://a/x https://a/y /\n",
        "FROM alpine\nCOPY ${x a /\n",
    ]
    .iter()
    .map(|text| error_of(text))
    .collect();
    insta::assert_snapshot!("copy_errors", all.join("\n"));
}

#[test]
fn a3_07_words_are_expanded_with_the_stage_s_variables() {
    let result = convert(
        "FROM alpine\nENV D=dest S=src\nARG U=1000\nARG M=0600\nCOPY --chown=$U:$U --chmod=$M --exclude=$S/x $S/a /$D/\n",
    );
    assert_eq!(history(&result)[3], "COPY --chown=1000:1000 --chmod=0600 src/a /dest/ # buildkit");
    let text = graph(&result);
    assert!(text.contains("copy #2 /src/a to /dest/ owner=1000:1000 mode=0600"), "{text}");
    assert!(text.contains(r#"exclude=["src/x"]"#), "{text}");
    assert!(text.contains("COPY --chown=1000:1000 --chmod=0600"), "{text}");
}
