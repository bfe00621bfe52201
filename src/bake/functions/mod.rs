//! The functions of bake files (SPEC B7.13): those of go-cty's standard library and the ones that buildx adds.

mod collections;
mod encoding;
mod numbers;
mod strings;
mod times;

use serde_json::Value;

use super::eval::{EvalError, error, float, text};

type Args<'a> = &'a [Value];
type Answer = Result<Value, EvalError>;
type Function = fn(Args<'_>) -> Answer;

/// Calls a function; `None` if there is none of this name.
pub(super) fn call(name: &str, args: Args<'_>) -> Option<Answer> {
    let tables =
        [strings::FUNCTIONS, numbers::FUNCTIONS, collections::FUNCTIONS, encoding::FUNCTIONS, times::FUNCTIONS];
    let function = tables.into_iter().flatten().find(|(known, _)| *known == name)?.1;
    Some(function(args).map_err(|EvalError(why)| EvalError(format!("{name}: {why}"))))
}

/// An argument that has to be there.
fn arg<'a>(args: Args<'a>, at: usize) -> Result<&'a Value, EvalError> {
    args.get(at).ok_or_else(|| EvalError(format!("not enough arguments: there is no argument {}", at + 1)))
}

fn string(args: Args<'_>, at: usize) -> Result<String, EvalError> {
    text(arg(args, at)?)
}

fn num(args: Args<'_>, at: usize) -> Result<f64, EvalError> {
    float(arg(args, at)?)
}

fn whole(args: Args<'_>, at: usize) -> Result<i64, EvalError> {
    let value = num(args, at)?;
    if value.fract() != 0.0 || value.abs() > 9e15 {
        return error(format!("a whole number is required, not {value}"));
    }
    #[allow(clippy::cast_possible_truncation, reason = "whole and small enough")]
    Ok(value as i64)
}

fn size(args: Args<'_>, at: usize) -> Result<usize, EvalError> {
    let value = whole(args, at)?;
    usize::try_from(value).map_err(|_| EvalError(format!("{value} is less than 0")))
}

fn list(args: Args<'_>, at: usize) -> Result<&[Value], EvalError> {
    match arg(args, at)? {
        Value::Array(items) => Ok(items),
        other => error(format!("a list is required, not {other}")),
    }
}

