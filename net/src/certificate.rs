//! Reads what must be known of a certificate and webpki does not tell: names, validity, uses, serial numbers; and
//! the serial numbers of a list of revoked certificates. X.509 in DER (RFC 5280), read front to back.
//!
//! It verifies nothing. Input comes from the network: it must never panic, and it copies no more than it was given.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why bytes are no certificate, or no list of revoked ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("malformed DER")
    }
}

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERAL_TIME: u8 = 0x18;
const BMP_TEXT: u8 = 0x1e;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

/// Context tags: the version and the extensions of a certificate; DNS names and addresses in `subjectAltName`.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const ANY_USE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Server,
    Client,
}

impl Purpose {
    fn object(self) -> &'static [u8] {
        match self {
            Purpose::Server => &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01],
            Purpose::Client => &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02],
        }
    }
}

/// What stands in a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateFields {
    /// Big-endian, without leading zeros.
    pub serial: Vec<u8>,
    /// The last one of the subject, as Go reads it; empty if there is none.
    pub common_name: String,
    pub dns_names: Vec<String>,
    pub ip_addresses: Vec<IpAddr>,
    /// Seconds since 1970, both included.
    pub valid: (i64, i64),
    /// Objects of `extendedKeyUsage`; `None` allows everything.
    pub uses: Option<Vec<Vec<u8>>>,
}

impl CertificateFields {
    pub fn parse(der: &[u8]) -> Result<Self, Malformed> {
        let mut outside = Der(der);
        let mut certificate = outside.expect(SEQUENCE)?;
        let mut body = certificate.expect(SEQUENCE)?;
        body.optional(VERSION)?;
        let mut fields = Self { serial: serial(body.expect(INTEGER)?.0), ..Self::default() };
        body.expect(SEQUENCE)?; // algorithm of the signature
        body.expect(SEQUENCE)?; // issuer
        let mut validity = body.expect(SEQUENCE)?;
        fields.valid = (time(validity.any()?)?, time(validity.any()?)?);
        fields.common_name = common_name(body.expect(SEQUENCE)?)?;
        body.expect(SEQUENCE)?; // key
        while !body.0.is_empty() {
            let (tag, content) = body.any()?;
            if tag == EXTENSIONS {
                fields.read_extensions(content)?;
            }
        }
        Ok(fields)
    }

    pub fn is_valid_at(&self, unix_seconds: i64) -> bool {
        (self.valid.0..=self.valid.1).contains(&unix_seconds)
    }

    pub fn may_be_used_for(&self, purpose: Purpose) -> bool {
        let fits = |object: &Vec<u8>| object == purpose.object() || object == ANY_USE;
        self.uses.as_ref().is_none_or(|uses| uses.iter().any(fits))
    }

