//! Functions of encodings, digests, identifiers and addresses.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::pkcs8::DecodePrivateKey as _;
use serde_json::{Map, Value};
use sha2::Digest as _;

use super::super::eval::{EvalError, error, kind, text};
use super::{Answer, Args, Function, arg, string, whole};

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("jsonencode", |a| Ok(sorted(arg(a, 0)?).to_string().into())),
    ("jsondecode", |a| serde_json::from_str(&string(a, 0)?).map_err(|e| EvalError(e.to_string()))),
    ("csvdecode", csv),
    ("base64encode", |a| Ok(STANDARD.encode(string(a, 0)?).into())),
    ("base64decode", |a| {
        let bytes = STANDARD.decode(string(a, 0)?).map_err(|e| EvalError(e.to_string()))?;
        String::from_utf8(bytes).map(Value::from).map_err(|_| EvalError("the bytes are not UTF-8".into()))
    }),
    ("md5", |a| Ok(hex(&md5::Md5::digest(string(a, 0)?)).into())),
    ("sha1", |a| Ok(hex(&sha1::Sha1::digest(string(a, 0)?)).into())),
    ("sha256", |a| Ok(hex(&sha2::Sha256::digest(string(a, 0)?)).into())),
    ("sha512", |a| Ok(hex(&sha2::Sha512::digest(string(a, 0)?)).into())),
    ("bcrypt", |a| {
        let cost = if a.len() > 1 { whole(a, 1)? } else { 10 };
        // More takes minutes.
        let cost = u32::try_from(cost).ok().filter(|cost| (4..=20).contains(cost));
        let cost = cost.ok_or_else(|| EvalError("the cost is 4 to 20".into()))?;
        let hash = bcrypt::hash_with_result(string(a, 0)?, cost).map_err(|e| EvalError(e.to_string()))?;
        Ok(hash.format_for_version(bcrypt::Version::TwoA).into())
    }),
    ("rsadecrypt", |a| {
        let bytes =
            STANDARD.decode(string(a, 0)?).map_err(|e| EvalError(format!("the ciphertext is no base64: {e}")))?;
        let pem = string(a, 1)?;
        let key = rsa::RsaPrivateKey::from_pkcs1_pem(&pem).ok();
        let key = key.or_else(|| rsa::RsaPrivateKey::from_pkcs8_pem(&pem).ok());
        let key = key.ok_or_else(|| EvalError("the key is no RSA private key in PEM".into()))?;
        let text = key.decrypt(rsa::Pkcs1v15Encrypt, &bytes);
        let text = text.map_err(|_| EvalError("the key does not decrypt the ciphertext".into()))?;
        String::from_utf8(text).map(Value::from).map_err(|_| EvalError("the bytes are not UTF-8".into()))
    }),
    ("uuidv4", |_| Ok(uuid::Uuid::new_v4().to_string().into())),
    ("uuidv5", |a| {
        let space = string(a, 0)?;
        let space = match space.as_str() {
            "dns" => uuid::Uuid::NAMESPACE_DNS,
            "url" => uuid::Uuid::NAMESPACE_URL,
            "oid" => uuid::Uuid::NAMESPACE_OID,
            "x500" => uuid::Uuid::NAMESPACE_X500,
            other => other.parse().map_err(|e| EvalError(format!("unknown namespace \"{other}\": {e}")))?,
        };
        Ok(uuid::Uuid::new_v5(&space, string(a, 1)?.as_bytes()).to_string().into())
    }),
    ("cidrhost", |a| {
        let net = Net::parse(&string(a, 0)?)?;
        let (free, number) = (net.bits() - net.prefix, i128::from(whole(a, 1)?));
        let all = 1_i128.checked_shl(free).filter(|_| free < 100).unwrap_or(i128::MAX);
        let at = if number < 0 { all + number } else { number };
        if !(0..all).contains(&at) {
            return error(format!("the network has no host {number}"));
        }
        Ok(net.with(at.unsigned_abs()).to_string().into())
    }),
    ("cidrnetmask", |a| {
        let net = Net::parse(&string(a, 0)?)?;
        Ok(Net { address: u128::MAX >> (128 - net.bits()), ..net }.masked().to_string().into())
    }),
    ("cidrsubnet", |a| {
        let (net, more) = (Net::parse(&string(a, 0)?)?, bits(a, 1)?);
        let number = u128::try_from(whole(a, 2)?).map_err(|_| EvalError("a network number is 0 or more".into()))?;
        Ok(net.subnet(more, number)?.text().into())
    }),
    ("cidrsubnets", |a| {
        let net = Net::parse(&string(a, 0)?)?;
        let mut next = net.address;
        let mut out = Vec::new();
        for at in 1..a.len() {
            let prefix = net.prefix + bits(a, at)?;
            if prefix > net.bits() {
                return error("there are not enough bits");
            }
            let size = 1_u128.checked_shl(net.bits() - prefix).unwrap_or(0);
            // Each begins at a multiple of its size.
            let start = next.checked_add(size.wrapping_sub(1)).map_or(next, |end| end & !size.wrapping_sub(1));
            let sub = Net { address: start, prefix, ..net };
            if !net.holds(start) {
                return error("the network is too small for all of them");
            }
            out.push(sub.text().into());
            next = start.saturating_add(size);
        }
        Ok(Value::Array(out))
    }),
    ("convert", |a| {
        // The type is a name that stands for itself.
        let value = arg(a, 0)?;
        match a.get(1).and_then(Value::as_str) {
            Some("string") => Ok(text(value)?.into()),
            Some("number") => Ok(super::super::eval::number(super::super::eval::float(value)?)),
            Some("bool") => Ok(super::super::eval::boolean(value)?.into()),
            _ => error(format!("{} cannot be converted to this type", kind(value))),
        }
    }),
];

