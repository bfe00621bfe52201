//! Functions of time.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use serde_json::json;

use super::super::eval::{EvalError, error};
use super::{Answer, Args, Function, string, whole};
use crate::base::duration::parse_duration;

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("timestamp", |_| Ok(rfc3339(&Timestamp::now().to_zoned(TimeZone::UTC)).into())),
    ("formatdate", |a| Ok(format(&string(a, 0)?, &parse(&string(a, 1)?)?)?.into())),
    ("timeadd", |a| {
        let nanoseconds = parse_duration(&string(a, 1)?).map_err(EvalError)?;
        let (time, span) = (parse(&string(a, 0)?)?, SignedDuration::from_nanos(nanoseconds));
        let sum = time.checked_add(span).map_err(|e| EvalError(e.to_string()))?;
        Ok(rfc3339(&sum).into())
    }),
    ("unixtimestampparse", unix),
];

fn parse(text: &str) -> Result<Zoned, EvalError> {
    let time = jiff::fmt::strtime::parse("%Y-%m-%dT%H:%M:%S%.f%:z", text.replace('Z', "+00:00"));
    time.and_then(|time| time.to_zoned()).map_err(|_| EvalError(format!("\"{text}\" is not a time as RFC 3339 has it")))
}

fn rfc3339(time: &Zoned) -> String {
    let zone = if time.offset().is_zero() { "Z".to_owned() } else { time.strftime("%:z").to_string() };
    format!("{}{zone}", time.strftime("%Y-%m-%dT%H:%M:%S"))
}

/// The pattern language of HCL's `formatdate`: runs of letters are fields, quotes keep what is in them.
fn format(pattern: &str, time: &Zoned) -> Result<String, EvalError> {
    let mut out = String::new();
    let letters: Vec<char> = pattern.chars().collect();
    let mut at = 0;
    while at < letters.len() {
        let c = letters[at];
        if c == '\'' {
            let end = letters[at + 1..].iter().position(|c| *c == '\'').map(|length| at + 1 + length);
            let end = end.ok_or_else(|| EvalError("a quote is not closed".into()))?;
            out.extend(&letters[at + 1..end]);
            at = end + 1;
            continue;
        }
        if !c.is_ascii_alphabetic() {
            out.push(c);
            at += 1;
            continue;
        }
        let run = letters[at..].iter().take_while(|other| **other == c).count();
        at += run;
        let hour12 = (time.hour() + 11) % 12 + 1;
        out.push_str(&match (c, run) {
            ('Y', 4) => time.strftime("%Y").to_string(),
            ('Y', 2) => time.strftime("%y").to_string(),
            ('M', 4) => time.strftime("%B").to_string(),
            ('M', 3) => time.strftime("%b").to_string(),
            ('M', 2) => format!("{:02}", time.month()),
            ('M', 1) => time.month().to_string(),
            ('D', 2) => format!("{:02}", time.day()),
            ('D', 1) => time.day().to_string(),
            ('E', 4) => time.strftime("%A").to_string(),
            ('E', 3) => time.strftime("%a").to_string(),
            ('h', 2) => format!("{:02}", time.hour()),
            ('h', 1) => time.hour().to_string(),
            ('H', 2) => format!("{hour12:02}"),
            ('H', 1) => hour12.to_string(),
            ('A', 2) => if time.hour() < 12 { "AM" } else { "PM" }.to_owned(),
            ('a', 2) => if time.hour() < 12 { "am" } else { "pm" }.to_owned(),
            ('m', 2) => format!("{:02}", time.minute()),
            ('m', 1) => time.minute().to_string(),
            ('s', 2) => format!("{:02}", time.second()),
            ('s', 1) => time.second().to_string(),
            ('Z', 1) if time.offset().is_zero() => "Z".to_owned(),
            ('Z', 1 | 5) => time.strftime("%:z").to_string(),
            ('Z', 3) if time.offset().is_zero() => "UTC".to_owned(),
            ('Z', 3 | 4) => time.strftime("%z").to_string(),
            _ => return error(format!("unsupported field {}", c.to_string().repeat(run))),
        });
    }
    Ok(out)
}

fn unix(args: Args<'_>) -> Answer {
    let seconds = whole(args, 0)?;
    let time = Timestamp::from_second(seconds).map_err(|e| EvalError(e.to_string()))?.to_zoned(TimeZone::UTC);
    let week = time.date().iso_week_date();
    Ok(json!({
        "year": time.year(), "year_day": time.day_of_year(), "day": time.day(), "month": time.month(),
        "month_name": time.strftime("%B").to_string(), "weekday": time.weekday().to_sunday_zero_offset(),
        "weekday_name": time.strftime("%A").to_string(), "hour": time.hour(), "minute": time.minute(), "second": time.second(),
        "unix": seconds, "rfc3339": rfc3339(&time), "iso_year": week.year(), "iso_week": week.week(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b7_13_dates_have_fields_and_quoted_text() {
        let time = parse("2024-12-05T17:03:09+02:00").expect("a time");
        for (pattern, shown) in [
            ("EEEE, DD-MMM-YY hh:mm:ss ZZZZZ", "Thursday, 05-Dec-24 17:03:09 +02:00"),
            ("H:mmaa 'o''clock'", "5:03pm oclock"),
            ("M/D/YYYY", "12/5/2024"),
        ] {
            assert_eq!(format(pattern, &time).as_deref(), Ok(shown));
        }
        assert!(format("YYY", &time).is_err() && format("'x", &time).is_err());
        assert_eq!(serde_json::Value::from(rfc3339(&time)), "2024-12-05T17:03:09+02:00");
    }
}
