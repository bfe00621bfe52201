//! Data for people and for scripts: tables and JSON lines (SPEC B8.03).

use std::time::SystemTime;

use serde_json::Value;

use super::errors::Failure;
use super::template::{template, unescape};
pub(super) use crate::base::wording::size;

/// A time for people, UTC.
pub(super) fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(|_| String::new(), |t| t.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// `3 days ago`, in the units that docker takes.
pub(super) fn ago(at: jiff::Timestamp) -> String {
    let seconds = (jiff::Timestamp::now().as_second() - at.as_second()).max(0);
    let days = seconds / 86_400;
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        _ => match days {
            0..14 => (days, "day"),
            14..60 => (days / 7, "week"),
            60..730 => (days / 30, "month"),
            _ => (days / 365, "year"),
        },
    };
    if count == 0 { "now".into() } else { format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" }) }
}

/// Columns of equal width, two spaces between them.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|i| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Rows in the format asked for: `table` (with these columns), `json` (a line each), `table TEMPLATE` or a template.
///
/// # Errors
/// For templates that do not parse or name fields that do not exist.
pub(super) fn rows(
    format: &str,
    headings: &[&str],
    cells: Vec<Vec<String>>,
    rows: &[Value],
) -> Result<String, Failure> {
    let lines = |text: &str| -> Result<Vec<String>, Failure> { rows.iter().map(|row| template(text, row)).collect() };
    match format {
        "table" | "text" => {
            let mut all = vec![headings.iter().map(|h| (*h).to_owned()).collect()];
            all.extend(cells);
            Ok(columns(&all))
        }
        "json" => Ok(rows.iter().map(|row| format!("{row}\n")).collect()),
        _ => match format.strip_prefix("table ") {
            Some(text) => {
                // The names of the fields are the headings.
                let names = text.replace("{{json .", "{{.");
                let heading =
                    names.split("{{").map(|p| p.trim_start_matches('.').replace("}}", "")).collect::<String>();
                let mut table = vec![unescape(&heading).to_uppercase()];
                table.extend(lines(text)?);
                let split = |line: &String| line.split('\t').map(|c| c.trim().to_owned()).collect();
                Ok(columns(&table.iter().map(split).collect::<Vec<Vec<String>>>()))
            }
            None => Ok(lines(format)?.into_iter().map(|line| line + "\n").collect()),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables() {
        let (a, b) = (json!({"Name": "x", "Size": 1}), json!({"Name": "longer", "Size": 22}));
        let cells = vec![vec!["x".into(), "1".into()], vec!["longer".into(), "22".into()]];
        let rendered = rows("table", &["NAME", "SIZE"], cells, &[]).map_err(|e| e.message);
        assert_eq!(rendered.as_deref(), Ok("NAME    SIZE\nx       1\nlonger  22\n"));
        let rendered = rows(r"table {{.Name}}\t{{.Size}}", &[], vec![], &[a.clone(), b]).map_err(|e| e.message);
        assert_eq!(rendered.as_deref(), Ok("NAME    SIZE\nx       1\nlonger  22\n"));
        assert_eq!(
            rows("json", &[], vec![], &[a]).map_err(|e| e.message).as_deref(),
            Ok("{\"Name\":\"x\",\"Size\":1}\n")
        );
    }
}