    fn read_extensions(&mut self, content: Der<'_>) -> Result<(), Malformed> {
        let mut content = content;
        let mut list = content.expect(SEQUENCE)?;
        while !list.0.is_empty() {
            let mut extension = list.expect(SEQUENCE)?;
            let object = extension.expect(OBJECT)?.0;
            // Whether it is critical may stand between.
            let value = loop {
                let (tag, value) = extension.any()?;
                if tag == OCTETS {
                    break value;
                }
            };
            match object {
                SUBJECT_ALT_NAME => self.read_names(value)?,
                EXTENDED_KEY_USAGE => self.uses = Some(objects(value)?),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_names(&mut self, value: Der<'_>) -> Result<(), Malformed> {
        let mut value = value;
        let mut names = value.expect(SEQUENCE)?;
        while !names.0.is_empty() {
            match names.any()? {
                (DNS_NAME, name) => self.dns_names.push(String::from_utf8_lossy(name.0).into_owned()),
                (IP_ADDRESS, address) => self.ip_addresses.push(ip_address(address.0)?),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The serial numbers in a certificate revocation list (DER), as in [`CertificateFields::serial`]. Neither its signature
/// nor its dates are looked at: like etcd, the server trusts the file that the operator names.
pub fn revoked_serials(der: &[u8]) -> Result<HashSet<Vec<u8>>, Malformed> {
    let mut outside = Der(der);
    let mut list = outside.expect(SEQUENCE)?;
    let mut body = list.expect(SEQUENCE)?;
    body.optional(INTEGER)?; // version
    body.expect(SEQUENCE)?; // algorithm of the signature
    body.expect(SEQUENCE)?; // issuer
    let (tag, _) = body.any()?;
    if !matches!(tag, UTC_TIME | GENERAL_TIME) {
        return Err(Malformed);
    }
    if matches!(body.0.first(), Some(&(UTC_TIME | GENERAL_TIME))) {
        body.any()?; // next update
    }
    let mut serials = HashSet::new();
    if let Some(mut entries) = body.optional(SEQUENCE)? {
        while !entries.0.is_empty() {
            let mut entry = entries.expect(SEQUENCE)?;
            serials.insert(serial(entry.expect(INTEGER)?.0));
        }
    }
    Ok(serials)
}

fn serial(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes[zeros..].to_vec()
}

fn common_name(subject: Der<'_>) -> Result<String, Malformed> {
    let mut subject = subject;
    let mut name = String::new();
    while !subject.0.is_empty() {
        let mut set = subject.expect(SET)?;
        while !set.0.is_empty() {
            let mut attribute = set.expect(SEQUENCE)?;
            let is_common_name = attribute.expect(OBJECT)?.0 == COMMON_NAME;
            let (tag, value) = attribute.any()?;
            if is_common_name {
                name = text(tag, value.0);
            }
        }
    }
    Ok(name)
}

/// What is no UTF-8 gets replacement characters, so that it equals no name that anybody gave.
fn text(tag: u8, bytes: &[u8]) -> String {
    if tag == BMP_TEXT {
        let units = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        return char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    }
    String::from_utf8_lossy(bytes).into_owned()
}

fn objects(value: Der<'_>) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut value = value;
    let mut list = value.expect(SEQUENCE)?;
    let mut objects = Vec::new();
    while !list.0.is_empty() {
        objects.push(list.expect(OBJECT)?.0.to_vec());
    }
    Ok(objects)
}

fn ip_address(bytes: &[u8]) -> Result<IpAddr, Malformed> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(bytes).into());
    }
    let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| Malformed)?;
    Ok(Ipv6Addr::from(bytes).into())
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` as seconds since 1970.
fn time((tag, value): (u8, Der<'_>)) -> Result<i64, Malformed> {
    let digits = value.0.strip_suffix(b"Z").ok_or(Malformed)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let number = |from: usize, length: usize| -> Result<i64, Malformed> {
        let part = digits.get(from..from + length).ok_or(Malformed)?;
        Ok(part.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
    };
    let (year, rest) = match (tag, digits.len()) {
        // RFC 5280, 4.1.2.5.1.
        (UTC_TIME, 12) => (number(0, 2).map(|year| if year < 50 { 2000 + year } else { 1900 + year })?, 2),
        (GENERAL_TIME, 14) => (number(0, 4)?, 4),
        _ => return Err(Malformed),
    };
    let (month, day) = (number(rest, 2)?, number(rest + 2, 2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return Err(Malformed);
    }
    let seconds = number(rest + 4, 2)? * 3600 + number(rest + 6, 2)? * 60 + number(rest + 8, 2)?;
    Ok(days_since_epoch(year, month, day) * 86_400 + seconds)
}

/// Days from 1970-01-01. Years are counted from March, so that the leap day is the last of a year.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// The rest of some DER.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next element: its tag and content.
    fn any(&mut self) -> Result<(u8, Der<'a>), Malformed> {
        let (&[tag, first], rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (length, rest) = rest.split_at_checked(usize::from(first - 0x80)).ok_or(Malformed)?;
                (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
            }
            _ => return Err(Malformed),
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok((tag, Der(content)))
    }

    fn expect(&mut self, wanted: u8) -> Result<Der<'a>, Malformed> {
        let (tag, content) = self.any()?;
        if tag == wanted { Ok(content) } else { Err(Malformed) }
    }

    fn optional(&mut self, wanted: u8) -> Result<Option<Der<'a>>, Malformed> {
        if self.0.first() == Some(&wanted) { self.expect(wanted).map(Some) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, DnValue, ExtendedKeyUsagePurpose, KeyPair, SerialNumber};

    fn made(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut parameters = CertificateParams::new(Vec::<String>::new()).expect("no names");
        change(&mut parameters);
        parameters.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().to_vec()
    }

    #[test]
    fn fields_are_read() {
        let der = made(|parameters| {
            *parameters = CertificateParams::new(["a.example".to_owned(), "10.0.0.1".to_owned(), "::1".to_owned()])
                .expect("names");
            parameters.serial_number = Some(SerialNumber::from(vec![0, 0x80, 1]));
            parameters.distinguished_name.push(DnType::OrganizationName, "etcd");
            parameters.distinguished_name.push(DnType::CommonName, "märz");
            parameters.not_before = rcgen::date_time_ymd(1999, 12, 31);
            parameters.not_after = rcgen::date_time_ymd(2070, 3, 1);
            parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        });
        let fields = CertificateFields::parse(&der).expect("a certificate");
        assert_eq!(fields.serial, [0x80, 1]);
        assert_eq!(fields.common_name, "märz");
        assert_eq!(fields.dns_names, ["a.example"]);
        assert_eq!(fields.ip_addresses, [IpAddr::from([10, 0, 0, 1]), "::1".parse().expect("an address")]);
        assert_eq!(fields.valid, (946_598_400, 3_160_857_600));
        assert!(fields.may_be_used_for(Purpose::Client) && !fields.may_be_used_for(Purpose::Server));
        assert!(fields.is_valid_at(946_598_400) && !fields.is_valid_at(946_598_399));
    }

    #[test]
    fn names_in_other_encodings_are_read() {
        let name = DnValue::BmpString("zwölf".try_into().expect("a string"));
        let der = made(|parameters| parameters.distinguished_name.push(DnType::CommonName, name));
        assert_eq!(CertificateFields::parse(&der).expect("a certificate").common_name, "zwölf");
        let none = made(|parameters| parameters.distinguished_name = rcgen::DistinguishedName::new());
        assert_eq!(CertificateFields::parse(&none).expect("a certificate").common_name, "");
    }

    proptest! {
        /// Whatever is changed in a certificate, or cut off, nothing panics.
        #[test]
        fn nothing_panics(at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()) {
            let mut der = made(|parameters| {
                *parameters = CertificateParams::new(["a.example".to_owned(), "10.0.0.1".to_owned()]).expect("names");
            });
            let index = at.index(der.len());
            der[index] = byte;
            drop(CertificateFields::parse(&der));
            drop(CertificateFields::parse(&der[..cut.index(der.len())]));
            drop(revoked_serials(&der));
        }
    }
}