/// Digests in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Keys in their order, as Go writes them.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(sorted).collect(),
        Value::Object(fields) => {
            let fields: std::collections::BTreeMap<&String, &Value> = fields.iter().collect();
            Value::Object(fields.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
        }
        other => other.clone(),
    }
}

/// Rows by the names of the first one.
fn csv(args: Args<'_>) -> Answer {
    let text = string(args, 0)?;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let names = reader.headers().map_err(|e| EvalError(e.to_string()))?.clone();
    let rows = reader.records().map(|row| {
        let row = row.map_err(|e| EvalError(e.to_string()))?;
        let fields = names.iter().zip(row.iter()).map(|(name, field)| (name.to_owned(), Value::from(field)));
        Ok(Value::Object(fields.collect::<Map<_, _>>()))
    });
    rows.collect()
}

fn bits(args: Args<'_>, at: usize) -> Result<u32, EvalError> {
    u32::try_from(whole(args, at)?).ok().filter(|bits| *bits <= 128).ok_or_else(|| EvalError("0 to 128 bits".into()))
}

/// A range of addresses.
#[derive(Clone, Copy)]
struct Net {
    address: u128,
    prefix: u32,
    six: bool,
}

impl Net {
    fn parse(text: &str) -> Result<Self, EvalError> {
        let invalid = || EvalError(format!("invalid CIDR expression \"{text}\""));
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let (address, six) = match address.parse::<IpAddr>().map_err(|_| invalid())? {
            IpAddr::V4(four) => (u128::from(u32::from(four)), false),
            IpAddr::V6(six) => (u128::from(six), true),
        };
        let net = Self { address, prefix: prefix.parse().map_err(|_| invalid())?, six };
        if net.prefix > net.bits() { Err(invalid()) } else { Ok(Self { address: net.network(), ..net }) }
    }

    const fn bits(&self) -> u32 {
        if self.six { 128 } else { 32 }
    }

    fn network(&self) -> u128 {
        let free = self.bits() - self.prefix;
        if free >= 128 { 0 } else { self.address >> free << free }
    }

    fn masked(&self) -> IpAddr {
        Self { address: self.network(), ..*self }.with(0)
    }

    fn holds(&self, address: u128) -> bool {
        Self { address, ..*self }.network() == self.address && address >> (self.bits() - 1) <= 1
    }

