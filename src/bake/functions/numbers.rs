//! Functions of numbers, comparisons and truth values.

use serde_json::Value;

use super::super::eval::{EvalError, boolean, equal, error, float, number};
use super::{Answer, Args, Function, arg, num, string, whole};

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("add", |a| Ok(number(num(a, 0)? + num(a, 1)?))),
    ("subtract", |a| Ok(number(num(a, 0)? - num(a, 1)?))),
    ("multiply", |a| Ok(number(num(a, 0)? * num(a, 1)?))),
    ("divide", |a| divide(a, |a, b| a / b)),
    ("modulo", |a| divide(a, |a, b| a % b)),
    ("negate", |a| Ok(number(-num(a, 0)?))),
    ("absolute", |a| Ok(number(num(a, 0)?.abs()))),
    ("ceil", |a| Ok(number(num(a, 0)?.ceil()))),
    ("floor", |a| Ok(number(num(a, 0)?.floor()))),
    ("int", |a| Ok(number(num(a, 0)?.trunc()))),
    ("log", |a| Ok(number(num(a, 0)?.log(num(a, 1)?)))),
    ("pow", |a| Ok(number(num(a, 0)?.powf(num(a, 1)?)))),
    ("signum", |a| Ok(number(if num(a, 0)? == 0.0 { 0.0 } else { num(a, 0)?.signum() }))),
    ("max", |a| extreme(a, f64::max)),
    ("min", |a| extreme(a, f64::min)),
    ("parseint", |a| {
        let base = whole(a, 1)?;
        let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base));
        let base = base.ok_or_else(|| EvalError("the base is 2 to 36".into()))?;
        let text = string(a, 0)?;
        i64::from_str_radix(&text, base)
            .map(Value::from)
            .map_err(|e| EvalError(format!("cannot parse \"{text}\": {e}")))
    }),
    ("range", range),
    ("greaterthan", |a| Ok((num(a, 0)? > num(a, 1)?).into())),
    ("greaterthanorequalto", |a| Ok((num(a, 0)? >= num(a, 1)?).into())),
    ("lessthan", |a| Ok((num(a, 0)? < num(a, 1)?).into())),
    ("lessthanorequalto", |a| Ok((num(a, 0)? <= num(a, 1)?).into())),
    ("equal", |a| Ok(equal(arg(a, 0)?, arg(a, 1)?).into())),
    ("notequal", |a| Ok((!equal(arg(a, 0)?, arg(a, 1)?)).into())),
    ("and", |a| Ok((boolean(arg(a, 0)?)? && boolean(arg(a, 1)?)?).into())),
    ("or", |a| Ok((boolean(arg(a, 0)?)? || boolean(arg(a, 1)?)?).into())),
    ("not", |a| Ok((!boolean(arg(a, 0)?)?).into())),
    ("semvercmp", |a| {
        let version = semver(&string(a, 0)?)?;
        let constraint = string(a, 1)?;
        let constraint = semver::VersionReq::parse(&constraint)
            .map_err(|e| EvalError(format!("invalid constraint \"{constraint}\": {e}")))?;
        Ok(constraint.matches(&version).into())
    }),
];

fn semver(text: &str) -> Result<semver::Version, EvalError> {
    let plain = text.trim_start_matches('v');
    // `1.2` is `1.2.0`.
    let dots = plain.split(['-', '+']).next().unwrap_or_default().matches('.').count();
    let (core, rest) = plain.split_at(plain.find(['-', '+']).unwrap_or(plain.len()));
    let full = format!("{core}{}{rest}", ".0".repeat(2_usize.saturating_sub(dots)));
    semver::Version::parse(&full).map_err(|e| EvalError(format!("invalid version \"{text}\": {e}")))
}

fn divide(args: Args<'_>, with: fn(f64, f64) -> f64) -> Answer {
    match num(args, 1)? {
        0.0 => error("division by zero"),
        divisor => Ok(number(with(num(args, 0)?, divisor))),
    }
}

fn extreme(args: Args<'_>, of: fn(f64, f64) -> f64) -> Answer {
    let numbers = args.iter().map(float).collect::<Result<Vec<_>, _>>()?;
    numbers.into_iter().reduce(of).map(number).ok_or_else(|| EvalError("at least one number is required".into()))
}

/// `range(end)`, `range(start, end)` or `range(start, end, step)`.
fn range(args: Args<'_>) -> Answer {
    let (start, end) = if args.len() < 2 { (0.0, num(args, 0)?) } else { (num(args, 0)?, num(args, 1)?) };
    let step = if args.len() > 2 {
        num(args, 2)?
    } else if start <= end {
        1.0
    } else {
        -1.0
    };
    if step == 0.0 || (end - start) * step < 0.0 {
        return error("the step does not lead to the end");
    }
    let mut out = Vec::new();
    let mut now = start;
    while if step > 0.0 { now < end } else { now > end } {
        if out.len() >= 1024 {
            return error("more than 1024 numbers");
        }
        out.push(number(now));
        now += step;
    }
    Ok(Value::Array(out))
}