fn object(args: Args<'_>, at: usize) -> Result<&serde_json::Map<String, Value>, EvalError> {
    match arg(args, at)? {
        Value::Object(fields) => Ok(fields),
        other => error(format!("an object is required, not {other}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // SPEC B7.13: another salt each time, of a form and a cost that everybody knows.
    #[test]
    fn b7_13_bcrypt() {
        let hash = |args: Value| {
            call("bcrypt", args.as_array().expect("a list")).expect("known").map(|v| text(&v).expect("text"))
        };
        let (one, two) = (hash(json!(["secret", 4])).expect("a hash"), hash(json!(["secret", 4])).expect("a hash"));
        assert!(one.starts_with("$2a$04$") && one.len() == 60 && one != two, "{one}");
        assert_eq!(bcrypt::verify("secret", &one).ok(), Some(true));
        assert_eq!(bcrypt::verify("other", &one).ok(), Some(false));
        for (args, said) in [(json!(["a", 3]), "the cost is 4 to 20"), (json!(["a", 31]), "the cost is 4 to 20")] {
            assert!(hash(args).expect_err("no cost").0.contains(said));
        }
    }

    // SPEC B7.13: what each is, in go-cty's words.
    #[test]
    fn b7_13_functions_give_what_their_names_say() {
        for (name, args, result) in [
            ("upper", json!(["aé"]), json!("AÉ")),
            ("title", json!(["a bc"]), json!("A Bc")),
            ("trim", json!(["??a?", "?"]), json!("a")),
            ("trimprefix", json!(["v1", "v"]), json!("1")),
            ("trimsuffix", json!(["a.c", ".c"]), json!("a")),
            ("chomp", json!(["a\r\n\n"]), json!("a")),
            ("indent", json!([2, "a\nb"]), json!("a\n  b")),
            ("split", json!([",", "a,b"]), json!(["a", "b"])),
            ("join", json!(["-", ["a", "b"], ["c"]]), json!("a-b-c")),
            ("replace", json!(["a.b.c", ".", "-"]), json!("a-b-c")),
            ("regex_replace", json!(["a12b", "[0-9]+", "($0)"]), json!("a(12)b")),
            ("regex", json!(["[a-z]+", "12ab"]), json!("ab")),
            ("regex", json!(["(\\d+)-(\\d+)", "1-2"]), json!(["1", "2"])),
            ("regexall", json!(["[a-z]", "a1b"]), json!(["a", "b"])),
            ("substr", json!(["hello", 1, 2]), json!("el")),
            ("substr", json!(["hello", -2, -1]), json!("lo")),
            ("reverse", json!(["abc"]), json!("cba")),
            ("strlen", json!(["né"]), json!(2)),
            ("format", json!(["%s-%03d %q %v %%", "a", 7, "b", [1]]), json!("a-007 \"b\" [1] %")),
            ("formatlist", json!(["%s!", ["a", "b"]]), json!(["a!", "b!"])),
            ("sanitize", json!(["a.b/c"]), json!("a_b_c")),
            ("basename", json!(["/a/b.c"]), json!("b.c")),
            ("dirname", json!(["/a/b.c"]), json!("/a")),
            ("urlencode", json!(["a b&c"]), json!("a+b%26c")),
            ("add", json!([1, 2]), json!(3)),
            ("divide", json!([1, 2]), json!(0.5)),
            ("modulo", json!([7, 3]), json!(1)),
            ("pow", json!([2, 10]), json!(1024)),
            ("parseint", json!(["ff", 16]), json!(255)),
            ("max", json!([1, 3, 2]), json!(3)),
            ("ceil", json!([1.2]), json!(2)),
            ("signum", json!([-3]), json!(-1)),
            ("int", json!([-3.7]), json!(-3)),
            ("range", json!([1, 4]), json!([1, 2, 3])),
            ("length", json!([{"a": 1}]), json!(1)),
            ("concat", json!([[1], [2]]), json!([1, 2])),
            ("contains", json!([["a"], "a"]), json!(true)),
            ("distinct", json!([["a", "b", "a"]]), json!(["a", "b"])),
            ("compact", json!([["a", "", "b"]]), json!(["a", "b"])),
            ("flatten", json!([[[1], [[2]]]]), json!([1, 2])),
            ("keys", json!([{"b": 1, "a": 2}]), json!(["a", "b"])),
            ("values", json!([{"b": 1, "a": 2}]), json!([2, 1])),
            ("lookup", json!([{"a": 1}, "b", 2]), json!(2)),
            ("merge", json!([{"a": 1}, {"a": 2, "b": 3}]), json!({"a": 2, "b": 3})),
            ("zipmap", json!([["a"], [1]]), json!({"a": 1})),
            ("element", json!([["a", "b"], 3]), json!("b")),
            ("index", json!([["a", "b"], 1]), json!("b")),
            ("indexof", json!([["a", "b"], "b"]), json!(1)),
            ("slice", json!([[1, 2, 3], 1, 3]), json!([2, 3])),
            ("sort", json!([["b", "a"]]), json!(["a", "b"])),
            ("reverselist", json!([[1, 2]]), json!([2, 1])),
            ("setproduct", json!([["a", "b"], ["x"]]), json!([["a", "x"], ["b", "x"]])),
            ("setunion", json!([["a"], ["b", "a"]]), json!(["a", "b"])),
            ("setintersection", json!([["a", "b"], ["b"]]), json!(["b"])),
            ("setsubtract", json!([["a", "b"], ["b"]]), json!(["a"])),
            ("setsymmetricdifference", json!([["a", "b"], ["b", "c"]]), json!(["a", "c"])),
            ("sethaselement", json!([["a"], "a"]), json!(true)),
            ("chunklist", json!([[1, 2, 3], 2]), json!([[1, 2], [3]])),
            ("coalesce", json!([null, "a"]), json!("a")),
            ("coalescelist", json!([[], [1]]), json!([1])),
            ("hasindex", json!([[1], 0]), json!(true)),
            ("equal", json!([1, 1.0]), json!(true)),
            ("and", json!([true, false]), json!(false)),
            ("not", json!([false]), json!(true)),
            ("jsonencode", json!([{"a": [1, "b"]}]), json!("{\"a\":[1,\"b\"]}")),
            ("jsondecode", json!(["{\"a\": 1}"]), json!({"a": 1})),
            ("csvdecode", json!(["a,b\n1,2\n"]), json!([{"a": "1", "b": "2"}])),
            ("base64encode", json!(["hi"]), json!("aGk=")),
            ("base64decode", json!(["aGk="]), json!("hi")),
            ("md5", json!(["a"]), json!("0cc175b9c0f1b6a831c399e269772661")),
            ("sha1", json!(["a"]), json!("86f7e437faa5a7fce15d1ddcb9eaeaea377667b8")),
            ("sha256", json!([""]), json!("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")),
            ("uuidv5", json!(["dns", "www.terraform.io"]), json!("a5008fae-b28c-5ba5-96cd-82b4c53552d6")),
            ("semvercmp", json!(["1.2.3", ">= 1.2"]), json!(true)),
            ("cidrhost", json!(["10.12.127.0/20", 16]), json!("10.12.112.16")),
            ("cidrnetmask", json!(["172.16.0.0/12"]), json!("255.240.0.0")),
            ("cidrsubnet", json!(["172.16.0.0/12", 4, 2]), json!("172.18.0.0/16")),
            ("cidrsubnets", json!(["10.1.0.0/16", 4, 4]), json!(["10.1.0.0/20", "10.1.16.0/20"])),
            ("formatdate", json!(["YYYY-MM-DD'T'hh:mm", "2024-02-03T04:05:06Z"]), json!("2024-02-03T04:05")),
            ("timeadd", json!(["2024-02-03T04:05:06Z", "1h30m"]), json!("2024-02-03T05:35:06Z")),
            (
                "unixtimestampparse",
                json!([0]),
                json!({"year": 1970, "month": 1, "day": 1, "hour": 0, "minute": 0, "second": 0,
                "unix": 0, "rfc3339": "1970-01-01T00:00:00Z", "weekday": 4, "weekday_name": "Thursday", "month_name": "January",
                "year_day": 1, "iso_year": 1970, "iso_week": 1}),
            ),
        ] {
            let Value::Array(args) = args else { continue };
            let found = call(name, &args).unwrap_or_else(|| panic!("there is no {name}"));
            assert_eq!(found, Ok(result), "{name}({args:?})");
        }
        assert_eq!(call("nothing", &[]), None);
        assert_eq!(
            call("upper", &[]),
            Some(Err(EvalError("upper: not enough arguments: there is no argument 1".into())))
        );
    }
}