    fn with(&self, more: u128) -> IpAddr {
        let address = self.address + more;
        match self.six {
            true => IpAddr::V6(address.into()),
            false => IpAddr::V4(u32::try_from(address).unwrap_or(u32::MAX).into()),
        }
    }

    fn subnet(&self, more: u32, number: u128) -> Result<Self, EvalError> {
        let prefix = self.prefix + more;
        if prefix > self.bits() {
            return error("there are not enough bits");
        }
        if more < 128 && number >> more != 0 {
            return error(format!("there is no network {number} in {more} bits"));
        }
        let shifted = number.checked_shl(self.bits() - prefix).unwrap_or(0);
        Ok(Self { address: self.address + shifted, prefix, ..*self })
    }

    fn text(&self) -> String {
        format!("{}/{}", self.with(0), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    /// Made for this test.
    const KEY: &str = "-----BEGIN RSA PRIVATE KEY-----\n\
        MIICWwIBAAKBgQDB/0Y2O7/THqYvFLMCLLYZVjCogQsxAzZR5tDK1/7R1ApeBq0I\n\
        EbNj8mME3A5hGorJEKJfnD3HiAe0Ailt0w67j7ZG8AetdWzH7rWaFgKIm120k9uA\n\
        6XswxKEn+iEEQpv7pyI2YfsUWLkJ4QFTJj4dkGS0B9J8uS/l8W99IY7nvQIDAQAB\n\
        AoGAC649IgLS9/k+dFNAu/7JMBlacKrka50P5jqJk80RkLy9qw+n13aJYJk1kRNW\n\
        4k3g0V5pCGy144+zNwlySSSOHG4aA3Dt5KDJ9gHXgoXY3iE4SAom1di9kc8xttRj\n\
        yvKcdUo4/Xt6UTvh2qY3OqG26NdXLLBPxzB/WZYEFQtxhEECQQDqS8inHulrRu4t\n\
        3BvJIQiyuhNgI6x5ry/lVhqXnEsgCYbhSEfy37bu/m3pNWScsL2GselcArhVj45p\n\
        kWIgFK5VAkEA0/fSj+00v+RGPQ2hPscIJG2SQKLwns4LM+wSkXK7DhwhCfPmnll4\n\
        Qja/QYDhXwYCFNskfhvVf54hdyayliLryQI/UIm8b7Ywhq/bL+h5pKm2U7mi72lT\n\
        4IBX9n2ipnsTV+/ubYJrORGt0HmlToUMENCwVZzSms5UjxTJ34AaOuzhAkEAi4+q\n\
        FZVqm8Wi8WPd/MVy+PkjyGb/4q9q9N7EQvu1aU7f+fuapjvmUEJXnrtKqBP+ntjC\n\
        qD2PTp1BD4BtKSkI8QJACziIK/v1T2Bbk86Hs+jUuJtxVrVkusuzs0Ix+nX9OqYy\n\
        gBSQXFKf7tFPt9jygeldomNRkuMBLbTT81+Ub5jJVw==\n\
        -----END RSA PRIVATE KEY-----";
    const SECRET: &str = "X2sSxevXHFJZmymi6zIP4vcYwknbsnEs1jjJUypr3ZgeX8bMLtJuGHksEeBiOJLyHOlkT1xSeCTXDNNHwvMkPylwpieDI2oepcA0H0rckQC8ysI862VHavLZ42caiys2LoGj8U30SPiMyWLFY2QPiMgsqpCNqxItF9hh2fTvHiY=";

    // SPEC B7.13
    #[test]
    fn b7_13_rsadecrypt() {
        let call = |args| super::super::call("rsadecrypt", &[json!(args), json!(KEY)]).expect("a function");
        assert_eq!(call(SECRET), Ok(json!("secret")));
        assert!(call("AAAA").expect_err("no ciphertext").0.contains("does not decrypt"));
        let no_key = super::super::call("rsadecrypt", &[json!(SECRET), json!("key")]).expect("a function");
        assert!(no_key.expect_err("no key").0.contains("no RSA private key"));
    }
}
