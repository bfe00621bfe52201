//! `RUN --device=` (SPEC A5.10): the option text.

use super::error::FrontendError;
use super::text::csv_fields;
use crate::base::values::boolean;
use crate::llb::op::CdiDevice;

/// `name[,required]` or `name=…[,required[=bool]]`.
pub(super) fn parse(text: &str) -> Result<CdiDevice, FrontendError> {
    let fields =
        csv_fields(text).map_err(|error| FrontendError::input(format!("failed to parse csv devices: {error}")))?;
    let mut name = None;
    let mut required = false;
    for (n, field) in fields.iter().enumerate() {
        let (key, value) = match field.split_once('=') {
            // A class has a vendor and a name behind a slash; `name=` and `required=` have none.
            Some((key, value)) if !key.contains('/') => (key.to_ascii_lowercase(), Some(value)),
            _ if field.eq_ignore_ascii_case("required") => ("required".into(), None),
            _ if n == 0 => ("name".into(), Some(field.as_str())),
            _ => return Err(FrontendError::input(format!("invalid field '{field}' must be a key=value pair"))),
        };
        match (key.as_str(), value) {
            ("name", Some(value)) if name.is_none() => name = Some(value.to_owned()),
            ("name", Some(_)) => {
                let known = name.unwrap_or_default();
                return Err(FrontendError::input(format!("device name already set to {known}")));
            }
            ("required", None) => required = true,
            ("required", Some(value)) => {
                required = boolean(value)
                    .ok_or_else(|| FrontendError::input(format!("invalid value for required: {value}")))?;
            }
            (key, _) => {
                return Err(FrontendError::input(format!("unexpected key '{key}' in '{field}'"))
                    .suggest(key, ["name", "required"]));
            }
        }
    }
    match name.filter(|name| !name.is_empty()) {
        Some(name) => Ok(CdiDevice { name, optional: !required }),
        None => Err(FrontendError::input("device name is required")
            .hint("name a CDI device, for example --device=vendor.com/class=name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a5_10_device_options() {
        let ok = |text: &str| {
            let device = parse(text).expect("valid");
            (device.name, device.optional)
        };
        assert_eq!(ok("vendor.com/class=gpu0"), ("vendor.com/class=gpu0".into(), true));
        assert_eq!(ok("vendor.com/class=gpu0,required"), ("vendor.com/class=gpu0".into(), false));
        assert_eq!(ok("name=vendor.com/class=gpu0,required=true"), ("vendor.com/class=gpu0".into(), false));
        assert_eq!(ok("gpu,required=false"), ("gpu".into(), true));
        for (text, message) in [
            ("required", "device name is required"),
            ("name=a,name=b", "device name already set to a"),
            ("a,required=x", "invalid value for required: x"),
            ("a,mode=1", "unexpected key 'mode' in 'mode=1'"),
            ("a,b", "invalid field 'b' must be a key=value pair"),
        ] {
            assert_eq!(parse(text).expect_err("invalid").message, message, "{text}");
        }
    }
}
