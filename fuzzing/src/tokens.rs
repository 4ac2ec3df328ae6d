//! Tokens and the keys of those that are signed. The first byte says what the rest is:
//!
//! - 0: a token;
//! - 1: header and claims, which are signed here with the member's own key: so what is inside of them is reached too;
//! - 2: a PEM file for the method that the next byte chooses;
//! - 3: DER: a key, a certificate, a list of revoked ones;
//! - 4: the options behind `jwt`.
//!
//! Only what is signed is believed, and of it only what the operator's method is. What a token says is what was signed.

use std::sync::OnceLock;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use kvorum_net::certificate::{CertificateFields, revoked_serials};
use kvorum_server::from_outside::tokens::{Jwt, SimpleTokens, first_block, private_key, public_key};

use crate::input::Input;

const SECRET: &[u8] = b"a secret of the fuzz targets";
const METHODS: [&str; 8] = ["RS256", "PS384", "ES256", "ES384", "ES512", "EdDSA", "HS256", "none"];

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() % 5 {
        0 => {
            let token = String::from_utf8_lossy(input.rest()).into_owned();
            let _ = SimpleTokens::index_of(&token);
            if own().verify(&token).is_some() {
                assert!(is_signed(&token), "only what is signed is believed");
            }
        }
        1 => signed(&mut input),
        2 => {
            let method = METHODS[usize::from(input.byte()) % METHODS.len()];
            key_file(method, input.rest());
        }
        3 => {
            let der = input.rest();
            let _ = (private_key(der).is_ok(), public_key(der).is_ok(), revoked_serials(der).is_ok());
            if let Ok(fields) = CertificateFields::parse(der) {
                assert!(fields.serial.len() + fields.common_name.len() <= 4 * der.len());
                assert!(fields.dns_names.iter().map(String::len).sum::<usize>() <= 4 * der.len());
            }
        }
        _ => {
            let text = String::from_utf8_lossy(input.rest()).into_owned();
            let options: Vec<(&str, &str)> = text.split(',').filter_map(|part| part.split_once('=')).collect();
            let _ = Jwt::from_options(&options, |_| Ok(SECRET.to_vec())).is_ok();
        }
    }
}

fn own() -> &'static Jwt {
    static OWN: OnceLock<Jwt> = OnceLock::new();
    OWN.get_or_init(|| {
        let options = [("sign-method", "HS256"), ("priv-key", "key"), ("ttl", "5m")];
        Jwt::from_options(&options, |_| Ok(SECRET.to_vec())).expect("good options")
    })
}

fn signature(text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), text.as_bytes()).as_ref().to_vec()
}

fn is_signed(token: &str) -> bool {
    token
        .rsplit_once('.')
        .is_some_and(|(text, given)| URL_SAFE_NO_PAD.decode(given).is_ok_and(|g| g == signature(text)))
}

fn signed(input: &mut Input<'_>) {
    let shape = input.byte();
    let header: &[u8] = if shape & 1 == 0 { br#"{"alg":"HS256","typ":"JWT"}"# } else { input.piece() };
    let claims = input.rest();
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let token = format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature(&text)));
    let Some(found) = own().verify(&token) else { return };
    let json: serde_json::Value = serde_json::from_slice(claims).expect("it was read");
    assert_eq!(json["username"].as_str(), Some(found.user.as_str()));
    assert_eq!(json["exp"].as_f64(), found.expires);
    assert_eq!(json["revision"].as_f64().map(|revision| revision as u64), Some(found.revision));
    assert!(serde_json::from_slice::<serde_json::Value>(header).expect("it was read")["alg"] == "HS256");
    // What is believed is made again, and believed again.
    let again = own().sign(&found.user, found.revision).expect("there is a key");
    let again = own().verify(&again).expect("it was just made");
    assert_eq!((again.user, again.revision), (found.user, found.revision));
}

/// As the private and as the public key; the bytes as they are, or as the content of a block.
fn key_file(method: &str, bytes: &[u8]) {
    let block = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(bytes));
    assert_eq!(first_block(block.as_bytes()).as_deref(), Ok(bytes), "the content of the block");
    let _ = first_block(bytes).is_ok();
    for name in ["priv-key", "pub-key"] {
        for file in [bytes, block.as_bytes()] {
            let made = Jwt::from_options(&[("sign-method", method), (name, "file")], |_| Ok(file.to_vec()));
            if let Ok(token) = made.as_ref().map(|jwt| jwt.sign("user", 3)).unwrap_or(Ok(String::new()))
                && let (Ok(jwt), false) = (&made, token.is_empty())
            {
                let claims = jwt.verify(&token).expect("what a key signs it believes");
                assert_eq!((claims.user.as_str(), claims.revision), ("user", 3));
            }
        }
    }
}
