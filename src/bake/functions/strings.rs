//! Functions of text.

use serde_json::Value;

use super::super::eval::{EvalError, error, text};
use super::{Answer, Args, Function, arg, list, size, string, whole};

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("upper", |a| Ok(string(a, 0)?.to_uppercase().into())),
    ("lower", |a| Ok(string(a, 0)?.to_lowercase().into())),
    ("title", title),
    ("trim", |a| {
        let cut: Vec<char> = string(a, 1)?.chars().collect();
        Ok(string(a, 0)?.trim_matches(cut.as_slice()).into())
    }),
    ("trimspace", |a| Ok(string(a, 0)?.trim().into())),
    ("trimprefix", |a| {
        let (text, prefix) = (string(a, 0)?, string(a, 1)?);
        Ok(text.strip_prefix(&prefix).unwrap_or(&text).into())
    }),
    ("trimsuffix", |a| {
        let (text, suffix) = (string(a, 0)?, string(a, 1)?);
        Ok(text.strip_suffix(&suffix).unwrap_or(&text).into())
    }),
    ("chomp", |a| Ok(string(a, 0)?.trim_end_matches(['\r', '\n']).into())),
    ("indent", |a| {
        let pad = format!("\n{}", " ".repeat(size(a, 0)?.min(1 << 16)));
        Ok(string(a, 1)?.replace('\n', &pad).into())
    }),
    ("split", |a| {
        let (separator, text) = (string(a, 0)?, string(a, 1)?);
        Ok(match separator.as_str() {
            "" => text.chars().map(|c| Value::from(c.to_string())).collect(),
            _ => text.split(separator.as_str()).map(Value::from).collect(),
        })
    }),
    ("join", |a| {
        let separator = string(a, 0)?;
        let mut parts = Vec::new();
        for at in 1..a.len().max(2) {
            parts.extend(list(a, at)?.iter().map(text).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(parts.join(&separator).into())
    }),
    ("replace", |a| Ok(string(a, 0)?.replace(&string(a, 1)?, &string(a, 2)?).into())),
    ("regex_replace", |a| Ok(regex(&string(a, 1)?)?.replace_all(&string(a, 0)?, string(a, 2)?.as_str()).into())),
    ("regex", |a| {
        let (pattern, text) = (regex(&string(a, 0)?)?, string(a, 1)?);
        let found =
            pattern.captures(&text).ok_or_else(|| EvalError("pattern did not match any part of the text".into()))?;
        Ok(captured(&pattern, &found))
    }),
    ("regexall", |a| {
        let (pattern, text) = (regex(&string(a, 0)?)?, string(a, 1)?);
        Ok(pattern.captures_iter(&text).map(|found| captured(&pattern, &found)).collect())
    }),
    ("substr", substr),
    ("reverse", |a| Ok(string(a, 0)?.chars().rev().collect::<String>().into())),
    ("strlen", |a| Ok(string(a, 0)?.chars().count().into())),
    ("byteslen", |a| Ok(string(a, 0)?.len().into())),
    ("bytesslice", |a| {
        let (text, from, length) = (string(a, 0)?, size(a, 1)?, size(a, 2)?);
        let part = text.as_bytes().get(from..from.saturating_add(length));
        part.map(|part| String::from_utf8_lossy(part).into()).ok_or_else(|| EvalError("out of range".into()))
    }),
    ("format", |a| Ok(format(&string(a, 0)?, a.get(1..).unwrap_or_default())?.into())),
    ("formatlist", |a| {
        let rest = a.get(1..).unwrap_or_default();
        let many = rest.iter().filter_map(Value::as_array).map(Vec::len).max().unwrap_or(1);
        let row = |at: usize| -> Result<Value, EvalError> {
            let pick = |value: &Value| match value {
                Value::Array(items) => items.get(at).cloned(),
                other => Some(other.clone()),
            };
            let args: Option<Vec<Value>> = rest.iter().map(pick).collect();
            let args = args.ok_or_else(|| EvalError("lists of different lengths".into()))?;
            Ok(format(&string(a, 0)?, &args)?.into())
        };
        (0..many).map(row).collect()
    }),
    ("sanitize", |a| {
        let keep = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
        Ok(string(a, 0)?.chars().map(keep).collect::<String>().into())
    }),
    ("basename", |a| {
        let text = string(a, 0)?;
        Ok(text.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("/").into())
    }),
    ("dirname", |a| {
        let text = string(a, 0)?;
        Ok(match text.rsplit_once('/') {
            None => ".".into(),
            Some(("", _)) => "/".into(),
            Some((dir, _)) => dir.into(),
        })
    }),
    ("urlencode", |a| Ok(url::form_urlencoded::byte_serialize(string(a, 0)?.as_bytes()).collect::<String>().into())),
];

fn title(args: Args<'_>) -> Answer {
    let mut first = true;
    let raise = |c: char| {
        let start = std::mem::replace(&mut first, !c.is_alphanumeric() && c != '\'');
        if start { c.to_uppercase().collect::<String>() } else { c.to_string() }
    };
    Ok(string(args, 0)?.chars().map(raise).collect::<String>().into())
}

/// From a place on, counted from the end if it is negative; a length of -1 is all.
fn substr(args: Args<'_>) -> Answer {
    let characters: Vec<char> = string(args, 0)?.chars().collect();
    let (offset, length) = (whole(args, 1)?, whole(args, 2)?);
    let count = i64::try_from(characters.len()).unwrap_or(i64::MAX);
    let start = if offset < 0 { (count + offset).max(0) } else { offset.min(count) };
    let end = if length < 0 { count } else { start.saturating_add(length).min(count) };
    let place = |at: i64| usize::try_from(at).unwrap_or_default();
    Ok(characters[place(start)..place(end)].iter().collect::<String>().into())
}

fn regex(text: &str) -> Result<regex::Regex, EvalError> {
    regex::Regex::new(text).map_err(|e| EvalError(format!("invalid regular expression \"{text}\": {e}")))
}

/// The whole match, or its groups: by name if they have names.
fn captured(pattern: &regex::Regex, found: &regex::Captures<'_>) -> Value {
    let group = |at: usize| found.get(at).map_or(Value::Null, |part| part.as_str().into());
    match found.len() {
        1 => group(0),
        count => {
            let names: Vec<&str> = pattern.capture_names().flatten().collect();
            if names.is_empty() {
                return (1..count).map(group).collect();
            }
            let named =
                pattern.capture_names().enumerate().filter_map(|(at, name)| Some((name?.to_owned(), group(at))));
            Value::Object(named.collect())
        }
    }
}

/// printf as Go has it, with the verbs that go-cty knows.
pub(super) fn format(pattern: &str, args: &[Value]) -> Result<String, EvalError> {
    let mut out = String::new();
    let mut rest = pattern.chars().peekable();
    let mut next = 0;
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut flags = String::new();
        while let Some(flag) = rest.next_if(|c| "+-# 0".contains(*c)) {
            flags.push(flag);
        }
        let digits = |rest: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut number = String::new();
            while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                number.push(digit);
            }
            number.parse::<usize>().ok().map(|number| number.min(1 << 16))
        };
        let width = digits(&mut rest).unwrap_or(0);
        let precision = rest.next_if_eq(&'.').map(|_| digits(&mut rest).unwrap_or(0));
        let verb = rest.next().ok_or_else(|| EvalError("the format ends in %".into()))?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = arg(args, next).map_err(|_| EvalError(format!("there is no value for %{verb}")))?;
        next += 1;
        let plus = |text: String| if flags.contains('+') && !text.starts_with('-') { format!("+{text}") } else { text };
        let number = || super::super::eval::float(value);
        #[allow(clippy::cast_possible_truncation, reason = "printf takes whole numbers")]
        let integer = || number().map(|value| value as i64);
        let shown = match verb {
            'v' if value.is_string() => text(value)?,
            'v' => value.to_string(),
            's' => {
                let shown = text(value)?;
                precision.map_or(shown.clone(), |precision| shown.chars().take(precision).collect())
            }
            'q' => Value::from(text(value)?).to_string(),
            't' => super::super::eval::boolean(value)?.to_string(),
            'd' => plus(integer()?.to_string()),
            'x' => format!("{:x}", integer()?),
            'X' => format!("{:X}", integer()?),
            'o' => format!("{:o}", integer()?),
            'b' => format!("{:b}", integer()?),
            'f' | 'F' => plus(format!("{:.*}", precision.unwrap_or(6), number()?)),
            'e' => plus(format!("{:.*e}", precision.unwrap_or(6), number()?)),
            'g' | 'G' => plus(number()?.to_string()),
            other => return error(format!("unsupported verb %{other}")),
        };
        let missing = width.saturating_sub(shown.chars().count());
        let fill = " ".repeat(missing);
        if flags.contains('-') {
            out.push_str(&(shown + &fill));
        } else if flags.contains('0') && !matches!(verb, 's' | 'q' | 'v' | 't') {
            let (sign, digits) = shown.strip_prefix('-').map_or(("", shown.as_str()), |digits| ("-", digits));
            out.push_str(&format!("{sign}{}{digits}", "0".repeat(missing)));
        } else {
            out.push_str(&(fill + &shown));
        }
    }
    if next < args.len() {
        return error(format!("too many values: {} for {next} verbs", args.len()));
    }
    Ok(out)
}
