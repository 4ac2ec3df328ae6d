//! Keys out of PEM files, as far as signing and checking tokens needs them: the few structures of DER around the numbers.
//! Everything here comes from the operator's files and is read once, at start.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT: u8 = 0x06;
/// Context-specific and constructed: `[0]`, `[1]`.
const TAGGED_0: u8 = 0xa0;
const TAGGED_1: u8 = 0xa1;

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const ELLIPTIC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];

/// Of P-521.
const CURVE_NUMBER_BYTES_MAX: u8 = 66;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    P256,
    P384,
    P521,
}

/// What kind of key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    Rsa,
    Elliptic(Curve),
    Ed25519,
}

/// A public key: for RSA the DER of `RSAPublicKey`, else the point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    pub kind: KeyKind,
    pub bytes: Vec<u8>,
}

/// A private key: for RSA the DER of `RSAPrivateKey`, for a curve the secret number, for Ed25519 the seed.
pub struct PrivateKey {
    pub kind: KeyKind,
    pub bytes: Vec<u8>,
}

/// The content of the first PEM block.
pub fn first_block(text: &[u8]) -> Result<Vec<u8>, String> {
    let text = str::from_utf8(text).map_err(|_| "not a PEM file".to_owned())?;
    let mut lines = text.lines().map(str::trim);
    let label = lines
        .find_map(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .ok_or("not a PEM file: no BEGIN line")?;
    if label == "ENCRYPTED PRIVATE KEY" {
        return Err("the key is encrypted".to_owned());
    }
    let mut encoded = String::new();
    for line in lines {
        if line.starts_with("-----END ") {
            return STANDARD.decode(encoded).map_err(|error| format!("not a PEM file: {error}"));
        }
        // Old files carry headers here, only of encrypted keys.
        if line.contains(':') {
            return Err("the key is encrypted".to_owned());
        }
        encoded.push_str(line);
    }
    Err("not a PEM file: no END line".to_owned())
}

/// PKCS #8, PKCS #1 (RSA) or SEC 1 (curves).
pub fn private_key(der: &[u8]) -> Result<PrivateKey, String> {
    pkcs8(der).or_else(|| sec1(der, None)).or_else(|| pkcs1_private(der)).ok_or_else(|| "not a private key".to_owned())
}

/// `SubjectPublicKeyInfo`, a certificate, or PKCS #1 (RSA).
pub fn public_key(der: &[u8]) -> Result<PublicKey, String> {
    let read = public_key_info(Der(der)).or_else(|| certified_key(der)).or_else(|| pkcs1_public(der));
    read.ok_or_else(|| "not a public key".to_owned())
}

/// A row of values, each with its tag and length.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let length = match first {
            0..=0x7f => usize::from(first),
            // No file that we read is longer than three bytes can say.
            0x81..=0x83 => {
                let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
                rest = after;
                bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().and_then(|(found, value)| (found == tag).then_some(value))
    }

    /// The whole content is one sequence.
    fn sequence(der: &'a [u8]) -> Option<Self> {
        Der(der).expect(SEQUENCE).map(Der)
    }

    fn bits(&mut self) -> Option<&'a [u8]> {
        let (unused, bits) = self.expect(BIT_STRING)?.split_first()?;
        (*unused == 0).then_some(bits)
    }

    fn algorithm(&mut self) -> Option<KeyKind> {
        let mut algorithm = Der(self.expect(SEQUENCE)?);
        match algorithm.expect(OBJECT)? {
            RSA => Some(KeyKind::Rsa),
            ED25519 => Some(KeyKind::Ed25519),
            ELLIPTIC => curve(algorithm.expect(OBJECT)?).map(KeyKind::Elliptic),
            _ => None,
        }
    }
}

fn curve(object: &[u8]) -> Option<Curve> {
    match object {
        P256 => Some(Curve::P256),
        P384 => Some(Curve::P384),
        P521 => Some(Curve::P521),
        _ => None,
    }
}

fn pkcs8(der: &[u8]) -> Option<PrivateKey> {
    let mut info = Der::sequence(der)?;
    info.expect(INTEGER)?;
    let kind = info.algorithm()?;
    let key = info.expect(OCTET_STRING)?;
    match kind {
        KeyKind::Rsa => Some(PrivateKey { kind, bytes: key.to_vec() }),
        KeyKind::Elliptic(curve) => sec1(key, Some(curve)),
        KeyKind::Ed25519 => Some(PrivateKey { kind, bytes: Der(key).expect(OCTET_STRING)?.to_vec() }),
    }
}

fn sec1(der: &[u8], mut named: Option<Curve>) -> Option<PrivateKey> {
    let mut key = Der::sequence(der)?;
    key.expect(INTEGER)?;
    let bytes = key.expect(OCTET_STRING)?.to_vec();
    while let Some((tag, value)) = key.next() {
        match tag {
            TAGGED_0 => named = curve(Der(value).expect(OBJECT)?),
            // The public half, which follows from the number.
            TAGGED_1 => {}
            _ => return None,
        }
    }
    Some(PrivateKey { kind: KeyKind::Elliptic(named?), bytes })
}

/// The shortest SEC 1 structure around the number of a curve's private key: version and number. `None` if it is longer than
/// those of any curve.
pub fn sec1_of(number: &[u8]) -> Option<Vec<u8>> {
    // Files may put zeros in front, or leave them out.
    let number = &number[number.iter().take_while(|byte| **byte == 0).count()..];
    let length = u8::try_from(number.len()).ok().filter(|length| *length <= CURVE_NUMBER_BYTES_MAX)?;
    let content = [&[INTEGER, 1, 1, OCTET_STRING, length], number].concat();
    Some([&[SEQUENCE, 5 + length], &content[..]].concat())
}

fn pkcs1_private(der: &[u8]) -> Option<PrivateKey> {
    let mut key = Der::sequence(der)?;
    // Version and eight numbers.
    (0..9).try_for_each(|_| key.expect(INTEGER).map(drop))?;
    Some(PrivateKey { kind: KeyKind::Rsa, bytes: der.to_vec() })
}

/// The length of an RSA public key, in bits.
pub fn rsa_bits(public: &[u8]) -> Option<usize> {
    let modulus = Der::sequence(public)?.expect(INTEGER)?;
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let first = modulus.get(zeros)?;
    Some((modulus.len() - zeros) * 8 - first.leading_zeros() as usize)
}

fn pkcs1_public(der: &[u8]) -> Option<PublicKey> {
    let mut key = Der::sequence(der)?;
    (0..2).try_for_each(|_| key.expect(INTEGER).map(drop))?;
    key.0.is_empty().then(|| PublicKey { kind: KeyKind::Rsa, bytes: der.to_vec() })
}

fn public_key_info(mut der: Der<'_>) -> Option<PublicKey> {
    let mut info = Der(der.expect(SEQUENCE)?);
    Some(PublicKey { kind: info.algorithm()?, bytes: info.bits()?.to_vec() })
}

/// The key of a certificate, which nobody vouches for: its file is the operator's own.
fn certified_key(der: &[u8]) -> Option<PublicKey> {
    let mut certificate = Der::sequence(der)?;
    let mut signed = Der(certificate.expect(SEQUENCE)?);
    let mut after_version = signed;
    if after_version.next()?.0 == TAGGED_0 {
        signed = after_version;
    }
    signed.expect(INTEGER)?;
    // Signature, issuer, validity, subject.
    (0..4).try_for_each(|_| signed.expect(SEQUENCE).map(drop))?;
    public_key_info(signed)
}
