//! Files that try to break the front end.

use super::*;

#[test]
fn many_stages_do_not_exhaust_the_stack() {
    let mut text = String::from("FROM scratch AS s0\n");
    for i in 1..5_000 {
        let _ = writeln!(text, "FROM s{} AS s{i}", i - 1);
    }
    assert!(convert(&text).definition.is_scratch());
}

#[test]
fn port_ranges_are_bounded() {
    let text = format!("FROM alpine\nEXPOSE{}\n", " 0-65535".repeat(50));
    assert_eq!(convert(&text).config.config.exposed_ports.len(), 65536);
}

#[test]
fn paths_stay_inside() {
    let result = convert("FROM alpine\nCOPY ../../../etc/passwd /../../x\nRUN --mount=source=../../s,target=../m x\n");
    let text = graph(&result);
    assert!(text.contains("copy #2 /etc/passwd to /x"), "{text}");
    assert!(text.contains(r#"["etc/passwd","s"]"#), "{text}");
    assert!(text.contains("mount /m bind #2 selector=/s ro"), "{text}");
}
